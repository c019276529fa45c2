"""The tools that break things: a judge that finds nothing wrong with anything would measure nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from tools import failure_catalogue, kill_storm, victims
from tools.daemons import Story
from tools.failure_catalogue import CASES, Case
from tools.kill_storm import PAIRS, Kill, Moment, named
from tools.victims import Part

from scoot.agent.core.classify import classify_load, classify_start
from scoot.agent.engines.mock_knobs import CrashRule
from scoot.agent.host.process import ExitStatus
from scoot.agent.host.proctable import read_process
from scoot.coordinator.study.state import AttemptRecord, AttemptState
from scoot.wire.assignment import Phase
from scoot.wire.measurement import AttemptOutcome, PhaseTime
from scoot.wire.reasons import Reason


def outcome(reason: Reason | None, message: str, *phases: Phase) -> AttemptOutcome:
    times = tuple(PhaseTime(phase=phase.value, seconds=1.0) for phase in phases)
    return AttemptOutcome(attempt_id="a/1/1", fence=1, state="X", reason=reason, message=message, phases=times)


CASE = Case(name="x", reason=Reason.ENGINE_OOM, phase=Phase.READY, says="memory")
RIGHT = outcome(Reason.ENGINE_OOM, "no memory", Phase.PREPARE, Phase.START, Phase.READY, Phase.STOP, Phase.COLLECT)


def test_a_case_is_right_or_says_why_not() -> None:
    judge = failure_catalogue.judge
    assert judge(CASE, RIGHT, []) == ""
    assert "reason" in judge(CASE, msgspec.structs.replace(RIGHT, reason=Reason.PORT_TAKEN), [])
    assert "phase PREPARE" in judge(CASE, outcome(Reason.ENGINE_OOM, "memory", Phase.PREPARE, Phase.STOP), [])
    assert "phase PREPARE" in judge(CASE, outcome(Reason.ENGINE_OOM, "memory"), [])
    assert "cause" in judge(CASE, msgspec.structs.replace(RIGHT, message="what?"), [])
    assert "unclean" in judge(CASE, msgspec.structs.replace(RIGHT, message="memory (afterwards: a port)"), [])
    assert "process 7" in judge(CASE, RIGHT, ["process 7"])


def test_every_case_has_its_own_name_and_what_it_says() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    quiet = {case.name for case in CASES if case.reason is not None and not case.says}
    assert quiet == set()


@pytest.mark.parametrize("case", [case for case in CASES if case.log], ids=lambda case: case.name)
def test_the_mock_engine_says_what_the_golden_log_says(case: Case) -> None:
    """In its own head, which names no process: it must come to the same."""
    (rule,) = msgspec.json.decode(failure_catalogue.rule(case), type=list[CrashRule])
    said = "\n".join(f"ERROR 11-20 12:00:31 [mock_server.py] {line}" for line in rule.log)
    under_load = case.phase is Phase.MEASURE
    assert rule.at == ("load" if under_load else "start")
    status = ExitStatus(code=1)
    if under_load:
        found = classify_load(status, hung=False, failed_share=1.0, log_text=said, engine="mock")
    else:
        found = classify_start(status, timed_out=False, log_text=said, engine="mock")
    assert found[0] is case.reason
    assert case.says in found[1]


def kill(part: Part, moment: Moment, reason: Reason | None) -> Kill:
    record = AttemptRecord(
        attempt_id="s/1/1",
        study_id="s",
        trial=1,
        n=1,
        agent_id="storm",
        incarnation="i",
        fence=1,
        devices=("cpu-0",),
        state=AttemptState.COMPLETED if reason is None else AttemptState.ABORTED,
        reason=reason,
    )
    return Kill(
        attempt="s/1/1",
        part=part,
        moment=moment,
        phase=Phase.MEASURE,
        fence=1,
        known=frozenset(),
        groups=frozenset(),
        token="",
        record=record,
    )


@pytest.mark.parametrize(
    ("part", "moment", "reason", "right"),
    [
        (Part.API_SERVER, Moment.START, Reason.ENGINE_EXITED_ON_START, True),
        (Part.API_SERVER, Moment.MEASURE, Reason.ENGINE_OOM, False),
        (Part.CORE, Moment.MEASURE, Reason.ENGINE_CRASHED_UNDER_LOAD, True),
        (Part.CORE, Moment.MEASURE, Reason.CLIENT_CRASHED, False),
        (Part.CORE, Moment.MEASURE, None, False),
        (Part.CORE, Moment.STOP, None, True),
        (Part.LOAD, Moment.WARM_UP, Reason.CLIENT_CRASHED, True),
        (Part.LOAD, Moment.WARM_UP, Reason.ENGINE_REQUESTS_FAILED, False),
        (Part.LOAD, Moment.MEASURE, None, False),
        (Part.LOAD, Moment.DRAIN, None, True),
        (Part.AGENT, Moment.DRAIN, Reason.HOST_LOST, True),
        (Part.AGENT, Moment.DRAIN, None, False),
        (Part.AGENT, Moment.STOP, None, True),
        (Part.AGENT, Moment.READY, Reason.ENGINE_EXITED_ON_START, False),
    ],
)
def test_the_blame_that_the_evidence_allows(part: Part, moment: Moment, reason: Reason | None, right: bool) -> None:
    judged = kill(part, moment, reason)
    kill_storm.judge(judged)
    assert (judged.wrong == "") is right


def test_what_is_left_is_wrong_whatever_the_blame() -> None:
    left = kill(Part.AGENT, Moment.READY, Reason.HOST_LOST)
    left.left = ("7 VLLM::EngineCore",)
    kill_storm.judge(left)
    assert "EngineCore" in left.wrong
    beside = kill(Part.AGENT, Moment.READY, Reason.HOST_LOST)
    beside.beside = ("8 VLLM::EngineCore",)
    kill_storm.judge(beside)
    assert "beside 8 VLLM::EngineCore" in beside.wrong


def test_moments() -> None:
    assert len(set(PAIRS)) == len(PAIRS) == 20
    assert named(Phase.READY, core=False, loaded=False) is Moment.START
    assert named(Phase.READY, core=True, loaded=False) is Moment.READY
    assert named(Phase.DRAIN, core=True, loaded=True) is Moment.DRAIN
    assert named(Phase.DRAIN, core=True, loaded=False) is Moment.STOP


def test_a_story_is_read_as_it_grows(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    head = "2026-11-22 05:25:38,185"
    log.write_text(f"{head} INFO    kill-storm-1a/1/2: begins (fence 3)\n{head} DEBUG   kill-storm-1a/1/2: STA")
    story = Story(log)
    story.read()
    assert (story.attempts, story.fences) == (["kill-storm-1a/1/2"], {"kill-storm-1a/1/2": 3})
    assert story.last("kill-storm-1a/1/2") is Phase.PREPARE
    with log.open("a") as file:
        file.write(f"RT\n{head} INFO    kill-storm-1a/1/2: COMPLETED after 3 s\nnonsense\n")
    story.read()
    assert story.last("kill-storm-1a/1/2") is Phase.START
    assert story.attempts == ["kill-storm-1a/1/2"]


def test_processes_in_a_folder_and_a_signal_to_exactly_one(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    folder.mkdir()
    (tmp_path / "12").mkdir()
    argv = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    children = [
        subprocess.Popen(argv, cwd=folder, stdin=subprocess.PIPE),
        subprocess.Popen([*argv, f"{folder}/plan.json"], cwd="/", stdin=subprocess.PIPE),
        subprocess.Popen([*argv, f"{folder}2/plan.json"], cwd="/", stdin=subprocess.PIPE),
    ]
    try:
        assert {process.pid for process in victims.within(folder)} == {child.pid for child in children[:2]}
        spared = victims.within(folder, frozenset({children[0].pid}))
        assert [process.pid for process in spared] == [children[1].pid]
        itself = read_process(children[0].pid)
        assert itself is not None
        assert not victims.send(msgspec.structs.replace(itself, start_ticks=itself.start_ticks + 1), signal.SIGKILL)
        assert victims.send(itself, signal.SIGKILL)
        assert children[0].wait(10) == -signal.SIGKILL
        assert not victims.send(itself, signal.SIGKILL)
    finally:
        for child in children:
            assert child.stdin is not None
            child.stdin.close()
            child.wait(10)
    assert victims.processes(Part.AGENT, os.getpid(), tmp_path)[0].pid == os.getpid()
    assert victims.processes(Part.API_SERVER, os.getpid(), tmp_path) == []
