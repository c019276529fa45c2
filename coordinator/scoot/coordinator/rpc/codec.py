"""Proto messages <-> the coordinator's values. The only module of the coordinator that names both."""

from __future__ import annotations

from collections.abc import Mapping

from scoot.coordinator.rpc.progress import ProgressTable
from scoot.coordinator.store.base import Segment
from scoot.coordinator.study.draft import CoordinatorState
from scoot.coordinator.study.events import AgentConnected, AttemptRef
from scoot.coordinator.study.history import best_of
from scoot.coordinator.study.placement import busy_devices
from scoot.coordinator.study.state import AttemptState, StudyRecord, TrialRecord
from scoot.coordinator.study.vetting import notes, spared
from scoot.v1 import agent_service_pb2 as agent_pb
from scoot.v1 import measurement_pb2 as measurement_pb
from scoot.v1 import study_pb2 as study_pb
from scoot.v1 import study_service_pb2 as service_pb
from scoot.v1 import trial_pb2 as trial_pb
from scoot.wire.assignment import Assignment, Inventory
from scoot.wire.columns import TimingBatch
from scoot.wire.measurement import AttemptOutcome
from scoot.wire.protobuf import from_message, to_message
from scoot.wire.spec import StudySpec
from scoot.wire.states import TrialKind, TrialState
from scoot.wire.view import Study, Trial


def spec_from(message: study_pb.StudySpec) -> StudySpec:
    """A study spec off the wire.

    Raises:
        RemoteProtocolError: an unknown enumeration value or a wrong type.
    """
    return from_message(message, StudySpec)


def study_message(study: StudyRecord, trials: Mapping[int, TrialRecord]) -> study_pb.Study:
    """A study as its users see it."""
    searched = [trial for trial in trials.values() if trial.kind is not TrialKind.CONFIRMATION]
    view = Study(
        study_id=study.study_id,
        spec=study.spec,
        state=study.state,
        created_at_s=study.created_at_s,
        ended_at_s=study.ended_at_s,
        waiting=study.waiting,
        message=study.message,
        trials_finished=sum(trial.state.is_terminal for trial in searched),
        trials_running=sum(trial.state is TrialState.RUNNING for trial in trials.values()),
        best_trial=best_of(study, trials.values()),
        notes=notes(study),
        spared=spared(study),
    )
    return to_message(view, study_pb.Study())


def detail_message(state: CoordinatorState, study_id: str, progress: ProgressTable) -> service_pb.StudyDetail:
    """A study with its trials."""
    study = state.studies[study_id]
    trials = state.trials.get(study_id, {})
    return service_pb.StudyDetail(
        study=study_message(study, trials),
        trials=[_trial_message(trial, progress) for trial in trials.values()],
        revision=study.revision,
    )


def _trial_message(trial: TrialRecord, progress: ProgressTable) -> trial_pb.Trial:
    seen = progress.get(f"{trial.study_id}/{trial.number}/{trial.attempts}") if not trial.state.is_terminal else None
    view = Trial(
        number=trial.number,
        kind=trial.kind,
        state=trial.state,
        config=trial.config,
        effective_config=trial.effective_config,
        reason=trial.reason,
        message=trial.message,
        runs=trial.runs,
        attempts=trial.attempts,
        agent=trial.agent_id,
        phase=seen.phase if seen is not None else "",
        source=trial.source,
        confirms=trial.confirms,
        requests_completed=seen.completed if seen is not None else 0,
        started_at_s=trial.started_at_s,
        ended_at_s=trial.ended_at_s,
    )
    return to_message(view, trial_pb.Trial())


def agents_message(state: CoordinatorState, silent_s: Mapping[str, float]) -> service_pb.ListAgentsReply:
    """All agents with what they hold."""
    busy = busy_devices(state)
    reply = service_pb.ListAgentsReply()
    for agent in state.agents.values():
        reply.agents.add(
            agent_id=agent.agent_id,
            version=agent.version,
            inventory=to_message(agent.inventory, agent_pb.Inventory()),
            lease=service_pb.LeaseState.Value(f"LEASE_STATE_{agent.lease.value}"),
            in_use=busy[agent.agent_id],
            silent_s=silent_s[agent.agent_id],
        )
    return reply


def connected_from(hello: agent_pb.Hello) -> AgentConnected:
    """A hello as an event.

    Raises:
        RemoteProtocolError: malformed inventory.
    """
    return AgentConnected(
        agent_id=hello.agent_id,
        incarnation=hello.incarnation,
        boot_id=hello.boot_id,
        version=hello.version,
        inventory=from_message(hello.inventory, Inventory),
        running=tuple(AttemptRef(attempt_id=ref.attempt_id, fence=ref.fence) for ref in hello.running),
        finished=tuple(AttemptRef(attempt_id=ref.attempt_id, fence=ref.fence) for ref in hello.finished),
    )


def outcome_from(message: measurement_pb.AttemptOutcome) -> AttemptOutcome:
    """An outcome off the wire.

    Raises:
        RemoteProtocolError: an unknown reason or a wrong type.
    """
    return from_message(message, AttemptOutcome)


def assign_message(state: CoordinatorState, attempt_id: str) -> agent_pb.CoordinatorMessage | None:
    """The assignment of an attempt; None if it is over or was taken up already."""
    attempt = state.attempts.get(attempt_id)
    if attempt is None or attempt.state is not AttemptState.OFFERED:
        return None
    spec = state.studies[attempt.study_id].spec
    trial = state.trials[attempt.study_id][attempt.trial]
    if spec.workload_facts is None:
        return None
    assignment = Assignment(
        attempt_id=attempt_id,
        fence=attempt.fence,
        service=spec.service,
        devices=attempt.devices,
        config=trial.config,
        workload=spec.workload,
        workload_sha256=spec.workload_facts.sha256,
        limits=spec.limits,
        run_seeds=trial.run_seeds,
    )
    return agent_pb.CoordinatorMessage(assign=to_message(assignment, agent_pb.Assignment()))


def segment_from(batch: measurement_pb.MeasurementBatch, timings: TimingBatch) -> Segment:
    """A verified batch as what the store keeps."""
    return Segment(
        attempt_id=batch.attempt_id,
        seq=batch.seq,
        sha256=batch.sha256.hex(),
        encoding="zstd" if batch.encoding == measurement_pb.ENCODING_ZSTD else "raw",
        raw_bytes=batch.raw_bytes,
        n_requests=len(timings),
        n_chunks=len(timings.gap_us),
        payload=batch.payload,
    )
