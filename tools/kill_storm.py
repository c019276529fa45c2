"""SIGKILL at random: what is left of an attempt, whose blame it is, and whether its trial is run again.

    nice .venv/bin/python -m tools.kill_storm --engine mock --attempts 50
    nice .venv/bin/python -m tools.kill_storm --engine vllm --python .venv-vllm/bin/python --attempts 50

A coordinator and an agent run as daemons, with one long study on the mock engine or on real vLLM (CPU, the tiny model).
In each attempt one process is killed: API server, EngineCore, load process or agent, at a random moment of its start,
readiness, warm-up, measurement, drain or stop (from the load's end on); every pair that can be is drawn as often as the
others. A killed agent is started again, at once or after its lease has run out. Then the whole process list is compared
with what the attempt had (start times, process groups, the engine's token, the attempt's folder), the attempt's record
is read from the store, and the next attempt tells whether the device is free and the trial run again where it should.

Prints Markdown; exit status 1 if a process was left, a blame was wrong, or a trial not run again. No part of CI: 50
attempts with vLLM take half an hour and 3 GB.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec
from tools.daemons import Daemon, Story
from tools.oracle_agreement import absolute, rows
from tools.victims import Part, processes, records, send, within

from scoot.agent.host.proctable import Process, below, read_processes
from scoot.benchmark.workload import profile_rows, resolve
from scoot.cli.client import Coordinator
from scoot.coordinator.store.doctor import check_store
from scoot.coordinator.store.sql import ATTEMPTS, load_records
from scoot.coordinator.store.sqlite import DATABASE_NAME, SqliteSession
from scoot.coordinator.study.state import AttemptRecord
from scoot.wire.assignment import Phase
from scoot.wire.endpoint import parse_endpoint
from scoot.wire.lease import LeasePolicy
from scoot.wire.reasons import Blame, Reason, blame_of
from scoot.wire.spec import (
    ArrivalProcess,
    Arrivals,
    Budget,
    Confirm,
    Limits,
    Objective,
    Optimizer,
    Parameter,
    ParameterKind,
    Scalar,
    Scale,
    Service,
    StudySpec,
    Workload,
)
from scoot.wire.view import Agent

LEASE: Final = LeasePolicy(
    heartbeat_s=0.5, self_fence_s=10.0, lost_s=14.0, reassign_s=28.0, stop_grace_s=10.0, kill_grace_s=5.0
)
AWAY_S: Final = 17.0
"""How long an agent stays away whose lease is to run out."""
AWAY_SHARE: Final = 0.2
PATIENCE_S: Final = 180.0
GONE_S: Final = 20.0
"""A process that lives so long after its attempt has ended is an orphan."""
_POLL_S: Final = 0.02


class Moment(StrEnum):
    """When of an attempt something is killed; START until the engine's core is there, READY until it answers."""

    START = "start"
    READY = "ready"
    WARM_UP = "warm-up"
    MEASURE = "measurement"
    DRAIN = "drain"
    STOP = "stop"


WAITS: Final = {
    Moment.START: (Phase.READY, 6.0),
    Moment.READY: (Phase.READY, 10.0),
    Moment.WARM_UP: (Phase.WARM_UP, 2.0),
    Moment.MEASURE: (Phase.MEASURE, 4.5),
    Moment.DRAIN: (Phase.DRAIN, 0.3),
    Moment.STOP: (Phase.DRAIN, 0.6),
}
"""The phase a moment is counted from, and the longest wait from there, seconds. STOP: from the load process's end."""

MOCK_START_S: Final = 1.0
"""The mock engine's start, as the study sets it; no wait for a moment of it is longer."""

PAIRS: Final = (
    *((Part.API_SERVER, moment) for moment in Moment),
    *((Part.CORE, moment) for moment in Moment if moment is not Moment.START),
    *((Part.LOAD, moment) for moment in (Moment.WARM_UP, Moment.MEASURE, Moment.DRAIN)),
    *((Part.AGENT, moment) for moment in Moment),
)


