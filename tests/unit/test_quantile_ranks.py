"""Nearest-rank percentiles."""

from __future__ import annotations

import numpy as np
import pytest

from scoot.benchmark import quantile
from scoot.benchmark.quantile import distribution, nearest_rank, percentile


@pytest.mark.parametrize(
    ("percent", "n", "rank"),
    [
        (50, 1, 1),
        (50, 4, 2),
        (50, 5, 3),
        (95, 20, 19),
        (95, 21, 20),
        (99, 100, 99),
        (99, 101, 100),
        (0, 9, 1),
        (100, 9, 9),
    ],
)
def test_rank(percent: int, n: int, rank: int) -> None:
    assert nearest_rank(percent, n) == rank


def test_percentile_is_a_sample_and_never_interpolates() -> None:
    samples = np.array([15, 20, 35, 40, 50])
    assert [percentile(samples[::-1], p) for p in (5, 30, 40, 50, 100)] == [15, 20, 20, 35, 50]


def test_distribution_converts_units() -> None:
    summary = distribution(np.arange(1, 101, dtype=np.uint32) * 1000, per_unit=1000.0)
    assert summary is not None
    assert (summary.n, summary.mean, summary.max) == (100, 50.5, 100.0)
    assert (summary.p50, summary.p90, summary.p95, summary.p99) == (50.0, 90.0, 95.0, 99.0)


def test_deviation_is_that_of_the_samples_also_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.array([2, 4, 4, 4, 5, 5, 7, 9], dtype=np.uint32) * 1000
    monkeypatch.setattr(quantile, "_BLOCK", 3)
    summary = distribution(samples, per_unit=1000.0)
    assert summary is not None
    assert summary.std == pytest.approx(2.0)


def test_deviation_of_large_numbers_close_together() -> None:
    summary = distribution(np.array([2**32 - 2, 2**32 - 4], dtype=np.uint32))
    assert summary is not None
    assert summary.std == 1.0


def test_one_sample_and_none() -> None:
    summary = distribution(np.array([7.0]))
    assert summary is not None
    assert (summary.p50, summary.p99, summary.max, summary.std) == (7.0, 7.0, 7.0, 0.0)
    assert distribution(np.array([])) is None
