"""Does the simulator move the way real engines do? Two tables, in Markdown, in virtual time.

1. The paper's trade-offs: one flag at a time, and the sign that the figures must have.
2. Measured vLLM runs (GPUStack's performance lab, in ../shared where it is): one flag at a time, predicted and measured
   ratios side by side, and two services whose model the simulator knows, in absolute figures.

    python tools/simulator_checks.py [--seeds 3]

Exit code 1 if a trade-off has the wrong sign.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from scoot.benchmark.trace_row import TraceRow
from scoot.benchmark.workload import profile_rows, resolve
from scoot.simulator.load import Load
from scoot.simulator.service import SimulatedService
from scoot.simulator.trial import simulate
from scoot.wire.measurement import Metrics
from scoot.wire.spec import ArrivalProcess, Arrivals, Config, Limits, Workload

MEASURED: Final = Path(__file__).parents[2] / "shared" / "data" / "gpu_timings" / "e2e_vllm_gpustack.csv.gz"

_FIGURES: Final[Mapping[str, Callable[[Metrics], float]]] = {
    "TTFT": lambda metrics: metrics.ttft_ms.mean if metrics.ttft_ms else float("nan"),
    "TPOT": lambda metrics: metrics.tpot_ms.mean if metrics.tpot_ms else float("nan"),
    "p99 ITL": lambda metrics: metrics.itl_ms.p99 if metrics.itl_ms else float("nan"),
    "p95 E2E": lambda metrics: metrics.e2e_ms.p95 if metrics.e2e_ms else float("nan"),
    "req/s": lambda metrics: metrics.request_throughput,
}
_SAME: Final = 0.03
"""Ratios this near to 1 count as no change."""

_NEAR: Final = 0.05
"""Runs whose inputs add up to so nearly the same stood under the same load."""

_PATIENT: Final = Limits(max_failed_share=1.0, stall_timeout_s=3600.0, start_timeout_s=3600.0)


class TradeOff(msgspec.Struct, frozen=True, kw_only=True):
    """One flag changed, and what must become of the figures: "+" larger, "-" smaller, "=" the same."""

    what: str
    profile: str
    rate: float
    base: SimulatedService
    change: Config = {}
    link: str = ""
    expected: Mapping[str, str]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A measured pair, and a dense model, with as much room for the KV cache, in place of a mixture of experts."""

    what: str
    before: tuple[str, str]
    after: tuple[str, str]
    stand_in: SimulatedService
    before_parameters: Config = {}
    after_parameters: Config = {}
    devices_after: int = 1


_A100: Final = SimulatedService(engine="vllm-0.4.2", model="llama2-13b", gpu="a100", devices=2)
_NEW: Final = SimulatedService(engine="vllm-0.32", model="llama2-13b", gpu="a100", devices=2)
_A10: Final = SimulatedService(engine="vllm-0.4.2", model="llama2-7b", gpu="a10", devices=2)

