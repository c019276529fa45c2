"""The threshold that a configuration's probability of feasibility has to reach (SCOOT, section 4.7 and Algorithm 1).

Counted in twentieths, so that no sum of 0.05 is ever off by an error of rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_UNIT: Final = 0.05
_START: Final = 10
_LOWEST: Final = 5
_HIGHEST: Final = 15
_ROW: Final = 5


def threshold(feasible: Iterable[bool]) -> float:
    """Delta after a history.

    It starts at 0.5. An infeasible suggestion raises it by 0.05, to at least 0.5 and at most 0.75; every five feasible
    ones in a row lower it by 0.05, to at least 0.25.

    Args:
        feasible: of every finished suggestion of the model in order; the default and the first design are left out.

    Returns:
        0.25 to 0.75, a multiple of 0.05.
    """
    level, row = _START, 0
    for good in feasible:
        if not good:
            level, row = min(max(level + 1, _START), _HIGHEST), 0
            continue
        row += 1
        if row == _ROW:
            level, row = max(level - 1, _LOWEST), 0
    return round(level * _UNIT, 2)
