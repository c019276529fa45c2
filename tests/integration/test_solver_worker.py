"""The optimizer in its real worker process: answers, deadlines, crashes, memory, garbage, and no orphans."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
import uvloop

from scoot.coordinator.optimizer import sobol
from scoot.coordinator.optimizer.base import Ask, Observation
from scoot.coordinator.optimizer.problem import task_of
from scoot.coordinator.solver import pool, protocol, worker
from scoot.coordinator.solver.faults import ENVIRONMENT
from scoot.coordinator.solver.pool import FALLBACK_SOURCE, Solver
from scoot.wire.errors import SolverError, UserError
from scoot.wire.spec import Config, Objective, Parameter, ParameterKind, Service, StudySpec, Workload

GENEROUS_S = 45.0
SHORT_S = 0.5
FAULTY: Mapping[str, str] = {**os.environ, ENVIRONMENT: "1"}


def ask(n: int = 3, *, constraints: tuple[str, ...] = ("a >= b",), configs: tuple[Config, ...] = ()) -> Ask:
    spec = StudySpec(
        name="s",
        service=Service(engine="mock", model="m"),
        workload=Workload(profile="SQL"),
        parameters=tuple(Parameter(name=name, kind=ParameterKind.INT, low=1, high=50) for name in "ab"),
        objectives=(Objective(metric="ttft_mean"),),
        constraints=constraints,
    )
    history = tuple(Observation(number=k, config=config, pending=True) for k, config in enumerate(configs))
    return Ask(spec=spec, history=history, n=n, call=0, seed=3)


def sobol_configs(call: Ask) -> list[Config]:
    return [suggestion.config for suggestion in sobol.suggest(task_of(call))]


def wait_for_end(pid: int) -> bool:
    """Whether process `pid` is gone, or ends soon."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], GENEROUS_S)[0])
    finally:
        os.close(descriptor)


async def test_one_worker_answers_call_after_call() -> None:
    async with Solver() as solver:
        first, second = await asyncio.gather(
            solver.suggest("sobol", ask(4), GENEROUS_S), solver.suggest("sobol", ask(2), GENEROUS_S)
        )
        pid = solver.worker_pid
        third = await solver.suggest("sobol", ask(2, configs=({"a": 3, "b": 1},)), GENEROUS_S)
        assert solver.worker_pid == pid is not None
    assert first.suggestions == sobol.suggest(task_of(ask(4)))
    assert second.suggestions == first.suggestions[:2]
    assert len(third.suggestions) == 2
    assert {first.fallback, second.fallback, third.fallback} == {""}
    assert wait_for_end(pid)


async def test_an_exhausted_space_gives_fewer() -> None:
    async with Solver() as solver:
        result = await solver.suggest("sobol", ask(5, constraints=("a == 2 and b in (7, 9)",)), GENEROUS_S)
    assert sorted(s.config["b"] for s in result.suggestions) == [7, 9]
    assert result.fallback == ""


async def test_an_overrun_kills_the_worker_and_sobol_answers() -> None:
    async with Solver(environ=FAULTY, fallback_deadline_s=GENEROUS_S) as solver:
        await solver.suggest("sobol", ask(1), GENEROUS_S)
        hung = solver.worker_pid
        assert hung is not None
        result = await solver.suggest("fault-hang", ask(), SHORT_S)
        assert result.fallback == "fault-hang: no answer within 0.5 s"
        assert [suggestion.config for suggestion in result.suggestions] == sobol_configs(ask())
        assert {suggestion.source for suggestion in result.suggestions} == {FALLBACK_SOURCE}
        assert wait_for_end(hung)
        assert solver.worker_pid not in {None, hung}


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("fault-crash", "fault-crash: the worker process was killed by SIGABRT: about to crash on purpose"),
        ("fault-garbage", "fault-garbage: the worker answered garbage: b'this is no JSON"),
        ("fault-error", "fault-error: ArithmeticError: failing on purpose for 3 suggestions"),
        ("fault-user-error", "fault-user-error: UserError: parameters.x: no such parameter among 2 (add it)"),
        ("fault-too-few", "fault-too-few: 0 suggestions instead of 3, though the space has more"),
        ("fault-infeasible", "fault-infeasible: a suggestion is not a configuration of the space"),
        ("fault-out-of-memory", "fault-out-of-memory: out of memory"),
    ],
)
async def test_every_failure_falls_back_to_sobol_and_says_why(method: str, reason: str) -> None:
    limit = 768 * 1024**2 if method == "fault-out-of-memory" else pool.MEMORY_BYTES
    async with Solver(environ=FAULTY, memory_bytes=limit, fallback_deadline_s=GENEROUS_S) as solver:
        result = await solver.suggest(method, ask(), GENEROUS_S)
        assert result.fallback.startswith(reason)
        assert [suggestion.config for suggestion in result.suggestions] == sobol_configs(ask())
        again = await solver.suggest("sobol", ask(), GENEROUS_S)
        assert (again.fallback, again.suggestions) == ("", sobol.suggest(task_of(ask())))


async def test_what_libraries_print_stays_out_of_the_protocol() -> None:
    async with Solver(environ=FAULTY) as solver:
        result = await solver.suggest("fault-chatter", ask(), GENEROUS_S)
    assert result.fallback == ""
    assert [suggestion.config for suggestion in result.suggestions] == sobol_configs(ask())


async def test_an_unusable_worker_leaves_the_coordinator_itself(tmp_path: Any) -> None:
    async with Solver(environ={"PYTHONHOME": str(tmp_path)}) as solver:
        result = await solver.suggest("sobol", ask(), GENEROUS_S)
    assert [suggestion.config for suggestion in result.suggestions] == sobol_configs(ask())
    assert "exited with status 1" in result.fallback
    assert "Sobol in a worker" in result.fallback


