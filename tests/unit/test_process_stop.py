"""Engines and helpers as the agent drives them: exits, stops, cancellation, lost wardens, no leaked descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from scoot.agent.core.command import EngineCommand
from scoot.agent.host import cgroup, reaper
from scoot.agent.host.process import EngineProcess, SpawnError, run_helper, spawn_engine, spawn_helper
from scoot.agent.host.proctable import read_process
from scoot.wire.errors import LocalProtocolError

DEADLINE_S = 20.0

STUBBORN = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print("grandchild", os.getpid(), flush=True)
        signal.pause()
    os._exit(0)
os.wait()
print("ready", os.getpid(), flush=True)
while True:
    signal.pause()
"""
POLITE = "import signal; print('ready', flush=True); signal.pause()"


def alive(pid: int) -> bool:
    found = read_process(pid)
    return found is not None and found.state != "Z"


def count_fds() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def state_files(folder: Path) -> list[Path]:
    return list(folder.glob("*.engine.json"))


async def until(told: Callable[[], bool], what: str) -> None:
    """Poll up to a deadline; what is awaited between two looks is a real program."""
    async with asyncio.timeout(DEADLINE_S):
        while not told():
            await run_helper(("/bin/true",), env={}, cwd=Path("/"), timeout_s=DEADLINE_S)
    assert told(), what


async def one_turn() -> None:
    """Let every task that is ready take one step."""
    loop = asyncio.get_running_loop()
    turned = loop.create_future()
    loop.call_soon(turned.set_result, None)
    await turned


async def start(code: str, folder: Path, *, cgroups: cgroup.CgroupSupport | None = None) -> EngineProcess:
    return await spawn_engine(
        EngineCommand(argv=(sys.executable, "-c", code), env={}, files={"options.json": "{}"}),
        log_path=folder / "engine.log",
        cwd=folder,
        state_dir=folder,
        attempt_id="s/1/0",
        cgroups=cgroups,
    )


def log_pids(folder: Path) -> list[int]:
    log = folder / "engine.log"
    return [int(line.split()[1]) for line in log.read_text().splitlines()] if log.exists() else []


async def test_exit_code_is_told_and_stop_is_clean(tmp_path: Path) -> None:
    engine = await start("raise SystemExit(3)", tmp_path)
    status = await asyncio.wait_for(engine.exited, DEADLINE_S)
    assert (status.code, status.signal, status.by_us) == (3, None, False)
    report = await engine.stop(1.0, 1.0)
    assert report.clean
    assert not report.killed
    assert report.exit == status
    assert engine.survivors() == ()
    assert not state_files(tmp_path)
    assert (tmp_path / "options.json").read_text() == "{}"


async def test_foreign_sigkill_is_not_by_us(tmp_path: Path) -> None:
    engine = await start(POLITE, tmp_path)
    os.kill(engine.pid, signal.SIGKILL)
    status = await asyncio.wait_for(engine.exited, DEADLINE_S)
    assert (status.signal, status.by_us) == (9, False)
    assert (await engine.stop(1.0, 1.0)).clean


async def test_stubborn_engine_is_killed_with_all_it_forked(tmp_path: Path) -> None:
    engine = await start(STUBBORN, tmp_path)
    await until(lambda: len(log_pids(tmp_path)) == 2, "engine never spoke")
    pids = log_pids(tmp_path)
    assert {item.pid for item in engine.survivors()} == set(pids)
    assert engine.rss_bytes() > 1_000_000
    report = await engine.stop(0.1, 5.0)
    assert report.killed
    assert report.clean
    assert report.exit is not None
    assert report.exit.by_us
    assert not any(alive(pid) for pid in pids)


async def test_stop_is_idempotent_and_concurrent(tmp_path: Path) -> None:
    engine = await start(STUBBORN, tmp_path)
    patient, hasty = await asyncio.gather(engine.stop(60.0, 5.0), engine.stop(0.05, 5.0))
    again = await engine.stop(60.0, 5.0)
    assert patient.clean
    assert hasty.clean
    assert again.clean
    assert again.exit == hasty.exit


async def test_cancelled_stop_goes_on(tmp_path: Path) -> None:
    engine = await start(STUBBORN, tmp_path)
    stopping = asyncio.create_task(engine.stop(0.05, 5.0))
    await one_turn()
    stopping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await stopping
    assert (await asyncio.wait_for(engine.exited, DEADLINE_S)).by_us
    assert (await engine.stop(1.0, 1.0)).clean


async def test_cancelled_spawn_leaves_nothing(tmp_path: Path) -> None:
    starting = asyncio.create_task(start(STUBBORN, tmp_path))
    await one_turn()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await until(lambda: not state_files(tmp_path), "the state file stays")
    assert not any(alive(pid) for pid in log_pids(tmp_path))


async def test_missing_program_and_bad_file_names_are_refused(tmp_path: Path) -> None:
    command = EngineCommand(argv=("/nonexistent/engine",), env={})
    with pytest.raises(SpawnError, match="nonexistent") as caught:
        await spawn_engine(command, log_path=tmp_path / "log", cwd=tmp_path, state_dir=tmp_path)
    assert caught.value.errno == 2
    assert not state_files(tmp_path)
    outside = EngineCommand(argv=("/bin/true",), env={}, files={"../x": ""})
    with pytest.raises(LocalProtocolError):
        await spawn_engine(outside, log_path=tmp_path / "log", cwd=tmp_path)


