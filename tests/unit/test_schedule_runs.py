"""The schedule of a run: windows, order, determinism."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
import pytest

from scoot.benchmark.ask import NO_SESSION
from scoot.benchmark.profiles import SESSION_PROFILES, draw_sessions
from scoot.benchmark.schedule import WHEN_FREE, RunSchedule, Slot, Windows, build_schedule, generator, windows_of
from scoot.benchmark.trace import TraceRow
from scoot.wire import limits
from scoot.wire.columns import RequestPhase
from scoot.wire.errors import UserError
from scoot.wire.spec import ArrivalProcess, Arrivals, SloClass, Workload

_ROWS = tuple(TraceRow(arrived_s=0.5 * i, input_tokens=i + 1, output_tokens=1) for i in range(40))


def _workload(process: ArrivalProcess, **arrivals: float) -> Workload:
    given = Arrivals(process=process, **arrivals)  # type: ignore[arg-type]  # users is an int where it is given
    return Workload(arrivals=given, duration_s=20.0, warm_up_s=5.0)


def _same(a: RunSchedule, b: RunSchedule) -> bool:
    names = ("intended_us", "row", "phase", "slo_class", "session", "think_us", "joins_us")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


_OPEN = [
    _workload(ArrivalProcess.POISSON, rate=10.0),
    _workload(ArrivalProcess.GAMMA, rate=10.0, cv=3.0),
    _workload(ArrivalProcess.CONSTANT, rate=10.0),
    _workload(ArrivalProcess.TRACE),
]


@pytest.mark.parametrize("workload", _OPEN, ids=lambda w: str(w.arrivals.process))
def test_windows_types_and_determinism(workload: Workload) -> None:
    schedule = build_schedule(workload, _ROWS, 7, warm_up=True)
    assert [str(array.dtype) for array in (schedule.intended_us, schedule.row, schedule.phase)] == [
        "int64",
        "int64",
        "uint8",
    ]
    assert len(schedule.intended_us) == len(schedule.row) == len(schedule.phase) == len(schedule) > 20
    assert np.all(np.diff(schedule.intended_us) >= 0)
    assert 0 <= schedule.intended_us[0] <= schedule.intended_us[-1] < 25_000_000
    measured = schedule.phase == RequestPhase.MEASURED
    assert np.array_equal(measured, schedule.intended_us >= 5_000_000)
    assert 0 < measured.sum() < len(schedule)
    assert _same(schedule, build_schedule(workload, _ROWS, 7, warm_up=True))


@pytest.mark.parametrize("workload", _OPEN[:3], ids=lambda w: str(w.arrivals.process))
def test_order_is_a_permutation_that_cycles_and_follows_the_seed(workload: Workload) -> None:
    schedule = build_schedule(workload, _ROWS, 7, warm_up=True)
    laps = len(schedule) // len(_ROWS)
    assert laps >= 2
    first = schedule.row[: len(_ROWS)]
    assert sorted(first.tolist()) == list(range(len(_ROWS)))
    assert first.tolist() != list(range(len(_ROWS)))
    assert np.array_equal(schedule.row, np.resize(first, len(schedule)))
    other = build_schedule(workload, _ROWS, 8, warm_up=True)
    assert not np.array_equal(other.row[: len(_ROWS)], first)


def test_without_warm_up_everything_is_measured() -> None:
    schedule = build_schedule(_OPEN[0], _ROWS, 7, warm_up=False)
    assert np.all(schedule.phase == RequestPhase.MEASURED)
    assert schedule.intended_us[-1] < 20_000_000


def test_replay_keeps_order_and_gaps_under_the_workloads_own_seed() -> None:
    workload = _OPEN[3]
    schedule = build_schedule(workload, _ROWS, workload.seed, warm_up=True)
    assert schedule.row.tolist() == [i % 40 for i in range(50)]
    assert schedule.intended_us.tolist() == [i * 500_000 for i in range(50)]


def test_another_seed_replays_the_times_in_another_order() -> None:
    workload = _OPEN[3]
    schedule = build_schedule(workload, _ROWS, workload.seed + 1, warm_up=True)
    assert schedule.intended_us.tolist() == [i * 500_000 for i in range(50)]
    assert schedule.row.tolist() != [i % 40 for i in range(50)]
    assert sorted(schedule.row[:40].tolist()) == list(range(40))


def test_replay_needs_all_arrival_times() -> None:
    rows = (*_ROWS, TraceRow(input_tokens=1, output_tokens=1))
    with pytest.raises(UserError, match="arrival times"):
        build_schedule(_OPEN[3], rows, 7, warm_up=True)


def test_closed_loop_is_a_long_sequence_due_when_a_user_is_free() -> None:
    workload = _workload(ArrivalProcess.CLOSED, users=4)
    schedule = build_schedule(workload, _ROWS, 7, warm_up=True)
    assert len(schedule) == 4 * 25 * 100
    assert np.all(schedule.intended_us == WHEN_FREE)
    assert sorted(schedule.row[:40].tolist()) == list(range(40))


def test_no_rows() -> None:
    with pytest.raises(UserError, match="no requests"):
        build_schedule(_OPEN[0], (), 7, warm_up=True)


@pytest.mark.parametrize("seed", [-1, 0, 2**63, 2**64 + 5])
def test_any_integer_is_a_seed(seed: int) -> None:
    assert len(build_schedule(_OPEN[0], _ROWS, seed, warm_up=True)) > 0


def _digest(schedule: RunSchedule) -> str:
    columns = (schedule.intended_us.astype("<i8"), schedule.row.astype("<i8"), schedule.phase.astype("u1"))
    return hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest()[:16]


@pytest.mark.parametrize(
    ("workload", "digest"),
    [
        (_OPEN[0], "19dcc98577f2ed5f"),
        (_OPEN[1], "1057e116e8ee0781"),
        (_OPEN[2], "cbb3cb63977af8e7"),
        (_OPEN[3], "d1e3658db99e1d6d"),
        (_workload(ArrivalProcess.CLOSED, users=4), "a7b21d6c0678c7ff"),
    ],
    ids=lambda value: str(value.arrivals.process) if isinstance(value, Workload) else "",
)
def test_schedules_of_the_first_release_stay_what_they_were(workload: Workload, digest: str) -> None:
    assert _digest(build_schedule(workload, _ROWS, 7, warm_up=True)) == digest


def test_rows_on_their_own_have_no_session_no_pause_and_no_class() -> None:
    schedule = build_schedule(_OPEN[0], _ROWS, 7, warm_up=True)
    assert schedule.sessions == 0
    assert np.all(schedule.session == NO_SESSION)
    assert not schedule.think_us.any()
    assert not schedule.slo_class.any()
    assert len(schedule.joins_us) == 0


# --- cool-down -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", _OPEN, ids=lambda w: str(w.arrivals.process))
def test_a_cool_down_goes_on_with_the_same_arrivals(workload: Workload) -> None:
    plain = build_schedule(workload, _ROWS, 7, warm_up=True)
    longer = msgspec.structs.replace(workload, cool_down_s=10.0)
    schedule = build_schedule(longer, _ROWS, 7, warm_up=True)
    assert np.array_equal(schedule.intended_us[: len(plain)], plain.intended_us)
    assert np.array_equal(schedule.row[: len(plain)], plain.row)
    assert np.array_equal(schedule.phase[: len(plain)], plain.phase)
    rest = schedule.intended_us[len(plain) :]
    assert len(rest) > 5
    assert rest[0] >= 25_000_000
    assert rest[-1] < 35_000_000
    assert np.all(schedule.phase[len(plain) :] == RequestPhase.COOL_DOWN)


def test_windows_tell_phases() -> None:
    workload = Workload(warm_up_s=5.0, duration_s=20.0, cool_down_s=1.5)
    windows = windows_of(workload)
    assert windows == Windows(warm_up_us=5_000_000, measured_us=25_000_000, end_us=26_500_000)
    phases = {0: 0, 4_999_999: 0, 5_000_000: 1, 24_999_999: 1, 25_000_000: 2, 26_499_999: 2}
    assert {at: int(windows.phase(at)) for at in phases} == phases
    without = windows_of(Workload(warm_up_s=5.0, duration_s=20.0), warm_up=False)
    assert without == Windows(warm_up_us=0, measured_us=20_000_000, end_us=20_000_000)
    assert without.phase(20_000_000) is RequestPhase.MEASURED


def test_a_closed_loop_knows_when_its_users_join() -> None:
    workload = Workload(
        arrivals=Arrivals(process=ArrivalProcess.CLOSED, users=4, ramp_s=8.0), duration_s=20.0, warm_up_s=5.0
    )
    assert build_schedule(workload, _ROWS, 7, warm_up=True).joins_us.tolist() == [0, 2_000_000, 4_000_000, 6_000_000]


# --- classes ---------------------------------------------------------------------------------------------------------

_CLASSES = (SloClass(name="chat", share=0.7, ttft_ms=200.0), SloClass(name="batch", share=0.3))


def test_classes_have_their_shares_and_follow_seed_and_index_only() -> None:
    workload = msgspec.structs.replace(_OPEN[0], slo_classes=_CLASSES, duration_s=400.0)
    schedule = build_schedule(workload, _ROWS, 7, warm_up=True)
    assert schedule.slo_class.dtype == np.uint8
    n = len(schedule)
    assert abs(int((schedule.slo_class == 1).sum()) - 0.3 * n) < 6 * np.sqrt(0.21 * n)
    assert np.array_equal(schedule.slo_class, generator(7, 2).random(n) >= 0.7)
    other = build_schedule(workload, _ROWS, 8, warm_up=True)
    assert not np.array_equal(other.slo_class[:200], schedule.slo_class[:200])
    # Neither the arrivals nor the number of requests has a say.
    constant = msgspec.structs.replace(workload, arrivals=Arrivals(process=ArrivalProcess.CONSTANT, rate=3.0))
    assert np.array_equal(build_schedule(constant, _ROWS, 7, warm_up=True).slo_class[:1000], schedule.slo_class[:1000])
    # And they change nothing else.
    plain = build_schedule(msgspec.structs.replace(workload, slo_classes=()), _ROWS, 7, warm_up=True)
    assert np.array_equal(plain.intended_us, schedule.intended_us)
    assert np.array_equal(plain.row, schedule.row)


def test_a_row_that_names_its_class_has_it() -> None:
    rows = [msgspec.structs.replace(row, slo_class="batch" if i % 2 else None) for i, row in enumerate(_ROWS)]
    workload = msgspec.structs.replace(_OPEN[0], slo_classes=_CLASSES)
    schedule = build_schedule(workload, rows, 7, warm_up=True)
    drawn = build_schedule(workload, _ROWS, 7, warm_up=True)
    assert np.all(schedule.slo_class[schedule.row % 2 == 1] == 1)
    even = schedule.row % 2 == 0
    assert np.array_equal(schedule.slo_class[even], drawn.slo_class[even])


# --- sessions --------------------------------------------------------------------------------------------------------


def _conversations() -> tuple[TraceRow, ...]:
    """Two turns, one, three, and a request on its own; two of them interleaved."""

    def turn(session: int | None, think_s: float, tokens: int) -> TraceRow:
        return TraceRow(input_tokens=tokens, output_tokens=1, session=session, think_s=think_s)

    return (
        *(turn(0, 0.0, 10), turn(1, 0.0, 20), turn(0, 2.0, 11), turn(5, 0.0, 30)),
        *(turn(5, 1.0, 31), turn(None, 0.0, 40), turn(5, 0.5, 32)),
    )


_TURNS = {0: [0, 2], 1: [1], 3: [3, 4, 6], 5: [5]}
"""First row of a session -> its rows."""


def _sessions(process: ArrivalProcess = ArrivalProcess.CONSTANT, **arrivals: float) -> Workload:
    return msgspec.structs.replace(_workload(process, **arrivals), sessions=True)


def test_sessions_start_when_the_process_says_and_bring_their_turns_in_order() -> None:
    rows = _conversations()
    schedule = build_schedule(_sessions(rate=2.0), rows, 7, warm_up=True)
    firsts = schedule.intended_us != WHEN_FREE
    assert schedule.intended_us[firsts].tolist() == [500_000 * k for k in range(50)]
    assert schedule.sessions == 50
    assert schedule.session.tolist() == sorted(schedule.session.tolist())
    seen = []
    for session in range(50):
        indices = schedule.turns(session)
        assert list(indices) == np.flatnonzero(schedule.session == session).tolist()
        assert firsts[indices].tolist() == [True, *[False] * (len(indices) - 1)]
        row = schedule.row[indices].tolist()
        assert row == _TURNS[row[0]][: len(row)]
        if session < 40:
            assert row == _TURNS[row[0]]
        assert schedule.think_us[indices].tolist() == [round(rows[i].think_s * 1e6) for i in row]
        seen.append(row[0])
    assert sorted(seen[:4]) == [0, 1, 3, 5]
    assert seen[:4] * 12 == seen[:48]


def test_turns_that_cannot_come_any_more_are_left_out() -> None:
    schedule = build_schedule(_sessions(rate=2.0), _conversations(), 7, warm_up=True)
    long = build_schedule(
        msgspec.structs.replace(_sessions(rate=2.0), cool_down_s=20.0), _conversations(), 7, warm_up=True
    )
    lengths = np.bincount(schedule.session)
    full = np.bincount(long.session)[:50]
    starts = schedule.intended_us[schedule.intended_us != WHEN_FREE]
    two = schedule.row[schedule.intended_us != WHEN_FREE] == 0
    three = schedule.row[schedule.intended_us != WHEN_FREE] == 3
    assert np.array_equal(lengths[two], 1 + (starts[two] + 2_000_000 < 25_000_000))
    left = 1 + (starts[three] + 1_000_000 < 25_000_000) + (starts[three] + 1_500_000 < 25_000_000)
    assert np.array_equal(lengths[three], left)
    assert lengths.sum() < full.sum()


def test_sessions_share_arrivals_with_plain_rows_and_follow_the_seed() -> None:
    workload = _sessions(ArrivalProcess.POISSON, rate=5.0)
    schedule = build_schedule(workload, _conversations(), 7, warm_up=True)
    assert _same(schedule, build_schedule(workload, _conversations(), 7, warm_up=True))
    plain = build_schedule(msgspec.structs.replace(workload, sessions=False), _conversations(), 7, warm_up=True)
    assert np.array_equal(schedule.intended_us[schedule.intended_us != WHEN_FREE], plain.intended_us)
    assert not _same(schedule, build_schedule(workload, _conversations(), 8, warm_up=True))


def test_a_replay_of_sessions_needs_the_times_of_their_starts_only() -> None:
    rows = (
        TraceRow(arrived_s=1.0, input_tokens=1, output_tokens=1, session=0),
        TraceRow(input_tokens=2, output_tokens=1, session=0, think_s=1.0),
        TraceRow(arrived_s=5.0, input_tokens=3, output_tokens=1),
    )
    workload = _sessions(ArrivalProcess.TRACE)
    schedule = build_schedule(workload, rows, workload.seed, warm_up=True)
    assert schedule.intended_us.tolist()[:5] == [0, WHEN_FREE, 4_000_000, 8_000_000, WHEN_FREE]
    assert schedule.row.tolist()[:5] == [0, 1, 2, 0, 1]
    with pytest.raises(UserError, match="arrival times"):
        build_schedule(workload, (*rows, TraceRow(input_tokens=4, output_tokens=1)), 0, warm_up=True)


def test_a_class_is_one_of_the_whole_session() -> None:
    workload = msgspec.structs.replace(_sessions(rate=5.0), slo_classes=_CLASSES)
    schedule = build_schedule(workload, _conversations(), 7, warm_up=True)
    per_session = [set(schedule.slo_class[schedule.turns(s)].tolist()) for s in range(schedule.sessions)]
    assert all(len(classes) == 1 for classes in per_session)
    assert {0, 1} == set().union(*per_session)


def test_too_many_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUESTS", 80)
    with pytest.raises(UserError, match="turns of 50 sessions") as caught:
        build_schedule(_sessions(rate=2.0), _conversations(), 7, warm_up=True)
    assert caught.value.key == "workload.arrivals"


# --- access ----------------------------------------------------------------------------------------------------------


def test_a_slot_is_the_columns_and_starts_over_with_other_sessions() -> None:
    schedule = build_schedule(_sessions(ArrivalProcess.CLOSED, users=2), _conversations(), 7, warm_up=True)
    n, sessions = len(schedule), schedule.sessions
    slot = schedule.slot(3)
    assert slot == Slot(
        row=int(schedule.row[3]),
        intended_us=WHEN_FREE,
        phase=RequestPhase.MEASURED,
        slo_class=0,
        session=int(schedule.session[3]),
        think_us=int(schedule.think_us[3]),
    )
    again = schedule.slot(2 * n + 3)
    assert again == msgspec.structs.replace(slot, session=slot.session + 2 * sessions)
    turns = schedule.turns(slot.session)
    assert schedule.turns(slot.session + sessions) == range(n + turns.start, n + turns.stop)
    assert build_schedule(_OPEN[0], _ROWS, 7, warm_up=True).slot(10_000).session == NO_SESSION


@pytest.mark.parametrize("workload", [_OPEN[0], _sessions(rate=2.0)], ids=["plain", "sessions"])
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_are_a_partition_and_keep_sessions_together(workload: Workload, parts: int) -> None:
    schedule = build_schedule(workload, _conversations(), 7, warm_up=True)
    shares = [list(schedule.part(number, parts)) for number in range(parts)]
    assert sorted(index for share in shares for index in share) == list(range(len(schedule)))
    assert all(share == sorted(share) for share in shares)
    if schedule.sessions:
        owners = [set(schedule.session[share].tolist()) for share in shares]
        assert sum(len(owner) for owner in owners) == len(set().union(*owners))


def test_the_head_ends_with_a_whole_session() -> None:
    schedule = build_schedule(_sessions(ArrivalProcess.CLOSED, users=2), _conversations(), 7, warm_up=True)
    for count in range(12):
        head = schedule.head(count)
        assert len(head) >= max(1, count)
        last = int(head.session[-1])
        assert len(head) == schedule.turns(last).stop
        assert len(head) == 1 or schedule.turns(last).start < max(1, count)
        assert head.sessions == last + 1
    assert len(schedule.head(10**9)) == len(schedule)
    assert len(build_schedule(_OPEN[0], _ROWS, 7, warm_up=True).head(5)) == 5


def test_sessions_of_the_built_in_profile_make_a_schedule() -> None:
    rows = draw_sessions(SESSION_PROFILES["CHAT_SESSIONS"], 100, 1)
    workload = _sessions(ArrivalProcess.POISSON, rate=4.0)
    schedule = build_schedule(workload, rows, 7, warm_up=True)
    assert schedule.sessions == int((schedule.intended_us != WHEN_FREE).sum())
    assert np.all(schedule.think_us[schedule.intended_us == WHEN_FREE] > 0)
