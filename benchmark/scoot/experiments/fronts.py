"""The Pareto fronts of several methods together, and which method each point comes from (Figures 15, 16). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from scoot.coordinator.objective.pareto import minimise, pareto_front
from scoot.coordinator.optimizer.base import Problem
from scoot.experiments.run import Run
from scoot.experiments.scores import keeps
from scoot.experiments.table import Known, labels


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """A method's part in the joint front of a service: means over seeds.

    Attributes:
        service, label: whose.
        points: of the joint front's distinct points, the share that this method found; 0 to 1. A point that several
            methods found counts for each of them.
        width: what its part spans of the joint front, in the first objective; 0 to 1.
    """

    service: str
    label: str
    points: float
    width: float


def shares_of(runs: Sequence[Run], known: Mapping[str, Known]) -> tuple[Share, ...]:
    """Every method's part, per service: of each seed, the front of all methods' trials together.

    Args:
        runs: finished ones; a method without a seed has no part in that seed's front.
        known: of the services that are wanted.
    """
    by_label = labels(runs)
    found = []
    for name, each in known.items():
        own: dict[int, dict[str, Run]] = {}
        for label, group in by_label.items():
            for run in group:
                if run.spec.service == name:
                    own.setdefault(run.spec.seed, {})[label] = run
        parts = [part for seed in sorted(own) if (part := _joint(each.problem, own[seed]))]
        for label in by_label:
            pairs = [part[label] for part in parts if label in part]
            if pairs:
                points, width = np.mean(pairs, axis=0).tolist()
                found.append(Share(service=name, label=label, points=points, width=width))
    return tuple(found)


def _joint(problem: Problem, runs: Mapping[str, Run]) -> dict[str, tuple[float, float]]:
    """One seed: label -> share of the joint front, and of its width. Empty where nothing keeps every limit."""
    found = [
        (label, step.trial.values)
        for label, run in runs.items()
        for step in run.steps
        if step.trial.values is not None and keeps(step.trial, problem.outcomes)
    ]
    if not found:
        return {}
    points = minimise([values for _, values in found], problem.directions)
    rows = np.flatnonzero(pareto_front(points))
    distinct, place = np.unique(points[rows], axis=0, return_inverse=True)
    whole = float(np.ptp(distinct[:, 0]))
    shares = {}
    for label in runs:
        own = np.array([found[row][0] == label for row in rows.tolist()], dtype=np.bool_)
        part = float(np.ptp(points[rows][own, 0])) if own.any() else 0.0
        width = part / whole if whole > 0 else float(own.any())
        shares[label] = (len(np.unique(place.ravel()[own])) / len(distinct), width)
    return shares
