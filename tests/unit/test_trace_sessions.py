"""Traces of conversations: which rows are turns of which session, after which pause."""

from __future__ import annotations

import itertools
import json

import pytest

from scoot.benchmark import trace_sharegpt
from scoot.benchmark.trace import Rows, TraceRow, parse_trace
from scoot.benchmark.trace_row import MAX_THINK_S, estimate_tokens
from scoot.wire.errors import UserError


def _turns(rows: tuple[TraceRow, ...]) -> list[tuple[int | None, float]]:
    return [(row.session, row.think_s) for row in rows]


def _notes(rows: tuple[TraceRow, ...]) -> str:
    assert isinstance(rows, Rows)
    return "; ".join(rows.notes)


_MOONCAKE = [
    '{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1], "session_id": "a"}',
    '{"timestamp": 9000, "input_length": 700, "output_length": 5, "hash_ids": [0, 1], "session_id": "a"}',
    '{"timestamp": 4000, "input_length": 10, "output_length": 5, "conversation_id": 7}',
    '{"timestamp": 5000, "input_length": 10, "output_length": 5}',
    '{"timestamp": 6000, "input_length": 20, "output_length": 5, "conversation_id": 7, "delay": 250}',
]


def test_mooncake_sessions_pause_for_their_delay_or_the_gap() -> None:
    rows = parse_trace(_MOONCAKE, sessions=True)
    assert _turns(rows) == [(0, 0.0), (0, 9.0), (1, 0.0), (None, 0.0), (1, 0.25)]
    # Only what starts something has an arrival time, and only those have to be in order.
    assert [row.arrived_s for row in rows] == [0.0, None, 4.0, 5.0, None]
    assert _notes(rows).startswith("1 turns have no delay")


def test_without_sessions_the_same_trace_is_rows() -> None:
    in_order = [_MOONCAKE[index] for index in (0, 2, 3, 4, 1)]
    rows = parse_trace(in_order)
    assert _turns(rows) == [(None, 0.0)] * 5
    assert [row.arrived_s for row in rows] == [0.0, 4.0, 5.0, 6.0, 9.0]
    assert _notes(rows) == ""
    with pytest.raises(UserError, match="before the previous"):
        parse_trace(_MOONCAKE)


def test_burstgpt_pauses_begin_when_the_answer_ended() -> None:
    lines = [
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type",
        "5,s1,3,ChatGPT,472,18,490,Conversation log",
        "6,,1,ChatGPT,50,5,55,API log",
        "9,s2,100,ChatGPT,10,1,11,Conversation log",
        "11.5,s1,2,ChatGPT,500,18,518,Conversation log",
        "12,s1,1,ChatGPT,900,0,900,Conversation log",
        "20,s2,1,ChatGPT,20,1,21,Conversation log",
    ]
    rows = parse_trace(lines, sessions=True)
    assert _turns(rows) == [(0, 0.0), (None, 0.0), (1, 0.0), (0, 3.5), (1, 0.0)]
    assert "had failed" in _notes(rows)
    assert "pauses" not in _notes(rows)
    plain = parse_trace(lines)
    assert _turns(plain) == [(None, 0.0)] * 5
    untimed = [",".join(line.split(",")[:2] + line.split(",")[3:]) for line in lines]
    guessed = parse_trace(untimed, sessions=True)
    assert _turns(guessed) == [(0, 0.0), (None, 0.0), (1, 0.0), (0, 6.5), (1, 11.0)]
    assert "pauses between turns are the gaps" in _notes(guessed)


def test_vllm_rows_may_be_turns() -> None:
    lines = [
        json.dumps({"prompt": "a", "output_len": 3, "session_id": 1}),
        json.dumps({"prompt": "a b c", "output_len": 3, "session_id": 1, "delay": 1500}),
    ]
    assert _turns(parse_trace(lines, sessions=True)) == [(0, 0.0), (0, 1.5)]
    assert _turns(parse_trace(lines)) == [(None, 0.0)] * 2


