"""VBO: Bayesian optimisation without SCOOT's parts (SCOOT, appendix A.3).

After the default and a Sobol design of d points, a random forest learns objectives and failures together, a failure
being a penalty (see `penalty`). One objective: upper confidence bound; two: expected hypervolume improvement over the
default. Trials that are pending, and earlier picks of the same call, count with what the forest expects of them.

The paper built it on HEBO, whose plain Bayesian optimizer has the constants used here: kappa 2 and 100 trees. It ran it
with one trial at a time only; believing in the model for several is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.objective.pareto import FloatArray, minimise
from scoot.coordinator.optimizer.base import Suggestion, Task
from scoot.coordinator.optimizer.baselines.forest import Forest
from scoot.coordinator.optimizer.baselines.penalty import Evidence, evidence_of
from scoot.coordinator.optimizer.baselines.proposals import Proposals, generator
from scoot.coordinator.optimizer.improvement import expected_hypervolume_improvement
from scoot.coordinator.optimizer.registry import check_method
from scoot.coordinator.space.space import Space

SOURCE: Final = "vbo"

KAPPA: Final = 2.0
"""Standard deviations of the upper confidence bound."""

CANDIDATES: Final = 2000
"""Random configurations looked at; spaces up to so many are looked at as a whole."""

_RARE: Final = 0.05
"""Feasible share of a space that is not enumerable below which random configurations are dear, and a tenth must do."""

_ELITE: Final = 10
_COPIES: Final = 50
_REFINEMENTS: Final = 4
_MOVED: Final = 2.0
"""Coordinates of a candidate that a refinement redraws, on average."""

_FORESTS: Final = 32
"""Forests grown in one call at most: where more suggestions are asked for, several come from the same one."""

_BLOCK: Final = 256
_NORMAL_95: Final = 1.6448536269514722


def suggest(task: Task) -> tuple[Suggestion, ...]:
    """The next `task.n` points (a Method).

    Raises:
        UserError: three objectives; or a trial has another number of values than the problem has objectives.
    """
    check_method(SOURCE, objectives=len(task.problem.directions))
    proposals = Proposals(task, SOURCE)
    evidence = evidence_of(task.problem, task.history)
    tried = sum(observation.number != 0 for observation in task.history)
    proposals.add_sobol(len(task.problem.space.axes) - tried, "first design (Sobol)")
    if proposals.missing and len(evidence.units):
        _search(task, evidence, proposals)
    proposals.add_sobol(proposals.missing, "Sobol fill-up")
    return tuple(proposals.found)


def _search(task: Task, evidence: Evidence, proposals: Proposals) -> None:
    """Add the best points by acquisition, one after the other, until there are enough or no candidate is new.

    Each is believed in before the next is chosen; of more than _FORESTS several at once are.
    """
    space, rng = task.problem.space, generator(task)
    forest = Forest(evidence.units, evidence.figures, int(rng.integers(2**32)))
    pending = [space.key(observation.config) for observation in task.history if observation.pending]
    waiting = [space.config_of(key) for key in pending if key is not None]
    spread, whole = _spread(space, rng)
    believed = space.encode([*waiting, *(suggestion.config for suggestion in proposals.found)])
    at_once = math.ceil(proposals.missing / _FORESTS)
    while proposals.missing:
        forest = forest.believing(believed)
        acquisition = Acquisition(forest, evidence.reference)
        units, scores = _sorted(spread, acquisition(spread)) if whole else _near(space, spread, acquisition, rng)
        taken = _add_best(space, units, scores, acquisition, proposals, task.problem.directions, at_once)
        if not taken:
            return
        believed = units[taken]


class Acquisition:
    """What a point is worth: the negative lower bound of one minimised objective, or the EHVI of two.

    Attributes:
        name: "ucb" or "ehvi".
        forest: the surrogate.
    """

    def __init__(self, forest: Forest, reference: FloatArray) -> None:
        self.name = "ucb" if len(reference) == 1 else "ehvi"
        self.forest = forest
        self._reference = reference
        spread = forest.figures.std(axis=0)
        self._scale = np.where(spread > 0, spread, 1.0)

    def __call__(self, units: FloatArray) -> FloatArray:
        """(N, d) points -> (N,) worth, more being better."""
        mean, deviation = self.forest.predict(units)
        if self.name == "ucb":
            return KAPPA * deviation[:, 0] - mean[:, 0]
        figures, reference = self.forest.figures / self._scale, self._reference / self._scale
        return expected_hypervolume_improvement(mean / self._scale, deviation / self._scale, figures, reference)


def _spread(space: Space, rng: np.random.Generator) -> tuple[FloatArray, bool]:
    """(N, d) points of feasible configurations all over the space, in a random order, and whether these are all."""
    everything = space.enumerate(CANDIDATES)
    if everything is not None:
        return space.encode(everything)[rng.permutation(len(everything))], True
    size = space.size()
    rare = not size.exact and size.share < _RARE
    return space.encode(space.sample(rng, CANDIDATES // 10 if rare else CANDIDATES)), False


def _near(
    space: Space, spread: FloatArray, acquisition: Acquisition, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Feasible points with their worth, best first, (N, d) and (N,): `spread` and what is found near its best.

    Near is what differs in a few coordinates from the best of `spread` and of what has been tried; and again from the
    best of these.
    """
    units = np.concatenate([spread, acquisition.forest.units])
    units, scores = _sorted(units, acquisition(units))
    for _ in range(_REFINEMENTS):
        near = np.repeat(units[:_ELITE], _COPIES, axis=0)
        moved = rng.random(near.shape) < _MOVED / near.shape[1]
        near = space.encode(space.decode(np.where(moved, rng.random(near.shape), near)))  # middles of their cells
        near = near[space.feasible_points(near)]
        units, scores = _sorted(
            np.concatenate([units, near]), np.concatenate([scores, acquisition(near)] if len(near) else [scores])
        )
    return units, scores


def _sorted(units: FloatArray, scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Best first; equal ones keep their order, which is random."""
    order = np.argsort(-scores, kind="stable")
    return units[order], scores[order]


def _add_best(
    space: Space,
    units: FloatArray,
    scores: FloatArray,
    acquisition: Acquisition,
    proposals: Proposals,
    directions: Sequence[Direction],
    n: int,
) -> list[int]:
    """Add the best candidates that are new, up to `n` and no more than are wanted; their rows."""
    taken: list[int] = []
    for start in range(0, len(units), _BLOCK):
        for row, config in enumerate(space.decode(units[start : start + _BLOCK]), start):
            if len(taken) == n or not proposals.missing:
                return taken
            if proposals.is_new(config):
                proposals.add(config, _explanation(acquisition, units[row], float(scores[row]), directions))
                taken.append(row)
    return taken


def _explanation(
    acquisition: Acquisition, point: FloatArray, score: float, directions: Sequence[Direction]
) -> dict[str, Any]:
    """Why this point, in the metrics' own units: the forest's mean, and 90 % of a normal distribution around it."""
    mean, deviation = (figures[0] for figures in acquisition.forest.predict(point[None, :]))
    low, high = mean - _NORMAL_95 * deviation, mean + _NORMAL_95 * deviation
    turned = [minimise(np.stack([mean, low, high]), directions)[:, place] for place in range(len(directions))]
    return {
        "design": acquisition.name.upper(),
        "predicted": {
            str(place): {"mean": float(row[0]), "low": float(min(row[1:])), "high": float(max(row[1:]))}
            for place, row in enumerate(turned)
        },
        "acquisition": {acquisition.name: score},
    }
