"""Timing batches as received -> raw bytes."""

from __future__ import annotations

import zstandard

from scoot.wire import limits
from scoot.wire.errors import RemoteProtocolError


def inflate(payload: bytes, encoding: str, raw_bytes: int) -> bytes:
    """The raw bytes of a batch; the size is checked before anything is inflated.

    Args:
        payload: as received.
        encoding: "raw" or "zstd".
        raw_bytes: size the sender announced.

    Raises:
        RemoteProtocolError: the sizes disagree, are over the limit, or the data is no zstd frame.
    """
    if raw_bytes > limits.BATCH_BYTES:
        raise RemoteProtocolError(f"timing batch of {raw_bytes} bytes is over the limit of {limits.BATCH_BYTES}")
    if encoding == "raw":
        if len(payload) != raw_bytes:
            raise RemoteProtocolError(f"timing batch has {len(payload)} bytes, {raw_bytes} were announced")
        return payload
    try:
        if zstandard.frame_content_size(payload) != raw_bytes:
            raise RemoteProtocolError("timing batch: the zstd frame holds another size than was announced")
        return zstandard.ZstdDecompressor().decompress(payload, max_output_size=raw_bytes)
    except zstandard.ZstdError as error:
        raise RemoteProtocolError(f"timing batch is no zstd frame: {error}") from error
