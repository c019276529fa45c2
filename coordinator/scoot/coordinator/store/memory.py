"""A store that forgets: same meaning as the durable ones, for simulations, tests and throw-away runs.

Records are kept encoded and decoded anew on every read, so that nobody shares a mutable part with the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from scoot.coordinator.store import record_codec
from scoot.coordinator.store.base import Change, Segment, SegmentInfo, Snapshot
from scoot.coordinator.store.segments import digest
from scoot.coordinator.store.validate import check_segment, conflict, without_payload
from scoot.coordinator.study.state import (
    AgentRecord,
    AttemptRecord,
    StudyRecord,
    TrialRecord,
)
from scoot.wire.errors import LocalProtocolError, PermanentInfraError, RemoteProtocolError

R = TypeVar("R", bound=msgspec.Struct)
_Kept = dict[object, bytes]


class MemoryStore:
    """See `base.Store`."""

    def __init__(self) -> None:
        self._studies: _Kept = {}
        self._trials: _Kept = {}
        self._attempts: _Kept = {}
        self._agents: _Kept = {}
        self._journal: list[bytes] = []
        self._next_fence = 1
        self._segments: dict[str, dict[int, SegmentInfo]] = {}
        self._payloads: dict[str, bytes] = {}
        self._blobs: dict[str, bytes] = {}
        self._closed = False

    def load(self) -> Snapshot:
        """See `base.Store`."""
        self._check_open()
        return Snapshot(
            studies=_decoded(self._studies, StudyRecord),
            trials=_decoded(self._trials, TrialRecord),
            attempts=_decoded(self._attempts, AttemptRecord),
            agents=_decoded(self._agents, AgentRecord),
            next_fence=self._next_fence,
        )

    def commit(self, change: Change) -> None:
        """See `base.Store`.

        Raises:
            LocalProtocolError: a record cannot be stored (see `record_codec.encode`).
        """
        self._check_open()
        encode = record_codec.encode
        studies: _Kept = {record.study_id: encode(record) for record in change.studies}
        trials: _Kept = {(record.study_id, record.number): encode(record) for record in change.trials}
        attempts: _Kept = {record.attempt_id: encode(record) for record in change.attempts}
        agents: _Kept = {record.agent_id: encode(record) for record in change.agents}
        # Nothing below can fail. A dict keeps the place of a key that is set again.
        self._studies.update(studies)
        self._trials.update(trials)
        self._attempts.update(attempts)
        self._agents.update(agents)
        self._journal.extend(change.journal)
        if change.next_fence is not None:
            self._next_fence = change.next_fence

    def journal(self, after: int = 0, limit: int = 1000) -> Sequence[tuple[int, bytes]]:
        """See `base.Store`."""
        self._check_open()
        start = max(after, 0)
        return tuple(enumerate(self._journal[start : start + max(limit, 0)], start + 1))

    def add_segments(self, segments: Sequence[Segment]) -> None:
        """See `base.Store`."""
        self._check_open()
        refused: list[str] = []
        for segment in segments:
            if problem := check_segment(segment):
                refused.append(problem)
                continue
            of_attempt = self._segments.setdefault(segment.attempt_id, {})
            kept = of_attempt.get(segment.seq)
            if kept is None:
                of_attempt[segment.seq] = without_payload(segment)
                self._payloads[segment.sha256] = bytes(segment.payload)
            elif kept.sha256 != segment.sha256:
                refused.append(conflict(segment, kept.sha256))
        if refused:
            raise RemoteProtocolError("; ".join(refused))

    def segments(self, attempt_id: str) -> Sequence[SegmentInfo]:
        """See `base.Store`."""
        self._check_open()
        return tuple(info for _, info in sorted(self._segments.get(attempt_id, {}).items()))

    def read_segment(self, info: SegmentInfo) -> bytes:
        """See `base.Store`."""
        self._check_open()
        if info.sha256 not in self._payloads:
            raise PermanentInfraError(f"batch {info.seq} of attempt {info.attempt_id} ({info.sha256}) is missing")
        return self._payloads[info.sha256]

    def put_blob(self, data: bytes) -> str:
        """See `base.Store`."""
        self._check_open()
        sha = digest(data)
        self._blobs[sha] = bytes(data)
        return sha

    def get_blob(self, sha256: str) -> bytes:
        """See `base.Store`."""
        self._check_open()
        return self._blobs[sha256]

    def close(self) -> None:
        """See `base.Store`."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise LocalProtocolError("the store is closed")


def _decoded(kept: _Kept, kind: type[R]) -> tuple[R, ...]:
    return tuple(record_codec.decode(body, kind) for body in kept.values())
