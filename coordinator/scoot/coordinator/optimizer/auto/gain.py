"""Gains where objectives are modelled by their logarithms, and of randomly weighted sums.

Everything is minimised. A gain counts in the objective's own unit though the model is of logarithms, for which their
normal distribution gives a closed form. Pure.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, ndtr

FloatArray = npt.NDArray[np.float64]

_TINY: Final = 1e-20
"""Gains below are none: then it counts only whether a configuration is any use."""
_WIDEST: Final = 350.0


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
