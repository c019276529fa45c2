"""Configurations to choose from: anywhere in the space, and around the best ones. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from scoot.coordinator.optimizer.auto.warp import Warp
from scoot.coordinator.space.encoding import Axis, ChoiceAxis, GridAxis
from scoot.coordinator.space.space import Key, Space

FloatArray = npt.NDArray[np.float64]

ANYWHERE: Final = 500
AROUND: Final = 500
"""Around all of the best ones together, but at least LEAST around each."""
LEAST: Final = 30
MIXED: Final = 300
"""Of one of the best and of anything else that worked."""

PATIENCE: Final = 3
"""Trials of a value that never works before it is given up."""

_MORE: Final = 0.4
"""Probability that one coordinate more is moved."""
_STEP: Final = 0.15
_REACH: Final = 0.3
_SAME: Final = 1e-9
"""Coordinates no further apart are the same."""
_HALF: Final = 0.5
_FEW_VALUES: Final = 4
"""A parameter with at most so many values is to be seen working with each of them."""


def candidates(warp: Warp, leaders: FloatArray, working: FloatArray, rng: np.random.Generator) -> FloatArray:
    """(N, d) points of different configurations that keep the known constraints.

    Args:
        warp: of the space.
        leaders: (k, d) points to look around.
        working: (L, d) points to mix them with, the default's among them: what of a good point is it that is good?
            None of them: no mixtures.
        rng: draws them.
    """
    space = warp.space
    anywhere = warp.back(rng.random((ANYWHERE // 2, len(space.axes))))
    sampled = space.encode(space.sample(rng, ANYWHERE // 2))
    points = [sampled, anywhere, around(warp, leaders, AROUND, rng)]
    if len(leaders) and len(working):
        points.append(_mixed(leaders, working, rng))
    return distinct(space, np.vstack(points))


def distance(warp: Warp, points: FloatArray, centres: FloatArray) -> FloatArray:
    """(N,) how far (N, d) points are from the nearest of (k, d) centres, k at least 1, as a log density falls.

    A number's part is half the square of how far it moved, in _REACH of its axis; that of a parameter with few values,
    which has no scale, is a half if it moved at all.
    """
    few = np.array([axis.count is not None and axis.count <= _FEW_VALUES for axis in warp.space.axes])
    moved = np.abs(warp.to(points)[:, None, :] - warp.to(centres)[None, :, :])
    parts = np.where(few, _HALF * (moved > _SAME), _HALF * (moved / _REACH) ** 2)
    nearest: FloatArray = parts.sum(axis=2).min(axis=1)
    return nearest


def distinct(space: Space, points: FloatArray) -> FloatArray:
    """(N, d): those of (M, d) points that keep the known constraints, each configuration once, as it is encoded."""
    middles = np.column_stack([_middles(axis, points[:, at]) for at, axis in enumerate(space.axes)])
    middles = space.canonical_points(middles)
    found: FloatArray = np.unique(middles[space.feasible_points(middles)], axis=0)
    return found


def _middles(axis: Axis, units: FloatArray) -> FloatArray:
    """(M,) places on an axis, as the values there are encoded."""
    if isinstance(axis, GridAxis):
        return axis.units(axis.cells(units))
    return axis.encode(axis.decode(units))


def around(warp: Warp, leaders: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    """(N, d), about `count` of them: one coordinate moved or a few, a little or anywhere."""
    if not len(leaders):
        return leaders
    each = max(LEAST, count // len(leaders))
    centre = np.repeat(leaders, each, axis=0)
    n, d = centre.shape
    rank = rng.random((n, d)).argsort(axis=1).argsort(axis=1)
    moved = rank < rng.geometric(1 - _MORE, (n, 1))
    near = np.clip(warp.to(centre) + rng.normal(0.0, _STEP, (n, d)), 0.0, 1.0)
    target = warp.back(np.where(rng.random((n, d)) < _HALF, rng.random((n, d)), near))
    points: FloatArray = np.where(moved, target, centre)
    return points


def _mixed(leaders: FloatArray, working: FloatArray, rng: np.random.Generator) -> FloatArray:
    """(MIXED, d): each coordinate is a leader's or the other's."""
    first = leaders[rng.integers(len(leaders), size=MIXED)]
    second = working[rng.integers(len(working), size=MIXED)]
    points: FloatArray = np.where(rng.random(first.shape) < rng.random((MIXED, 1)), second, first)
    return points


class Value(NamedTuple):
    """A value of a parameter: its axis, its cell there, and how often it was tried in vain, or is being tried."""

    axis: int
    cell: int
    tried: int


def niches(space: Space, ordered: FloatArray) -> FloatArray:
    """(k, d): of (n, d) points, the best first, the best with each value of each parameter with few, once each.

    Where one of them is changed all else may have to be, and then the best points are all on one side.
    """
    rows: dict[int, None] = {}
    for at, axis in enumerate(space.axes):
        if isinstance(axis, GridAxis) and axis.count <= _FEW_VALUES:
            _, first = np.unique(axis.cells(ordered[:, at]), return_index=True)
            rows.update(dict.fromkeys(sorted(first.tolist())))
    best: FloatArray = ordered[list(rows)]
    return best


def untried(space: Space, working: FloatArray, others: FloatArray) -> Value | None:
    """A value, of a parameter with few, that was never seen to work; of several, the one that was tried least.

    Of those, the one of the parameter with the fewest values: what turns something on or off comes first. A number must
    be next to one that works: with two devices too few there is no need to try one.

    Args:
        space: see there.
        working: (L, d) points of the observations with values.
        others: (F, d) points that failed or are pending.

    Returns:
        None when there is none, or all of them were tried PATIENCE times.
    """
    found: list[tuple[int, int, Value]] = []
    for at, axis in enumerate(space.axes):
        if not isinstance(axis, GridAxis) or axis.count > _FEW_VALUES:
            continue
        seen = set(axis.cells(working[:, at]).tolist())
        tried = axis.cells(others[:, at]).tolist()
        found += [
            (tried.count(cell), axis.count, Value(at, cell, tried.count(cell)))
            for cell in range(axis.count)
            if cell not in seen
            and tried.count(cell) < PATIENCE
            and (_is_text(axis) or not seen or not seen.isdisjoint((cell - 1, cell + 1)))
        ]
    return min(found)[2] if found else None


def _is_text(axis: Axis) -> bool:
    return isinstance(axis, ChoiceAxis) and isinstance(axis.choices[0], str)


def with_value(warp: Warp, leader: FloatArray, value: Value, taken: set[Key], rng: np.random.Generator) -> FloatArray:
    """(N, d) points that are the leader but for a value, and for as few others as the known constraints ask for.

    Args:
        warp: of the space.
        leader: (d,).
        value: see there.
        taken: keys to leave out.
        rng: draws them.
    """
    at, space = value.axis, warp.space
    points = np.vstack([leader[None, :], around(warp, leader[None, :], AROUND, rng)])
    points[:, at] = (value.cell + _HALF) / (space.axes[at].count or 1)
    points = distinct(space, points)
    moved = (np.abs(points - leader) > _SAME).sum(axis=1)
    for count in np.unique(moved).tolist():
        nearest = points[moved == count]
        free = [space.key(config) not in taken for config in space.decode(nearest)]
        if any(free):
            found: FloatArray = nearest[free]
            return found
    return np.empty((0, len(space.axes)))
