"""Real daemons on loopback for system tests: a coordinator process, agent processes, the mock engine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
from collections.abc import AsyncIterator, Callable

import msgspec
import psutil
from tools.daemons import Daemon

from scoot.benchmark.workload import profile_rows, resolve
from scoot.cli.client import Coordinator as Client
from scoot.wire.endpoint import TlsFiles, parse_endpoint
from scoot.wire.lease import LeasePolicy
from scoot.wire.spec import (
    ArrivalProcess,
    Arrivals,
    Budget,
    Confirm,
    Limits,
    Objective,
    Parameter,
    ParameterKind,
    Scalar,
    Scale,
    Service,
    StudySpec,
    Workload,
)
from scoot.wire.view import StudyDetail

LEASE = LeasePolicy(heartbeat_s=0.5, self_fence_s=6.0, lost_s=8.0, reassign_s=14.0, stop_grace_s=3.0, kill_grace_s=2.0)
PATIENCE_S = 60.0


class Rig:
    """A coordinator and its agents in one folder."""

    def __init__(
        self, folder: pathlib.Path, agents: int = 1, slots: int = 1, tls: dict[str, TlsFiles] | None = None
    ) -> None:
        """`tls`: certificates of "coordinator", "agent" and "client"; plaintext without."""
        self.folder = folder
        self.tls = tls or {}
        self.coordinator = self._daemon("coordinator", self._coordinator("127.0.0.1:0"))
        self.agents: list[Daemon] = []
        self._counts = (agents, slots)
        self.address = ""

    def _daemon(self, name: str, argv: list[str]) -> Daemon:
        """As it runs on a host of its own: a system test is of that."""
        return Daemon(name, argv, self.folder, tied=False, patience_s=PATIENCE_S)

    def _coordinator(self, listen: str) -> list[str]:
        argv = ["scoot.coordinator", "--data", str(self.folder / "coordinator"), "--listen", listen]
        for name in LEASE.__struct_fields__:
            argv += ["--lease", f"{name}={getattr(LEASE, name)}"]
        if "coordinator" in self.tls:
            files = self.tls["coordinator"]
            argv += ["--tls-ca", files.ca, "--tls-cert", files.cert, "--tls-key", files.key]
        return argv

    def _agent(self, number: int, slots: int) -> Daemon:
        name = f"agent-{number}"
        config = self.folder / f"{name}.toml"
        config.write_text(
            f'[agent]\nid = "{name}"\ncoordinator = "{self.address}"\ndata_dir = "{self.folder / name}"\n'
            f'cpu_slots = {slots}\nreserve_memory_gib = 0.1\n[engines.mock]\nkind = "mock"\n'
        )
        if "agent" in self.tls:
            files = self.tls["agent"]
            with config.open("a") as file:
                file.write(f'[tls]\nca = "{files.ca}"\ncert = "{files.cert}"\nkey = "{files.key}"\n')
        return self._daemon(name, ["scoot.agent", "--config", str(config)])

    async def start(self) -> None:
        self.coordinator.start()
        self.address = await self.coordinator.ready()
        # From now on it must come back on the same port, as a service would.
        self.coordinator.argv = tuple(self._coordinator(self.address))
        agents, slots = self._counts
        self.agents = [self._agent(number, slots) for number in range(agents)]
        for agent in self.agents:
            agent.start()
        for agent in self.agents:
            await agent.ready()

    def client(self) -> Client:
        return Client(parse_endpoint(self.address), self.tls.get("client"))

    async def until(self, study_id: str, condition: Callable[[StudyDetail], bool]) -> StudyDetail:
        """The first state of the study that satisfies `condition`."""
        async with asyncio.timeout(PATIENCE_S), self.client() as client:
            async for detail in client.watch_study(study_id):
                if condition(detail):
                    return detail
        raise AssertionError(f"the study ended first: {detail}")

    def leftovers(self) -> list[str]:
        """Command lines of processes that belong to this rig."""
        own = str(self.folder)
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.pid != os.getpid() and any(own in part for part in process.cmdline()):
                    found.append(" ".join(process.cmdline()))
        return found

    def stop(self) -> None:
        """Stop what still runs, whatever the test did."""
        for daemon in (*self.agents, self.coordinator):
            daemon.stop()


@contextlib.asynccontextmanager
async def rig(
    folder: pathlib.Path, agents: int = 1, slots: int = 1, tls: dict[str, TlsFiles] | None = None
) -> AsyncIterator[Rig]:
    made = Rig(folder, agents, slots, tls)
    try:
        await made.start()
        yield made
    finally:
        made.stop()


def study(trials: int = 6, parallelism: int = 1, orders: int = 0, **options: Scalar) -> StudySpec:
    """A short study on the mock engine."""
    return StudySpec(
        name="system",
        service=Service(engine="mock", model="mock-chat-8b", device="cpu", max_model_len=2048, options=options),
        workload=Workload(
            profile="BOT",
            length_scale=0.05,
            arrivals=Arrivals(process=ArrivalProcess.CONSTANT, rate=30.0),
            warm_up_s=0.3,
            duration_s=1.2,
            drain_s=10.0,
            request_timeout_s=10.0,
        ),
        parameters=(
            Parameter(name="max_num_seqs", kind=ParameterKind.INT, low=8, high=256, scale=Scale.POW2),
            Parameter(name="max_num_batched_tokens", kind=ParameterKind.INT, low=256, high=8192, scale=Scale.POW2),
        ),
        objectives=(Objective(metric="ttft_mean"), Objective(metric="tpot_mean")),
        budget=Budget(trials=trials, parallelism=parallelism, max_attempts=10),
        confirm=Confirm(arrival_orders=orders),
        limits=Limits(
            lateness_p99_ms=500.0,
            start_timeout_s=30.0,
            stall_timeout_s=10.0,
            client_cpu_share=1.0,
            other_cpu_share=0.0,
        ),
    )


async def submit(made: Rig, spec: StudySpec, key: str = "key") -> str:
    """Resolve and submit; the study's id."""
    resolved = resolve(spec.workload, max_model_len=spec.service.max_model_len, rows=profile_rows(spec.workload))
    async with made.client() as client:
        created = await client.create_study(
            msgspec.structs.replace(spec, workload_facts=resolved.facts), resolved.blob, key
        )
    return created.study_id
