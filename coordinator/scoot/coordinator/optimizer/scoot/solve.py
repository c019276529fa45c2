"""The solver: NSGA-II over the unit cube, where only what satisfies the known constraints is ever looked at.

The known constraints prune the space (SCOOT, section 4.5.3): every point is moved into its value's cell, and a region
that violates its constraints is replaced by the nearest of a pool of feasible ones. The probability of feasibility is a
constraint of the problem (equation 3). Spaces of few configurations are looked at whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.optimize import minimize

from scoot.coordinator.objective.pareto import BoolArray, FloatArray, pareto_front
from scoot.coordinator.space.encoding import GridAxis, IntArray
from scoot.coordinator.space.space import Space

POPULATION: Final = 100
GENERATIONS: Final = 50
WHOLE: Final = 2000
"""Spaces of up to so many configurations are evaluated to the last one."""

POOL: Final = 512

_REFILLS: Final = 4


@dataclass(frozen=True, eq=False, kw_only=True)
class Scores:
    """What is known of N points.

    Attributes:
        merits: (N, k) acquisition values, more being better.
        feasibility: (N,) probabilities, 0 to 1.
    """

    merits: FloatArray
    feasibility: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidates:
    """What the solver found: N different points that satisfy both kinds of constraints.

    Attributes:
        units: (N, d) points of the unit cube.
        scores: of each.
    """

    units: FloatArray
    scores: Scores

    def ranks(self) -> Iterator[IntArray]:
        """Places of the candidates: those on the Pareto front, those on the front of the rest, and so on."""
        left = np.arange(len(self.units))
        while len(left):
            first = pareto_front(-self.scores.merits[left])
            if not first.any():
                return
            yield left[first]
            left = left[~first]


def solve(
    space: Space,
    score: Callable[[FloatArray], Scores],
    threshold: float,
    start: FloatArray,
    rng: np.random.Generator,
) -> Candidates:
    """Maximise the merits where the probability of feasibility reaches `threshold`.

    Args:
        space: d parameters.
        score: of (N, d) points that satisfy the known constraints.
        threshold: 0 to 1.
        start: (k, d) good points to begin with, beside random ones; moved where they violate a known constraint.
        rng: the only source of chance.
    """
    everything = space.enumerate(WHOLE)
    units = _evolved(space, score, threshold, start, rng) if everything is None else space.encode(everything)
    scores = score(units)
    good = scores.feasibility >= threshold
    kept = Scores(merits=scores.merits[good], feasibility=scores.feasibility[good])
    return Candidates(units=units[good], scores=kept)


def _evolved(
    space: Space,
    score: Callable[[FloatArray], Scores],
    threshold: float,
    start: FloatArray,
    rng: np.random.Generator,
) -> FloatArray:
    """The last population."""
    pool = space.encode(space.sample(rng, POOL))
    pruned = Pruned(space, pool)
    first = np.concatenate([pruned.inside(start), pool])[:POPULATION]
    algorithm = NSGA2(POPULATION, sampling=first, repair=_Prune(pruned))
    algorithm.mating.n_max_iterations = _REFILLS  # else it tries a hundred times to find more of what is used up
    seed = int(rng.integers(1 << 31))
    merits = score(first[:1]).merits.shape[1]
    problem = _Search(len(space.axes), merits, score, threshold)
    found = minimize(problem, algorithm, ("n_gen", GENERATIONS), seed=seed, copy_algorithm=False)
    units: FloatArray = found.pop.get("X").astype(np.float64)
    return units


class Pruned:
    """The part of the unit cube that the known constraints leave.

    Args:
        space: d parameters.
        pool: (k, d) points that satisfy the known constraints, k >= 1.
    """

    def __init__(self, space: Space, pool: FloatArray) -> None:
        self._space = space
        places = {axis.name: place for place, axis in enumerate(space.axes)}
        self._regions = [
            (region, [places[axis.name] for axis in region.axes]) for region in space.regions if region.constraints
        ]
        self._pool = pool

    def inside(self, units: FloatArray) -> FloatArray:
        """(N, d) points -> (N, d) in the middles of their cells, inactive parameters at INACTIVE, constraints kept."""
        result = np.clip(units, 0.0, 1.0)
        for place, axis in enumerate(self._space.axes):
            if isinstance(axis, GridAxis):
                result[:, place] = axis.units(axis.cells(result[:, place]))
        for region, places in self._regions:
            bad: BoolArray = ~region.feasible(result[:, places])
            if bad.any():
                away = ((result[bad][:, None, places] - self._pool[None, :, places]) ** 2).sum(axis=2)
                result[np.flatnonzero(bad)[:, None], places] = self._pool[away.argmin(axis=1)][:, places]
        return self._space.canonical_points(result)


class _Prune(Repair):  # type: ignore[misc]  # pymoo has no types
    """Pruned, as pymoo asks for it: after mating, before duplicates are removed."""

    def __init__(self, pruned: Pruned) -> None:
        super().__init__()
        self._pruned = pruned

    def _do(self, problem: Problem, X: FloatArray, **_: Any) -> FloatArray:  # noqa: ANN401, N803 - pymoo's signature
        del problem
        return self._pruned.inside(X)


class _Search(Problem):  # type: ignore[misc]  # pymoo has no types
    """The problem, as pymoo asks for it: all is minimised, a constraint holds where it is at most 0."""

    def __init__(self, axes: int, merits: int, score: Callable[[FloatArray], Scores], threshold: float) -> None:
        super().__init__(n_var=axes, n_obj=merits, n_ieq_constr=1, xl=0.0, xu=1.0)
        self._score = score
        self._threshold = threshold

    def _evaluate(self, x: FloatArray, out: dict[str, FloatArray], *_: Any, **__: Any) -> None:  # noqa: ANN401 - as above
        scores = self._score(x)
        out["F"] = -scores.merits
        out["G"] = self._threshold - scores.feasibility[:, None]
