"""Selection, limit, scale and clipping of a workload, each stated."""

from __future__ import annotations

import hashlib

import pytest

from scoot.benchmark.trace import Rows, TraceRow
from scoot.benchmark.workload import PROFILE_ROWS_MAX, from_blob, profile_rows, resolve
from scoot.wire.errors import UserError
from scoot.wire.spec import ArrivalProcess, Arrivals, Selection, Workload

_ALL = Workload(select=Selection.ALL, arrivals=Arrivals(rate=1.0))


def _rows(*lengths: tuple[int, int]) -> tuple[TraceRow, ...]:
    return tuple(TraceRow(input_tokens=i, output_tokens=o) for i, o in lengths)


def test_nothing_to_do_changes_nothing_and_notes_nothing() -> None:
    rows = _rows((5, 7), (6, 8), (9, 1))
    resolved = resolve(_ALL, max_model_len=None, rows=rows)
    assert resolved.rows == rows
    facts = resolved.facts
    assert (facts.requests, facts.input_p50, facts.input_max, facts.output_p50, facts.output_max) == (3, 6, 9, 7, 8)
    assert facts.notes == ()
    assert facts.sha256 == hashlib.sha256(resolved.blob).hexdigest()
    assert from_blob(resolved.blob) == rows


@pytest.mark.parametrize(
    ("outputs", "kept"),
    [([1, 2, 3, 4], [3, 4]), ([1, 2, 3], [2, 3]), ([5], [5]), ([7, 7, 7], [7, 7, 7]), ([9, 1, 8, 2], [9, 8])],
)
def test_longest_half(outputs: list[int], kept: list[int]) -> None:
    rows = _rows(*((1, output) for output in outputs))
    resolved = resolve(Workload(arrivals=Arrivals(rate=1.0)), max_model_len=None, rows=rows)
    assert [row.output_tokens for row in resolved.rows] == kept
    assert f"{len(kept)} of {len(outputs)} requests" in resolved.facts.notes[0]


def test_max_requests_keeps_the_first() -> None:
    workload = Workload(select=Selection.ALL, max_requests=2, arrivals=Arrivals(rate=1.0))
    resolved = resolve(workload, max_model_len=None, rows=_rows((1, 1), (2, 2), (3, 3)))
    assert [row.input_tokens for row in resolved.rows] == [1, 2]
    assert resolved.facts.notes == ("max_requests: the first 2 of 3 requests",)


def test_scaling_rounds_and_never_reaches_zero_and_scales_blocks() -> None:
    workload = Workload(select=Selection.ALL, length_scale=0.1, arrivals=Arrivals(rate=1.0))
    rows = (
        TraceRow(input_tokens=1100, output_tokens=26, blocks=(0, 1, 2), block_tokens=512),
        TraceRow(input_tokens=3, output_tokens=1),
    )
    resolved = resolve(workload, max_model_len=None, rows=rows)
    assert resolved.rows == (
        TraceRow(input_tokens=110, output_tokens=3, blocks=(0, 1, 2), block_tokens=51),
        TraceRow(input_tokens=1, output_tokens=1),
    )
    assert "multiplied by 0.1" in resolved.facts.notes[0]


@pytest.mark.parametrize(("scale", "text"), [(0.5, "abcd"), (2.0, "abcdefgh\nabcdefg"), (0.001, "a")])
def test_scaling_resizes_texts(scale: float, text: str) -> None:
    workload = Workload(select=Selection.ALL, length_scale=scale, arrivals=Arrivals(rate=1.0))
    rows = (TraceRow(prompt="abcdefgh", output_tokens=10),)
    resolved = resolve(workload, max_model_len=None, rows=rows)
    assert resolved.rows[0].prompt == text
    assert any("prompt texts" in note for note in resolved.facts.notes)


def test_clipping_cuts_the_input_and_keeps_the_outputs_that_fit() -> None:
    rows = _rows((40, 60), (40, 61), (90, 60), (150, 60), (99, 1), (5, 200))
    resolved = resolve(_ALL, max_model_len=100, rows=rows)
    assert [(row.input_tokens, row.output_tokens) for row in resolved.rows] == [
        (40, 60),
        (39, 61),
        (40, 60),
        (40, 60),
        (99, 1),
        (1, 99),
    ]
    assert resolved.facts.notes == ("max_model_len 100: 4 inputs and 1 outputs of 6 requests were cut",)


