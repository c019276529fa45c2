"""Watching a load for a hang: signs of life in, a question to the engine when they stop, trouble out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from scoot.agent.core import stall
from scoot.agent.fleet import ReplicaTrouble
from scoot.benchmark.plan import LoadProgress

LOG: Final = logging.getLogger(__name__)


class StallWatch:
    """One load's watch. Feed it with `heard`; `hang` returns when the engine hangs, and never otherwise."""

    def __init__(
        self,
        stall_timeout_s: float,
        ask: Callable[[float], Awaitable[ReplicaTrouble | None]],
        clock: Callable[[], float],
    ) -> None:
        """`ask` has every replica answer a completion within so many seconds; `clock` is monotonic seconds."""
        self._limit_s = stall_timeout_s
        self._ask = ask
        self._clock = clock
        self._advance = stall.begin(clock())
        self._news = asyncio.Event()

    def heard(self, progress: LoadProgress) -> None:
        """A sign of life of the load process; they come as long as it lives, whatever the engine does."""
        self._advance = stall.heard(self._advance, progress, self._clock())
        self._news.set()

    async def hang(self) -> ReplicaTrouble:
        """Wait for a hang; what is known of it."""
        while True:
            await self._next()
            if not stall.suspicious(self._advance, self._limit_s):
                continue
            trouble = await self._ask(stall.patience_s(self._limit_s))
            if trouble is None:
                idle_s = max(self._advance.idle_s, self._advance.mute_s)
                LOG.info("nothing came for %.1f s, and a completion was answered: slow, no hang", idle_s)
                self._advance = stall.proven(self._advance, self._clock())
                continue
            while stall.suspicious(self._advance, self._limit_s):
                why = stall.hang(self._advance, self._limit_s, timed_out=trouble.silent)
                if why:
                    return msgspec.structs.replace(trouble, silent=True, detail=f"{why}; {trouble.detail}")
                await self._next()

    async def _next(self) -> None:
        self._news.clear()
        await self._news.wait()
