"""The processes of a running attempt by their place in the tree: what the tools that break things aim at.

Nothing is found by a name alone: an engine is what the agent's own state file says, a load process is a child of the
agent. Names only tell an engine's children from each other.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Final

from scoot.agent.host import reaper
from scoot.agent.host.proctable import Process, below, read_process, read_processes
from scoot.agent.host.reaper import Record

STATE_DIR: Final = "engines"
"""Where an agent keeps its state files, below its data folder."""
_LOAD_MODULE: Final = "scoot.benchmark.process"
_TRACKER: Final = "resource_tracker"


class Part(StrEnum):
    """What of SCOOT or of an engine can be killed."""

    API_SERVER = "API server"
    CORE = "EngineCore"
    LOAD = "load process"
    AGENT = "agent"


def records(data_dir: Path) -> list[Record]:
    """The engines an agent has running, as its state files say; one whose engine was not forked yet is left out."""
    found = (reaper.read_record(path) for path in sorted((data_dir / STATE_DIR).glob(f"*{reaper.SUFFIX}")))
    return [record for record in found if record is not None and record.pid]


def processes(part: Part, agent_pid: int, data_dir: Path) -> list[Process]:
    """The processes of `part` now, its own first process first; [] while there are none."""
    if part is Part.AGENT:
        agent = read_process(agent_pid)
        return [agent] if agent is not None and agent.state != "Z" else []
    table = read_processes()
    if part is Part.LOAD:
        mains = [process for process in table if process.ppid == agent_pid and _LOAD_MODULE in command(process.pid)]
        return [each for main in mains for each in (main, *below(main.pid, table)) if each.state != "Z"]
    engines = {(record.pid, record.start_ticks) for record in records(data_dir)}
    servers = [process for process in table if (process.pid, process.start_ticks) in engines and process.state != "Z"]
    if part is Part.API_SERVER:
        return servers
    return [
        process
        for process in table
        for server in servers
        if process.ppid == server.pid and process.state != "Z" and _TRACKER not in command(process.pid)
    ]


def within(folder: Path, spare: frozenset[int] = frozenset()) -> list[Process]:
    """Processes that work in a folder or name it on their command line, whoever started them; never this one."""
    found = []
    for process in read_processes():
        if process.pid in spare or process.pid == os.getpid() or process.state == "Z":
            continue
        if f"{folder}/" in command(process.pid) or _works_in(process.pid, folder):
            found.append(process)
    return found


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink().is_relative_to(folder)
    except OSError:
        return False


def command(pid: int) -> str:
    """A process's command line, "" if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def send(process: Process, number: int) -> bool:
    """Signal exactly this process; False if it is gone."""
    fd = reaper.signal_exactly(process, number)
    if fd is None:
        return False
    os.close(fd)
    return True
