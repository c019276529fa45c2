"""The warden with real processes: whatever an engine does, nothing of it outlives its agent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scoot.agent.host import warden
from scoot.agent.host.proctable import read_process

DEADLINE_S = 20.0

STUBBORN = """
import os, signal, sys
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
TIDYING = """
import os, signal
from multiprocessing import resource_tracker, shared_memory
made = shared_memory.SharedMemory(create=True, size=4096)
signal.signal(signal.SIGTERM, lambda *_: None)
print(made.name, os.getpid(), flush=True)
print("tracker", resource_tracker._resource_tracker._pid, flush=True)
while True:
    signal.pause()
"""
HEADLESS = """
import os, signal
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("rest", os.getpid(), flush=True)
    while True:
        signal.pause()
os._exit(3)
"""
POLITE = "import signal; print('ready', flush=True); signal.pause()"


def wait_until(told: Callable[[], bool], what: str) -> None:
    """Poll with a real wait (select on nothing) up to a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not told():
        assert time.monotonic() < deadline, what
        select.select([], [], [], 0.02)


def alive(pid: int) -> bool:
    found = read_process(pid)
    return found is not None and found.state != "Z"


class Held:
    """A warden as the agent starts it, spoken to by hand."""

    def __init__(self, tmp_path: Path) -> None:
        self.log = tmp_path / "engine.log"
        self.state = tmp_path / "x.engine.json"
        self.tmp_path = tmp_path
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", warden.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def tell(self, command: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()

    def spawn(self, code: str, *, argv: list[str] | None = None, eof_grace_s: float = 0.2) -> None:
        self.tell(
            {
                "spawn": {
                    "argv": argv or [sys.executable, "-c", code],
                    "env": {"PATH": os.environ["PATH"]},
                    "cwd": str(self.tmp_path),
                    "log": str(self.log),
                    "state": str(self.state),
                    "record": {"attempt_id": "s/1/0", "token": "t"},
                    "cgroup": "",
                    "eof_grace_s": eof_grace_s,
                }
            }
        )

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], DEADLINE_S)
        assert ready, "the warden says nothing"
        report: dict[str, Any] = json.loads(self.process.stdout.readline())
        return report

    def close_stdin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def pids_in_log(self) -> dict[str, int]:
        if not self.log.exists():
            return {}
        return {who: int(pid) for who, pid in (line.split() for line in self.log.read_text().splitlines())}


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    box = Held(tmp_path)
    yield box
    assert box.process.stdin is not None
    assert box.process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        box.process.stdin.close()
    box.process.wait(DEADLINE_S)
    box.process.stdout.close()


def test_reports_start_exit_and_clean_end(held: Held) -> None:
    held.spawn("raise SystemExit(7)")
    started = held.hear()["started"]
    assert started["pid"] == started["pgid"]
    assert started["start_ticks"] > 0
    assert held.hear() == {"exited": {"code": 7, "by_us": False}}
    held.tell({"stop": {"stop_grace_s": 1, "kill_grace_s": 1}})
    assert held.hear() == {"gone": {"clean": True, "killed": False, "survivors": []}}
    assert held.process.wait(DEADLINE_S) == 0
    assert not held.state.exists()


def test_polite_engine_ends_on_sigterm(held: Held) -> None:
    held.spawn(POLITE)
    held.hear()
    wait_until(lambda: held.log.exists() and "ready" in held.log.read_text(), "engine never spoke")
    held.tell({"stop": {"stop_grace_s": 15, "kill_grace_s": 5}})
    assert held.hear() == {"exited": {"signal": 15, "by_us": True}}
    assert held.hear()["gone"]["killed"] is False


def test_missing_program_is_named(held: Held) -> None:
    held.spawn("", argv=["/nonexistent/engine"])
    failed = held.hear()["failed"]
    assert failed["errno"] == 2
    assert "/nonexistent/engine" in failed["message"]
    wait_until(lambda: held.process.poll() is not None, "the warden stays")
    assert not held.state.exists()


def test_term_ignoring_and_escaped_processes_are_killed(held: Held) -> None:
    held.spawn(STUBBORN)
    held.hear()
    wait_until(lambda: len(held.pids_in_log()) == 2, "engine never spoke")
    pids = held.pids_in_log()
    assert os.getsid(pids["grandchild"]) != os.getsid(pids["ready"])
    held.tell({"stop": {"stop_grace_s": 0.1, "kill_grace_s": 5}})
    assert held.hear()["exited"]["signal"] == 9
    assert held.hear() == {"gone": {"clean": True, "killed": True, "survivors": []}}
    assert not any(alive(pid) for pid in pids.values())


def test_what_outlives_the_engines_first_process_is_not_given_the_whole_grace(held: Held) -> None:
    held.spawn(HEADLESS)
    held.hear()
    assert held.hear() == {"exited": {"code": 3, "by_us": False}}
    wait_until(lambda: "rest" in held.pids_in_log(), "the rest never spoke")
    rest = held.pids_in_log()["rest"]
    assert alive(rest), "nothing is ended before a stop is asked for: its log may be read first"
    held.tell({"stop": {"stop_grace_s": 3600, "kill_grace_s": 5}})
    assert held.hear() == {"gone": {"clean": True, "killed": True, "survivors": []}}
    assert not alive(rest)


def test_what_tidies_up_after_the_engine_is_given_the_time_to(held: Held) -> None:
    held.spawn(TIDYING)
    held.hear()
    wait_until(lambda: len(held.pids_in_log()) == 2, "engine never spoke")
    pids = held.pids_in_log()
    wait_until(lambda: warden.ignores_sigterm(pids["tracker"]), "the tracker is not ready")
    name = next(iter(pids))
    assert not warden.ignores_sigterm(pids[name])
    memory = Path("/dev/shm", name)  # noqa: S108 - where the kernel keeps it
    assert memory.exists()
    held.tell({"stop": {"stop_grace_s": 0.0, "kill_grace_s": 3600}})
    assert held.hear()["exited"]["signal"] == 9
    assert held.hear() == {"gone": {"clean": True, "killed": True, "survivors": []}}
    assert not memory.exists()


@pytest.mark.parametrize(
    ("story", "grace_s"),
    [
        (("exit", 3600.0), warden.REST_GRACE_S),
        (("exit", 0.1), 0.1),
        (("exit", 3600.0, 0.1), 0.1),
        (("exit", None), warden.REST_GRACE_S),
        ((3600.0,), 3600.0),
        ((3600.0, "exit"), 3600.0),
        ((3600.0, "exit", 3600.0), 3600.0),
        ((60.0, "exit", 3600.0, 7.0), 7.0),
    ],
)
def test_deadlines_only_move_closer_and_an_end_after_the_stop_moves_none(
    story: tuple[str | float | None, ...], grace_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a row: the engine's first process ends; a stop with a grace; None: the agent is gone."""
    held = warden.Warden()
    held.pid, held.spec = 7, {"eof_grace_s": 9.0}
    deaths = iter([(7, 9), (0, 0)])
    monkeypatch.setattr(os, "waitpid", lambda *_: next(deaths))
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    monkeypatch.setattr(held, "signal_all", lambda _: None)
    monkeypatch.setattr(held, "tell", lambda _: None)
    for event in story:
        if event == "exit":
            held.reap()
        else:
            held.begin_stop(None if event is None else {"stop_grace_s": event, "kill_grace_s": 5.0})
    assert (held.term_until, held.kill_until) == (100.0 + grace_s, 105.0 + grace_s)
    assert held.tidy_until == 100.0 + grace_s + warden.TIDY_S


