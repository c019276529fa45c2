"""Step times of the simulator: curves, parts, and what they add up to."""

from __future__ import annotations

import math

import msgspec
import pytest

from scoot.simulator.all_reduce import all_reduce
from scoot.simulator.attention import DecodeAttention, PrefillAttention, decode_attention
from scoot.simulator.calibration import load
from scoot.simulator.curves import PowerSurface, Surface, blend, curve
from scoot.simulator.dense import dense, head_us, roofline_for
from scoot.simulator.linear import LinearModel
from scoot.simulator.overheads import overheads
from scoot.simulator.roofline import Roofline, multiplications, multiply_us
from scoot.simulator.shapes import DEGREES, GPUS, MODELS
from scoot.simulator.step_time import LayeredStepTime, provenance, step_time_of
from scoot.wire.errors import UserError

PLAIN = Roofline(compute=1.0, memory=1.0, power=8.0, wave=0.0, launch_us=0.0, element_us=0.0, element_memory=1.0)
SMALL = Surface((1.0, 2.0), (1.0, 10.0, 100.0), ((1.0, 1.0, 100.0), (2.0, 2.0, 200.0)))


def test_a_curve_is_flat_then_straight_then_in_proportion() -> None:
    known = curve([10, 20], [1.0, 3.0])
    assert [known.at(x) for x in (1, 10, 15, 20, 40)] == pytest.approx([1.0, 1.0, 2.0, 3.0, 6.0])
    assert curve([10, 20], [1.0, 3.0], beyond=0.5).at(22) == pytest.approx(4.0)
    assert known.times(2).at(15) == pytest.approx(4.0)


@pytest.mark.parametrize(("xs", "ys"), [([], []), ([1, 1], [1.0, 2.0]), ([2, 1], [1.0, 2.0]), ([1, 2], [1.0])])
def test_knots_that_make_no_curve_are_refused(xs: list[float], ys: list[float]) -> None:
    with pytest.raises(ValueError, match="do not make a curve"):
        curve(xs, ys)


def test_a_surface_is_read_by_batch() -> None:
    assert SMALL.row(0.5) == (1.0, 1.0, 100.0)
    assert SMALL.row(1.5) == pytest.approx((1.5, 1.5, 150.0))
    assert SMALL.row(6) == pytest.approx((6.0, 6.0, 600.0))


def test_a_blend_is_by_logarithms_and_needs_the_same_knots() -> None:
    double = Surface(SMALL.batches, SMALL.lengths, tuple(tuple(4 * y for y in row) for row in SMALL.us))
    assert blend(SMALL, double, 0.5).us[0] == pytest.approx((2.0, 2.0, 200.0))
    with pytest.raises(ValueError, match="same knots"):
        blend(SMALL, Surface((1.0,), SMALL.lengths, SMALL.us[:1]), 0.5)


def test_powers_between_and_beyond_knots() -> None:
    powers = PowerSurface(SMALL, length_power=2.0)
    assert powers.at(1, 5) == pytest.approx(1.0)
    # From 1 to 100 over a decade: the square.
    assert powers.at(1, 20) == pytest.approx(4.0)
    assert powers.at(1, 1000) == pytest.approx(100.0 * 100)
    assert powers.at(4, 100) == pytest.approx(400.0)
    assert powers.at(0.1, 0.1) == pytest.approx(1.0)


def test_prompts_of_one_length_are_read_as_they_were_measured() -> None:
    attention = PrefillAttention(SMALL)
    assert attention.us([(100, 0)]) == pytest.approx(100.0)
    assert attention.us([(100, 0), (100, 0)]) == pytest.approx(200.0)
    assert attention.us([(100, 0)]) == pytest.approx(100.0)


def test_a_chunk_takes_what_it_adds_and_at_least_what_it_takes_alone() -> None:
    attention = PrefillAttention(SMALL)
    whole, half = attention.us([(100, 0)]), attention.us([(50, 0)])
    assert attention.us([(50, 50)]) == pytest.approx(whole - half)
    assert attention.us([(5, 1)]) == attention.us([(5, 0)])


