"""What scootctl shows of a study: the view, the plain events, the headline, the CSV, the drawn screen."""

from __future__ import annotations

import csv
import io
from typing import Any

import msgspec
import pytest
from rich.console import Console

from scoot.cli.csv_table import csv_table
from scoot.cli.exits import Exit
from scoot.cli.follow import exit_of
from scoot.cli.live import LiveDisplay, PlainDisplay, make_display, screen
from scoot.cli.progress import events, headline, progress
from scoot.cli.text import columns, duration, number, one_line, percent, scalar
from scoot.wire.measurement import Distribution, LoadAudit, Metrics, RunResult, Validity
from scoot.wire.reasons import Reason
from scoot.wire.spec import Budget, Config, Confirm, Objective, Parameter, ParameterKind, Service, StudySpec, Workload
from scoot.wire.states import StudyState, TrialKind, TrialState
from scoot.wire.view import Study, StudyDetail, Trial

SPEC = StudySpec(
    name="chat",
    service=Service(engine="mock", model="tiny", device="cpu"),
    workload=Workload(profile="BOT", duration_s=10.0, warm_up_s=2.0),
    parameters=(
        Parameter(name="max_num_seqs", kind=ParameterKind.INT, low=1, high=512),
        Parameter(name="chunked", kind=ParameterKind.BOOL),
    ),
    objectives=(Objective(metric="ttft_mean"), Objective(metric="request_throughput")),
    budget=Budget(trials=4, parallelism=2),
    confirm=Confirm(arrival_orders=3),
)


def distribution(mean: float) -> Distribution:
    return Distribution(n=10, mean=mean, p50=mean, p90=mean, p95=mean, p99=mean, max=mean)


def run(ttft: float | None, throughput: float, *, index: int = 0, valid: bool = True) -> RunResult:
    metrics = Metrics(
        sent=10,
        completed=10,
        failed=0,
        failures={},
        duration_s=10.0,
        request_throughput=throughput,
        output_token_throughput=1.0,
        input_token_throughput=1.0,
        offered_rate=1.0,
        ttft_ms=None if ttft is None else distribution(ttft),
        tpot_ms=None,
        itl_ms=None,
        e2e_ms=None,
        ttft_from_send_ms=None,
        e2e_from_send_ms=None,
        lateness_ms=None,
        output_tokens=10,
        input_tokens=10,
        merged_share=0.0,
    )
    audit = LoadAudit(run=index, cpu_share=0.1, run_queue_s=0.0, clock_step_ms=0.0, dropped=0)
    reason = None if valid else Reason.LOAD_LATE
    return RunResult(run=index, seed=7, metrics=metrics, audit=audit, validity=Validity(valid=valid, reason=reason))


def trial(number_: int, state: TrialState = TrialState.SUCCEEDED, **values: Any) -> Trial:
    kind = TrialKind.DEFAULT if number_ == 0 else TrialKind.SUGGESTED
    defaults: dict[str, Any] = {"kind": kind, "source": "default" if number_ == 0 else "sobol", "attempts": 1}
    if state.is_terminal:
        defaults |= {"started_at_s": 1000.0, "ended_at_s": 1020.0}
    return Trial(**{"number": number_, "state": state, **defaults, **values})


def detail(*trials: Trial, **values: Any) -> StudyDetail:
    state = values.pop("state", StudyState.SEARCHING)
    study = Study(study_id="chat-1", spec=SPEC, state=state, created_at_s=990.0, **values)
    return StudyDetail(study=study, trials=trials, revision=len(trials))


DEFAULT = trial(0, config={"max_num_seqs": 256}, effective_config={"chunked": True}, runs=(run(20.0, 5.0),))
BETTER = trial(1, config={"max_num_seqs": 64, "chunked": True}, runs=(run(15.0, 4.0),))


