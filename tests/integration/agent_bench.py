"""An agent against a scripted coordinator and the mock engine, in one process: what the agent's tests stand on."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil

from scoot.agent.config import AgentConfig, load_config
from scoot.agent.daemon import Daemon
from scoot.agent.host.gpu import GpuSource
from scoot.agent.testing.coordinator import FakeCoordinator
from scoot.benchmark.trace_row import TraceRow
from scoot.benchmark.workload import to_blob
from scoot.wire import columns
from scoot.wire.assignment import Assignment
from scoot.wire.columns import TimingBatch
from scoot.wire.lease import LeasePolicy
from scoot.wire.spec import ArrivalProcess, Arrivals, Limits, Scalar, Service, Workload

QUICK = LeasePolicy(heartbeat_s=0.2, self_fence_s=1.5, lost_s=2.0, reassign_s=8.0, stop_grace_s=2.0, kill_grace_s=2.0)
"""A lease that is over in moments."""

RATE = 25.0


def workload(duration_s: float = 1.0, warm_up_s: float = 0.3, rate: float = RATE) -> Workload:
    """Evenly spaced requests."""
    return Workload(
        profile="SQL",
        arrivals=Arrivals(process=ArrivalProcess.CONSTANT, rate=rate),
        duration_s=duration_s,
        warm_up_s=warm_up_s,
        request_timeout_s=5.0,
        drain_s=5.0,
    )


def assignment(
    coordinator: FakeCoordinator,
    *,
    fence: int = 1,
    devices: tuple[str, ...] = ("cpu-0",),
    load: Workload | None = None,
    limits: Limits | None = None,
    seeds: tuple[int, ...] = (7,),
    engine: str = "mock",
    model: str = "tiny",
    **options: Scalar,
) -> Assignment:
    """An attempt on the mock engine; `options` set its behaviour (`mock_...`)."""
    rows = [TraceRow(input_tokens=16 + index % 5, output_tokens=4 + index % 3) for index in range(20)]
    return Assignment(
        attempt_id=f"study/{fence}/1",
        fence=fence,
        service=Service(
            engine=engine,
            model=model,
            device="cpu",
            devices=len(devices),
            options={"mock_base_ms": 1.0, "mock_prefill_us": 5.0, **options},
        ),
        devices=devices,
        config={"max_num_seqs": 32},
        workload=load or workload(),
        workload_sha256=coordinator.put_blob(to_blob(rows)),
        limits=limits or Limits(start_timeout_s=20.0, stall_timeout_s=1.0),
        run_seeds=seeds,
    )


def configure(
    folder: Path, coordinator: FakeCoordinator, *, slots: int = 2, reserve_gib: float = 0.0, room_wait_s: float = 0.0
) -> Path:
    """Write an agent's configuration."""
    path = folder / "agent.toml"
    path.write_text(
        f"""
[agent]
id = "bench"
coordinator = "{coordinator.endpoint}"
data_dir = "data"
cpu_slots = {slots}
reserve_memory_gib = {reserve_gib}
room_wait_s = {room_wait_s}

[engines.mock]
kind = "mock"

[engines.broken]
kind = "vllm"
python = "{folder}/no/such/python"
"""
    )
    return path


class Bench:
    """A running agent and its coordinator."""

    def __init__(self, coordinator: FakeCoordinator, daemon: Daemon, config: AgentConfig) -> None:
        self.coordinator = coordinator
        self.daemon = daemon
        self.config = config

    def leftovers(self) -> list[str]:
        """Engines, load processes and state files that are still there."""
        files = [str(path) for path in (self.config.data_dir / "engines").glob("*.json")]
        return files + list(child_commands())

    def logs(self) -> str:
        """Engine and load logs of every attempt, for a failing test."""
        paths = sorted((self.config.data_dir / "attempts").glob("*/*.log"))
        return "\n".join(f"--- {path}\n{path.read_text()}" for path in paths)


def child_commands() -> Iterator[str]:
    """Command lines below this process that belong to an attempt."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            line = " ".join(child.cmdline())
            if "scoot." in line or "warden" in line:
                yield line


@contextlib.asynccontextmanager
async def bench(
    folder: Path,
    *,
    lease: LeasePolicy = QUICK,
    slots: int = 2,
    gpus: GpuSource | None = None,
    reserve_gib: float = 0.0,
    room_wait_s: float = 0.0,
) -> AsyncIterator[Bench]:
    """An agent that is connected; it is drained at the end, and must not have failed."""
    async with FakeCoordinator(lease) as coordinator:
        path = configure(folder, coordinator, slots=slots, reserve_gib=reserve_gib, room_wait_s=room_wait_s)
        config = load_config(path)
        daemon = Daemon(config, gpus=gpus)
        running = asyncio.create_task(daemon.run())
        try:
            await coordinator.until(lambda: bool(coordinator.hellos) or running.done())
            yield Bench(coordinator, daemon, config)
        finally:
            daemon.drain()
            await asyncio.wait_for(running, 20.0)


async def agent_process(config: Path) -> asyncio.subprocess.Process:
    """The real daemon in a process of its own; it ends with this one."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "scoot.agent",
        "--config",
        str(config),
        "--exit-with-stdin",
        "--once-ready-file",
        str(config.parent / "ready"),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def timings(batches: dict[int, bytes]) -> TimingBatch:
    """Everything stored for an attempt."""
    return columns.concatenate([columns.decode(payload) for _, payload in sorted(batches.items())])
