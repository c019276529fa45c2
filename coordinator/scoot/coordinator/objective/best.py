"""Which trial is the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np

from scoot.coordinator.objective.hypervolume import single_point_hypervolume
from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.objective.pareto import FloatArray, minimise, pareto_front

NONE: Final[Mapping[int, float]] = MappingProxyType({})


def best_trial(
    values: Sequence[tuple[int, tuple[float, ...]]],
    reference: tuple[float, ...] | None,
    directions: Sequence[Direction],
    violations: Mapping[int, float] = NONE,
) -> int | None:
    """The number of the best trial, None if there is no trial with values.

    It is chosen among the trials that keep every outcome; where none does, among those that violate them least.

    With one objective it is the best value. With more it is the point of the front with the largest single-point
    hypervolume against `reference`, the default configuration's result (SCOOT section 5), among those that are worse
    than the reference in nothing: the default is only replaced by something better. Without a reference, because the
    default itself failed, it is the compromise: the point of the front whose largest regret is least, each objective's
    regret being scaled to the front's own range. Ties go to the lower number.

    Args:
        values: (trial number, one finite value per objective) of every succeeded trial, in the metrics' own senses.
        reference: the default's values, or None.
        directions: one per objective.
        violations: how far a trial is beyond its outcomes (objective.outcome.violation), by number; 0 where it is not
            named.
    """
    if not values:
        return None
    contenders = contending([number for number, _ in values], violations)
    ordered = sorted((number, point) for number, point in values if number in contenders)
    numbers = [number for number, _ in ordered]
    points = minimise([point for _, point in ordered], directions)
    if len(directions) == 1:
        return numbers[int(np.argmin(points[:, 0]))]
    front = np.flatnonzero(pareto_front(points))
    if reference is not None:
        corner = minimise(reference, directions)
        safe = [row for row in front if bool(np.all(points[row] <= corner))]
        volumes = [single_point_hypervolume(points[row], corner) for row in safe]
        if volumes:
            return numbers[int(safe[int(np.argmax(volumes))])]
    return numbers[int(front[_compromise(points[front])])]


def contending(numbers: Sequence[int], violations: Mapping[int, float]) -> frozenset[int]:
    """The trials that keep every outcome; where none does, those that violate them least."""
    least = min((violations.get(number, 0.0) for number in numbers), default=0.0)
    return frozenset(number for number in numbers if violations.get(number, 0.0) <= least)


def _compromise(front: FloatArray) -> int:
    """Row of the least largest regret; ties by the least sum of regrets, then by position."""
    ideal = front.min(axis=0)
    span = front.max(axis=0) - ideal
    regret = (front - ideal) / np.where(span > 0, span, 1.0)
    return int(np.lexsort((regret.sum(axis=1), regret.max(axis=1)))[0])
