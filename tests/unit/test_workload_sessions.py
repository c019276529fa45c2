"""Workloads of sessions and of SLO classes: what is kept of them, what the facts say, what their prompts share."""

from __future__ import annotations

import gzip
import itertools
import math

import msgspec
import numpy as np
import pytest

from scoot.benchmark.profiles import PROFILES, SESSION_PROFILES, draw_sessions, mean_turns
from scoot.benchmark.prompt import fit_text, token_ids
from scoot.benchmark.trace import TraceRow
from scoot.benchmark.workload import PROFILE_ROWS_MAX, PROFILE_ROWS_MIN, from_blob, profile_rows, resolve, to_blob
from scoot.wire import limits
from scoot.wire.errors import RemoteProtocolError, UserError
from scoot.wire.spec import ArrivalProcess, Arrivals, Selection, SloClass, Workload

_CHAT = SESSION_PROFILES["CHAT_SESSIONS"]
_ALL = Workload(select=Selection.ALL, arrivals=Arrivals(rate=1.0), sessions=True)


def _row(session: int | None, output: int, think_s: float = 0.0, **more: object) -> TraceRow:
    return TraceRow(input_tokens=5, output_tokens=output, session=session, think_s=think_s, **more)  # type: ignore[arg-type]  # by name


_ROWS = (_row(4, 1), _row(4, 9, 2.0), _row(None, 6), _row(7, 2), _row(7, 1, 4.0), _row(7, 1, 6.0))


def test_sessions_are_kept_and_described() -> None:
    resolved = resolve(_ALL, max_model_len=None, rows=_ROWS)
    assert resolved.rows == _ROWS
    assert resolved.facts.notes == ("sessions: 2 of 5 turns, the longest of 3, median pause 4 s",)
    assert from_blob(resolved.blob) == _ROWS


def test_without_sessions_the_rows_are_on_their_own() -> None:
    resolved = resolve(msgspec.structs.replace(_ALL, sessions=False), max_model_len=None, rows=_ROWS)
    assert all(row.session is None and row.think_s == 0 for row in resolved.rows)
    assert resolved.facts.notes == ()
    assert resolved.blob == to_blob([_row(None, row.output_tokens) for row in _ROWS])


def test_the_longer_half_of_sessions_is_kept_whole() -> None:
    longest = msgspec.structs.replace(_ALL, select=Selection.LONGEST_HALF)
    resolved = resolve(longest, max_model_len=None, rows=_ROWS)
    assert resolved.rows == _ROWS[:3]  # 10 and 6 output tokens, against 4
    assert resolved.facts.notes[0].startswith("selection longest_half: 2 of 3 sessions, those with at least 6 output")


def test_a_limit_leaves_whole_beginnings() -> None:
    resolved = resolve(msgspec.structs.replace(_ALL, max_requests=5), max_model_len=None, rows=_ROWS)
    assert resolved.rows == _ROWS[:5]


def test_sessions_of_a_workload_that_has_none() -> None:
    with pytest.raises(UserError, match="has no sessions") as caught:
        resolve(_ALL, max_model_len=None, rows=(_row(None, 1),))
    assert caught.value.key == "workload.sessions"


def test_a_replay_of_sessions_needs_times_of_their_starts() -> None:
    replay = msgspec.structs.replace(_ALL, arrivals=Arrivals(process=ArrivalProcess.TRACE))
    rows = (_row(1, 1, arrived_s=2.0), _row(1, 1, 1.0), _row(None, 1, arrived_s=3.0))
    assert resolve(replay, max_model_len=None, rows=rows).rows == rows
    with pytest.raises(UserError, match="no arrival times"):
        resolve(replay, max_model_len=None, rows=(*rows, _row(2, 1)))
    with pytest.raises(UserError, match="no arrival times"):
        resolve(msgspec.structs.replace(replay, sessions=False), max_model_len=None, rows=rows)


# --- classes ---------------------------------------------------------------------------------------------------------


def test_classes_that_rows_name_have_to_be_defined() -> None:
    rows = (_row(None, 1, slo_class="gold"), _row(None, 1))
    plain = Workload(select=Selection.ALL, arrivals=Arrivals(rate=1.0))
    classes = (SloClass(name="gold", share=0.5), SloClass(name="rest", share=0.5))
    resolved = resolve(msgspec.structs.replace(plain, slo_classes=classes), max_model_len=None, rows=rows)
    assert resolved.rows == rows
    assert resolved.facts.notes == ("1 of 2 requests name their SLO class",)
    with pytest.raises(UserError, match="'gold', which the study does not define") as caught:
        resolve(msgspec.structs.replace(plain, slo_classes=(SloClass(name="silver"),)), max_model_len=None, rows=rows)
    assert caught.value.key == "workload.slo_classes"
    without = resolve(plain, max_model_len=None, rows=rows)
    assert [row.slo_class for row in without.rows] == [None, None]
    assert "the names were dropped" in without.facts.notes[0]