def test_decodes_depend_on_the_mean_context() -> None:
    attention = DecodeAttention(SMALL)
    assert attention.us(1, 55) == pytest.approx(1 + 99 / 2)
    assert attention.us(2, 110) == pytest.approx(2 * (1 + 99 / 2))
    assert DecodeAttention(SMALL, scale=2.0).us(1, 55) == pytest.approx(attention.us(2, 110))


def test_a_multiplication_is_bound_by_memory_and_then_by_compute() -> None:
    gpu = GPUS["a100"]
    small, large = multiply_us(PLAIN, gpu, 1, 4096, 4096), multiply_us(PLAIN, gpu, 8192, 8192, 8192)
    assert small == pytest.approx(2 * 4096 * 4098 / 2039e3, rel=1e-3)
    assert large == pytest.approx(2 * 8192**3 / 312e6, rel=1e-3)


def test_tiles_that_do_not_fill_the_device_cost_as_if_they_did() -> None:
    waves = msgspec.structs.replace(PLAIN, wave=1.0)
    gpu = GPUS["a100"]
    # 108 multiprocessors: 27 x 4 tiles fill one wave, one more tile needs a second.
    one, two = multiply_us(waves, gpu, 512, 27 * 128, 8192), multiply_us(waves, gpu, 513, 27 * 128, 8192)
    assert two == pytest.approx(2 * one, rel=0.02)


def test_a_layers_multiplications_have_its_weights() -> None:
    for model in MODELS.values():
        assert sum(n * k for n, k in multiplications(model, 1)) == model.layer_parameters
    assert sum(n * k for n, k in multiplications(MODELS["llama2-70b"], 8)) * 8 == MODELS["llama2-70b"].layer_parameters


def test_a_measured_layer_has_a_table_and_another_a_roofline() -> None:
    figures = load()
    table = dense(figures, MODELS["llama2-13b"], GPUS["h100"], 2)
    assert "table" in table.lines[0]
    roofline = dense(figures, MODELS["llama2-13b"], GPUS["h100"], 2, tables=False)
    assert "roofline" in roofline.lines[0]
    assert table.us(512) == pytest.approx(roofline.us(512), rel=0.2)
    assert "roofline" in dense(figures, MODELS["llama2-13b"], GPUS["a100"], 2).lines[0]


def test_an_a10_takes_a_sixth_to_a_fifth_longer_than_an_a40() -> None:
    a10, a40 = (dense(load(), MODELS["llama2-13b"], GPUS[name], 1) for name in ("a10", "a40"))
    for tokens in (1, 64, 512, 4096):
        assert 1.14 < a10.us(tokens) / a40.us(tokens) < 1.21


def test_an_h200_decodes_faster_than_an_h100_and_computes_alike() -> None:
    h100, h200 = (step_time_of(MODELS["llama2-70b"], GPUS[name], 8, link="nvlink") for name in ("h100", "h200"))
    decode = [times.gpu_s(64, 64 * 2000, []) for times in (h200, h100)]
    assert decode[0] < 0.95 * decode[1]
    prompts = [times.gpu_s(0, 0, [(4096, 0)]) for times in (h200, h100)]
    assert 0.9 * prompts[1] < prompts[0] <= prompts[1]


def test_more_heads_than_the_tables_have_are_more_sequences() -> None:
    figures = load()
    many = decode_attention(figures, MODELS["llama2-7b"], GPUS["a100"], 1)
    eight = decode_attention(figures, MODELS["llama2-7b"], GPUS["a100"], 4)
    assert many.us(16, 16 * 1000) == pytest.approx(eight.us(64, 64 * 1000))
    assert any("4 x sequences" in line for line in many.lines)


