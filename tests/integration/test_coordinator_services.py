"""The coordinator's services over real gRPC, spoken to by hand: what is answered, what is refused, what is fenced."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest
from coordinator_desk import FAST, Agent, batch, desk, requests, spec, submit

from scoot.coordinator.store.faulty import Action, Fault, FaultPlan, FaultyStore, Operation
from scoot.coordinator.store.memory import MemoryStore
from scoot.coordinator.study.state import AttemptState
from scoot.v1 import agent_service_pb2 as agent_pb
from scoot.v1 import measurement_pb2 as measurement_pb
from scoot.v1 import study_service_pb2 as pb
from scoot.wire import columns
from scoot.wire.measurement import AttemptOutcome
from scoot.wire.reasons import Reason
from scoot.wire.spec import Budget, Objective, Parameter, ParameterKind
from scoot.wire.states import StudyState, TrialState


async def test_a_study_from_submission_to_its_report(tmp_path: pathlib.Path) -> None:
    async with desk(tmp_path) as d:
        created = await submit(d, spec(trials=3, orders=2))
        assert created.study_id.startswith("chat-by-hand-")
        agent = Agent(d)
        welcome = await agent.connect()
        assert welcome.welcome.lease.heartbeat_s == 5.0
        fences = []
        for ttft_us in (5_000, 1_000, 9_000):
            work = await agent.assignment()
            fences.append(work.fence)
            assert work.devices == ("cpu-0",)
            await agent.say(update=agent_pb.AttemptUpdate(attempt_id=work.attempt_id, fence=work.fence, phase="START"))
            await agent.complete(work, ttft_us)
            assert (await agent.hear()).outcome_ack.attempt_id == work.attempt_id
        for _ in range(2):
            work = await agent.assignment()
            assert len(work.run_seeds) == 2
            await agent.complete(work, 3_000)
            await agent.hear()
        await d.until(lambda state: state.studies[created.study_id].state is StudyState.COMPLETED)
        assert fences == sorted(set(fences))
        detail = await d.studies.GetStudy(pb.GetStudyRequest(study_id=created.study_id))
        assert detail.study.best_trial == 1
        assert [trial.source for trial in detail.trials] == [
            "default",
            "auto",
            "auto",
            "confirm-default",
            "confirm-best",
        ]
        assert detail.trials[1].runs[0].metrics.ttft_ms.mean == pytest.approx(1.0)
        report = await d.studies.GetReport(pb.GetReportRequest(study_id=created.study_id))
        assert msgspec.json.decode(report.json)["schema"] == 1
        assert "<html" in report.html
        watched = [update async for update in d.studies.WatchStudy(pb.WatchStudyRequest(study_id=created.study_id))]
        assert len(watched) == 1
        agent.hang_up()


async def test_the_same_key_creates_one_study_and_bad_specs_none(tmp_path: pathlib.Path) -> None:
    async with desk(tmp_path) as d:
        first = await submit(d, spec())
        again = await submit(d, spec(trials=9))
        assert (again.study_id, again.spec.budget.trials) == (first.study_id, 2)
        bad = {
            "budget.trials": msgspec.structs.replace(spec(), budget=Budget(trials=0)),
            "budget.parallelism": msgspec.structs.replace(spec(), budget=Budget(parallelism=0)),
            "objectives": msgspec.structs.replace(spec(), objectives=(Objective(metric="tftt_mean"),)),
            "workload_facts": msgspec.structs.replace(spec(), workload_facts=None),
            "max_num_seqs": msgspec.structs.replace(
                spec(), parameters=(Parameter(name="max_num_seqs", kind=ParameterKind.INT, low=9, high=1),)
            ),
        }
        for key, study in bad.items():
            with pytest.raises(grpc.aio.AioRpcError, match=key) as refused:
                await submit(d, study, key=f"other {key}")
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        listed = await d.studies.ListStudies(pb.ListStudiesRequest())
        assert [study.study_id for study in listed.studies] == [first.study_id]
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await d.studies.GetStudy(pb.GetStudyRequest(study_id="nope"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_batches_are_verified_before_they_are_stored(tmp_path: pathlib.Path) -> None:
    async with desk(tmp_path) as d:
        await submit(d, spec())
        agent = Agent(d)
        await agent.connect()
        work = await agent.assignment()
        good = columns.encode(requests(0, 1000))
        name, fence = work.attempt_id, work.fence
        replies = await agent.upload(
            batch(name, fence, 0, good),
            batch(name, fence, 0, good),
            batch(name, fence + 1, 1, good),
            batch("elsewhere/0/1", fence, 1, good),
            batch(name, fence, 1, good, sha256=b"0" * 32),
            batch(name, fence, 1, good[:-1]),
            batch(name, fence, 1, good, raw_bytes=2**31),
            batch(name, fence, 1, os.urandom(100), encoding=measurement_pb.ENCODING_ZSTD),
            batch(name, fence, 1, good, encoding=7),
        )
        assert [agent_pb.BatchVerdict.Name(reply.verdict).rpartition("_")[2] for reply in replies] == [
            "STORED",
            "STORED",
            "FENCED",
            "FENCED",
            "CORRUPT",
            "CORRUPT",
            "CORRUPT",
            "CORRUPT",
            "CORRUPT",
        ]
        assert len(d.coordinator._store.segments(name)) == 1
        agent.hang_up()


async def test_an_outcome_that_announces_missing_batches_is_not_believed(tmp_path: pathlib.Path) -> None:
    async with desk(tmp_path) as d:
        created = await submit(d, spec())
        agent = Agent(d)
        await agent.connect()
        work = await agent.assignment()
        await agent.outcome(AttemptOutcome(attempt_id=work.attempt_id, fence=work.fence, state="COMPLETED", batches=3))
        await agent.hear()
        again = await agent.assignment()
        assert again.attempt_id == f"{created.study_id}/0/2"
        assert d.coordinator.state.attempts[work.attempt_id].reason is Reason.UPLOAD_CORRUPT
        agent.hang_up()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"protocol": 2}, "protocol"),
        ({"agent_id": ""}, "agent_id"),
        ({"incarnation": ""}, "incarnation"),
    ],
)
async def test_hellos_that_cannot_be_taken_are_refused(
    tmp_path: pathlib.Path, change: dict[str, Any], text: str
) -> None:
    async with desk(tmp_path) as d:
        agent = Agent(d)
        for field, value in change.items():
            setattr(agent.hello, field, value)
        answer = await agent.connect()
        assert text in answer.refusal.message
        assert not d.coordinator.state.agents


async def test_a_second_agent_of_the_same_name_is_turned_away_but_a_restarted_one_is_not(
    tmp_path: pathlib.Path,
) -> None:
    async with desk(tmp_path) as d:
        first = Agent(d, incarnation="1")
        await first.connect()
        second = Agent(d, incarnation="2")
        assert "another agent" in (await second.connect()).refusal.message
        same = Agent(d, incarnation="1")
        assert (await same.connect()).welcome.session_id
        same.hang_up()


async def test_an_agent_speaks_for_its_own_attempts_only(tmp_path: pathlib.Path) -> None:
    async with desk(tmp_path) as d:
        await submit(d, spec())
        honest = Agent(d, "honest")
        await honest.connect()
        work = await honest.assignment()
        liar = Agent(d, "liar")
        await liar.connect()
        await liar.outcome(AttemptOutcome(attempt_id=work.attempt_id, fence=work.fence, state="COMPLETED"))
        assert "liar speaks for" in (await liar.hear()).refusal.message
        assert d.coordinator.state.attempts[work.attempt_id].state is AttemptState.OFFERED
        honest.hang_up()


async def test_a_silent_agent_is_lost_and_its_trial_runs_elsewhere(tmp_path: pathlib.Path) -> None:
    async with desk(tmp_path, FAST) as d:
        created = await submit(d, spec(trials=1))
        silent = Agent(d, "silent")
        await silent.connect()
        work = await silent.assignment()
        await d.until(lambda state: state.attempts[work.attempt_id].state is AttemptState.LOST)
        spare = Agent(d, "spare")
        await spare.connect()
        again = await spare.assignment()
        assert again.attempt_id == f"{created.study_id}/0/2"
        assert again.fence > work.fence
        await spare.complete(again)
        await d.until(lambda state: state.studies[created.study_id].state is StudyState.COMPLETED)
        late = await silent.upload(batch(work.attempt_id, work.fence, 0, columns.encode(requests(0, 1))))
        assert late[0].verdict == agent_pb.BATCH_VERDICT_FENCED
        silent.hang_up()
        spare.hang_up()


async def test_a_restarted_agent_brings_its_finished_attempt_and_loses_its_running_one(tmp_path: pathlib.Path) -> None:
    async with desk(tmp_path) as d:
        created = await submit(d, spec(trials=2, parallelism=2))
        agent = Agent(d, devices=2)
        await agent.connect()
        kept, lost = await agent.assignment(), await agent.assignment()
        agent.hang_up()
        reborn = Agent(d, incarnation="2", devices=2)
        reborn.hello.finished.add(attempt_id=kept.attempt_id, fence=kept.fence)
        while (await reborn.connect()).WhichOneof("body") == "refusal":  # the old stream's end is noticed in time
            reborn = Agent(d, incarnation="2", devices=2)
            reborn.hello.finished.add(attempt_id=kept.attempt_id, fence=kept.fence)
        again = await reborn.assignment()
        assert again.attempt_id == lost.attempt_id[:-1] + "2"
        await reborn.complete(kept)
        await reborn.hear()
        await reborn.complete(again)
        await d.until(lambda state: state.studies[created.study_id].state is StudyState.COMPLETED)
        assert {t.attempts for t in d.coordinator.state.trials[created.study_id].values()} == {1, 2}
        reborn.hang_up()


async def test_cancelling_stops_what_runs_and_ends_the_study(tmp_path: pathlib.Path) -> None:
    async with desk(tmp_path) as d:
        created = await submit(d, spec(trials=4))
        agent = Agent(d)
        await agent.connect()
        work = await agent.assignment()
        await d.studies.CancelStudy(pb.CancelStudyRequest(study_id=created.study_id, reason="enough"))
        assert d.coordinator.state.studies[created.study_id].state is StudyState.SEARCHING
        assert (await agent.hear()).cancel.attempt_id == work.attempt_id
        await agent.outcome(
            AttemptOutcome(
                attempt_id=work.attempt_id, fence=work.fence, state="CANCELLED", reason=Reason.CANCELLED_BY_USER
            )
        )
        await d.until(lambda state: state.studies[created.study_id].state is StudyState.CANCELLED)
        states = {trial.state for trial in d.coordinator.state.trials[created.study_id].values()}
        assert states == {TrialState.CANCELLED}
        agent.hang_up()


async def test_a_full_disk_refuses_new_studies_and_keeps_the_old(tmp_path: pathlib.Path) -> None:
    full = Fault(operation=Operation.COMMIT, at=2, action=Action.TRANSIENT)
    async with desk(tmp_path, store=FaultyStore(MemoryStore(), FaultPlan(faults=(full,)))) as d:
        first = await submit(d, spec())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await submit(d, spec(), key="second")
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        second = await submit(d, spec(), key="second")
        assert list(d.coordinator.state.studies) == [first.study_id, second.study_id]
