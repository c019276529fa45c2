"""The bulk stream: timing batches from the spools of all attempts to the coordinator, live and at low priority.

The spool on disk is the only buffer: a frame is read again for every sending, so memory is bounded by the credits, and
an agent that restarts begins where the acknowledgements tell. Batches may arrive twice; the coordinator knows them by
(attempt, seq) and digest, and compression here is deterministic.
"""

from __future__ import annotations

import asyncio
import bisect
import hashlib
import logging
import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Final, Protocol, TypeAlias

import grpc.aio
import msgspec
import zstandard

from scoot.agent.link import codec
from scoot.agent.link.codec import AttemptRef, Reply, Verdict
from scoot.v1 import agent_service_pb2 as pb
from scoot.v1 import measurement_pb2
from scoot.v1.agent_service_pb2_grpc import AgentServiceStub
from scoot.wire import limits
from scoot.wire.errors import RemoteProtocolError

LOG: Final = logging.getLogger(__name__)

_Call: TypeAlias = "grpc.aio.StreamStreamCall[measurement_pb2.MeasurementBatch, pb.UploadReply]"

_ZSTD_LEVEL: Final = 1
_WORTH_IT: Final = 0.9
"""Compressed is sent only where it is smaller than this share of the raw payload."""

_NICE: Final = 10
_POLL_S: Final = 0.2
_RETRY_S: Final = 1.0
_SENDINGS: Final = 3
"""Times a batch may come back CORRUPT before its attempt is given up."""

_BACKOFF_MIN_S: Final = 0.2
_BACKOFF_MAX_S: Final = 5.0
_CLOSE_TIMEOUT_S: Final = 1.0


class Spool(Protocol):
    """Where the frames of one attempt are read from. Called in one worker thread."""

    def payload(self, seq: int) -> bytes | None:
        """The payload of frame `seq`, digest verified; None while it is not there (yet).

        Raises:
            ScootError: the spool is damaged.
            OSError: it cannot be read.
        """

    def close(self) -> None:
        """Let go of the file."""


class UploadEnd(StrEnum):
    """How an upload ended."""

    STORED = "STORED"
    """Every frame is stored."""
    CORRUPT = "CORRUPT"
    """The spool is damaged, or a batch came back CORRUPT again and again."""
    FENCED = "FENCED"
    """The coordinator does not want the attempt any more."""
    DROPPED = "DROPPED"
    """This agent gave it up."""


class _Frame(msgspec.Struct, frozen=True, kw_only=True):
    """A batch ready to be sent."""

    payload: bytes
    sha256: bytes
    raw_bytes: int
    zstd: bool


class Upload:
    """The upload of one attempt.

    Attributes:
        ref: the attempt.
        stored: batches acknowledged as STORED.
        ended: how it ended, once it did.
        closed: whether no more frames will be written.
        spool: where the frames are; used in the reader's thread only.
    """

    def __init__(self, ref: AttemptRef, spool: Spool, changed: asyncio.Event) -> None:
        """Made by Uploader.add."""
        self.ref = ref
        self.stored = 0
        self.ended: asyncio.Future[UploadEnd] = asyncio.get_running_loop().create_future()
        self.spool = spool
        self._changed = changed
        self._next = 0
        self._again: list[int] = []
        self._flying: set[int] = set()
        self._corrupt: Counter[int] = Counter()
        self.closed = False

    def close(self) -> None:
        """No more frames will be written; `ended` follows when all are stored."""
        self.closed = True
        self._changed.set()

    def drop(self) -> None:
        """Give it up: nothing more is sent."""
        self.end(UploadEnd.DROPPED)

    def end(self, how: UploadEnd) -> None:
        """It is over; the first verdict stays."""
        if not self.ended.done():
            self.ended.set_result(how)
            self._changed.set()

    def reconnected(self) -> None:
        """What was not acknowledged is sent again, in order."""
        self._again = sorted({*self._again, *self._flying})
        self._flying.clear()

    def took_off(self, seq: int) -> None:
        """Frame `seq` is being sent."""
        if self._again and self._again[0] == seq:
            self._again.pop(0)
        else:
            self._next = seq + 1
        self._flying.add(seq)

    def wanted(self) -> int:
        """The frame to send next: the oldest that has to be sent again, else the next new one."""
        return self._again[0] if self._again else self._next

    def answered(self, reply: Reply) -> None:
        """The coordinator answered a frame; answers to frames that are not on their way mean nothing."""
        if reply.seq not in self._flying:
            return
        self._flying.discard(reply.seq)
        match reply.verdict:
            case Verdict.STORED:
                self.stored += 1
            case Verdict.FENCED:
                self.end(UploadEnd.FENCED)
            case Verdict.RETRY:
                bisect.insort(self._again, reply.seq)
            case Verdict.CORRUPT:
                self._corrupt[reply.seq] += 1
                if self._corrupt[reply.seq] >= _SENDINGS:
                    LOG.error("%s: batch %d came back corrupt %d times", self.ref.attempt_id, reply.seq, _SENDINGS)
                    self.end(UploadEnd.CORRUPT)
                bisect.insort(self._again, reply.seq)
        self._changed.set()

    def ran_dry(self, *, for_good: bool) -> None:
        """The wanted frame is not there; `for_good`: the spool was closed before it was looked for."""
        if for_good and not self._flying and not self._again:
            self.end(UploadEnd.STORED)
        elif self._again:
            self.end(UploadEnd.CORRUPT)  # a frame that was sent before cannot be read again


