"""What a point is expected to be better by, in closed form: one objective, or the hypervolume of two.

The hypervolume that a point adds is the area within the reference that it dominates and the front does not. The front
cuts that area into strips; a point's part of a strip is a width, which depends on its first objective alone, times a
height, which depends on the second, and as the objectives are independent the expectation is the sum of the products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from scipy.special import erfcx, ndtr

from scoot.coordinator.objective.pareto import FloatArray, pareto_front

_NEAR: Final = -1.0
"""Below it, phi and z Phi nearly cancel, and their sum is taken through Mills' ratio."""

_FAR: Final = -300.0
"""Below it that cancels too, and its expansion in 1 / z^2 is exact."""

Shortfall = Callable[[FloatArray, FloatArray, FloatArray], FloatArray]
"""(mean, deviation, ceiling), broadcast -> E[(ceiling - Y)+]."""


def expected_shortfall(mean: FloatArray, deviation: FloatArray, ceiling: FloatArray | float) -> FloatArray:
    """E[(ceiling - Y)+] of Y normal, deviations at least 0; broadcasts. Right to a relative error, however small."""
    gap = ceiling - mean
    safe = np.where(deviation > 0, deviation, 1.0)
    shortfall: FloatArray = np.where(deviation > 0, safe * np.exp(log_h(gap / safe)), np.maximum(gap, 0.0))
    return shortfall


def expected_hypervolume_improvement(
    mean: FloatArray,
    deviation: FloatArray,
    points: FloatArray,
    reference: FloatArray,
    shortfall: Shortfall = expected_shortfall,
) -> FloatArray:
    """How much hypervolume two independent objectives, both minimised, are expected to add (SCOOT, Equation 9).

    Args:
        mean, deviation: (N, 2) of the model; deviations at least 0.
        points: (k, 2) observed, k at least 0, dominated ones allowed; those not below the reference in both count for
            nothing.
        reference: (2,).
        shortfall: of the distribution that mean and deviation are of.

    Returns:
        (N,), at least 0, in the product of the two objectives' units.
    """
    inside = points[(points < reference).all(axis=1)]
    front = np.unique(inside[pareto_front(inside)], axis=0)  # rising in the first objective, so falling in the second
    edges = np.append(front[:, 0], reference[0])
    ceilings = np.append(reference[1], front[:, 1])
    widths = np.diff(shortfall(mean[:, :1], deviation[:, :1], edges), axis=1, prepend=0.0)
    heights = shortfall(mean[:, 1:], deviation[:, 1:], ceilings)
    volume: FloatArray = (np.maximum(widths, 0.0) * heights).sum(axis=1)
    return volume


def log_h(z: FloatArray) -> FloatArray:
    """ln(phi(z) + z Phi(z)): of the expected positive part of a standard normal variable shifted by z."""
    near = np.maximum(z, _NEAR)
    far = np.minimum(z, _NEAR)
    mills = math.sqrt(math.pi / 2.0) * erfcx(-np.maximum(far, _FAR) / math.sqrt(2.0))  # Phi(z) / phi(z)
    inverse = far**-2.0
    share = np.where(z > _FAR, 1.0 + far * mills, inverse * (1.0 - 3.0 * inverse + 15.0 * inverse**2))
    return np.where(
        z > _NEAR,
        np.log(np.exp(_log_density(near)) + near * ndtr(near)),
        _log_density(far) + np.log(share),
    )


def _log_density(z: FloatArray) -> FloatArray:
    """The logarithm of phi(z)."""
    return -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi)
