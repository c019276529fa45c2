"""Configurations to choose from: anywhere in the space, and around the best ones. Pure."""

from __future__ import annotations

from operator import itemgetter
from typing import Final

import numpy as np
import numpy.typing as npt

from scoot.coordinator.space.encoding import GridAxis
from scoot.coordinator.space.space import Key, Space
from scoot.wire.spec import Config

FloatArray = npt.NDArray[np.float64]

ANYWHERE: Final = 600
AROUND: Final = 600
"""Around all of the best ones together, but at least LEAST around each."""
LEAST: Final = 40

PATIENCE: Final = 3
"""Trials of a value that never works before it is given up."""

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


def untried(space: Space, working: FloatArray, others: FloatArray) -> tuple[int, int] | None:
    """A value, of a parameter with few, that was never seen to work: (axis, cell) of the one that was tried least.

    Args:
        space: see there.
        working: (L, d) points of the observations with values.
        others: (F, d) points that failed or are pending.

    Returns:
        None when there is none, or all of them were tried PATIENCE times.
    """
    least: tuple[int, int] | None = None
    fewest = PATIENCE
    for at, axis in enumerate(space.axes):
        if not isinstance(axis, GridAxis) or axis.count > _FEW_VALUES:
            continue
        seen = set(axis.cells(working[:, at]).tolist())
        tried = axis.cells(others[:, at]).tolist()
        for cell in range(axis.count):
            if cell not in seen and tried.count(cell) < fewest:
                least, fewest = (at, cell), tried.count(cell)
    return least


def with_value(
    space: Space, leader: FloatArray, value: tuple[int, int], taken: set[Key], rng: np.random.Generator
) -> tuple[list[Config], FloatArray]:
    """Candidates that are the leader but for a value, and for as few others as the known constraints ask for.

    Args:
        space: see there.
        leader: (d,).
        value: (axis, cell).
        taken: keys to leave out.
        rng: draws them.

    Returns:
        As `candidates`.
    """
    at, cell = value
    axis = space.axes[at]
    points = np.vstack([leader[None, :], _around(leader, AROUND, rng)])
    points[:, at] = (cell + _HALF) / (axis.count or 1)
    points = points[space.feasible_points(points)]
    moved = (np.abs(points - leader) > 1e-9).sum(axis=1).tolist()  # noqa: PLR2004 - coordinates that are the same
    found: dict[Key, tuple[int, Config]] = {}
    for count, config in sorted(zip(moved, space.decode(points), strict=True), key=itemgetter(0)):
        key = space.key(config)
        if key is not None and key not in taken:
            found.setdefault(key, (count, config))
    fewest = min((count for count, _ in found.values()), default=0)
    configs = [config for count, config in found.values() if count == fewest]
    return configs, space.encode(configs) if configs else np.empty((0, len(space.axes)))
