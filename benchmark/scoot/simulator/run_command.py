"""`python -m scoot.simulator run`: a stress test in virtual time, and its metrics. IO."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final

import click
import msgspec

from scoot.benchmark.standalone.exits import MEANING, Exit
from scoot.wire.errors import UserError

if TYPE_CHECKING:
    from scoot.benchmark.standalone.summary import RunSummary, Summary
    from scoot.simulator.service import SimulatedService
    from scoot.simulator.settings import Resolved
    from scoot.simulator.stress import StressTest
    from scoot.simulator.trial import Trial
    from scoot.simulator.workload_file import WorkloadFile

ENGINE_FAILED: Final = 4
"""Exit code, besides those of the stand-alone load generator, where the simulated engine does not start, or ends."""

ENGINE_FILE: Final = "engine.json"

_MOST_RUNS: Final = 1_000
_MOST_SEED: Final = (1 << 63) - 1 - _MOST_RUNS
_EPILOG: Final = "\b\nExit codes:\n" + "\n".join(
    f"  {code:>3}  {text}"
    for code, text in (
        (Exit.OK.value, "done"),
        (Exit.FAILED.value, "results could not be written"),
        (Exit.USAGE.value, "wrong usage or bad input"),
        (Exit.INVALID.value, MEANING[Exit.INVALID]),
        (ENGINE_FAILED, "the simulated engine does not start with this configuration, or ends under the load"),
        (Exit.INTERRUPTED.value, "stopped by Ctrl-C"),
    )
)


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for."""

    service: SimulatedService
    workload: WorkloadFile
    seeds: tuple[int, ...]
    transport_s: float


