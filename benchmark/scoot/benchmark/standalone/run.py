"""One run of the stand-alone tool: asked, planned, loaded, summarised. IO."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

import msgspec

from scoot.benchmark.plan import LoadPlan
from scoot.benchmark.standalone import folder as files
from scoot.benchmark.standalone.exits import Exit
from scoot.benchmark.standalone.follow import follow
from scoot.benchmark.standalone.launch import Child, Interrupts, fork
from scoot.benchmark.standalone.options import RunOptions
from scoot.benchmark.standalone.planning import made_rows, plan_of, with_option, workload_of
from scoot.benchmark.standalone.server import Server, refusal
from scoot.benchmark.standalone.view import Follower, offered
from scoot.benchmark.trace_row import TraceRow
from scoot.benchmark.workload import ResolvedWorkload, resolve
from scoot.wire.errors import PermanentInfraError, UserError
from scoot.wire.measurement import LoadAudit
from scoot.wire.spec import Workload

if TYPE_CHECKING:
    from scoot.benchmark.standalone.summary import RunSummary

_BAD_PLAN: Final = 2
"""See scoot.benchmark.process: the plan cannot be executed."""


class Manner(msgspec.Struct, frozen=True, kw_only=True):
    """How a run talks to its user.

    Attributes:
        command: the command line, for the summary.
        as_json: the summary goes to standard output as JSON, everything else to standard error.
        quiet: no progress and no table.
        table: whether the table is printed.
        records: whether Parquet files are written.
        title: of the live view.
        orphaned_by: a file descriptor whose end means that nobody waits for the run any more; -1 for none.
    """

    command: tuple[str, ...] = ()
    as_json: bool = False
    quiet: bool = False
    table: bool = True
    records: bool = True
    title: str = ""
    orphaned_by: int = -1

    @property
    def stream(self) -> TextIO:
        """Where people look."""
        return sys.stderr if self.as_json else sys.stdout


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A run that can begin."""

    options: RunOptions
    server: Server
    workload: Workload
    resolved: ResolvedWorkload


def prepare(options: RunOptions, server: Server, rows: tuple[TraceRow, ...] | None) -> Prepared:
    """Resolve the workload.

    Args:
        options: checked.
        server: what it told.
        rows: of the trace; None to make them.

    Raises:
        UserError: the workload makes no sense.
    """
    workload = workload_of(options, rows or ())
    try:
        made = made_rows(options) if rows is None else rows
        resolved = resolve(workload, max_model_len=server.max_model_len, rows=made)
    except UserError as error:
        raise with_option(error) from error
    return Prepared(options=options, server=server, workload=workload, resolved=resolved)


def trace_rows(options: RunOptions) -> tuple[TraceRow, ...] | None:
    """Rows of the trace; None where there is none.

    Raises:
        UserError: it cannot be read.
    """
    if options.trace is None:
        return None
    from scoot.benchmark.trace_file import read_trace

    if not Path(options.trace).exists():
        raise UserError("there is no such trace file", path=options.trace, key="--trace", hint="check the path")
    try:
        return read_trace(options.trace, format=options.format)
    except UserError as error:
        raise with_option(error) from error


def run(prepared: Prepared, folder: Path, manner: Manner) -> Exit:
    """Load, follow, summarise. The child is forked before anything heavy is loaded.

    Raises:
        PermanentInfraError: the load process failed, or a file cannot be written; says how.
        UserError: the load process refuses the plan.
    """
    started_at = datetime.now(UTC)
    plan = _written_plan(prepared, folder)
    interrupts = Interrupts()
    with interrupts.counted():
        child = fork(_load(folder / files.PLAN), log=folder / files.LOG)
        interrupts.watch(child)
        try:
            code = _followed(child, plan, manner, interrupts)
        except BaseException:
            child.kill()
            child.wait()
            raise
    if interrupts.count > 1:
        manner.stream.write(f"killed: what was measured until then is in {folder / files.SPOOL}\n")
        return Exit.INTERRUPTED
    audits = _audits(code, folder, interrupted=interrupts.count > 0)
    if not audits:
        manner.stream.write("stopped before anything was measured\n")
        return Exit.INTERRUPTED
    return _summarised(prepared, plan, folder, manner, audits, started_at, interrupted=interrupts.count > 0)


def _load(plan: Path) -> Callable[[], int]:
    def work() -> int:
        from scoot.benchmark.process import main

        return main([str(plan)])

    return work


def _written_plan(prepared: Prepared, folder: Path) -> LoadPlan:
    plan = plan_of(
        prepared.options,
        prepared.workload,
        model=prepared.server.model,
        max_model_len=prepared.server.max_model_len,
        folder=str(folder),
    )
    files.write_whole(folder / files.ROWS, prepared.resolved.blob)
    files.write_whole(folder / files.PLAN, msgspec.json.encode(plan))
    return plan