def test_plain_rows_may_be_turns_and_name_classes() -> None:
    lines = [
        '{"input_tokens": 9, "output_tokens": 1, "session": "x", "think_s": 5, "slo_class": "gold"}',
        '{"input_tokens": 19, "output_tokens": 1, "session": "x", "think_s": 2.5}',
        '{"input_tokens": 5, "output_tokens": 1}',
    ]
    rows = parse_trace(lines, sessions=True)
    assert _turns(rows) == [(0, 0.0), (0, 2.5), (None, 0.0)]
    assert [row.slo_class for row in rows] == ["gold", None, None]
    assert _turns(parse_trace(lines)) == [(None, 0.0)] * 3
    assert parse_trace(lines)[0].slo_class == "gold"


def _said(*texts: str) -> list[dict[str, str]]:
    return [{"from": role, "value": text} for role, text in zip(itertools.cycle(("human", "gpt")), texts, strict=False)]


def test_sharegpt_turns_carry_all_that_was_said_before() -> None:
    conversations = [
        {"conversations": [{"from": "system", "value": "Be kind."}, *_said("One?", "Yes.", "Two?", "No, no.", "Bye")]},
        {"conversations": _said("Only?", " ")},
        {"conversations": _said("A", "B", "C", " ", "D", "E")},
    ]
    rows = parse_trace([json.dumps(conversations)], sessions=True)
    assert [row.prompt for row in rows] == ["One?", "One?\n\nYes.\n\nTwo?", "A"]
    assert [row.output_tokens for row in rows] == [estimate_tokens(text) for text in ("Yes.", "No, no.", "B")]
    assert _turns(rows) == [(0, 0.0), (0, 0.0), (1, 0.0)]
    assert "no pauses" in _notes(rows)
    assert "1 conversations without" in _notes(rows)
    assert [row.prompt for row in parse_trace([json.dumps(conversations)])] == ["One?", "A"]


def test_histories_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    text = [json.dumps([{"conversations": _said(*["word " * 10] * 20)}])]
    assert len(parse_trace(text, sessions=True)) == 10
    monkeypatch.setattr(trace_sharegpt, "HISTORY_CHARS", 600)
    with pytest.raises(UserError, match="a conversation of over"):
        parse_trace(text, sessions=True)
    with pytest.raises(UserError, match="cut the trace"):
        parse_trace([json.dumps([{"conversations": _said("word " * 50, "b")}] * 3)], sessions=True)
    assert len(parse_trace(text)) == 1


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        (['{"input_tokens": 1, "output_tokens": 1, "think_s": 1}'], 1, "think_s without session"),
        (['{"input_tokens": 1, "output_tokens": 1, "session": 1, "think_s": -1}'], 1, "no pause"),
        ([f'{{"input_tokens": 1, "output_tokens": 1, "session": 1, "think_s": {MAX_THINK_S + 1}}}'], 1, "no pause"),
        (['{"input_tokens": 1, "output_tokens": 1, "slo_class": ""}'], 1, "a name of 0 characters"),
        (['{"input_tokens": 1, "output_tokens": 1, "session": 1.5}'], 1, "session"),
        ([_MOONCAKE[0], _MOONCAKE[1].replace("9000", "9000.5").replace("}", ', "delay": -3}')], 2, "no pause"),
        ([_MOONCAKE[0].replace("0,", "10,", 1), _MOONCAKE[1].replace("9000", "9")], 2, "before the previous"),
        (["Timestamp,Session ID,Elapsed time,Request tokens,Response tokens", "5,s,-1,4,4"], 2, "no duration"),
        (["Timestamp,Session ID,Elapsed time,Request tokens,Response tokens", "5,s,nan,4,4"], 2, "no duration"),
    ],
)
def test_bad_turns(lines: list[str], line: int, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_trace(lines, path="t", sessions=True)
    assert words in str(caught.value)
    assert (caught.value.path, caught.value.line) == ("t", line)
