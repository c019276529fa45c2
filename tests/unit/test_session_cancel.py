"""A session that is cancelled ends, even when it is woken in that moment (wait_for of Python 3.11 swallows that)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from scoot.agent.core import guard
from scoot.agent.link.codec import AttemptRef, CheckQuestion, CheckReply, Hello
from scoot.agent.link.session import Session
from scoot.wire.assignment import Assignment, Progress
from scoot.wire.lease import LeasePolicy
from scoot.wire.measurement import AttemptOutcome


class Idle:
    """A handler with nothing to say."""

    def hello(self) -> Hello:
        raise NotImplementedError

    def assign(self, assignment: Assignment) -> None:
        raise NotImplementedError

    def cancel(self, ref: AttemptRef) -> None:
        raise NotImplementedError

    def outcome_acknowledged(self, ref: AttemptRef) -> None:
        raise NotImplementedError

    def check(self, question: CheckQuestion) -> None:
        raise NotImplementedError

    def check_replies(self) -> Sequence[CheckReply]:
        return ()

    def catalogues(self) -> Mapping[str, bytes]:
        return {}

    def updates(self) -> Mapping[AttemptRef, Progress]:
        return {}

    def outcomes(self) -> Sequence[AttemptOutcome]:
        return ()


async def test_a_wake_up_does_not_swallow_a_cancellation() -> None:
    def connect() -> Any:
        raise NotImplementedError

    session = Session(connect, Idle(), time.monotonic)
    session.guard = guard.welcomed(session.guard, LeasePolicy(), time.monotonic())
    call: Any = None
    writing = asyncio.create_task(session._write_all(call))
    for _ in range(5):
        await asyncio.wait({writing}, timeout=0)
    assert not writing.done()
    session.wake()
    await asyncio.wait({writing}, timeout=0)
    writing.cancel()
    await asyncio.wait({writing}, timeout=5)
    assert writing.done()
    with pytest.raises(asyncio.CancelledError):
        writing.result()
