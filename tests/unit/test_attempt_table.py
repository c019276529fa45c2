from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.agent.core import run
from scoot.agent.core.run import (
    COMPLETED,
    LOAD_PHASES,
    PHASE_TRANSITIONS,
    AttemptRun,
    Ending,
    EndState,
    Unclean,
    advance,
    after_dirty_stop,
    begin,
    durations,
    failure,
    leave,
    mermaid,
    refusal,
)
from scoot.wire.assignment import Phase
from scoot.wire.errors import InvariantViolation
from scoot.wire.reasons import Blame, Reason, blame_of


def walk(*phases: Phase) -> AttemptRun:
    story = begin("s/0/1", 0.0)
    for at, phase in enumerate(phases, 1):
        story = advance(story, phase, float(at))
    return story


TWO_RUNS = (
    Phase.START,
    Phase.READY,
    Phase.WARM_UP,
    Phase.MEASURE,
    Phase.DRAIN,
    Phase.WARM_UP,
    Phase.MEASURE,
    Phase.DRAIN,
    Phase.STOP,
    Phase.VERIFY_CLEAN,
    Phase.COLLECT,
)


def test_every_phase_is_in_the_table_and_collect_is_the_only_end() -> None:
    assert set(PHASE_TRANSITIONS) == set(Phase)
    assert [phase for phase, targets in PHASE_TRANSITIONS.items() if not targets] == [Phase.COLLECT]


def test_an_attempt_of_two_runs_counts_them() -> None:
    story = walk(*TWO_RUNS)
    assert [(step.phase, step.run) for step in story.steps if step.phase in LOAD_PHASES] == [
        (Phase.WARM_UP, 0),
        (Phase.MEASURE, 0),
        (Phase.DRAIN, 0),
        (Phase.WARM_UP, 1),
        (Phase.MEASURE, 1),
        (Phase.DRAIN, 1),
    ]
    assert story.phase is Phase.COLLECT


def test_a_run_without_warm_up_is_legal_and_counted() -> None:
    story = walk(Phase.START, Phase.READY, Phase.MEASURE, Phase.DRAIN, Phase.MEASURE)
    assert story.run == 1


@pytest.mark.parametrize(
    "phase", [phase for phase in Phase if phase not in (Phase.STOP, Phase.VERIFY_CLEAN, Phase.COLLECT)]
)
def test_every_phase_before_the_stop_may_exit_early(phase: Phase) -> None:
    assert Phase.STOP in PHASE_TRANSITIONS[phase]


def test_nothing_skips_the_verification() -> None:
    for phase, targets in PHASE_TRANSITIONS.items():
        assert (Phase.VERIFY_CLEAN in targets) == (phase is Phase.STOP)
        assert (Phase.COLLECT in targets) == (phase is Phase.VERIFY_CLEAN)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("target", Phase)
def test_illegal_transitions_tell_the_whole_story(phase: Phase, target: Phase) -> None:
    story = AttemptRun("s/0/1", (*begin("s/0/1", 0.0).steps, run.Step(phase, 0, 1.0)))
    if target in PHASE_TRANSITIONS[phase]:
        assert advance(story, target, 2.0).phase is target
    else:
        with pytest.raises(InvariantViolation, match=f"{phase} -> {target}") as caught:
            advance(story, target, 2.0)
        assert caught.value.story == story.steps


def test_time_may_not_run_backwards() -> None:
    with pytest.raises(InvariantViolation, match="backwards"):
        advance(walk(Phase.START), Phase.READY, 0.5)


def test_leaving_twice_is_leaving_once() -> None:
    stopped = leave(walk(Phase.START), 5.0)
    assert stopped.phase is Phase.STOP
    assert leave(stopped, 6.0) == stopped


