"""Shares of device memory: against public figures, in the words of real engines, and what dies under load."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from scoot.agent.core.classify import classify_load, classify_start
from scoot.agent.host.process import ExitStatus
from scoot.simulator.memory import (
    STYLES,
    MemoryPlan,
    activation_bytes_per_token,
    kv_bytes_per_token,
    out_of_memory_line,
    plan_memory,
)
from scoot.simulator.settings import StartFailure
from scoot.simulator.shapes import GIB, GPUS, MODELS
from scoot.wire.reasons import Blame, Reason, blame_of

FACTS = Path(__file__).parents[3] / "shared" / "data" / "gpu_timings" / "kv_facts.csv"
DEFAULTS = {"vllm-0.4.2": (0.9, 4096, 256), "vllm-0.32": (0.92, 2048, 256), "trtllm-1.2": (0.9, 8192, 2048)}


def plan(model: str, gpu: str, degree: int = 1, *, style: str = "vllm-0.32", **changed: Any) -> MemoryPlan:
    utilization, budget, running = DEFAULTS[style]
    asked: dict[str, Any] = {
        "utilization": utilization,
        "token_budget": budget,
        "max_running": running,
        "max_model_len": 2048,
        "block_size": 16,
    }
    return plan_memory(MODELS[model], GPUS[gpu], degree, style=style, **{**asked, **changed})


def failure(*args: Any, **changed: Any) -> str:
    with pytest.raises(StartFailure) as caught:
        plan(*args, **changed)
    assert (caught.value.kind, caught.value.exit_code) == ("memory", 1)
    return caught.value.lines[0]


def test_blocks_are_those_of_a_real_engines_log() -> None:
    assert plan("llama2-7b", "a100", style="vllm-0.4.2", max_model_len=4096).blocks == pytest.approx(7449, rel=0.001)


def test_activation_peak_is_that_of_a_real_engines_log() -> None:
    for degree in (1, 2):
        peak = plan("llama3-8b", "a100", degree, style="vllm-0.4.2", token_budget=8192).activation_bytes
        assert peak / GIB == pytest.approx(1.26, rel=0.01)


@pytest.mark.skipif(not FACTS.exists(), reason="the shared figures are not here")
def test_kv_capacity_is_near_that_computed_from_shapes() -> None:
    """Where a model nearly fills its device, 5 % are few bytes; these figures have no CUDA graphs and no sampler."""
    compared = 0
    with FACTS.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            degree = int(row["tp"])
            for share in ("0.80", "0.90", "0.95"):
                tokens = int(row[f"kv_tokens_util{share}"])
                if not tokens:
                    continue
                mine = plan(
                    row["model"],
                    row["gpu"].removesuffix("-80g"),
                    degree,
                    utilization=float(share),
                    token_budget=4096,
                    max_model_len=16,
                )
                away = abs(mine.blocks * 16 - tokens)
                away_bytes = away * kv_bytes_per_token(MODELS[row["model"]], degree)
                assert away <= 0.05 * tokens or away_bytes < 0.5e9, (row["model"], row["gpu"], degree, share, tokens)
                compared += 1
    assert compared > 250


@pytest.mark.parametrize(
    ("arguments", "changed", "line"),
    [
        (("llama2-13b", "a10"), {}, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate "),
        (("llama2-13b", "a10"), {"style": "vllm-0.4.2"}, "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried "),
        (("llama2-13b", "a10"), {"style": "trtllm-1.2"}, "torch.OutOfMemoryError: CUDA out of memory. Tried "),
        (
            ("llama2-7b", "a10"),
            {"utilization": 0.55},
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when init",
        ),
        (
            ("llama2-7b", "a10"),
            {"utilization": 0.55, "style": "vllm-0.4.2"},
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when init",
        ),
        (
            ("llama2-7b", "a10"),
            {"utilization": 0.66, "max_model_len": 4096},
            "ValueError: To serve at least one request with the model's max seq len (4096), (2.0 GiB KV cache is",
        ),
        (
            ("llama2-7b", "a10"),
            {"utilization": 0.66, "max_model_len": 4096, "style": "vllm-0.4.2"},
            "ValueError: The model's max seq len (4096) is larger than the maximum number of tokens that can be stored",
        ),
        (
            ("llama2-7b", "a100"),
            {"blocks_override": 100},
            "ValueError: To serve at least one request with the model's max seq len (2048), ",
        ),
        (("llama2-7b", "a100"), {"blocks_override": 20_000}, "torch.OutOfMemoryError: CUDA out of memory. Tried to "),
        (("llama2-7b", "a10"), {"utilization": 0.99}, "ValueError: Free memory on device cuda:0 (21.88/22.3 GiB) on "),
        (("llama2-7b", "a10"), {"utilization": 0.99, "style": "vllm-0.4.2"}, "torch.cuda.OutOfMemoryError: CUDA out "),
        (
            ("llama3-8b", "a10"),
            {"max_running": 2048, "blocks_override": 2500},
            "RuntimeError: CUDA out of memory occurred when warming up sampler with 2048 dummy requests. Please try ",
        ),
    ],
)
def test_a_start_fails_in_the_engines_words_and_the_agent_knows_them(
    arguments: tuple[str, str], changed: dict[str, Any], line: str
) -> None:
    said = failure(*arguments, **changed)
    assert said.startswith(line)
    reason, told = classify_start(ExitStatus(code=1), timed_out=False, log_text=said + "\n", engine="vllm")
    assert reason == Reason.ENGINE_OOM
    assert told.startswith(line)


def test_trtllm_without_a_block_blames_the_configuration() -> None:
    said = failure("llama2-7b", "a10", style="trtllm-1.2", utilization=0.0001)
    assert said == "AssertionError: Impossible to fit in any sequence in kvCache"
    reason, _ = classify_start(ExitStatus(code=1), timed_out=False, log_text=said, engine="trtllm")
    assert blame_of(reason) == Blame.CONFIG


def test_the_number_of_tokens_in_a_refusal_is_that_of_the_blocks() -> None:
    said = failure("llama2-7b", "a10", utilization=0.66, max_model_len=4096, style="vllm-0.4.2")
    held = plan("llama2-7b", "a10", utilization=0.66, max_model_len=16, style="vllm-0.4.2").blocks * 16
    assert f"stored in KV cache ({held})" in said
    assert plan("llama2-7b", "a10", utilization=0.66, max_model_len=held, style="vllm-0.4.2").blocks * 16 == held


def test_running_out_under_load_is_classified() -> None:
    for style in STYLES:
        line = out_of_memory_line(GPUS["a10"], 3e8, 1e8, style=style)
        assert (
            "Tried to allocate 286.10 MiB. GPU 0 has a total capacity of 22.30 GiB of which 95.37 MiB is free" in line
        )
        reason, _ = classify_load(ExitStatus(code=0), hung=False, failed_share=0.5, log_text=line, engine="vllm")
        assert reason == Reason.ENGINE_OOM


@pytest.mark.parametrize("gpu", sorted(GPUS))
@pytest.mark.parametrize("style", ["vllm-0.4.2", "vllm-0.32"])
@pytest.mark.parametrize("degree", [1, 2, 4, 8])
def test_defaults_survive_their_largest_step(gpu: str, style: str, degree: int) -> None:
    big = GPUS[gpu].usable_gib > 70 and gpu != "a100"
    budget, running = (8192, 1024) if style == "vllm-0.32" and big else DEFAULTS[style][1:]
    started = 0
    for model in MODELS:
        try:
            made = plan(model, gpu, degree, style=style, token_budget=budget, max_running=running, max_model_len=16)
        except StartFailure:
            continue
        started += 1
        assert made.load.short_by(budget, running) < 0, model
    assert started


def test_a_large_budget_and_a_large_share_start_and_die_under_load_only() -> None:
    safe = plan("llama2-13b", "a10", 2, token_budget=32768)
    assert safe.load.short_by(32768, 100) < 0
    dies = plan("llama2-13b", "a10", 2, token_budget=32768, utilization=0.97)
    assert dies.load.short_by(2048, 100) < 0
    assert dies.load.short_by(32768, 100) > 0
    small = plan("llama2-13b", "a10", 2, token_budget=2048, utilization=0.97)
    assert small.load.short_by(2048, 100) < 0


def test_many_sequences_with_a_large_vocabulary_die_under_load() -> None:
    made = plan("llama3-8b", "a10", 2, token_budget=8192, max_running=2048, utilization=0.95)
    assert made.load.short_by(8192, 200) < 0
    assert made.load.short_by(8192, 2048) > 0


@pytest.mark.parametrize("style", sorted(STYLES))
def test_blocks_fall_with_what_else_needs_memory(style: str) -> None:
    base = plan("llama3-8b", "l40s", 2, style=style)
    assert plan("llama3-8b", "l40s", 2, style=style, token_budget=65536).blocks < base.blocks
    assert plan("llama3-8b", "l40s", 2, style=style, token_budget=8192, max_running=2048 + 1024).blocks < base.blocks
    assert plan("llama3-8b", "l40s", 2, style=style, utilization=0.8).blocks < base.blocks
    assert plan("llama3-8b", "l40s", 1, style=style).blocks < base.blocks / 2 + base.blocks % 2
    assert plan("llama3-8b", "l40s", 2, style=style, block_size=32).blocks == pytest.approx(base.blocks / 2, abs=1)


@pytest.mark.parametrize("style", sorted(STYLES))
def test_a_device_never_holds_more_than_it_has(style: str) -> None:
    for gpu in GPUS.values():
        made = plan("llama3-8b", gpu.name, 2, style=style)
        held = made.weights_bytes + made.kv_bytes + made.load.free_bytes
        assert made.weights_bytes + made.kv_bytes < held < gpu.usable_gib * GIB
        assert made.kv_bytes == made.blocks * 16 * kv_bytes_per_token(MODELS["llama3-8b"], 2)


def test_every_device_has_at_least_one_kv_head() -> None:
    model = MODELS["llama3-8b"]
    assert kv_bytes_per_token(model, 1) == model.kv_bytes_per_token
    assert kv_bytes_per_token(model, 8) == kv_bytes_per_token(model, 16) == model.kv_bytes_per_token // 8


def test_hidden_states_are_not_shared_out() -> None:
    model = MODELS["llama2-7b"]
    assert activation_bytes_per_token(model, 1) == 2 * (3 * 4096 + 3 * 11008)
    assert activation_bytes_per_token(model, 8) > activation_bytes_per_token(model, 1) / 8
