"""The loads every client gives in turn, and what is made of each run: figures by name."""

from __future__ import annotations

import math
import os
import shutil
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from tools.loadbench import truth
from tools.loadbench.child import Cost, measure
from tools.loadbench.clients import START_S, Client, Load, Said, Scoot, WrongOutputError
from tools.loadbench.judge import Tails, Verdict, cpu_per_100k, judge, median

from scoot.benchmark.quantile import percentile

START: Final = "start"
"""The scenario of one request: its CPU time is what the others' is counted from."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A load, and the server it is given to.

    Attributes:
        name: for --only.
        title: for people.
        columns: figures shown, see `figures_of`.
        tokens, ttft_us, gap_us: of each answer.
        rate: requests per second; None in a closed loop.
        seconds: of load; `quick_s` with --quick.
        users: of a closed loop.
        freeze_at_s, freeze_s: the server stands still for so long, from so long after the first arrival.
        sample_s: pause between two looks at the client's memory and processes.
        memory: sample PSS too, which disturbs timings.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    tokens: int
    ttft_us: int
    gap_us: int
    seconds: float
    quick_s: float
    rate: float | None = None
    users: int | None = None
    freeze_at_s: float = 0.0
    freeze_s: float = 0.0
    sample_s: float = 1.0
    memory: bool = False

    @property
    def stream_s(self) -> float:
        """What one answer takes."""
        return (self.ttft_us + self.gap_us * (self.tokens - 1)) / 1e6 + self.freeze_s

    def load(self, port: int, *, quick: bool) -> Load:
        """What a client is to send to the server at `port`."""
        seconds = self.quick_s if quick else self.seconds
        return Load(
            port=port,
            tokens=self.tokens,
            requests=max(1, round(self.rate * seconds)) if self.rate else 0,
            rate=self.rate,
            users=self.users,
            seconds=seconds,
            stream_s=self.stream_s,
        )


_PRECISION: Final = ("arrived", "completed", "rate", "late_p50", "late_p99", "late_max", "abs_p50", "abs_p99")
_ERRORS: Final = ("ttft_p50", "ttft_p99", "itl_p50", "itl_p99", "merged")
_SAID: Final = ("said_ttft_p99", "said_ttft_max", "due_max")
_CPU: Final = ("cpu_s", "cpu_100k", "cpu_100k_whole")

SCENARIOS: Final = (
    Scenario(
        name=START,
        title="One request: time to the first arrival, and what starting costs",
        columns=("first_s", "cpu_s", "rss_mb", "processes", "wall_s"),
        tokens=1,
        ttft_us=1_000,
        gap_us=1_000,
        rate=1.0,
        seconds=1.0,
        quick_s=1.0,
        sample_s=0.1,
    ),
    Scenario(
        name="short",
        title="500 requests/s, 4 tokens each, 1 ms apart: dispatch precision",
        columns=(*_PRECISION, "ttft_p50", "ttft_p99"),
        tokens=4,
        ttft_us=1_000,
        gap_us=1_000,
        rate=500.0,
        seconds=10.0,
        quick_s=3.0,
    ),
    Scenario(
        name="stream10k",
        title="100 requests/s x 100 tokens at 20.3 ms: 200 streams, 10,000 tokens/s",
        columns=(*_PRECISION, *_ERRORS, *_CPU),
        tokens=100,
        ttft_us=20_300,
        gap_us=20_300,
        rate=100.0,
        seconds=10.0,
        quick_s=4.0,
    ),
    Scenario(
        name="stream20k",
        title="200 requests/s x 100 tokens at 50.3 ms: 1,000 streams, 20,000 tokens/s",
        columns=(*_PRECISION, *_ERRORS, *_CPU),
        tokens=100,
        ttft_us=50_300,
        gap_us=50_300,
        rate=200.0,
        seconds=10.0,
        quick_s=5.0,
    ),
    Scenario(
        name="memory",
        title="1,000 streams as before, with memory sampled: peak of the whole tree",
        columns=("rss_mb", "pss_mb", "processes", "arrived", "completed", "rate"),
        tokens=100,
        ttft_us=50_300,
        gap_us=50_300,
        rate=200.0,
        seconds=8.0,
        quick_s=6.0,
        sample_s=0.25,
        memory=True,
    ),
    Scenario(
        name="closed",
        title="Closed loop, 64 connections, 4 tokens each, 1 ms apart (the server allows 16,000 requests/s)",
        columns=("arrived", "completed", "rate", "cpu_s", "cpu_request_ms"),
        tokens=4,
        ttft_us=1_000,
        gap_us=1_000,
        users=64,
        seconds=5.0,
        quick_s=2.0,
    ),
    Scenario(
        name="freeze",
        title="100 requests/s, the server frozen for 1.5 s: does the load go on?",
        columns=("arrived", "frozen", "frozen_share", "late_p50", "late_p99", *_SAID),
        tokens=4,
        ttft_us=5_000,
        gap_us=5_000,
        rate=100.0,
        seconds=6.0,
        quick_s=5.0,
        freeze_at_s=2.0,
        freeze_s=1.5,
    ),
)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one client.

    Attributes:
        figures: by name; None where there is none.
        error: why the run does not count; "" if it does.
        facts: what the client says of itself (SCOOT: metrics, audit, validity).
        server: the truth server's own summary.
        load_average: of the machine over the minute before.
    """

    scenario: str
    client: str
    round: int
    figures: dict[str, float | None] = {}
    error: str = ""
    facts: dict[str, Any] = {}
    server: dict[str, Any] = {}
    load_average: float = 0.0


