"""What the baselines learn from: one figure per objective for every finished trial, a penalty where it failed.

The paper's baselines know no model of feasibility: "we assign a penalty objective value when constraints are violated"
(SCOOT, appendix A.3; it does not say which). Ours is the worst figure of any trial that worked, worsened by MARGIN of
the distance between the best and the worst: a failure always ranks behind everything that ran, and yet lies near enough
to it not to swamp the scale on which a surrogate tells good from better. It follows the history: when a worse figure is
seen, earlier failures move with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.objective.outcome import Outcome, violation
from scoot.coordinator.objective.pareto import FloatArray, minimise
from scoot.coordinator.optimizer.base import Observation, Problem
from scoot.coordinator.space.space import Key
from scoot.wire.errors import UserError

MARGIN: Final = 0.1
"""Share of the spread, or of the figure itself where all are equal, by which a failure is worse than the worst."""

LARGEST: Final = 1e100
"""Figures beyond it count as this much: their squares must not overflow."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Finished trials, one row per configuration, in order of their first trials.

    Attributes:
        units: (N, d) points of the unit cube.
        figures: (N, m), minimised, penalties in place; the mean where a configuration was tried more than once.
        penalty: (m,), minimised; 1 where no trial has worked yet.
        reference: (m,), minimised: the default configuration's figures, or the penalty as long as it has none.
    """

    units: FloatArray
    figures: FloatArray
    penalty: FloatArray
    reference: FloatArray


def evidence_of(problem: Problem, history: Sequence[Observation]) -> Evidence:
    """The evidence in a history.

    Pending trials are left out. So are configurations that cannot be placed in the space, such as a default of which
    only some parameters are stated; their figures still count for the penalty and the reference.

    Raises:
        UserError: a trial has another number of values than the problem has objectives.
    """
    figures, penalty = punished(problem, history)
    rows: dict[Key, list[FloatArray]] = {}
    reference = penalty
    for each, found in zip(history, figures, strict=True):
        key = problem.space.key(each.config)
        if found is not None and key is not None:
            rows.setdefault(key, []).append(found)
        if found is not None and each.number == 0:
            reference = found
    configs = [problem.space.config_of(key) for key in rows]
    means = [np.mean(row, axis=0) for row in rows.values()]
    return Evidence(
        units=problem.space.encode(configs),
        figures=np.reshape(means, (len(rows), len(problem.directions))).astype(np.float64),
        penalty=penalty,
        reference=reference,
    )


def punished(problem: Problem, history: Sequence[Observation]) -> tuple[list[FloatArray | None], FloatArray]:
    """Of each trial its figures, (m,) and minimised, or the penalty, or None while it is not finished; and the penalty.

    A trial has failed if its configuration is to blame, or if an outcome is known to be beyond its limit.

    Raises:
        UserError: a trial has another number of values than the problem has objectives.
    """
    worked = [_figures(each, problem.directions) if _useful(each, problem.outcomes) else None for each in history]
    known = [figures for figures in worked if figures is not None]
    penalty = _penalty(np.stack(known)) if known else np.ones(len(problem.directions))
    failed = [each.infeasible or each.values is not None for each in history]
    return [penalty if f is None and bad else f for f, bad in zip(worked, failed, strict=True)], penalty


def _useful(observation: Observation, outcomes: Sequence[Outcome]) -> bool:
    """Whether it has values and keeps to the limits, as far as is known."""
    if observation.values is None:
        return False
    return observation.outcomes is None or violation(outcomes, observation.outcomes) == 0


def _figures(observation: Observation, directions: Sequence[Direction]) -> FloatArray:
    values = observation.values or ()
    if len(values) != len(directions):
        raise UserError(
            f"trial {observation.number} has {len(values)} values for {len(directions)} objectives",
            key="objectives",
            hint="the history belongs to another study",
        )
    return np.clip(minimise(values, directions), -LARGEST, LARGEST)


def _penalty(figures: FloatArray) -> FloatArray:
    """(N, m) figures, N >= 1 -> (m,) what a failure costs."""
    worst, best = figures.max(axis=0), figures.min(axis=0)
    scale = np.where(worst > best, worst - best, np.abs(worst))
    penalty: FloatArray = worst + MARGIN * np.where(scale > 0, scale, 1.0)
    return penalty
