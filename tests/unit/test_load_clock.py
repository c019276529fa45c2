"""The load process's clocks on a real loop and real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from scoot.benchmark.clock import STAMP_SPACE, Alarm, DispatchLead, ReceiveClock, monotonic_ns, stamps_ns

MS = 1_000_000

Loop = Callable[[], asyncio.AbstractEventLoop]


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_alarm_rings_never_early_and_once_per_setting(factory: Loop) -> None:
    async def rings() -> list[tuple[int, int]]:
        loop = asyncio.get_running_loop()
        rung: asyncio.Queue[int] = asyncio.Queue()
        alarm = Alarm(lambda: rung.put_nowait(monotonic_ns()))
        loop.add_reader(alarm.fd, alarm.on_ring)
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
        loop.remove_reader(alarm.fd)
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
        # The first to want stamps on a machine has them switched on a moment later; until then there are none, or they
        # are of the reading.
        for _ in range(50):
            before_ns = monotonic_ns()
            theirs.sendall(b"token")
            after_ns = monotonic_ns()
            late_ns = after_ns + 20 * MS
            while monotonic_ns() < late_ns:
                os.sched_yield()
            data, ancillary, _, _ = ours.recvmsg(100, STAMP_SPACE)
            read_ns = monotonic_ns()
            stamp_ns = clock.stamp_ns(ancillary, read_ns)
            assert data == b"token"
            stamp = ancillary[0][2] if ancillary else b""
            assert stamps_ns([stamp], [read_ns], clock.offset_ns).tolist() == [stamp_ns]
            if stamp_ns < late_ns:
                break
    assert before_ns - MS <= stamp_ns <= after_ns + MS  # the offset between the clocks is known to microseconds


def test_without_the_kernels_stamp_the_time_of_reading_counts() -> None:
    assert ReceiveClock().stamp_ns([], 12_345) == 12_345


def test_a_stamp_never_lies_after_its_reading() -> None:
    clock = ReceiveClock()
    future = time.clock_gettime_ns(time.CLOCK_REALTIME) + 3600 * 1_000_000_000
    data = (future // 1_000_000_000).to_bytes(8, "little") + (0).to_bytes(8, "little")
    assert clock.stamp_ns([(socket.SOL_SOCKET, 35, data)], 12_345) == 12_345


@given(
    reads=st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(min_value=0, max_value=2**60)), st.integers(min_value=0, max_value=2**60)
        ),
        max_size=20,
    ),
    offset_ns=st.integers(min_value=0, max_value=2**60),
)
def test_many_stamps_are_mapped_as_one_is(reads: list[tuple[int | None, int]], offset_ns: int) -> None:
    clock = ReceiveClock()
    clock.offset_ns = offset_ns
    stamps = [
        b"" if wall_ns is None else b"".join(part.to_bytes(8, "little") for part in divmod(wall_ns, 1_000_000_000))
        for wall_ns, _ in reads
    ]
    read_ns = [read for _, read in reads]
    one_by_one = [
        clock.stamp_ns([(socket.SOL_SOCKET, 35, stamp)] if stamp else [], read)
        for stamp, read in zip(stamps, read_ns, strict=True)
    ]
    assert stamps_ns(stamps, read_ns, offset_ns).tolist() == one_by_one


def test_the_lead_follows_late_wake_ups_and_costs_a_bounded_share() -> None:
    lead = DispatchLead()
    for _ in range(200):
        lead.woke(60_000)
        lead.dispatched(10 * MS)
    assert 60_000 <= lead.ns <= 120_000, "it covers the wake-ups seen"
    for _ in range(200):
        lead.woke(60_000)
        lead.dispatched(200_000)
    assert lead.ns <= DispatchLead.SPIN_SHARE * 200_000 * 1.01, "a high rate spins less each time"
    for _ in range(200):
        lead.woke(50 * MS)
        lead.dispatched(100 * MS)
    assert lead.ns == DispatchLead.LONGEST_NS
