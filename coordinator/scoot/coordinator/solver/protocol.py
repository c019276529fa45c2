"""The worker's protocol: one JSON object per line, a request in, a response out."""

from __future__ import annotations

from typing import Final

import msgspec

from scoot.coordinator.optimizer.base import Ask, Suggestion
from scoot.wire.errors import UserError

LINE_BYTES: Final = 64 * 1024 * 1024
"""Longest line either side accepts: limits.TRIALS observations of limits.PARAMETERS values, with room."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why there are no suggestions.

    Attributes:
        message: for the journal, or for the user.
        user: the study is at fault: no other method would do better.
        key, hint: of a UserError.
    """

    message: str
    user: bool = False
    key: str = ""
    hint: str = ""

    def user_error(self) -> UserError:
        """The UserError it stands for."""
        return UserError(self.message, key=self.key, hint=self.hint)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One call. `id` comes back in the response."""

    id: int
    method: str
    ask: Ask


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: suggestions, or a failure."""

    id: int
    suggestions: tuple[Suggestion, ...] = ()
    failure: Failure | None = None