@dataclass(frozen=True, slots=True)
class Bench:
    """Where everything is.

    Attributes:
        folder: for what clients read and write; a run's own folder is removed after it unless `keep`.
        binaries: the truth server and client.
        fifo: the server runs at real-time priority.
    """

    folder: Path
    binaries: truth.Binaries
    fifo: bool = True
    quick: bool = False
    keep: bool = False

    def fresh(self, *names: object) -> Path:
        """An empty folder for one run."""
        path = self.folder / "-".join(str(name) for name in names)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def done_with(self, path: Path) -> None:
        """A run is over."""
        if not self.keep:
            shutil.rmtree(path, ignore_errors=True)


def run(bench: Bench, scenario: Scenario, client: Client, round_: int) -> Result:
    """One run. Whatever goes wrong with client or server is in the result: it ends no benchmark."""
    result = Result(scenario=scenario.name, client=client.name, round=round_, load_average=os.getloadavg()[0])
    folder = bench.fresh(scenario.name, client.name, round_)
    try:
        return _run(bench, scenario, client, result, folder)
    except Exception as error:  # noqa: BLE001 - anything at all may come out of a peer's output
        where = traceback.extract_tb(error.__traceback__)[-1]
        return msgspec.structs.replace(result, error=f"{error!r} ({Path(where.filename).name}:{where.lineno})")
    finally:
        bench.done_with(folder)


def _run(bench: Bench, scenario: Scenario, client: Client, result: Result, folder: Path) -> Result:
    with serve(bench, scenario) as server:
        load = scenario.load(server.port, quick=bench.quick)
        cost = measure(
            client.argv(load, folder),
            log=folder / "log",
            timeout_s=START_S + 4 * (load.duration_s + load.stream_s),
            env=client.env(folder),
            every_s=scenario.sample_s,
            with_pss=scenario.memory,
        )
    said, error = understood(client, load, folder, cost)
    records = server.records
    verdict = judge(said.requests, records, key=client.key, rate=load.rate)
    told: dict[str, Any] = msgspec.to_builtins(server.summary) or {}
    figures = figures_of(scenario, cost, said, verdict, records, told)
    return msgspec.structs.replace(result, figures=figures, error=error, facts=said.facts, server=told)


def serve(bench: Bench, scenario: Scenario, mode: str = "plain") -> truth.Truth:
    """A truth server for the scenario, to be entered."""
    return truth.serve(
        bench.binaries,
        ttft_us=scenario.ttft_us,
        gap_us=scenario.gap_us,
        mode=mode,
        freeze_at_s=scenario.freeze_at_s if scenario.freeze_s else None,
        freeze_s=scenario.freeze_s,
        fifo=bench.fifo,
    )


def understood(client: Client, load: Load, folder: Path, cost: Cost) -> tuple[Said, str]:
    """What a client wrote, and what is wrong with it or with the client's end."""
    try:
        said = client.read(load, folder)
    except WrongOutputError as error:
        tail = (folder / "log").read_text("utf-8", "replace").strip().rsplit("\n", 1)[-1]
        return Said([]), "; ".join(part for part in (cost.failure, str(error), tail[-200:]) if part)
    return said, cost.failure


