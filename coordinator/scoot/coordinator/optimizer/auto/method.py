"""method="auto": a Gaussian process per objective, expected gain times the probability of being any use.

After the default, four points around it (design.py). Then, one suggestion after the other:

* candidates are drawn everywhere and around the best (candidates.py): real configurations, so nothing is rounded later;
* each is judged by log(expected improvement), log(expected hypervolume improvement) over the default for two
  objectives, or by one randomly weighted sum for three; plus log P(works) and log P(keeps its limits);
* pending points, and those of the same call, count as if they came out as expected;
* each third suggestion is the best so far but for one value (of a boolean, a short list) that was never seen to work,
  as long as there is one, three times at most: a crash that something else caused must not condemn a flag for good.

Objectives are modelled by their logarithms where they have one sign: latencies are heavy-tailed.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from scoot.coordinator.objective.hypervolume import hypervolume_2d
from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.objective.pareto import pareto_front
from scoot.coordinator.optimizer import sobol
from scoot.coordinator.optimizer.auto import gain as gains
from scoot.coordinator.optimizer.auto.candidates import candidates, untried, with_value
from scoot.coordinator.optimizer.auto.design import POINTS, centre_of, design
from scoot.coordinator.optimizer.auto.features import Features
from scoot.coordinator.optimizer.auto.history import History
from scoot.coordinator.optimizer.auto.model import Belief
from scoot.coordinator.optimizer.base import Suggestion, Task
from scoot.wire.spec import Config

FloatArray = npt.NDArray[np.float64]

SOURCE: Final = "auto"

_LEADERS: Final = 12
_ONE_LEADERS: Final = 4
_COVER_EACH: Final = 3
_SLACK: Final = 0.1
"""The reference of the hypervolume lies a tenth behind the default: points a little worse in one objective show the way
to those better in both."""
_WEIGHT_OF_SUM: Final = 0.05
_TWO: Final = 2
_WIDEST: Final = 350.0
"""Logarithms beyond it would overflow."""
_Z90: Final = float(ndtri(0.95))


def suggest(task: Task) -> tuple[Suggestion, ...]:
    """The next suggestions (a Method)."""
    history = History.of(task)
    taken = set(history.keys)
    found = _designed(task, taken)
    if len(found) < task.n:
        found += _modelled(task, history, taken, found)
    if len(found) < task.n:
        found += _left_over(task, taken, task.n - len(found))
    return tuple(found)


def _seed(task: Task, *more: int) -> list[int]:
    """Entropy of a call: whatever is asked for again is answered alike."""
    return [abs(task.seed), int(task.seed < 0), *more]


def _designed(task: Task, taken: set[Any]) -> list[Suggestion]:
    """What is left of the first design."""
    space = task.problem.space
    tried = sum(observation.number != 0 for observation in task.history)
    wanted = min(task.n, POINTS - tried)
    if wanted <= 0:
        return []
    default = next((observation.config for observation in task.history if observation.number == 0), {})
    found: list[Suggestion] = []
    for config in design(space, centre_of(space, default), _seed(task, POINTS)):
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


def _modelled(task: Task, history: History, taken: set[Any], before: list[Suggestion]) -> list[Suggestion]:
    """Suggestions of the model; fewer than wanted only when there are no candidates."""
    space = task.problem.space
    features = Features(space)
    belief = Belief.of(history, features.of(history.points))
    rng = np.random.default_rng(_seed(task, len(task.history), task.call))
    waiting = [*history.points[history.pending]]
    if before:
        waiting += [*space.encode([suggestion.config for suggestion in before])]
    leaders = history.leaders(_ONE_LEADERS if len(task.problem.directions) == 1 else _LEADERS)
    pool = _Pool(belief, features, *candidates(space, leaders, taken, rng))
    found: list[Suggestion] = []
    while len(before) + len(found) < task.n:
        chosen, covering = pool, False
        if len(leaders) and (len(task.history) + len(before) + len(found)) % _COVER_EACH == 0:
            others = np.vstack([history.points[history.failed], *(point[None, :] for point in waiting)])
            value = untried(space, history.points[history.valued], others)
            if value is not None:
                single = _Pool(belief, features, *with_value(space, leaders[0], value, taken, rng))
                chosen, covering = (single, True) if single.free.any() else (pool, False)
        if not chosen.free.any():
            break
        queue = features.of(np.array(waiting)) if waiting else np.empty((0, features.count))
        gain, expected = _gain(task, history, belief, chosen.x, queue, rng)
        useful = chosen.works + chosen.kept
        score = useful if gain is None else gains.log_gain(gain) + useful
        best = int(np.argmax(np.where(chosen.free, score, -np.inf)))
        chosen.free[best] = False
        config = chosen.configs[best]
        if space.key(config) in taken:
            continue
        taken.add(space.key(config))
        waiting.append(chosen.points[best])
        explanation: dict[str, Any] = {
            "design": "the best with a value never seen to work" if covering else "expected gain",
            "pof": math.exp(float(chosen.works[best])),
            **({"expected_gain": float(expected[best])} if expected is not None and not covering else {}),
            **_forecast(task, belief, chosen.x[best : best + 1]),
        }
        if gain is not None:
            explanation["acquisition"] = {"log gain": float(gains.log_gain(gain[best : best + 1])[0])}
            if task.problem.outcomes:
                explanation["acquisition"]["log P(limits kept)"] = float(chosen.kept[best])
        found.append(Suggestion(config=config, source=SOURCE, explanation=explanation))
    return found


class _Pool:
    """Candidates of a call, what is believed of them, and which of them are still free."""

    def __init__(self, belief: Belief, features: Features, configs: list[Config], points: FloatArray) -> None:
        self.configs = configs
        self.points = points
        self.x = features.of(points)
        self.works = belief.log_feasible(self.x)
        self.kept = belief.log_kept(self.x)
        self.free = np.ones(len(configs), np.bool_)


def _gain(
    task: Task, history: History, belief: Belief, x: FloatArray, queue: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray | None, FloatArray | None]:
    """(N,) expected gain of each candidate, and the same relative to what there is; None where nothing is known."""
    if not belief.objectives or not len(history.good):
        return None, None
    m = len(task.problem.directions)
    scales = belief.scales
    good = np.column_stack([scale.model(column) for scale, column in zip(scales, history.good.T, strict=True)])
    believing = [model.believing(queue) for model in belief.objectives]
    predicted = [model.predict(x) for model in believing]
    mean = np.column_stack([each for each, _ in predicted])
    deviation = np.column_stack([each for _, each in predicted])
    if len(queue):
        hoped = np.column_stack([model.predict(queue)[0] for model in belief.objectives])
        good = np.vstack([good, hoped])
    if m == 1:
        gain = gains.expected_shortfall(mean[:, 0], deviation[:, 0], float(good.min()))
        return gain, gain * _factor(belief, x) if scales[0].sign else None
    if m == _TWO:
        return _hypervolume(history, belief, mean, deviation, good, x)
    weights = rng.dirichlet(np.ones(m))
    centre, spread = good.mean(axis=0), good.std(axis=0) + 1e-12
    scores = gains.weighted((good - centre) / spread, weights, _WEIGHT_OF_SUM)
    low = gains.weighted((mean - centre) / spread, weights, _WEIGHT_OF_SUM)
    error = np.sqrt(((weights * deviation / spread) ** 2).sum(axis=1))
    return gains.expected_shortfall(low, error, float(scores.min())), None


def _hypervolume(
    history: History,
    belief: Belief,
    mean: FloatArray,
    deviation: FloatArray,
    good: FloatArray,
    x: FloatArray,
) -> tuple[FloatArray, FloatArray | None]:
    reference = history.all_values.max(axis=0) if history.reference is None else history.reference
    linear = all(scale.sign > 0 for scale in belief.scales)
    if linear:
        # In units of the reference, so that nothing overflows.
        level = np.log(reference)
        mean, good = mean - level, good - level
        front, corner = np.exp(np.clip(good, -_WIDEST, _WIDEST)), np.full(2, 1 + _SLACK)
        shortfall: gains.Shortfall = gains.expected_log_shortfall
    else:
        corner = np.array(
            [float(scale.model(np.array([each]))[0]) for scale, each in zip(belief.scales, reference, strict=True)]
        )
        front, corner = good, corner + _SLACK
        shortfall = gains.expected_shortfall
    front = front[pareto_front(front)]
    gain = gains.expected_hypervolume_gain(mean, deviation, front, corner, shortfall)
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
