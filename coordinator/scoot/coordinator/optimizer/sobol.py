"""Sobol points: quasi-random search, the first design of the others, and what is used when they fail.

One scrambled Sobol sequence belongs to a seed and a number of parameters. A call walks it from its beginning and takes
the first points that satisfy the known constraints and are not in the history; the history alone says how far earlier
calls came. So asking for four is the same as asking four times for one, in any process, after any restart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from scipy.stats import qmc

from scoot.coordinator.optimizer.base import Suggestion, Task
from scoot.coordinator.space.space import Key, Space
from scoot.wire.spec import Config

SOURCE: Final = "sobol"

MAX_POINTS: Final = 1 << 16
"""Points of the sequence looked at before the rest is filled up by other means."""

FIRST_BLOCK: Final = 64
ENUMERABLE: Final = 1 << 16
"""Spaces up to so many configurations are exhausted to the last one."""

_DRAWS: Final = 16


def suggest(task: Task) -> tuple[Suggestion, ...]:
    """The next `task.n` Sobol points (a Method); fewer only when the space has no more.

    Where constraints leave so little that the sequence does not hit it, the rest comes from the enumerated space in a
    random order that depends on the seed, or, where that is too large, from random feasible configurations.
    """
    space = task.problem.space
    seen = _seen(space, task)
    left = _left(space, seen)
    found: list[Suggestion] = []
    for config, explanation in _candidates(space, task, len(seen)):
        if len(found) == min(task.n, left):
            break
        key = space.key(config)
        if key is not None and key not in seen:
            seen.add(key)
            found.append(Suggestion(config=config, source=SOURCE, explanation=explanation))
    return tuple(found)


def _seen(space: Space, task: Task) -> set[Key]:
    """Configurations not to be proposed: those of the history, and the default if it is stated in full."""
    configs = [space.default_config(), *(observation.config for observation in task.history)]
    return {key for key in map(space.key, configs) if key is not None}


def _left(space: Space, seen: set[Key]) -> float:
    """Configurations not seen yet, infinite if they are not counted."""
    size = space.size()
    if not size.exact or size.continuous:
        return math.inf
    known = [space.config_of(key) for key in seen]
    return size.count - int(space.feasible(known).sum())


def _candidates(space: Space, task: Task, seen: int) -> Iterator[tuple[Config, dict[str, str | int]]]:
    """Feasible configurations in the order of preference, with repetitions."""
    yield from _sequence(space, task.seed)
    rng = np.random.default_rng(_entropy(task.seed))
    everything = space.enumerate(ENUMERABLE)
    if everything is not None:
        for place in rng.permutation(len(everything)).tolist():
            yield everything[place], {"design": "remaining configuration"}
        return
    for _ in range(_DRAWS):
        for config in space.sample(rng, 2 * (task.n + seen)):
            yield config, {"design": "random feasible configuration"}


def _sequence(space: Space, seed: int) -> Iterator[tuple[Config, dict[str, str | int]]]:
    """The feasible points of the Sobol sequence, in order; `index` is a point's place in it."""
    sequence = qmc.Sobol(len(space.axes), scramble=True, rng=np.random.default_rng(_entropy(seed)))
    start, block = 0, FIRST_BLOCK
    while start < MAX_POINTS:
        units = sequence.random(block)
        feasible = np.flatnonzero(space.feasible_points(units))
        for place, config in zip(feasible.tolist(), space.decode(units[feasible]), strict=True):
            yield config, {"design": "Sobol sequence", "index": start + place}
        start += block
        block = start  # 64, 64, 128, 256, ...: the sequence stays balanced, and a short walk stays cheap


def _entropy(seed: int) -> list[int]:
    """Any integer, negative ones included, as entropy."""
    return [abs(seed), int(seed < 0)]
