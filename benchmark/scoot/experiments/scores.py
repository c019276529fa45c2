"""How good runs were. Pure.

The quality of what was found after k trials is the share of the improvement that there is: the hypervolume over the
anchor, which is the default configuration, of what satisfies everything, divided by that of a near-optimal front. With
one objective that is linear in the objective, and 1 - quality is the regret: 0 near-optimal, 1 as the default. Where a
default is overloaded everything is nearly as good on that scale; `logarithmic` scores tell ratios apart instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from scipy.stats import binomtest

from scoot.coordinator.objective.hypervolume import hypervolume
from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.objective.outcome import Outcome, violation
from scoot.coordinator.objective.pareto import FloatArray, minimise, pareto_front
from scoot.coordinator.optimizer.base import Problem
from scoot.experiments.evaluation import Evaluated
from scoot.experiments.run import Run

LITTLE: Final = 0.05
"""A service whose near-optimal front improves on the default by less, in geometric mean over the objectives, has too
little to tune: it is listed, and left out of the means."""

_SAME: Final = 1e-9
_LEAST: Final = 1e-12


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a service.

    Attributes:
        service: its name.
        tried, failed: configurations tried, and those of them that failed.
        broken: configurations that ran and broke a limit.
        default: its objective values; None where it failed or broke a limit.
        anchor: what scores 0, the default; where that is none, per objective the median of what was found at random.
        front: near-optimal values, each of as many objectives, in the metrics' own senses.
    """

    service: str
    tried: int
    failed: int
    broken: int
    default: tuple[float, ...] | None
    anchor: tuple[float, ...] | None
    front: tuple[tuple[float, ...], ...]


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """How good a run was.

    Attributes:
        quality: after 1, 2, ... trials, in the order in which they ended; 0 to 1, more only where the run beats the
            reference. It is carried on to the budget where the run ended early.
        wasted: trials that failed.
        broken: trials that ran and broke a limit.
        cpu_s: CPU seconds of each suggestion, in the order of trials; those of a given design left out.
        total_s: virtual seconds of the run.
    """

    quality: tuple[float, ...]
    wasted: int
    broken: int
    cpu_s: tuple[float, ...]
    total_s: float


def keeps(trial: Evaluated, outcomes: Sequence[Outcome]) -> bool:
    """Whether a trial succeeded and kept every limit."""
    return trial.values is not None and violation(outcomes, trial.outcomes or ()) == 0


def reference_of(
    service: str, problem: Problem, trials: Sequence[Evaluated], *, default: Evaluated, random: Sequence[Evaluated]
) -> Reference:
    """What is known of a service after some trials.

    Args:
        service: its name.
        problem: its problem.
        trials: everything that was ever tried.
        default: the default's trial.
        random: of a random sample of configurations, for the anchor of a default that does not run.
    """
    good = [trial.values for trial in trials if keeps(trial, problem.outcomes) and trial.values is not None]
    points = minimise(good, problem.directions)
    front = np.unique(points[pareto_front(points)], axis=0)
    anchor = default.values if keeps(default, problem.outcomes) else None
    drawn = [trial.values for trial in random if keeps(trial, problem.outcomes) and trial.values is not None]
    if anchor is None and (drawn or good):
        anchor = tuple(np.median(np.array(drawn or good), axis=0).tolist())
    failed = sum(trial.failed for trial in trials)
    return Reference(
        service=service,
        tried=len(trials),
        failed=failed,
        broken=len(trials) - failed - len(good),
        default=default.values if keeps(default, problem.outcomes) else None,
        anchor=anchor,
        front=tuple(map(tuple, minimise(front, problem.directions).tolist())),
    )


def relative(values: Sequence[float], before: Sequence[float], directions: Sequence[Direction]) -> tuple[float, ...]:
    """By what share of the former value each objective is better: 0.2 is a fifth, less than 0 is worse."""
    return tuple(
        (now / then - 1) if direction is Direction.MAXIMISE else (1 - now / then)
        for now, then, direction in zip(values, before, directions, strict=True)
    )


def improvement(reference: Reference, problem: Problem) -> float:
    """By how much the near-optimal front beats the anchor: the m-th root of the product of relative improvements."""
    if reference.anchor is None:
        return 0.0
    scale = np.abs(np.asarray(reference.anchor, dtype=np.float64))
    points = minimise(reference.front, problem.directions) / scale
    share = hypervolume(points, minimise(reference.anchor, problem.directions) / scale)
    return float(share ** (1 / len(scale)))