def _followed(child: Child, plan: LoadPlan, manner: Manner, interrupts: Interrupts) -> int:
    from scoot.benchmark.standalone.live import make_display

    title = manner.title or f"{plan.model} at {', '.join(plan.targets)}: {offered(plan.workload)}"
    display = make_display(manner.stream, title, quiet=manner.quiet)
    return follow(
        child,
        Follower(plan.workload, len(plan.run_seeds)),
        display,
        interrupts,
        watch=manner.orphaned_by,
    )


def _audits(code: int, folder: Path, *, interrupted: bool) -> tuple[LoadAudit, ...]:
    """What the load process observed of itself; none if it was stopped before it measured anything.

    Raises:
        PermanentInfraError: it failed.
        UserError: it refuses the plan.
    """
    last = files.last_line(folder / files.LOG) or "it said nothing"
    if code == 0:
        try:
            data = (folder / files.AUDIT).read_bytes()
            audits = msgspec.json.decode(data, type=tuple[LoadAudit, ...])
        except (OSError, msgspec.DecodeError) as error:
            raise PermanentInfraError(f"the load process left no audit: {error}") from error
        if not audits and not interrupted:
            raise PermanentInfraError(f"the load process measured nothing: {last}")
        return audits
    if interrupted and code < 0:
        return ()
    if code == _BAD_PLAN:
        raise UserError(last)
    if code == errno.ENOSPC:
        raise PermanentInfraError(f"no space for the timings: {last}")
    how = f"exit code {code}" if code > 0 else f"signal {-code}"
    raise PermanentInfraError(f"the load process ended with {how}: {last} (its log is {folder / files.LOG})")


def _summarised(
    prepared: Prepared,
    plan: LoadPlan,
    folder: Path,
    manner: Manner,
    audits: tuple[LoadAudit, ...],
    started_at: datetime,
    *,
    interrupted: bool,
) -> Exit:
    from scoot.benchmark.standalone import summary as of
    from scoot.benchmark.standalone.table import summary_text, verdict_line

    runs = of.run_summaries(
        files.read_spool(folder / files.SPOOL),
        audits,
        seeds=plan.run_seeds,
        classes=plan.workload.slo_classes,
        limits=plan.limits,
        interrupted=interrupted,
        max_in_flight=plan.workload.arrivals.max_in_flight,
    )
    state, detail = of.verdict(runs, interrupted=interrupted)
    metrics, spread = of.over_runs(runs)
    records_note = _no_records(wanted=manner.records)
    said = files.last_line(folder / files.LOG)
    summary = of.Summary(
        schema=of.SCHEMA,
        state=state,
        detail=detail,
        metrics=metrics,
        spread=spread,
        runs=runs,
        target=of.Target(
            urls=plan.targets,
            model=plan.model,
            endpoint=plan.endpoint.value,
            prompt=plan.prompt_mode.value,
            ignore_eos=plan.ignore_eos,
            max_model_len=plan.max_model_len or None,
            headers=tuple(name for name, _ in plan.headers),
        ),
        workload=plan.workload,
        facts=prepared.resolved.facts,
        seeds=plan.run_seeds,
        limits=plan.limits,
        command=manner.command,
        versions=versions(),
        started_at=started_at.isoformat(timespec="seconds"),
        notes=(*of.caveats(runs, plan.limits), *_refusal(prepared, runs), *((said,) if said else ()), *records_note),
    )
    files.write_whole(folder / files.SUMMARY, msgspec.json.format(msgspec.json.encode(summary), indent=2))
    if manner.records and not records_note:
        from scoot.benchmark.standalone.records import write_records

        write_records(folder / files.SPOOL, folder / files.REQUESTS, folder / files.TOKENS)
    if manner.as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(summary), indent=2).decode() + "\n")
    if not manner.quiet and manner.table:
        manner.stream.write(f"{summary_text(summary)}\nresults: {folder}\n")
    elif manner.quiet and not summary.valid:
        sys.stderr.write(verdict_line(summary) + "\n")
    return {of.VALID: Exit.OK, of.INVALID: Exit.INVALID}.get(state, Exit.INTERRUPTED)


def _refusal(prepared: Prepared, runs: Sequence[RunSummary]) -> tuple[str, ...]:
    """The server's own words, where it refused every request: the load does not keep them, so it is asked again."""
    from scoot.benchmark.standalone.summary import all_refused

    if not all_refused(runs):
        return ()
    return (f"the server refuses every request: {refusal(prepared.options, prepared.server.model)}",)


def _no_records(*, wanted: bool) -> tuple[str, ...]:
    """A note where the Parquet files are wanted and cannot be written."""
    if not wanted:
        return ()
    from scoot.benchmark.standalone.records import REMEDY, available

    return () if available() else (f"no {files.REQUESTS} and {files.TOKENS}: pyarrow is not installed ({REMEDY})",)


def versions() -> dict[str, str]:
    """Of SCOOT, Python and the kernel."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        scoot = version("scoot-tuner")
    except PackageNotFoundError:
        scoot = "unknown"
    system = os.uname()
    return {
        "scoot": scoot,
        "python": ".".join(map(str, sys.version_info[:3])),
        "kernel": f"{system.sysname} {system.release} {system.machine}",
    }
