"""What the memo knows of services, for the figures that need no method: 2 and 13. IO: simulates what is not known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from scoot.experiments import catalogue
from scoot.experiments.compare import site
from scoot.experiments.reference import best_known, reference, sample
from scoot.experiments.scores import keeps, relative
from scoot.experiments.series import Conflict, Transfer
from scoot.experiments.services import TuningService
from scoot.wire.spec import Config

DRAWN: Final = 64
"""Sobol points that a figure shows of a service: enough to see where it lies, few enough for a small plot."""


def transfer(cache: str, services: Sequence[TuningService]) -> Transfer:
    """The best known configuration of each service on the others (Figure 2). Search the services first.

    Args:
        cache: folder of the memo.
        services: at least one.
    """
    best = [best_known(cache, service.name) for service in services]
    return Transfer(
        services=tuple(service.name for service in services),
        gains=tuple(
            tuple(None if config is None else _gain(cache, config, target) for target in services) for config in best
        ),
    )


def conflict(cache: str, service: TuningService) -> Conflict:
    """Where the objectives of a service with two of them can be at once (Figure 13).

    Args:
        cache: folder of the memo.
        service: with two objectives.

    Raises:
        ValueError: it has another number of them.
    """
    first, second = service.objectives
    problem, memo = site(cache, service.name)
    known = reference(cache, service.name)
    trials = [memo(config) for config in sample(problem, DRAWN)]
    return Conflict(
        service=service.name,
        metrics=(first, second),
        drawn=tuple(trial.values for trial in trials if trial.values is not None and keeps(trial, problem.outcomes)),
        front=tuple(sorted(known.front)),
        default=known.default,
    )


def carried(config: Config, target: TuningService, cache: str) -> Config:
    """Another service's configuration, as near to it as this one's space allows."""
    problem, _ = site(cache, target.name)
    wanted = {name: config.get(name, value) for name, value in catalogue.default_of(target).items()}
    return problem.space.project([wanted])[0]


def _gain(cache: str, config: Config, target: TuningService) -> float | None:
    """Improvement over the target's default, in the mean over objectives; None where one of both fails."""
    problem, memo = site(cache, target.name)
    found, default = memo(carried(config, target, cache)), memo(catalogue.default_of(target))
    if found.values is None or default.values is None:
        return None
    each = relative(found.values, default.values, problem.directions)
    return sum(each) / len(each)
