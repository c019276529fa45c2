"""Exit codes of scootctl, and how errors become them. docs/scootctl.md documents the same table."""

from __future__ import annotations

from enum import IntEnum

from scoot.wire.errors import UserError


class Exit(IntEnum):
    """What scootctl's exit code says."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    CANCELLED = 4
    INTERRUPTED = 130


MEANING = {
    Exit.OK: "done",
    Exit.FAILED: "the study failed, or found no feasible configuration; or a check of `doctor` or `catalogue` failed",
    Exit.USAGE: "wrong usage or bad input; nothing was changed",
    Exit.UNREACHABLE: "the coordinator cannot be reached",
    Exit.CANCELLED: "the study was cancelled",
    Exit.INTERRUPTED: "stopped by Ctrl-C: watching ended (the study goes on), or `tune` was killed by the second one",
}


class CoordinatorUnreachableError(UserError):
    """No coordinator answers at the address. Show it and stop; a later try may succeed."""


class ChildDiedError(UserError):
    """A process that `tune` started ended by itself. Stop the others and say how to resume."""
