"""The load process's clocks on a real loop and real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable

import pytest
import uvloop

from scoot.benchmark.clock import STAMP_SPACE, Alarm, ReceiveClock, monotonic_ns

MS = 1_000_000

Loop = Callable[[], asyncio.AbstractEventLoop]


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_alarm_rings_never_early_and_once_per_setting(factory: Loop) -> None:
    async def rings() -> list[tuple[int, int]]:
        loop = asyncio.get_running_loop()
        rung: asyncio.Queue[int] = asyncio.Queue()
        alarm = Alarm(loop, lambda: rung.put_nowait(monotonic_ns()))
        seen = []
        for after_ns in (3 * MS, -5 * MS, 1 * MS):
            due_ns = monotonic_ns() + after_ns
            alarm.set(due_ns)
            alarm.set(due_ns)
            seen.append((due_ns, await asyncio.wait_for(rung.get(), 5)))
        alarm.set(monotonic_ns() + 1 * MS)
        alarm.set(None)
        alarm.set(monotonic_ns() + 4 * MS)
        await asyncio.wait_for(rung.get(), 5)
        assert rung.empty()
        alarm.close()
        alarm.close()
        return seen

    with asyncio.Runner(loop_factory=factory) as runner:
        assert all(rung_ns >= due_ns for due_ns, rung_ns in runner.run(rings()))


def connected() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    return ours, theirs


def test_the_kernel_stamps_arrival_however_late_we_read() -> None:
    ours, theirs = connected()
    with ours, theirs:
        clock = ReceiveClock()
        clock.enable(ours)
        before_ns = monotonic_ns()
        theirs.sendall(b"token")
        after_ns = monotonic_ns()
        late_ns = after_ns + 20 * MS
        while monotonic_ns() < late_ns:
            os.sched_yield()
        data, ancillary, _, _ = ours.recvmsg(100, STAMP_SPACE)
        stamp_ns = clock.stamp_ns(ancillary)
    assert data == b"token"
    assert clock.name == "kernel"
    assert before_ns - MS <= stamp_ns <= after_ns + MS  # the offset between the clocks is known to microseconds


def test_without_the_kernels_stamp_the_time_of_reading_counts_and_is_said() -> None:
    clock = ReceiveClock()
    before_ns = monotonic_ns()
    assert before_ns <= clock.stamp_ns([]) <= monotonic_ns()
    assert clock.name == "user"


def test_a_stamp_never_lies_in_the_future() -> None:
    clock = ReceiveClock()
    future = time.clock_gettime_ns(time.CLOCK_REALTIME) + 3600 * 1_000_000_000
    data = (future // 1_000_000_000).to_bytes(8, "little") + (0).to_bytes(8, "little")
    assert clock.stamp_ns([(socket.SOL_SOCKET, 35, data)]) <= monotonic_ns()
    assert clock.name == "kernel"
