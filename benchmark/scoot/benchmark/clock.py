"""The load process's clocks: the monotonic one it stamps with, an alarm that rings on time, and what it watches."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

monotonic_ns: Final = time.monotonic_ns
"""The only clock timings are taken from."""

_NS_PER_S: Final = 1_000_000_000
_WALL_TRIES: Final = 5


class Alarm:
    """Calls back once at an absolute monotonic time. One per process: it owns ITIMER_REAL and SIGALRM.

    The interval timer wakes the loop by its signal file descriptor, some 0.2 ms after the time asked for; the loop's
    own timers only know milliseconds. It never rings early, and may ring without cause: the callback looks at the
    clock itself.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._at_ns: int | None = None
        loop.add_signal_handler(signal.SIGALRM, callback)

    def set(self, at_ns: int | None) -> None:
        """Ring at `at_ns`, at once if that has passed; None: not at all. Replaces what was set before."""
        if at_ns == self._at_ns:
            return
        self._at_ns = at_ns
        if at_ns is None:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            return
        left_ns = at_ns - monotonic_ns()
        if left_ns <= 0:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            self._loop.call_soon(self._callback)
        else:
            signal.setitimer(signal.ITIMER_REAL, (left_ns + 999) / _NS_PER_S)

    def close(self) -> None:
        """Never ring again."""
        self.set(None)
        self._loop.remove_signal_handler(signal.SIGALRM)


def sharpen_timers() -> None:
    """Ask the kernel not to gather this thread's timers with others (its slack is 50 us by default). Best effort."""
    try:
        Path("/proc/self/timerslack_ns").write_text("1", encoding="ascii")
    except OSError:
        return


class WallWatch:
    """Movement of the wall clock against the monotonic one since the watch was made."""

    def __init__(self) -> None:
        self._offset_ns = _wall_offset_ns()
        self.largest_ns = 0

    def sample(self) -> None:
        """Look at both clocks."""
        self.largest_ns = max(self.largest_ns, abs(_wall_offset_ns() - self._offset_ns))


def _wall_offset_ns() -> int:
    """Wall minus monotonic clock, from the tightest of a few readings (being preempted between two looks misleads)."""
    best = (_NS_PER_S, 0)
    for _ in range(_WALL_TRIES):
        before = time.monotonic_ns()
        wall = time.clock_gettime_ns(time.CLOCK_REALTIME)
        after = time.monotonic_ns()
        best = min(best, (after - before, wall - (before + after) // 2))
    return best[1]


class CpuWatch:
    """CPU time used, and time spent waiting for a CPU, since the watch was made."""

    def __init__(self) -> None:
        self._wall_ns = time.monotonic_ns()
        self._cpu_ns = time.process_time_ns()
        self._queue_ns = _run_queue_ns()

    def share(self) -> float:
        """CPU seconds of this process / wall seconds."""
        return (time.process_time_ns() - self._cpu_ns) / max(1, time.monotonic_ns() - self._wall_ns)

    def run_queue_s(self) -> float:
        """Seconds the main thread was runnable and had no CPU; 0 where the kernel does not tell."""
        return max(0, _run_queue_ns() - self._queue_ns) / _NS_PER_S


def _run_queue_ns() -> int:
    try:
        return int(Path("/proc/self/schedstat").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0