def test_clipping_drops_blocks_that_no_longer_fit() -> None:
    rows = (TraceRow(input_tokens=100, output_tokens=5, blocks=(1, 2, 3, 4), block_tokens=25),)
    resolved = resolve(_ALL, max_model_len=55, rows=rows)
    assert resolved.rows[0] == TraceRow(input_tokens=50, output_tokens=5, blocks=(1, 2), block_tokens=25)


def test_texts_without_counts_are_clipped_by_estimate_and_said_to_be_estimates() -> None:
    rows = (TraceRow(prompt="word " * 500, output_tokens=5), TraceRow(prompt="short", output_tokens=5))
    resolved = resolve(_ALL, max_model_len=100, rows=rows)
    assert len(resolved.rows[0].prompt or "") < 400
    assert resolved.rows[0].input_tokens is None
    assert "2 of 2 requests carry a text without a token count" in resolved.facts.notes[-1]


def test_all_steps_compose_within_the_limit_and_in_order() -> None:
    workload = Workload(length_scale=3.0, max_requests=50, arrivals=Arrivals(rate=1.0))
    rows = Rows(_rows(*((i, 201 - i) for i in range(1, 201))), ("from somewhere",))
    resolved = resolve(workload, max_model_len=500, rows=rows)
    assert len(resolved.rows) == 50
    assert all((row.input_tokens or 0) + row.output_tokens <= 500 for row in resolved.rows)
    heads = [note.split(" ")[0] for note in resolved.facts.notes]
    assert heads == ["from", "selection", "max_requests:", "length_scale:", "max_model_len"]


def test_replay_keeps_arrivals_and_says_that_selection_thins_them() -> None:
    workload = Workload(arrivals=Arrivals(process=ArrivalProcess.TRACE))
    rows = tuple(TraceRow(arrived_s=float(i), input_tokens=1, output_tokens=1 + i % 2) for i in range(10))
    resolved = resolve(workload, max_model_len=None, rows=rows)
    assert [row.arrived_s for row in resolved.rows] == [1.0, 3.0, 5.0, 7.0, 9.0]
    assert "lower than the trace's" in resolved.facts.notes[1]


@pytest.mark.parametrize(
    ("workload", "max_model_len", "key"),
    [
        (Workload(select=Selection.ALL, length_scale=0.0), None, "workload.length_scale"),
        (Workload(select=Selection.ALL, length_scale=float("nan")), None, "workload.length_scale"),
        (Workload(select=Selection.ALL, max_requests=0), None, "workload.max_requests"),
        (_ALL, 1, "service.max_model_len"),
        (Workload(arrivals=Arrivals(process=ArrivalProcess.TRACE)), None, "workload.arrivals.process"),
    ],
)
def test_settings_out_of_range(workload: Workload, max_model_len: int | None, key: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(workload, max_model_len=max_model_len, rows=_rows((5, 5)))
    assert caught.value.key == key


def test_no_rows() -> None:
    with pytest.raises(UserError, match="no requests"):
        resolve(_ALL, max_model_len=None, rows=())


@pytest.mark.parametrize(
    ("arrivals", "select", "count"),
    [
        (Arrivals(rate=5.0), Selection.ALL, 550),
        (Arrivals(rate=5.0), Selection.LONGEST_HALF, 1100),
        (Arrivals(rate=0.1), Selection.ALL, 200),
        (Arrivals(rate=1e9), Selection.ALL, PROFILE_ROWS_MAX),
        (Arrivals(process=ArrivalProcess.CLOSED, users=8), Selection.ALL, 400),
    ],
)
def test_profile_rows_suffice_for_the_load(arrivals: Arrivals, select: Selection, count: int) -> None:
    workload = Workload(profile="CLS", arrivals=arrivals, select=select, seed=3)
    rows = profile_rows(workload)
    assert len(rows) == count
    assert rows == profile_rows(workload)


def test_profile_errors() -> None:
    with pytest.raises(UserError, match="did you mean AZURE_CONV"):
        profile_rows(Workload(profile="AZURE_CONF"))
    with pytest.raises(UserError, match="no arrival times to replay"):
        profile_rows(Workload(profile="SQL", arrivals=Arrivals(process=ArrivalProcess.TRACE)))
