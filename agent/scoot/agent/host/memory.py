"""Host memory: what is there, and whether an engine may be started beside what runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec

_MEMINFO: Final = Path("/proc/meminfo")
_VMSTAT: Final = Path("/proc/vmstat")
_LINE: Final = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)
_OOM_KILL: Final = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
_KIB: Final = 1024
_GIB: Final = 1024**3


class HostMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of host memory: all of it, and what can be given out without swapping."""

    total_bytes: int
    available_bytes: int


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """Whether engines may start; `detail` has the figures when they may not."""

    admitted: bool
    detail: str = ""


def parse_meminfo(text: str) -> HostMemory:
    """The figures in the text of /proc/meminfo; 0 for what it does not tell. Pure."""
    found = {name: int(kib) * _KIB for name, kib in _LINE.findall(text)}
    return HostMemory(total_bytes=found.get("MemTotal", 0), available_bytes=found.get("MemAvailable", 0))


def read_memory() -> HostMemory:
    """This host's memory now."""
    return parse_meminfo(_MEMINFO.read_text(encoding="ascii"))


def parse_oom_kills(text: str) -> int | None:
    """Processes killed for lack of memory, in the text of /proc/vmstat; None where it does not tell. Pure."""
    found = _OOM_KILL.search(text)
    return int(found[1]) if found is not None else None


def oom_kills() -> int | None:
    """Processes of this host that the kernel has killed for lack of memory since boot; None where it does not tell."""
    try:
        return parse_oom_kills(_VMSTAT.read_text(encoding="ascii"))
    except OSError:
        return None


def admit(memory: HostMemory, *, engines: int, predicted_rss_bytes: int, reserve_bytes: int) -> Admission:
    """Whether `engines` more, of `predicted_rss_bytes` each, leave `reserve_bytes` available. Pure.

    A prediction of 0 means that nothing is known, and admits as long as the reserve itself is there.
    """
    needed = engines * predicted_rss_bytes + reserve_bytes
    if memory.available_bytes >= needed:
        return Admission(admitted=True)
    return Admission(
        admitted=False,
        detail=f"{memory.available_bytes / _GIB:.1f} GiB of host memory available, {needed / _GIB:.1f} GiB needed "
        f"({engines} x {predicted_rss_bytes / _GIB:.1f} GiB and {reserve_bytes / _GIB:.1f} GiB in reserve)",
    )
