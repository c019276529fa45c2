"""An attempt's spool as the agent reads it: frames by number for the upload, and a summary for the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from scoot.benchmark.spool import SpoolReader
from scoot.wire import columns
from scoot.wire.columns import TIME_OUTS, RequestPhase, RequestStatus

_READ_AHEAD: Final = 8


class SpoolFrames:
    """Frames of a growing spool by number. Not safe for threads: one at a time."""

    def __init__(self, path: Path) -> None:
        """The file need not exist yet."""
        self._reader = SpoolReader(path)
        self._offsets = [0]
        self._ahead: dict[int, bytes] = {}

    def payload(self, seq: int) -> bytes | None:
        """The payload of frame `seq`; None while it is not there. Frames are asked for in order, or again.

        Raises:
            SpoolCorruptError: the file is damaged there.
            OSError: it cannot be read.
        """
        if seq not in self._ahead:
            if seq >= len(self._offsets):
                return None
            self._reader.offset, self._reader.frames = self._offsets[seq], seq
            self._ahead.clear()
            for frame in self._reader.read(max_frames=_READ_AHEAD):
                self._ahead[frame.seq] = frame.payload
                if frame.seq + 1 == len(self._offsets):
                    self._offsets.append(self._offsets[-1] + _framed_bytes(frame.payload))
        return self._ahead.pop(seq, None)

    def close(self) -> None:
        """Let go of the file."""
        self._ahead.clear()
        self._reader.close()


def _framed_bytes(payload: bytes) -> int:
    """Bytes of a frame on disk: see scoot.benchmark.spool."""
    return 4 + 32 + len(payload)


class SpoolSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished spool holds.

    Attributes:
        frames: batches.
        measured: measured requests that were sent.
        failed: those of them that did not complete.
        timed_out: those of the failed that ran out of time.
        worst: the most frequent kind of failure, "" if none.
    """

    frames: int
    measured: int
    failed: int
    timed_out: int = 0
    worst: str = ""

    @property
    def failed_share(self) -> float:
        """Failed over sent, 0 where nothing was sent."""
        return self.failed / self.measured if self.measured else 0.0

    @property
    def error_share(self) -> float:
        """The same without those that ran out of time."""
        return (self.failed - self.timed_out) / self.measured if self.measured else 0.0


def summarise(path: Path, *, whole: bool) -> SpoolSummary:
    """Count a spool that nobody writes any more. `whole`: its last frame must not be torn. Blocks.

    Raises:
        SpoolCorruptError, RemoteProtocolError: it is damaged.
        OSError: it cannot be read.
    """
    counts = np.zeros(len(RequestStatus), np.int64)
    with SpoolReader(path) as reader:
        while frames := reader.read():
            for frame in frames:
                batch = columns.decode(frame.payload)
                measured = batch.status[batch.phase == RequestPhase.MEASURED]
                counts += np.bincount(measured, minlength=len(counts))
        if whole:
            reader.check_end()
        total = reader.frames
    # What was never sent says nothing about the engine; the validity of the measurement has a rule for it.
    counts[RequestStatus.NOT_SENT] = 0
    failures = counts.copy()
    failures[RequestStatus.OK] = 0
    failed = int(failures.sum())
    worst = RequestStatus(int(failures.argmax())).name if failed else ""
    timed_out = int(sum(failures[kind] for kind in TIME_OUTS))
    return SpoolSummary(frames=total, measured=int(counts.sum()), failed=failed, timed_out=timed_out, worst=worst)