def test_a_step_is_the_sum_of_its_parts() -> None:
    model, gpu, figures = MODELS["llama2-13b"], GPUS["h100"], load()
    times = step_time_of(model, gpu, 2, link="nvlink", overheads="none")
    assert isinstance(times, LayeredStepTime)
    reduce = all_reduce(figures, gpu, 2, link="nvlink", custom=True)
    roof, _ = roofline_for(figures, gpu)
    reduce_us = reduce.us(8 * model.hidden * 2)
    attention_us = decode_attention(figures, model, gpu, 2).us(8, 8 * 500)
    layers_us = model.layers * (dense(figures, model, gpu, 2).us(8) + attention_us + 2 * reduce_us)
    ends_us = head_us(roof, gpu, model, 2, 8) + reduce.us(8 * model.vocab * 2) / 2 + reduce_us
    rest_us = 1e6 * times.gpu_s(8, 8 * 500, []) - layers_us - ends_us
    assert 0 < rest_us < 20, "only the embedding is left"


def test_a_step_of_nothing_takes_no_time() -> None:
    assert step_time_of(MODELS["llama2-7b"], GPUS["a100"], 1, link="nvlink").gpu_s(0, 0, []) == 0.0


def test_without_its_ends_a_step_is_shorter_by_the_logits() -> None:
    model, gpu, figures = MODELS["llama3-8b"], GPUS["a100"], load()
    reduce, cpu = all_reduce(figures, gpu, 1, link="nvlink", custom=False), overheads(figures, "none", 1)
    whole = LayeredStepTime(model, gpu, 1, calibration=figures, reduce=reduce, cpu=cpu)
    layers = LayeredStepTime(model, gpu, 1, calibration=figures, reduce=reduce, cpu=cpu, ends=False)
    logits_s = 2 * model.vocab * model.hidden / 2039e9
    assert logits_s < whole.gpu_s(4, 400, []) - layers.gpu_s(4, 400, []) < 2 * logits_s


@pytest.mark.parametrize("degree", [2, 4, 8])
def test_pcie_is_slower_than_nvlink(degree: int) -> None:
    model, gpu = MODELS["llama2-13b"], GPUS["a100"]
    nvlink, pcie = (step_time_of(model, gpu, degree, link=link) for link in ("nvlink", "pcie"))
    assert nvlink.gpu_s(0, 0, [(2048, 0)]) < 0.8 * pcie.gpu_s(0, 0, [(2048, 0)])
    assert nvlink.gpu_s(32, 32 * 500, []) < pcie.gpu_s(32, 32 * 500, [])


def test_the_custom_all_reduce_helps_small_messages_on_nvlink_only() -> None:
    figures = load()

    def us(gpu: str, devices: int, link: str, *, custom: bool, size: int) -> float:
        return all_reduce(figures, GPUS[gpu], devices, link=link, custom=custom).us(size)

    small, large = 1 << 18, 64 << 20
    assert us("a100", 4, "nvlink", custom=True, size=small) < 0.8 * us("a100", 4, "nvlink", custom=False, size=small)
    assert us("a100", 4, "nvlink", custom=True, size=large) == pytest.approx(
        us("a100", 4, "nvlink", custom=False, size=large), rel=0.1
    )
    assert us("l40s", 4, "pcie", custom=True, size=small) == us("l40s", 4, "pcie", custom=False, size=small)


def test_one_device_needs_no_all_reduce_and_four_h100s_lie_between_two_and_eight() -> None:
    figures, gpu = load(), GPUS["h100"]
    assert all_reduce(figures, gpu, 1, link="pcie", custom=True).us(1 << 20) == 0.0
    two, four, eight = (all_reduce(figures, gpu, n, link="nvlink", custom=True).us(1 << 22) for n in (2, 4, 8))
    assert two < four < eight


