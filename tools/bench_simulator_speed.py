"""How fast the simulator is in virtual time: requests per second, simulated over wall time, and how time grows.

BOT at the SCOOT paper's rates, Llama-2-13B on two GPUs: 5 requests/s on A10 (tensor-parallel: one holds no 13B), and 10
on A100. All of a trial counts: resolving the service, the run, its timings and metrics. What does not depend on the
configuration, the rows and the schedule, is made once and told apart.

    python tools/bench_simulator_speed.py [--requests 1000,10000,100000] [--rate R] [--repeat 3] [--profile] [--json]
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import resource
import sys
from time import perf_counter, process_time
from typing import Final

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from scoot.benchmark.workload import profile_rows, resolve
from scoot.simulator.load import Load
from scoot.simulator.service import SimulatedService
from scoot.simulator.trial import Trial, simulate
from scoot.wire.spec import Arrivals, Config, Limits, Workload

_MODEL: Final = "llama2-13b"
_CASES: Final[tuple[tuple[str, float, str, Config], ...]] = (
    ("a10", 5.0, "vllm-0.4.2", {"tensor_parallel_size": 2}),
    ("a10", 5.0, "vllm-0.32", {"tensor_parallel_size": 2}),
    ("a100", 10.0, "vllm-0.4.2", {}),
    ("a100", 10.0, "vllm-0.32", {}),
)
_HEADER: Final = (
    f"{'gpu':5} {'engine':11} {'req/s':>5} {'requests':>8} {'tokens':>10} {'load s':>7} {'trial s':>8} {'CPU s':>7}"
    f" {'req/s':>8} {'simulated':>9} {'x wall':>7}  outcome"
)


def _load(rate: float, requests: int) -> tuple[Load, float]:
    """About so many requests, and the seconds that making them took."""
    began_s = perf_counter()
    workload = Workload(profile="BOT", arrivals=Arrivals(rate=rate), duration_s=requests / rate, warm_up_s=0.0)
    rows = resolve(workload, max_model_len=4096, rows=profile_rows(workload)).rows
    load = Load(workload, rows, seed=0)
    return load, perf_counter() - began_s


def _trial(service: SimulatedService, load: Load) -> Trial:
    # Overload is part of what is measured here: a share of failed requests must not matter.
    return simulate(service, load.workload, (), seed=load.seed, load=load, limits=Limits(max_failed_share=1.0))


def main() -> int:
    """Entry point; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", default="1000,10000,100000", help="about so many, comma-separated")
    parser.add_argument("--rate", type=float, help="requests/s, in place of the paper's, which overload some")
    parser.add_argument(
        "--repeat", type=int, default=3, help="the fastest of so many counts, for up to 10,000 requests"
    )
    parser.add_argument("--profile", action="store_true", help="where the time goes, for the smallest number")
    parser.add_argument("--json", action="store_true", help="a JSON line for each measurement")
    arguments = parser.parse_args()
    sizes = [int(text) for text in arguments.requests.split(",")]
    if not arguments.json:
        print(_HEADER)
    for gpu, paper_rate, engine, parameters in _CASES:
        rate = arguments.rate or paper_rate
        service = SimulatedService(engine=engine, model=_MODEL, gpu=gpu, devices=2, parameters=parameters)
        for size in sizes:
            load, load_s = _load(rate, size)
            repeats = arguments.repeat if size <= 10_000 else 1  # noqa: PLR2004 - longer ones are steady by themselves
            best_s = best_cpu_s = float("inf")
            for _ in range(repeats):
                began_s, began_cpu_s = perf_counter(), process_time()
                trial = _trial(service, load)
                best_s = min(best_s, perf_counter() - began_s)
                best_cpu_s = min(best_cpu_s, process_time() - began_cpu_s)
            _show(gpu, engine, rate, load_s, best_s, best_cpu_s, trial, as_json=arguments.json)
            if arguments.profile and size == sizes[0]:
                profile = cProfile.Profile()
                profile.runcall(_trial, service, load)
                pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(10)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mib": peak_mib}) if arguments.json else f"peak memory {peak_mib:.0f} MiB")
    return 0


def _show(
    gpu: str, engine: str, rate: float, load_s: float, wall_s: float, cpu_s: float, trial: Trial, *, as_json: bool
) -> None:
    metrics = trial.metrics
    sent = metrics.sent if metrics is not None else 0
    tokens = metrics.output_tokens if metrics is not None else 0
    if as_json:
        figures = {
            "gpu": gpu,
            "engine": engine,
            "rate": rate,
            "requests": sent,
            "output_tokens": tokens,
            "load_s": load_s,
            "wall_s": wall_s,
            "cpu_s": cpu_s,
            "simulated_s": trial.load_s,
            "reason": trial.reason,
        }
        print(json.dumps(figures))
        return
    outcome = trial.message[:40] if trial.reason is not None else ""
    print(
        f"{gpu:5} {engine:11} {rate:5g} {sent:8d} {tokens:10d} {load_s:7.3f} {wall_s:8.3f} {cpu_s:7.3f}"
        f" {sent / wall_s:8.0f} {trial.load_s:7.0f} s {trial.load_s / wall_s:7.0f}  {outcome}"
    )


if __name__ == "__main__":
    sys.exit(main())
