"""Which adapters there are."""

from __future__ import annotations

from pathlib import Path

from scoot.agent.engines.base import EngineAdapter, EngineSettings, check_settings
from scoot.agent.engines.mock import MockAdapter
from scoot.agent.engines.simulated import SimulatedAdapter
from scoot.agent.engines.vllm import VllmAdapter
from scoot.wire.errors import UserError


def make_adapter(settings: EngineSettings, *, cache_dir: Path | None = None) -> EngineAdapter:
    """The adapter for `settings.kind`; `cache_dir` keeps what slow probes found over restarts of the agent.

    Raises:
        UserError: no such kind, or settings it cannot use.
    """
    check_settings(settings)
    if settings.kind == "vllm":
        return VllmAdapter(settings, cache_dir=cache_dir)
    if settings.kind == "simulated":
        return SimulatedAdapter(settings)
    if settings.kind == "mock":
        return MockAdapter(settings)
    raise UserError(
        f"no adapter for engine kind {settings.kind!r}",
        key="engines.kind",
        hint='known kinds are "vllm", "simulated" and "mock"',
    )
