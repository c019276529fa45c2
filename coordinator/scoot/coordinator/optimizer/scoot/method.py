"""`method="scoot"`: Bayesian optimisation as the paper states it (SCOOT, section 4 and Algorithm 1).

After the default come d Sobol points, d the number of parameters, counted as they are suggested, so that crashes do not
lengthen that phase. From then on: Gaussian processes for the objectives, a random forest for hidden constraints, MACE
for one objective and the expected hypervolume improvement for two, NSGA-II as the solver; Sobol points fill up where it
finds fewer than asked. The models learn from finished trials only; pending ones are just not suggested again.

What the paper leaves open: objectives are standardised, nothing else; t counts finished trials by the number asked for
at a time; a broken limit of an outcome is a broken hidden constraint.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import numpy as np

from scoot.coordinator.objective.hypervolume import hypervolume_2d
from scoot.coordinator.objective.pareto import FloatArray, minimise
from scoot.coordinator.optimizer import sobol
from scoot.coordinator.optimizer.base import Observation, Suggestion, Task
from scoot.coordinator.optimizer.improvement import expected_hypervolume_improvement
from scoot.coordinator.optimizer.registry import check_method
from scoot.coordinator.optimizer.scoot import mace
from scoot.coordinator.optimizer.scoot.feasibility import Forest
from scoot.coordinator.optimizer.scoot.features import Features
from scoot.coordinator.optimizer.scoot.record import DEFAULT, Record, record_of
from scoot.coordinator.optimizer.scoot.solve import Candidates, Scores, solve
from scoot.coordinator.optimizer.scoot.surrogate import Surrogate
from scoot.coordinator.optimizer.scoot.threshold import threshold

SOURCE: Final = "scoot"

_STARTS: Final = 10
_NINETY: Final = 1.6448536269514722
"""Deviations from the mean that leave 5 % beyond."""


def suggest(task: Task, *, forest: bool = True) -> tuple[Suggestion, ...]:
    """The next `task.n` suggestions (a Method).

    Args:
        task: the call.
        forest: whether the probability of feasibility constrains the solver. Without, which is the ablation of the
            paper's Figure 14, all that is learnt from a failure is not to repeat it.

    Raises:
        UserError: more than two objectives.
    """
    problem = task.problem
    check_method(SOURCE, objectives=len(problem.directions))
    planned = len(problem.space.axes) - sum(observation.number != DEFAULT for observation in task.history)
    found = _sobol(task, min(task.n, max(planned, 0)), "Sobol design")
    if len(found) < task.n:
        record = record_of(problem, task.history)
        if len(record.units):
            found += _Model(task, record, forest=forest).suggestions(task.n - len(found), found)
    if len(found) < task.n:
        found += _sobol(task, task.n - len(found), "Sobol fill-up", found)
    return tuple(found)


def _sobol(task: Task, n: int, design: str, found: list[Suggestion] | None = None) -> list[Suggestion]:
    """`n` Sobol points that are neither in the history nor among those found."""
    if n == 0:
        return []
    extra = [Observation(number=-1, config=suggestion.config, pending=True) for suggestion in found or ()]
    widened = Task(problem=task.problem, history=(*task.history, *extra), n=n, call=task.call, seed=task.seed)
    return [
        msgspec.structs.replace(suggestion, source=SOURCE, explanation={**suggestion.explanation, "design": design})
        for suggestion in sobol.suggest(widened)
    ]


class _Model:
    """Everything fitted for one call.

    Args:
        task: the call.
        record: of its history; something was measured.
        forest: whether to model feasibility.
    """

    def __init__(self, task: Task, record: Record, *, forest: bool) -> None:
        self._task = task
        self._space = task.problem.space
        self._record = record
        self._features = Features(self._space)
        self._rng = np.random.default_rng([abs(task.seed), int(task.seed < 0), len(task.history), task.call])
        self._surrogate = Surrogate(self._features.of(record.units), record.gains, self._features.warped)
        self._forest = None
        if forest and not record.feasible.all():
            self._forest = Forest(self._features.of(record.tried), record.feasible, int(self._rng.integers(1 << 31)))
        self._threshold = threshold(record.verdicts)
        reached = record.reached if len(record.reached) else record.gains.min(axis=0, keepdims=True)
        self._reached = self._surrogate.standard(reached)
        reference = record.reference if record.reference is not None else reached[0]
        self._reference = self._surrogate.standard(reference)
        self._single = len(task.problem.directions) == 1
        self._beta = mace.beta(max(1, record.finished // task.n), len(self._space.axes))

    def suggestions(self, n: int, taken: list[Suggestion]) -> list[Suggestion]:
        """Up to `n`, none of the history or `taken`."""
        best = self._record.units[np.argsort(-self._surrogate.standard(self._record.gains).sum(axis=1), kind="stable")]
        found = solve(self._space, self._scores, self._threshold, best[:_STARTS], self._rng)
        configs = [self._space.default_config(), *(observation.config for observation in self._task.history)]
        seen = {self._space.key(config) for config in (*configs, *(suggestion.config for suggestion in taken))}
        gain = self._expected_gain(found)
        chosen: list[Suggestion] = []
        for place in self._preferred(found):
            if len(chosen) == n:
                break
            config = self._space.decode(found.units[[place]])[0]
            key = self._space.key(config)
            if key not in seen:
                seen.add(key)
                explanation = self._explanation(found, place) | ({} if gain is None else {"expected_gain": gain})
                chosen.append(Suggestion(config=config, source=SOURCE, explanation=explanation))
        return chosen

    def _scores(self, units: FloatArray) -> Scores:
        """Acquisition values and probability of feasibility of (N, d) points."""
        features = self._features.of(units)
        mean, deviation = self._surrogate.predict(features)
        feasibility = np.ones(len(units)) if self._forest is None else self._forest.probability(features)
        if self._single:
            best = float(self._reached.max())
            merits = np.stack(
                [
                    mace.upper_confidence_bound(mean[:, 0], deviation[:, 0], self._beta),
                    mace.probability_of_improvement(mean[:, 0], deviation[:, 0], best),
                    mace.expected_improvement(mean[:, 0], deviation[:, 0], best),
                ],
                axis=1,
            )
        else:
            merits = expected_hypervolume_improvement(-mean, deviation, -self._reached, -self._reference)[:, None]
        return Scores(merits=merits, feasibility=feasibility)

    def _preferred(self, found: Candidates) -> Iterator[int]:
        """Places in the order in which they are taken: MACE draws from the front at random, EHVI takes the largest.

        Behind the front come the fronts of the rest, for what was suggested before.
        """
        if self._single:
            for rank in found.ranks():
                yield from self._rng.permutation(rank).tolist()
        else:
            yield from np.argsort(-found.scores.merits[:, 0], kind="stable").tolist()

    def _expected_gain(self, found: Candidates) -> float | None:
        """The largest expected improvement as a share of the best, or of the front's hypervolume; None if that is 0."""
        if not len(found.units):
            return None
        if self._single:
            improvement = float(found.scores.merits[:, 2].max() * self._surrogate.spread[0])
            present = float(np.abs(self._record.reached.max())) if len(self._record.reached) else 0.0
        else:
            improvement = float(found.scores.merits[:, 0].max())
            present = hypervolume_2d(-self._reached, -self._reference)
        return improvement / present if present > 0 else None

    def _explanation(self, found: Candidates, place: int) -> dict[str, Any]:
        """Why a candidate was taken, in the metrics' own units and senses."""
        mean, deviation = self._surrogate.predict(self._features.of(found.units[[place]]))
        half = _NINETY * deviation[0]
        predicted = {}
        ends = {"mean": mean[0], "low": mean[0] - half, "high": mean[0] + half}
        own = {name: -minimise(self._own(gains), self._task.problem.directions) for name, gains in ends.items()}
        for objective in range(len(half)):
            figures = {name: float(values[objective]) for name, values in own.items()}
            low, high = sorted((figures["low"], figures["high"]))
            predicted[str(objective)] = {"mean": figures["mean"], "low": low, "high": high}
        return {
            "design": "MACE" if self._single else "EHVI",
            "predicted": predicted,
            "pof": float(found.scores.feasibility[place]),
            "pof_threshold": self._threshold,
            "acquisition": self._acquisition(found.scores.merits[place]),
        }

    def _own(self, gains: FloatArray) -> FloatArray:
        """Standardised gains -> gains."""
        return self._surrogate.centre + self._surrogate.spread * gains

    def _acquisition(self, merits: FloatArray) -> dict[str, float]:
        """Values by name: the bound and the improvements in the metrics' own units, PI as a probability."""
        spread = self._surrogate.spread
        if not self._single:
            return {"ehvi": float(merits[0] * spread.prod())}
        bound = float(-minimise(self._own(merits[:1]), self._task.problem.directions)[0])
        return {
            "ucb": bound,
            "pi": float(merits[1]),
            "ei": float(merits[2] * spread[0]),
            "beta": self._beta,
        }
