"""SCOOT's load with and without the upload of its timings to a coordinator, by the agent's own uploader.

Both run as processes of their own, as in a deployment. As a program this module is the uploader:

    python -m tools.loadbench.upload ADDRESS SPOOL KEY

It prints "ready", follows SPOOL until its stdin is closed, and then prints how the upload ended and what it cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from tools.bench_ingest import start_coordinator, take_assignment
from tools.loadbench.child import Cost, measure
from tools.loadbench.clients import START_S, Scoot
from tools.loadbench.judge import cpu_per_100k, judge
from tools.loadbench.scenarios import SCENARIOS, Bench, Result, Scenario, figures_of, serve, understood, with_cpu
from tools.loadbench.table import medians, number

from scoot.agent.link.channel import open_channel
from scoot.agent.link.upload import Uploader
from scoot.agent.spooled import SpoolFrames
from scoot.wire.endpoint import parse_endpoint

ROOT: Final = Path(__file__).resolve().parents[2]
OFF: Final = "upload off"
ON: Final = "upload on"
_PRESENT: Final = ("short", "stream20k")
_END_S: Final = 30.0


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How an upload ended: the verdict, batches stored, CPU seconds of the uploader, seconds from close to the end."""

    verdict: str
    stored: int
    cpu_s: float
    rest_s: float


async def follow(address: str, spool: Path, key: str) -> Ended:
    """Be an agent that uploads `spool` until stdin is closed."""
    endpoint = parse_endpoint(address)
    loop = asyncio.get_running_loop()
    async with open_channel(endpoint, None) as channel:
        ref, session = await take_assignment(channel, key)
        uploader = Uploader(lambda: open_channel(endpoint, None), time.monotonic)
        runner = asyncio.create_task(uploader.run())
        upload = uploader.add(ref, SpoolFrames(spool))
        before = resource.getrusage(resource.RUSAGE_SELF)
        print("ready", flush=True)
        await loop.run_in_executor(None, sys.stdin.read)
        closed_s = time.monotonic()
        upload.close()
        verdict = await asyncio.wait_for(upload.ended, _END_S)
        rest_s = time.monotonic() - closed_s
        after = resource.getrusage(resource.RUSAGE_SELF)
        runner.cancel()
        await asyncio.wait([runner])
        session.cancel()
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ended(verdict=str(verdict), stored=upload.stored, cpu_s=cpu_s, rest_s=rest_s)


@contextlib.contextmanager
def coordinator(folder: Path) -> Iterator[str]:
    """A coordinator process; its address."""
    process, address = start_coordinator(folder)
    try:
        yield address
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait()


@contextlib.contextmanager
def follower(address: str, spool: Path, key: str) -> Iterator[list[Ended]]:
    """An uploader process that follows `spool`; after the block, how it ended."""
    ended: list[Ended] = []
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.loadbench.upload", address, str(spool), key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        if process.stdout is None or process.stdout.readline().strip() != b"ready":
            raise RuntimeError("the uploader did not start")
        yield ended
        out, _ = process.communicate(timeout=2 * _END_S)
        ended.append(msgspec.json.decode(out, type=Ended))
    finally:
        process.kill()
        process.wait()


def compare(bench: Bench, client: Scoot, rounds: int) -> list[Result]:
    """The same loads with and without an uploader, in turn; results of both under one scenario name each."""
    results: list[Result] = []
    with coordinator(bench.fresh("coordinator")) as address:
        for round_ in range(rounds):
            for scenario in (one for one in SCENARIOS if one.name in _PRESENT):
                pair = (False, True) if round_ % 2 == 0 else (True, False)
                results += [_run(bench, scenario, client, round_, address if on else "") for on in pair]
    return with_cpu(results)


def _run(bench: Bench, scenario: Scenario, client: Scoot, round_: int, address: str) -> Result:
    """One run; a failure is in the result."""
    name = f"upload-{scenario.name}"
    result = Result(scenario=name, client=ON if address else OFF, round=round_, load_average=os.getloadavg()[0])
    folder = bench.fresh(name, "on" if address else "off", round_)
    try:
        return _measured(bench, scenario, client, result, folder, address)
    except Exception as error:  # noqa: BLE001 - reported, and the benchmark goes on
        where = traceback.extract_tb(error.__traceback__)[-1]
        return msgspec.structs.replace(result, error=f"{error!r} ({Path(where.filename).name}:{where.lineno})")
    finally:
        bench.done_with(folder)


def _measured(bench: Bench, scenario: Scenario, client: Scoot, result: Result, folder: Path, address: str) -> Result:
    key = f"{result.scenario}-{result.round}"
    how: contextlib.AbstractContextManager[list[Ended]] = contextlib.nullcontext([])
    if address:
        how = follower(address, folder / "spool", key)
    with how as ended, serve(bench, scenario) as server:
        load = scenario.load(server.port, quick=bench.quick)
        cost: Cost = measure(
            client.argv(load, folder),
            log=folder / "log",
            timeout_s=START_S + 4 * (load.duration_s + load.stream_s),
        )
    said, error = understood(client, load, folder, cost)
    verdict = judge(said.requests, server.records, key=client.key, rate=load.rate)
    told = msgspec.to_builtins(server.summary) or {}
    figures = figures_of(scenario, cost, said, verdict, server.records, told)
    facts = dict(said.facts)
    if ended:
        facts["upload"] = msgspec.to_builtins(ended[0])
        figures |= {
            "upload_cpu_s": ended[0].cpu_s,
            "upload_100k": cpu_per_100k(ended[0].cpu_s, figures["tokens"] or 0),
            "upload_batches": ended[0].stored,
            "upload_rest_s": ended[0].rest_s,
        }
        if ended[0].verdict != "STORED":
            error = f"the upload ended {ended[0].verdict}"
    return msgspec.structs.replace(result, figures=figures, error=error, facts=facts, server=told)


_COLUMNS: Final = (
    ("late_p50", "late p50 us"),
    ("late_p99", "late p99 us"),
    ("abs_p99", "abs. late p99 us"),
    ("itl_p99", "ITL err p99 us"),
    ("merged", "merged"),
    ("cpu_100k_whole", "CPU s/100k tok"),
    ("upload_100k", "uploader's"),
    ("upload_batches", "batches"),
    ("upload_rest_s", "done after s"),
)


def render(results: Sequence[Result]) -> str:
    """Markdown: medians over rounds, on against off."""
    lines = ["\n## upload: SCOOT with its timings uploaded meanwhile, and without\n"]
    lines += ["| load | | rounds | " + " | ".join(header for _, header in _COLUMNS) + " |"]
    lines += ["|" + "---|" * (len(_COLUMNS) + 3)]
    for scenario in dict.fromkeys(one.scenario for one in results):
        for client, figures in medians(results, scenario).items():
            rounds = sum((one.scenario, one.client, one.error) == (scenario, client, "") for one in results)
            cells = [scenario, client, str(rounds), *(number(figures.get(name)) for name, _ in _COLUMNS)]
            lines.append("| " + " | ".join(cells) + " |")
    lines += [f"\n{one.scenario}, {one.client}: FAILED: {one.error}" for one in results if one.error]
    return "\n".join(lines)


def main() -> None:
    """Be the uploader."""
    address, spool, key = sys.argv[1:]
    print(msgspec.json.encode(asyncio.run(follow(address, Path(spool), key))).decode())


if __name__ == "__main__":
    main()
