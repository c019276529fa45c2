"""Which adapters there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from scoot.agent.engines.base import EngineAdapter, EngineSettings, check_settings
from scoot.agent.engines.llamacpp import LlamaCppAdapter
from scoot.agent.engines.mock import MockAdapter
from scoot.agent.engines.sglang import SglangAdapter
from scoot.agent.engines.simulated import SimulatedAdapter
from scoot.agent.engines.transformers import TransformersAdapter
from scoot.agent.engines.trtllm import TrtllmAdapter
from scoot.agent.engines.vllm import VllmAdapter
from scoot.wire.errors import UserError

_Make = Callable[[EngineSettings, Path | None], EngineAdapter]

_MAKERS: Final[Mapping[str, _Make]] = MappingProxyType(
    {
        "vllm": lambda settings, cache: VllmAdapter(settings, cache_dir=cache),
        "trtllm": lambda settings, cache: TrtllmAdapter(settings, cache_dir=cache),
        "sglang": lambda settings, cache: SglangAdapter(settings, cache_dir=cache),
        "llamacpp": lambda settings, cache: LlamaCppAdapter(settings, cache_dir=cache),
        "transformers": lambda settings, cache: TransformersAdapter(settings, cache_dir=cache),
        "simulated": lambda settings, _: SimulatedAdapter(settings),
        "mock": lambda settings, _: MockAdapter(settings),
    }
)
KINDS: Final = tuple(_MAKERS)
"""Every kind of engine there is an adapter for."""

_WITH_PROGRAM: Final = frozenset({"llamacpp"})


def make_adapter(settings: EngineSettings, *, cache_dir: Path | None = None) -> EngineAdapter:
    """The adapter for `settings.kind`; `cache_dir` keeps what slow probes found over restarts of the agent.

    Raises:
        UserError: no such kind, or settings it cannot use.
    """
    check_settings(settings)
    make = _MAKERS.get(settings.kind)
    if make is None:
        raise UserError(
            f"no adapter for engine kind {settings.kind!r}",
            key="engines.kind",
            hint=f"known kinds are {', '.join(repr(kind) for kind in KINDS)}",
        )
    if settings.program and settings.kind not in _WITH_PROGRAM:
        raise UserError(
            f"an engine of kind {settings.kind!r} has no program of its own",
            key=f"engines.{settings.kind}.program",
            hint="name the interpreter of its environment as `python`",
        )
    return make(settings, cache_dir)
