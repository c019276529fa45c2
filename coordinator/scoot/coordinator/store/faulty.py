"""A store that fails on purpose, at a chosen operation: the nemesis of crash sweeps and of failpoints in a live daemon.

A sweep runs the same work with a fault at operation 1, 2, 3, ... until a run ends before its fault was due:

    for at in itertools.count(1):
        store = FaultyStore(inner, FaultPlan(faults=(Fault(at=at, action=Action.CRASH),)))
        ...work, and after StoreCrash: start again on what `inner` holds...
        if not store.fired:
            break
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TypeVar

import msgspec

from scoot.coordinator.store.base import Change, Segment, SegmentInfo, Snapshot, Store
from scoot.wire.errors import PermanentInfraError, TransientError, UserError

T = TypeVar("T")


class StoreCrash(BaseException):
    """The process would be dead here. No handler of ordinary errors may catch it, hence no Exception."""


class When(StrEnum):
    """Whether the fault comes before the operation took effect or after."""

    BEFORE = "before"
    AFTER = "after"


class Action(StrEnum):
    """What happens.

    TRANSIENT, PERMANENT: the store's error is raised.
    CRASH: StoreCrash is raised, by this operation and by every later one.
    KILL: the process kills itself with SIGKILL.
    SLOW: the operation takes `seconds` longer, then succeeds.
    """

    TRANSIENT = "transient"
    PERMANENT = "permanent"
    CRASH = "crash"
    KILL = "kill"
    SLOW = "slow"


class Operation(StrEnum):
    """Operations that count. `close` never fails."""

    ANY = "any"
    LOAD = "load"
    COMMIT = "commit"
    JOURNAL = "journal"
    ADD_SEGMENTS = "add_segments"
    SEGMENTS = "segments"
    READ_SEGMENT = "read_segment"
    PUT_BLOB = "put_blob"
    GET_BLOB = "get_blob"


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault.

    Attributes:
        at: the `at`-th call (from 1) of `operation` since the store was made; ANY counts them all.
        count: so many calls in a row, from that one on.
        seconds: for SLOW.

    Raises:
        UserError: at or count below 1, negative seconds, or TRANSIENT after the effect (a transient error promises that
            nothing was written; a store that broke this promise would test nothing).
    """

    at: int
    action: Action = Action.TRANSIENT
    when: When = When.BEFORE
    operation: Operation = Operation.ANY
    count: int = 1
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.at < 1 or self.count < 1 or not self.seconds >= 0:
            raise UserError("a fault needs at >= 1, count >= 1 and seconds >= 0", key="fault")
        if self.action is Action.TRANSIENT and self.when is When.AFTER:
            raise UserError(
                "a transient error cannot come after the effect", key="fault", hint="use permanent or crash"
            )


class FaultPlan(msgspec.Struct, frozen=True, kw_only=True):
    """When a FaultyStore fails. Empty: never."""

    faults: tuple[Fault, ...] = ()


def parse_plan(text: str) -> FaultPlan:
    """A plan from `OPERATION:AT:WHEN:ACTION[:SECONDS]`, several joined by commas: `commit:3:after:kill`.

    Raises:
        UserError: it is not written like that.
    """
    faults: list[Fault] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        try:
            operation, at, when, action, *seconds = part.split(":")
            faults.append(
                Fault(
                    operation=Operation(operation),
                    at=int(at),
                    when=When(when),
                    action=Action(action),
                    seconds=float(*seconds),
                )
            )
        except (ValueError, TypeError) as exc:
            raise UserError(
                f"{part!r} is not a store fault ({exc})",
                key="fault",
                hint="write OPERATION:AT:before|after:ACTION, for example commit:3:after:kill",
            ) from exc
    return FaultPlan(faults=tuple(faults))


class FaultyStore:
    """`inner` with the faults of `plan`.

    Attributes:
        calls: names of the operations called so far, in order.
        fired: faults that have come true, in order.
    """

    def __init__(self, inner: Store, plan: FaultPlan) -> None:
        self._inner = inner
        self._plan = plan
        self._crashed = False
        self.calls: list[Operation] = []
        self.fired: list[Fault] = []

    def _run(self, operation: Operation, call: Callable[[], T]) -> T:
        if self._crashed:
            raise StoreCrash
        self.calls.append(operation)
        due = self._due(operation)
        for fault in due:
            if fault.when is When.BEFORE:
                self._fire(fault, operation)
        result = call()
        for fault in due:
            if fault.when is When.AFTER:
                self._fire(fault, operation)
        return result

    def _due(self, operation: Operation) -> list[Fault]:
        numbers = {Operation.ANY: len(self.calls), operation: self.calls.count(operation)}
        return [
            fault
            for fault in self._plan.faults
            if fault.operation in numbers and fault.at <= numbers[fault.operation] < fault.at + fault.count
        ]

    def _fire(self, fault: Fault, operation: Operation) -> None:
        self.fired.append(fault)
        told = f"injected fault {fault.when} {operation} (call {len(self.calls)})"
        match fault.action:
            case Action.TRANSIENT:
                raise TransientError(told, retry_after_s=0.0)
            case Action.PERMANENT:
                raise PermanentInfraError(told)
            case Action.CRASH:
                self._crashed = True
                raise StoreCrash(told)
            case Action.KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            case Action.SLOW:
                threading.Event().wait(fault.seconds)

    def load(self) -> Snapshot:
        """See `base.Store`."""
        return self._run(Operation.LOAD, self._inner.load)

    def commit(self, change: Change) -> None:
        """See `base.Store`."""
        self._run(Operation.COMMIT, lambda: self._inner.commit(change))

    def journal(self, after: int = 0, limit: int = 1000) -> Sequence[tuple[int, bytes]]:
        """See `base.Store`."""
        return self._run(Operation.JOURNAL, lambda: self._inner.journal(after, limit))

    def add_segments(self, segments: Sequence[Segment]) -> None:
        """See `base.Store`."""
        self._run(Operation.ADD_SEGMENTS, lambda: self._inner.add_segments(segments))

    def segments(self, attempt_id: str) -> Sequence[SegmentInfo]:
        """See `base.Store`."""
        return self._run(Operation.SEGMENTS, lambda: self._inner.segments(attempt_id))

    def read_segment(self, info: SegmentInfo) -> bytes:
        """See `base.Store`."""
        return self._run(Operation.READ_SEGMENT, lambda: self._inner.read_segment(info))

    def put_blob(self, data: bytes) -> str:
        """See `base.Store`."""
        return self._run(Operation.PUT_BLOB, lambda: self._inner.put_blob(data))

    def get_blob(self, sha256: str) -> bytes:
        """See `base.Store`."""
        return self._run(Operation.GET_BLOB, lambda: self._inner.get_blob(sha256))

    def close(self) -> None:
        """See `base.Store`."""
        self._inner.close()
