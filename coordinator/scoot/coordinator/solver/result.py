"""What the solver answers."""

from __future__ import annotations

import msgspec

from scoot.coordinator.optimizer.base import Suggestion


class SolverResult(msgspec.Struct, frozen=True, kw_only=True):
    """Suggestions, and whether they are the ones asked for.

    Attributes:
        suggestions: at most as many as asked; fewer only when the space has no more.
        fallback: why the method asked for did not answer and Sobol did instead, "" if it did answer. Journal it.
    """

    suggestions: tuple[Suggestion, ...]
    fallback: str = ""
