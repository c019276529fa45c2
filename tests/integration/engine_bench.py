"""A real engine through its adapter and the agent's own runtime: what the tests of real engines stand on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from scoot.agent.core.plan import Prompting
from scoot.agent.engines.base import EngineAdapter, LaunchRequest
from scoot.agent.fleet import Fleet, ReplicaTrouble
from scoot.agent.host import cgroup
from scoot.agent.host.ports import free_port
from scoot.wire.assignment import Device
from scoot.wire.spec import Scalar, Service

START_S = 120.0


def packages_in(folder: Path, texts: Mapping[str, str]) -> Path:
    """A folder for PYTHONPATH with these modules: file -> text."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def launch(
    engine: str,
    model: str,
    config: Mapping[str, Scalar],
    folder: Path,
    *,
    max_model_len: int | None = None,
    **options: Scalar,
) -> LaunchRequest:
    """One replica on a CPU slot."""
    return LaunchRequest(
        service=Service(engine=engine, model=model, device="cpu", max_model_len=max_model_len, options=options),
        config=dict(config),
        tensor_parallel=1,
        devices=(Device(id="cpu-0", kind="cpu"),),
        port=free_port(),
        workdir=str(folder / "engine-0"),
    )


@contextlib.asynccontextmanager
async def started(
    adapter: EngineAdapter, request: LaunchRequest, folder: Path
) -> AsyncIterator[tuple[Fleet, ReplicaTrouble | None]]:
    """An engine that is ready, or what is wrong with it; stopped at the end, and nothing of it is left."""
    low, high = adapter.token_range(request.service.model)
    prompting = Prompting(
        model=adapter.served_model_name(request),
        prompt_mode=adapter.prompt_mode,
        token_low=low,
        token_high=high,
        ignore_eos=adapter.ignore_eos,
    )
    fleet = Fleet(adapter, [request], folder)
    try:
        await fleet.start(attempt_id="test/0/0", state_dir=folder, cgroups=cgroup.probe())
        deadline_s = asyncio.get_running_loop().time() + START_S
        yield fleet, await fleet.ready(lambda _: prompting, deadline_s)
    finally:
        reports = await fleet.stop(15.0, 5.0)
    assert all(report.clean and not report.killed for report in reports), reports
    assert fleet.unclean() == ""
    assert not list(folder.glob("*.engine.json"))  # noqa: ASYNC240 - one look
