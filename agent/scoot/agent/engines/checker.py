"""Asks an engine what it makes of a replica's options before it is started: an invalid configuration costs no start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from scoot.agent.engines import base, permits, vllm
from scoot.agent.engines.base import EngineSettings, LaunchRequest
from scoot.agent.engines.oracle import Oracle
from scoot.wire.catalogue.verdict import Unknown, Verdict
from scoot.wire.spec import Config

_DEGREE: Final = "tensor_parallel_size"


class Checker(Protocol):
    """One engine's own argument check."""

    async def check(self, request: LaunchRequest) -> Verdict:
        """What the engine makes of it; Unknown where it cannot be asked, which is never held against a configuration.

        Raises:
            UserError: the study asks for a variable that is not allowed.
        """
        ...

    async def aclose(self) -> None:
        """End what it keeps running."""
        ...


class VllmChecker:
    """vLLM's, on processors only: whether the check leaves a GPU alone has not been seen on one.

    It keeps one `Oracle` (0.6 GB of host memory), of the environment that was asked about last: variables decide as
    options do. `oracle` makes it; tests have another.
    """

    def __init__(self, settings: EngineSettings, *, oracle: Callable[..., Oracle] = Oracle) -> None:
        self._settings = settings
        self._make = oracle
        self._options = vllm.ALLOWED_OPTIONS | set(settings.allow_options)
        self._env = vllm.ALLOWED_ENV | set(settings.allow_env)
        self._oracle: Oracle | None = None
        self._asked_env: Mapping[str, str] = {}
        self._turn = asyncio.Lock()

    async def check(self, request: LaunchRequest) -> Verdict:
        """See Checker."""
        if not permits.on_cpu(request):
            return Unknown("not asked: it is not known whether the check leaves GPUs alone")
        env = base.study_environment(request.service.env, allowed=self._env, fixed={})
        asked: Config = permits.asked(request, length="max_model_len")
        if request.tensor_parallel > 1 or _DEGREE in asked:
            asked[_DEGREE] = request.tensor_parallel
        async with self._turn:
            if self._oracle is None or env != self._asked_env:
                await self._close()
                self._oracle, self._asked_env = self._make(self._settings, allowed=self._options, env=env), env
            return await self._oracle.check(asked, model=request.service.model)

    async def aclose(self) -> None:
        """End the oracle."""
        async with self._turn:
            await self._close()

    async def _close(self) -> None:
        oracle, self._oracle = self._oracle, None
        if oracle is not None:
            await oracle.aclose()


def make_checker(settings: EngineSettings) -> Checker | None:
    """The checker of an engine; None where it has none, or the host's administrator does not want it."""
    return VllmChecker(settings) if settings.kind == vllm.VllmAdapter.name and settings.check_first else None
