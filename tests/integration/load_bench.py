"""Load processes for tests: a mock engine, a plan for a short load, and the process that runs it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from scoot.benchmark import process
from scoot.benchmark.plan import LoadPlan, LoadProgress, PromptMode
from scoot.benchmark.spool import SpoolReader
from scoot.benchmark.trace_row import TraceRow
from scoot.benchmark.workload import to_blob
from scoot.wire.assignment import Phase
from scoot.wire.columns import RequestStatus, TimingBatch, concatenate, decode
from scoot.wire.measurement import LoadAudit
from scoot.wire.spec import ArrivalProcess, Arrivals, Limits, Workload

TOKENS = 6
FAST = ("--mock.base_ms=2", "--mock.prefill_us=1")
_ARRIVALS = Arrivals(process=ArrivalProcess.CONSTANT, rate=25.0)


@contextlib.asynccontextmanager
async def mock_engine(*arguments: str) -> AsyncIterator[str]:
    """A mock engine; its base URL."""
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scoot.agent.engines.mock_server", "--port=0", "--model=m", *FAST, *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdout is not None
    try:
        url = ""
        while not url:
            line = (await server.stdout.readline()).decode()
            assert line, "the mock engine has died"
            _, _found, url = line.strip().partition("listening on ")
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.terminate()
        await server.stdout.read()
        await server.wait()


def make_plan(folder: Path, *urls: str, rows: Sequence[TraceRow] = (), **changes: Any) -> LoadPlan:
    """A plan for a short constant load; `changes` to fields of the plan or of its workload."""
    workload = Workload(profile="CLS", arrivals=_ARRIVALS, duration_s=0.4, warm_up_s=0.0, drain_s=5.0)
    plan = LoadPlan(
        targets=urls,
        model="m",
        prompt_mode=PromptMode.TOKEN_IDS,
        token_low=16,
        token_high=32_000,
        ignore_eos=True,
        max_model_len=4096,
        workload=workload,
        rows_path=str(folder / "rows"),
        run_seeds=(1,),
        limits=Limits(),
        spool_path=str(folder / "spool"),
        audit_path=str(folder / "audit.json"),
    )
    rows = rows or tuple(TraceRow(input_tokens=10 + i, output_tokens=TOKENS) for i in range(40))
    (folder / "rows").write_bytes(to_blob(rows))
    of_plan = {name: value for name, value in changes.items() if name in LoadPlan.__struct_fields__}
    of_load = {name: value for name, value in changes.items() if name not in of_plan}
    workload = msgspec.structs.replace(workload, **of_load)
    return msgspec.structs.replace(plan, workload=workload, **of_plan)


class Load:
    """A running load process."""

    def __init__(self, folder: Path, child: asyncio.subprocess.Process) -> None:
        self.folder = folder
        self.child = child
        self.progress: list[LoadProgress] = []

    async def follow(self, until: Phase | None = None, *, sent: int = 0) -> None:
        """Read progress to its end, or until a phase with so many requests sent is reported."""
        assert self.child.stdout is not None
        while line := await self.child.stdout.readline():
            self.progress.append(msgspec.json.decode(line, type=LoadProgress))
            if self.progress[-1].phase is until and self.progress[-1].sent >= sent:
                return
        assert until is None, "it ended before"

    async def result(self) -> TimingBatch:
        """Wait for its good end; what it spooled."""
        await self.follow()
        assert await self.child.wait() == process.EXIT_OK
        return self.spooled()

    def spooled(self) -> TimingBatch:
        """What is in the spool."""
        with SpoolReader(self.folder / "spool") as reader:
            batches = [decode(frame.payload) for frame in reader.read()]
            reader.check_end()
        return concatenate(batches)

    def audits(self) -> list[LoadAudit]:
        """What is in the audit file."""
        return msgspec.json.decode((self.folder / "audit.json").read_bytes(), type=list[LoadAudit])


@contextlib.asynccontextmanager
async def load(plan: LoadPlan, *, stderr: int | None = None, env: dict[str, str] | None = None) -> AsyncIterator[Load]:
    """A load process; killed at the end if it still runs."""
    folder = Path(plan.spool_path).parent
    path = folder / "plan.json"
    path.write_bytes(msgspec.json.encode(plan))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scoot.benchmark.process", str(path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        env=env,
    )
    assert child.stdin is not None
    try:
        yield Load(folder, child)
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        child.stdin.close()
        await child.communicate()


def statuses(batch: TimingBatch) -> set[RequestStatus]:
    return {RequestStatus(int(code)) for code in batch.status}


async def run(plan: LoadPlan, env: dict[str, str] | None = None) -> TimingBatch:
    async with load(plan, env=env) as running:
        return await running.result()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
