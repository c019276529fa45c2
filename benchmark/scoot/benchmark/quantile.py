"""Percentiles by nearest rank, and summaries of samples. Pure."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scoot.wire.measurement import Distribution

PERCENTILES: Final = (50, 90, 95, 99)
"""Percentiles of a Distribution."""

_BLOCK: Final = 1 << 20


def nearest_rank(percent: int, n: int) -> int:
    """1-based rank of a percentile: ceil(percent / 100 * n), at least 1, in integers so that no rounding moves it.

    Args:
        percent: 0..100.
        n: samples, at least 1.
    """
    return max(1, -(-percent * n // 100))


def percentile(samples: npt.NDArray[Any], percent: int) -> float:
    """The nearest-rank percentile of non-empty `samples`: always one of them, never interpolated."""
    at = nearest_rank(percent, len(samples)) - 1
    return float(np.partition(samples, at)[at])


def distribution(samples: npt.NDArray[Any], *, per_unit: float = 1.0) -> Distribution | None:
    """Summary of finite samples; None if there are none.

    Args:
        samples: (n,), any real dtype; integers stay integers while they are ranked.
        per_unit: every figure is divided by it (1000 for microseconds -> milliseconds).
    """
    n = len(samples)
    if n == 0:
        return None
    ranks = [nearest_rank(percent, n) - 1 for percent in PERCENTILES]
    ordered = np.partition(samples, [*sorted(set(ranks)), n - 1])
    p50, p90, p95, p99 = (float(ordered[rank]) / per_unit for rank in ranks)
    mean = float(np.mean(samples, dtype=np.float64))
    return Distribution(
        n=n,
        mean=mean / per_unit,
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=float(ordered[n - 1]) / per_unit,
        std=_deviation(samples, mean) / per_unit,
    )


def _deviation(samples: npt.NDArray[Any], mean: float) -> float:
    """Standard deviation (divided by n), in blocks: the gaps of a long run need not all be float64 at once."""
    squares = 0.0
    for start in range(0, len(samples), _BLOCK):
        away = samples[start : start + _BLOCK].astype(np.float64) - mean
        squares += float(away @ away)
    return math.sqrt(squares / len(samples))