def test_end_of_file_ends_everything(held: Held) -> None:
    held.spawn(STUBBORN)
    held.hear()
    wait_until(lambda: len(held.pids_in_log()) == 2, "engine never spoke")
    record = json.loads(held.state.read_text())
    assert record["attempt_id"] == "s/1/0"
    assert record["pid"] == held.pids_in_log()["ready"]
    held.close_stdin()
    assert held.process.wait(DEADLINE_S) == 0
    assert not any(alive(pid) for pid in held.pids_in_log().values())
    assert not held.state.exists()


def test_sigterm_to_the_warden_ends_the_engine(held: Held) -> None:
    held.spawn(POLITE)
    pid = held.hear()["started"]["pid"]
    held.process.terminate()
    assert held.process.wait(DEADLINE_S) == 0
    assert not alive(pid)


def test_killed_warden_takes_the_leader_with_it(held: Held) -> None:
    held.spawn("import signal; signal.signal(15, signal.SIG_IGN); signal.pause()")
    pid = held.hear()["started"]["pid"]
    held.process.kill()
    wait_until(lambda: not alive(pid), "the engine outlived its warden")
    assert not alive(pid)


def test_refresh_records_members(held: Held) -> None:
    held.spawn(STUBBORN)
    held.hear()
    wait_until(lambda: len(held.pids_in_log()) == 2, "engine never spoke")
    held.tell({"refresh": {}})
    wanted = set(held.pids_in_log().values())
    wait_until(lambda: {pid for pid, _ in json.loads(held.state.read_text())["members"]} >= wanted, "members unknown")
    assert wanted <= {pid for pid, _ in json.loads(held.state.read_text())["members"]}


AGENT = """
import asyncio, sys
from pathlib import Path
from scoot.agent.core.command import EngineCommand
from scoot.agent.host.process import spawn_engine

async def main():
    folder = Path(sys.argv[1])
    command = EngineCommand(argv=(sys.executable, "-c", sys.argv[2]), env={})
    engine = await spawn_engine(command, log_path=folder / "engine.log", cwd=folder, state_dir=folder)
    print(engine.pid, flush=True)
    await engine.exited

asyncio.run(main())
"""


async def test_agent_killed_with_sigkill_leaves_nothing(tmp_path: Path) -> None:
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AGENT, str(tmp_path), STUBBORN, stdout=asyncio.subprocess.PIPE
    )
    assert agent.stdout is not None
    pid = int(await asyncio.wait_for(agent.stdout.readline(), DEADLINE_S))
    log = tmp_path / "engine.log"
    wait_until(lambda: log.exists() and len(log.read_text().splitlines()) == 2, "engine never spoke")
    pids = [int(line.split()[1]) for line in log.read_text().splitlines()]
    assert pid in pids
    agent.send_signal(signal.SIGKILL)
    await agent.wait()
    wait_until(lambda: not any(alive(item) for item in pids), "the engine outlived its agent")
    wait_until(lambda: not list(tmp_path.glob("*.engine.json")), "the state file stays")
