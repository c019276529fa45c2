"""Workload blobs: fetched once by digest, verified, kept in a folder."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import grpc.aio

from scoot.v1 import agent_service_pb2 as pb
from scoot.v1.agent_service_pb2_grpc import AgentServiceStub
from scoot.wire import limits
from scoot.wire.errors import PermanentInfraError, TransientError


class BlobCache:
    """Blobs in `folder`, one file per digest. Files are made at one stroke, so what is there is whole."""

    def __init__(self, connect: Callable[[], grpc.aio.Channel], folder: Path) -> None:
        """`connect` opens a channel to the coordinator."""
        self._connect = connect
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._locks: dict[str, asyncio.Lock] = {}

    async def get(self, sha256: str) -> Path:
        """The file of blob `sha256` (hex), fetched unless it is here.

        Raises:
            TransientError: the coordinator cannot be reached.
            PermanentInfraError: it does not have the blob, or sends other content than asked for.
            OSError: the disk does not take it.
        """
        path = self._folder / sha256
        async with self._locks.setdefault(sha256, asyncio.Lock()):
            if not await asyncio.to_thread(_is_intact, path, sha256):
                await self._fetch(sha256, path)
        return path

    async def _fetch(self, sha256: str, path: Path) -> None:
        channel = self._connect()
        digest = hashlib.sha256()
        size = 0
        descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=".fetch-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                call = AgentServiceStub(channel).GetBlob(pb.GetBlobRequest(sha256=sha256))
                async for chunk in call:
                    size += len(chunk.data)
                    if size > limits.BLOB_BYTES:
                        raise PermanentInfraError(f"workload {sha256} is over the limit of {limits.BLOB_BYTES} bytes")
                    digest.update(chunk.data)
                    file.write(chunk.data)
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
            if digest.hexdigest() != sha256:
                raise PermanentInfraError(f"the coordinator sent other content than workload {sha256}")
            _publish(name, path)
        except grpc.aio.AioRpcError as error:
            text = f"workload {sha256}: {error.code().name}: {error.details()}"
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
                raise PermanentInfraError(text) from error
            raise TransientError(text) from error
        finally:
            _discard(name)
            await channel.close(None)


def _is_intact(path: Path, sha256: str) -> bool:
    """Whether the file is here and still what its name says; a damaged one is fetched again."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


def _publish(name: str, path: Path) -> None:
    """One rename: microseconds, on the event loop."""
    Path(name).replace(path)


def _discard(name: str) -> None:
    """One unlink, of a file that may have become the blob."""
    Path(name).unlink(missing_ok=True)
