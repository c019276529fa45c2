"""What must hold for step times of any batch on any profile."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.simulator.curves import curve
from scoot.simulator.settings import StepTime
from scoot.simulator.shapes import DEGREES, GPUS, MODELS
from scoot.simulator.step_time import step_time_of

NOISE = 0.99
"""Interpolation may take one percent off what more work takes."""

profiles = st.builds(
    lambda model, gpu, degree, link, custom: step_time_of(
        model, gpu, degree, link=link if link == "pcie" or gpu.link == "nvlink" else "pcie", custom_all_reduce=custom
    ),
    st.sampled_from(sorted(MODELS.values(), key=lambda model: model.name)),
    st.sampled_from(sorted(GPUS.values(), key=lambda gpu: gpu.name)),
    st.sampled_from(DEGREES),
    st.sampled_from(("nvlink", "pcie")),
    st.booleans(),
)
chunks = st.tuples(st.integers(1, 8192), st.one_of(st.just(0), st.integers(0, 16384)))
prompts = st.lists(chunks, max_size=6)
decodes = st.integers(0, 600)
contexts = st.integers(1, 20_000)


@settings(deadline=None)
@given(
    profiles,
    st.integers(0, 4096),
    st.integers(1, 10**6),
    st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 10**6)), max_size=4),
)
def test_any_step_takes_a_finite_time(
    times: StepTime, running: int, context: int, prefills: list[tuple[int, int]]
) -> None:
    took_s = times.gpu_s(running, running * context, prefills)
    assert math.isfinite(took_s)
    assert (took_s > 0) == bool(running or prefills)
    assert times.cpu_s(running + len(prefills)) > 0


@settings(deadline=None)
@given(profiles, decodes, contexts, prompts, chunks)
def test_another_prompt_never_makes_a_step_cheaper(
    times: StepTime, running: int, context: int, prefills: list[tuple[int, int]], more: tuple[int, int]
) -> None:
    without = times.gpu_s(running, running * context, prefills)
    assert times.gpu_s(running, running * context, [*prefills, more]) >= NOISE * without


@settings(deadline=None)
@given(profiles, decodes, contexts, chunks, st.integers(0, 4096), st.integers(0, 4096))
def test_a_longer_chunk_or_a_longer_cache_never_makes_a_step_cheaper(
    times: StepTime, running: int, context: int, chunk: tuple[int, int], tokens: int, cached: int
) -> None:
    tokens_of, before = chunk
    short = times.gpu_s(running, running * context, [(tokens_of, before)])
    assert times.gpu_s(running, running * context, [(tokens_of + tokens, before)]) >= NOISE * short
    assert times.gpu_s(running, running * context, [(tokens_of, before + cached)]) >= NOISE * short


@settings(deadline=None)
@given(profiles, st.integers(1, 600), contexts, st.integers(0, 100), st.integers(0, 20_000), prompts)
def test_more_sequences_and_longer_contexts_never_make_a_step_cheaper(
    times: StepTime, running: int, context: int, more: int, longer: int, prefills: list[tuple[int, int]]
) -> None:
    before = times.gpu_s(running, running * context, prefills)
    assert times.gpu_s(running + more, (running + more) * context, prefills) >= NOISE * before
    assert times.gpu_s(running, running * (context + longer), prefills) >= NOISE * before


@settings(deadline=None)
@given(profiles, decodes, contexts, prompts, st.randoms(use_true_random=False))
def test_the_order_of_prompts_does_not_matter(
    times: StepTime, running: int, context: int, prefills: list[tuple[int, int]], random: st.DrawFn
) -> None:
    shuffled = list(prefills)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis names no type for its random
    assert times.gpu_s(running, running * context, shuffled) == times.gpu_s(running, running * context, prefills)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 100), st.integers(0, 100)), min_size=1, max_size=8),
    st.floats(0, 2000),
)
def test_a_curve_stays_between_its_knots(steps: list[tuple[int, int]], x: float) -> None:
    xs = [sum(dx for dx, _ in steps[: i + 1]) for i in range(len(steps))]
    ys = [float(1 + sum(dy for _, dy in steps[: i + 1])) for i in range(len(steps))]
    value = curve(xs, ys).at(x)
    below = max((y for at, y in zip(xs, ys, strict=True) if at <= x), default=ys[0])
    assert value >= below * (1 - 1e-12)
    if x <= xs[-1]:
        above = min(y for at, y in zip(xs, ys, strict=True) if at >= x)
        assert value <= above * (1 + 1e-12)
