"""The expected hypervolume improvement of two objectives, exactly (SCOOT, sections 4.4.2 and 4.5.2).

The hypervolume that a point adds is the area above the reference that it dominates and the front does not. A place z of
that area is dominated with probability P(Y1 >= z1) P(Y2 >= z2), as the outputs are independent, so the expectation is
the integral of that product over all that the front leaves; it falls apart into one product per strip of the staircase.
"""

from __future__ import annotations

import numpy as np

from scoot.coordinator.objective.pareto import FloatArray, pareto_front
from scoot.coordinator.optimizer.scoot.mace import log_h


def expected_hypervolume_improvement(
    mean: FloatArray, deviation: FloatArray, front: FloatArray, reference: FloatArray
) -> FloatArray:
    """Equation 9 for two independent Gaussian gains, more being better.

    Args:
        mean, deviation: (N, 2), deviations above 0.
        front: (k, 2) observed gains, dominated ones allowed; those not above the reference in both count for nothing.
        reference: (2,), the default's gains.

    Returns:
        (N,), at least 0, in the product of the two gains' units.
    """
    inside = front[(front > reference).all(axis=1)]
    steps = inside[pareto_front(-inside)]
    steps = np.unique(steps, axis=0)  # ascending in the first gain, so descending in the second
    corners = np.concatenate([reference[:1], steps[:, 0]])
    floors = np.concatenate([steps[:, 1], reference[1:]])
    beyond = _beyond(mean[:, :1], deviation[:, :1], corners)
    within = beyond - np.concatenate([beyond[:, 1:], np.zeros((len(mean), 1))], axis=1)
    found: FloatArray = (within * _beyond(mean[:, 1:], deviation[:, 1:], floors)).sum(axis=1)
    return np.maximum(found, 0.0)


def _beyond(mean: FloatArray, deviation: FloatArray, floor: FloatArray) -> FloatArray:
    """Integral of P(Y >= z) over z from `floor` to infinity; (N, 1), (N, 1) and (k,) -> (N, k)."""
    return deviation * np.exp(log_h((mean - floor) / deviation))