@given(gaps=st.lists(st.floats(0.0, 1e6), min_size=len(TWO_RUNS), max_size=len(TWO_RUNS)), end=st.floats(0.0, 1e6))
def test_durations_add_up_to_the_whole(gaps: list[float], end: float) -> None:
    story, now_s = begin("s/0/1", 100.0), 100.0
    for gap, phase in zip(gaps, TWO_RUNS, strict=True):
        now_s += gap
        story = advance(story, phase, now_s)
    times = durations(story, now_s + end)
    assert [time.phase for time in times] == ["PREPARE", *TWO_RUNS]
    assert all(time.seconds >= 0 for time in times)
    assert sum(time.seconds for time in times) == pytest.approx(now_s + end - 100.0)


@given(st.lists(st.sampled_from(list(Phase)), max_size=30))
def test_any_sequence_is_a_path_of_the_table_or_refused(phases: list[Phase]) -> None:
    story = begin("s/0/1", 0.0)
    for at, phase in enumerate(phases):
        try:
            story = advance(story, phase, float(at))
        except InvariantViolation:
            assert phase not in PHASE_TRANSITIONS[story.phase]
    path = [step.phase for step in story.steps]
    assert all(after in PHASE_TRANSITIONS[before] for before, after in pairwise(path))
    assert [step.run for step in story.steps] == sorted(step.run for step in story.steps)


def test_the_diagram_has_every_edge_and_both_ends() -> None:
    lines = mermaid(PHASE_TRANSITIONS, Phase.PREPARE).splitlines()
    edges = {line.strip() for line in lines[1:]}
    assert edges == {"[*] --> PREPARE", "COLLECT --> [*]"} | {
        f"{phase} --> {target}" for phase, targets in PHASE_TRANSITIONS.items() for target in targets
    }
    assert len(edges) == len(lines) - 1


@pytest.mark.parametrize("reason", Reason)
def test_blame_decides_the_state(reason: Reason) -> None:
    state = failure(reason, "why").state
    if reason is Reason.CANCELLED_BY_USER:
        assert state is EndState.CANCELLED
    else:
        assert (state is EndState.INFEASIBLE) == (blame_of(reason) is Blame.CONFIG)
        assert state in (EndState.INFEASIBLE, EndState.ABORTED)


def test_completed_has_no_reason_and_nothing_else_lacks_one() -> None:
    with pytest.raises(InvariantViolation):
        Ending(EndState.COMPLETED, Reason.GPU_BUSY)
    with pytest.raises(InvariantViolation):
        Ending(EndState.ABORTED)
    assert refusal(Reason.GPU_BUSY, "x").state is EndState.REFUSED


def test_a_dirty_stop_voids_a_success_and_keeps_a_failure() -> None:
    leak = Unclean(Reason.GPU_MEMORY_NOT_RELEASED, "2 GiB left", ("GPU-0",))
    assert after_dirty_stop(COMPLETED, leak).reason is Reason.GPU_MEMORY_NOT_RELEASED
    kept = after_dirty_stop(failure(Reason.ENGINE_OOM, "out of memory"), leak)
    assert (kept.state, kept.reason) == (EndState.INFEASIBLE, Reason.ENGINE_OOM)
    assert "2 GiB left" in kept.message


@pytest.mark.parametrize(
    ("ending", "state", "reason"),
    [
        (COMPLETED, EndState.ABORTED, Reason.GPU_FAULT),
        (failure(Reason.ENGINE_CRASHED_UNDER_LOAD, "it died"), EndState.ABORTED, Reason.GPU_FAULT),
        (failure(Reason.CLIENT_CRASHED, "it died"), EndState.ABORTED, Reason.GPU_FAULT),
        (failure(Reason.CANCELLED_BY_USER, "it died"), EndState.CANCELLED, Reason.CANCELLED_BY_USER),
    ],
)
def test_a_failed_gpu_is_blamed_for_whatever_happened(ending: Ending, state: EndState, reason: Reason) -> None:
    ended = after_dirty_stop(ending, Unclean(Reason.GPU_FAULT, "Xid 79", ("GPU-0",)))
    assert (ended.state, ended.reason) == (state, reason)
    assert "Xid 79" in ended.message
    assert ending.message in ended.message
    assert blame_of(Reason.GPU_FAULT) is Blame.HOST
