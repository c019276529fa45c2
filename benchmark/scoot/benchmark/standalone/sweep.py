"""A sweep over rates: one run after the other, each in a child of its own, until more brings no more. IO.

Every run is forked from this process, which stays as small as it began: what draws and writes lives in the children.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from scoot.benchmark.standalone import folder as files
from scoot.benchmark.standalone.exits import Exit
from scoot.benchmark.standalone.knee import Point, goodput_knee, rates_between, saturation, stop_reason
from scoot.benchmark.standalone.launch import Interrupts, fork
from scoot.benchmark.standalone.options import RunOptions
from scoot.benchmark.standalone.run import Manner, prepare, run, versions
from scoot.benchmark.standalone.server import Server
from scoot.benchmark.standalone.summary import Summary
from scoot.benchmark.standalone.sweep_table import SCHEMA, Step, Sweep, point_of, step_of, sweep_csv, sweep_text
from scoot.benchmark.trace_row import TraceRow
from scoot.wire.errors import PermanentInfraError, ScootError, UserError
from scoot.wire.spec import ArrivalProcess, SloClass

SYNCHRONOUS: Final = "synchronous"
THROUGHPUT: Final = "throughput"

_STDIN: Final = 0


class SweepOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A sweep as asked for.

    Attributes:
        base: of every run; its rate and users are set by the sweep, and there is no `max_in_flight` where it has users.
        rates: ascending; None to find them: one user, then many, then rates between.
        points: rates between.
        users: of the many; no more than `max_in_flight` of the base.
        goodput_share: see Knee.
        keep_going: go on past saturation.
        csv: write a table too.
    """

    base: RunOptions
    rates: tuple[float, ...] | None
    points: int = 8
    users: int = 256
    goodput_share: float = 0.9
    keep_going: bool = False
    csv: bool = False


class _Interrupted(ScootError):
    """The user stopped a run."""


class Sweeper:
    """Runs the steps of one sweep.

    Args:
        options: of the sweep, its base checked.
        server: what it told.
        rows: of the trace; None to make them, for every run anew.
        folder: of the sweep.
        manner: of the sweep; runs inherit what fits.
    """

    def __init__(
        self,
        options: SweepOptions,
        server: Server,
        rows: tuple[TraceRow, ...] | None,
        folder: Path,
        manner: Manner,
    ) -> None:
        self._options = options
        self._server = server
        self._rows = rows
        self._folder = folder
        self._manner = manner
        self._interrupts = Interrupts()
        self._steps: list[Step] = []

    def execute(self) -> Exit:
        """Run the steps, write sweep.json, print the table.

        Raises:
            PermanentInfraError: a run failed, or a file cannot be written.
        """
        started_at = datetime.now(UTC)
        stopped = ""
        interrupted = False
        with self._interrupts.counted():
            try:
                stopped = self._all_steps()
            except _Interrupted:
                interrupted = True
        points = self._points()
        sweep = Sweep(
            schema=SCHEMA,
            model=self._server.model,
            urls=self._options.base.urls,
            slos=tuple(map(_in_words, self._options.base.slo_classes)),
            steps=tuple(self._steps),
            knee=goodput_knee(points, target=self._options.goodput_share),
            saturation=saturation(points),
            stopped=stopped,
            interrupted=interrupted,
            command=self._manner.command,
            versions=versions(),
            started_at=started_at.isoformat(timespec="seconds"),
        )
        data = msgspec.json.format(msgspec.json.encode(sweep), indent=2)
        files.write_whole(self._folder / files.SWEEP, data)
        if self._options.csv:
            files.write_whole(self._folder / files.SWEEP_TABLE, sweep_csv(sweep.steps).encode())
        if self._manner.as_json:
            sys.stdout.write(data.decode() + "\n")
        if not self._manner.quiet:
            self._manner.stream.write(f"{sweep_text(sweep)}\nresults: {self._folder}\n")
        if interrupted:
            return Exit.INTERRUPTED
        return Exit.OK if any(point.valid for point in points) else Exit.INVALID

    def _all_steps(self) -> str:
        """Run them; why the last was the last, "" if all were run."""
        rates = self._options.rates
        if rates is None:
            one = self._step(SYNCHRONOUS, users=1)
            many = self._step(THROUGHPUT, users=_most_users(self._options))
            rates = _between(one, many, self._options.points)
        for number, rate in enumerate(rates, start=1):
            self._step(f"{rate:g}", rate=rate, of=f"{number} of {len(rates)}")
            stopped = stop_reason(self._points(), max_failed_share=self._options.base.limits.max_failed_share)
            if stopped and not self._options.keep_going and number < len(rates):
                return stopped
        return ""

    def _points(self) -> list[Point]:
        return [point for point in map(point_of, self._steps) if point is not None]

    def _step(self, name: str, *, rate: float | None = None, users: int | None = None, of: str = "") -> Step:
        """Run one step, and keep it.

        Raises:
            _Interrupted: the user stopped it.
            PermanentInfraError: it failed.
        """
        relative = name if rate is None else f"{files.RATE}{name}"
        folder = self._folder / relative
        options = _with_load(self._options.base, rate=rate, users=users)
        try:
            folder.mkdir()
        except OSError as error:
            raise PermanentInfraError(f"{folder}: the folder cannot be made: {error.strerror}") from error
        what = f"{rate:g} req/s" if rate is not None else f"{users} user{'s' if users != 1 else ''}"
        manner = msgspec.structs.replace(
            self._manner, table=False, title=f"{what} ({of or name})", as_json=False, orphaned_by=_STDIN
        )
        child = fork(self._work(options, folder, manner, to_stderr=self._manner.as_json))
        self._interrupts.watch(child)
        code = child.wait()
        step = self._result(folder, name)
        if step is not None:
            self._steps.append(step)
        if self._interrupts.count or code == Exit.INTERRUPTED:
            raise _Interrupted
        if code not in (Exit.OK, Exit.INVALID) or step is None:
            raise PermanentInfraError(f"the run {relative} failed; its folder is {folder}")
        return step

    def _work(self, options: RunOptions, folder: Path, manner: Manner, *, to_stderr: bool) -> Callable[[], int]:
        def work() -> int:
            if to_stderr:
                sys.stdout = sys.stderr
            try:
                return run(prepare(options, self._server, self._rows), folder, manner)
            except (UserError, PermanentInfraError) as error:
                sys.stderr.write(f"error: {error}\n")
                return Exit.FAILED

        return work

    def _result(self, folder: Path, name: str) -> Step | None:
        """The step from its summary, if there is one."""
        try:
            data = (folder / files.SUMMARY).read_bytes()
        except FileNotFoundError:
            return None
        summary = msgspec.json.decode(data, type=Summary)
        return step_of(summary, name=name, folder=folder.name)


