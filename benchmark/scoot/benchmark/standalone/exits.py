"""Exit codes of the stand-alone tool. docs/benchmark.md documents the same table. Pure."""

from __future__ import annotations

from enum import IntEnum
from types import MappingProxyType
from typing import Final


class Exit(IntEnum):
    """What the tool's exit code says."""

    OK = 0
    FAILED = 1
    USAGE = 2
    INVALID = 3
    INTERRUPTED = 130


MEANING: Final = MappingProxyType(
    {
        Exit.OK: "done, and the measurement is valid (sweep: that of at least one rate)",
        Exit.FAILED: "the load process failed, or results could not be written",
        Exit.USAGE: "wrong usage or bad input, or no server answers; nothing was sent",
        Exit.INVALID: "done, but the measurement is not to be believed; the verdict says why",
        Exit.INTERRUPTED: "stopped by Ctrl-C; what was measured until then is summarised",
    }
)
