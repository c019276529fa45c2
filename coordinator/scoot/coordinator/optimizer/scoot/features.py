"""What the surrogate sees of a configuration: its point of the unit cube, unordered choices spread over columns.

A choice of more than two texts has no order, so it becomes one column of 0 and 1 per text (as HEBO, on which the paper
is built, does); every other parameter stays one coordinate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from scoot.coordinator.space.encoding import Axis, ChoiceAxis, FloatArray
from scoot.coordinator.space.space import Space

_BINARY: Final = 2


@dataclass(frozen=True, eq=False)
class Features:
    """The map from points to features.

    Attributes:
        space: d parameters.
    """

    space: Space

    @property
    def warped(self) -> list[int]:
        """Columns with more than two values that have an order: those whose warping can be learnt."""
        found, place = [], 0
        for axis in self.space.axes:
            width = _width(axis)
            if width == 1 and (axis.count is None or axis.count > _BINARY):
                found.append(place)
            place += width
        return found

    def of(self, units: FloatArray) -> FloatArray:
        """(N, d) points of the unit cube -> (N, D) features in 0 to 1, D >= d."""
        columns: list[FloatArray] = []
        for place, axis in enumerate(self.space.axes):
            column = units[:, place]
            if _width(axis) == 1 or not isinstance(axis, ChoiceAxis):
                columns.append(column[:, None])
            else:
                columns.append(np.eye(axis.count)[axis.cells(column)])
        return np.hstack(columns)


def _width(axis: Axis) -> int:
    """Columns of an axis."""
    unordered = isinstance(axis, ChoiceAxis) and isinstance(axis.choices[0], str) and axis.count > _BINARY
    return axis.count if unordered and axis.count is not None else 1