TRADE_OFFS: Final = (
    TradeOff(
        what="max_num_seqs 256 -> 16 (0.4.2)",
        profile="BOT",
        rate=4.0,
        base=_A100,
        change={"max_num_seqs": 16},
        expected={"TTFT": "+", "TPOT": "-"},
    ),
    TradeOff(
        what="max_num_seqs 256 -> 16 (0.32)",
        profile="BOT",
        rate=4.0,
        base=_NEW,
        change={"max_num_seqs": 16},
        expected={"TTFT": "+", "TPOT": "-"},
    ),
    TradeOff(
        what="chunked prefill, 512 tokens, instead of whole prompts first (0.4.2)",
        profile="SQL",
        rate=8.0,
        base=_A100,
        change={"enable_chunked_prefill": True, "max_num_batched_tokens": 512},
        expected={"TTFT": "+", "p99 ITL": "-"},
    ),
    TradeOff(
        what="chunks of 256 -> 4,096 tokens (0.32)",
        profile="SQL",
        rate=8.0,
        base=msgspec.structs.replace(
            _NEW, parameters={"max_num_batched_tokens": 256, "max_num_seqs": 128, "enable_prefix_caching": False}
        ),
        change={"max_num_batched_tokens": 4096},
        expected={"TTFT": "-", "p99 ITL": "+"},
    ),
    TradeOff(
        what="2 x tp 1 -> tp 2 over NVLink, light load",
        profile="BOT",
        rate=1.0,
        base=_A100,
        change={"tensor_parallel_size": 2},
        expected={"TPOT": "-"},
    ),
    TradeOff(
        what="tp 2: NVLink -> PCIe",
        profile="BOT",
        rate=3.0,
        base=msgspec.structs.replace(_A100, link="nvlink", parameters={"tensor_parallel_size": 2}),
        link="pcie",
        expected={"TTFT": "+", "TPOT": "+"},
    ),
    TradeOff(
        what="2 x tp 1 -> tp 2 over PCIe (A10, 7B), heavy prompts",
        profile="CLS",
        rate=8.0,
        base=_A10,
        change={"tensor_parallel_size": 2},
        expected={"req/s": "=", "TTFT": "+"},
    ),
    TradeOff(
        what="prefix caching on SQL",
        profile="SQL",
        rate=8.0,
        base=_A100,
        change={"enable_prefix_caching": True},
        expected={"TTFT": "-", "p95 E2E": "-"},
    ),
    TradeOff(
        what="prefix caching on CLS",
        profile="CLS",
        rate=15.0,
        base=_A100,
        change={"enable_prefix_caching": True},
        expected={"TTFT": "-", "p95 E2E": "-"},
    ),
    TradeOff(
        what="prefix caching on BOT, which shares 18 tokens",
        profile="BOT",
        rate=3.0,
        base=_A100,
        change={"enable_prefix_caching": True},
        expected={"p95 E2E": "=", "TPOT": "="},
    ),
    TradeOff(
        what="scheduler_delay_factor 0 -> 1.0",
        profile="CLS",
        rate=8.0,
        base=_A10,
        change={"scheduler_delay_factor": 1.0},
        expected={"TTFT": "+", "TPOT": "-"},
    ),
    TradeOff(
        what="asynchronous scheduling off -> on (0.32)",
        profile="BOT",
        rate=3.0,
        base=msgspec.structs.replace(_NEW, parameters={"async_scheduling": False}),
        change={"async_scheduling": True},
        expected={"TPOT": "-"},
    ),
    TradeOff(
        what="one replica -> two, least outstanding",
        profile="BOT",
        rate=2.0,
        base=msgspec.structs.replace(_A100, devices=1),
        change={},
        expected={"TPOT": "-"},
    ),
)


def trade_offs(seeds: Sequence[int]) -> tuple[list[str], int]:
    """Lines of the first table, and how many signs are wrong."""
    lines = ["| change | workload | figure | ratio | expected | |", "|---|---|---|---|---|---|"]
    wrong = 0
    for each in TRADE_OFFS:
        after = msgspec.structs.replace(each.base, parameters={**each.base.parameters, **each.change})
        if each.link:
            after = msgspec.structs.replace(after, link=each.link)
        if each.base.devices == 1 and not each.change:
            after = msgspec.structs.replace(after, devices=2)
        load = _profile_load(each.profile, each.rate)
        before_metrics, after_metrics = (_measure(service, load, seeds) for service in (each.base, after))
        for figure, sign in each.expected.items():
            ratio = after_metrics[figure] / before_metrics[figure]
            found = "=" if abs(ratio - 1) <= _SAME else "+" if ratio > 1 else "-"
            wrong += found != sign
            verdict = "ok" if found == sign else "WRONG"
            lines.append(
                f"| {each.what} | {each.profile} {each.rate:g}/s | {figure} | {ratio:.2f} | {sign} | {verdict} |"
            )
    return lines, wrong


def _profile_load(profile: str, rate: float) -> tuple[Workload, tuple[TraceRow, ...]]:
    workload = Workload(profile=profile, arrivals=Arrivals(rate=rate), duration_s=100.0, warm_up_s=20.0)
    return workload, resolve(workload, max_model_len=4096, rows=profile_rows(workload)).rows


def _measure(
    service: SimulatedService, load: tuple[Workload, tuple[TraceRow, ...]], seeds: Sequence[int]
) -> dict[str, float]:
    """Medians over the seeds."""
    workload, rows = load
    found: dict[str, list[float]] = {name: [] for name in _FIGURES}
    for seed in seeds:
        trial = simulate(service, workload, rows, seed=seed, limits=_PATIENT, load=Load(workload, rows, seed=seed))
        if trial.metrics is None:
            sys.exit(f"{service} does not run: {trial.message}")
        for name, figure in _FIGURES.items():
            found[name].append(figure(trial.metrics))
    return {name: statistics.median(values) for name, values in found.items()}


_OLD_SCHEDULING: Final[Config] = {"async_scheduling": False}
"""vLLM 0.11, which was measured, plans ahead only when told to."""

