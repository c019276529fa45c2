"""Structs and messages mirror each other: every value survives the trip, unknown enumerations are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.v1 import agent_service_pb2, measurement_pb2, study_pb2
from scoot.wire.assignment import Assignment, Device, EngineOffer, Inventory
from scoot.wire.errors import RemoteProtocolError
from scoot.wire.lease import LeasePolicy
from scoot.wire.measurement import (
    AttemptOutcome,
    Distribution,
    Goodput,
    LoadAudit,
    Metrics,
    PhaseTime,
    RunResult,
)
from scoot.wire.protobuf import from_message, to_message
from scoot.wire.reasons import Blame, Reason, blame_of
from scoot.wire.spec import (
    ArrivalProcess,
    Arrivals,
    Limits,
    Objective,
    Parameter,
    ParameterKind,
    Scale,
    Selection,
    Service,
    StudySpec,
    Workload,
    WorkloadFacts,
)

texts = st.text(max_size=20).filter(lambda text: text.isprintable())
ints = st.integers(-(2**53), 2**53)
floats = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.one_of(st.booleans(), ints, floats, texts)
configs = st.dictionaries(texts, scalars, max_size=4)

parameters = st.builds(
    Parameter,
    name=texts,
    kind=st.sampled_from(ParameterKind),
    low=st.none() | floats,
    high=st.none() | floats,
    step=st.none() | st.integers(1, 100),
    scale=st.sampled_from(Scale),
    choices=st.lists(scalars, max_size=3).map(tuple),
    default=st.none() | scalars,
)
services = st.builds(
    Service,
    engine=texts,
    model=texts,
    devices=st.none() | st.integers(1, 8),
    max_model_len=st.none() | st.integers(1, 2**31 - 1),
    options=configs,
    env=st.dictionaries(texts, texts, max_size=3),
)
workloads = st.builds(
    Workload,
    profile=st.none() | texts,
    trace=st.none() | texts,
    select=st.sampled_from(Selection),
    arrivals=st.builds(
        Arrivals,
        process=st.sampled_from(ArrivalProcess),
        rate=st.none() | floats,
        cv=st.none() | floats,
        users=st.none() | st.integers(1, 99),
        max_in_flight=st.none() | st.integers(1, 99),
    ),
    duration_s=floats,
    seed=ints,
)
specs = st.builds(
    StudySpec,
    name=texts,
    service=services,
    workload=workloads,
    parameters=st.lists(parameters, max_size=3).map(tuple),
    objectives=st.lists(st.builds(Objective, metric=texts), max_size=3).map(tuple),
    constraints=st.lists(texts, max_size=3).map(tuple),
    workload_facts=st.none()
    | st.builds(
        WorkloadFacts,
        sha256=texts,
        requests=ints,
        input_p50=ints,
        input_max=ints,
        output_p50=ints,
        output_max=ints,
        notes=st.lists(texts, max_size=2).map(tuple),
    ),
)
outcomes = st.builds(
    AttemptOutcome,
    attempt_id=texts,
    fence=st.integers(0, 2**63),
    state=texts,
    reason=st.none() | st.sampled_from(Reason),
    effective_config=configs,
    phases=st.lists(st.builds(PhaseTime, phase=texts, seconds=floats), max_size=2).map(tuple),
    audits=st.lists(
        st.builds(
            LoadAudit,
            run=st.integers(0, 9),
            cpu_share=floats,
            run_queue_s=floats,
            clock_step_ms=floats,
            dropped=ints,
            clock=texts,
            senders=st.integers(0, 64),
            wall_s=floats,
            parser_cpu_share=floats,
            late_read_share=floats,
            parse_lag_s=floats,
            backlog_bytes=ints,
            priority=texts,
            pinned=st.lists(st.integers(0, 4096), max_size=3).map(tuple),
            stolen_s=floats,
            connections=ints,
            other_cpu_s=st.none() | floats,
            host_cpus=st.integers(0, 4096),
        ),
        max_size=2,
    ).map(tuple),
    command=st.lists(texts, max_size=2).map(tuple),
)


@given(specs)
def test_study_specs_survive(spec: StudySpec) -> None:
    sent = study_pb2.StudySpec.FromString(to_message(spec, study_pb2.StudySpec()).SerializeToString())
    assert from_message(sent, StudySpec) == spec


@given(outcomes)
def test_outcomes_survive(outcome: AttemptOutcome) -> None:
    message = to_message(outcome, measurement_pb2.AttemptOutcome())
    assert (
        from_message(measurement_pb2.AttemptOutcome.FromString(message.SerializeToString()), AttemptOutcome) == outcome
    )


distributions = st.builds(
    Distribution, n=ints, mean=floats, p50=floats, p90=floats, p95=floats, p99=floats, max=floats, std=floats
)
goodputs = st.builds(Goodput, name=texts, sent=ints, attained=ints, share=floats, rate=floats)
latency_fields = [name for name in Metrics.__struct_fields__ if name.endswith("_ms")]
metrics = st.builds(
    Metrics,
    failures=st.dictionaries(texts, ints, max_size=2),
    goodput=st.none() | goodputs,
    goodput_by_class=st.lists(goodputs, max_size=2).map(tuple),
    **dict.fromkeys(latency_fields, st.none() | distributions),
    **dict.fromkeys(("sent", "completed", "failed", "output_tokens", "input_tokens"), ints),
    **dict.fromkeys(
        ("duration_s", "request_throughput", "output_token_throughput", "input_token_throughput", "offered_rate"),
        floats,
    ),
    **dict.fromkeys(("merged_share", "achieved_rate", "multi_token_share", "admitted_rate"), floats),
)


@given(metrics)
def test_metrics_survive(told: Metrics) -> None:
    sent = measurement_pb2.Metrics.FromString(to_message(told, measurement_pb2.Metrics()).SerializeToString())
    assert from_message(sent, Metrics) == told


def test_limits_of_a_client_from_before_the_later_ones_leave_those_out() -> None:
    message = to_message(Limits(), study_pb2.Limits())
    for name in ("run_queue_share", "achieved_share", "merged_share", "other_cpu_share"):
        message.ClearField(name)
    told = from_message(study_pb2.Limits.FromString(message.SerializeToString()), Limits)
    assert (told.run_queue_share, told.achieved_share, told.merged_share, told.other_cpu_share) == (0, 0, 0, 0)


@given(services, workloads, configs, st.lists(ints, max_size=3))
def test_assignments_survive(service: Service, workload: Workload, config: dict[str, object], seeds: list[int]) -> None:
    assignment = Assignment(
        attempt_id="s/0/1",
        fence=7,
        service=service,
        devices=("cpu-0",),
        config=config,  # type: ignore[arg-type]  # scalars, by strategy
        workload=workload,
        workload_sha256="ab",
        limits=Limits(),
        run_seeds=tuple(seeds),
    )
    assert from_message(to_message(assignment, agent_service_pb2.Assignment()), Assignment) == assignment


def test_inventories_and_leases_survive() -> None:
    inventory = Inventory(
        devices=(Device(id="GPU-1", kind="H200", memory_bytes=2**37),),
        engines=(EngineOffer(name="vllm", version="0.32.0"), EngineOffer(name="x", error="no")),
        model_roots=("/m",),
    )
    assert from_message(to_message(inventory, agent_service_pb2.Inventory()), Inventory) == inventory
    assert from_message(to_message(LeasePolicy(), agent_service_pb2.LeasePolicy()), LeasePolicy) == LeasePolicy()


@pytest.mark.parametrize("number", [0, 99])
def test_unknown_enumeration_values_are_refused(number: int) -> None:
    message = study_pb2.Parameter(name="p", type=study_pb2.PARAMETER_KIND_INT, scale=study_pb2.SCALE_LOG)
    message.type = number  # type: ignore[assignment]  # that is the point
    with pytest.raises(RemoteProtocolError, match=r"Parameter\.type"):
        from_message(message, Parameter)


def test_a_scalar_without_a_value_is_refused() -> None:
    message = study_pb2.Service(engine="e", model="m", options={"a": study_pb2.Scalar()})
    with pytest.raises(RemoteProtocolError, match="Scalar"):
        from_message(message, Service)


def test_every_reason_is_on_the_wire_and_has_a_blame() -> None:
    on_wire = {name.removeprefix("REASON_") for name in measurement_pb2.Reason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118 - an enum wrapper, not a dict
    assert on_wire == {reason.value for reason in Reason}
    assert all(isinstance(blame_of(reason), Blame) for reason in Reason)
    fields = {field.name for field in measurement_pb2.RunResult.DESCRIPTOR.fields}
    assert fields == set(RunResult.__struct_fields__)
