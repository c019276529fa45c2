"""Processes of `tune`: they end when asked, when scootctl dies, and at once with all below them when killed."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from scoot.cli.children import Child, parents
from scoot.wire.errors import UserError

WAITS_FOR_STDIN = "import sys; print('up', flush=True); sys.stdin.read()"
IGNORES_SIGTERM = (
    "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
)
WITH_GRANDCHILD = (
    "import subprocess, sys, signal\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], start_new_session=True)\n"
    "print(child.pid, flush=True)\n"
    "signal.pause()\n"
)


async def start(tmp_path: Path, program: str) -> Child:
    child = await Child.start("helper", [sys.executable, "-c", program], tmp_path / "helper.log")
    while not child.log_tail():
        assert not await child.wait(0.02), "it must come up"
    return child


async def test_a_child_ends_by_itself_when_asked(tmp_path: Path) -> None:
    child = await start(tmp_path, WAITS_FOR_STDIN)
    assert await child.stop(20.0)
    assert child.returncode == -15
    assert await child.stop(20.0), "stopping twice is no error"


async def test_a_child_sees_its_input_end_when_its_parent_is_gone(tmp_path: Path) -> None:
    parent = (
        "import asyncio, os, pathlib, sys\n"
        "from scoot.cli.children import Child\n"
        "async def main():\n"
        "    child = await Child.start('x', [sys.executable, '-c', sys.argv[1]], pathlib.Path(sys.argv[2]))\n"
        "    print(child.pid, flush=True)\n"
        "    await child.wait()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", parent, WAITS_FOR_STDIN, str(tmp_path / "log")), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    pid = int(await asyncio.wait_for(process.stdout.readline(), 30))
    handle = os.pidfd_open(pid)
    try:
        process.kill()
        await process.wait()
        gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(handle, gone.set)
        await asyncio.wait_for(gone.wait(), 30)
        asyncio.get_running_loop().remove_reader(handle)
    finally:
        os.close(handle)
    assert pid not in parents()


async def test_a_child_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    child = await start(tmp_path, IGNORES_SIGTERM)
    assert not await child.stop(0.1)
    assert child.returncode == -9


async def test_killing_takes_everything_below_other_sessions_included(tmp_path: Path) -> None:
    child = await start(tmp_path, WITH_GRANDCHILD)
    grandchild = int(child.log_tail())
    assert parents()[grandchild] == child.pid
    child.kill()
    assert await child.wait(20.0)
    assert grandchild not in parents()
    child.kill()  # of a dead one: nothing to do
    await child.stop(1.0)


async def test_the_log_tail_is_its_last_lines(tmp_path: Path) -> None:
    child = await Child.start(
        "helper",
        [sys.executable, "-c", "print('\\n'.join(map(str, range(100)))); raise SystemExit(3)"],
        tmp_path / "log",
    )
    assert await child.wait(30.0)
    assert child.returncode == 3
    assert child.log_tail(lines=2) == "98\n99"
    await child.stop(1.0)


async def test_a_program_that_is_not_there_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the helper cannot be started"):
        await Child.start("helper", [str(tmp_path / "nothing")], tmp_path / "log")
    with pytest.raises(UserError, match="cannot be started"):
        await Child.start("helper", [sys.executable], tmp_path / "no" / "folder" / "log")
