"""Laws of the fit: never negative, leave-one-out equal to real refits, units, and optimal among its neighbours."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scoot.simulator.fit import Timings, _active_set, _leave_one_out, _solve, fit, predict
from scoot.simulator.linear import TERMS, LinearModel

_POSITIVE = st.floats(0, 1)


def rows_of(seed: int, n: int, beta: tuple[float, ...], noise: float) -> Timings:
    rng = np.random.default_rng(seed)
    chunk = np.where(rng.random(n) < 0.6, rng.integers(1, 2000, n), 0)
    decodes = np.maximum(rng.integers(0, 100, n), chunk == 0)
    rows = Timings(
        prefill_tokens=chunk * 1.0,
        sum_squares=chunk * chunk * 1.0,
        sum_cached=(chunk * rng.integers(0, 2000, n)).astype(np.float64),
        decode_seqs=decodes * 1.0,
        decode_context=decodes * rng.integers(1, 3000, n) * 1.0,
        time_s=np.ones(n),
    )
    scale = (1e-2, 1e-4, 1e-8, 1e-8, 1e-4, 1e-6)
    fields = {term[1]: b * s for term, b, s in zip(TERMS, beta, scale, strict=True)}
    exact = predict(msgspec.convert(fields, LinearModel), rows) + 1e-4
    return msgspec.structs.replace(rows, time_s=exact * np.exp(noise * rng.standard_normal(n)))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), n=st.integers(30, 120), beta=st.tuples(*[_POSITIVE] * 6), noise=st.floats(0.0, 0.5))
def test_a_fit_is_never_negative_and_keeps_its_books(seed: int, n: int, beta: tuple[float, ...], noise: float) -> None:
    rows = rows_of(seed, n, beta, noise)
    assume(rows.prefill_tokens.any() and rows.decode_seqs.any())
    fitted = fit(rows)
    assert all(getattr(fitted, field) >= 0 for _, field, _, _ in TERMS)
    assert fitted.rows == n
    assert 0 <= fitted.trimmed <= n // 2
    assert fitted.error is not None
    assert fitted.error.mape >= 0
    assert abs(fitted.error.bias) <= fitted.error.mape + 1e-12
    assert (predict(fitted, rows) >= fitted.floor_s).all()
    assert fitted.floor_s > 0


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), n=st.integers(8, 40), k=st.integers(1, 5))
def test_leave_one_out_is_that_of_real_refits(seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    columns = rng.random((n, k)) + 0.01 * np.arange(1, k + 1)
    columns /= (
        np.maximum(columns @ rng.normal(0.6, 0.6, k), 0.2)[:, np.newaxis]
        * np.exp(0.3 * rng.standard_normal(n))[:, np.newaxis]
    )
    beta, positive = _solve(columns)
    assume(positive.any())
    quick = _leave_one_out(columns, beta, positive)
    for index in range(n):
        others = np.arange(n) != index
        again, _ = _solve(columns[others])
        assert quick[index] == pytest.approx(float(columns[index] @ again) - 1.0, abs=1e-6)


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 10**6), n=st.integers(6, 30), k=st.integers(1, 6))
def test_non_negative_least_squares_meets_its_optimality_conditions(seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    columns = rng.standard_normal((n, k))
    columns /= np.linalg.norm(columns, axis=0)
    gram, right = columns.T @ columns, columns.T @ rng.standard_normal(n)
    found, positive = _active_set(gram, right)
    slope = right - gram @ found
    assert (found >= 0).all()
    assert (slope <= 1e-8).all()
    assert np.abs(slope[positive]).max(initial=0.0) < 1e-8


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), factor=st.floats(0.01, 100))
def test_times_in_another_unit_give_the_same_model_in_that_unit(seed: int, factor: float) -> None:
    rows = rows_of(seed, 80, (0.5,) * 6, 0.1)
    here, there = fit(rows), fit(msgspec.structs.replace(rows, time_s=rows.time_s * factor))
    assert here.error is not None
    assert there.error is not None
    assert there.trimmed == here.trimmed
    assert there.error.mape == pytest.approx(here.error.mape, rel=1e-5, abs=1e-9)
    assert predict(there, rows) == pytest.approx(predict(here, rows) * factor, rel=1e-5)
