"""Progress becomes views, and views become lines and a live table."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from scoot.benchmark.plan import LoadProgress
from scoot.benchmark.standalone.live import LiveDisplay, NoDisplay, PlainDisplay, make_display, screen
from scoot.benchmark.standalone.view import Follower, View, clock, line, number, offered
from scoot.wire.assignment import Phase
from scoot.wire.spec import ArrivalProcess, Arrivals, Workload

WORKLOAD = Workload(arrivals=Arrivals(rate=20.0), warm_up_s=2.0, duration_s=10.0, cool_down_s=1.0)


def progress(phase: Phase = Phase.MEASURE, **changes: Any) -> LoadProgress:
    """A line of progress."""
    fields: dict[str, Any] = {
        "run": 0,
        "sent": 10,
        "completed": 8,
        "failed": 0,
        "tokens": 80,
        "outstanding": 2,
        "silent_s": 0.0,
    } | changes
    return LoadProgress(phase=phase, **fields)


def views(*lines: tuple[float, LoadProgress], runs: int = 1) -> list[View]:
    """Views of lines read at these seconds."""
    follower = Follower(WORKLOAD, runs)
    return [follower.see(each, now_s) for now_s, each in lines]


def test_time_counts_from_the_first_request() -> None:
    preparing, first, later = views((100.0, progress(sent=0)), (104.0, progress(sent=0)), (106.0, progress(sent=5)))
    assert (preparing.phase, preparing.elapsed_s, preparing.remaining_s) == ("preparing", 0.0, 13.0)
    assert first.elapsed_s == 0.0
    assert (later.phase, later.elapsed_s, later.remaining_s) == ("measuring", 2.0, 11.0)


def test_rates_are_of_the_last_seconds() -> None:
    lines = [(float(at), progress(sent=10 * at + 1, completed=5 * at, tokens=100 * at)) for at in range(6)]
    seen = views(*lines, (6.0, progress(sent=151, completed=125, tokens=1100)))
    assert seen[0].rate == 0.0
    assert (seen[5].rate, seen[5].completion_rate, seen[5].token_rate) == (10.0, 5.0, 100.0)
    assert seen[6].rate == pytest.approx((151 - 31) / 3)


def test_a_new_run_begins_anew() -> None:
    seen = views((0.0, progress(sent=0)), (5.0, progress(sent=90)), (20.0, progress(run=1, sent=1)), runs=2)
    assert (seen[2].run, seen[2].runs, seen[2].elapsed_s, seen[2].rate) == (2, 2, 0.0, 0.0)


def test_phases_that_are_not_known_keep_their_name() -> None:
    assert views((0.0, progress(Phase.STOP)))[0].phase == "stop"


def test_a_server_that_went_silent_is_told() -> None:
    (view,) = views((0.0, progress(silent_s=7.0)))
    assert view.silent
    assert "outstanding 2, silent for 7 s" in line(view)
    assert not views((0.0, progress(silent_s=7.0, outstanding=0)))[0].silent


@pytest.mark.parametrize(
    ("arrivals", "text"),
    [
        (Arrivals(rate=5.0), "poisson, 5 req/s"),
        (Arrivals(process=ArrivalProcess.GAMMA, rate=0.5, cv=2.0), "gamma, 0.5 req/s, cv 2"),
        (Arrivals(process=ArrivalProcess.CLOSED, users=1), "closed, 1 user"),
        (Arrivals(process=ArrivalProcess.CLOSED, users=16), "closed, 16 users"),
        (Arrivals(process=ArrivalProcess.TRACE), "trace"),
        (Arrivals(rate=5.0, max_in_flight=4), "poisson, 5 req/s, at most 4 in flight"),
        (Arrivals(process=ArrivalProcess.TRACE, time_scale=0.5), "trace x 0.5"),
    ],
)
def test_the_load_in_words(arrivals: Arrivals, text: str) -> None:
    assert offered(Workload(arrivals=arrivals)) == text


def test_a_line_has_what_there_is() -> None:
    plain, full = views((0.0, progress()), (1.0, progress(ttft_ms=12.3456, itl_ms=5.0, lateness_ms=0.01)), runs=3)
    assert "ttft" not in line(plain)
    assert line(full).startswith("run 1/3 measuring 0:01, 0:12 left, sent 10")
    assert line(full).endswith("ttft 12.35 ms, itl 5 ms, late 0.01 ms")


def test_numbers_and_clocks() -> None:
    assert [number(value) for value in (None, 0.0, 1234567.0, 0.12345, 100.0, 1e-5, float("inf"))] == [
        "-",
        "0",
        "1234567",
        "0.1235",
        "100",
        "1.000e-05",
        "inf",
    ]
    assert [clock(seconds) for seconds in (0.9, 59.0, 61.5, 3600.0)] == ["0:00", "0:59", "1:01", "60:00"]


def test_plain_lines_come_at_new_phases_and_now_and_then() -> None:
    out = io.StringIO()
    display = PlainDisplay(out, "the title")
    lines = [(0.0, progress(Phase.WARM_UP)), *((at / 2, progress()) for at in range(1, 24))]
    for view in views(*lines):
        display.update(view)
    display.note("a note")
    display.close()
    title, *shown, note = out.getvalue().splitlines()
    assert (title, note) == ("the title", "a note")
    assert [text.split(",")[0] for text in shown] == [
        "warm-up 0:00",
        "measuring 0:00",
        "measuring 0:05",
        "measuring 0:10",
    ]


def test_the_live_view_shows_the_figures_and_goes_away() -> None:
    out = io.StringIO()
    display = LiveDisplay(out, "the title")
    display._console = Console(file=out, force_terminal=True, width=100)
    view = views((0.0, progress(failed=3, ttft_ms=12.0, silent_s=9.0)), runs=2)[0]
    display.update(view)
    display.note("a [note]")
    display.close()
    display.close()
    text = out.getvalue()
    assert "a [note]" in text
    assert "\x1b[2K" in text, "the table must have been erased"


def test_the_screen() -> None:
    out = io.StringIO()
    view = views((0.0, progress(failed=3, ttft_ms=12.0, silent_s=9.0)), runs=2)[0]
    Console(file=out, width=100).print(screen("the title", view))
    text = out.getvalue()
    for part in ("the title", "run 1 of 2", "poisson, 20 req/s", "8 of 10", "12 ms", "nothing came for 9 s", "Ctrl-C"):
        assert part in text


def test_displays_by_stream() -> None:
    assert isinstance(make_display(io.StringIO(), "", quiet=True), NoDisplay)
    assert isinstance(make_display(io.StringIO(), "", quiet=False), PlainDisplay)


def test_a_terminal_gets_the_live_view(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_display(Terminal(), "", quiet=False), LiveDisplay)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_display(Terminal(), "", quiet=False), PlainDisplay)
