"""The StudyService RPCs: what users ask of a coordinator."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from scoot.coordinator.objective.goal import goal_of
from scoot.coordinator.optimizer.registry import check_method
from scoot.coordinator.report.html import render_html
from scoot.coordinator.report.markdown import render_markdown
from scoot.coordinator.report.results import encode_results
from scoot.coordinator.rpc import codec
from scoot.coordinator.rpc.core import Core
from scoot.coordinator.rpc.progress import ChangeHub, ProgressTable
from scoot.coordinator.rpc.status import mapped
from scoot.coordinator.space.study_space import space_of
from scoot.coordinator.study.events import StudyCancelRequested, StudySubmitted
from scoot.coordinator.study.state import StudyRecord
from scoot.v1 import agent_service_pb2 as agent_pb
from scoot.v1 import study_pb2 as study_pb
from scoot.v1 import study_service_pb2 as pb
from scoot.v1 import study_service_pb2_grpc as pb_grpc
from scoot.wire import limits
from scoot.wire.catalogue.option import encode_catalogue
from scoot.wire.errors import UserError
from scoot.wire.spec import StudySpec
from scoot.wire.study_file import check_study

Context = grpc.aio.ServicerContext[Any, Any]

_KEY_CHARS = 128


class StudyServicer(pb_grpc.StudyServiceServicer):
    """StudyService over a Core. Every method answers after its change is durable."""

    def __init__(self, core: Core, progress: ProgressTable, changes: ChangeHub) -> None:
        self._core = core
        self._progress = progress
        self._changes = changes

    @mapped
    async def PutBlob(  # noqa: N802 - gRPC's name
        self,
        request_iterator: AsyncIterator[agent_pb.BlobChunk],
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> pb.PutBlobReply:
        """Keep a workload's requests."""
        data = bytearray()
        async for chunk in request_iterator:
            data += chunk.data
            if len(data) > limits.BLOB_BYTES:
                raise UserError(f"a workload blob is over {limits.BLOB_BYTES} bytes", hint="set workload.max_requests")
        return pb.PutBlobReply(sha256=await self._core.put_blob(bytes(data)), bytes=len(data))

    @mapped
    async def CreateStudy(self, request: pb.CreateStudyRequest, context: Context) -> study_pb.Study:  # noqa: ARG002, N802 - gRPC's signature
        """Check a study and take it up."""
        key = request.idempotency_key
        if not 0 < len(key) <= _KEY_CHARS:
            raise UserError(f"an idempotency key has 1 to {_KEY_CHARS} characters", key="idempotency_key")
        if self._by_key(key) is None:
            spec = codec.spec_from(request.spec)
            check_submission(spec)
            advice = self._core.advice(spec)
            await self._check_blob(spec)
            study_id = f"{_slug(spec.name)}-{uuid.uuid4().hex[:8]}"
            await self._core.submit(
                StudySubmitted(
                    study_id=study_id, spec=spec, idempotency_key=key, notes=advice.notes, implied=advice.implied
                )
            )
        study = self._by_key(key)
        if study is None:
            raise UserError("the study was not recorded", hint="submit it again")
        return codec.study_message(study, self._core.state.trials[study.study_id])

    @mapped
    async def GetStudy(self, request: pb.GetStudyRequest, context: Context) -> pb.StudyDetail:  # noqa: N802 - gRPC's name
        """A study with its trials."""
        await self._known(request.study_id, context)
        return codec.detail_message(self._core.state, request.study_id, self._progress)

    @mapped
    async def ListStudies(self, request: pb.ListStudiesRequest, context: Context) -> pb.ListStudiesReply:  # noqa: ARG002, N802 - gRPC's signature
        """All studies, newest first."""
        state = self._core.state
        studies = [codec.study_message(study, state.trials[study.study_id]) for study in state.studies.values()]
        return pb.ListStudiesReply(studies=reversed(studies))

    @mapped
    async def CancelStudy(self, request: pb.CancelStudyRequest, context: Context) -> study_pb.Study:  # noqa: N802 - gRPC's name
        """Make a cancellation durable; the study ends when its last engine has stopped."""
        await self._known(request.study_id, context)
        reason = request.reason[: limits.STRING_CHARS] or "cancelled by the user"
        await self._core.submit(StudyCancelRequested(study_id=request.study_id, reason=reason))
        state = self._core.state
        return codec.study_message(state.studies[request.study_id], state.trials[request.study_id])

    async def WatchStudy(  # noqa: N802 - gRPC's name
        self, request: pb.WatchStudyRequest, context: Context
    ) -> AsyncIterator[pb.StudyDetail]:
        """The study now and after every change, latest state only."""
        study_id = request.study_id
        await self._known(study_id, context)
        while True:
            version = self._changes.version(study_id)
            yield codec.detail_message(self._core.state, study_id, self._progress)
            if self._core.state.studies[study_id].state.is_terminal:
                return
            await self._changes.wait(study_id, version)

    @mapped
    async def GetReport(self, request: pb.GetReportRequest, context: Context) -> pb.Report:  # noqa: N802 - gRPC's name
        """The report as it stands."""
        await self._known(request.study_id, context)
        results = self._core.results(request.study_id)
        markdown, html = await asyncio.gather(
            asyncio.to_thread(render_markdown, results), asyncio.to_thread(render_html, results)
        )
        return pb.Report(json=encode_results(results).decode(), markdown=markdown, html=html)

    @mapped
    async def ListAgents(self, request: pb.ListAgentsRequest, context: Context) -> pb.ListAgentsReply:  # noqa: ARG002, N802 - gRPC's signature
        """All agents that ever said hello."""
        state = self._core.state
        return codec.agents_message(state, {agent_id: self._core.silent_s(agent_id) for agent_id in state.agents})

    @mapped
    async def GetCatalogue(self, request: pb.GetCatalogueRequest, context: Context) -> agent_pb.EngineCatalogue:  # noqa: N802 - gRPC's name
        """The options of an engine as a connected agent's installation lists them."""
        found = self._core.catalogue(request.engine, request.agent_id)
        if found is None:
            whose = f"agent {request.agent_id!r}" if request.agent_id else "no connected agent"
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"{whose} has told the options of {request.engine!r} (`scootctl engines` shows what there is)",
            )
            raise AssertionError("unreachable: abort raises")
        return agent_pb.EngineCatalogue(engine=request.engine, json=encode_catalogue(found))

    def _by_key(self, key: str) -> StudyRecord | None:
        studies = self._core.state.studies.values()
        return next((study for study in studies if study.idempotency_key == key), None)

    async def _known(self, study_id: str, context: Context) -> None:
        if study_id not in self._core.state.studies:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"no study {study_id!r} here (`scootctl list` shows those there are)"
            )

    async def _check_blob(self, spec: StudySpec) -> None:
        facts = spec.workload_facts
        try:
            await self._core.get_blob(facts.sha256 if facts is not None else "")
        except KeyError:
            raise UserError(
                "the workload's requests were not uploaded", key="workload_facts.sha256", hint="send them with PutBlob"
            ) from None


def check_submission(spec: StudySpec) -> None:
    """What must hold of a submitted study beyond its types; scootctl checked the same, others may not have.

    Raises:
        UserError: names the key at fault.
    """
    check_study(spec)
    if spec.workload_facts is None:
        raise UserError("the workload is not resolved", key="workload_facts", hint="submit with scootctl")
    goal_of(spec)
    check_method(spec.optimizer.method, objectives=len(spec.objectives))
    space_of(spec)


def _slug(name: str) -> str:
    """The part of a study's id that people recognise: lower-case letters, digits and dashes, at most 32."""
    kept = "".join(char if char.isascii() and char.isalnum() else "-" for char in name.lower())
    return kept.strip("-")[:32] or "study"
