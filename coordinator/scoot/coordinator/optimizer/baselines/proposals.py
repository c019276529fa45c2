"""The suggestions of one call while they are being found: none twice, none that the history has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from scoot.coordinator.optimizer import sobol
from scoot.coordinator.optimizer.base import Observation, Suggestion, Task
from scoot.wire.spec import Config


class Proposals:
    """Suggestions for a task.

    Attributes:
        found: so far, in order.
    """

    def __init__(self, task: Task, source: str) -> None:
        self.found: list[Suggestion] = []
        self._task = task
        self._source = source
        space = task.problem.space
        known = map(space.key, (space.default_config(), *(observation.config for observation in task.history)))
        self._seen = {key for key in known if key is not None}

    @property
    def missing(self) -> int:
        """How many are still wanted."""
        return self._task.n - len(self.found)

    def is_new(self, config: Config) -> bool:
        """Whether `add` would take it."""
        key = self._task.problem.space.key(config)
        return key is not None and key not in self._seen and self.missing > 0

    def add(self, config: Config, explanation: dict[str, Any]) -> bool:
        """Take a configuration that satisfies the known constraints, unless it is known or enough are there."""
        key = self._task.problem.space.key(config)
        if key is None or not self.is_new(config):
            return False
        self._seen.add(key)
        self.found.append(Suggestion(config=config, source=self._source, explanation=explanation))
        return True

    def add_sobol(self, n: int, why: str) -> int:
        """Take up to `n` Sobol points, and say how many there were; fewer only when the space has no more."""
        wanted = min(n, self.missing)
        if wanted <= 0:
            return 0
        first = max((observation.number for observation in self._task.history), default=0) + 1
        taken = [Observation(number=first + k, config=each.config, pending=True) for k, each in enumerate(self.found)]
        points = sobol.suggest(replace(self._task, history=(*self._task.history, *taken), n=wanted))
        return sum(self.add(point.config, {**point.explanation, "design": why}) for point in points)


def generator(task: Task) -> np.random.Generator:
    """Random numbers of one call: they follow from the seed, the length of the history, and the calls before."""
    return np.random.default_rng([abs(task.seed), int(task.seed < 0), len(task.history), task.call])
