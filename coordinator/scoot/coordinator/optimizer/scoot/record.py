"""What a history tells the model: gains, feasibility, the best so far and the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from scoot.coordinator.objective.outcome import violation
from scoot.coordinator.objective.pareto import BoolArray, FloatArray, minimise
from scoot.coordinator.optimizer.base import Observation, Problem
from scoot.coordinator.space.space import Space
from scoot.wire.errors import UserError

DEFAULT: Final = 0
"""Number of the trial of the default configuration."""

_LARGEST: Final = 1e100
"""Figures beyond it would overflow when they are squared."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Record:
    """A history as arrays; gains are objectives turned so that more is better, in the metrics' own units.

    A configuration that is not stated in full, as the default's may be, has no place in the cube: the models do without
    it, while its gains stand in `reached` and `reference`.

    Attributes:
        finished: observations that are not pending.
        units: (a, d) points that were measured.
        gains: (a, m) of these.
        tried: (b, d) points whose feasibility is known.
        feasible: (b,) of these.
        reached: (c, m) gains of all that was measured and keeps the limits of the outcomes.
        reference: (m,) gains of the default, or, while there are none, the worst of `reached` in each objective; None
            if nothing was reached.
        verdicts: feasibility of every finished suggestion of the model, in order of number.
    """

    finished: int
    units: FloatArray
    gains: FloatArray
    tried: FloatArray
    feasible: BoolArray
    reached: FloatArray
    reference: FloatArray | None
    verdicts: tuple[bool, ...]


def record_of(problem: Problem, history: Sequence[Observation]) -> Record:
    """The history of a problem of d parameters and m objectives, as the paper uses it.

    A broken limit of an outcome counts as a broken hidden constraint: the paper has no such limits.
    """
    axes, objectives = len(problem.space.axes), len(problem.directions)
    units: list[FloatArray] = []
    gains: list[FloatArray] = []
    tried: list[FloatArray] = []
    feasible: list[bool] = []
    reached: list[FloatArray] = []
    verdicts: list[bool] = []
    reference: FloatArray | None = None
    ordered = sorted(history, key=lambda observation: observation.number)
    suggested = [observation for observation in ordered if observation.number != DEFAULT][axes:]
    late = {observation.number for observation in suggested}
    for observation in ordered:
        if observation.values is None and not observation.infeasible:
            continue
        figures = observation.outcomes
        kept = figures is None or violation(problem.outcomes, figures) == 0
        good = kept and not observation.infeasible
        place = place_of(problem.space, observation)
        if observation.values is not None:
            gain = np.clip(-minimise(observation.values, problem.directions), -_LARGEST, _LARGEST)
            if good:
                reached.append(gain)
            if observation.number == DEFAULT:
                reference = gain
            if place is not None:
                units.append(place)
                gains.append(gain)
        if place is not None:
            tried.append(place)
            feasible.append(good)
        if observation.number in late:
            verdicts.append(good)
    if reference is None and reached:
        reference = np.min(reached, axis=0)
    return Record(
        finished=sum(not observation.pending for observation in ordered),
        units=_rows(units, axes),
        gains=_rows(gains, objectives),
        tried=_rows(tried, axes),
        feasible=np.asarray(feasible, dtype=np.bool_),
        reached=_rows(reached, objectives),
        reference=reference,
        verdicts=tuple(verdicts),
    )


def place_of(space: Space, observation: Observation) -> FloatArray | None:
    """(d,): the point of a configuration, that of the nearest values off the grid; None if it is not stated in full."""
    try:
        place: FloatArray = space.encode([observation.config])[0]
    except UserError:
        return None
    return place


def _rows(found: Sequence[FloatArray], width: int) -> FloatArray:
    return np.asarray(found, dtype=np.float64).reshape(-1, width)
