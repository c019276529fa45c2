"""Hypervolume over minimised objectives, with respect to a reference point that a point must beat to count."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_TWO = 2


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