def test_figures_are_compared_with_the_default_in_the_metrics_own_sense() -> None:
    view = progress(detail(DEFAULT, BETTER, best_trial=1), 1030.0)
    ttft, throughput = view.rows[1].figures
    assert (ttft.value, ttft.change, ttft.better) == (15.0, -0.25, True)
    assert (throughput.value, throughput.better) == (4.0, False)
    assert throughput.change == pytest.approx(-0.2)
    assert str(ttft) == "ttft_mean 15 ms (-25.0 %)"
    assert [figure.change for figure in view.rows[0].figures] == [None, None]
    assert view.best is view.rows[1]
    assert view.rows[1].changes == {"max_num_seqs": 64}


def test_true_and_one_are_different_values() -> None:
    first = trial(0, config={"a": 1, "chunked": True})
    changed: Config = {"a": True, "chunked": True}
    assert progress(detail(first, trial(1, config=changed)), 0.0).rows[1].changes == {"a": True}


def test_unmeasured_invalid_and_undefined_values_are_unknown() -> None:
    rows = progress(
        detail(DEFAULT, trial(1), trial(2, runs=(run(1.0, 9.0, valid=False),)), trial(3, runs=(run(None, 9.0),))), 0.0
    ).rows
    assert [[figure.value for figure in row.figures] for row in rows[1:]] == [[None, None]] * 3
    assert str(rows[1].figures[0]) == "ttft_mean -"


def test_a_running_trial_shows_phase_agent_and_requests() -> None:
    running = trial(
        1, TrialState.RUNNING, phase="MEASURE", agent="box", requests_completed=12, started_at_s=1000.0, config={"a": 1}
    )
    view = progress(detail(DEFAULT, running), 1007.5)
    assert view.rows[1].status == "MEASURE 12 requests"
    assert (view.rows[1].duration_s, view.agents) == (7.5, ("box",))
    assert (view.finished, view.budget, view.elapsed_s) == (1, 4, 17.5)


def test_the_eta_counts_what_is_left_and_what_has_begun() -> None:
    assert progress(detail(trial(0, TrialState.PENDING)), 1000.0).eta_s is None
    # 3 trials of 20 s left and 2 confirmations of 20 + 2 x 12 s, two at a time.
    assert progress(detail(DEFAULT), 1020.0).eta_s == pytest.approx((3 * 20 + 2 * 44) / 2)
    running = trial(1, TrialState.RUNNING, started_at_s=1010.0)
    assert progress(detail(DEFAULT, running), 1020.0).eta_s == pytest.approx((3 * 20 + 2 * 44 - 10) / 2)
    assert progress(detail(DEFAULT, state=StudyState.COMPLETED, ended_at_s=1100.0), 1e9).eta_s is None


def test_an_ended_study_stops_its_clock_and_says_why() -> None:
    view = progress(detail(DEFAULT, state=StudyState.FAILED, ended_at_s=1050.0, message="no agent"), 9999.0)
    assert (view.elapsed_s, view.waiting) == (60.0, "no agent")


def test_events_tell_each_change_once_and_survive_missed_states() -> None:
    begin = detail(trial(0, TrialState.PENDING, attempts=0))
    assert events(None, begin) == (
        "study chat-1 chat: mock with tiny, minimise ttft_mean, maximise request_throughput, 4 trials, parallelism 2",
    )
    assert events(begin, begin) == ()
    running = trial(1, TrialState.RUNNING, agent="box", config={"max_num_seqs": 64, "chunked": False})
    second = detail(DEFAULT, running, best_trial=0)
    assert events(begin, second) == (
        "trial 0 (default) SUCCEEDED in 20.0 s: ttft_mean 20 ms, request_throughput 5 1/s",
        "trial 1 (sobol) started on box: max_num_seqs=64 chunked=false",
        "best so far: trial 0",
    )
    failed = trial(
        1,
        TrialState.INFEASIBLE,
        reason=Reason.ENGINE_EXITED_ON_START,
        message="\x1b[31mNo common block size\nmore",
    )
    third = detail(DEFAULT, failed, best_trial=0, waiting="no free device")
    assert events(second, third) == (
        "trial 1 (sobol) INFEASIBLE in 20.0 s: ENGINE_EXITED_ON_START:  [31mNo common block size",
        "waiting: no free device",
    )
    end = detail(DEFAULT, failed, best_trial=0, state=StudyState.CANCELLED, message="Ctrl-C")
    assert events(third, end) == ("study CANCELLED: Ctrl-C",)
    confirming = detail(DEFAULT, failed, best_trial=0, state=StudyState.CONFIRMING)
    assert events(third, confirming) == ("confirming the best and the default under 3 arrival orders",)


