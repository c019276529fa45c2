"""The judging of load generators: lateness, errors, bars, tables. Pure figures, made up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools.loadbench import faults, table
from tools.loadbench.clients import Load, Scoot
from tools.loadbench.judge import (
    NEVER,
    Against,
    Bar,
    Reported,
    absolute_lateness_us,
    cpu_per_100k,
    gap_errors_us,
    grid_lateness_us,
    hold,
    judge,
    median,
    pair,
    rate_per_s,
    served_per_s,
    tails,
    ttft_errors_us,
)
from tools.loadbench.scenarios import SCENARIOS, Result, with_cpu
from tools.loadbench.truth import MODES

from scoot.benchmark.spool import SpoolWriter
from scoot.wire.columns import NONE_US, RequestPhase, RequestStatus, TimingBatch, encode
from scoot.wire.spec import Limits

MS = 1_000_000


@dataclass(frozen=True)
class Seen:
    n: int
    request_id: str
    arrival_ns: int
    send_ns: Any


def seen(n: int, arrival_ns: int, *send_ns: int, name: str | None = None) -> Seen:
    return Seen(n, f"0-{n}" if name is None else name, arrival_ns, np.array(send_ns, np.int64))


def by_id(served: Any) -> str:
    return str(served.request_id)


def reported(key: str = "0-0", **changes: Any) -> Reported:
    return Reported(**{"key": key, "ok": True, **changes})


# --- lateness --------------------------------------------------------------------------------------------------------


def test_a_perfect_grid_is_not_late() -> None:
    arrivals = 7_000_000_123 + np.arange(100) * 2 * MS
    assert np.abs(grid_lateness_us(arrivals, 500.0)).max() < 1e-3


def test_lateness_is_against_the_most_punctual_request() -> None:
    arrivals = np.arange(5) * 10 * MS + np.array([300, 200, 700, 250, 900]) * 1_000
    assert grid_lateness_us(arrivals, 100.0).tolist() == pytest.approx([100, 0, 500, 50, 700])


def test_a_client_that_sends_at_half_the_rate_is_late_by_what_it_fell_behind() -> None:
    late = grid_lateness_us(np.arange(101) * 20 * MS, 100.0)
    assert late[0] == 0
    assert late[-1] == pytest.approx(1_000_000)


def test_lateness_does_not_depend_on_the_order_of_arrivals() -> None:
    arrivals = np.array([30, 0, 11, 20], np.int64) * MS
    assert grid_lateness_us(arrivals, 100.0).tolist() == grid_lateness_us(np.sort(arrivals), 100.0).tolist()
    assert len(grid_lateness_us(np.empty(0, np.int64), 100.0)) == 0


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=50), st.floats(1.0, 1e4))
def test_lateness_is_never_negative_and_someone_is_punctual(arrivals: list[int], rate: float) -> None:
    late = grid_lateness_us(np.array(arrivals, np.int64), rate)
    assert late.min() == 0


def test_absolute_lateness_takes_the_least_transit_as_none() -> None:
    # Server's zero is 5 s before the client's. Transit 40, 30 and 130 us; sent 10, 0 and 500 us late.
    intended = np.array([0.0, 1_000.0, 2_000.0])
    late = np.array([10.0, 0.0, 500.0])
    arrivals = ((intended + late + np.array([40.0, 30.0, 130.0]) + 5e6) * 1e3).astype(np.int64)
    assert absolute_lateness_us(arrivals, intended, late).tolist() == pytest.approx([20, 0, 600])
    assert len(absolute_lateness_us(np.empty(0, np.int64), np.empty(0), np.empty(0))) == 0


def test_rates() -> None:
    assert rate_per_s(np.array([0, 10, 20, 30]) * MS) == pytest.approx(100.0)
    assert rate_per_s(np.array([5])) == 0.0
    assert rate_per_s(np.empty(0, np.int64)) == 0.0
    served = [seen(0, 0, 10 * MS), seen(1, 5 * MS, 20 * MS), seen(2, 6 * MS)]
    assert served_per_s(served) == pytest.approx(2 / 0.020), "what brought no token was not served"
    assert served_per_s([]) == 0.0


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_pairs_by_name() -> None:
    pairs, by_order = pair([reported("0-1"), reported("0-7")], [seen(0, 5), seen(1, 9)], by_id)
    assert not by_order
    assert [(mine.key, truth.n) for mine, truth in pairs] == [("0-1", 1)]


def test_pairs_by_order_of_arrival_where_nothing_has_a_name() -> None:
    served = [seen(0, 900, name=""), seen(1, 100, name="")]
    pairs, by_order = pair([reported(""), reported("")], served, by_id)
    assert by_order
    assert [truth.n for _, truth in pairs] == [1, 0]
    assert pair([reported("")], served, by_id) == ([], True), "there is no order between unequal numbers"


# --- errors ----------------------------------------------------------------------------------------------------------


def test_ttft_error() -> None:
    truth = seen(0, 1_000 * MS, 1_020 * MS)
    pairs = [
        (reported(ttft_us=20_015.0), truth),
        (reported(ttft_us=19_990.0), truth),
        (reported(ttft_us=NEVER), truth),
        (reported(ttft_us=1.0), seen(1, 0)),
    ]
    assert ttft_errors_us(pairs).tolist() == pytest.approx([15, 10])


def test_gap_errors_token_by_token() -> None:
    mine = reported(ttft_us=1.0, gaps_us=np.array([10_003.0, 9_990.0]))
    assert gap_errors_us(mine, np.array([0, 10, 20]) * MS).tolist() == pytest.approx([3, 10])


def test_a_merged_chunk_has_no_gap_but_the_next_one_counts_from_its_last_token() -> None:
    # Tokens at 0, 10, 20, 30; the second and third were read together, stamped as the third.
    mine = reported(
        ttft_us=1.0,
        gaps_us=np.array([20_000.0, 10_004.0]),
        tokens=np.array([1, 2, 1]),
        merged=np.array([False, True, False]),
    )
    assert gap_errors_us(mine, np.array([0, 10, 20, 30]) * MS).tolist() == pytest.approx([4])


def test_a_client_that_does_not_know_that_it_merged_is_held_to_every_gap() -> None:
    mine = reported(ttft_us=1.0, gaps_us=np.array([20_000.0, 0.0]))
    assert gap_errors_us(mine, np.array([0, 10, 20]) * MS).tolist() == pytest.approx([10_000, 10_000])


def test_tokens_the_server_did_not_send_are_not_compared() -> None:
    mine = reported(ttft_us=1.0, gaps_us=np.array([10_000.0, 10_000.0]))
    assert gap_errors_us(mine, np.array([0, 10]) * MS).tolist() == pytest.approx([0])
    assert len(gap_errors_us(mine, np.empty(0, np.int64))) == 0
    assert len(gap_errors_us(reported(ttft_us=1.0), np.array([0, 10]) * MS)) == 0, "no gaps were kept"
    assert len(gap_errors_us(reported(gaps_us=np.array([1.0])), np.array([0, 10]) * MS)) == 0, "no first token"


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=30), st.data())
def test_a_perfect_client_has_no_error_however_it_chunks(gaps_us: list[int], data: st.DataObject) -> None:
    stamps = np.cumsum([0, *gaps_us]) * 1_000
    cuts = sorted(data.draw(st.sets(st.integers(1, len(gaps_us)))))
    tokens = np.diff([0, *cuts, len(stamps)])
    last = np.cumsum(tokens) - 1
    gaps = np.diff(stamps[last]) / 1e3
    mine = reported(ttft_us=1.0, gaps_us=gaps, tokens=tokens, merged=tokens > 1)
    errors = gap_errors_us(mine, stamps)
    assert len(errors) == np.count_nonzero(tokens[1:] == 1)
    assert np.abs(errors).max(initial=0.0) < 1e-6


def test_the_whole_verdict() -> None:
    served = [seen(n, n * 10 * MS, n * 10 * MS + 5 * MS, n * 10 * MS + 6 * MS) for n in range(4)]
    mine = [
        reported(
            f"0-{n}",
            ttft_us=5_000.0 + n,
            gaps_us=np.array([1_000.0]),
            merged=np.array([False, n == 3]),
            intended_us=n * 10_000.0,
            late_us=0.0,
        )
        for n in range(4)
    ]
    verdict = judge(mine, served, key=by_id, rate=100.0)
    assert (verdict.arrived, verdict.completed, verdict.joined, verdict.odd) == (4, 4, 4, 0)
    assert verdict.rate == pytest.approx(100.0)
    assert verdict.lateness is not None
    assert verdict.lateness.max == pytest.approx(0.0)
    assert verdict.absolute is not None
    assert verdict.absolute.p99 == pytest.approx(0.0)
    assert verdict.ttft_error is not None
    assert (verdict.ttft_error.p50, verdict.ttft_error.max) == pytest.approx((1.0, 3.0))
    assert verdict.itl_error is not None
    assert verdict.itl_error.n == 3
    assert verdict.merged_share == pytest.approx(1 / 8)
    assert judge(mine, served, key=by_id, rate=None).lateness is None


def test_the_verdict_on_a_client_that_said_nothing() -> None:
    verdict = judge([], [seen(0, 0, 5)], key=by_id, rate=100.0)
    assert (verdict.arrived, verdict.completed, verdict.joined) == (1, 0, 0)
    assert verdict.ttft_error is verdict.itl_error is verdict.own_lateness is None
    assert judge([], [], key=by_id, rate=100.0).lateness is None


def test_another_number_of_tokens_is_noticed() -> None:
    mine = [reported(ttft_us=1.0, gaps_us=np.array([1.0, 2.0]))]
    assert judge(mine, [seen(0, 0, 1, 2)], key=by_id, rate=None).odd == 1


def test_tails_are_samples() -> None:
    summary = tails(np.arange(1.0, 201.0))
    assert summary is not None
    assert (summary.n, summary.p50, summary.p99, summary.max) == (200, 100.0, 198.0, 200.0)
    assert tails(np.empty(0)) is None


# --- figures and bars ------------------------------------------------------------------------------------------------


def test_cpu_per_100k_tokens() -> None:
    assert cpu_per_100k(12.0, 200_000, beyond_s=5.0) == pytest.approx(3.5)
    assert cpu_per_100k(4.0, 100_000, beyond_s=5.0) == 0.0
    assert cpu_per_100k(4.0, 0) is None


def test_median_leaves_out_what_is_not_there() -> None:
    assert median([3.0, None, 1.0, math.nan, 2.0]) == 2.0
    assert median([None, math.nan]) is None


LOWER = Bar(scenario="short", figure="late_p50", limit=1 / 20)


def test_a_bar_against_the_best_peer() -> None:
    figures = {"scoot": 10.0, "vllm": 900.0, "aiperf": 400.0, "C": 5.0}
    held = hold(LOWER, figures, ours="scoot", peers=["vllm", "aiperf"], ceiling="C")
    assert (held.ok, held.whose, held.ratio) == (True, "aiperf", 10.0 / 400.0)
    held = hold(LOWER, {**figures, "scoot": 40.0}, ours="scoot", peers=["vllm", "aiperf"], ceiling="C")
    assert held.ok is False
    assert held.short == pytest.approx(2.0)


def test_a_bar_where_more_is_better() -> None:
    bar = Bar(scenario="closed", figure="rate", limit=5.0, higher=True)
    figures = {"scoot": 6_000.0, "vllm": 1_500.0, "aiperf": 800.0}
    held = hold(bar, figures, ours="scoot", peers=["vllm", "aiperf"], ceiling="C")
    assert (held.ok, held.whose, held.ratio, held.short) == (False, "vllm", 4.0, 1.25)
    assert hold(bar, {**figures, "scoot": 7_500.0}, ours="scoot", peers=["vllm"], ceiling="C").ok


def test_bars_against_the_ceiling_and_against_nothing() -> None:
    ceiling = Bar(scenario="s", figure="f", limit=2.0, against=Against.CEILING)
    assert hold(ceiling, {"scoot": 3.0, "C": 1.0}, ours="scoot", peers=["C"], ceiling="C").short == 1.5
    absolute = Bar(scenario="s", figure="f", limit=20.0, against=Against.NOTHING)
    assert hold(absolute, {"scoot": 20.0}, ours="scoot", peers=[], ceiling="C").ok


@pytest.mark.parametrize(
    "figures", [{}, {"scoot": None, "vllm": 1.0}, {"scoot": 1.0}, {"scoot": 1.0, "vllm": math.nan}]
)
def test_a_bar_that_cannot_be_told_is_neither_met_nor_missed(figures: dict[str, float | None]) -> None:
    assert hold(LOWER, figures, ours="scoot", peers=["vllm"], ceiling="C").ok is None


def result(client: str, figures: dict[str, float | None], *, scenario: str = "short", **changes: Any) -> Result:
    return Result(**{"scenario": scenario, "client": client, "round": 0, "figures": figures, **changes})


def test_cpu_figures_are_beyond_the_run_of_one_request() -> None:
    results = with_cpu(
        [
            result("vllm", {"cpu_s": 5.0, "tokens": 1}, scenario="start"),
            result("vllm", {"cpu_s": 99.0, "tokens": 1}, scenario="start", error="it fell over"),
            result("vllm", {"cpu_s": 11.0, "tokens": 100_000}),
            result("aiperf", {"cpu_s": 11.0, "tokens": 100_000}),
            result("guidellm", {}, error="it fell over"),
        ]
    )
    assert results[2].figures["cpu_100k"] == pytest.approx(6.0)
    assert results[2].figures["cpu_100k_whole"] == pytest.approx(11.0)
    assert results[3].figures["cpu_100k"] is None, "its run of one request is missing"
    assert results[4].figures == {}


def test_the_tables_say_who_failed_and_what_was_missed() -> None:
    good: dict[str, float | None] = {"arrived": 3, "joined": 3, "odd": 0}
    results = [
        result("scoot", {**good, "late_p50": 10.0, "late_p99": 500.0}),
        result("scoot", {**good, "late_p50": 12.0, "late_p99": 700.0}, round=1),
        result("vllm", {**good, "late_p50": 880.0, "late_p99": 2_000.0}),
        result("vllm", {**good, "late_p50": 1.0}, round=1, error="exit status 1"),
        result("aiperf", {**good, "joined": 2, "late_p50": 900.0, "late_p99": 9_000.0}),
    ]
    text = table.render(results)
    assert "| scoot | 2 | 3 |" in text
    assert "| vllm | 1 | 3 |" in text
    assert "vllm, round 2: FAILED: exit status 1" in text
    assert "aiperf, round 1: 2 of 3 requests matched" in text
    assert "late p50 us <= 1/20 of the best peer: 11 against 880 of vllm: 1/80: PASS" in text
    assert "late p99 us <= 1/20 of the best peer: 600 against 2,000 of vllm: 1/3.33: SHORT by 6.00 x" in text
    assert "late p50 us <= 20: 11: PASS" in text
    assert [held.ok for held in table.verdicts(results)] == [True, False, True]


def test_every_bar_is_on_a_figure_that_is_shown() -> None:
    shown = {(one.name, column) for one in SCENARIOS for column in one.columns}
    assert {(bar.scenario, bar.figure) for bar in table.BARS} <= shown


# --- SCOOT's own records and faults ----------------------------------------------------------------------------------


def write_run(folder: Any, **changes: Any) -> None:
    """A spool and an audit of two requests, the second of which failed before its first token."""
    columns: dict[str, Any] = {
        "index": np.array([1, 0]),
        "intended_us": np.array([2_000, 0]),
        "sent_us": np.array([7, 5]),
        "first_us": np.array([NONE_US, 1_005]),
        "end_us": np.array([9_000, 4_005]),
        "input_tokens": np.array([16, 16]),
        "output_tokens": np.array([0, 4]),
        "wanted_tokens": np.array([4, 4]),
        "chunks": np.array([0, 3]),
        "run": np.zeros(2),
        "http_status": np.array([0, 200]),
        "replica": np.zeros(2),
        "phase": np.full(2, RequestPhase.MEASURED),
        "status": np.array([RequestStatus.RESET, RequestStatus.OK]),
        "gap_us": np.array([0, 2_000, 1_000]),
        "chunk_tokens": np.array([1, 2, 1]),
        "merged": np.array([0, 1, 0]),
    }
    with SpoolWriter(folder / "spool") as spool:
        spool.append(encode(TimingBatch(**{**columns, **changes})))
    (folder / "audit.json").write_text(
        '[{"run":0,"cpu_share":0.1,"run_queue_s":0,"clock_step_ms":0,"dropped":0,"clock":"kernel"}]'
    )


def test_scoots_records_are_read_as_they_are(tmp_path: Any) -> None:
    write_run(tmp_path)
    said = Scoot(limits=Limits(min_requests=3)).read(Load(port=1, tokens=4), tmp_path)
    first, second = said.requests
    assert (first.key, first.ok, first.ttft_us, first.late_us, first.note) == ("0-0", True, 1_000.0, 5.0, "OK 200")
    assert first.gaps_us is not None
    assert first.gaps_us.tolist() == [2_000.0, 1_000.0]
    assert first.merged is not None
    assert first.merged.tolist() == [False, True, False]
    assert (second.key, second.ok, second.note, second.chunks) == ("0-1", False, "RESET", 0)
    assert math.isnan(second.ttft_us)
    assert said.facts["validity"]["valid"] is False, "two requests are too few"


def test_every_fault_of_the_server_has_its_expectation() -> None:
    assert [one.mode for one in faults.EXPECTED] == list(MODES)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, ""),
        ({"note": "OK 200"}, "OK 200 instead of RESET 200"),
        ({"gaps_us": np.full(2, 1e4)}, "3 tokens instead of 4"),
        ({"ttft_us": 60_000.0}, "TTFT 60.0 ms instead of 20.0"),
    ],
)
def test_partial_timings_and_kinds_of_failure_are_checked(changes: dict[str, Any], wrong: str) -> None:
    expected = next(one for one in faults.EXPECTED if one.mode == "rst")
    right: dict[str, Any] = {"ok": False, "ttft_us": 20_100.0, "gaps_us": np.full(3, 1e4), "note": "RESET 200"}
    assert faults.wrong_with([reported(**{**right, **changes})] * 3, expected) == wrong
    assert faults.wrong_with([reported(**right)] * 2, expected) == "2 requests instead of 3"