@pytest.mark.parametrize(
    "text",
    [
        b'{"output_tokens": 1, "input_tokens": 1, "session": -1}\n',
        b'{"output_tokens": 1, "input_tokens": 1, "think_s": 1}\n',
        b'{"output_tokens": 1, "input_tokens": 1, "session": 1, "think_s": -1}\n',
        b'{"output_tokens": 1, "input_tokens": 1, "session": 1, "think_s": 1e9}\n',
        b'{"output_tokens": 1, "input_tokens": 1, "slo_class": ""}\n',
        b'{"output_tokens": 1, "input_tokens": 1, "session": "a"}\n',
    ],
)
def test_rows_in_a_blob_that_no_trace_can_give(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        from_blob(gzip.compress(text))


# --- the built-in sessions -------------------------------------------------------------------------------------------


def test_the_built_in_sessions_are_as_documented() -> None:
    rows = draw_sessions(_CHAT, 2000, seed=3)
    assert rows == draw_sessions(_CHAT, 2000, seed=3)
    assert rows != draw_sessions(_CHAT, 2000, seed=4)
    turns = np.bincount([row.session or 0 for row in rows])
    assert len(turns) == 2000
    assert float(turns.mean()) == pytest.approx(mean_turns(_CHAT), rel=0.02)
    assert mean_turns(_CHAT) == pytest.approx(2611 / 947)
    assert int((turns == 2).sum()) == pytest.approx(2000 * 605 / 947, rel=0.02)
    pauses = [row.think_s for before, row in itertools.pairwise(rows) if before.session == row.session]
    assert all(row.think_s == 0 for before, row in itertools.pairwise(rows) if before.session != row.session)
    assert float(np.median(pauses)) == pytest.approx(10.0, rel=0.08)
    assert float(np.std(np.log(pauses))) == pytest.approx(0.9, rel=0.05)


def test_each_prompt_is_the_system_prompt_and_all_that_was_said() -> None:
    for before, row in itertools.pairwise(draw_sessions(_CHAT, 100, seed=3)):
        said = 64 if before.session != row.session else (before.input_tokens or 0) + before.output_tokens
        own = (row.input_tokens or 0) - said
        assert _CHAT.own_tokens[0][1] <= own <= _CHAT.own_tokens[-1][1]
        assert (row.blocks, row.block_tokens) == ((0,), 64)


def test_every_built_in_workload_has_its_own_name() -> None:
    assert not PROFILES.keys() & SESSION_PROFILES.keys()


@pytest.mark.parametrize("n", [0, limits.REQUESTS + 1])
def test_numbers_of_sessions_that_cannot_be_drawn(n: int) -> None:
    with pytest.raises(UserError, match="cannot be drawn"):
        draw_sessions(_CHAT, n, 0)


@pytest.mark.parametrize("sessions", [True, False])
@pytest.mark.parametrize("rate", [0.01, 5.0, 1e9])
def test_as_many_sessions_are_drawn_as_the_windows_need(sessions: bool, rate: float) -> None:
    workload = Workload(
        profile="CHAT_SESSIONS",
        sessions=sessions,
        select=Selection.ALL,
        arrivals=Arrivals(rate=rate),
        warm_up_s=10.0,
        duration_s=70.0,
        cool_down_s=20.0,
    )
    rows = profile_rows(workload)
    found = len({row.session for row in rows})
    mean = mean_turns(_CHAT)
    wanted = 100 * rate if sessions else 100 * rate / mean
    assert found == math.ceil(min(max(wanted, PROFILE_ROWS_MIN / mean), PROFILE_ROWS_MAX / mean))


def test_more_rows_are_drawn_for_a_cool_down() -> None:
    workload = Workload(profile="CLS", select=Selection.ALL, arrivals=Arrivals(rate=5.0))
    assert len(profile_rows(workload)) == 550
    assert len(profile_rows(msgspec.structs.replace(workload, cool_down_s=10.0))) == 600


# --- prompts ---------------------------------------------------------------------------------------------------------


def _ids(row: TraceRow, index: int, session: int, run_seed: int = 1) -> list[int]:
    return token_ids(row, index=index, run_seed=run_seed, low=5, high=30_000, session=session)


def test_turns_of_a_session_begin_alike_and_nothing_else_does() -> None:
    first, second = draw_sessions(_CHAT, 1, seed=3)[:2]
    length = first.input_tokens or 0
    prompt = _ids(first, 0, session=0)
    assert len(prompt) == length
    assert _ids(second, 1, session=0)[:length] == prompt
    for other in (_ids(second, 1, session=1), _ids(second, 1, session=-1)):
        assert other[:64] == prompt[:64]
        assert sum(a == b for a, b in zip(other[64:], prompt[64:], strict=False)) < 5
    assert _ids(second, 1, session=-1)[64:] != _ids(second, 2, session=-1)[64:]
    assert sum(a == b for a, b in zip(_ids(first, 0, session=0, run_seed=2), prompt, strict=True)) < 5


def test_texts_of_a_session_begin_alike_in_words() -> None:
    rows = [TraceRow(input_tokens=n, output_tokens=1, session=0) for n in (50, 120)]
    texts = [
        fit_text(row, index=index, run_seed=1, count_tokens=lambda text: len(text.split()), session=6)[0]
        for index, row in enumerate(rows)
    ]
    assert texts[1].startswith(texts[0])
    alone = fit_text(rows[0], index=0, run_seed=1, count_tokens=lambda text: len(text.split()))[0]
    assert alone != texts[0]