def test_a_retry_is_an_event() -> None:
    first = detail(trial(0, TrialState.RUNNING, agent="box"))
    again = detail(trial(0, TrialState.PENDING, reason=Reason.HOST_LOST, message="agent box is lost", attempts=1))
    assert events(first, again) == ("trial 0 will run again: HOST_LOST: agent box is lost",)
    second = detail(trial(0, TrialState.RUNNING, agent="box2", attempts=2))
    assert events(again, second) == ("trial 0 (default) started again on box2",)
    # An attempt that was missed in between is still told.
    assert events(first, second) == ("trial 0 (default) started again on box2",)


CONFIRMATIONS = (
    trial(
        4,
        kind=TrialKind.CONFIRMATION,
        source="confirm-default",
        confirms=0,
        runs=tuple(run(value, 5.0, index=n) for n, value in enumerate((20.0, 30.0, 25.0))),
    ),
    trial(
        5,
        kind=TrialKind.CONFIRMATION,
        source="confirm-best",
        confirms=1,
        config=BETTER.config,
        runs=tuple(
            run(value, rate, index=n) for n, (value, rate) in enumerate(((15.0, 6.0), (18.0, 4.0), (16.0, 5.0)))
        ),
    ),
)


def test_the_headline_promises_the_worst_of_the_confirmed_orders() -> None:
    done = detail(DEFAULT, BETTER, *CONFIRMATIONS, best_trial=1, state=StudyState.COMPLETED)
    assert headline(done) == (
        "Best configuration: trial 1",
        "  max_num_seqs = 64  (default 256)",
        "  chunked = true  (default true)",
        "Trial 1 against the default, worst of the same arrival orders:",
        "  ttft_mean 18 ms (-40.0 %)",
        "  request_throughput 4 1/s (-20.0 %)",
        "SLO it can promise (worst of 3 arrival orders):",
        "  ttft_mean <= 18 ms (median 16)",
        "  request_throughput >= 4 1/s (median 5)",
    )
    assert progress(done, 0.0).rows[3].label == "confirm-best of 1"


def test_the_headline_keeps_the_default_where_the_lead_did_not_hold() -> None:
    default, best = CONFIRMATIONS
    slower = msgspec.structs.replace(best, runs=tuple(run(40.0, 1.0, index=n) for n in range(3)))
    done = detail(DEFAULT, BETTER, default, slower, best_trial=1, state=StudyState.COMPLETED)
    assert headline(done) == (
        "Keep the default configuration: trial 1 led the search, but not when measured again.",
        "Trial 1 against the default, worst of the same arrival orders:",
        "  ttft_mean 40 ms (+33.3 %)",
        "  request_throughput 1 1/s (-80.0 %)",
        "SLO it can promise (worst of 3 arrival orders):",
        "  ttft_mean <= 30 ms (median 25)",
        "  request_throughput >= 5 1/s (median 5)",
    )


def test_the_headline_without_confirmation_and_without_a_best() -> None:
    assert headline(detail(DEFAULT, BETTER, best_trial=1))[-1] == "  request_throughput 4 1/s (-20.0 %)"
    assert headline(detail(DEFAULT, best_trial=0))[0] == "Best configuration: trial 0 (the default)"
    assert headline(detail(DEFAULT)) == ("No feasible configuration was found.",)


@pytest.mark.parametrize(
    ("state", "best", "code"),
    [
        (StudyState.COMPLETED, 0, Exit.OK),
        (StudyState.COMPLETED, None, Exit.FAILED),
        (StudyState.FAILED, 0, Exit.FAILED),
        (StudyState.CANCELLED, 0, Exit.CANCELLED),
    ],
)
def test_the_exit_code_says_how_it_ended(state: StudyState, best: int | None, code: Exit) -> None:
    assert exit_of(detail(DEFAULT, state=state, best_trial=best)) is code


