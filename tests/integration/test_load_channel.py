"""Messages between the processes of a load, on both kinds of loop."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

import pytest
import uvloop

from scoot.benchmark.channel import Channel, channel_pair

Loop = Callable[[], asyncio.AbstractEventLoop]
LOOPS = pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])


def framed(payload: bytes) -> bytes:
    return struct.pack("<I", len(payload)) + payload


@LOOPS
@pytest.mark.parametrize("unread", [False, True])
def test_the_end_is_noticed_behind_the_last_message(factory: Loop, unread: bool) -> None:
    async def scene() -> list[bytes]:
        ours, theirs = channel_pair()
        lost = asyncio.Event()
        heard: list[bytes] = []
        channel = Channel(ours, heard.append, lost.set)
        if unread:
            # What the other side never read makes its end an error: uvloop reports that once, with the bytes before it.
            channel.send(b"never read")
        theirs.setblocking(True)
        theirs.sendall(framed(b"first") + framed(b"last"))
        theirs.close()
        await asyncio.wait_for(lost.wait(), 10)
        channel.close()
        return heard

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(scene()) == [b"first", b"last"]


@LOOPS
def test_what_there_is_no_room_for_is_kept_and_sent(factory: Loop) -> None:
    payload = bytes(range(256)) * 40_000

    async def scene() -> tuple[list[bytes], int, int]:
        ours, theirs = channel_pair()
        done = asyncio.Event()
        heard: list[bytes] = []

        def received(message: bytes) -> None:
            heard.append(message)
            if len(heard) == 3:
                done.set()

        sender = Channel(ours, heard.append, lambda: None)
        for _ in range(3):
            sender.send(payload)
        kept = sender.backlog_bytes
        receiver = Channel(theirs, received, lambda: None)
        await asyncio.wait_for(asyncio.gather(done.wait(), sender.drain()), 20)
        left = sender.backlog_bytes
        sender.close()
        receiver.close()
        return heard, kept, left

    with asyncio.Runner(loop_factory=factory) as runner:
        heard, kept, left = runner.run(scene())
    assert heard == [payload] * 3
    assert kept > 0
    assert left == 0
