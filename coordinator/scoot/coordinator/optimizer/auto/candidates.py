"""Configurations to choose from: anywhere in the space, and around the best ones. Pure."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from scoot.coordinator.space.space import Key, Space
from scoot.wire.spec import Config

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

ANYWHERE: Final = 600
AROUND: Final = 600
"""Around all of the best ones together, but at least LEAST around each."""
LEAST: Final = 40

_MOST_MOVED: Final = 3
_STEP: Final = 0.15
_HALF: Final = 0.5
_FEW_VALUES: Final = 4
"""A parameter with at most so many values is to be seen working with each of them."""


def candidates(
    space: Space, leaders: FloatArray, taken: set[Key], rng: np.random.Generator
) -> tuple[list[Config], FloatArray]:
    """Different configurations that keep the known constraints and are not taken, and their points.

    Args:
        space: see there.
        leaders: (k, d) points to look around.
        taken: keys to leave out.
        rng: draws them.

    Returns:
        N configurations and (N, d) points; N is 0 where nothing was found.
    """
    each = max(LEAST, AROUND // max(1, len(leaders)))
    points = np.vstack([space.encode(space.sample(rng, ANYWHERE)), *(_around(leader, each, rng) for leader in leaders)])
    points = points[space.feasible_points(points)]
    found: dict[Key, Config] = {}
    for config in space.decode(points):
        key = space.key(config)
        if key is not None and key not in taken:
            found.setdefault(key, config)
    configs = list(found.values())
    return configs, space.encode(configs) if configs else np.empty((0, len(space.axes)))


def _around(leader: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    """(count, d): one to three coordinates moved, a little or anywhere."""
    d = len(leader)
    rank = rng.random((count, d)).argsort(axis=1).argsort(axis=1)
    moved = rank < rng.integers(1, _MOST_MOVED + 1, count)[:, None]
    anywhere = rng.random((count, d))
    near = np.clip(leader + rng.normal(0.0, _STEP, (count, d)), 0.0, 1.0)
    target = np.where(rng.random((count, d)) < _HALF, anywhere, near)
    around: FloatArray = np.where(moved, target, leader)
    return around


def untried(space: Space, points: FloatArray, working: FloatArray) -> BoolArray:
    """(N,) which points have a value, of a parameter with few, that no observation with values had.

    Args:
        space: see there.
        points: (N, d).
        working: (L, d) points of the observations with values.
    """
    fresh = np.zeros(len(points), np.bool_)
    for at, axis in enumerate(space.axes):
        if axis.count is None or axis.count > _FEW_VALUES:
            continue
        cells = np.minimum((points[:, at] * axis.count).astype(np.int64), axis.count - 1)
        seen = np.minimum((working[:, at] * axis.count).astype(np.int64), axis.count - 1)
        fresh |= ~np.isin(cells, seen)
    return fresh
