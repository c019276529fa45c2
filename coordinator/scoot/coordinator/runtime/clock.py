"""The coordinator's clocks: monotonic for decisions, wall time for display. Tests put their own in place."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from."""

    def monotonic_s(self) -> float:
        """Seconds that never go back; for leases and durations."""

    def wall_s(self) -> float:
        """Seconds since the epoch; for display only."""

    async def sleep(self, seconds: float) -> None:
        """Return `seconds` later."""


class SystemClock:
    """The operating system's clocks."""

    def monotonic_s(self) -> float:
        """CLOCK_MONOTONIC, seconds."""
        return time.monotonic()

    def wall_s(self) -> float:
        """CLOCK_REALTIME, seconds since the epoch."""
        return time.time()  # noqa: TID251 - the one place wall time is read

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running loop."""
        await asyncio.sleep(seconds)  # noqa: TID251 - the one place that sleeps
