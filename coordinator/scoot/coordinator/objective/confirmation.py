"""Whether a configuration that led the search kept its lead when it was measured again beside the default."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from scoot.coordinator.objective.metric import Direction


class Lead(StrEnum):
    """What became of the lead.

    HELD: at least as good as the default on every objective, in the median of the same arrival orders. MIXED: better on
    some, worse on others. LOST: worse on every one; what the search saw was noise, and the default is to be kept.

    Where a study limits outcomes they come first: HELD is also a best that violates them less than the default, and
    LOST one that violates them more.
    """

    HELD = "HELD"
    MIXED = "MIXED"
    LOST = "LOST"


def lead_of(
    directions: Sequence[Direction],
    best: Sequence[float],
    default: Sequence[float],
    violations: tuple[float, float] = (0.0, 0.0),
) -> Lead:
    """The verdict.

    Args:
        directions: one per objective.
        best, default: medians over the arrival orders, one per objective, in the metrics' own senses.
        violations: how far the best, and the default, are beyond their outcomes in the worst order
            (objective.outcome.violation).
    """
    if violations[0] != violations[1]:
        return Lead.HELD if violations[0] < violations[1] else Lead.LOST
    worse = [
        ours > theirs if direction is Direction.MINIMISE else ours < theirs
        for direction, ours, theirs in zip(directions, best, default, strict=True)
    ]
    if all(worse):
        return Lead.LOST
    return Lead.MIXED if any(worse) else Lead.HELD