def test_plain_output_has_no_control_sequences_and_is_flushed_line_by_line() -> None:
    stream = io.StringIO()
    display = make_display(stream)
    assert isinstance(display, PlainDisplay)
    display.update(detail(DEFAULT, best_trial=0))
    display.update(detail(DEFAULT, BETTER, best_trial=1))
    display.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 5
    assert stream.getvalue().replace("\n", "").isprintable()
    assert lines[-1] == "best so far: trial 1"


def test_the_screen_shows_rows_figures_and_the_best() -> None:
    out = io.StringIO()
    trials = [DEFAULT, BETTER, *(trial(n, config={"max_num_seqs": n}) for n in range(2, 30))]
    view = progress(detail(*trials, best_trial=1, waiting="[bold]no device[/bold]"), 1030.0)
    Console(file=out, width=140, force_terminal=False).print(screen(view, rows=5))
    text = out.getvalue()
    assert "(25 earlier trials are not shown)" in text
    assert "ttft_mean [ms]" in text
    assert "max_num_seqs=29" in text
    assert "max_num_seqs=24" not in text
    assert "best so far: trial 1: ttft_mean 15 ms (-25.0 %), request_throughput 4 1/s (-20.0 %)" in text
    assert "[bold]no device[/bold]" in text, "an engine's text is not markup"


def test_the_live_display_leaves_the_whole_table_behind() -> None:
    out = io.StringIO()
    display = LiveDisplay(Console(file=out, force_terminal=True, width=120, height=15))
    display.update(detail(*(trial(n, config={"max_num_seqs": n}) for n in range(20))))
    display.note("a note [x]")
    display.close()
    display.close()
    final = out.getvalue()
    assert "a note [x]" in final
    assert "max_num_seqs=3" in final.rpartition("\x1b[?25h")[2], "all rows, after the live table is gone"


def test_the_csv_has_a_row_per_run_and_no_formulas() -> None:
    bad = trial(2, TrialState.INFEASIBLE, reason=Reason.ENGINE_OOM, message="=cmd()", config={"max_num_seqs": -3})
    rows = list(csv.DictReader(io.StringIO(csv_table(detail(DEFAULT, bad, CONFIRMATIONS[1])))))
    assert [row["trial"] for row in rows] == ["0", "2", "5", "5", "5"]
    assert (rows[0]["config.max_num_seqs"], rows[0]["effective.chunked"]) == ("256", "true")
    assert (rows[0]["ttft_ms.mean"], rows[0]["tpot_ms.mean"], rows[0]["seconds"]) == ("20", "", "20.000")
    assert (rows[1]["reason"], rows[1]["blame"], rows[1]["message"]) == ("ENGINE_OOM", "CONFIG", "'=cmd()")
    assert (rows[1]["config.max_num_seqs"], rows[1]["run"], rows[1]["ttft_ms.mean"]) == ("-3", "", "")
    assert [row["run"] for row in rows[2:]] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12.3456, "12.35"), (1234.56, "1235"), (123456.7, "123457"), (0.0123441, "0.01234"), (15.0, "15")],
)
def test_numbers_have_four_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_small_texts() -> None:
    assert [duration(s) for s in (0.4, 59, 185, 7800)] == ["0 s", "59 s", "3 min 05 s", "2 h 10 min"]
    assert [scalar(v) for v in (True, 3, 0.5, "x")] == ["true", "3", "0.5", "x"]
    assert (percent(-0.123), percent(0.0)) == ("-12.3 %", "+0.0 %")
    assert (number(1e9), number(float("nan")), number(1e-6)) == ("1.000e+09", "nan", "1.000e-06")
    assert one_line("\n  \n a\tb \nc") == "a b"
    assert columns([("A", "LONG"), ("xyz", "b")]) == "A    LONG\nxyz  b"


def test_views_survive_json() -> None:
    done = detail(DEFAULT, BETTER, *CONFIRMATIONS, best_trial=1)
    assert msgspec.json.decode(msgspec.json.encode(done), type=StudyDetail) == done
