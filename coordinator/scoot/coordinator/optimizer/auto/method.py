"""method="auto": a Gaussian process per objective, expected gain times the probability of being any use.

After the default, four points around it (design.py). Then, one suggestion after the other:

* candidates are drawn everywhere, around the best, and as mixtures of good points (candidates.py): real configurations,
  so nothing is rounded later; the best of them are looked around twice;
* each is judged by log(expected improvement), log(expected hypervolume improvement) over the default for two
  objectives, or by one randomly weighted sum for three; plus log P(works) and log P(keeps its limits);
* pending points, and those of the same call, count as if they came out as expected;
* each second suggestion is the best so far but for one value (of a boolean, a short list) that was never seen to work,
  as long as there is one, three times at most: a crash that something else caused must not condemn a flag for good;
* half of the calls model what parameters do together only, the others also what each does by itself (surrogate.py);
* of one objective, what is far from all good points must promise more, ever less so as observations come in;
* each third suggestion takes the model for half as sure as it says it is, or it would never leave a good valley.

Objectives are modelled by their logarithms where they have one sign: latencies are heavy-tailed. What each part is
worth is in docs/optimizer.md; parts.py lists those that can be left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from scoot.coordinator.objective.hypervolume import hypervolume_2d
from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.optimizer import sobol
from scoot.coordinator.optimizer.auto import gain as gains
from scoot.coordinator.optimizer.auto.candidates import (
    around,
    candidates,
    distance,
    distinct,
    niches,
    untried,
    with_value,
)
from scoot.coordinator.optimizer.auto.design import POINTS, centre_of, design
from scoot.coordinator.optimizer.auto.features import Features
from scoot.coordinator.optimizer.auto.history import History
from scoot.coordinator.optimizer.auto.model import Belief
from scoot.coordinator.optimizer.auto.parts import ALL, Parts
from scoot.coordinator.optimizer.auto.warp import Warp
from scoot.coordinator.optimizer.base import Suggestion, Task
from scoot.coordinator.optimizer.improvement import (
    Shortfall,
    expected_hypervolume_improvement,
    expected_shortfall,
)

FloatArray = npt.NDArray[np.float64]

SOURCE: Final = "auto"

_LEADERS: Final = 12
_ONE_LEADERS: Final = 4
_COVER_EACH: Final = 2
_TOGETHER: Final = 2
_TOGETHER_EACH: Final = 4
"""So many of so many calls model what parameters do together only: neither model is right on every service."""
_DOUBT: Final = 2.0
_DOUBT_EACH: Final = 3
"""Each so many suggestions count standard deviations so many times: the model is surer than it should be."""
_KEPT: Final = 400
"""Candidates, the best, that further suggestions of the same call are taken from."""
_REFINEMENTS: Final = 2
_REFINED: Final = 6
_REFINEMENT: Final = 240
"""The best candidates are looked around twice."""
_SLACK: Final = 0.1
"""The corner of the hypervolume lies a tenth behind the default: points a little worse in one objective show the way to
those better in both."""
_CLOSE: Final = 60.0
"""With n observations, log gains fall by so many n-ths of the distance from what is good: models are fooled by corners
of the space. Of one objective only: a front lies far from the default, and is found later that way.
"""
_WEIGHT_OF_SUM: Final = 0.05
_TWO: Final = 2
_WIDEST: Final = 350.0
"""Logarithms beyond it would overflow."""
_Z90: Final = float(ndtri(0.95))


def suggest(task: Task, *, parts: Parts = ALL) -> tuple[Suggestion, ...]:
    """The next suggestions (a Method). Without some of its `parts` it shows what they are worth."""
    history = History.of(task)
    taken = set(history.keys)
    found = _designed(task, history, taken, parts)
    if len(found) < task.n and not history.is_blank:
        found += _modelled(task, history, taken, found, parts)
    if len(found) < task.n:
        found += _left_over(task, taken, task.n - len(found))
    return tuple(found)


def _seed(task: Task, *more: int) -> list[int]:
    """Entropy of a call: whatever is asked for again is answered alike."""
    return [abs(task.seed), int(task.seed < 0), *more]


def _designed(task: Task, history: History, taken: set[Any], parts: Parts) -> list[Suggestion]:
    """What is left of the first design."""
    space = task.problem.space
    tried = sum(observation.number != 0 for observation in task.history)
    # many at once, when there is nothing to model, are as many around the default
    wanted = task.n if history.is_blank else min(task.n, POINTS - tried)
    if wanted <= 0:
        return []
    if not parts.around:
        return _left_over(task, taken, wanted)
    default = next((observation.config for observation in task.history if observation.number == 0), {})
    found: list[Suggestion] = []
    for config in design(Warp(space, identity=not parts.warp), centre_of(space, default), _seed(task, POINTS)):
        key = space.key(config)
        if len(found) < wanted and key not in taken:
            taken.add(key)
            found.append(Suggestion(config=config, source=SOURCE, explanation={"design": "around the default"}))
    return found


def _left_over(task: Task, taken: set[Any], wanted: int) -> list[Suggestion]:
    """Sobol points, where nothing else is left to be proposed."""
    space = task.problem.space
    more = Task(problem=task.problem, history=task.history, n=len(taken) + wanted, call=task.call, seed=task.seed)
    found: list[Suggestion] = []
    for suggestion in sobol.suggest(more):
        key = space.key(suggestion.config)
        if len(found) < wanted and key not in taken:
            taken.add(key)
            found.append(suggestion)
    return found


def _modelled(
    task: Task, history: History, taken: set[Any], before: list[Suggestion], parts: Parts
) -> list[Suggestion]:
    """Suggestions of the model; fewer than wanted only when there are no candidates."""
    search = _Search(task, history, taken, before, parts)
    found: list[Suggestion] = []
    while len(before) + len(found) < task.n:
        turn = len(task.history) + len(before) + len(found)
        suggestion = search.covering() if parts.cover and turn % _COVER_EACH == 0 else None
        if suggestion is None:
            suggestion = search.gaining(_DOUBT if parts.doubt and turn % _DOUBT_EACH == 0 else 1.0)
        if suggestion is None:
            break
        found.append(suggestion)
    return found


class _Search:
    """What one call knows, and finds."""

    def __init__(self, task: Task, history: History, taken: set[Any], before: list[Suggestion], parts: Parts) -> None:
        self.task = task
        self.space = task.problem.space
        self.history = history
        self.taken = taken
        self.parts = parts
        self.warp = Warp(self.space, identity=not parts.warp)
        self.features = Features(self.space, self.warp)
        turn = len(task.history) + len(before)
        alone = parts.alone and not (parts.both and turn % _TOGETHER_EACH < _TOGETHER)
        self.belief = Belief.of(history, self.features.of(history.points), parts, alone=alone)
        self.rng = np.random.default_rng(_seed(task, len(task.history), task.call))
        self.waiting = np.vstack(
            [history.points[history.pending], self.space.encode([suggestion.config for suggestion in before])]
        )
        self.leaders = history.leaders(_ONE_LEADERS if len(task.problem.directions) == 1 else _LEADERS)
        default = next((observation.config for observation in task.history if observation.number == 0), {})
        self.working = np.vstack([centre_of(self.space, default)[None, :], history.points[history.valued]])
        self.points: FloatArray | None = None

    def gaining(self, doubt: float) -> Suggestion | None:
        """The candidate with the largest expected gain; None where nothing is left.

        Args:
            doubt: standard deviations count so many times.
        """
        weights = self.rng.dirichlet(np.ones(len(self.task.problem.directions)))
        if self.points is None:
            working = self.working if self.parts.mixed else self.working[:0]
            pool = self._judged(candidates(self.warp, self._centres, working, self.rng), doubt, weights)
            for _ in range(_REFINEMENTS if self.parts.refined else 0):
                top = pool.points[np.argsort(-pool.score, kind="stable")[:_REFINED]]
                more = distinct(self.space, around(self.warp, top, _REFINEMENT, self.rng))
                pool = pool.with_more(self._judged(more, doubt, weights))
            most = max(_KEPT, 2 * self.task.n)
            self.points = pool.points[np.argsort(-pool.score, kind="stable")[:most]]
        else:
            pool = self._judged(self.points, doubt, weights)
        for best in np.argsort(-pool.score, kind="stable").tolist():
            if self.space.key(self.space.decode(pool.points[best : best + 1])[0]) not in self.taken:
                # what is hoped for with doubt is no forecast: studies stop by it
                sure = self._judged(pool.points[best : best + 1], 1.0, weights).expected
                expected = {} if sure is None else {"expected_gain": float(sure[0])}
                return self._suggested(pool, best, {"design": "expected gain", **expected})
        return None

    def covering(self) -> Suggestion | None:
        """A configuration with a value never seen to work; None where all were, or given up.

        First it is the best so far that gets it; if that crashed, it is the default, as what crashed may have been
        another value beside it; then whichever of the good ones is the likeliest to work.
        """
        history = self.history
        others = np.vstack([history.points[history.failed], self.waiting])
        value = untried(self.space, history.points[history.valued], others) if len(self.leaders) else None
        if value is None:
            return None
        bases = self.leaders[:1]
        if value.tried == 1:
            bases = self.working[:1]
        elif value.tried > 1:
            bases = np.vstack([self.working[:1], self._centres])
        points = np.vstack([with_value(self.warp, base, value, self.taken, self.rng) for base in bases])
        if not len(points):
            return None
        pool = self._judged(points, 1.0, np.full(len(self.task.problem.directions), 1.0))
        best = int(np.argmax(pool.works if value.tried else pool.score))
        return self._suggested(pool, best, {"design": "a value never seen to work"})

    @cached_property
    def _centres(self) -> FloatArray:
        """(k, d) points to look around."""
        if not self.parts.niches or not len(self.leaders):
            return self.leaders
        centres: FloatArray = np.unique(np.vstack([self.leaders, niches(self.space, self.history.ordered)]), axis=0)
        return centres

    def _judged(self, points: FloatArray, doubt: float, weights: FloatArray) -> _Pool:
        """Candidates, as they look now."""
        x, queue = self.features.of(points), self.features.of(self.waiting)
        gain, expected = _gain(self.history, self.belief, x, queue, doubt, weights)
        works, kept = self.belief.log_feasible(x), self.belief.log_kept(x)
        score = works + kept if gain is None else gains.log_gain(gain) + works + kept
        if self.parts.close and len(self.leaders) and len(self.task.problem.directions) == 1:
            score -= _CLOSE / len(self.history.points) * distance(self.warp, points, self._centres)
        return _Pool(points, x, works, kept, score, gain, expected)

    def _suggested(self, pool: _Pool, best: int, why: dict[str, Any]) -> Suggestion:
        """That one, which is taken from now on."""
        config = self.space.decode(pool.points[best : best + 1])[0]
        self.taken.add(self.space.key(config))
        self.waiting = np.vstack([self.waiting, pool.points[best]])
        explanation: dict[str, Any] = {
            **why,
            "pof": math.exp(float(pool.works[best])),
            **_forecast(self.task, self.belief, pool.x[best : best + 1]),
        }
        if pool.gain is not None:
            explanation["acquisition"] = {"log gain": float(gains.log_gain(pool.gain[best : best + 1])[0])}
            if self.task.problem.outcomes:
                explanation["acquisition"]["log P(limits kept)"] = float(pool.kept[best])
        return Suggestion(config=config, source=SOURCE, explanation=explanation)


@dataclass(frozen=True, eq=False)
class _Pool:
    """Candidates, and what is believed of them.

    Attributes:
        points: (N, d).
        x: (N, d') features.
        works, kept: (N,) logarithms of the probabilities that they work, and keep all limits.
        score: (N,) the best is largest.
        gain, expected: (N,) expected gains, and the same relative to what there is; None where nothing is known.
    """

    points: FloatArray
    x: FloatArray
    works: FloatArray
    kept: FloatArray
    score: FloatArray
    gain: FloatArray | None
    expected: FloatArray | None

    def with_more(self, other: _Pool) -> _Pool:
        """Both, judged alike."""
        return _Pool(
            np.vstack([self.points, other.points]),
            np.vstack([self.x, other.x]),
            np.concatenate([self.works, other.works]),
            np.concatenate([self.kept, other.kept]),
            np.concatenate([self.score, other.score]),
            _joined(self.gain, other.gain),
            _joined(self.expected, other.expected),
        )


def _joined(first: FloatArray | None, second: FloatArray | None) -> FloatArray | None:
    return None if first is None or second is None else np.concatenate([first, second])


def _gain(
    history: History, belief: Belief, x: FloatArray, queue: FloatArray, doubt: float, weights: FloatArray
) -> tuple[FloatArray | None, FloatArray | None]:
    """(N,) expected gain of each candidate, and the same relative to what there is; None where nothing is known."""
    if not belief.objectives or not len(history.good):
        return None, None
    m = len(weights)
    scales = belief.scales
    good = np.column_stack([scale.model(column) for scale, column in zip(scales, history.good.T, strict=True)])
    believing = [model.believing(queue) for model in belief.objectives]
    predicted = [model.predict(x) for model in believing]
    mean = np.column_stack([each for each, _ in predicted])
    deviation = doubt * np.column_stack([each for _, each in predicted])
    if len(queue):
        hoped = np.column_stack([model.predict(queue)[0] for model in belief.objectives])
        good = np.vstack([good, hoped])
    if m == 1:
        gain = expected_shortfall(mean[:, 0], deviation[:, 0], float(good.min()))
        return gain, gain * _factor(belief, x) if scales[0].sign else None
    if m == _TWO:
        return _hypervolume(history, belief, mean, deviation, good, x)
    centre, spread = good.mean(axis=0), good.std(axis=0) + 1e-12
    scores = gains.weighted((good - centre) / spread, weights, _WEIGHT_OF_SUM)
    low = gains.weighted((mean - centre) / spread, weights, _WEIGHT_OF_SUM)
    error = np.sqrt(((weights * deviation / spread) ** 2).sum(axis=1))
    return expected_shortfall(low, error, float(scores.min())), None


def _hypervolume(
    history: History,
    belief: Belief,
    mean: FloatArray,
    deviation: FloatArray,
    good: FloatArray,
    x: FloatArray,
) -> tuple[FloatArray, FloatArray | None]:
    reference = history.corner
    linear = all(scale.sign > 0 for scale in belief.scales)
    if linear:
        # In units of the reference, so that nothing overflows.
        level = np.log(reference)
        mean, good = mean - level, good - level
        front, corner = np.exp(np.clip(good, -_WIDEST, _WIDEST)), np.full(2, 1 + _SLACK)
        shortfall: Shortfall = gains.expected_log_shortfall
    else:
        corner = np.array(
            [float(scale.model(np.array([each]))[0]) for scale, each in zip(belief.scales, reference, strict=True)]
        )
        front, corner = good, corner + _SLACK
        shortfall = expected_shortfall
    gain = expected_hypervolume_improvement(mean, deviation, front, corner, shortfall)
    there = hypervolume_2d(front, corner)
    return gain, gain * _factor(belief, x) / there if there > 0 else None


def _factor(belief: Belief, x: FloatArray) -> FloatArray:
    """(N,) probability that a gain can be had at all."""
    factor: FloatArray = np.exp(belief.log_feasible(x) + belief.log_kept(x))
    return factor


def _forecast(task: Task, belief: Belief, x: FloatArray) -> dict[str, Any]:
    """Predicted objectives with 90 % intervals, in their own units and senses."""
    out: dict[str, Any] = {}
    for place, (scale, model, direction) in enumerate(
        zip(belief.scales, belief.objectives, task.problem.directions, strict=False)
    ):
        mean, deviation = model.predict(x)
        ends = [scale.figure(mean + step * deviation) for step in (-_Z90, 0.0, _Z90)]
        figures = sorted(float(-end[0] if direction is Direction.MAXIMISE else end[0]) for end in ends)
        out[str(place)] = {"low": figures[0], "mean": figures[1], "high": figures[2]}
    return {"predicted": out} if out else {}
