"""What the history tells a model: where observations lie, and their figures turned so that less is better. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.objective.pareto import minimise, pareto_front
from scoot.coordinator.optimizer.base import Observation, Task
from scoot.coordinator.space.space import Key

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

SLACK: Final = 0.1
"""The corner of the hypervolume lies a tenth behind the default: points a little worse in one objective show the way to
those better in both."""

_WIDEST: Final = 350.0
_LARGEST_UNIT: Final = 1e150
"""Figures a model may come to are kept from overflowing."""


@dataclass(frozen=True, eq=False)
class Scale:
    """How one figure is modelled: by its logarithm where all of it has one sign, else by its inverse hyperbolic sine.

    What is far worse than most is drawn in: how bad an overloaded engine is says nothing of where a good one is, and a
    process that has to explain it is no better than a coin among the good ones.

    Attributes:
        sign: 1.0 or -1.0: what logarithms are multiplied by, so that less stays better; 0.0 is no logarithm.
        unit: of the sine: the median size of the figures.
        knee: where drawing in starts, as modelled.
        width: how fast it grows: what is the width beyond the knee counts as log(2) of it.
    """

    sign: float
    unit: float = 1.0
    knee: float = math.inf
    width: float = 1.0

    @classmethod
    def of(cls, figures: FloatArray, *, logs: bool = True, knee: bool = True, least: float = -math.inf) -> Self:
        """For some figures, minimised.

        Args:
            figures: (n,).
            logs: without logarithms figures are modelled as they are, but for their unit.
            knee: without it nothing is drawn in.
            least: up to SLACK beyond this figure nothing is drawn in.
        """
        if not logs:
            scale = cls(0.0, 1e3 * (float(np.abs(figures).max(initial=0.0)) or 1.0))
        elif len(figures) and (figures > 0).all():
            scale = cls(1.0)
        elif len(figures) and (figures < 0).all():
            scale = cls(-1.0)
        else:
            sizes = np.abs(figures[figures != 0])
            scale = cls(0.0, float(np.median(sizes)) if len(sizes) else 1.0)
        if not knee or not len(figures):
            return scale
        modelled = scale.model(figures)
        middle = float(np.median(modelled))
        width = middle - float(modelled.min())
        start = middle + width
        if math.isfinite(least):
            start = max(start, float(scale.model(np.array([least]))[0]) + SLACK)
        return replace(scale, knee=start, width=width / 2) if width > 0 else scale

    def model(self, figures: FloatArray) -> FloatArray:
        """Figures as they are modelled."""
        if self.sign:
            modelled: FloatArray = self.sign * np.log(figures * self.sign)
        else:
            modelled = np.arcsinh(figures / self.unit)
        beyond = np.maximum(modelled - self.knee, 0.0)
        return np.where(beyond > 0, self.knee + self.width * np.log1p(beyond / self.width), modelled)

    def figure(self, modelled: FloatArray) -> FloatArray:
        """The other way."""
        beyond = np.minimum(np.maximum(modelled - self.knee, 0.0) / self.width, _WIDEST)
        drawn = np.where(beyond > 0, self.knee + self.width * np.expm1(beyond), modelled)
        within = np.clip(drawn, -_WIDEST, _WIDEST)
        if not self.sign:
            sines: FloatArray = min(self.unit, _LARGEST_UNIT) * np.sinh(within)
            return sines
        figures: FloatArray = self.sign * np.exp(self.sign * within)
        return figures

    def model_noise(self, figures: FloatArray, errors: FloatArray) -> FloatArray:
        """Standard errors of modelled figures, from those of the figures."""
        plain = replace(self, knee=math.inf)
        beyond = np.maximum(plain.model(figures) - self.knee, 0.0)
        scaled: FloatArray = errors / (np.abs(figures) if self.sign else np.hypot(figures, self.unit))
        return scaled / (1 + beyond / self.width)


@dataclass(frozen=True, eq=False)
class History:
    """A task's history in arrays.

    Attributes:
        keys: configurations that are not to be proposed again.
        points: (n, d) of the unit cube, of the observations whose configuration is complete: L of them have values
            (`valued`, rows of points), others failed (`failed`), or are pending (`pending`).
        causes: of each of the failed rows, why.
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
    causes: tuple[str, ...]
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
            causes=tuple(o.reason for o in located if o.infeasible),
            values=values[at],
            noise=noise[at],
            outcomes=excess[at],
            all_values=values,
            kept=np.logical_not((excess > 0).any(axis=1)),
            reference=None if default is None else values[default],
        )

    @property
    def good(self) -> FloatArray:
        """(K, m) values that keep all limits."""
        good: FloatArray = self.all_values[self.kept]
        return good

    @property
    def corner(self) -> FloatArray:
        """(m,) values where hypervolumes end: the default's; where it has none, the worst there are, or infinity."""
        if self.reference is not None:
            return self.reference
        return self.all_values.max(axis=0) if len(self.all_values) else np.full(self.all_values.shape[1], np.inf)

    @property
    def ordered(self) -> FloatArray:
        """(L, d) points of the observations with values, the best first: of several objectives, the front's."""
        if not len(self.valued):
            return np.empty((0, self.points.shape[1]))
        excess = np.nan_to_num(np.maximum(self.outcomes, 0.0)).sum(axis=1)
        places = self.values.argsort(axis=0).argsort(axis=0).sum(axis=1)
        order = np.lexsort((places, ~pareto_front(self.values), excess))
        ordered: FloatArray = self.points[self.valued[order]]
        return ordered

    def leaders(self, most: int) -> FloatArray:
        """(k, d) points of the best observations: the front, or the best ones of one objective; at most so many."""
        if not len(self.valued):
            return np.empty((0, self.points.shape[1]))
        if self.values.shape[1] > 1:
            excess = np.nan_to_num(np.maximum(self.outcomes, 0.0)).sum(axis=1)
            most = min(most, max(1, int((pareto_front(self.values) & (excess <= excess.min())).sum())))
        return self.ordered[:most]


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
