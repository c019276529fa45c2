"""What every store checks of a segment before keeping it, and how it says no."""

from __future__ import annotations

from typing import Final

from scoot.coordinator.store.base import Segment, SegmentInfo
from scoot.coordinator.store.segments import digest

_ENCODINGS: Final = frozenset({"raw", "zstd"})
_MAX: Final = 2**63 - 1
"""Largest integer a database column holds."""


def check_segment(segment: Segment) -> str:
    """Why a segment must not be kept, "" if it may.

    The digest is computed here, although the receiver has done so: it becomes the name of a file others rely on.
    """
    named = f"batch {segment.seq} of attempt {segment.attempt_id!r}"
    if not segment.attempt_id or "\0" in segment.attempt_id:
        return f"{named}: not the name of an attempt"
    if segment.encoding not in _ENCODINGS:
        return f"{named}: unknown encoding {segment.encoding!r}"
    numbers = (segment.seq, segment.raw_bytes, segment.n_requests, segment.n_chunks)
    if not all(0 <= number <= _MAX for number in numbers):
        return f"{named}: a count is out of range"
    found = digest(segment.payload)
    if found != segment.sha256:
        return f"{named}: its SHA-256 is {found}, not {segment.sha256!r} as claimed"
    return ""


def conflict(segment: Segment, kept: str) -> str:
    """The message about a batch that came again with other content."""
    return (
        f"batch {segment.seq} of attempt {segment.attempt_id!r} is already kept with SHA-256 {kept}, "
        f"and came again with {segment.sha256}"
    )


def without_payload(segment: Segment) -> SegmentInfo:
    """What is recorded of a segment."""
    return SegmentInfo(
        attempt_id=segment.attempt_id,
        seq=segment.seq,
        sha256=segment.sha256,
        encoding=segment.encoding,
        raw_bytes=segment.raw_bytes,
        n_requests=segment.n_requests,
        n_chunks=segment.n_chunks,
        stored_bytes=len(segment.payload),
    )
