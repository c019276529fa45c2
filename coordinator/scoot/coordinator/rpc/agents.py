"""The AgentService RPCs: control, bulk, and workload blobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from scoot.coordinator.rpc.core import Core
from scoot.coordinator.rpc.sessions import Sessions
from scoot.coordinator.rpc.status import refuse
from scoot.coordinator.rpc.uploads import Uploads
from scoot.v1 import agent_service_pb2 as pb
from scoot.v1 import agent_service_pb2_grpc as pb_grpc
from scoot.v1 import measurement_pb2 as measurement_pb
from scoot.wire import limits
from scoot.wire.errors import ScootError

Context = grpc.aio.ServicerContext[Any, Any]


class AgentServicer(pb_grpc.AgentServiceServicer):
    """AgentService over Sessions, Uploads and the blob store."""

    def __init__(self, core: Core, sessions: Sessions, uploads: Uploads) -> None:
        self._core = core
        self._sessions = sessions
        self._uploads = uploads

    async def Session(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[pb.AgentMessage], context: Context
    ) -> AsyncIterator[pb.CoordinatorMessage]:
        """Control."""
        try:
            async for message in self._sessions.serve(request_iterator):
                yield message
        except ScootError as error:
            await refuse(context, error)

    async def Upload(  # noqa: N802 - gRPC's name
        self,
        request_iterator: AsyncIterator[measurement_pb.MeasurementBatch],
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> AsyncIterator[pb.UploadReply]:
        """Bulk."""
        async for reply in self._uploads.serve(request_iterator):
            yield reply

    async def GetBlob(  # noqa: N802 - gRPC's name
        self, request: pb.GetBlobRequest, context: Context
    ) -> AsyncIterator[pb.BlobChunk]:
        """A workload's requests, in pieces."""
        try:
            data = await self._core.get_blob(request.sha256)
        except KeyError:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no blob {request.sha256[:64]!r}")
        except ScootError as error:
            await refuse(context, error)
        for at in range(0, len(data), limits.BLOB_CHUNK_BYTES):
            yield pb.BlobChunk(data=data[at : at + limits.BLOB_CHUNK_BYTES])
