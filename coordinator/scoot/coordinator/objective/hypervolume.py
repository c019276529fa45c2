"""Hypervolume over one to three minimised objectives, with respect to a reference that a point must beat to count."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_TWO, _THREE = 2, 3


def single_point_hypervolume(point: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Product of a point's improvements over the reference (SCOOT section 5); 0 if it is not better in all objectives.

    Args:
        point, reference: (m,), minimised, finite.
    """
    improvements = np.asarray(reference, dtype=np.float64) - np.asarray(point, dtype=np.float64)
    if not bool(np.all(improvements > 0)):
        return 0.0
    return float(np.prod(improvements))


def hypervolume_2d(points: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Exact area that `points` dominate below `reference`.

    Args:
        points: (N, 2), minimised; points that do not beat the reference in both objectives add nothing.
        reference: (2,).

    Raises:
        ValueError: not two objectives.
    """
    array = np.asarray(points, dtype=np.float64)
    corner = np.asarray(reference, dtype=np.float64)
    if array.size == 0:
        return 0.0
    if array.ndim != _TWO or array.shape[1] != _TWO or corner.shape != (_TWO,):
        raise ValueError(f"need (N, 2) points and a (2,) reference, not {array.shape} and {corner.shape}")
    inside = array[(array < corner).all(axis=1)]
    inside = inside[np.lexsort((inside[:, 1], inside[:, 0]))]
    area = 0.0
    ceiling = float(corner[1])
    for x, y in inside.tolist():  # a sweep from the left: each point adds the strip below the lowest one before it
        if y < ceiling:
            area += (float(corner[0]) - x) * (ceiling - y)
            ceiling = y
    return area


def hypervolume_3d(points: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Exact volume that `points` dominate below `reference`.

    A sweep along the third objective: between two neighbouring levels of it the volume is the area that the points up
    to there dominate, times the distance. O(N^2 log N).

    Args:
        points: (N, 3), minimised; points that do not beat the reference in all objectives add nothing.
        reference: (3,).

    Raises:
        ValueError: not three objectives.
    """
    array = np.asarray(points, dtype=np.float64)
    corner = np.asarray(reference, dtype=np.float64)
    if array.size == 0:
        return 0.0
    if array.ndim != _TWO or array.shape[1] != _THREE or corner.shape != (_THREE,):
        raise ValueError(f"need (N, 3) points and a (3,) reference, not {array.shape} and {corner.shape}")
    inside = array[(array < corner).all(axis=1)]
    inside = inside[np.argsort(inside[:, 2], kind="stable")]
    levels = [*inside[:, 2].tolist(), float(corner[2])]
    volume = 0.0
    for n in range(1, len(levels)):
        depth = levels[n] - levels[n - 1]
        if depth > 0:
            volume += depth * hypervolume_2d(inside[:n, :2], corner[:2])
    return volume


def hypervolume(points: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Exact length, area or volume that `points` dominate below `reference`.

    Args:
        points: (N, m), minimised, m from 1 to 3; points that do not beat the reference in all objectives add nothing.
        reference: (m,).

    Raises:
        ValueError: another number of objectives.
    """
    corner = np.asarray(reference, dtype=np.float64)
    if corner.shape == (1,):
        array = np.asarray(points, dtype=np.float64)
        if array.size and (array.ndim != _TWO or array.shape[1] != 1):
            raise ValueError(f"need (N, 1) points, not {array.shape}")
        return max(0.0, float(corner[0]) - float(array.min())) if array.size else 0.0
    return hypervolume_2d(points, corner) if corner.shape == (_TWO,) else hypervolume_3d(points, corner)
