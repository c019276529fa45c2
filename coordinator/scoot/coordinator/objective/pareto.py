"""Pareto dominance over minimised objectives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scoot.coordinator.objective.metric import Direction

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def minimise(values: npt.ArrayLike, directions: Sequence[Direction]) -> FloatArray:
    """Values with every objective turned so that less is better.

    Args:
        values: (N, m) or (m,), in the metrics' own senses.
        directions: m of them.

    Raises:
        ValueError: the last axis is not m long.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        array = array.reshape(-1, len(directions))
    if array.shape[-1] != len(directions):
        raise ValueError(f"{array.shape[-1]} values per point for {len(directions)} objectives")
    signs = np.array([-1.0 if direction is Direction.MAXIMISE else 1.0 for direction in directions])
    turned: FloatArray = array * signs
    return turned


def pareto_front(points: npt.ArrayLike) -> BoolArray:
    """Which points no other point dominates.

    A point dominates another if it is nowhere larger and somewhere smaller; equal points do not dominate each other, so
    duplicates are all kept. A point with NaN is never on the front and dominates nothing.

    Args:
        points: (N, m), minimised.

    Returns:
        (N,) mask.
    """
    array = np.asarray(points, dtype=np.float64)
    if array.size == 0:
        return np.zeros(len(array), dtype=np.bool_)
    on_front: BoolArray = np.logical_not(np.isnan(array).any(axis=1))
    for row in np.flatnonzero(on_front):
        if on_front[row]:  # whatever a dominated point dominates, its dominator does too
            no_better = (array >= array[row]).all(axis=1)
            worse = (array > array[row]).any(axis=1)
            on_front &= ~(no_better & worse)
    return on_front
