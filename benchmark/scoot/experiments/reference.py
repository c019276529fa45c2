"""Near-optimal references: a search of each service that no method could afford. Its trials go into the memo. IO.

Sobol points, then rounds of an evolution strategy around the best so far. Whatever runs tried is in the memo too, so a
reference is at least as good as the best run that used the same cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from scoot.coordinator.objective.best import best_trial
from scoot.coordinator.objective.pareto import minimise, pareto_front
from scoot.coordinator.optimizer import sobol
from scoot.coordinator.optimizer.base import Problem, Task
from scoot.experiments.catalogue import default_of
from scoot.experiments.compare import site
from scoot.experiments.evaluation import Evaluate
from scoot.experiments.memo import Remembered
from scoot.experiments.scores import Reference, keeps, reference_of
from scoot.experiments.table import Known
from scoot.wire.spec import Config

SEED: Final = 1_000_003
"""Of the search; runs have other ones."""

RANDOM: Final = 200
"""Sobol points whose results describe a service, and anchor it where its default does not run."""

_ELITE: Final = 8
_CHILDREN: Final = 8
_SPREADS: Final = (0.01, 0.05, 0.2)


def sample(problem: Problem, size: int) -> tuple[Config, ...]:
    """The first so many points of the search."""
    task = Task(problem=problem, history=(), n=size, call=0, seed=SEED)
    return tuple(suggestion.config for suggestion in sobol.suggest(task))


def search(cache: str, service: str, *, points: int, rounds: int) -> str:
    """Fill the memo of a service; a line about it.

    Args:
        cache: folder of the memo.
        service: name.
        points: Sobol points.
        rounds: of the evolution strategy, _ELITE x _CHILDREN trials each.
    """
    problem, memo = site(cache, service)
    before = memo.simulated
    memo(default_of(memo.service))
    for config in sample(problem, points):
        memo(config)
    for number in range(rounds):
        _evolve(problem, memo, memo.everything(), np.random.default_rng([SEED, number]))
    return f"{service}: {len(memo.everything())} configurations known, {memo.simulated - before} of them new"


def _evolve(problem: Problem, evaluate: Evaluate, known: Sequence[Remembered], rng: np.random.Generator) -> None:
    """One round: children of the best, each with one to three coordinates moved."""
    space = problem.space
    parents = _elite(problem, known)
    if not parents:
        return
    units = np.repeat(space.encode(parents), _CHILDREN, axis=0)
    for row in units:
        places = rng.permutation(units.shape[1])[: rng.integers(1, 4)]
        spread = _SPREADS[rng.integers(len(_SPREADS))]
        moved = row[places] + spread * rng.standard_normal(len(places))
        anywhere = rng.random(len(places))
        row[places] = np.where(rng.random(len(places)) < 0.3, anywhere, np.clip(moved, 0.0, 1.0))  # noqa: PLR2004 - flags and choices change only so
    for config in space.decode(space.project_points(units)):
        evaluate(config)


def _elite(problem: Problem, known: Sequence[Remembered]) -> list[Config]:
    """The best configurations: the first of an order, or as many of the front, evenly."""
    good = [each for each in known if keeps(each.trial, problem.outcomes)]
    if not good:
        return []
    points = minimise([each.trial.values or () for each in good], problem.directions)
    if len(problem.directions) == 1:
        rows = np.argsort(points[:, 0], kind="stable")[:_ELITE]
    else:
        front = np.flatnonzero(pareto_front(points))
        front = front[np.argsort(points[front, 0], kind="stable")]
        rows = front[np.unique(np.linspace(0, len(front) - 1, _ELITE).round().astype(int))]
    return [good[row].config for row in rows.tolist()]


def reference(cache: str, service: str) -> Reference:
    """What the memo knows of a service; simulates RANDOM points if they are not there yet."""
    problem, memo = site(cache, service)
    default = memo(default_of(memo.service))
    drawn = [memo(config) for config in sample(problem, RANDOM)]
    trials = [each.trial for each in memo.everything()]
    return reference_of(service, problem, trials, default=default, random=drawn)


def known_of(cache: str, services: Iterable[str]) -> dict[str, Known]:
    """What the memo knows of several services, for tables."""
    return {name: Known(problem=site(cache, name)[0], reference=reference(cache, name)) for name in services}


def best_known(cache: str, service: str) -> Config | None:
    """The configuration that a study would recommend if it had tried all that the memo has; None if nothing runs."""
    problem, memo = site(cache, service)
    known = memo.everything()
    values = [
        (place, each.trial.values)
        for place, each in enumerate(known)
        if keeps(each.trial, problem.outcomes) and each.trial.values is not None
    ]
    found = best_trial(values, reference(cache, service).default, problem.directions)
    return None if found is None else known[found].config
