"""The load process's clocks: the monotonic one it stamps with, an alarm that rings on time, and what it watches."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

monotonic_ns: Final = time.monotonic_ns
"""The only clock timings are taken from."""

_NS_PER_S: Final = 1_000_000_000
_TFD_TIMER_ABSTIME: Final = 1
_SO_TIMESTAMPNS: Final = 35
"""Linux's number on every architecture SCOOT runs on; Python's socket module does not name it."""

_TIMESPEC: Final = struct.Struct("@qq")
STAMP_SPACE: Final = socket.CMSG_SPACE(_TIMESPEC.size)
"""Bytes of control messages to read with each recvmsg()."""

_WALL_TRIES: Final = 5


class _Itimerspec(ctypes.Structure):
    """struct itimerspec of timerfd_settime(2): interval, then value, each seconds and nanoseconds."""

    _fields_: ClassVar = [(name, ctypes.c_long) for name in ("interval_s", "interval_ns", "value_s", "value_ns")]


class Alarm:
    """Calls back once at an absolute monotonic time, by a timerfd.

    The loop's own timers only know milliseconds. It never rings early, and may ring without cause: the callback looks
    at the clock itself.

    Raises:
        OSError: the kernel gives no timer.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        """`on_ring` is to be called whenever `fd` can be read."""
        self._callback = callback
        self.at_ns: int | None = None
        # Python names timerfd from 3.13 on only.
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = _checked(libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
        self._settime = libc.timerfd_settime
        self._spec = _Itimerspec(0, 0, 0, 0)
        self._spec_at = ctypes.byref(self._spec)

    def on_ring(self) -> None:
        """It rang, or it may have."""
        with contextlib.suppress(BlockingIOError):  # set anew since it rang
            os.read(self.fd, 8)
        self.at_ns = None
        self._callback()

    def set(self, at_ns: int | None) -> None:
        """Ring at `at_ns`, at once if that has passed; None: not at all. Replaces what was set before."""
        if at_ns == self.at_ns:
            return
        self.at_ns = at_ns
        # A value of zero disarms; any time that has passed rings at once.
        self._spec.value_s, self._spec.value_ns = divmod(0 if at_ns is None else max(1, at_ns), _NS_PER_S)
        _checked(self._settime(self.fd, _TFD_TIMER_ABSTIME, self._spec_at, None))

    def close(self) -> None:
        """Never ring again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _checked(result: int) -> int:
    """`result` of a libc call, its failure as an exception."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


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


class ReceiveClock:
    """Monotonic receive stamps: the kernel's where it gives them, this process's own otherwise.

    The kernel stamps each segment with the wall clock when it arrives (SO_TIMESTAMPNS), however busy this process is;
    the offset to the monotonic clock is measured again and again. A wall clock that steps meanwhile is told by
    WallWatch and makes the run invalid.

    Attributes:
        offset_ns: wall minus monotonic clock.
    """

    def __init__(self) -> None:
        self.offset_ns = _wall_offset_ns()

    @staticmethod
    def enable(sock: socket.socket) -> None:
        """Ask for the kernel's stamps on a socket. Where it refuses, reads come without them, which is seen."""
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)

    def sample(self) -> None:
        """Measure the offset anew."""
        self.offset_ns = _wall_offset_ns()

    def stamp_ns(self, ancillary: list[tuple[int, int, bytes]], read_ns: int) -> int:
        """When what came with these control messages was received, by the kernel's stamp; `read_ns` without one.

        Never later than `read_ns`, when it was read.
        """
        for _, _, data in ancillary:
            if len(data) == _TIMESPEC.size:
                seconds, nanoseconds = _TIMESPEC.unpack(data)
                return min(read_ns, int(seconds) * _NS_PER_S + int(nanoseconds) - self.offset_ns)
        return read_ns


def stamps_ns(stamps: Sequence[bytes], read_ns: Sequence[int], offset_ns: int) -> npt.NDArray[np.int64]:
    """The same for many reads at once: (n,) monotonic ns.

    Args:
        stamps: the kernel's, as it gave them; b"" for none.
        read_ns: when each was read.
        offset_ns: wall minus monotonic clock.
    """
    read = np.array(read_ns, dtype=np.int64)
    whole = b"".join(stamps)
    if len(whole) != len(stamps) * _TIMESPEC.size:
        none = bytes(_TIMESPEC.size)
        given = np.fromiter((len(stamp) == _TIMESPEC.size for stamp in stamps), np.bool_, len(stamps))
        whole = b"".join(stamp if len(stamp) == _TIMESPEC.size else none for stamp in stamps)
    else:
        given = np.ones(len(stamps), np.bool_)
    parts = np.frombuffer(whole, dtype=np.int64).reshape(-1, 2)
    arrived = parts[:, 0] * _NS_PER_S + parts[:, 1] - offset_ns
    return np.where(given, np.minimum(arrived, read), read)


class DispatchLead:
    """How long before a dispatch to wake up, so that it is spun for and not slept through. Pure.

    A sleeping thread wakes some tens of microseconds late, the more the deeper its CPU slept. Waking that much earlier
    and watching the clock for the rest sends on time. What is received meanwhile carries the kernel's stamps, so
    nothing is lost by it but CPU time, of which at most SPIN_SHARE is spent.
    """

    SPIN_SHARE: ClassVar = 0.05
    LONGEST_NS: ClassVar = 200_000

    def __init__(self) -> None:
        self._wake_ns = 50_000.0
        self._gap_ns = 10_000_000.0
        self.ns = 0

    def woke(self, late_ns: int) -> None:
        """A wake-up came so late."""
        # Up fast and down slowly: near the 90th percentile, which a mean of skewed latencies is not.
        step = 0.2 if late_ns > self._wake_ns else 0.02
        self._wake_ns += step * (late_ns - self._wake_ns)

    def dispatched(self, gap_ns: int) -> None:
        """A dispatch was due so long after the one before."""
        self._gap_ns += 0.1 * (gap_ns - self._gap_ns)
        self.ns = int(min(self._wake_ns * 1.5, self.LONGEST_NS, self.SPIN_SHARE * self._gap_ns))


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


class StealWatch:
    """CPU time the hypervisor gave to others since the watch was made, all CPUs together."""

    def __init__(self) -> None:
        self._ticks = _stolen_ticks()

    def stolen_s(self) -> float:
        """Seconds; 0 where the kernel does not tell."""
        return max(0, _stolen_ticks() - self._ticks) / os.sysconf("SC_CLK_TCK")


def _stolen_ticks() -> int:
    try:
        return int(Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[8])
    except (OSError, IndexError, ValueError):
        return 0
