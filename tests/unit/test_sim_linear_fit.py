"""Linear step times: predictions, fits to known coefficients, outliers, what cannot be told, and held-out tables."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from scoot.simulator.fit import MIN_ROWS, Timings, error_of, fit, predict
from scoot.simulator.linear import TERMS, LinearModel, Profile
from scoot.simulator.timings_file import read_timings
from scoot.wire.errors import UserError

MEASURED = Path(__file__).parents[3] / "shared" / "data" / "gpu_timings" / "iterations_vidur.csv.gz"
SERVICES = [
    ("a100", "codellama-34b", "2"),
    ("a100", "llama2-7b", "1"),
    ("a100", "llama2-7b", "2"),
    ("h100", "llama2-13b", "2"),
    ("h100", "llama2-7b", "1"),
]
TRUE = (0.008, 5e-5, 5e-9, 1e-8, 4e-5, 3e-7)


def model(values: tuple[float, ...] = TRUE, floor_s: float = 0.0) -> LinearModel:
    fields = {field: value for (_, field, _, _), value in zip(TERMS, values, strict=True)}
    return msgspec.convert({**fields, "floor_s": floor_s}, LinearModel)


def steps(n: int, *, seed: int = 0, cached: bool = True, noise: float = 0.0) -> Timings:
    rng = np.random.default_rng(seed)
    chunk = rng.integers(1, 2048, n) * (rng.random(n) < 0.5)
    before = rng.integers(0, 3000, n) * (rng.random(n) < 0.5) * cached
    decodes = np.maximum(rng.integers(0, 200, n), chunk == 0)
    rows = Timings(
        prefill_tokens=chunk.astype(float),
        sum_squares=(chunk * chunk).astype(float),
        sum_cached=(chunk * before).astype(float),
        decode_seqs=decodes.astype(float),
        decode_context=(decodes * rng.integers(1, 4000, n)).astype(float),
        time_s=np.ones(n),
    )
    exact = predict(model(), rows)
    return msgspec.structs.replace(rows, time_s=exact * np.exp(noise * rng.standard_normal(n)))


def coefficients(fitted: LinearModel) -> list[float]:
    return [getattr(fitted, field) for _, field, _, _ in TERMS]


def test_a_step_costs_the_sum_of_its_terms() -> None:
    time_s = model().gpu_s(3, 900, [(512, 0), (128, 1000)])
    expected = 0.008 + 5e-5 * 640 + 5e-9 * (512**2 + 128**2) + 1e-8 * 128 * 1000 + 4e-5 * 3 + 3e-7 * 900
    assert time_s == pytest.approx(expected, rel=1e-12)


def test_no_step_is_faster_than_the_floor() -> None:
    assert model((0.0,) * 6, floor_s=0.004).gpu_s(1, 1, []) == 0.004


def test_predictions_for_many_steps_are_those_of_one() -> None:
    rows = steps(50)
    each = [
        model().gpu_s(int(rows.decode_seqs[i]), int(rows.decode_context[i]), [(int(rows.prefill_tokens[i]), 0)])
        + 1e-8 * rows.sum_cached[i]
        for i in range(50)
    ]
    assert predict(model(), rows) == pytest.approx(each)


def test_exact_timings_give_back_their_coefficients() -> None:
    fitted = fit(steps(400), source="made")
    assert coefficients(fitted) == pytest.approx(TRUE, rel=1e-5)
    assert fitted.error is not None
    assert fitted.error.mape < 1e-6
    assert (fitted.rows, fitted.trimmed, fitted.source, fitted.notes) == (400, 0, "made", ())


def test_the_floor_is_half_the_fastest_step() -> None:
    rows = steps(200)
    assert fit(rows).floor_s == pytest.approx(rows.time_s.min() / 2)


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_slow_steps_are_dropped(share: float) -> None:
    rows = steps(600, noise=0.03)
    rng = np.random.default_rng(1)
    slow = rng.random(600) < share
    fitted = fit(msgspec.structs.replace(rows, time_s=rows.time_s * np.where(slow, rng.uniform(2, 10, 600), 1.0)))
    assert np.count_nonzero(slow) <= fitted.trimmed <= np.count_nonzero(slow) + 6
    assert error_of(fitted, steps(600, seed=5)).mape < 0.015
    assert abs(error_of(fitted, steps(600, seed=5)).bias) < 0.01


@pytest.mark.parametrize("seed", [0, 1, 4])
def test_steps_recorded_too_fast_are_dropped_with_the_slow_ones(seed: int) -> None:
    rows = steps(600, seed=seed, noise=0.03)
    rng = np.random.default_rng(seed + 50)
    fast, slow = rng.random(600) < 0.1, rng.random(600) < 0.15
    factor = np.where(fast, rng.uniform(0.01, 0.3, 600), np.where(slow, rng.uniform(2, 10, 600), 1.0))
    fitted = fit(msgspec.structs.replace(rows, time_s=rows.time_s * factor))
    assert fitted.trimmed == np.count_nonzero(fast | slow)
    assert error_of(fitted, steps(600, seed=99)).mape < 0.01


def test_without_cached_chunks_their_cost_follows_from_attention() -> None:
    fitted = fit(steps(400, cached=False))
    assert fitted.chunk_cached_s == pytest.approx(2 * fitted.chunk_squared_s)
    assert fitted.chunk_squared_s == pytest.approx(TRUE[2], rel=1e-5)
    assert [note for note in fitted.notes if note.startswith("d (") and "tied to 2 c" in note]


def test_contexts_that_never_vary_are_said_not_to_be_told_apart() -> None:
    rows = steps(400)
    rows = msgspec.structs.replace(rows, decode_context=rows.decode_seqs * 1000)
    rows = msgspec.structs.replace(rows, time_s=predict(model(), rows))
    fitted = fit(rows)
    assert fitted.context_token_s == 0.0
    assert fitted.decode_s == pytest.approx(TRUE[4] + 1000 * TRUE[5], rel=1e-4)
    assert any(note.startswith("f (") for note in fitted.notes)


def test_a_term_that_would_be_negative_is_zero_and_said_so() -> None:
    rows = steps(300)
    faster = np.maximum(rows.time_s - 2e-5 * rows.decode_seqs - TRUE[4] * rows.decode_seqs, 1e-4)
    fitted = fit(msgspec.structs.replace(rows, time_s=faster))
    assert min(coefficients(fitted)) == fitted.decode_s == 0.0
    assert any(note.startswith("e (") and "zero" in note for note in fitted.notes)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (steps(MIN_ROWS - 1), "too few"),
        (msgspec.structs.replace(steps(100), prefill_tokens=np.zeros(100)), "no step computes a prompt"),
        (msgspec.structs.replace(steps(100), decode_seqs=np.zeros(100)), "no step decodes"),
    ],
)
def test_timings_that_cannot_tell_are_refused(rows: Timings, says: str) -> None:
    with pytest.raises(UserError, match=says):
        fit(rows)


def test_a_profile_of_another_service_is_refused() -> None:
    profile = Profile(name="mine", model="llama2-7b", gpu="a100", tensor_parallel=1, link="nvlink", linear=model())
    profile.check("llama2-7b", "a100", 1, "pcie")
    with pytest.raises(UserError, match="is of gpu a100, the service has h100"):
        profile.check("llama2-7b", "h100", 1, "nvlink")


@pytest.mark.skipif(not MEASURED.exists(), reason="the shared timings are not here")
@pytest.mark.parametrize(("gpu", "name", "tp"), SERVICES)
def test_half_of_a_table_predicts_the_other_half(gpu: str, name: str, tp: str) -> None:
    rows = read_timings(str(MEASURED), where={"gpu": gpu, "model": name, "tp": tp})
    order = np.random.default_rng(0).permutation(len(rows))
    train, test = rows.take(order[::2]), rows.take(order[1::2])
    rng = np.random.default_rng(1)
    slowed = train.time_s * np.where(rng.random(len(train)) < 0.2, rng.uniform(2, 10, len(train)), 1.0)
    clean, dirty = fit(train), fit(msgspec.structs.replace(train, time_s=slowed))
    held_out = error_of(clean, test)
    assert held_out.mape < 0.035
    assert abs(held_out.bias) < 0.01
    assert error_of(dirty, test).mape < held_out.mape + 0.003
    assert clean.error is not None
    assert dirty.error is not None
    assert clean.error.mape == pytest.approx(held_out.mape, abs=0.005)
    assert dirty.error.mape == pytest.approx(held_out.mape, abs=0.005)
