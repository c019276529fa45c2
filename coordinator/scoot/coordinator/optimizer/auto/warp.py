"""Axes as `auto` sees them: numbers that span more than a decade lie on a logarithmic scale, however they were stated.

Most parameters of engines are of that kind (sequences, tokens, sizes of graphs), and most studies state them as plain
integers: then what happens below 512 of 8192 tokens happens in a sixteenth of the axis, where uniform samples hardly
come and a length scale that fits the rest sees nothing.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from scoot.coordinator.space.encoding import Axis, FloatArray, IntegerAxis, RealAxis
from scoot.coordinator.space.space import Space

_WIDE: Final = 10.0
"""Ratio of the ends of an axis that is warped."""


class Warp:
    """Between points of the unit cube, where values lie on their axes, and warped points, of the unit cube, too.

    Args:
        space: whose axes.
        identity: nothing is warped.

    Attributes:
        space: the same.
    """

    def __init__(self, space: Space, *, identity: bool = False) -> None:
        self.space = space
        ends = [None if identity else _ends(axis) for axis in space.axes]
        self._at = [at for at, found in enumerate(ends) if found is not None]
        self._ratio = np.array([found[1] / found[0] for found in ends if found is not None])

    def to(self, points: FloatArray) -> FloatArray:
        """(N, d) points -> (N, d) warped points."""
        warped = points.copy()
        warped[:, self._at] = np.log1p(points[:, self._at] * (self._ratio - 1)) / np.log(self._ratio)
        return warped

    def back(self, warped: FloatArray) -> FloatArray:
        """(N, d) warped points -> (N, d) points."""
        points = warped.copy()
        points[:, self._at] = np.expm1(warped[:, self._at] * np.log(self._ratio)) / (self._ratio - 1)
        return np.clip(points, 0.0, 1.0)


def _ends(axis: Axis) -> tuple[float, float] | None:
    """The ends of an axis that is to be warped, integers in steps. Where they start at 0, one more of each is meant."""
    if isinstance(axis, IntegerAxis) and not axis.log and axis.first >= 0:
        more = 0.5 if axis.first == 0 else -0.5
        low, high = axis.first + more, axis.last + more + 1
    elif isinstance(axis, RealAxis) and not axis.log and axis.low > 0:
        low, high = axis.low, axis.high
    else:
        return None
    return (low, high) if high > _WIDE * low else None
