"""The first points after the default: around it, each parameter moved in half of them. Pure.

Engines' defaults are good guesses, and a Sobol point of ten parameters changes all ten at once, which mostly shows how
bad an engine can be. A boolean that is moved is turned; anything else goes half of the times anywhere on its axis, and
half of the times not far.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc

from scoot.coordinator.optimizer.auto.warp import Warp
from scoot.coordinator.space.encoding import Axis, ChoiceAxis
from scoot.coordinator.space.space import Space
from scoot.wire.spec import Config, Scalar

FloatArray = npt.NDArray[np.float64]

POINTS: Final = 4
"""How many, before the model takes over."""

_TRIES: Final = 4
_REACH: Final = 0.5
_TWO: Final = 2
_HALF: Final = 0.5


def centre_of(space: Space, default: Config) -> FloatArray:
    """(d,) the default's point; parameters that it leaves to the engine are in the middle of their axes.

    Engines' own defaults need not be in the space: the nearest number counts, and a text that is none of the choices
    does not.
    """
    known: Config = {}
    for axis in space.axes:
        value = _nearest(axis, default[axis.name]) if axis.name in default else None
        if value is not None:
            known[axis.name] = value
    nearest = space.project([space.complete({**space.default_config(), **known})])
    centre: FloatArray = space.encode(nearest)[0]
    return centre


def _nearest(axis: Axis, value: Scalar) -> Scalar | None:
    """The value of an axis that is nearest; None if it is of another kind."""
    choices = axis.choices if isinstance(axis, ChoiceAxis) else ()
    if isinstance(value, bool | str) or any(isinstance(choice, bool | str) for choice in choices):
        return axis.canonical(value)
    numbers = [choice for choice in choices if isinstance(choice, int | float)]
    return min(numbers, key=lambda choice: abs(choice - value)) if numbers else value


def design(warp: Warp, centre: FloatArray, seed: list[int]) -> Iterator[Config]:
    """Configurations in the order in which they are to be tried, more than POINTS of them, perhaps with repetitions."""
    rng = np.random.default_rng(seed)
    space, d = warp.space, len(centre)
    middle = warp.to(centre[None, :])[0]
    targets = qmc.Sobol(d, scramble=True, rng=rng).random(POINTS * _TRIES)
    for start in range(0, len(targets), POINTS):
        moved = np.zeros((POINTS, d), np.bool_)
        for at in range(d):
            moved[rng.permutation(POINTS)[: POINTS // 2], at] = True
        for place in range(POINTS):
            point = middle.copy()
            far = rng.random(d) < _HALF
            for at in np.flatnonzero(moved[place]).tolist():
                target = float(targets[start + place, at])
                if space.axes[at].count == _TWO:
                    point[at] = 1.0 - point[at]
                else:
                    near = float(np.clip(middle[at] + (target - 0.5) * 2 * _REACH, 0.0, 1.0))
                    point[at] = target if far[at] else near
            yield space.decode(space.project_points(warp.back(point[None, :])))[0]