def tunable(reference: Reference, problem: Problem) -> bool:
    """Whether there is something to tune."""
    return improvement(reference, problem) >= LITTLE


def score(run: Run, problem: Problem, reference: Reference, *, logarithmic: bool = False) -> Score:
    """How good a run was.

    Args:
        run: finished.
        problem, reference: of its service.
        logarithmic: hypervolumes are of the logarithms of the objectives, which are above 0.

    Raises:
        ValueError: the reference has no front: nothing ever ran.
    """
    if reference.anchor is None:
        raise ValueError(f"no configuration of {reference.service} runs")

    def turned(values: Sequence[float] | Sequence[Sequence[float]]) -> FloatArray:
        array = np.asarray(values, dtype=np.float64)
        return minimise(np.log(np.maximum(array, _LEAST)) if logarithmic else array, problem.directions)

    corner = turned(reference.anchor)
    best = hypervolume(turned(reference.front), corner)
    ordered = sorted(run.steps, key=lambda step: (step.ended_s, step.number))
    found: list[FloatArray] = []
    quality: list[float] = []
    for step in ordered:
        trial = step.trial
        if trial.values is not None and keeps(trial, problem.outcomes):
            found.append(turned(trial.values))
            quality.append(hypervolume(np.array(found), corner) / best if best > 0 else 1.0)
        else:
            quality.append(quality[-1] if quality else 0.0)
    quality += [quality[-1] if quality else 0.0] * (run.spec.budget - len(quality))
    wasted = sum(step.trial.failed for step in run.steps)
    return Score(
        quality=tuple(quality),
        wasted=wasted,
        broken=sum(not keeps(step.trial, problem.outcomes) for step in run.steps) - wasted,
        cpu_s=tuple(step.cpu_s for step in run.steps if step.source not in {"default", "design"}),
        total_s=run.total_s,
    )


class Duel(msgspec.Struct, frozen=True, kw_only=True):
    """Two methods on the same services and seeds.

    Attributes:
        wins, losses, ties: of the first.
        p: of a two-sided sign test; ties do not count.
    """

    wins: int
    losses: int
    ties: int
    p: float


def duel(first: Sequence[float], second: Sequence[float]) -> Duel:
    """Compare paired qualities; more is better."""
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    wins, losses = int((differences > _SAME).sum()), int((differences < -_SAME).sum())
    p = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return Duel(wins=wins, losses=losses, ties=len(differences) - wins - losses, p=p)


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Runs of one method, over services and seeds.

    Attributes:
        runs: how many.
        quality: mean after 1, 2, ... trials.
        p10, worst: of the quality at the end.
        wasted, broken: mean per run.
        cpu_s: mean CPU seconds of the last five suggestions of each run.
        total_s: mean virtual seconds.
    """

    runs: int
    quality: tuple[float, ...]
    p10: float
    worst: float
    wasted: float
    broken: float
    cpu_s: float
    total_s: float

    def at(self, trials: int) -> float:
        """Mean quality after so many trials."""
        return self.quality[min(trials, len(self.quality)) - 1]


_LAST: Final = 5


def summarise(scores: Sequence[Score]) -> Summary:
    """Of at least one run, all of one budget."""
    curves = np.array([each.quality for each in scores])
    last = [cpu_s for each in scores for cpu_s in each.cpu_s[-_LAST:]]
    return Summary(
        runs=len(scores),
        quality=tuple(curves.mean(axis=0).tolist()),
        p10=float(np.percentile(curves[:, -1], 10)),
        worst=float(curves[:, -1].min()),
        wasted=float(np.mean([each.wasted for each in scores])),
        broken=float(np.mean([each.broken for each in scores])),
        cpu_s=float(np.mean(last)) if last else 0.0,
        total_s=float(np.mean([each.total_s for each in scores])),
    )


def reaches(summary: Summary, quality: float) -> int | None:
    """The first number of trials after which the mean quality is as good; None if it never is."""
    return next((place + 1 for place, mean in enumerate(summary.quality) if mean >= quality - _SAME), None)


def paired(scores: Mapping[str, Mapping[tuple[str, int], Score]]) -> tuple[tuple[str, int], ...]:
    """The (service, seed) pairs that every method has, in order.

    Args:
        scores: method -> (service, seed) -> its score.
    """
    if not scores:
        return ()
    common = set.intersection(*(set(each) for each in scores.values()))
    return tuple(sorted(common))