class Kill(msgspec.Struct, kw_only=True):
    """One attempt and what was done to it.

    Attributes:
        part, moment: what was killed, when.
        phase: of the attempt, by the agent's log.
        known: every process it had, and `groups` their process groups, `token` its engine's.
        gone_s: from the kill until nothing of it was left.
        left: what was left instead; `beside`: what of it lived when a later engine was started.
        record: as stored.
        wrong: what is not as it should be, "" if nothing.
    """

    attempt: str
    part: Part
    moment: Moment
    phase: Phase
    fence: int
    known: frozenset[tuple[int, int]]
    groups: frozenset[int]
    token: str
    away: bool = False
    gone_s: float = 0.0
    left: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    record: AttemptRecord | None = None
    wrong: str = ""


class Storm:
    """One study, and everything that is killed of it."""

    def __init__(self, folder: Path, engine: str, python: str, model: str, rng: random.Random) -> None:
        self.folder = folder
        self.data_dir = folder / "agent"
        self.kills: list[Kill] = []
        self.untouched: list[str] = []
        self.findings: list[str] = []
        self._engine, self._python, self._model = engine, python, model
        self._rng = rng
        self._queue: list[tuple[Part, Moment]] = []
        self._seen = 0
        self._coordinator = Daemon(
            "coordinator",
            [
                *("scoot.coordinator", "--data", str(folder / "coordinator"), "--listen", "127.0.0.1:0"),
                *(f"--lease={name}={getattr(LEASE, name)}" for name in LEASE.__struct_fields__),
            ],
            folder,
            tied=True,
        )
        config = str(folder / "agent.toml")
        self._agent = Daemon("agent", ["scoot.agent", "--config", config, "--log-level", "debug"], folder, tied=True)
        self._story = Story(self._agent.log_path)

    async def run(self, attempts: int) -> None:
        """Kill in so many attempts."""
        self._coordinator.start()
        address = await self._coordinator.ready()
        table = f'python = "{self._python}"\ncheck_first = false\n' if self._engine == "vllm" else ""
        (self.folder / "agent.toml").write_text(
            f'[agent]\nid = "storm"\ncoordinator = "{address}"\ndata_dir = "{self.data_dir}"\ncpu_slots = 1\n'
            f'reserve_memory_gib = 0.5\nmodel_roots = ["{Path(self._model).parent}"]\n'
            f'[engines.{self._engine}]\nkind = "{self._engine}"\n{table}'
        )
        try:
            self._agent.start()
            await self._agent.ready()
            async with Coordinator(parse_endpoint(address)) as client:
                study_id = await self._submit(client)
                while len(self.kills) < attempts:
                    await self._one()
                await self._next()  # whether the last one's device is free, and its trial run again
                self._check_next()
                await client.cancel_study(study_id, "the storm is over")
                async for detail in client.watch_study(study_id):
                    if detail.study.state.is_terminal:
                        break
                agents = await client.list_agents()
            self._check_agents(agents)
        finally:
            self._agent.stop()
            self._coordinator.stop()
        self.findings += [f"left at the end: {process.pid} {process.name}" for process in within(self.folder)]
        self.findings += [
            f"store: {found.message}"
            for found in check_store(str(self.folder / "coordinator"))
            if found.severity == "error"
        ]

    def _check_agents(self, agents: Sequence[Agent]) -> None:
        """The one agent offers its device, and nothing holds it."""
        offered = [device.id for agent in agents for device in agent.inventory.devices]
        held = {device: attempt for agent in agents for device, attempt in agent.in_use.items()}
        if offered != ["cpu-0"] or held:
            self.findings.append(f"at the end the agent offers {offered}, and {held} are in use")

    async def _submit(self, client: Coordinator) -> str:
        spec = study(self._engine, self._model)
        resolved = resolve(spec.workload, max_model_len=spec.service.max_model_len, rows=profile_rows(spec.workload))
        created = await client.create_study(
            msgspec.structs.replace(spec, workload_facts=resolved.facts), resolved.blob, "storm"
        )
        return created.study_id

    async def _one(self) -> None:
        """Wait for the next attempt, kill something of it, and look."""
        attempt = await self._next()
        self._check_next()
        if not self._queue:
            pairs = [pair for pair in PAIRS if self._engine == "vllm" or pair[0] is not Part.CORE]
            self._queue = self._rng.sample(pairs, len(pairs))
        part, moment = self._queue.pop()
        struck = await self._strike(attempt, part, moment)
        if struck is None:
            self.untouched.append(attempt)
            record = await self._ended(attempt)
            if record.reason is not None:
                self.findings.append(f"{attempt}, which nobody touched, ended {record.reason}: {record.message}")
            return
        kill, at_s = struck
        going = asyncio.create_task(self._watch_go(kill, at_s))
        if part is Part.AGENT:
            self._agent.reap()
            kill.away = self._rng.random() < AWAY_SHARE
            if kill.away:
                await asyncio.sleep(AWAY_S)  # noqa: TID251 - until the lease has run out
            self._agent.start()
            await self._agent.ready()
        kill.record = await self._ended(attempt)
        await going
        judge(kill)
        self.kills.append(kill)
        what = f"{len(self.kills)}: {attempt} {part} at {kill.moment} ({kill.phase})"
        print(f"{what}: {told(kill)}, gone after {kill.gone_s:.1f} s {kill.wrong}", file=sys.stderr)

    def _check_next(self) -> None:
        """Whether the trial of the last kill is run again exactly where it should be."""
        if not self.kills or self.kills[-1].record is None or len(self._story.attempts) < 2:  # noqa: PLR2004 - the next
            return
        last = self.kills[-1]
        place = self._story.attempts.index(last.attempt)
        after = self._story.attempts[place + 1] if place + 1 < len(self._story.attempts) else ""
        reason = last.record.reason if last.record is not None else None
        again = after.rpartition("/")[0] == last.attempt.rpartition("/")[0]
        should = reason is not None and blame_of(reason) in (Blame.HOST, Blame.HARNESS)
        if again != should:
            last.wrong += f" the next attempt is {after}, after {reason}"

    async def _next(self) -> str:
        """The next attempt, once it has begun."""
        await self._until(lambda: len(self._story.attempts) > self._seen)
        self._seen += 1
        return self._story.attempts[self._seen - 1]

    async def _strike(self, attempt: str, part: Part, moment: Moment) -> tuple[Kill, float] | None:
        """Kill one process of `part` at `moment`, and when that was; None if there was none by then."""
        phase, longest_s = WAITS[moment]
        over = (Phase.VERIFY_CLEAN, Phase.COLLECT)
        await self._until(lambda: phase in self._story.phases.get(attempt, []) or self._story.last(attempt) in over)
        if moment is Moment.READY:
            await self._until(lambda: self._has_core() or self._story.last(attempt) is not Phase.READY)
        elif moment is Moment.STOP:
            await self._until(lambda: not self._has_load() or self._story.last(attempt) is not Phase.DRAIN)
        if phase is Phase.READY and self._engine == "mock":
            longest_s = MOCK_START_S
        await asyncio.sleep(self._rng.uniform(0, longest_s))  # noqa: TID251 - the random moment
        found = await asyncio.to_thread(processes, part, self._agent.pid, self.data_dir)
        core, loaded = self._has_core(), self._has_load()
        kill = await asyncio.to_thread(self._look, attempt, part, moment)
        self._story.read()
        kill.phase = self._story.last(attempt)
        if not found or kill.phase in over or not send(self._rng.choice(found), signal.SIGKILL):
            return None
        kill.moment = named(kill.phase, core=core, loaded=loaded)
        return kill, time.monotonic()

    def _has_load(self) -> bool:
        return bool(processes(Part.LOAD, self._agent.pid, self.data_dir))

    def _has_core(self) -> bool:
        if self._engine == "mock":
            return bool(records(self.data_dir))
        return bool(processes(Part.CORE, self._agent.pid, self.data_dir))

    def _look(self, attempt: str, part: Part, moment: Moment) -> Kill:
        """Everything the attempt has running now: all below the agent is of this attempt."""
        found = below(self._agent.pid, read_processes())
        tokens = [record.token for record in records(self.data_dir) if record.attempt_id == attempt]
        return Kill(
            attempt=attempt,
            part=part,
            moment=moment,
            phase=Phase.PREPARE,
            fence=self._story.fences[attempt],
            known=frozenset((process.pid, process.start_ticks) for process in found),
            groups=frozenset(process.pgid for process in found),
            token=tokens[0] if tokens else "",
        )

    async def _ended(self, attempt: str) -> AttemptRecord:
        """The attempt's record, once it has ended."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for record in await asyncio.to_thread(stored, self.folder / "coordinator"):
                    if record.attempt_id == attempt and record.state.is_terminal:
                        return record
                await asyncio.sleep(0.2)  # noqa: TID251 - the store is only read

    async def _watch_go(self, kill: Kill, at_s: float) -> None:
        """Until nothing is left of the attempt."""
        deadline_s = time.monotonic() + GONE_S
        while True:
            self._story.read()  # before the look, which takes a while: what is alive then was beside a later engine
            later = self._story.attempts[self._story.attempts.index(kill.attempt) + 1 :]
            started = any(Phase.READY in self._story.phases.get(other, []) for other in later)
            left = await asyncio.to_thread(self._alive, kill)
            kill.gone_s = time.monotonic() - at_s
            if not left:
                return
            if started:
                kill.beside = kill.beside or tuple(f"{process.pid} {process.name}" for process in left)
            if time.monotonic() > deadline_s:
                kill.left = tuple(f"{process.pid} {process.name}" for process in left)
                return
            await asyncio.sleep(0.1)  # noqa: TID251 - nobody tells

    def _alive(self, kill: Kill) -> list[Process]:
        """What lives of an attempt."""
        spare = frozenset({self._agent.pid, self._coordinator.pid})
        found = [
            process
            for process in read_processes(details=True)
            if process.state != "Z"
            and process.pid not in spare
            and (
                (process.pid, process.start_ticks) in kill.known
                or process.pgid in kill.groups
                or (kill.token and process.token == kill.token)
            )
        ]
        return found or within(self.data_dir / "attempts" / str(kill.fence), spare)

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Until the agent's log, or what else is there, makes `condition` true."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                self._story.read()
                if condition():
                    return
                await asyncio.sleep(_POLL_S)  # noqa: TID251 - a file that grows


def named(phase: Phase, *, core: bool, loaded: bool) -> Moment:
    """The moment an attempt in `phase` is at: with its engine's core there, or its load process."""
    match phase:
        case Phase.WARM_UP:
            return Moment.WARM_UP
        case Phase.MEASURE:
            return Moment.MEASURE
        case Phase.DRAIN:
            return Moment.DRAIN if loaded else Moment.STOP
        case _:
            return Moment.READY if core else Moment.START


