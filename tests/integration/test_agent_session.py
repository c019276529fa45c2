"""The agent end to end: real gRPC, real processes, the mock engine, and a coordinator that does as it is told."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from agent_bench import QUICK, RATE, agent_process, assignment, bench, configure, timings, workload

from scoot.agent import attempt
from scoot.agent.host import ports
from scoot.agent.host.gpu_fake import FakeGpus
from scoot.agent.link.codec import AttemptRef, Verdict
from scoot.agent.testing.coordinator import FakeCoordinator
from scoot.benchmark.plan import LoadPlan
from scoot.v1 import agent_service_pb2 as pb
from scoot.v1 import measurement_pb2
from scoot.wire.columns import RequestPhase, RequestStatus
from scoot.wire.lease import LeasePolicy
from scoot.wire.measurement import AttemptOutcome, LoadAudit, other_cpu_share
from scoot.wire.reasons import Reason
from scoot.wire.spec import Limits

CRASH_RULE = '[{"when": "requests > 20", "at": "load", "log": ["AssertionError: block table overflow"]}]'


def phases_of(outcome: AttemptOutcome) -> list[str]:
    return [time.phase for time in outcome.phases]


async def test_an_attempt_completes_with_every_batch_and_leaves_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        ref = b.coordinator.assign(assignment(b.coordinator, seeds=(7, 8)))
        outcome = await b.coordinator.outcome_of(ref)
        assert (outcome.state, outcome.reason) == ("COMPLETED", None), b.logs()
        assert phases_of(outcome) == [
            "PREPARE",
            "START",
            "READY",
            *("WARM_UP", "MEASURE", "DRAIN") * 2,
            "STOP",
            "VERIFY_CLEAN",
            "COLLECT",
        ]
        stored = b.coordinator.batches_of(ref)
        assert sorted(stored) == list(range(outcome.batches))
        measured = timings(stored)
        for run in (0, 1):
            here = (measured.run == run) & (measured.phase == RequestPhase.MEASURED)
            assert int(here.sum()) == pytest.approx(RATE, abs=1)
            assert bool(np.all(measured.status[here] == RequestStatus.OK))
        assert [audit.run for audit in outcome.audits] == [0, 1]
        for audit in outcome.audits:
            assert audit.host_cpus == os.cpu_count()
            share = other_cpu_share(audit)
            assert share is not None
            assert 0 <= share < 1.2, "of all CPUs; the host's own figures are samples"
        assert outcome.effective_config["max_num_seqs"] == 32
        assert "scoot.agent.engines.mock_server" in outcome.command
        assert b.leftovers() == []
        assert {update.phase for update in b.coordinator.updates} >= {"START", "READY", "MEASURE"}
        assert b.coordinator.violations == []


async def test_progress_is_told_on_phase_changes_and_at_most_twice_a_second(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        ref = b.coordinator.assign(assignment(b.coordinator))
        outcome = await b.coordinator.outcome_of(ref)
        seconds = sum(time.seconds for time in outcome.phases)
        assert len(b.coordinator.updates) <= len(outcome.phases) + 2 * seconds + 2


async def test_an_acknowledged_outcome_is_forgotten_and_its_logs_stay(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        ref = b.coordinator.assign(assignment(b.coordinator))
        await b.coordinator.outcome_of(ref)
    folder = tmp_path / "data" / "attempts" / "1"
    assert {path.suffix for path in folder.iterdir()} == {".log"}


async def test_a_crash_under_load_is_infeasible_with_its_root_cause(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        ref = b.coordinator.assign(assignment(b.coordinator, mock_rules=CRASH_RULE))
        outcome = await b.coordinator.outcome_of(ref)
        assert (outcome.state, outcome.reason) == ("INFEASIBLE", Reason.ENGINE_CRASHED_UNDER_LOAD), b.logs()
        assert "block table overflow" in outcome.message
        assert "block table overflow" in outcome.log_tail
        assert phases_of(outcome)[-3:] == ["STOP", "VERIFY_CLEAN", "COLLECT"]
        assert len(b.coordinator.batches_of(ref)) == outcome.batches
        assert b.leftovers() == []


async def test_a_hang_under_load_is_told_apart(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        ref = b.coordinator.assign(assignment(b.coordinator, mock_hang_after_requests=15))
        outcome = await b.coordinator.outcome_of(ref)
        assert (outcome.state, outcome.reason) == ("INFEASIBLE", Reason.ENGINE_HUNG_UNDER_LOAD), b.logs()
        # The mock answers each request with a head, so bytes go on coming as long as requests are sent.
        assert "no token for " in outcome.message or "no byte from replica 0 for " in outcome.message
        assert "no answer within 0.5 s" in outcome.message, "a completion was asked for"
        assert b.leftovers() == []


async def test_streams_that_stall_are_no_hang_while_the_engine_answers(tmp_path: Path) -> None:
    async with bench(tmp_path, lease=LeasePolicy(heartbeat_s=0.2)) as b:
        load = msgspec.structs.replace(workload(), request_timeout_s=3.0)
        quiet = Limits(start_timeout_s=20.0, stall_timeout_s=1.0, other_cpu_share=0.0)  # whatever else runs here
        ref = b.coordinator.assign(assignment(b.coordinator, load=load, limits=quiet, mock_fault="stall"))
        outcome = await b.coordinator.outcome_of(ref)
        assert (outcome.state, outcome.reason) == ("INFEASIBLE", Reason.ENGINE_REQUESTS_FAILED), b.logs()
        assert "DEADLINE" in outcome.message


@pytest.mark.parametrize("told", [None, Reason.ENGINE_OOM])
async def test_time_outs_on_a_noisy_host_are_left_to_the_coordinator_unless_the_log_tells_why(
    told: Reason | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, int]] = []

    def noisy(error_share: float, audits: tuple[LoadAudit, ...], _: Limits) -> bool:
        asked.append((error_share, len(audits)))
        return True

    monkeypatch.setattr(attempt, "may_be_noise", noisy)
    if told is not None:
        monkeypatch.setattr(attempt, "classify_load", lambda *_, **__: (told, "no memory"))
    async with bench(tmp_path, lease=LeasePolicy(heartbeat_s=0.2)) as b:
        load = msgspec.structs.replace(workload(), request_timeout_s=3.0)
        patient = Limits(start_timeout_s=20.0, stall_timeout_s=60.0)
        ref = b.coordinator.assign(assignment(b.coordinator, load=load, limits=patient, mock_fault="stall"))
        outcome = await b.coordinator.outcome_of(ref)
        assert (outcome.state, outcome.reason) == ("INFEASIBLE" if told else "COMPLETED", told), b.logs()
        assert asked == ([] if told else [(0.0, 1)])
        stored = timings(b.coordinator.batches_of(ref))
        assert RequestStatus.DEADLINE in stored.status[stored.phase == RequestPhase.MEASURED]
        assert len(outcome.audits) == 1


async def test_one_replica_of_two_that_hangs_is_found_and_named(tmp_path: Path) -> None:
    async with bench(tmp_path, lease=LeasePolicy(heartbeat_s=0.2)) as b:
        devices, load = ("cpu-0", "cpu-1"), workload(duration_s=60.0)
        ref = b.coordinator.assign(assignment(b.coordinator, devices=devices, load=load, mock_base_ms=30.0))
        await b.coordinator.until(lambda: any(update.phase == "MEASURE" for update in b.coordinator.updates))
        below = psutil.Process().children(recursive=True)
        next(each for each in below if each.cwd().endswith("engine-1")).suspend()
        outcome = await b.coordinator.outcome_of(ref)
        assert (outcome.state, outcome.reason) == ("INFEASIBLE", Reason.ENGINE_HUNG_UNDER_LOAD), b.logs()
        assert "no byte from replica 1" in outcome.message
        assert b.leftovers() == []


async def test_an_engine_that_exits_on_start_and_one_that_is_never_ready(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        dead = b.coordinator.assign(assignment(b.coordinator, fence=1, devices=("cpu-0",), mock_exit_on_start=True))
        never = b.coordinator.assign(
            assignment(
                b.coordinator,
                fence=2,
                devices=("cpu-1",),
                limits=Limits(start_timeout_s=3.0),
                mock_ready_never=True,
                mock_ignores_sigterm=True,
            )
        )
        first = await b.coordinator.outcome_of(dead)
        second = await b.coordinator.outcome_of(never)
        assert (first.state, first.reason) == ("INFEASIBLE", Reason.ENGINE_EXITED_ON_START), b.logs()
        assert "the device is not usable" in first.message
        assert (second.state, second.reason) == ("INFEASIBLE", Reason.ENGINE_START_TIMEOUT), b.logs()
        assert b.leftovers() == []


async def test_too_many_failed_requests_are_infeasible(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        ref = b.coordinator.assign(
            assignment(b.coordinator, limits=Limits(start_timeout_s=20.0), mock_http_share=0.5, mock_http_status=429)
        )
        outcome = await b.coordinator.outcome_of(ref)
        assert (outcome.state, outcome.reason) == ("INFEASIBLE", Reason.ENGINE_REQUESTS_FAILED), b.logs()
        assert "HTTP_ERROR" in outcome.message


async def test_what_cannot_run_here_is_refused_before_anything_starts(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        cases = {
            Reason.ENGINE_MISSING: assignment(b.coordinator, fence=1, engine="sglang"),
            Reason.GPU_BUSY: assignment(b.coordinator, fence=2, devices=("cpu-9",)),
            Reason.SPEC_INVALID: assignment(b.coordinator, fence=3, devices=("cpu-1", "cpu-1")),
            Reason.MODEL_MISSING: assignment(b.coordinator, fence=5, model="/etc"),
        }
        for reason, asked in cases.items():
            outcome = await b.coordinator.outcome_of(b.coordinator.assign(asked))
            assert (outcome.state, outcome.reason) == ("REFUSED", reason)
        broken = assignment(b.coordinator, fence=4, engine="broken")
        outcome = await b.coordinator.outcome_of(b.coordinator.assign(broken))
        assert (outcome.state, outcome.reason) == ("REFUSED", Reason.ENGINE_MISSING)
        assert "cannot run here" in outcome.message
        assert [offer.name for offer in b.coordinator.hellos[0].inventory.engines] == ["mock", "broken"]


async def test_an_option_that_is_not_a_flag_is_refused(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        asked = msgspec.structs.replace(assignment(b.coordinator), config={"max_num_seqs; rm -rf": 1})
        outcome = await b.coordinator.outcome_of(b.coordinator.assign(asked))
        assert (outcome.state, outcome.reason) == ("REFUSED", Reason.SPEC_INVALID)
        assert outcome.command == ()


async def test_an_engine_is_not_started_where_memory_is_short(tmp_path: Path) -> None:
    async with bench(tmp_path, reserve_gib=1e6) as b:
        outcome = await b.coordinator.outcome_of(b.coordinator.assign(assignment(b.coordinator)))
        assert (outcome.state, outcome.reason) == ("REFUSED", Reason.HOST_MEMORY_SHORT)


async def test_a_port_that_was_taken_meanwhile_costs_one_more_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        offered = iter([squatter.getsockname()[1]])
        real = ports.free_port
        monkeypatch.setattr(ports, "free_port", lambda: next(offered, None) or real())
        async with bench(tmp_path) as b:
            ref = b.coordinator.assign(assignment(b.coordinator))
            outcome = await b.coordinator.outcome_of(ref)
            assert outcome.state == "COMPLETED", b.logs()
            assert phases_of(outcome)[:5] == ["PREPARE", "START", "READY", "START", "READY"]
            assert b.leftovers() == []


async def test_a_port_that_is_taken_twice_leaves_the_device_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        offered = iter([each.getsockname()[1] for each in (one, two)])
        real = ports.free_port
        monkeypatch.setattr(ports, "free_port", lambda: next(offered, None) or real())
        async with bench(tmp_path, slots=1) as b:
            outcome = await b.coordinator.outcome_of(b.coordinator.assign(assignment(b.coordinator)))
            assert (outcome.state, outcome.reason) == ("ABORTED", Reason.PORT_TAKEN)
            b.coordinator.drop_sessions()
            await b.coordinator.heard_hellos(2)
            assert [each.id for each in b.coordinator.hellos[1].inventory.devices] == ["cpu-0"]


def child(needle: str) -> psutil.Process:
    """The process below this one whose command line has `needle` as an argument."""
    return next(each for each in psutil.Process().children(recursive=True) if needle in each.cmdline())


@pytest.mark.parametrize(
    ("victim", "state", "reason"),
    [
        ("scoot.benchmark.process", "ABORTED", Reason.CLIENT_CRASHED),
        ("scoot.agent.engines.mock_server", "INFEASIBLE", Reason.ENGINE_CRASHED_UNDER_LOAD),
    ],
)
async def test_kill_9_of_a_process_of_the_attempt_has_its_own_reason(
    tmp_path: Path, victim: str, state: str, reason: Reason
) -> None:
    async with bench(tmp_path) as b:
        ref = b.coordinator.assign(assignment(b.coordinator, load=workload(duration_s=60.0)))
        await b.coordinator.until(lambda: any(update.phase == "MEASURE" for update in b.coordinator.updates))
        child(victim).kill()
        outcome = await b.coordinator.outcome_of(ref)
        assert (outcome.state, outcome.reason) == (state, reason), b.logs()
        assert b.leftovers() == []


async def test_a_workload_the_coordinator_does_not_have_ends_the_attempt(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        asked = msgspec.structs.replace(assignment(b.coordinator), workload_sha256="0" * 64)
        outcome = await b.coordinator.outcome_of(b.coordinator.assign(asked))
        assert outcome.state == "ABORTED"
        assert "no blob" in outcome.message


async def test_cancelling_stops_the_engine_and_says_so(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        ref = b.coordinator.assign(assignment(b.coordinator, load=workload(duration_s=60.0)))
        await b.coordinator.until(lambda: any(update.phase == "MEASURE" for update in b.coordinator.updates))
        b.coordinator.cancel(AttemptRef("study/99/1", 99))  # unknown: ignored
        b.coordinator.cancel(ref)
        outcome = await b.coordinator.outcome_of(ref)
        assert (outcome.state, outcome.reason) == ("CANCELLED", Reason.CANCELLED_BY_USER)
        assert b.leftovers() == []


async def test_a_dropped_session_costs_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path, lease=LeasePolicy(heartbeat_s=0.2)) as b:
        ref = b.coordinator.assign(assignment(b.coordinator, load=workload(duration_s=2.0)))
        await b.coordinator.until(lambda: any(update.phase == "MEASURE" for update in b.coordinator.updates))
        await b.coordinator.until(lambda: len(b.coordinator.received) >= 1)
        await b.coordinator.stop()  # both streams break
        await b.coordinator.start()
        await b.coordinator.heard_hellos(2)
        outcome = await b.coordinator.outcome_of(ref)
        assert outcome.state == "COMPLETED", b.logs()
        assert [(each.attempt_id, each.fence) for each in b.coordinator.hellos[1].running] == [(ref.attempt_id, 1)]
        assert len({hello.incarnation for hello in b.coordinator.hellos}) == 1
        stored = b.coordinator.batches_of(ref)
        assert sorted(stored) == list(range(outcome.batches))
        indices = timings(stored).index.tolist()
        assert sorted(indices) == list(range(len(indices)))  # nothing lost, nothing twice
        assert b.coordinator.violations == []


async def test_batches_come_back_and_are_sent_again(tmp_path: Path) -> None:
    seen: dict[int, int] = {}

    def judge(batch: measurement_pb2.MeasurementBatch) -> Verdict | None:
        seen[batch.seq] = seen.get(batch.seq, 0) + 1
        if batch.seq == 0 and seen[0] == 1:
            return Verdict.CORRUPT
        return Verdict.RETRY if batch.seq == 1 and seen[1] == 1 else None

    async with bench(tmp_path) as b:
        b.coordinator.judge = judge
        ref = b.coordinator.assign(assignment(b.coordinator, seeds=(1, 2)))
        outcome = await b.coordinator.outcome_of(ref)
        assert outcome.state == "COMPLETED"
        assert seen[0] == 2
        assert seen[1] == 2
        assert sorted(b.coordinator.batches_of(ref)) == list(range(outcome.batches))


async def test_a_batch_that_stays_corrupt_ends_the_attempt(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.coordinator.judge = lambda _: Verdict.CORRUPT
        ref = b.coordinator.assign(assignment(b.coordinator))
        outcome = await b.coordinator.outcome_of(ref)
        assert (outcome.state, outcome.reason) == ("ABORTED", Reason.UPLOAD_CORRUPT)
        assert b.leftovers() == []


async def test_a_fenced_batch_stops_the_attempt(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.coordinator.judge = lambda _: Verdict.FENCED
        ref = b.coordinator.assign(assignment(b.coordinator, load=workload(duration_s=60.0)))
        outcome = await b.coordinator.outcome_of(ref)
        assert (outcome.state, outcome.reason) == ("ABORTED", Reason.SELF_FENCED)
        assert outcome.batches == 0
        assert b.leftovers() == []


async def test_withheld_acknowledgements_fence_the_agent(tmp_path: Path) -> None:
    async with bench(tmp_path, lease=QUICK) as b:
        ref = b.coordinator.assign(assignment(b.coordinator, load=workload(duration_s=60.0)))
        await b.coordinator.until(lambda: any(update.phase == "MEASURE" for update in b.coordinator.updates))
        b.coordinator.silent = True
        heard = len(b.coordinator.hellos)
        # It tries a new session first, then lets go without any help from the coordinator.
        await b.coordinator.until(lambda: len(b.coordinator.hellos) > heard)
        while b.leftovers():
            async with asyncio.timeout(10.0):
                await asyncio.to_thread(psutil.wait_procs, psutil.Process().children(), 0.2)
        b.coordinator.silent = False
        outcome = await b.coordinator.outcome_of(ref)
        assert (outcome.state, outcome.reason) == ("ABORTED", Reason.SELF_FENCED)


async def test_two_attempts_share_the_host(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        refs = [
            b.coordinator.assign(assignment(b.coordinator, fence=fence, devices=(device,), load=workload(2.0)))
            for fence, device in ((1, "cpu-0"), (2, "cpu-1"))
        ]
        await b.coordinator.until(
            lambda: {update.fence for update in b.coordinator.updates if update.phase == "MEASURE"} == {1, 2}
        )
        third = b.coordinator.assign(assignment(b.coordinator, fence=3, devices=("cpu-0",)))
        refused = await b.coordinator.outcome_of(third)
        assert (refused.state, refused.reason) == ("REFUSED", Reason.GPU_BUSY)
        for ref in refs:
            outcome = await b.coordinator.outcome_of(ref)
            assert outcome.state == "COMPLETED", b.logs()
            assert len(b.coordinator.batches_of(ref)) == outcome.batches


async def test_two_replicas_share_the_load(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        ref = b.coordinator.assign(assignment(b.coordinator, devices=("cpu-0", "cpu-1"), mock_base_ms=30.0))
        outcome = await b.coordinator.outcome_of(ref)
        assert outcome.state == "COMPLETED", b.logs()
        assert set(timings(b.coordinator.batches_of(ref)).replica.tolist()) == {0, 1}


async def test_an_assignment_is_executed_once(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        asked = assignment(b.coordinator)
        ref = b.coordinator.assign(asked)
        b.coordinator.assign(asked)
        await b.coordinator.outcome_of(ref)
        b.coordinator.drop_sessions()
        b.coordinator.assign(asked)
        await b.coordinator.heard_hellos(2)
        heard = b.coordinator.heartbeats
        await b.coordinator.until(lambda: b.coordinator.heartbeats >= heard + 2)
        assert sum(update.phase == "START" for update in b.coordinator.updates) == 1
        assert len(b.coordinator.outcomes) == 1


async def test_memory_that_stays_voids_the_attempt_and_quarantines_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scoot.agent.attempt._RELEASE_TIMEOUT_S", 0.1)
    gpus = FakeGpus(2)
    device = gpus.devices()[0].id
    async with bench(tmp_path, gpus=gpus, slots=0) as b:
        ref = b.coordinator.assign(assignment(b.coordinator, devices=(device,)))
        await b.coordinator.until(lambda: any(update.phase == "MEASURE" for update in b.coordinator.updates))
        gpus.gpus[device].leaked_bytes = 3 * 1024**3
        outcome = await b.coordinator.outcome_of(ref)
        assert (outcome.state, outcome.reason) == ("ABORTED", Reason.GPU_MEMORY_NOT_RELEASED)
        again = await b.coordinator.outcome_of(
            b.coordinator.assign(assignment(b.coordinator, fence=2, devices=(device,)))
        )
        assert (again.state, again.reason) == ("REFUSED", Reason.GPU_MEMORY_NOT_RELEASED)
        b.coordinator.drop_sessions()
        await b.coordinator.heard_hellos(2)
        assert [each.id for each in b.coordinator.hellos[1].inventory.devices] == [gpus.devices()[1].id]


async def test_an_attempt_waits_for_a_gpu_that_others_give_back(tmp_path: Path) -> None:
    gpus = FakeGpus(1)
    (device,) = (device.id for device in gpus.devices())
    stranger = 2**22 + 1
    gpus.hold(device, stranger, 10 * 1024**3)
    async with bench(tmp_path, gpus=gpus, slots=0, room_wait_s=60.0) as b:
        ref = b.coordinator.assign(assignment(b.coordinator, devices=(device,)))
        await b.coordinator.until(lambda: any(update.phase == "PREPARE" for update in b.coordinator.updates))
        gpus.release(device, stranger)
        outcome = await b.coordinator.outcome_of(ref)
        assert outcome.state == "COMPLETED", b.logs()


@pytest.mark.parametrize("crashes", [False, True])
async def test_a_gpu_that_fails_is_blamed_and_gets_no_more_work(tmp_path: Path, crashes: bool) -> None:
    gpus = FakeGpus(2)
    bad, good = (device.id for device in gpus.devices())
    async with bench(tmp_path, gpus=gpus, slots=0) as b:
        rules = CRASH_RULE if crashes else "[]"
        ref = b.coordinator.assign(assignment(b.coordinator, devices=(bad, good), mock_rules=rules))
        await b.coordinator.until(lambda: any(update.phase == "READY" for update in b.coordinator.updates))
        gpus.corrupt(bad, 2)
        gpus.report(good, 31)
        outcome = await b.coordinator.outcome_of(ref)
        assert (outcome.state, outcome.reason) == ("ABORTED", Reason.GPU_FAULT), b.logs()
        assert "2 uncorrected memory error(s)" in outcome.message
        assert ("ENGINE_CRASHED_UNDER_LOAD" in outcome.message) == crashes
        again = b.coordinator.assign(assignment(b.coordinator, fence=2, devices=(bad,)))
        refused = await b.coordinator.outcome_of(again)
        assert (refused.state, refused.reason) == ("REFUSED", Reason.GPU_FAULT)
        heard = len(b.coordinator.hellos)
        b.coordinator.drop_sessions()
        await b.coordinator.heard_hellos(heard + 1)
        assert [each.id for each in b.coordinator.hellos[-1].inventory.devices] == [good]


async def test_an_outcome_is_offered_again_until_it_is_acknowledged(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.coordinator.withhold_outcome_acks = True
        ref = b.coordinator.assign(assignment(b.coordinator))
        await b.coordinator.outcome_of(ref)
        b.coordinator.drop_sessions()
        await b.coordinator.until(lambda: len(b.coordinator.outcomes) >= 2)
        assert [(each.attempt_id, each.fence) for each in b.coordinator.hellos[1].finished] == [(ref.attempt_id, 1)]
        assert b.coordinator.outcomes[0] == b.coordinator.outcomes[1]
        b.coordinator.withhold_outcome_acks = False
        b.coordinator.drop_sessions()
        await b.coordinator.until(lambda: len(b.coordinator.outcomes) >= 3)


async def test_draining_stops_attempts_and_tells_their_outcome(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        ref = b.coordinator.assign(assignment(b.coordinator, load=workload(duration_s=60.0)))
        await b.coordinator.until(lambda: any(update.phase == "MEASURE" for update in b.coordinator.updates))
        b.daemon.drain()
        outcome = await b.coordinator.outcome_of(ref)
        assert (outcome.state, outcome.reason) == ("ABORTED", Reason.HOST_LOST)
        assert b.leftovers() == []


async def test_a_final_refusal_ends_the_agent_and_a_passing_one_does_not(tmp_path: Path) -> None:
    async with FakeCoordinator(QUICK) as coordinator:
        coordinator.refusal = ("busy", True)
        process = await agent_process(configure(tmp_path, coordinator))
        await coordinator.heard_hellos(3)
        coordinator.refusal = ("wrong protocol", False)
        await asyncio.wait_for(process.wait(), 10.0)
        log = await ended(process)
        assert process.returncode == 2
        assert "wrong protocol" in log


async def test_nonsense_from_the_coordinator_ends_the_session_only(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for message in (
            pb.CoordinatorMessage(),
            pb.CoordinatorMessage(assign=pb.Assignment(attempt_id="a", fence=1, workload_sha256="../../etc/passwd")),
            pb.CoordinatorMessage(welcome=pb.Welcome(session_id="again")),
        ):
            heard = len(b.coordinator.hellos)
            b.coordinator.send(message)
            await b.coordinator.heard_hellos(heard + 1)
        outcome = await b.coordinator.outcome_of(b.coordinator.assign(assignment(b.coordinator)))
        assert outcome.state == "COMPLETED"


async def ended(process: asyncio.subprocess.Process) -> str:
    """Its log, once it has ended."""
    _, log = await asyncio.wait_for(process.communicate(b""), 20.0)
    return log.decode()


async def test_a_killed_agent_offers_its_outcomes_again_and_leaves_no_engine(tmp_path: Path) -> None:
    async with FakeCoordinator(QUICK) as coordinator:
        config = configure(tmp_path, coordinator)
        coordinator.withhold_outcome_acks = True
        first = await agent_process(config)
        done = coordinator.assign(assignment(coordinator, fence=1, devices=("cpu-0",)))
        # The agent connects later: what was assigned before is sent with its welcome.
        outcome = await coordinator.outcome_of(done)
        assert outcome.state == "COMPLETED"
        cut = coordinator.assign(assignment(coordinator, fence=2, devices=("cpu-1",), load=workload(duration_s=60.0)))
        await coordinator.until(lambda: any(u.fence == 2 and u.phase == "MEASURE" for u in coordinator.updates))
        family = psutil.Process(first.pid).children(recursive=True)
        assert len(family) >= 3  # warden, engine, load process
        first.send_signal(signal.SIGKILL)
        await ended(first)
        gone, alive = await asyncio.to_thread(psutil.wait_procs, family, 10.0)
        assert (len(gone), alive) == (len(family), [])

        coordinator.withhold_outcome_acks = False
        second = await agent_process(config)
        try:
            await coordinator.heard_hellos(2)
            assert {each.fence for each in coordinator.hellos[-1].finished} == {1, 2}
            assert coordinator.hellos[-1].incarnation != coordinator.hellos[0].incarnation
            await coordinator.until(lambda: len(coordinator.outcomes) >= 3)
            assert coordinator.outcomes[1] == outcome
            interrupted = await coordinator.outcome_of(cut)
            assert (interrupted.state, interrupted.reason) == ("ABORTED", Reason.HOST_LOST)
        finally:
            second.send_signal(signal.SIGTERM)
            log = await ended(second)
        assert second.returncode == 0, log


async def test_the_end_of_standard_input_is_a_clean_stop(tmp_path: Path) -> None:
    async with FakeCoordinator(QUICK) as coordinator:
        process = await agent_process(configure(tmp_path, coordinator))
        ref = coordinator.assign(assignment(coordinator, load=workload(duration_s=60.0)))
        await coordinator.until(lambda: any(update.phase == "MEASURE" for update in coordinator.updates))
        assert (tmp_path / "ready").read_text().strip() == str(process.pid)
        plan = msgspec.json.decode((tmp_path / "data/attempts/1/plan.json").read_bytes(), type=LoadPlan)
        assert plan.own_root == os.getpid(), "whoever embeds an agent is no noise to it"
        family = psutil.Process(process.pid).children(recursive=True)
        log = await ended(process)  # communicate() closes its standard input
        assert process.returncode == 0, log
        outcome = await coordinator.outcome_of(ref)
        assert (outcome.state, outcome.reason) == ("ABORTED", Reason.HOST_LOST)
        assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in family)


async def test_two_agents_do_not_share_a_data_folder(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        second = await agent_process(configure(tmp_path, b.coordinator))
        log = await ended(second)
        assert second.returncode == 2
        assert "another agent uses it" in log
