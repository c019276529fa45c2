"""One engine, two clocks: the same requests against `scoot.simulator serve` in real time, and in virtual time.

The real run goes through the load generator, HTTP and TCP; the virtual one has no transport at all. Each service is
loaded `--rounds` times, each time with another seed. Needs a quiet machine.

    python tools/bench_simulator_agreement.py [--rounds 3] [--duration 60]
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from scoot.benchmark.standalone.summary import Figures, Summary, figures
from scoot.benchmark.workload import from_blob
from scoot.simulator.load import Load
from scoot.simulator.service import SimulatedService
from scoot.simulator.trial import simulate

FIGURES: Final = (
    "mean_ttft_ms",
    "p95_ttft_ms",
    "mean_tpot_ms",
    "p95_tpot_ms",
    "mean_e2el_ms",
    "p95_e2el_ms",
    "request_throughput",
    "output_throughput",
)


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A service and its load."""

    name: str
    service: SimulatedService
    profile: str
    rate: float


_13B: Final = SimulatedService(model="llama2-13b", gpu="a100", max_model_len=4096)
CASES: Final = (
    Case(name="vLLM 0.32, A100, half of its capacity", service=_13B, profile="AZURE_CONV", rate=1.0),
    Case(
        name="vLLM 0.4.2, A100, prompts first",
        service=msgspec.structs.replace(_13B, engine="vllm-0.4.2"),
        profile="AZURE_CONV",
        rate=0.8,
    ),
    Case(
        name="vLLM 0.32, A100, prefixes shared",
        service=_13B,
        profile="SQL",
        rate=10.0,
    ),
    Case(
        name="vLLM 0.32, A100, beyond its capacity",
        service=msgspec.structs.replace(_13B, parameters={"max_num_seqs": 32}),
        profile="AZURE_CONV",
        rate=3.0,
    ),
    Case(
        name="vLLM 0.32, 2 x A100, two replicas",
        service=msgspec.structs.replace(_13B, devices=2),
        profile="AZURE_CONV",
        rate=2.0,
    ),
)


@contextlib.contextmanager
def serving(service: SimulatedService) -> Iterator[list[str]]:
    """Addresses of the replicas."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in service.parameters.items()]
    command = [
        *(sys.executable, "-m", "scoot.simulator", "serve", "--port", "0", "--start-scale", "0"),
        *("--engine", service.engine, "--model", service.model, "--gpu", service.gpu),
        *(f"--max-model-len={service.max_model_len}", *flags),
    ]
    with contextlib.ExitStack() as stack:
        urls = []
        for _ in range(service.devices):
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(process.terminate)
            line = next((each for each in process.stdout or () if "http://" in each), "")
            if not line:
                sys.exit(f"{command} did not come up")
            urls.append(line[line.index("http://") :].split()[0])
        yield urls


def real(case: Case, seed: int, duration_s: float, folder: pathlib.Path) -> tuple[Summary, Figures]:
    """Through HTTP. The summary, and the figures of the run."""
    with serving(case.service) as urls:
        command = [
            *(sys.executable, "-m", "scoot.benchmark", "run", "--json", "--out", str(folder)),
            *(part for url in urls for part in ("--url", url)),
            *("--profile", case.profile, "--rate", f"{case.rate}", "--select", "longest_half"),
            *("--duration", f"{duration_s}", "--warm-up", "10", "--seed", f"{seed}", "--timeout", "600"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command} ended with {done.returncode}: {done.stderr[-1000:]}{done.stdout[-1000:]}")
    summary = msgspec.json.decode(done.stdout, type=Summary)
    return summary, summary.metrics


def virtual(case: Case, summary: Summary, folder: pathlib.Path) -> Figures:
    """The same requests in virtual time."""
    rows = from_blob((folder / "rows.jsonl.gz").read_bytes())
    seed = summary.seeds[0]
    load = Load(summary.workload, rows, seed=seed)
    trial = simulate(case.service, summary.workload, rows, seed=seed, load=load)
    if trial.metrics is None:
        sys.exit(f"{case.name}: {trial.message}")
    return figures(trial.metrics)


def compared(cases: Sequence[Case], rounds: int, duration_s: float) -> Iterator[str]:
    """Lines of a table: medians over the rounds, and the median and the worst of the differences."""
    yield "| service | figure | real time | virtual time | real / virtual - 1: median, worst |"
    yield "|---|---|---|---|---|"
    for case in cases:
        pairs: list[tuple[Figures, Figures]] = []
        for seed in range(rounds):
            with tempfile.TemporaryDirectory() as name:
                folder = pathlib.Path(name) / "run"
                summary, measured = real(case, seed, duration_s, folder)
                pairs.append((measured, virtual(case, summary, folder)))
        for figure in FIGURES:
            values = [(float(a[figure] or 0), float(b[figure] or 0)) for a, b in pairs]
            off = [a / b - 1 for a, b in values]
            both = " | ".join(f"{statistics.median(column):,.2f}" for column in zip(*values, strict=True))
            worst = max(off, key=abs)
            yield f"| {case.name} | {figure} | {both} | {statistics.median(off):+.2%}, {worst:+.2%} |"


def main() -> None:
    """Print the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=60.0, help="measured seconds of a run")
    parser.add_argument("--case", type=int, action="append", help="only this one, from 0; may be given again")
    asked = parser.parse_args()
    cases = [CASES[number] for number in asked.case] if asked.case else CASES
    for line in compared(cases, asked.rounds, asked.duration):
        print(line, flush=True)


if __name__ == "__main__":
    main()
