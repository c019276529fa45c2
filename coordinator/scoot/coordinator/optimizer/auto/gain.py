"""What a point promises: expected improvement of one objective, of the hypervolume of two, of random weights of three.

Everything is minimised. Objectives are modelled by their logarithms; a gain counts in the objective's own unit all the
same, for which the normal distribution of the logarithm gives closed forms. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, ndtr

FloatArray = npt.NDArray[np.float64]

_TINY: Final = 1e-20
"""Gains below are none: then it counts only whether a configuration is any use."""
_WIDEST: Final = 350.0

Shortfall = Callable[[FloatArray, FloatArray, FloatArray | float], FloatArray]


def expected_shortfall(mean: FloatArray, deviation: FloatArray, ceiling: FloatArray | float) -> FloatArray:
    """E[(ceiling - f)+] of f normal; broadcasts."""
    z = (ceiling - mean) / deviation
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    shortfall: FloatArray = np.maximum((ceiling - mean) * ndtr(z) + deviation * density, 0.0)
    return shortfall


def expected_log_shortfall(mean: FloatArray, deviation: FloatArray, ceiling: FloatArray | float) -> FloatArray:
    """E[(ceiling - exp(g))+] of g normal with this mean and deviation; `ceiling` is positive, broadcasts."""
    log_ceiling = np.log(ceiling)
    z = (log_ceiling - mean) / deviation
    below = np.exp(np.minimum(mean + 0.5 * deviation**2 + log_ndtr(z - deviation), _WIDEST))
    value = ceiling * ndtr(z) - below
    shortfall: FloatArray = np.maximum(value, 0.0)
    return shortfall


def log_gain(gain: FloatArray) -> FloatArray:
    """Its logarithm, finite."""
    logs: FloatArray = np.log(np.maximum(gain, _TINY))
    return logs


def expected_hypervolume_gain(
    mean: FloatArray,
    deviation: FloatArray,
    front: FloatArray,
    reference: FloatArray,
    shortfall: Shortfall = expected_shortfall,
) -> FloatArray:
    """Of two independent objectives, exact: the sum over the strips between the front's points.

    Args:
        mean, deviation: (N, 2) of the model.
        front: (K, 2) values no other dominates, K at least 0; those not better than the reference are ignored.
        reference: (2,).
        shortfall: expected_shortfall, or expected_log_shortfall where the model is of logarithms.

    Returns:
        (N,) gains.
    """
    inside = front[(front < reference).all(axis=1)]
    inside = inside[np.argsort(inside[:, 0], kind="stable")]
    edges = [*inside[:, 0].tolist(), float(reference[0])]
    ceilings = [float(reference[1]), *inside[:, 1].tolist()]
    gain = np.zeros(len(mean))
    before: FloatArray | float = 0.0
    for edge, ceiling in zip(edges, ceilings, strict=True):
        upto = shortfall(mean[:, 0], deviation[:, 0], edge)
        gain += (upto - before) * shortfall(mean[:, 1], deviation[:, 1], ceiling)
        before = upto
    positive: FloatArray = np.maximum(gain, 0.0)
    return positive


def weighted(values: FloatArray, weights: FloatArray, share: float) -> FloatArray:
    """(N,) augmented Chebyshev sums: the worst weighted objective plus a share of their sum (Knowles 2006, ParEGO).

    Args:
        values: (N, m), on comparable scales.
        weights: (m,), positive.
        share: of the sum.
    """
    scaled = values * weights
    sums: FloatArray = scaled.max(axis=1) + share * scaled.sum(axis=1)
    return sums