def _with_load(base: RunOptions, *, rate: float | None, users: int | None) -> RunOptions:
    if rate is not None:
        return msgspec.structs.replace(base, rate=rate)
    # A single user may answer too little for percentiles; its throughput is all that is wanted.
    limits = msgspec.structs.replace(base.limits, min_requests=1)
    return msgspec.structs.replace(
        base, arrivals=ArrivalProcess.CLOSED, rate=None, cv=None, max_in_flight=None, users=users, limits=limits
    )


def _most_users(options: SweepOptions) -> int:
    """The many: no more than may be in flight, since no rate has the server do more than so many at once."""
    limit = options.base.max_in_flight
    return options.users if limit is None else min(options.users, limit)


def _between(one: Step, many: Step, points: int) -> tuple[float, ...]:
    low, high = (step.metrics.get("request_throughput") or 0.0 for step in (one, many))
    if not (low > 0 and high > 0):
        raise PermanentInfraError(
            f"one user completed {low:.4g} req/s and many {high:.4g}: there are no rates between to try"
        )
    return rates_between(low, high, points)


def _in_words(promise: SloClass) -> str:
    limits: Iterator[tuple[str, float | None]] = iter(
        (("TTFT", promise.ttft_ms), ("TPOT", promise.tpot_ms), ("E2E", promise.e2e_ms))
    )
    words = ", ".join(f"{name} <= {value:g} ms" for name, value in limits if value is not None)
    return f"{promise.name}: {words}" if words else promise.name


def check_sweep(options: SweepOptions) -> None:
    """Refuse what makes no sweep. Pure.

    Raises:
        UserError: a number out of range, or a load that is not one of a rate.
    """
    base = options.base
    rates: Sequence[float] = options.rates or ()
    if not 0 < options.goodput_share <= 1:
        raise UserError(
            f"{options.goodput_share:g} is no share", key="--goodput-share", hint="above 0, at most 1, as 0.9"
        )
    if options.points < 1:
        raise UserError(f"{options.points} rates are none", key="--points", hint="at least 1")
    if options.users < 1:
        raise UserError(f"{options.users} users are none", key="--users", hint="at least 1")
    if base.arrivals in (ArrivalProcess.TRACE, ArrivalProcess.CLOSED):
        raise UserError(
            f"{base.arrivals.value} arrivals have no rate", key="--arrivals", hint="poisson, gamma or constant"
        )
    if options.rates is not None and len({f"{rate:g}" for rate in rates}) < len(rates):
        raise UserError("two rates are all but the same", key="--rates", hint="remove one")