ALLOWED: Final[dict[Part, frozenset[Reason | None]]] = {
    Part.API_SERVER: frozenset({Reason.ENGINE_EXITED_ON_START, Reason.ENGINE_CRASHED_UNDER_LOAD}),
    Part.CORE: frozenset({Reason.ENGINE_EXITED_ON_START, Reason.ENGINE_CRASHED_UNDER_LOAD}),
    Part.LOAD: frozenset({Reason.CLIENT_CRASHED}),
    Part.AGENT: frozenset({Reason.HOST_LOST}),
}
"""What the evidence allows of who was killed. An engine that dies may have died of its configuration."""


def judge(kill: Kill) -> None:
    """Note what is wrong with the end of an attempt."""
    found: list[str] = []
    reason = kill.record.reason if kill.record is not None else None
    allowed = ALLOWED[kill.part]
    if kill.moment is Moment.STOP or (kill.moment is Moment.DRAIN and kill.part is Part.LOAD):
        allowed |= {None}  # all was measured by then
    if reason not in allowed:
        found.append(f"reason {reason}: {kill.record.message if kill.record is not None else ''}")
    if kill.left:
        found.append(f"left after {GONE_S:.0f} s: {', '.join(kill.left)}")
    if kill.beside:
        found.append(f"the next engine was started beside {', '.join(kill.beside)}")
    kill.wrong = "; ".join(found)