def test_overheads_grow_with_sequences_and_workers() -> None:
    model, gpu = MODELS["llama2-7b"], GPUS["a100"]
    cpu = {name: step_time_of(model, gpu, 1, link="nvlink", overheads=name).cpu_s(64) for name in PROFILES}
    assert cpu["none"] == 0.0 < cpu["trtllm-1.2"] < cpu["vllm-0.32"] < cpu["vllm-0.4.2"]
    # What was measured for 64 sequences: 3.5 ms.
    assert cpu["vllm-0.4.2"] == pytest.approx(3.5e-3, rel=0.1)
    alone, two = (step_time_of(model, gpu, n, link="nvlink", overheads="vllm-0.4.2") for n in (1, 2))
    assert two.cpu_s(1) > alone.cpu_s(1)
    assert alone.cpu_s(128) > alone.cpu_s(1)


PROFILES = ("vllm-0.4.2", "vllm-0.32", "trtllm-1.2", "none")


@pytest.mark.parametrize(("covers", "cpu_s"), [("step", 0.0), ("gpu", 0.6e-3 + 14e-6)])
def test_a_users_linear_model_takes_the_place_of_the_tables(covers: str, cpu_s: float) -> None:
    linear = msgspec.convert(
        {
            "base_s": 1e-3,
            "prefill_token_s": 1e-5,
            "chunk_squared_s": 0.0,
            "chunk_cached_s": 0.0,
            "decode_s": 1e-4,
            "context_token_s": 1e-8,
            "covers": covers,
        },
        LinearModel,
    )
    times = step_time_of(MODELS["llama2-7b"], GPUS["a100"], 1, link="nvlink", linear=linear)
    assert times.gpu_s(2, 1000, [(10, 0)]) == pytest.approx(1e-3 + 1e-4 + 2e-4 + 1e-5)
    assert times.cpu_s(1) == pytest.approx(cpu_s)


@pytest.mark.parametrize(
    ("degree", "link", "profile", "key"),
    [
        (3, "nvlink", "none", "tensor_parallel_size"),
        (2, "infiniband", "none", "link"),
        (1, "nvlink", "vllm-0.3.2", "overheads"),
    ],
)
def test_what_there_are_no_figures_for_is_refused(degree: int, link: str, profile: str, key: str) -> None:
    with pytest.raises(UserError) as refused:
        step_time_of(MODELS["llama2-7b"], GPUS["a100"], degree, link=link, overheads=profile)
    assert refused.value.key == key
    assert refused.value.hint


def test_a_degree_that_does_not_divide_heads_is_refused() -> None:
    odd = msgspec.structs.replace(MODELS["llama2-7b"], heads=36, kv_heads=36)
    with pytest.raises(UserError, match="36 heads"):
        step_time_of(odd, GPUS["a100"], 8, link="nvlink")


def test_a_gpu_without_nvlink_has_no_times_over_it() -> None:
    with pytest.raises(UserError, match="nvlink between l40s GPUs"):
        step_time_of(MODELS["llama2-7b"], GPUS["l40s"], 2, link="nvlink")


@pytest.mark.parametrize("gpu", sorted(GPUS))
@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_profile_has_a_time_and_says_where_it_is_from(model: str, gpu: str) -> None:
    for degree in DEGREES:
        for link in {"pcie", GPUS[gpu].link}:
            times = step_time_of(MODELS[model], GPUS[gpu], degree, link=link)
            assert 1e-3 < times.gpu_s(16, 16 * 500, [(200, 0)]) < 10
            lines = provenance(MODELS[model], GPUS[gpu], degree, link)
            assert len(lines) >= 5
            derived = [line for line in lines if "DERIVED" in line]
            assert derived or gpu not in ("a10", "a40", "h200")


def test_the_same_service_shares_what_it_computed() -> None:
    one, other = (step_time_of(MODELS["qwen3-8b"], GPUS["a100"], 1, link="nvlink") for _ in range(2))
    assert one is other
    first, again = (one.gpu_s(3, 300, [(77, 5), (9, 0)]) for _ in range(2))
    assert first == again
    assert math.isfinite(first)
