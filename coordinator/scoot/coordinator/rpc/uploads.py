"""Bulk streams: timing batches are verified, grouped, stored, and only then acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator

from scoot.coordinator.rpc import codec
from scoot.coordinator.rpc.core import Core
from scoot.coordinator.store.base import Segment
from scoot.coordinator.store.inflate import inflate
from scoot.coordinator.study.state import AttemptState
from scoot.v1 import agent_service_pb2 as pb
from scoot.v1 import measurement_pb2 as measurement_pb
from scoot.wire import columns, limits
from scoot.wire.errors import PermanentInfraError, RemoteProtocolError, TransientError

_log = logging.getLogger(__name__)

_ENCODINGS = {measurement_pb.ENCODING_RAW: "raw", measurement_pb.ENCODING_ZSTD: "zstd"}


class Uploads:
    """The Upload RPC. Batches that are waiting when the store is free go in together: one fsync for all."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def serve(self, requests: AsyncIterator[measurement_pb.MeasurementBatch]) -> AsyncIterator[pb.UploadReply]:
        """Batches up, verdicts down, in order."""
        received: asyncio.Queue[measurement_pb.MeasurementBatch | None] = asyncio.Queue(limits.UPLOAD_CREDITS)
        reader = asyncio.create_task(_receive(requests, received))
        try:
            ended = False
            while not ended:
                group = [await received.get()]
                while not received.empty():
                    group.append(received.get_nowait())
                ended = None in group
                for reply in await self._store([batch for batch in group if batch is not None]):
                    yield reply
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    async def _store(self, batches: list[measurement_pb.MeasurementBatch]) -> list[pb.UploadReply]:
        """One verdict per batch."""
        verdicts: list[pb.BatchVerdict.ValueType] = []
        segments: list[Segment] = []
        for batch in batches:
            verdict, segment = self._verify(batch)
            verdicts.append(verdict)
            if segment is not None:
                segments.append(segment)
        failed: pb.BatchVerdict.ValueType = pb.BATCH_VERDICT_STORED
        if segments:
            try:
                await self._core.add_segments(segments)
            except RemoteProtocolError as error:
                _log.warning("conflicting timing batch: %s", error)
                failed = pb.BATCH_VERDICT_CORRUPT
            except (TransientError, PermanentInfraError) as error:
                _log.warning("timing batches cannot be stored now: %s", error)
                failed = pb.BATCH_VERDICT_RETRY
        return [
            pb.UploadReply(
                attempt_id=batch.attempt_id,
                seq=batch.seq,
                verdict=failed if verdict == pb.BATCH_VERDICT_STORED else verdict,
                credits=limits.UPLOAD_CREDITS,
            )
            for batch, verdict in zip(batches, verdicts, strict=True)
        ]

    def _verify(self, batch: measurement_pb.MeasurementBatch) -> tuple[pb.BatchVerdict.ValueType, Segment | None]:
        """Fence, digest, bounds, content."""
        attempt = self._core.state.attempts.get(batch.attempt_id)
        if attempt is None or attempt.fence != batch.fence:
            return pb.BATCH_VERDICT_FENCED, None
        if attempt.state.is_terminal or attempt.state is AttemptState.COLLECTING:
            return pb.BATCH_VERDICT_FENCED, None
        encoding = _ENCODINGS.get(batch.encoding)
        if encoding is None or hashlib.sha256(batch.payload).digest() != batch.sha256:
            return pb.BATCH_VERDICT_CORRUPT, None
        try:
            timings = columns.decode(inflate(batch.payload, encoding, batch.raw_bytes))
        except RemoteProtocolError as error:
            _log.warning("attempt %s, batch %d: %s", batch.attempt_id, batch.seq, error)
            return pb.BATCH_VERDICT_CORRUPT, None
        return pb.BATCH_VERDICT_STORED, codec.segment_from(batch, timings)


async def _receive(
    requests: AsyncIterator[measurement_pb.MeasurementBatch],
    received: asyncio.Queue[measurement_pb.MeasurementBatch | None],
) -> None:
    """Move batches into a bounded queue: an agent that outruns the store waits on flow control."""
    try:
        async for batch in requests:
            await received.put(batch)
    finally:
        await received.put(None)