async def test_log_through_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SpawnError):
        await spawn_engine(
            EngineCommand(argv=("/bin/true",), env={}), log_path=tmp_path / "log", cwd=tmp_path, state_dir=tmp_path
        )
    assert not (tmp_path / "elsewhere").exists()


async def test_killed_warden_is_replaced_by_the_record(tmp_path: Path) -> None:
    engine = await start(STUBBORN, tmp_path)
    await until(lambda: len(log_pids(tmp_path)) == 2, "engine never spoke")
    engine.refresh()
    state = state_files(tmp_path)[0]

    def recorded() -> bool:
        record = reaper.read_record(state)
        return record is not None and {pid for pid, _ in record.members} >= set(log_pids(tmp_path))

    await until(recorded, "members unknown")
    os.kill(engine._child.pid, signal.SIGKILL)
    await asyncio.wait_for(engine.exited, DEADLINE_S)
    report = await engine.stop(1.0, 5.0)
    assert report.clean
    assert not any(alive(pid) for pid in log_pids(tmp_path))
    assert not state.exists()


async def test_stopped_warden_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    engine = await start(STUBBORN, tmp_path)
    await until(lambda: len(log_pids(tmp_path)) == 2, "engine never spoke")
    os.kill(engine._child.pid, signal.SIGSTOP)
    report = await engine.stop(0.05, 0.05)
    assert report.clean
    assert not any(alive(pid) for pid in log_pids(tmp_path))


async def test_engine_lives_in_its_cgroup_where_there_is_one(tmp_path: Path) -> None:
    support = cgroup.probe()
    if not support.path:
        pytest.skip(support.detail)
    engine = await start(STUBBORN, tmp_path, cgroups=support)
    folder = Path(engine.cgroup)
    await until(lambda: len(log_pids(tmp_path)) == 2, "engine never spoke")
    inside = {int(pid) for pid in folder.joinpath("cgroup.procs").read_text().split()}
    assert inside == set(log_pids(tmp_path))
    assert (await engine.stop(0.05, 5.0)).clean
    cgroup.remove_empty(support)
    assert not folder.exists()  # noqa: ASYNC240 - one look


async def test_no_descriptor_is_leaked(tmp_path: Path) -> None:
    async def once() -> None:
        engine = await start(POLITE, tmp_path)
        assert (await engine.stop(5.0, 5.0)).clean

    await once()
    before = count_fds()
    for _ in range(3):
        await once()
    assert count_fds() == before


async def test_helper_speaks_and_is_reaped(tmp_path: Path) -> None:
    code = "import sys; print('hello', flush=True); print('oops', file=sys.stderr); sys.stdin.read(); print('eof')"
    errors = tmp_path / "errors"
    async with await spawn_helper((sys.executable, "-c", code), env={}, cwd=tmp_path, stderr_path=errors) as helper:
        assert await helper.stdout.readline() == b"hello\n"
        assert not helper.exited.done()
        await helper.feed(b"")
        assert await helper.stdout.readline() == b"eof\n"
        assert (await helper.exited).code == 0
    assert errors.read_text() == "oops\n"


async def test_helper_is_killed_on_cancellation_with_its_children(tmp_path: Path) -> None:
    pids: list[int] = []

    async def run() -> None:
        async with await spawn_helper((sys.executable, "-c", STUBBORN_HELPER), env={}, cwd=tmp_path) as helper:
            pids.extend([helper.pid, int(await helper.stdout.readline())])
            await asyncio.get_running_loop().create_future()

    running = asyncio.create_task(run())
    await until(lambda: len(pids) == 2, "helper never spoke")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: not any(alive(pid) for pid in pids), "a helper's process stays")


STUBBORN_HELPER = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child == 0:
    signal.pause()
print(child, flush=True)
signal.pause()
"""


async def test_helper_stop_escalates(tmp_path: Path) -> None:
    async with await spawn_helper((sys.executable, "-c", STUBBORN_HELPER), env={}, cwd=tmp_path) as helper:
        await helper.stdout.readline()
        status = await helper.stop(0.05)
    assert (status.signal, status.by_us) == (9, True)


async def test_run_helper_bounds_time_and_output(tmp_path: Path) -> None:
    loud = "import sys; sys.stdout.write('x' * 5000); sys.stderr.write('y' * 5000); raise SystemExit(4)"
    done = await run_helper((sys.executable, "-c", loud), env={}, cwd=tmp_path, timeout_s=DEADLINE_S, max_bytes=100)
    assert (done.exit.code, len(done.stdout), len(done.stderr), done.timed_out) == (4, 100, 100, False)
    slow = await run_helper((sys.executable, "-c", POLITE), env={}, cwd=tmp_path, timeout_s=0.5)
    assert slow.timed_out
    assert slow.exit.signal == 9
    echo = await run_helper(("/bin/cat",), env={}, cwd=tmp_path, timeout_s=DEADLINE_S, stdin=b"abc")
    assert echo.stdout == b"abc"


async def test_missing_helper_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpawnError, match="nonexistent"):
        await spawn_helper(("/nonexistent/helper",), env={}, cwd=tmp_path)


def test_works_on_uvloop(tmp_path: Path) -> None:
    async def scenario() -> bool:
        engine = await start(STUBBORN, tmp_path)
        async with await spawn_helper((sys.executable, "-c", "print(1)"), env={}, cwd=tmp_path) as helper:
            assert await helper.stdout.readline() == b"1\n"
            await helper.exited
        return (await engine.stop(0.05, 5.0)).clean

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(scenario())
