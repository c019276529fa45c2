"""SCOOT's errors. Each class says what its catcher does next; outcomes of trials are values, never exceptions."""

from __future__ import annotations

from typing import Any


class ScootError(Exception):
    """Base of every error SCOOT raises on purpose."""


class UserError(ScootError):
    """The user's input is wrong. Show it as it is and stop; nothing was changed.

    Attributes:
        path: the file or address at fault, "" if there is none.
        line: its line, 0 if unknown.
        key: the dotted key in that file, "" if there is none.
        hint: the remedy, one sentence.
    """

    def __init__(self, message: str, *, path: str = "", line: int = 0, key: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.line = line
        self.key = key
        self.hint = hint

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.path and self.line else self.path
        head = ": ".join(part for part in (where, self.key, self.message) if part)
        return f"{head} ({self.hint})" if self.hint else head

    def at(self, *, path: str = "", line: int = 0, key: str = "") -> UserError:
        """A copy that also says where, for the callers that know it; what is already known is kept."""
        return UserError(
            self.message, path=self.path or path, line=self.line or line, key=self.key or key, hint=self.hint
        )


class LocalProtocolError(ScootError):
    """We broke the protocol: a bug on this side. Fail loudly, do not retry."""


class RemoteProtocolError(ScootError):
    """The peer broke the protocol. Drop the message or the session; never let it change other peers' state."""


class TransientError(ScootError):
    """Try again, not before `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PermanentInfraError(ScootError):
    """Disk, database or network is broken in a way that retrying will not mend. Stop taking new work, keep the old."""


class SolverError(ScootError):
    """The optimizer failed or overran its deadline. Fall back; `best_so_far` holds what it had."""

    def __init__(self, message: str, *, best_so_far: object = None) -> None:
        super().__init__(message)
        self.best_so_far = best_so_far


class InvariantViolation(ScootError):
    """SCOOT's own state is inconsistent: a bug. `story` is the object's whole history, for the report."""

    def __init__(self, message: str, *, story: tuple[Any, ...] = ()) -> None:
        super().__init__(message + "".join(f"\n  {step}" for step in story))
        self.story = story
