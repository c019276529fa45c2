"""What tools and system tests run daemons with: it says why one did not start, and leaves none behind."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import sys

import psutil
import pytest
from tools.daemons import Daemon

pytestmark = pytest.mark.timeout(120)

STARTER = """
import asyncio, pathlib, sys
from tools.daemons import Daemon
folder = pathlib.Path(sys.argv[1])
options = ["scoot.coordinator", "--data", str(folder / "data"), "--listen", "127.0.0.1:0"]
daemon = Daemon("coordinator", options, folder, tied=True)
daemon.start()
asyncio.run(daemon.ready())
print(daemon.pid, flush=True)
sys.stdin.read()
"""


def coordinator(folder: pathlib.Path, *, listen: str = "127.0.0.1:0", tied: bool = True) -> Daemon:
    argv = ["scoot.coordinator", "--data", str(folder / "data"), "--listen", listen]
    return Daemon("coordinator", argv, folder, tied=tied)


async def test_one_that_does_not_start_says_why(tmp_path: pathlib.Path) -> None:
    daemon = coordinator(tmp_path, listen="nonsense")
    daemon.start()
    with pytest.raises(RuntimeError, match=r"(?s)scoot\.coordinator ended with 2:.*nonsense"):
        await daemon.ready()
    assert daemon.stop() == 2


@pytest.mark.parametrize("tied", [True, False])
async def test_one_that_was_killed_comes_back(tmp_path: pathlib.Path, tied: bool) -> None:
    daemon = coordinator(tmp_path, tied=tied)
    assert (daemon.pid, daemon.stop()) == (0, None)
    daemon.start()
    try:
        address = await daemon.ready()
        first = daemon.pid
        daemon.kill()
        assert not psutil.pid_exists(first)
        daemon.argv = (*daemon.argv, "--listen", address)
        daemon.start()
        assert await daemon.ready() == address
        assert daemon.pid != first
    finally:
        status = daemon.stop()
    assert (status, daemon.stop()) == (0, 0)
    assert not psutil.pid_exists(daemon.pid)
    assert daemon.log().count(f"serving on {address}") == 2


async def test_one_that_is_tied_ends_with_who_started_it(tmp_path: pathlib.Path) -> None:
    starter = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STARTER, str(tmp_path)), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert starter.stdout is not None
        daemon = psutil.Process(int(await starter.stdout.readline()))
    finally:
        starter.kill()
        await starter.communicate()
    try:
        await asyncio.to_thread(daemon.wait, 60)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            daemon.kill()
    assert "stopping" in (tmp_path / "coordinator.log").read_text()
