"""Asks an engine what it makes of a replica's options before it is started: an invalid configuration costs no start."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final, Protocol, TypeVar

from scoot.agent.engines import base, llamacpp, sglang, trtllm, vllm
from scoot.agent.engines.base import EngineSettings, LaunchRequest
from scoot.agent.engines.inquiry import Inquiry
from scoot.agent.engines.oracle import Oracle
from scoot.agent.host import proctable
from scoot.agent.host.gpu import GpuSource
from scoot.wire.catalogue.option import Catalogue
from scoot.wire.catalogue.verdict import Unknown, Verdict

T = TypeVar("T")

LOG: Final = logging.getLogger(__name__)

_INQUIRIES: Final[Mapping[str, Callable[[EngineSettings], Inquiry | None]]] = MappingProxyType(
    {
        "vllm": vllm.inquiry,
        "sglang": sglang.inquiry,
        "trtllm": trtllm.inquiry,
        "llamacpp": llamacpp.inquiry,
    }
)
"""How the engines are asked that have a check of their own; None: not as they are set up here."""


class Checker(Protocol):
    """One engine's own argument check."""

    async def check(self, request: LaunchRequest) -> Verdict:
        """What the engine makes of it; Unknown where it cannot be asked, which is never held against a configuration.

        Raises:
            UserError: the study asks for a variable that is not allowed.
        """
        ...

    async def catalogue(self) -> Catalogue | Unknown:
        """Every option of the installation, with the defaults it resolves on this host."""
        ...

    async def aclose(self) -> None:
        """End what it keeps running."""
        ...


class EngineChecker:
    """An engine's that is asked in its own interpreter.

    It keeps one `Oracle` (0.6 GB of host memory with vLLM), of the environment that was asked about last: variables
    decide as options do. A check is not meant to use a GPU; where the driver says that its helper holds memory of one
    after all, the helper is ended, and nobody is asked any more: a trial measured beside it would be another.

    Args:
        settings: of the engine.
        inquiry: how it is asked.
        gpus: where the driver is asked; None: there are no GPUs.
        oracle: makes oracles; tests have others.
    """

    def __init__(
        self,
        settings: EngineSettings,
        inquiry: Inquiry,
        *,
        gpus: GpuSource | None = None,
        oracle: Callable[..., Oracle] = Oracle,
    ) -> None:
        self._settings = settings
        self._inquiry = inquiry
        self._gpus = gpus
        self._barred = ""
        self._make = oracle
        self._oracle: Oracle | None = None
        self._asked_env: Mapping[str, str] = {}
        self._turn = asyncio.Lock()

    async def check(self, request: LaunchRequest) -> Verdict:
        """See Checker."""
        env = base.study_environment(request.service.env, allowed=self._inquiry.env, fixed={})
        asked = self._inquiry.asked(request)
        verdict = await self._ask(env, lambda oracle: oracle.check(asked, model=request.service.model))
        return self._inquiry.named(verdict)

    async def catalogue(self) -> Catalogue | Unknown:
        """See Checker."""
        found = await self._ask({}, Oracle.catalogue)
        return found if isinstance(found, Unknown) else self._inquiry.listed(found)

    async def _ask(self, env: Mapping[str, str], question: Callable[[Oracle], Awaitable[T]]) -> T | Unknown:
        """One question to the oracle of an environment."""
        async with self._turn:
            if self._barred:
                return Unknown(self._barred)
            if self._oracle is None or env != self._asked_env:
                await self._close()
                command = base.helper_command(self._settings, *self._inquiry.helper)
                allowed = self._inquiry.options
                self._oracle = self._make(self._settings, allowed=allowed, env=env, command=command)
                self._asked_env = env
            answer = await question(self._oracle)
            held = await asyncio.to_thread(self._held, self._oracle.pid)
            if held:
                self._barred = f"not asked: {self._inquiry.title}'s check takes memory of GPUs here ({held})"
                LOG.error("%s; its helper was ended", self._barred)
                await self._close()
            return answer

    def _held(self, pid: int | None) -> str:
        """The GPU of which the helper holds memory, "" if none."""
        if self._gpus is None or pid is None:
            return ""
        holders = [(each.pid, gpu.id) for gpu in self._gpus.devices() for each in self._gpus.read(gpu.id).processes]
        if not holders:
            return ""  # the process table of a large host is long, and this is asked after every question
        mine = {pid, *(each.pid for each in proctable.below(pid, proctable.read_processes()))}
        return next((device for holder, device in holders if holder in mine), "")

    async def aclose(self) -> None:
        """End the oracle."""
        async with self._turn:
            await self._close()

    async def _close(self) -> None:
        oracle, self._oracle = self._oracle, None
        if oracle is not None:
            await oracle.aclose()


def inquiry_of(settings: EngineSettings) -> Inquiry | None:
    """How an engine's own argument check is asked; None where it has none."""
    make = _INQUIRIES.get(settings.kind)
    return make(settings) if make is not None else None


def make_checker(settings: EngineSettings, gpus: GpuSource | None = None) -> Checker | None:
    """The checker of an engine; None where it has none, or the host's administrator does not want it."""
    inquiry = inquiry_of(settings) if settings.check_first else None
    return EngineChecker(settings, inquiry, gpus=gpus) if inquiry is not None else None