@click.command("run", epilog=_EPILOG)
@click.option("--config", "config_path", metavar="FILE", help="The simulated service. Default: the study's.")
@click.option(
    "--workload", "workload_path", required=True, metavar="FILE", help="TOML with [workload], or a study file."
)
@click.option("--seed", type=click.IntRange(0, _MOST_SEED), metavar="N", help="Default: workload.seed of the file.")
@click.option(
    "--runs", type=click.IntRange(1, _MOST_RUNS), default=1, show_default=True, metavar="K", help="Arrival orders."
)
@click.option(
    "--transport-ms",
    type=click.FloatRange(0, 60_000),
    default=0.0,
    show_default=True,
    metavar="MS",
    help="From the client to the engine, and back.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.option("--out", metavar="FOLDER", help="New folder for summary.json and engine.json.")
@click.pass_context
def run(
    ctx: click.Context,
    config_path: str | None,
    workload_path: str,
    seed: int | None,
    runs: int,
    transport_ms: float,
    as_json: bool,
    out: str | None,
) -> None:
    """Stress-test a simulated service in virtual time: the metrics of a real test, in a fraction of a second."""
    from scoot.simulator.workload_file import read_workload

    workload = read_workload(workload_path, seed=seed)
    first = workload.workload.seed
    request = _Request(
        service=_service(config_path, workload),
        workload=workload,
        seeds=tuple(first + run for run in range(runs)),
        transport_s=transport_ms / 1e3,
    )
    folder = _folder(out)
    began_s = perf_counter()
    summary, resolved, simulated_s = _simulated(request)
    wall_s = perf_counter() - began_s
    if folder is not None:
        _write(folder, summary, resolved)
    if as_json:
        sys.stdout.write(_json(summary) + "\n")
    else:
        from scoot.benchmark.standalone.table import summary_text

        sys.stdout.write(f"{_heading(request, simulated_s, wall_s)}\n\n{summary_text(summary)}\n")
        if folder is not None:
            sys.stdout.write(f"results: {folder}\n")
    ctx.exit(_exit_code(summary))


def _service(config_path: str | None, workload: WorkloadFile) -> SimulatedService:
    """The service of --config, else of the study.

    Raises:
        UserError: there is none, or it makes no sense.
    """
    from scoot.simulator.profile_file import read_profile
    from scoot.simulator.service_file import read_service
    from scoot.simulator.study_service import default_of, profile_of, service_of_study

    if config_path is not None:
        return read_service(config_path)
    if workload.service is None:
        raise UserError(
            "is missing",
            key="--config",
            hint='give a service file, or as --workload a study file whose service.engine is "simulated"',
        )
    profile = profile_of(workload.service)
    fitted = read_profile(Path(workload.path).parent / profile) if profile else None
    return service_of_study(workload.service, default_of(workload.parameters), fitted=fitted)


def _simulated(request: _Request) -> tuple[Summary, Resolved | None, float]:
    """The summary, the engine if it started, and the simulated seconds, its start included."""
    from scoot.benchmark.standalone.run import versions
    from scoot.simulator.load import Load
    from scoot.simulator.outcome import Origin, cache_note, run_summary, summary_of
    from scoot.simulator.routing import routing_named
    from scoot.simulator.service import resolve
    from scoot.simulator.settings import StartFailure
    from scoot.simulator.stress import stress
    from scoot.simulator.trial import judged, start_failed, start_too_slow

    started_at = datetime.now(UTC)
    service, limits = request.service, request.workload.limits
    workload = request.workload.workload
    resolved: Resolved | None = None
    failure: Trial | None = None
    replicas = 0
    summaries: list[RunSummary] = []
    tests: list[StressTest] = []
    try:
        resolved, replicas = resolve(service)
    except StartFailure as error:
        failure = start_failed(error, seed=request.seeds[0])
    if resolved is not None and resolved.start_s > limits.start_timeout_s:
        failure = start_too_slow(resolved, limits=limits, seed=request.seeds[0])
    rows = request.workload.rows(service.max_model_len if resolved is None else resolved.scheduler.max_model_len)
    simulated_s = resolved.start_s if resolved is not None else 0.0
    for number, seed in enumerate(request.seeds):
        if resolved is None or failure is not None:
            break
        load = Load(workload, rows.rows, seed=seed)
        tested = stress(
            resolved,
            replicas,
            load,
            run=number,
            routing=routing_named(service.routing),
            limits=limits,
            transport_s=request.transport_s,
        )
        tests.append(tested)
        summaries.append(run_summary(tested, load, seeds=request.seeds, limits=limits))
        simulated_s += tested.audit.wall_s
        if tested.end.died or tested.end.hung:
            failure = judged(tested, load, limits=limits, start_s=resolved.start_s)
    origin = Origin(
        service=service,
        workload=workload,
        facts=rows.facts,
        seeds=request.seeds,
        limits=limits,
        command=tuple(sys.argv[1:]),
        versions=versions(),
        started_at=started_at.isoformat(timespec="seconds"),
    )
    return summary_of(origin, summaries, failure=failure, notes=cache_note(tests)), resolved, simulated_s


def _exit_code(summary: Summary) -> int:
    from scoot.benchmark.standalone.summary import VALID
    from scoot.simulator.outcome import FAILED

    if summary.state == FAILED:
        return ENGINE_FAILED
    return (Exit.OK if summary.state == VALID else Exit.INVALID).value


def _heading(request: _Request, simulated_s: float, wall_s: float) -> str:
    service = request.service
    what = f"{service.engine}, {service.model}, {service.devices} x {service.gpu}".upper()
    return f"SIMULATED, NOTHING WAS MEASURED: {what}\n{simulated_s:.1f} s of virtual time in {wall_s:.2f} s"


def _json(summary: Summary) -> str:
    return msgspec.json.format(msgspec.json.encode(summary), indent=2).decode()


def _folder(out: str | None) -> Path | None:
    if out is None:
        return None
    from scoot.benchmark.standalone.folder import make_folder

    return make_folder(out, kind="sim")


def _write(folder: Path, summary: Summary, resolved: Resolved | None) -> None:
    """summary.json, and what the engine is.

    Raises:
        PermanentInfraError: they cannot be written.
    """
    from scoot.benchmark.standalone.folder import SUMMARY, write_whole

    write_whole(folder / SUMMARY, _json(summary).encode())
    if resolved is not None:
        scheduler = msgspec.to_builtins(resolved.scheduler)
        engine = {
            "engine": resolved.engine,
            "tensor_parallel": resolved.tensor_parallel,
            "start_s": resolved.start_s,
            "effective": resolved.effective,
            "scheduler": scheduler,
            "log": resolved.log,
        }
        write_whole(folder / ENGINE_FILE, msgspec.json.format(msgspec.json.encode(engine), indent=2))
