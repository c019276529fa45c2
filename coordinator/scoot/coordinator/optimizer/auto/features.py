"""From configurations to what the surrogate sees. Pure.

A number lies on its axis, warped (warp.py), from 0 to 1. A boolean is 0 or 1. A text with more than two values is one
indicator for each, scaled so that two different texts are as far apart as false and true.
"""

from __future__ import annotations

import math

import numpy as np

from scoot.coordinator.optimizer.auto.warp import Warp
from scoot.coordinator.space.encoding import ChoiceAxis, FloatArray
from scoot.coordinator.space.space import Space

_TWO = 2


class Features:
    """The features of one space.

    Args:
        space: see there.
        warp: of that space.

    Attributes:
        count: d' of them, at least one per parameter.
    """

    def __init__(self, space: Space, warp: Warp) -> None:
        self._axes = space.axes
        self._warp = warp
        self.count = sum(_width(axis) for axis in space.axes)

    def of(self, points: FloatArray) -> FloatArray:
        """(N, d) points of the unit cube -> (N, d') features."""
        columns: list[FloatArray] = []
        for axis, units, warped in zip(self._axes, points.T, self._warp.to(points).T, strict=True):
            if isinstance(axis, ChoiceAxis):
                cells = axis.cells(units)
                if _width(axis) > 1:
                    columns += [(cells == cell) / math.sqrt(2) for cell in range(axis.count)]
                else:
                    columns.append(cells / max(1, axis.count - 1))
            else:
                columns.append(warped)
        return np.column_stack(columns).astype(np.float64)


def _width(axis: object) -> int:
    if isinstance(axis, ChoiceAxis) and axis.count > _TWO and isinstance(axis.choices[0], str):
        return axis.count
    return 1
