"""scootctl's side of StudyService: calls, their deadlines, and gRPC errors made into ones a user can act on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self, TypeVar

import grpc
import grpc.aio

from scoot.cli import codec
from scoot.cli.exits import CoordinatorUnreachableError
from scoot.v1 import agent_service_pb2, study_service_pb2, study_service_pb2_grpc
from scoot.wire import limits
from scoot.wire.catalogue.option import Catalogue, decode_catalogue
from scoot.wire.endpoint import Endpoint, TlsFiles, require_tls
from scoot.wire.errors import PermanentInfraError, RemoteProtocolError, UserError
from scoot.wire.spec import StudySpec
from scoot.wire.view import Agent, Report, Study, StudyDetail

T = TypeVar("T")

_CALL_S: Final = 30.0
_BULK_S: Final = 300.0
"""Deadlines of small calls, and of those that carry a workload or a report."""

_TRIES: Final = 3
_READY_S: Final = 3.0
"""Idempotent calls are repeated so often when the connection breaks, each time waiting so long for a new one."""

_USER_CODES: Final = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


class Coordinator:
    """A connection to a coordinator; an async context manager.

    Every method raises CoordinatorUnreachableError (nobody answers), UserError (the coordinator refused, in its words)
    or PermanentInfraError (the coordinator failed).
    """

    def __init__(self, endpoint: Endpoint, tls: TlsFiles | None = None) -> None:
        require_tls(endpoint, tls, key="--coordinator")
        self.endpoint = endpoint
        options = [
            ("grpc.max_receive_message_length", limits.REPLY_BYTES),
            ("grpc.max_send_message_length", limits.MESSAGE_BYTES),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            ("grpc.enable_http_proxy", 0),
        ]
        if tls is None:
            self._channel = grpc.aio.insecure_channel(str(endpoint), options=options)
        else:
            credentials = grpc.ssl_channel_credentials(
                root_certificates=_pem(tls.ca, "--ca"),
                private_key=_pem(tls.key, "--key"),
                certificate_chain=_pem(tls.cert, "--cert"),
            )
            self._channel = grpc.aio.secure_channel(str(endpoint), credentials, options=options)
        self._stub = study_service_pb2_grpc.StudyServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._channel.close()

    async def create_study(self, spec: StudySpec, blob: bytes, key: str) -> Study:
        """Store the workload's requests and submit the study. Repeating it with the same `key` changes nothing."""
        if len(blob) > limits.BLOB_BYTES:
            raise UserError(
                f"the workload has {len(blob)} bytes, more than {limits.BLOB_BYTES}",
                key="workload.max_requests",
                hint="set max_requests",
            )
        stored = await self._repeat(lambda: self._stub.PutBlob(_chunks(blob), timeout=_BULK_S))
        if spec.workload_facts is None or stored.sha256 != spec.workload_facts.sha256:
            raise RemoteProtocolError(f"the coordinator at {self.endpoint} received other bytes than were sent")
        request = study_service_pb2.CreateStudyRequest(spec=codec.spec_message(spec), idempotency_key=key)
        return codec.study(await self._repeat(lambda: self._stub.CreateStudy(request, timeout=_CALL_S)))

    async def get_study(self, study_id: str) -> StudyDetail:
        """A study with its trials."""
        request = study_service_pb2.GetStudyRequest(study_id=study_id)
        async with self._errors():
            return codec.detail(await self._stub.GetStudy(request, timeout=_CALL_S))

    async def list_studies(self) -> tuple[Study, ...]:
        """All studies, newest first."""
        async with self._errors():
            reply = await self._stub.ListStudies(study_service_pb2.ListStudiesRequest(), timeout=_CALL_S)
        return tuple(codec.study(message) for message in reply.studies)

    async def cancel_study(self, study_id: str, reason: str) -> Study:
        """Cancel a study; its running attempts are stopped after."""
        request = study_service_pb2.CancelStudyRequest(study_id=study_id, reason=reason)
        return codec.study(await self._repeat(lambda: self._stub.CancelStudy(request, timeout=_CALL_S)))

    async def watch_study(self, study_id: str) -> AsyncIterator[StudyDetail]:
        """The study now and after every change, until it ends. One that does not end here broke: `follow` goes on."""
        request = study_service_pb2.WatchStudyRequest(study_id=study_id)
        async with self._errors():
            async for message in self._stub.WatchStudy(request):
                yield codec.detail(message)

    async def get_report(self, study_id: str) -> Report:
        """The report as it stands."""
        request = study_service_pb2.GetReportRequest(study_id=study_id)
        async with self._errors():
            return codec.report(await self._stub.GetReport(request, timeout=_BULK_S))

    async def list_agents(self) -> tuple[Agent, ...]:
        """All agents the coordinator knows."""
        async with self._errors():
            reply = await self._stub.ListAgents(study_service_pb2.ListAgentsRequest(), timeout=_CALL_S)
        return tuple(codec.agent(message) for message in reply.agents)

    async def get_catalogue(self, engine: str, agent_id: str = "") -> Catalogue:
        """The options of an engine as a connected agent's installation lists them; `agent_id` "": any agent's."""
        request = study_service_pb2.GetCatalogueRequest(engine=engine, agent_id=agent_id)
        async with self._errors():
            reply = await self._stub.GetCatalogue(request, timeout=_CALL_S)
        return decode_catalogue(reply.json, path=f"{engine} at {self.endpoint}")

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until there is a connection."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._channel.channel_ready()
        except TimeoutError as error:
            raise self._unreachable(f"no connection within {timeout_s:g} s") from error

    async def _repeat(self, call: Callable[[], Awaitable[T]]) -> T:
        """An idempotent call, again when the connection breaks."""
        for attempt in range(_TRIES):
            try:
                async with self._errors():
                    return await call()
            except CoordinatorUnreachableError:
                if attempt == _TRIES - 1:
                    raise
                await self.wait_ready(_READY_S)
        raise AssertionError("unreachable: the last try returned or raised")

    @asynccontextmanager
    async def _errors(self) -> AsyncIterator[None]:
        """GRPC's errors as ours."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details() or ""
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise self._unreachable(details) from error
            if code in _USER_CODES:
                raise UserError(details or code.name, path=str(self.endpoint)) from error
            raise PermanentInfraError(f"the coordinator at {self.endpoint} failed: {code.name} {details}") from error

    def _unreachable(self, details: str) -> CoordinatorUnreachableError:
        return CoordinatorUnreachableError(
            f"the coordinator is unavailable: {details}",
            path=str(self.endpoint),
            hint="start scoot-coordinator there, or name its address with --coordinator (or SCOOT_COORDINATOR)",
        )


def _chunks(blob: bytes) -> Iterator[agent_service_pb2.BlobChunk]:
    for at in range(0, max(len(blob), 1), limits.BLOB_CHUNK_BYTES):
        yield agent_service_pb2.BlobChunk(data=blob[at : at + limits.BLOB_CHUNK_BYTES])


def _pem(path: str, option: str) -> bytes:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", path=path, key=option, hint="name a PEM file") from error
    if b"-----BEGIN" not in data:
        raise UserError("is not a PEM file", path=path, key=option, hint="convert it with openssl")
    return data
