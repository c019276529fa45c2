"""Every way an engine is known to fail, done to a real one, and what the agent makes of it.

    nice .venv/bin/python -m tools.failure_catalogue .venv-vllm/bin/python

Each case is one attempt of the agent's own runtime (daemon, warden, load process; a scripted coordinator assigns it)
with real vLLM on CPU and the tiny model, one at a time; what needs a GPU is done by the mock engine, which says in its
log what an engine on a GPU would say (tests/golden/engine_logs/vllm_gpu_*.log). Prints Markdown: where each attempt
ended, its reason, whose blame, the line shown to the user; exit status 1 if one is not as expected, or left a process
behind. No part of CI: a start takes 10 to 60 s and up to 4 GB; all of them about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from tools.oracle_agreement import absolute, rows
from tools.victims import Part, processes, records, send, within

from scoot.agent.config import load_config
from scoot.agent.daemon import Daemon
from scoot.agent.testing.coordinator import FakeCoordinator
from scoot.benchmark.trace_row import TraceRow
from scoot.benchmark.workload import to_blob
from scoot.wire.assignment import Assignment, Phase
from scoot.wire.measurement import AttemptOutcome
from scoot.wire.reasons import Reason, blame_of
from scoot.wire.spec import ArrivalProcess, Arrivals, Config, Limits, Scalar, Service, Workload

ROOT: Final = Path(__file__).resolve().parent.parent
GOLDEN: Final = ROOT / "tests" / "golden" / "engine_logs"
OPTIONS: Final[Config] = {"enforce_eager": True, "load_format": "dummy", "dtype": "bfloat16"}
ENV: Final = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
MODEL_LEN: Final = 2048
START_S: Final = 300.0
STALL_S: Final = 8.0
ATTEMPT_S: Final = 700.0
_POLL_S: Final = 0.02
_SHOWN_CHARS: Final = 200


class Scene:
    """An attempt that runs, for what is done to it."""

    def __init__(self, coordinator: FakeCoordinator, daemon: Daemon, data_dir: Path, agent_pid: int) -> None:
        self.coordinator = coordinator
        self.daemon = daemon
        self.data_dir = data_dir
        self.agent_pid = agent_pid
        self.open = contextlib.ExitStack()

    async def under_load(self) -> None:
        """Wait until requests of the measured window have been answered."""
        updates = self.coordinator.updates
        await self.coordinator.until(
            lambda: any(update.phase == Phase.MEASURE and update.completed > 0 for update in updates), ATTEMPT_S
        )

    async def port_after(self, seen: Iterable[int]) -> int:
        """The port of the next engine, as soon as that is forked."""
        known = set(seen)
        async with asyncio.timeout(ATTEMPT_S):
            while True:
                for record in await asyncio.to_thread(records, self.data_dir):
                    if record.port not in known:
                        return record.port
                await asyncio.sleep(_POLL_S)  # noqa: TID251 - nobody tells when the file is there

    def signal(self, part: Part, number: int) -> None:
        """Send a signal to the first process of a part."""
        found = processes(part, self.agent_pid, self.data_dir)
        if not found or not send(found[0], number):
            raise RuntimeError(f"there is no {part} to signal")


Deed = Callable[[Scene], Awaitable[None]]


def signalled(part: Part, number: int) -> Deed:
    """A signal to a part of the attempt, under load."""

    async def deed(scene: Scene) -> None:
        await scene.under_load()
        scene.signal(part, number)

    return deed


def port_taken(times: int) -> Deed:
    """Another process listens on the engine's port before the engine does, for its first `times` starts."""

    async def deed(scene: Scene) -> None:
        taken: list[int] = []
        for _ in range(times):
            port = await scene.port_after(taken)
            taken.append(port)
            listener = scene.open.enter_context(socket.socket())
            listener.bind(("127.0.0.1", port))
            listener.listen()

    return deed


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A way to fail.

    Attributes:
        name: for the table.
        reason: expected; None where the attempt should complete.
        phase: expected last phase before the stop.
        says: a piece of the line that tells the cause.
        config, env, limits: of the attempt; an `env` takes the place of the usual one.
        devices: it needs.
        check: whether the engine's own argument check is asked before the start.
        log: golden log whose errors the mock engine says; "" is real vLLM.
        deed: what is done to it.
    """

    name: str
    reason: Reason | None
    phase: Phase
    says: str = ""
    config: Config = {}
    env: dict[str, str] | None = None
    devices: int = 1
    limits: Limits = Limits(start_timeout_s=START_S, stall_timeout_s=STALL_S)
    check: bool = False
    log: str = ""
    deed: Deed | None = None


BAD: Final = Reason.ENGINE_REJECTED_ARGS
DIED: Final = Reason.ENGINE_EXITED_ON_START
CRASHED: Final = Reason.ENGINE_CRASHED_UNDER_LOAD


def foretold(name: str, says: str, told: str, **config: Scalar) -> tuple[Case, Case]:
    """What the argument check refuses: started all the same, and asked about first."""
    return (
        Case(name=name, reason=BAD, phase=Phase.READY, says=says, config=config),
        Case(name=f"{name}, asked first", reason=BAD, phase=Phase.PREPARE, says=told, config=config, check=True),
    )


CASES: Final[tuple[Case, ...]] = (
    Case(name="nothing is wrong", reason=None, phase=Phase.DRAIN),
    *foretold("unknown flag", "unrecognized arguments: --num-sch", "has no --num-sch", num_scheduler_steps=8),
    *foretold("bad choice", "invalid choice: 'lifo'", "invalid choice: 'lifo'", scheduling_policy="lifo"),
    *foretold("bad type", "invalid int value: 'many'", "invalid int value: 'many'", max_num_seqs="many"),
    *foretold(
        "tokens below sequences",
        "max_num_batched_tokens (256) must be greater",
        "max_num_batched_tokens (256) must be greater",
        max_num_batched_tokens=256,
        max_num_seqs=512,
    ),
    *foretold(
        "no chunked prefill, tokens below max_model_len",
        "max_num_batched_tokens (256) is smaller than max_model_len",
        "max_num_batched_tokens (256) is smaller than max_model_len",
        enable_chunked_prefill=False,
        max_num_batched_tokens=256,
    ),
    Case(name="port taken once", reason=None, phase=Phase.DRAIN, deed=port_taken(1)),
    Case(
        name="port taken again",
        reason=Reason.PORT_TAKEN,
        phase=Phase.READY,
        says="is served by another process",
        deed=port_taken(2),
    ),
    Case(
        name="block size 7", reason=DIED, phase=Phase.READY, says="No common block size for 7", config={"block_size": 7}
    ),
    Case(
        name="block size 7, asked first (hidden)",
        reason=DIED,
        phase=Phase.READY,
        says="No common block size for 7",
        config={"block_size": 7},
        check=True,
    ),
    Case(
        name="tensor-parallel 4 on one NUMA node",
        reason=DIED,
        phase=Phase.READY,
        says="Not enough allowed NUMA nodes",
        config={"tensor_parallel_size": 4},
        env={"VLLM_CPU_KVCACHE_SPACE": "1"},
        devices=4,
    ),
    Case(
        name="KV cache of 400 GB",
        reason=Reason.ENGINE_OOM,
        phase=Phase.READY,
        says="Available memory on node",
        env={**ENV, "VLLM_CPU_KVCACHE_SPACE": "400"},
    ),
    Case(
        name="KV cache of 8 blocks",
        reason=Reason.ENGINE_OOM,
        phase=Phase.READY,
        says="To serve at least one request",
        config={"num_gpu_blocks_override": 8},
    ),
    Case(
        name="optional package missing",
        reason=DIED,
        phase=Phase.READY,
        says="xxhash is required",
        config={"prefix_caching_hash_algo": "xxhash"},
    ),
    Case(
        name="start time-out",
        reason=Reason.ENGINE_START_TIMEOUT,
        phase=Phase.READY,
        says="was not ready in time",
        limits=Limits(start_timeout_s=5.0, stall_timeout_s=STALL_S),
    ),
    Case(
        name="EngineCore killed under load",
        reason=CRASHED,
        phase=Phase.MEASURE,
        says="ended without a word",
        deed=signalled(Part.CORE, signal.SIGKILL),
    ),
    Case(
        name="API server killed under load",
        reason=CRASHED,
        phase=Phase.MEASURE,
        says="SIGKILL",
        deed=signalled(Part.API_SERVER, signal.SIGKILL),
    ),
    Case(
        name="EngineCore hangs under load",
        reason=Reason.ENGINE_HUNG_UNDER_LOAD,
        phase=Phase.MEASURE,
        says="requests outstanding",
        deed=signalled(Part.CORE, signal.SIGSTOP),
    ),
    Case(
        name="API server hangs under load",
        reason=Reason.ENGINE_HUNG_UNDER_LOAD,
        phase=Phase.MEASURE,
        says="requests outstanding",
        deed=signalled(Part.API_SERVER, signal.SIGSTOP),
    ),
    Case(
        name="load process killed",
        reason=Reason.CLIENT_CRASHED,
        phase=Phase.MEASURE,
        says="signal 9",
        deed=signalled(Part.LOAD, signal.SIGKILL),
    ),
    Case(
        name="CUDA OOM: weights", reason=Reason.ENGINE_OOM, phase=Phase.READY, says="Tried", log="oom_loading_weights"
    ),
    Case(
        name="CUDA OOM: no room for the KV cache",
        reason=Reason.ENGINE_OOM,
        phase=Phase.READY,
        says="No available memory",
        log="no_memory_for_cache",
    ),
    Case(
        name="CUDA OOM: memory held by others",
        reason=Reason.ENGINE_OOM,
        phase=Phase.READY,
        says="Free memory on device",
        log="memory_in_use",
    ),
    Case(
        name="CUDA OOM: graph capture",
        reason=Reason.ENGINE_OOM,
        phase=Phase.READY,
        says="CUDA error: out of memory",
        log="oom_at_graph_capture",
    ),
    Case(
        name="CUDA OOM: sampler's warm-up",
        reason=Reason.ENGINE_OOM,
        phase=Phase.READY,
        says="warming up sampler",
        log="oom_warming_up_sampler",
    ),
    Case(name="NCCL", reason=DIED, phase=Phase.READY, says="NCCL error", log="nccl_at_start"),
    Case(
        name="GPU held by another process",
        reason=Reason.GPU_BUSY,
        phase=Phase.READY,
        says="busy or unavailable",
        log="gpu_held_by_another",
    ),
    Case(name="driver too old", reason=Reason.ENGINE_MISSING, phase=Phase.READY, says="driver", log="driver_too_old"),
    Case(
        name="CUDA OOM: under load",
        reason=Reason.ENGINE_OOM,
        phase=Phase.MEASURE,
        says="CUDA out of memory",
        log="oom_under_load",
    ),
    Case(
        name="illegal memory access under load (Xid 31)",
        reason=CRASHED,
        phase=Phase.MEASURE,
        says="illegal memory access",
        log="illegal_access_under_load",
    ),
    Case(
        name="ECC error under load (Xid 48)",
        reason=Reason.GPU_FAULT,
        phase=Phase.MEASURE,
        says="uncorrectable ECC",
        log="ecc_under_load",
    ),
)


def assignment(case: Case, coordinator: FakeCoordinator, fence: int, model: str) -> Assignment:
    """The attempt of a case: a light load, some requests of it always outstanding."""
    rows = [TraceRow(input_tokens=32 + index % 7, output_tokens=64) for index in range(20)]
    options: dict[str, Scalar] = {"mock_rules": rule(case)} if case.log else dict(OPTIONS)
    return Assignment(
        attempt_id=f"catalogue/{fence}/1",
        fence=fence,
        service=Service(
            engine="mock" if case.log else "vllm-asked" if case.check else "vllm",
            model="mock-model" if case.log else model,
            device="cpu",
            devices=case.devices,
            max_model_len=MODEL_LEN,
            options=options,
            env={} if case.log else case.env or ENV,
        ),
        devices=tuple(f"cpu-{index}" for index in range(case.devices)),
        config=case.config,
        workload=Workload(
            profile="SQL",
            arrivals=Arrivals(process=ArrivalProcess.CONSTANT, rate=4.0),
            warm_up_s=2.0,
            duration_s=16.0,
            drain_s=30.0,
            request_timeout_s=30.0,
        ),
        workload_sha256=coordinator.put_blob(to_blob(rows)),
        limits=case.limits,
        run_seeds=(7,),
    )


def rule(case: Case) -> str:
    """The mock engine's rule that says what the golden log of a case says: all that inner processes log as an error."""
    text = (GOLDEN / f"vllm_gpu_{case.log}.log").read_text()
    said = re.findall(r"^\((?:EngineCore|Worker)\S* [^)]*\) ERROR [^\]]*\] (.*)$", text, re.MULTILINE)
    when = {"when": "max_num_seqs > 0", "at": "start"}
    if case.phase is Phase.MEASURE:
        when = {"when": "requests > 16", "at": "load"}  # 8 of them are of the warm-up
    return msgspec.json.encode([{**when, "log": said}]).decode()


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a case; `wrong` is "" if all was as expected."""

    case: Case
    outcome: AttemptOutcome
    wrong: str

    @property
    def phase(self) -> str:
        """The last phase before the stop."""
        return ended_in(self.outcome)

    @property
    def cells(self) -> tuple[str, ...]:
        """Its row of the table."""
        case, outcome = self.case, self.outcome
        blame = blame_of(outcome.reason) if outcome.reason is not None else ""
        seconds = sum(time.seconds for time in outcome.phases)
        engine = "mock" if case.log else "vLLM"
        expected = f"{case.reason or 'completes'}, {case.phase}"
        found = outcome.reason or outcome.state.lower()
        shown = (
            case.name,
            engine,
            expected,
            self.phase,
            found,
            blame,
            outcome.message[:_SHOWN_CHARS],
            f"{seconds:.1f}",
        )
        return (*shown, self.wrong or "yes")


def ended_in(outcome: AttemptOutcome) -> str:
    """The last phase before the stop."""
    names = [time.phase for time in outcome.phases]
    before = names[: names.index(Phase.STOP.value)] if Phase.STOP.value in names else names
    return before[-1] if before else Phase.PREPARE.value


def judge(case: Case, outcome: AttemptOutcome, left: Sequence[str]) -> str:
    """What is not as expected, "" if nothing."""
    found: list[str] = []
    if outcome.reason is not case.reason:
        found.append(f"reason {outcome.reason}")
    if ended_in(outcome) != case.phase:
        found.append(f"phase {ended_in(outcome)}")
    if case.says not in outcome.message:
        found.append("the line does not tell the cause")
    if "(afterwards:" in outcome.message:
        found.append("the host was found unclean")
    if left:
        found.append(f"left behind: {'; '.join(left)}")
    return "NO: " + ", ".join(found) if found else ""


@contextlib.asynccontextmanager
async def scene(folder: Path, python: str, model: str) -> AsyncIterator[Scene]:
    """An agent in this process, and a coordinator that does as it is told."""
    async with FakeCoordinator() as coordinator:
        config = folder / "agent.toml"
        table = f'python = "{python}"\n'
        config.write_text(
            f'[agent]\nid = "catalogue"\ncoordinator = "{coordinator.endpoint}"\ndata_dir = "data"\ncpu_slots = 4\n'
            f'reserve_memory_gib = 1.0\nmodel_roots = ["{Path(model).parent}"]\n'
            f'[engines.vllm]\nkind = "vllm"\ncheck_first = false\n{table}'
            f'[engines.vllm-asked]\nkind = "vllm"\ncheck_first = true\n{table}'
            '[engines.mock]\nkind = "mock"\n'
        )
        daemon = Daemon(load_config(config))
        running = asyncio.create_task(daemon.run())
        try:
            await coordinator.until(lambda: bool(coordinator.hellos) or running.done(), ATTEMPT_S)
            yield Scene(coordinator, daemon, folder / "data", os.getpid())
        finally:
            daemon.drain()
            await running


def leftovers(folder: Path) -> list[str]:
    """Processes of engines or loads that are still there, and state files."""
    files = [path.name for path in (folder / "data" / "engines").glob("*.json")]
    return [f"process {process.pid} {process.name}" for process in within(folder)] + files


async def attempt(case: Case, number: int, folder: Path, python: str, model: str) -> Verdict:
    """Do one case."""
    async with scene(folder, python, model) as made:
        ref = made.coordinator.assign(assignment(case, made.coordinator, number, model))
        deed = asyncio.ensure_future(case.deed(made)) if case.deed is not None else None
        try:
            outcome = await made.coordinator.outcome_of(ref, ATTEMPT_S)
        finally:
            made.open.close()
            if deed is not None and not deed.done():
                deed.cancel()
            await asyncio.gather(*([deed] if deed is not None else []), return_exceptions=True)
    left = await asyncio.to_thread(leftovers, folder)
    wrong = judge(case, outcome, left)
    if deed is not None and (deed.cancelled() or deed.exception() is not None):
        wrong = f"NO: what was to be done to it was not: {deed}"
    return Verdict(case=case, outcome=outcome, wrong=wrong)


async def measure(arguments: argparse.Namespace) -> bool:
    """Every case, one after the other, and the table; whether all came out right."""
    chosen = [case for case in CASES if not arguments.only or any(word in case.name for word in arguments.only)]
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="scoot-catalogue-") as name:
        for number, case in enumerate(chosen, start=1):
            verdict = await attempt(case, number, Path(name), arguments.python, arguments.model)
            verdicts.append(verdict)
            print(f"{number}/{len(chosen)} {' - '.join(verdict.cells)}", file=sys.stderr)
    header = ("case", "engine", "expected", "ended in", "reason", "blame", "the line shown", "s", "right")
    print(rows(header, (verdict.cells for verdict in verdicts)))
    right = sum(not verdict.wrong for verdict in verdicts)
    print(f"\n{right} of {len(verdicts)} cases are right.")
    return right == len(verdicts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", type=absolute, help="interpreter of vLLM's environment")
    model_help = "folder of tools/make_tiny_model.py"
    parser.add_argument("--model", type=absolute, default=absolute(".scoot/models/tiny-llama"), help=model_help)
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="cases whose names have one of these")
    logging.basicConfig(level=logging.WARNING)
    sys.exit(0 if asyncio.run(measure(parser.parse_args())) else 1)
