"""What the history tells a model: where observations lie, and their figures turned so that less is better. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.objective.pareto import minimise, pareto_front
from scoot.coordinator.optimizer.base import Observation, Task
from scoot.coordinator.space.space import Key

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_WIDEST: Final = 350.0
_LARGEST_UNIT: Final = 1e150
"""Figures a model may come to are kept from overflowing."""


@dataclass(frozen=True, eq=False)
class Scale:
    """How one figure is modelled: by its logarithm where all of it has one sign, else by its inverse hyperbolic sine.

    Attributes:
        sign: 1.0 or -1.0: what logarithms are multiplied by, so that less stays better; 0.0 is no logarithm.
        unit: of the sine: the median size of the figures.
    """

    sign: float
    unit: float = 1.0

    @classmethod
    def of(cls, figures: FloatArray, *, logs: bool = True) -> Self:
        """For some figures, minimised. Without logarithms they are modelled as they are, but for their unit."""
        if not logs:
            return cls(0.0, 1e3 * (float(np.abs(figures).max(initial=0.0)) or 1.0))
        if len(figures) and (figures > 0).all():
            return cls(1.0)
        if len(figures) and (figures < 0).all():
            return cls(-1.0)
        sizes = np.abs(figures[figures != 0])
        return cls(0.0, float(np.median(sizes)) if len(sizes) else 1.0)

    def model(self, figures: FloatArray) -> FloatArray:
        """Figures as they are modelled."""
        if not self.sign:
            return np.arcsinh(figures / self.unit)
        scaled: FloatArray = self.sign * np.log(figures * self.sign)
        return scaled

    def figure(self, modelled: FloatArray) -> FloatArray:
        """The other way."""
        within = np.clip(modelled, -_WIDEST, _WIDEST)
        if not self.sign:
            sines: FloatArray = min(self.unit, _LARGEST_UNIT) * np.sinh(within)
            return sines
        figures: FloatArray = self.sign * np.exp(self.sign * within)
        return figures

    def model_noise(self, figures: FloatArray, errors: FloatArray) -> FloatArray:
        """Standard errors of modelled figures, from those of the figures."""
        scaled: FloatArray = errors / (np.abs(figures) if self.sign else np.hypot(figures, self.unit))
        return scaled


@dataclass(frozen=True, eq=False)
class History:
    """A task's history in arrays.

    Attributes:
        keys: configurations that are not to be proposed again.
        points: (n, d) of the unit cube, of the observations whose configuration is complete: L of them have values
            (`valued`, rows of points), others failed (`failed`), or are pending (`pending`).
        values: (L, m) of the valued rows, minimised.
        noise: (L, m) standard errors of the values; 0 where unknown.
        outcomes: (L, k) of the limited outcomes, turned so that at most 0 keeps the limit; NaN where unknown.
        all_values: (M, m) of every observation with values, those without a place included (the default's may be).
        kept: (M,) whether such an observation keeps all limits.
        reference: (m,) the default's values; None while there are none.
    """

    keys: set[Key]
    points: FloatArray
    valued: npt.NDArray[np.int64]
    failed: npt.NDArray[np.int64]
    pending: npt.NDArray[np.int64]
    values: FloatArray
    noise: FloatArray
    outcomes: FloatArray
    all_values: FloatArray
    kept: BoolArray
    reference: FloatArray | None

    @classmethod
    def of(cls, task: Task) -> Self:
        """Of a task."""
        space, problem = task.problem.space, task.problem
        placed = [(o, key) for o in task.history if (key := space.key(o.config)) is not None]
        located = [o for o, _ in placed]
        points = space.encode([o.config for o in located]) if located else np.empty((0, len(space.axes)))
        rows = [i for i, o in enumerate(located) if o.values is not None]
        everything = [o for o in task.history if o.values is not None]
        values = minimise([o.values or () for o in everything], problem.directions)
        excess = np.array([_excess(o, task) for o in everything]).reshape(len(everything), len(problem.outcomes))
        at = [i for i, o in enumerate(everything) if space.key(o.config) is not None]
        default = next((i for i, o in enumerate(everything) if o.number == 0), None)
        m = len(problem.directions)
        noise = np.array([o.noise if o.noise is not None else (0.0,) * m for o in everything]).reshape(-1, m)
        return cls(
            keys={key for _, key in placed},
            points=points,
            valued=np.array(rows, np.int64),
            failed=np.array([i for i, o in enumerate(located) if o.infeasible], np.int64),
            pending=np.array([i for i, o in enumerate(located) if o.pending], np.int64),
            values=values[at],
            noise=noise[at],
            outcomes=excess[at],
            all_values=values,
            kept=np.logical_not((excess > 0).any(axis=1)),
            reference=None if default is None else values[default],
        )

    @property
    def is_blank(self) -> bool:
        """Whether all there is, but for one value at most, is pending."""
        return len(self.valued) <= 1 and not len(self.failed)

    @property
    def good(self) -> FloatArray:
        """(K, m) values that keep all limits."""
        good: FloatArray = self.all_values[self.kept]
        return good

    @property
    def corner(self) -> FloatArray:
        """(m,) values where hypervolumes end: the default's, or the worst there are, of at least one."""
        if self.reference is not None:
            return self.reference
        worst: FloatArray = self.all_values.max(axis=0)
        return worst

    @cached_property
    def ordered(self) -> FloatArray:
        """(L, d) points of the observations with values, the best first: of several objectives, the front's."""
        places = self.values.argsort(axis=0).argsort(axis=0).sum(axis=1)
        order = np.lexsort((places, ~self._front, self._over))
        ordered: FloatArray = self.points[self.valued[order]]
        return ordered

    def leaders(self, most: int) -> FloatArray:
        """(k, d) points of the best observations: the front, or the best ones of one objective; at most so many."""
        if len(self.valued) and self.values.shape[1] > 1:
            most = min(most, max(1, int((self._front & (self._over <= self._over.min())).sum())))
        return self.ordered[:most]

    @cached_property
    def _front(self) -> BoolArray:
        """(L,) whether no other value dominates it."""
        return pareto_front(self.values) if len(self.values) else np.zeros(0, np.bool_)

    @cached_property
    def _over(self) -> FloatArray:
        """(L,) by how much limits are broken, together."""
        over: FloatArray = np.nan_to_num(np.maximum(self.outcomes, 0.0)).sum(axis=1)
        return over


def _excess(observation: Observation, task: Task) -> list[float]:
    """How far each outcome is over its limit, relative to it; NaN where it is unknown."""
    figures = observation.outcomes
    out: list[float] = []
    for place, outcome in enumerate(task.problem.outcomes):
        if figures is None:
            out.append(float("nan"))
            continue
        over = figures[place] - outcome.limit
        over = over if outcome.direction is Direction.MINIMISE else -over
        out.append(over / (abs(outcome.limit) or 1.0))
    return out