async def test_when_nothing_works_it_says_so(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("scipy is broken")

    monkeypatch.setattr(pool, "suggest", broken)
    async with Solver(environ={"PYTHONHOME": str(tmp_path)}) as solver:
        with pytest.raises(SolverError, match="Sobol in the coordinator: RuntimeError: scipy is broken"):
            await solver.suggest("sobol", ask(), GENEROUS_S)


async def test_the_users_mistakes_are_the_users() -> None:
    async with Solver() as solver:
        with pytest.raises(UserError, match=r"optimizer\.method: unknown optimizer 'hang'"):
            await solver.suggest("hang", ask(), GENEROUS_S)
        with pytest.raises(UserError, match="unknown optimizer 'fault-hang'"):
            await solver.suggest("fault-hang", ask(), GENEROUS_S)
        three = msgspec.structs.replace(ask().spec, objectives=(Objective(metric="ttft_mean"),) * 3)
        with pytest.raises(UserError, match="method vbo takes at most 2 objectives, not 3"):
            await solver.suggest("vbo", msgspec.structs.replace(ask(), spec=three), GENEROUS_S)
        assert solver.worker_pid is None
        with pytest.raises(UserError, match="the search space is empty") as caught:
            await solver.suggest("sobol", ask(constraints=("a > 50",)), GENEROUS_S)
        assert caught.value.key == "constraints[0]"
        assert caught.value.hint
        assert solver.worker_pid is not None


async def test_closing_ends_a_computation_in_progress() -> None:
    solver = Solver(environ=FAULTY)
    await solver.suggest("sobol", ask(1), GENEROUS_S)
    pid = solver.worker_pid
    assert pid is not None
    call = asyncio.create_task(solver.suggest("fault-hang", ask(), GENEROUS_S))
    await asyncio.wait({call}, timeout=0.1)
    await solver.aclose()
    with pytest.raises(SolverError):
        await call
    assert wait_for_end(pid)
    assert solver.worker_pid is None
    await solver.aclose()
    with pytest.raises(SolverError, match="closed"):
        await solver.suggest("sobol", ask(1), GENEROUS_S)


async def test_a_cancelled_call_leaves_no_worker_with_an_answer_to_nobody() -> None:
    async with Solver(environ=FAULTY) as solver:
        await solver.suggest("sobol", ask(1), GENEROUS_S)
        pid = solver.worker_pid
        assert pid is not None
        call = asyncio.create_task(solver.suggest("fault-hang", ask(), GENEROUS_S))
        await asyncio.wait({call}, timeout=0.1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert wait_for_end(pid)
        result = await solver.suggest("sobol", ask(), GENEROUS_S)
        assert (result.fallback, result.suggestions) == ("", sobol.suggest(task_of(ask())))


async def test_a_worker_that_died_between_calls_is_replaced() -> None:
    async with Solver() as solver:
        await solver.suggest("sobol", ask(1), GENEROUS_S)
        pid = solver.worker_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert wait_for_end(pid)
        result = await solver.suggest("sobol", ask(), GENEROUS_S)
        assert [suggestion.config for suggestion in result.suggestions] == sobol_configs(ask())


def test_it_works_on_uvloop() -> None:
    async def run() -> list[Config]:
        async with Solver(environ=FAULTY, fallback_deadline_s=GENEROUS_S) as solver:
            result = await solver.suggest("fault-crash", ask(), GENEROUS_S)
            assert result.fallback
            return [suggestion.config for suggestion in result.suggestions]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(run()) == sobol_configs(ask())


def spawn(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=FAULTY,
    )


WORKER = ("-m", "scoot.coordinator.solver.worker", "--memory-bytes", str(pool.MEMORY_BYTES))


@pytest.mark.parametrize("method", ["fault-hang", None])
def test_the_worker_ends_with_its_input_even_in_the_middle_of_a_call(method: str | None) -> None:
    with spawn(*WORKER) as process:
        assert process.stdin is not None
        if method is not None:
            request = protocol.Request(id=1, method=method, ask=ask())
            process.stdin.write(msgspec.json.encode(request) + b"\n")
        process.stdin.close()
        assert process.wait(GENEROUS_S) == 0
        assert process.stdout is not None
        assert process.stdout.read() == b""


def test_the_worker_ends_on_a_request_that_is_none() -> None:
    with spawn(*WORKER) as process:
        assert process.stdin is not None
        process.stdin.write(b'{"id": 1}\n')
        process.stdin.flush()
        assert process.wait(GENEROUS_S) == worker.EXIT_BAD_REQUEST  # while its input is still open
        out, err = process.communicate()
    assert out == b""
    assert b"bad request" in err


COORDINATOR = """
import asyncio, sys, msgspec
from scoot.coordinator.optimizer.base import Ask
from scoot.coordinator.solver.pool import Solver

async def main():
    ask = msgspec.json.decode(sys.stdin.buffer.readline(), type=Ask)
    solver = Solver()
    result = await solver.suggest("sobol", ask, 45)
    heavy = [name for name in ("scipy", "torch", "sklearn") if name in sys.modules]
    print(solver.worker_pid, len(result.suggestions), heavy, flush=True)
    await solver.suggest("fault-hang", ask, 45)

asyncio.run(main())
"""


def test_a_killed_coordinator_leaves_no_worker_and_never_imported_scipy() -> None:
    with spawn("-c", COORDINATOR) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(ask()) + b"\n")
        process.stdin.flush()
        pid, count, heavy = process.stdout.readline().decode().split(maxsplit=2)
        process.kill()
        assert (int(count), heavy.strip()) == (3, "[]")
        assert wait_for_end(int(pid))