def stored(data_dir: Path) -> tuple[AttemptRecord, ...]:
    """Every attempt in the coordinator's store, which goes on writing it."""
    uri = f"{(data_dir / DATABASE_NAME).absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
        return load_records(SqliteSession(database), ATTEMPTS)


def study(engine: str, model: str) -> StudySpec:
    """A long study of short attempts in which no configuration fails by itself."""
    vllm = engine == "vllm"
    options: dict[str, Scalar] = {"mock_start_delay_s": MOCK_START_S, "mock_stop_delay_s": 0.3, "mock_base_ms": 10.0}
    if vllm:
        options = {"enforce_eager": True, "load_format": "dummy", "dtype": "bfloat16"}
    return StudySpec(
        name="kill-storm",
        service=Service(
            engine=engine,
            model=model if vllm else "mock-model",
            device="cpu",
            devices=1,
            max_model_len=2048,
            options=options,
            env={"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"} if vllm else {},
        ),
        workload=Workload(
            profile="BOT",
            length_scale=0.05,
            arrivals=Arrivals(process=ArrivalProcess.CONSTANT, rate=4.0),
            warm_up_s=2.0,
            duration_s=5.0,
            drain_s=30.0,
            request_timeout_s=30.0,
        ),
        parameters=(
            Parameter(name="max_num_seqs", kind=ParameterKind.INT, low=8, high=256, scale=Scale.POW2),
            Parameter(name="max_num_batched_tokens", kind=ParameterKind.INT, low=512, high=8192, scale=Scale.POW2),
            Parameter(name="block_size", kind=ParameterKind.INT, choices=(32, 64, 128)),
            Parameter(name="enable_prefix_caching", kind=ParameterKind.BOOL),
        ),
        objectives=(Objective(metric="ttft_mean"),),
        budget=Budget(trials=150, max_attempts=100),
        confirm=Confirm(arrival_orders=0),
        optimizer=Optimizer(method="sobol"),
        limits=Limits(
            start_timeout_s=170.0,
            stall_timeout_s=30.0,
            lateness_p99_ms=10_000.0,
            client_cpu_share=1.0,
            clock_step_ms=10_000.0,
            min_requests=5,
            other_cpu_share=0.0,
            run_queue_share=1.0,
            achieved_share=0.1,
            merged_share=1.0,
        ),
    )


