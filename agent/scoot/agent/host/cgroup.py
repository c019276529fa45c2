"""A cgroup v2 of its own for each engine, where the host lets the agent make one.

One write to `cgroup.kill` then ends an engine with everything it started, however it forked. Where no cgroup v2 subtree
is writable (or the kernel is older than 5.14), `CgroupSupport.path` is None and `detail` says why; process groups, the
warden and its process tree do the work alone.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import msgspec

PREFIX: Final = "scoot-engine-"
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


class CgroupSupport(msgspec.Struct, frozen=True, kw_only=True):
    """Where engines' cgroups can be made.

    Attributes:
        path: writable cgroup v2 folder, "" if there is none.
        relative: the same as /proc/PID/cgroup shows it, "/" or "/a/b".
        detail: one sentence for the log and `scoot-agent doctor`.
    """

    path: str = ""
    relative: str = ""
    detail: str


def parse_mounts(mountinfo: str) -> str | None:
    """Mount point of the cgroup v2 hierarchy in the text of /proc/self/mountinfo. Pure."""
    for line in mountinfo.splitlines():
        head, separator, tail = line.partition(" - ")
        fields = head.split()
        if separator and tail.split()[:1] == ["cgroup2"] and len(fields) > 4:  # noqa: PLR2004 - field 5 of proc(5)
            return _OCTAL.sub(lambda found: chr(int(found[1], 8)), fields[4])
    return None


def parse_membership(text: str) -> str | None:
    """The cgroup v2 path in the text of /proc/self/cgroup. Pure."""
    for line in text.splitlines():
        if line.startswith("0::/"):
            return line[3:]
    return None


def probe() -> CgroupSupport:
    """Whether a cgroup can be made, entered and killed here; makes and removes one to find out."""
    try:
        mount = parse_mounts(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace"))
        relative = parse_membership(Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        return CgroupSupport(detail=f"cgroups unavailable: {error}")
    if mount is None or relative is None:
        return CgroupSupport(detail="cgroups unavailable: no cgroup v2 hierarchy is mounted")
    parent = Path(mount) / relative.lstrip("/")
    trial = parent / f"{PREFIX}probe-{os.getpid()}"
    try:
        trial.mkdir()
    except OSError as error:
        return CgroupSupport(detail=f"cgroups unavailable: {parent} is not writable ({error.strerror})")
    try:
        usable = (trial / "cgroup.kill").exists() and os.access(trial / "cgroup.procs", os.W_OK)
    finally:
        trial.rmdir()
    if not usable:
        return CgroupSupport(detail="cgroups unavailable: the kernel has no cgroup.kill (5.14 or later)")
    return CgroupSupport(path=str(parent), relative=relative, detail=f"each engine gets a cgroup below {parent}")


def make(support: CgroupSupport, token: str) -> tuple[str, str]:
    """Make an engine's cgroup: its folder, and its path as /proc/PID/cgroup shows it; ("", "") where unsupported."""
    if not support.path:
        return ("", "")
    name = PREFIX + token
    folder = Path(support.path) / name
    try:
        folder.mkdir()
    except OSError:
        return ("", "")
    return (str(folder), f"{support.relative.rstrip('/')}/{name}")


def kill_and_remove(folder: str) -> None:
    """SIGKILL to everything in an engine's cgroup, and remove it when empty. A cgroup that is gone is fine."""
    path = Path(folder)
    if not path.name.startswith(PREFIX):
        return
    try:
        (path / "cgroup.kill").write_text("1", encoding="ascii")
        path.rmdir()
    except OSError:  # gone already, or its processes are still dying: the next sweep removes it
        return


def remove_empty(support: CgroupSupport) -> int:
    """Remove engines' cgroups that hold nothing any more; returns how many."""
    removed = 0
    for path in Path(support.path).glob(f"{PREFIX}*") if support.path else ():
        try:
            path.rmdir()
        except OSError:  # in use
            continue
        removed += 1
    return removed
