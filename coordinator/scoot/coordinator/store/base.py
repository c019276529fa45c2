"""What the coordinator asks of a store. One contract suite (tests/contract) runs over every implementation.

All calls are synchronous and made from one writer thread. When a call returns, its effect is durable; when it raises,
nothing of it happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from scoot.coordinator.study.state import (
    AgentRecord,
    AttemptRecord,
    StudyRecord,
    TrialRecord,
)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction: records to insert or replace, the events that caused them (JSON), and the next fencing token."""

    studies: tuple[StudyRecord, ...] = ()
    trials: tuple[TrialRecord, ...] = ()
    attempts: tuple[AttemptRecord, ...] = ()
    agents: tuple[AgentRecord, ...] = ()
    journal: tuple[bytes, ...] = ()
    next_fence: int | None = None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything committed, in order of first insertion. `next_fence` starts at 1."""

    studies: tuple[StudyRecord, ...] = ()
    trials: tuple[TrialRecord, ...] = ()
    attempts: tuple[AttemptRecord, ...] = ()
    agents: tuple[AgentRecord, ...] = ()
    next_fence: int = 1


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A timing batch to keep: `payload` as received (`encoding` "raw" or "zstd"), its SHA-256 (hex) and sizes."""

    attempt_id: str
    seq: int
    sha256: str
    encoding: str
    raw_bytes: int
    n_requests: int
    n_chunks: int
    payload: bytes


class SegmentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A stored segment without its payload."""

    attempt_id: str
    seq: int
    sha256: str
    encoding: str
    raw_bytes: int
    n_requests: int
    n_chunks: int
    stored_bytes: int


class Store(Protocol):
    """Durable state of a coordinator.

    Raises (any call):
        TransientError: no space or a lock; nothing was written, try again later.
        PermanentInfraError: corrupt or unusable storage.
    """

    def load(self) -> Snapshot:
        """Everything committed."""

    def commit(self, change: Change) -> None:
        """Apply a change atomically and durably."""

    def journal(self, after: int = 0, limit: int = 1000) -> Sequence[tuple[int, bytes]]:
        """Events with sequence number above `after`, oldest first, at most `limit`."""

    def add_segments(self, segments: Sequence[Segment]) -> None:
        """Keep batches durably. A (attempt_id, seq) already kept with the same digest is skipped.

        Raises:
            RemoteProtocolError: a (attempt_id, seq) already kept with another digest; the others are kept.
        """

    def segments(self, attempt_id: str) -> Sequence[SegmentInfo]:
        """Segments of an attempt in order of `seq`."""

    def read_segment(self, info: SegmentInfo) -> bytes:
        """The payload as received.

        Raises:
            PermanentInfraError: missing, or its digest does not match (named in the message).
        """

    def put_blob(self, data: bytes) -> str:
        """Keep a blob, content-addressed; returns its SHA-256 (hex)."""

    def get_blob(self, sha256: str) -> bytes:
        """A blob.

        Raises:
            KeyError: not stored.
            PermanentInfraError: its digest does not match.
        """

    def close(self) -> None:
        """Release files and connections; idempotent."""
