"""What a study costs beside its engine: parallel speed-up, SCOOT's own overhead per trial, memory of the daemons.

A coordinator and two agents run as processes on loopback, the mock engine on each. The same study is submitted with
parallelism 1 and 2 in turn (so that a busy machine hurts both alike); the ratio of their wall times is the speed-up.
Overhead of a trial is everything but engine start (START, READY) and load (WARM_UP, MEASURE, DRAIN): its other phases,
and with parallelism 1 the gap between the end of one trial and the start of the next.

    python tools/bench_study.py [--rounds 3] [--trials 6]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import msgspec
import psutil

from scoot.benchmark.workload import profile_rows, resolve
from scoot.cli.client import Coordinator
from scoot.cli.resolve import resolve_study
from scoot.wire.endpoint import parse_endpoint
from scoot.wire.spec import StudySpec

ROOT = pathlib.Path(__file__).resolve().parent.parent
ENGINE_PHASES = frozenset({"START", "READY", "WARM_UP", "MEASURE", "DRAIN"})


def wait_for(path: pathlib.Path, process: subprocess.Popen[bytes]) -> str:
    """The text of a ready file, once it is there."""
    while not path.exists():
        if process.poll() is not None:
            sys.exit(f"a daemon ended with {process.returncode} before it was ready")
        time.sleep(0.02)  # noqa: TID251 - start-up of a benchmark
    return path.read_text().strip()


@contextlib.contextmanager
def daemons(folder: pathlib.Path) -> Iterator[tuple[str, dict[str, psutil.Process]]]:
    """A coordinator and two agents of one slot each: (address, processes by name)."""
    started: list[subprocess.Popen[bytes]] = []
    processes: dict[str, psutil.Process] = {}

    def start(name: str, argv: list[str]) -> subprocess.Popen[bytes]:
        with (folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen([sys.executable, "-m", *argv], stdin=subprocess.PIPE, stdout=log, stderr=log)
        started.append(process)
        processes[name] = psutil.Process(process.pid)
        return process

    try:
        ready = folder / "coordinator.ready"
        argv = ["scoot.coordinator", "--data", str(folder / "coordinator"), "--listen", "127.0.0.1:0"]
        process = start("coordinator", [*argv, "--ready-file", str(ready), "--exit-with-stdin"])
        address = wait_for(ready, process)
        for name in ("agent-0", "agent-1"):
            config = folder / f"{name}.toml"
            config.write_text(
                f'[agent]\nid = "{name}"\ncoordinator = "{address}"\ndata_dir = "{folder / name}"\ncpu_slots = 1\n'
                'reserve_memory_gib = 0.1\n[engines.mock]\nkind = "mock"\n'
            )
            ready = folder / f"{name}.ready"
            argv = ["scoot.agent", "--config", str(config), "--exit-with-stdin", "--once-ready-file", str(ready)]
            wait_for(ready, start(name, argv))
        yield address, processes
    finally:
        for process in reversed(started):
            if process.stdin is not None:
                process.stdin.close()
            process.wait()


def study(trials: int, parallelism: int) -> StudySpec:
    """The mock example, lightly loaded, with short windows, no confirmation."""
    spec = resolve_study(ROOT / "examples" / "mock-chat.toml").spec
    replace = msgspec.structs.replace
    arrivals = replace(spec.workload.arrivals, rate=10.0)
    return replace(
        spec,
        workload=replace(spec.workload, arrivals=arrivals, duration_s=4.0, warm_up_s=1.0, length_scale=0.1),
        parameters=tuple(p for p in spec.parameters if p.name != "block_size"),  # no trial may crash and be cheap
        budget=replace(spec.budget, trials=trials, parallelism=parallelism),
        confirm=replace(spec.confirm, arrival_orders=0),
        workload_facts=None,
    )


async def run_study(address: str, spec: StudySpec, key: str, processes: dict[str, psutil.Process]) -> tuple[float, str]:
    """Run a study to its end: (wall seconds, results.json). Notes peak memory in `PEAK`."""
    resolved = resolve(spec.workload, max_model_len=spec.service.max_model_len, rows=profile_rows(spec.workload))
    async with Coordinator(parse_endpoint(address)) as client:
        started = time.perf_counter()
        created = await client.create_study(
            msgspec.structs.replace(spec, workload_facts=resolved.facts), resolved.blob, key
        )
        detail = await client.get_study(created.study_id)
        async for detail in client.watch_study(created.study_id):  # noqa: B007 - the last one is looked at below
            for name, process in processes.items():
                PEAK[name] = max(PEAK.get(name, 0), process.memory_info().rss)
        seconds = time.perf_counter() - started
        if detail.study.state.value != "COMPLETED":
            sys.exit(f"the study ended {detail.study.state}: {detail.study.message}")
        report = await client.get_report(created.study_id)
    return seconds, report.json


PEAK: dict[str, int] = {}


def overheads(document: str) -> tuple[list[float], list[float]]:
    """Per trial: seconds in phases that are SCOOT's own; seconds from the end of a trial to the start of the next."""
    trials = json.loads(document)["trials"]
    own = [sum(p["seconds"] for p in trial["phases"] if p["phase"] not in ENGINE_PHASES) for trial in trials]
    ordered = sorted(trials, key=lambda trial: float(trial["started_at_s"]))
    gaps = [b["started_at_s"] - a["ended_at_s"] for a, b in itertools.pairwise(ordered)]
    return own, gaps


def main() -> None:
    """Print every round, then one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=6)
    args = parser.parse_args()
    ratios, own, gaps = [], [], []
    with tempfile.TemporaryDirectory() as name, daemons(pathlib.Path(name)) as (address, processes):
        idle = {name: process.memory_info().rss for name, process in processes.items()}
        for round_ in range(args.rounds):
            serial, document = asyncio.run(run_study(address, study(args.trials, 1), f"serial-{round_}", processes))
            parallel, _ = asyncio.run(run_study(address, study(args.trials, 2), f"parallel-{round_}", processes))
            more_own, more_gaps = overheads(document)
            own += more_own
            gaps += more_gaps
            ratios.append(serial / parallel)
            print(f"round {round_}: parallelism 1 {serial:.1f} s, 2 {parallel:.1f} s, ratio {ratios[-1]:.2f}")
    result = {
        "speed_up_of_parallelism_2_median": statistics.median(ratios),
        "overhead_in_phases_s_median": statistics.median(own),
        "overhead_in_phases_s_max": max(own),
        "gap_between_trials_s_median": statistics.median(gaps),
        "gap_between_trials_s_max": max(gaps),
        **{f"{name}_rss_mib_idle": rss / 2**20 for name, rss in idle.items()},
        **{f"{name}_rss_mib_peak": rss / 2**20 for name, rss in PEAK.items()},
    }
    print(msgspec.json.format(msgspec.json.encode(result)).decode())


if __name__ == "__main__":
    main()
