"""What all attempts of an agent share: engines, devices, folders, and the books on ports and memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from scoot.agent.engines.base import EngineAdapter
from scoot.agent.engines.checker import Checker
from scoot.agent.engines.lister import Lister
from scoot.agent.folders import AttemptFolders
from scoot.agent.host import ports
from scoot.agent.host.cgroup import CgroupSupport
from scoot.agent.host.gpu import GpuSource
from scoot.agent.link.upload import Uploader
from scoot.wire.assignment import Device, EngineOffer

_ENOUGH: Final = 0.8
"""Share of what was available that an engine is held to need at most: it may size itself by what it finds."""


class MemoryBook:
    """What engines were seen to run with of the host's memory: the smallest replica by (engine, model).

    A configuration that needs more is found out by starting it. Guessing by the largest would have one that took
    nearly everything keep every later one from being tried; and many engines take what there is.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], int] = {}

    def predicted(self, engine: str, model: str) -> int:
        """Bytes that one replica needs at least, 0 before the first was seen."""
        return self._seen.get((engine, model), 0)

    def saw(self, engine: str, model: str, rss_bytes: int, *, available_bytes: int) -> None:
        """Note a replica's resident memory, and what was available to it when it started.

        One that took nearly all of it would have done with a little less.
        """
        needed = min(rss_bytes, int(available_bytes * _ENOUGH))
        key = (engine, model)
        self._seen[key] = min(needed, self._seen.get(key, needed))


class PortBook:
    """Ports of this agent's attempts: one that an engine has yet to bind must not be given to another."""

    def __init__(self) -> None:
        self._taken: dict[int, str] = {}

    def take(self, attempt_id: str, count: int) -> list[int]:
        """`count` ports that are free and nobody else's, in no order."""
        chosen: list[int] = []
        while len(chosen) < count:
            port = ports.free_port()
            if port not in self._taken:
                self._taken[port] = attempt_id
                chosen.append(port)
        return chosen

    def give_back(self, attempt_id: str) -> None:
        """The attempt is over."""
        self._taken = {port: owner for port, owner in self._taken.items() if owner != attempt_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """What attempts of this agent work with.

    Attributes:
        adapters, offers: engines by the name studies use, and what their probes said.
        checkers: by the same name, of engines whose own argument check can be asked before a start.
        listers: by the same name, of engines that list their options.
        model_roots: folders models may be served from.
        devices: by id.
        gpus: where GPU readings come from.
        folders: where attempts live on disk.
        state_dir: state files of running engines.
        fetch: gives the file of a workload blob (scoot.agent.link.blobs).
        uploader: takes the timings away.
        reserve_memory_bytes: host memory that stays free.
        room_wait_s: how long an attempt waits for GPUs and host memory that others hold before it is refused.
        clock: monotonic seconds.
        cgroups: how engines are confined, None where they are not.
        own_root: process whose tree holds whatever of SCOOT runs here; the CPU time of all others is noise. 0: unknown.
        memory, ports: shared by all attempts.
    """

    adapters: Mapping[str, EngineAdapter]
    offers: Mapping[str, EngineOffer]
    model_roots: tuple[str, ...]
    devices: Mapping[str, Device]
    gpus: GpuSource
    folders: AttemptFolders
    state_dir: Path
    fetch: Callable[[str], Awaitable[Path]]
    uploader: Uploader
    reserve_memory_bytes: int
    room_wait_s: float
    clock: Callable[[], float]
    cgroups: CgroupSupport | None = None
    own_root: int = 0
    checkers: Mapping[str, Checker] = field(default_factory=dict)
    listers: Mapping[str, Lister] = field(default_factory=dict)
    memory: MemoryBook = field(default_factory=MemoryBook)
    ports: PortBook = field(default_factory=PortBook)
