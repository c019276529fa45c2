"""What a run's progress looks like as figures: time spent and left, rates of late. Pure."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import msgspec

from scoot.benchmark.plan import LoadProgress
from scoot.wire.assignment import Phase
from scoot.wire.spec import Arrivals, Workload

_LATELY_S: Final = 3.0
_SILENT_S: Final = 5.0
_DIGITS: Final = 4
_MINUTE_S: Final = 60


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a run.

    Attributes:
        phase: what it is doing, in words.
        run, runs: which of how many, from 1.
        elapsed_s, remaining_s: of its windows; what is left of a drain is not known.
        offered: what is asked of the server, in words.
        rate: requests sent per second of late.
        completion_rate: requests completed per second of late.
        token_rate: output tokens per second of late.
        progress: the latest line.
        silent: whether nothing comes back any more.
    """

    phase: str
    run: int
    runs: int
    elapsed_s: float
    remaining_s: float
    offered: str
    rate: float
    completion_rate: float
    token_rate: float
    progress: LoadProgress
    silent: bool


class Follower:
    """Makes views of progress. Times are any monotonic seconds.

    Args:
        workload: whose windows tell how long a run takes.
        runs: how many there will be.
    """

    def __init__(self, workload: Workload, runs: int) -> None:
        self._window_s = workload.warm_up_s + workload.duration_s + workload.cool_down_s
        self._offered = offered(workload)
        self._runs = runs
        self._run = -1
        self._began_s = 0.0
        self._lately: deque[tuple[float, LoadProgress]] = deque()

    def see(self, progress: LoadProgress, now_s: float) -> View:
        """The view after a line that was read at `now_s`."""
        if progress.run != self._run:
            self._run = progress.run
            self._lately.clear()
            self._began_s = now_s
        if not progress.sent:
            # The clock of a run starts when its requests are made; no line tells, the first request does.
            self._began_s = now_s
        self._lately.append((now_s, progress))
        while len(self._lately) > 2 and self._lately[1][0] <= now_s - _LATELY_S:  # noqa: PLR2004 - two make a rate
            self._lately.popleft()
        then_s, then = self._lately[0]
        span_s = now_s - then_s
        elapsed_s = now_s - self._began_s
        return View(
            phase=_WORDS.get(progress.phase, progress.phase.value.lower()) if progress.sent else "preparing",
            run=progress.run + 1,
            runs=self._runs,
            elapsed_s=elapsed_s,
            remaining_s=max(0.0, self._window_s - elapsed_s),
            offered=self._offered,
            rate=_rate(progress.sent - then.sent, span_s),
            completion_rate=_rate(progress.completed - then.completed, span_s),
            token_rate=_rate(progress.tokens - then.tokens, span_s),
            progress=progress,
            silent=progress.outstanding > 0 and progress.silent_s >= _SILENT_S,
        )


_WORDS: Final = {Phase.WARM_UP: "warm-up", Phase.MEASURE: "measuring", Phase.DRAIN: "draining"}


def _rate(count: int, span_s: float) -> float:
    return count / span_s if span_s > 0 else 0.0


def offered(workload: Workload) -> str:
    """The load in words: "poisson, 5 req/s", "closed, 16 users", "constant, 9 req/s, at most 4 in flight"."""
    limit = workload.arrivals.max_in_flight
    return _process(workload.arrivals) + (f", at most {limit} in flight" if limit is not None else "")


def _process(arrivals: Arrivals) -> str:
    if arrivals.users is not None:
        return f"{arrivals.process.value}, {arrivals.users} user{'s' if arrivals.users > 1 else ''}"
    if arrivals.rate is not None:
        cv = f", cv {arrivals.cv:g}" if arrivals.cv is not None else ""
        return f"{arrivals.process.value}, {arrivals.rate:g} req/s{cv}"
    scale = f" x {arrivals.time_scale:g}" if arrivals.time_scale != 1.0 else ""
    return f"{arrivals.process.value}{scale}"


def line(view: View) -> str:
    """A view as one line."""
    progress = view.progress
    run = f"run {view.run}/{view.runs} " if view.runs > 1 else ""
    silent = f", silent for {progress.silent_s:.0f} s" if view.silent else ""
    parts = [
        f"{run}{view.phase} {clock(view.elapsed_s)}, {clock(view.remaining_s)} left",
        f"sent {progress.sent} ({number(view.rate)}/s)",
        f"done {progress.completed}",
        f"failed {progress.failed}",
        f"outstanding {progress.outstanding}{silent}",
        f"{number(view.token_rate)} tok/s",
    ]
    if progress.ttft_ms is not None:
        parts.append(f"ttft {number(progress.ttft_ms)} ms")
    if progress.itl_ms is not None:
        parts.append(f"itl {number(progress.itl_ms)} ms")
    if progress.lateness_ms is not None:
        parts.append(f"late {number(progress.lateness_ms)} ms")
    return ", ".join(parts)


def number(value: float | None) -> str:
    """Four significant digits, never in exponent form between 0.001 and 10 million; "-" for None."""
    if value is None:
        return "-"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 1e-3 <= abs(value) < 1e7:  # noqa: PLR2004 - the bounds the docstring names
        return f"{value:.3e}"
    text = f"{value:.{max(0, _DIGITS - 1 - math.floor(math.log10(abs(value))))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def clock(seconds: float) -> str:
    """Seconds as "0:42" or "12:05"."""
    minutes, rest = divmod(math.floor(seconds), _MINUTE_S)
    return f"{minutes}:{rest:02d}"