def show(storm: Storm) -> bool:
    """Print what came of it; whether nothing was wrong."""
    kills = storm.kills
    counts = Counter((kill.part, kill.moment) for kill in kills)
    lines: list[tuple[object, ...]] = [(part, *(counts[part, moment] for moment in Moment)) for part in Part]
    print(rows(("killed", *Moment), lines))
    ends = Counter((kill.part, told(kill)) for kill in kills)
    lines = [(*_ended(*key), number) for key, number in sorted(ends.items())]
    print("\n" + rows(("killed", "the attempt ended", "blame", "attempts"), lines))
    print("\n" + rows(("killed", "until nothing is left, median s", "longest s"), gone(kills)))
    wrong = [kill for kill in kills if kill.wrong]
    orphans = sum(bool(kill.left) for kill in kills)
    beside = sum(bool(kill.beside) for kill in kills)
    print(
        f"\n{len(kills)} kills: {orphans} attempts left a process behind, {beside} had the next engine started beside, "
        f"{len(wrong)} are wrong in any way. {len(storm.untouched)} more attempts were not hit in time."
    )
    for kill in wrong:
        print(f"* {kill.attempt}: {kill.part} killed at {kill.moment} ({kill.phase}), away={kill.away}: {kill.wrong}")
    for finding in storm.findings:
        print(f"* {finding}")
    return not wrong and not storm.findings


def told(kill: Kill) -> str:
    """How an attempt ended."""
    if kill.record is None:
        return "unknown"
    return f"{kill.record.state} {kill.record.reason or ''}".strip()


def _ended(part: Part, text: str) -> tuple[str, str, str]:
    reason = text.partition(" ")[2]
    return part, text, blame_of(Reason(reason)) if reason else ""


def gone(kills: Sequence[Kill]) -> list[tuple[str, str, str]]:
    """Per part: how long something of an attempt lived after the kill."""
    found = []
    for part in Part:
        times = [kill.gone_s for kill in kills if kill.part is part]
        if times:
            found.append((str(part), f"{statistics.median(times):.1f}", f"{max(times):.1f}"))
    return found


def main() -> int:
    """Run; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("mock", "vllm"), default="mock")
    parser.add_argument("--python", type=absolute, default=absolute(".venv-vllm/bin/python"), help="vLLM's interpreter")
    parser.add_argument("--model", type=absolute, default=absolute(".scoot/models/tiny-llama"))
    parser.add_argument("--attempts", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="keep logs and store in this folder")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scoot-storm-")))
        folder.mkdir(parents=True, exist_ok=True)
        rng = random.Random(arguments.seed)  # noqa: S311 - a reproducible storm
        storm = Storm(folder.resolve(), arguments.engine, arguments.python, arguments.model, rng)
        try:
            asyncio.run(storm.run(arguments.attempts))
        except (TimeoutError, RuntimeError) as error:
            storm.findings.append(f"the storm ended early: {error!r}")
        return 0 if show(storm) else 1


if __name__ == "__main__":
    sys.exit(main())
