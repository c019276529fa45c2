"""A load process followed to its end: progress read and shown, its end noticed. IO."""

from __future__ import annotations

import os
import select
import time
from typing import Final

import msgspec

from scoot.benchmark.plan import LoadProgress
from scoot.benchmark.standalone.launch import Child, Interrupts
from scoot.benchmark.standalone.live import Display
from scoot.benchmark.standalone.view import Follower

STOPPING: Final = "stopping; once more kills the load"

_READ_BYTES: Final = 65_536
_LOOK_MS: Final = 250
"""Signals do not end a poll; interrupts are noticed so late at most."""


def follow(child: Child, follower: Follower, display: Display, interrupts: Interrupts, *, watch: int = -1) -> int:
    """Show progress until the child has ended; its exit code, negative for a signal. Signal handlers run meanwhile.

    Args:
        child: the load process, its output read here.
        follower: makes views of its progress.
        display: where they go.
        interrupts: what the user asked for; the end of `watch` counts as one.
        watch: a file descriptor to look at, -1 for none.
    """
    rest = b""
    told = False
    poll = select.poll()
    ended = os.pidfd_open(child.pid)
    try:
        poll.register(ended, select.POLLIN)
        poll.register(child.output, select.POLLIN)
        if watch >= 0:
            poll.register(watch, select.POLLIN)
        over = False
        while not over:
            for fd, _ in poll.poll(_LOOK_MS):
                over |= fd == ended
                if fd == watch and not os.read(watch, _READ_BYTES):
                    poll.unregister(watch)
                    interrupts.ask()
                if fd == child.output:
                    data = os.read(child.output, _READ_BYTES)
                    if not data:
                        poll.unregister(child.output)
                    *lines, rest = (rest + data).split(b"\n")
                    _show(lines, follower, display)
            if interrupts.count and not told:
                told = True
                display.note(STOPPING)
    finally:
        os.close(ended)
        display.close()
    return child.wait()


def _show(lines: list[bytes], follower: Follower, display: Display) -> None:
    """Show the latest of some lines; the others are seen as well, for the rates."""
    view = None
    for line in lines:
        try:
            progress = msgspec.json.decode(line, type=LoadProgress)
        except msgspec.DecodeError:
            display.note(line.decode(errors="replace"))
            continue
        view = follower.see(progress, time.monotonic())
    if view is not None:
        display.update(view)