def figures_of(
    scenario: Scenario,
    cost: Cost,
    said: Said,
    verdict: Verdict,
    records: Sequence[truth.Record],
    server: dict[str, Any],
) -> dict[str, float | None]:
    """Every figure of a run, by name.

    Microseconds: late (against the grid), abs (against SCOOT's own schedule), own (sent - intended, as it says), ttft
    and itl (errors), server_late. Seconds: first (process start to first arrival), cpu_s, wall_s. Milliseconds:
    said_ttft (as the client reports it), due (TTFT from the intended start). Shares: merged.
    """
    tokens = sum(len(record.send_ns) for record in records)
    first_ns = min((record.arrival_ns for record in records), default=0)
    cpu_s = float(said.facts.get("cpu_s", cost.cpu_s))
    said_ttft = np.array([one.ttft_us for one in said.requests if not math.isnan(one.ttft_us)]) / 1e3
    due = np.array([v for one in said.requests if not math.isnan(v := one.ttft_us + one.late_us)]) / 1e3
    figures: dict[str, float | None] = {
        "arrived": verdict.arrived,
        "completed": verdict.completed,
        "joined": verdict.joined,
        "odd": verdict.odd,
        "rate": verdict.rate,
        "merged": verdict.merged_share if any(one.gaps_us is not None for one in said.requests) else None,
        "tokens": tokens,
        "cpu_s": cpu_s,
        "cpu_request_ms": cpu_s * 1e3 / len(records) if records else None,
        "rss_mb": cost.rss_mb,
        "pss_mb": cost.pss_mb,
        "processes": cost.processes,
        "wall_s": cost.wall_s,
        "first_s": (first_ns - cost.started_ns) / 1e9 if records else None,
        "frozen": server.get("arrivals_in_freeze") if scenario.freeze_s else None,
        "frozen_share": (
            server.get("arrivals_in_freeze", 0) / (scenario.rate * scenario.freeze_s)
            if scenario.freeze_s and scenario.rate
            else None
        ),
        "server_late_p99": server.get("send_late_us_p99"),
        "server_cpu_s": server.get("cpu_s"),
        "said_ttft_p99": percentile(said_ttft, 99) if len(said_ttft) else None,
        "said_ttft_max": float(said_ttft.max()) if len(said_ttft) else None,
        "due_max": float(due.max()) if len(due) else None,
    }
    named = (
        ("late", verdict.lateness),
        ("abs", verdict.absolute),
        ("own", verdict.own_lateness),
        ("ttft", verdict.ttft_error),
        ("itl", verdict.itl_error),
    )
    for name, summary in named:
        figures |= _tails(name, summary)
    return figures


def _tails(name: str, summary: Tails | None) -> dict[str, float | None]:
    if summary is None:
        return {f"{name}_{what}": None for what in ("p50", "p99", "max")}
    return {f"{name}_p50": summary.p50, f"{name}_p99": summary.p99, f"{name}_max": summary.max}


def with_cpu(results: Sequence[Result]) -> list[Result]:
    """The results with CPU seconds per 100,000 tokens: beyond those of the client's run of one request, and whole.

    The C client tells its own CPU time, which has no start-up in it worth the name.
    """
    baselines: dict[str, float | None] = {}
    for client in {result.client for result in results}:
        mine = [one for one in results if one.client == client and one.scenario == START and not one.error]
        baselines[client] = median(one.figures.get("cpu_s") for one in mine)
    completed = []
    for result in results:
        cpu_s, tokens = result.figures.get("cpu_s"), result.figures.get("tokens")
        if cpu_s is None or not tokens:
            completed.append(result)
            continue
        base_s = baselines.get(result.client)
        more = {
            "cpu_100k": None if base_s is None else cpu_per_100k(cpu_s, tokens, beyond_s=base_s),
            "cpu_100k_whole": cpu_per_100k(cpu_s, tokens),
        }
        completed.append(msgspec.structs.replace(result, figures={**result.figures, **more}))
    return completed


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the scale test: SCOOT alone, so many streams of 20 tokens/s each."""

    streams: int
    result: Result
    valid: bool
    detail: str


SCALE: Final = (500, 1_000, 2_000, 3_000, 4_000)
_SCALE_STREAM_S: Final = 5


def scale(bench: Bench, client: Scoot) -> list[Step]:
    """More and more streams, until SCOOT itself says that its measurement is not to be believed."""
    steps: list[Step] = []
    for streams in SCALE:
        scenario = Scenario(
            name=f"scale{streams}",
            title="",
            columns=(),
            tokens=100,
            ttft_us=50_300,
            gap_us=50_300,
            rate=streams / _SCALE_STREAM_S,
            seconds=10.0,
            quick_s=6.0,
        )
        result = run(bench, scenario, client, 0)
        validity = result.facts.get("validity") or {"valid": False, "detail": result.error}
        steps.append(Step(streams=streams, result=result, valid=validity["valid"], detail=validity["detail"]))
        if not validity["valid"]:
            break
    return with_steps(steps)


def with_steps(steps: Sequence[Step]) -> list[Step]:
    """The steps with their CPU figures."""
    results = with_cpu([step.result for step in steps])
    return [msgspec.structs.replace(step, result=result) for step, result in zip(steps, results, strict=True)]