_GPT_A100: Final = "openai/gpt-oss-120b --max-model-len 32768"
_GPT_H100: Final = _GPT_A100
_STAND_IN_A100: Final = SimulatedService(model="qwen3-32b", gpu="a100", max_model_len=32768, parameters=_OLD_SCHEDULING)
_STAND_IN_H100: Final = SimulatedService(model="qwen3-32b", gpu="h100", max_model_len=32768, parameters=_OLD_SCHEDULING)
_STAND_IN_20B: Final = SimulatedService(model="qwen3-8b", gpu="h100", parameters=_OLD_SCHEDULING)

RUNS: Final = (
    Run(
        what="async scheduling, A100, little KV cache",
        before=("2 x NVIDIA A100", _GPT_A100),
        after=("2 x NVIDIA A100", f"{_GPT_A100} --async-scheduling"),
        stand_in=_STAND_IN_A100,
        after_parameters={"async_scheduling": True},
    ),
    Run(
        what="async scheduling, H100, little KV cache",
        before=("2 x NVIDIA H100", _GPT_H100),
        after=("2 x NVIDIA H100", f"{_GPT_H100} --async-scheduling"),
        stand_in=_STAND_IN_H100,
        after_parameters={"async_scheduling": True},
    ),
    Run(
        what="async scheduling, H100, small model",
        before=("A single NVIDIA H100", "openai/gpt-oss-20b"),
        after=("A single NVIDIA H100", "openai/gpt-oss-20b --async-scheduling"),
        stand_in=_STAND_IN_20B,
        after_parameters={"async_scheduling": True},
    ),
    Run(
        what="max_num_batched_tokens 2,048 -> 4,096, A100",
        before=("2 x NVIDIA A100", f"{_GPT_A100} --async-scheduling"),
        after=("2 x NVIDIA A100", f"{_GPT_A100} --async-scheduling --max-num-batched-tokens 4096"),
        stand_in=_STAND_IN_A100,
        before_parameters={"async_scheduling": True},
        after_parameters={"async_scheduling": True, "max_num_batched_tokens": 4096},
    ),
    Run(
        what="max_num_batched_tokens 8,192 -> 16,384, H100",
        before=("2 x NVIDIA H100", f"{_GPT_H100} --async-scheduling"),
        after=("2 x NVIDIA H100", f"{_GPT_H100} --async-scheduling --max-num-batched-tokens 16384"),
        stand_in=_STAND_IN_H100,
        before_parameters={"async_scheduling": True},
        after_parameters={"async_scheduling": True, "max_num_batched_tokens": 16384},
    ),
    Run(
        what="tp 1 -> 2, A100, little KV cache before",
        before=("2 x NVIDIA A100", f"{_GPT_A100} --async-scheduling"),
        after=("2 x NVIDIA A100", f"{_GPT_A100} --async-scheduling -tp 2"),
        stand_in=_STAND_IN_A100,
        before_parameters={"async_scheduling": True},
        after_parameters={"async_scheduling": True, "tensor_parallel_size": 2},
        devices_after=2,
    ),
    Run(
        what="tp 1 -> 2, H100, little KV cache before",
        before=("2 x NVIDIA H100", f"{_GPT_H100} --async-scheduling"),
        after=("2 x NVIDIA H100", f"{_GPT_H100} --async-scheduling -tp 2"),
        stand_in=_STAND_IN_H100,
        before_parameters={"async_scheduling": True},
        after_parameters={"async_scheduling": True, "tensor_parallel_size": 2},
        devices_after=2,
    ),
    Run(
        what="tp 2 -> 4, H100",
        before=("2 x NVIDIA H100", f"{_GPT_H100} --async-scheduling -tp 2"),
        after=("2 x NVIDIA H100", f"{_GPT_H100} --async-scheduling -tp 4"),
        stand_in=msgspec.structs.replace(_STAND_IN_H100, devices=2),
        before_parameters={"async_scheduling": True, "tensor_parallel_size": 2},
        after_parameters={"async_scheduling": True, "tensor_parallel_size": 4},
        devices_after=4,
    ),
    Run(
        what="max_num_batched_tokens 2,048 -> 8,192, 8 x A100, tp 8",
        before=("8 x NVIDIA A100", "zai-org/GLM-4.6-FP8 -tp 8"),
        after=("8 x NVIDIA A100", "zai-org/GLM-4.6-FP8 -tp 8 --max-num-batched-tokens 8192"),
        stand_in=SimulatedService(model="llama3-70b", gpu="a100", devices=8, parameters=_OLD_SCHEDULING),
        before_parameters={"tensor_parallel_size": 8},
        after_parameters={"tensor_parallel_size": 8, "max_num_batched_tokens": 8192},
        devices_after=8,
    ),
)