class Uploader:
    """Uploads for all attempts of this agent over one stream."""

    def __init__(self, connect: Callable[[], grpc.aio.Channel], clock: Callable[[], float]) -> None:
        """`connect` opens a fresh channel, not the session's; `clock` gives monotonic seconds."""
        self._connect = connect
        self._clock = clock
        self._uploads: dict[str, Upload] = {}
        self._changed = asyncio.Event()
        self._flying: set[tuple[str, int]] = set()
        self._credits = limits.UPLOAD_CREDITS
        self._held_until_s = 0.0
        self._compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
        self._reader = ThreadPoolExecutor(1, "scoot-upload", initializer=_be_nice)

    def add(self, ref: AttemptRef, spool: Spool) -> Upload:
        """Upload `spool` while it grows; close the upload when it stops growing."""
        upload = Upload(ref, spool, self._changed)
        self._uploads[ref.attempt_id] = upload
        self._changed.set()
        return upload

    async def run(self) -> None:
        """Send, over any number of reconnects; ends by cancellation only."""
        failures = 0
        try:
            while True:
                self._forget_ended()
                if not self._uploads:
                    await self._changed.wait()
                    self._changed.clear()
                    continue
                try:
                    await self._one_stream()
                    failures = 0
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError, RemoteProtocolError, _StreamEnded) as error:
                    failures = min(failures + 1, 10)
                    LOG.log(logging.WARNING if failures == 1 else logging.DEBUG, "upload interrupted: %s", error)
                    delay_s = min(_BACKOFF_MAX_S, _BACKOFF_MIN_S * 2**failures)
                    # The pause of a back-off, jittered.
                    await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311, TID251 - see above
        finally:
            for upload in self._uploads.values():
                upload.drop()
            self._forget_ended()
            self._reader.shutdown(wait=False, cancel_futures=True)

    def _forget_ended(self) -> None:
        for attempt_id, upload in list(self._uploads.items()):
            if upload.ended.done():
                del self._uploads[attempt_id]
                self._reader.submit(upload.spool.close)

    async def _one_stream(self) -> None:
        """One connection, until nothing is left to upload or it breaks."""
        self._flying.clear()
        self._credits = limits.UPLOAD_CREDITS
        for upload in self._uploads.values():
            upload.reconnected()
        channel = self._connect()
        call = None
        tasks: list[asyncio.Task[None]] = []
        try:
            call = AgentServiceStub(channel).Upload()
            tasks = [asyncio.create_task(self._send(call)), asyncio.create_task(self._receive(call))]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            if call is not None:
                call.cancel()
            await channel.close(_CLOSE_TIMEOUT_S)

    async def _send(self, call: _Call) -> None:
        """Frames of every upload in turn, each in order of seq; returns when no upload is left."""
        while True:
            self._changed.clear()
            self._forget_ended()
            if not self._uploads:
                return
            busy = False
            for upload in list(self._uploads.values()):
                if self._may_send() and not upload.ended.done():
                    busy = await self._send_one(call, upload) or busy
            if not busy:
                try:
                    async with asyncio.timeout(_POLL_S):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    def _may_send(self) -> bool:
        return len(self._flying) < self._credits and self._clock() >= self._held_until_s

    async def _send_one(self, call: _Call, upload: Upload) -> bool:
        """Send the next frame of an upload; whether there was one."""
        seq, closed = upload.wanted(), upload.closed
        try:
            frame = await asyncio.get_running_loop().run_in_executor(self._reader, self._prepare, upload, seq)
        except (OSError, RemoteProtocolError) as error:
            LOG.error("%s: spool frame %d: %s", upload.ref.attempt_id, seq, error)  # noqa: TRY400 - no bug of ours
            upload.end(UploadEnd.CORRUPT)
            return False
        if upload.ended.done() or seq != upload.wanted():
            return True
        if frame is None:
            upload.ran_dry(for_good=closed)
            return False
        upload.took_off(seq)
        self._flying.add((upload.ref.attempt_id, seq))
        await call.write(
            codec.batch(upload.ref, seq, frame.payload, sha256=frame.sha256, raw_bytes=frame.raw_bytes, zstd=frame.zstd)
        )
        return True

    def _prepare(self, upload: Upload, seq: int) -> _Frame | None:
        """Read and compress a frame (in the reader's thread)."""
        raw = upload.spool.payload(seq)
        if raw is None:
            return None
        packed = self._compressor.compress(raw)
        zstd = len(packed) < _WORTH_IT * len(raw)
        payload = packed if zstd else raw
        return _Frame(payload=payload, sha256=hashlib.sha256(payload).digest(), raw_bytes=len(raw), zstd=zstd)

    async def _receive(self, call: _Call) -> None:
        while True:
            message = await call.read()
            if not isinstance(message, pb.UploadReply):  # grpc.aio.EOF
                raise _StreamEnded(f"closed by the coordinator: {(await call.code()).name} {await call.details()}")
            reply = codec.reply(message)
            self._flying.discard((reply.attempt_id, reply.seq))
            self._credits = reply.credits
            if reply.verdict is Verdict.RETRY:
                self._held_until_s = self._clock() + _RETRY_S
            upload = self._uploads.get(reply.attempt_id)
            if upload is not None:
                upload.answered(reply)
            self._changed.set()


class _StreamEnded(Exception):
    """The stream is over; connect again."""


def _be_nice() -> None:
    """Reading and compressing yield to the load process. Only this thread is concerned (Linux)."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
