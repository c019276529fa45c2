"""The spool: timing batches on disk between the load process that writes them and the agent that uploads them.

A file of frames, each `u32 length (little-endian) · 32-byte SHA-256 of the payload · payload`, where a payload is a
batch encoded by scoot.wire.columns. Frames are appended, one write each, and never changed; a frame's `seq` is its
position in the file, counted from 0.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from scoot.wire import limits
from scoot.wire.errors import PermanentInfraError

_HEAD: Final = struct.Struct("<I32s")
_BATCH_HEADER: Final = struct.Struct("<4I")
_READ_BYTES: Final = 4 * limits.BATCH_BYTES


class SpoolCorruptError(PermanentInfraError):
    """The spool file is damaged at `offset` (bytes). What was read before is good; give up the rest of the file."""

    def __init__(self, message: str, *, path: str, offset: int) -> None:
        super().__init__(f"{path}: at byte {offset}: {message}")
        self.path = path
        self.offset = offset


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One batch: its position in the file, encoded bytes, SHA-256 of them, and the counts its header states."""

    seq: int
    payload: bytes
    sha256: bytes
    n_requests: int
    n_chunks: int


class SpoolWriter:
    """Appends frames to a new file.

    Raises:
        FileExistsError: the file is there already: two writers would mix their frames.
        OSError: it cannot be created or written; ENOSPC leaves the file as it was before the frame.
    """

    def __init__(self, path: str | Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._bytes = 0
        self.frames = 0

    def append(self, payload: bytes) -> None:
        """Append one encoded batch.

        Raises:
            ValueError: it is longer than limits.BATCH_BYTES or shorter than a batch's header.
            OSError: see the class.
        """
        if not _BATCH_HEADER.size <= len(payload) <= limits.BATCH_BYTES:
            raise ValueError(f"{len(payload)} bytes are not a timing batch")
        frame = _HEAD.pack(len(payload), hashlib.sha256(payload).digest()) + payload
        done = 0
        try:
            while done < len(frame):
                done += os.write(self._fd, frame[done:] if done else frame)
        except OSError:
            os.ftruncate(self._fd, self._bytes)
            raise
        self._bytes += len(frame)
        self.frames += 1

    def close(self) -> None:
        """Close the file. May be called again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SpoolReader:
    """Follows a spool file while it is written. It need not exist yet.

    Attributes:
        offset: bytes of complete frames read so far.
        frames: frames read so far, which is the next frame's seq.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        self._fd = -1
        self.offset = 0
        self.frames = 0

    def read(self, *, max_frames: int = 64) -> list[Frame]:
        """The next complete frames, at most `max_frames`; none if nothing complete is there yet.

        Raises:
            SpoolCorruptError: a frame's length or digest is wrong. Frames before it were returned by earlier calls, or
                are returned by this one while the next call raises.
        """
        if self._fd < 0:
            try:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return []
        frames: list[Frame] = []
        data = memoryview(os.pread(self._fd, _READ_BYTES, self.offset))
        at = 0
        while len(frames) < max_frames:
            try:
                frame = self._frame(data[at:])
            except SpoolCorruptError:
                if frames:
                    break
                raise
            if frame is None:
                break
            frames.append(frame)
            size = _HEAD.size + len(frame.payload)
            at += size
            self.offset += size
            self.frames += 1
        return frames

    def check_end(self) -> None:
        """To be called when the writer has ended and `read` returned nothing: the file must end with a whole frame.

        Raises:
            SpoolCorruptError: the last frame is torn.
        """
        rest = os.fstat(self._fd).st_size - self.offset if self._fd >= 0 else 0
        if rest:
            raise self._corrupt(f"the last frame is torn, {rest} bytes are there")

    def _frame(self, data: memoryview) -> Frame | None:
        """The frame at the start of `data`, None if it is not complete."""
        if len(data) < _HEAD.size:
            return None
        length, digest = _HEAD.unpack_from(data)
        if not _BATCH_HEADER.size <= length <= limits.BATCH_BYTES:
            raise self._corrupt(f"a frame of {length} bytes cannot be")
        if len(data) < _HEAD.size + length:
            return None
        payload = bytes(data[_HEAD.size : _HEAD.size + length])
        if hashlib.sha256(payload).digest() != digest:
            raise self._corrupt(f"the digest of frame {self.frames} does not match")
        _, n_requests, n_chunks, _ = _BATCH_HEADER.unpack_from(payload)
        return Frame(seq=self.frames, payload=payload, sha256=digest, n_requests=n_requests, n_chunks=n_chunks)

    def _corrupt(self, message: str) -> SpoolCorruptError:
        return SpoolCorruptError(message, path=self._path, offset=self.offset)

    def close(self) -> None:
        """Close the file. May be called again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