ABSOLUTE: Final = (
    (
        ("A single NVIDIA H100", "Qwen/Qwen3-14B"),
        SimulatedService(model="qwen3-14b", gpu="h100", parameters=_OLD_SCHEDULING),
    ),
    (
        ("A single NVIDIA A100", "Qwen/Qwen3-32B --max-model-len 32768"),
        SimulatedService(model="qwen3-32b", gpu="a100", max_model_len=32768, parameters=_OLD_SCHEDULING),
    ),
)

_SHAREGPT: Final = (1000, 217.4, 201.5)
"""Requests at once, mean input, mean output, as the runs report them."""


def measured_runs() -> list[dict[str, str]]:
    """Rows of the measured file that stood under the same load: 1,000 conversations at once."""
    with gzip.open(MEASURED, "rt", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    count, mean_input, _ = _SHAREGPT
    alike = [row for row in rows if row["req"] and row["in_tok"]]
    return [row for row in alike if abs(float(row["in_tok"]) / (count * mean_input) - 1) < _NEAR]


def conversations(seed: int) -> tuple[Workload, tuple[TraceRow, ...]]:
    """Conversations of the measured mean lengths (log-normal, as ShareGPT's are, near enough), all at once."""
    count, mean_input, mean_output = _SHAREGPT
    rng = np.random.Generator(np.random.PCG64(seed))

    def lengths(mean: float, sigma: float) -> list[int]:
        drawn = np.exp(rng.normal(0.0, sigma, count))
        drawn = np.clip(drawn * mean / drawn.mean(), 4, 4000)
        scaled: list[int] = np.rint(drawn * mean / drawn.mean()).astype(int).tolist()
        return scaled

    rows = tuple(
        TraceRow(input_tokens=i, output_tokens=o)
        for i, o in zip(lengths(mean_input, 1.2), lengths(mean_output, 1.0), strict=True)
    )
    workload = Workload(
        profile="BOT",
        arrivals=Arrivals(process=ArrivalProcess.CONSTANT, rate=1e4),
        duration_s=count / 1e4,
        warm_up_s=0.0,
        request_timeout_s=3600.0,
        drain_s=3600.0,
    )
    return workload, rows


def against_measured(seeds: Sequence[int]) -> list[str]:
    """Lines of the second table and the third."""
    if not MEASURED.is_file():
        return ["the measured runs are not here"]
    runs = measured_runs()
    load = conversations(0)
    lines = ["| change | stand-in | figure | measured | predicted | sign |", "|---|---|---|---|---|---|"]
    for each in RUNS:
        before, after = _row(runs, each.before), _row(runs, each.after)
        services = [
            msgspec.structs.replace(each.stand_in, parameters={**each.stand_in.parameters, **each.before_parameters}),
            msgspec.structs.replace(
                each.stand_in,
                devices=each.devices_after,
                parameters={**each.stand_in.parameters, **each.after_parameters},
            ),
        ]
        first, second = (_measure(service, load, seeds) for service in services)
        for figure, column in (("req/s", "rps"), ("TTFT", "ttft_mean"), ("TPOT", "tpot_mean")):
            measured = float(after[column]) / float(before[column])
            predicted = second[figure] / first[figure]
            flat = abs(measured - 1) <= _SAME or abs(predicted - 1) <= _SAME
            sign = "flat" if flat else "ok" if (measured > 1) == (predicted > 1) else "DIFFERS"
            name = f"{each.stand_in.model} {each.stand_in.gpu}"
            lines.append(f"| {each.what} | {name} | {figure} | {measured:.2f} | {predicted:.2f} | {sign} |")
    lines += ["", "| service | figure | measured | simulated | ratio |", "|---|---|---|---|---|"]
    for asked, service in ABSOLUTE:
        row, found = _row(runs, asked), _measure(service, load, seeds)
        for figure, column in (("req/s", "rps"), ("TTFT", "ttft_mean"), ("TPOT", "tpot_mean")):
            measured = float(row[column])
            lines.append(
                f"| {service.model}, {service.gpu} | {figure} | {measured:,.1f} | {found[figure]:,.1f} |"
                f" {found[figure] / measured:.2f} |"
            )
    return lines


def _row(runs: Sequence[dict[str, str]], asked: tuple[str, str]) -> dict[str, str]:
    hardware, serve = asked
    for row in runs:
        if (
            row["hardware"].replace("\u00d7", "x").startswith(hardware)
            and " ".join(row["serve"].split()) == f"vllm serve {serve}"
        ):
            return row
    sys.exit(f"the measured runs have no {asked}")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each configuration; the median counts")
    seeds = range(parser.parse_args().seeds)
    lines, wrong = trade_offs(seeds)
    print("\n".join(lines))
    print(f"\n{wrong} wrong\n")
    print("\n".join(against_measured(seeds)))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
