"""Placement: packing, no over-commitment, no starvation, reasons for waiting."""

from __future__ import annotations

import msgspec
import pytest

from scoot.coordinator.study.draft import CoordinatorState
from scoot.coordinator.study.placement import PASSES_MAX, busy_devices, place
from scoot.coordinator.study.state import (
    AgentRecord,
    AttemptRecord,
    AttemptState,
    StudyRecord,
    TrialRecord,
)
from scoot.wire.assignment import Device, EngineOffer, Inventory
from scoot.wire.lease import LeaseState
from scoot.wire.reasons import Reason
from scoot.wire.spec import Budget, Objective, Service, StudySpec, Workload
from scoot.wire.states import TrialKind, TrialState

replace = msgspec.structs.replace


def agent(name: str, gpus: int, *, engine: str = "vllm", error: str = "", **more: object) -> AgentRecord:
    record = AgentRecord(
        agent_id=name,
        incarnation="i1",
        boot_id="b1",
        version="0",
        inventory=Inventory(
            devices=tuple(Device(id=f"{name}-{n}", kind="H200", memory_bytes=1) for n in range(gpus)),
            engines=(EngineOffer(name=engine, version="" if error else "1", error=error),),
        ),
        lease=LeaseState.ACTIVE,
    )
    return replace(record, **more)


def study(parallelism: int = 8, devices: int | None = None) -> StudyRecord:
    spec = StudySpec(
        name="s",
        service=Service(engine="vllm", model="m", devices=devices),
        workload=Workload(profile="BOT"),
        parameters=(),
        objectives=(Objective(metric="ttft_mean"),),
        budget=Budget(trials=100, parallelism=parallelism),
    )
    return StudyRecord(study_id="s", spec=spec, idempotency_key="k", created_at_s=0.0)


def trial(number: int, degree: int = 1, **more: object) -> TrialRecord:
    record = TrialRecord(
        study_id="s",
        number=number,
        kind=TrialKind.SUGGESTED,
        config={"tensor_parallel_size": degree},
        source="sobol",
        run_seeds=(0,),
        created_at_s=0.0,
    )
    return replace(record, **more)


def state(
    trials: list[TrialRecord],
    agents: list[AgentRecord],
    attempts: list[AttemptRecord] | None = None,
    record: StudyRecord | None = None,
) -> CoordinatorState:
    return CoordinatorState(
        studies={"s": record or study()},
        trials={"s": {t.number: t for t in trials}},
        attempts={a.attempt_id: a for a in attempts or []},
        agents={a.agent_id: a for a in agents},
        next_fence=100,
    )


def attempt(number: int, devices: tuple[str, ...], agent_id: str = "a", **more: object) -> AttemptRecord:
    record = AttemptRecord(
        attempt_id=f"s/{number}/1",
        study_id="s",
        trial=number,
        n=1,
        agent_id=agent_id,
        incarnation="i1",
        fence=number + 1,
        devices=devices,
        state=AttemptState.RUNNING,
    )
    return replace(record, **more)


def test_mixed_tensor_parallel_sizes_fill_one_box_without_overlap() -> None:
    plan = place(state([trial(0, 4), trial(1, 2), trial(2, 1), trial(3, 1), trial(4, 1)], [agent("a", 8)]))
    assert [p.trial for p in plan.placed] == [0, 1, 2, 3]
    used = [device for p in plan.placed for device in p.devices]
    assert sorted(used) == sorted(f"a-{n}" for n in range(8))


def test_service_devices_fixes_the_share_and_the_degree_makes_replicas() -> None:
    plan = place(state([trial(0, 2), trial(1, 4)], [agent("a", 8)], record=study(devices=4)))
    assert [len(p.devices) for p in plan.placed] == [4, 4]


def test_a_degree_that_does_not_divide_the_devices_is_impossible() -> None:
    plan = place(state([trial(0, 3)], [agent("a", 8)], record=study(devices=4)))
    assert "does not divide" in plan.impossible["s", 0]
    assert not plan.placed


def test_parallelism_bounds_what_runs() -> None:
    running = trial(0, state=TrialState.RUNNING)
    plan = place(
        state([running, trial(1), trial(2)], [agent("a", 8)], [attempt(0, ("a-0",))], record=study(parallelism=2))
    )
    assert [p.trial for p in plan.placed] == [1]


def test_devices_of_a_stopping_attempt_are_not_free() -> None:
    lost = attempt(0, ("a-0",), state=AttemptState.LOST, reason=Reason.HOST_LOST)
    host = agent("a", 1, stopping=("s/0/1",))
    assert busy_devices(state([], [host], [lost])) == {"a": {"a-0": "s/0/1"}}
    assert not place(state([trial(0)], [host], [lost])).placed
    assert place(state([trial(0)], [agent("a", 1)], [lost])).placed


def test_collecting_attempts_hold_no_device() -> None:
    assert busy_devices(state([], [agent("a", 1)], [attempt(0, ("a-0",), state=AttemptState.COLLECTING)])) == {"a": {}}


def test_the_tightest_host_is_taken_and_a_host_that_failed_the_trial_is_avoided() -> None:
    hosts = [agent("big", 8), agent("small", 1)]
    assert place(state([trial(1)], hosts)).placed[0].agent_id == "small"
    burnt = attempt(1, ("small-0",), "small", state=AttemptState.ABORTED, reason=Reason.GPU_BUSY)
    assert place(state([trial(1)], hosts, [burnt])).placed[0].agent_id == "big"


def test_a_large_trial_is_passed_over_only_so_often() -> None:
    running = [trial(0, state=TrialState.RUNNING)]
    held = [attempt(0, ("a-0",))]
    patient = state([*running, trial(1, 8), trial(2)], [agent("a", 8)], held)
    plan = place(patient)
    assert [p.trial for p in plan.placed] == [2]
    assert plan.passed_over == {("s", 1): 1}
    tired = state([*running, trial(1, 8, passed_over=PASSES_MAX), trial(2)], [agent("a", 8)], held)
    assert not place(tired).placed
    elsewhere = state([*running, trial(1, 8, passed_over=PASSES_MAX), trial(2)], [agent("a", 8), agent("b", 1)], held)
    assert [(p.trial, p.agent_id) for p in place(elsewhere).placed] == [(2, "b")]


@pytest.mark.parametrize(
    ("agents", "text"),
    [
        ([], "no agent is registered"),
        ([agent("a", 8, engine="mock")], "no agent offers engine 'vllm' (offered: a: mock)"),
        ([agent("a", 8, error="no such file")], "no such file"),
        ([agent("a", 2)], "needs 4 x 'gpu', the largest agent with 'vllm' has 2"),
        ([agent("a", 8, lease=LeaseState.LOST)], "a is lost"),
        ([agent("a", 8, cordoned="GPU 3 leaks")], "cordoned: GPU 3 leaks"),
    ],
)
def test_why_nothing_can_be_placed_is_said(agents: list[AgentRecord], text: str) -> None:
    plan = place(state([trial(0, 4)], agents))
    assert not plan.placed
    assert text in plan.waiting["s"]
