"""scootctl submit, list, status, watch, cancel, results, report."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

import click

from scoot.cli.client import Coordinator
from scoot.cli.csv_table import csv_table
from scoot.cli.exits import Exit
from scoot.cli.files import write_file, write_report
from scoot.cli.follow import exit_of, follow, until_interrupted
from scoot.cli.interrupts import Interrupts
from scoot.cli.live import make_display
from scoot.cli.options import AS_JSON, OVERRIDES, STUDY_FILE, Connection, connection_options, print_json, run_async
from scoot.cli.progress import headline, progress
from scoot.cli.resolve import resolve_study
from scoot.cli.text import columns, duration, number, one_line, scalar
from scoot.wire.errors import UserError
from scoot.wire.view import Study

_STUDY_ID = click.argument("study_id", metavar="ID")


@click.command()
@STUDY_FILE
@OVERRIDES
@click.option("--follow", "following", is_flag=True, help="Show its progress until it ends.")
@connection_options
@run_async
async def submit(study: Path, overrides: tuple[str, ...], following: bool, connection: Connection) -> None:
    """Submit a study to the coordinator and print its id."""
    resolved = resolve_study(study, overrides)
    async with connection.open() as coordinator:
        created = await coordinator.create_study(resolved.spec, resolved.blob, uuid.uuid4().hex)
        click.echo(created.study_id)
        if following:
            await _watch(coordinator, created.study_id)


@click.command()
@_STUDY_ID
@connection_options
@run_async
async def watch(study_id: str, connection: Connection) -> None:
    """Show a study's progress until it ends. Ctrl-C ends the watching, not the study."""
    async with connection.open() as coordinator:
        await _watch(coordinator, study_id)


async def _watch(coordinator: Coordinator, study_id: str) -> None:
    """Follow a study; ends the command with the exit code that says how the study ended."""
    display = make_display()
    with Interrupts() as interrupts:
        try:
            detail = await until_interrupted(follow(coordinator, study_id, display), interrupts)
        finally:
            display.close()
    if detail is None:
        click.echo(f"the study goes on: scootctl watch {study_id}, or scootctl cancel {study_id}", err=True)
        raise click.exceptions.Exit(Exit.INTERRUPTED)
    click.echo("\n".join(headline(detail)))
    raise click.exceptions.Exit(exit_of(detail))


@click.command(name="list")
@AS_JSON
@connection_options
@run_async
async def list_studies(as_json: bool, connection: Connection) -> None:
    """List the coordinator's studies, newest first."""
    async with connection.open() as coordinator:
        studies = await coordinator.list_studies()
    if as_json:
        print_json(studies)
        return
    rows: list[tuple[str, ...]] = [("ID", "NAME", "STATE", "TRIALS", "BEST", "SUBMITTED")]
    rows += [_list_row(study) for study in studies]
    click.echo(columns(rows))


def _list_row(study: Study) -> tuple[str, ...]:
    submitted = datetime.fromtimestamp(study.created_at_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    best = "-" if study.best_trial is None else str(study.best_trial)
    trials = f"{study.trials_finished}/{study.spec.budget.trials}"
    return (study.study_id, study.spec.name, study.state.value, trials, best, submitted)


@click.command()
@_STUDY_ID
@AS_JSON
@connection_options
@run_async
async def status(study_id: str, as_json: bool, connection: Connection) -> None:
    """Show a study and its trials as they are now."""
    async with connection.open() as coordinator:
        detail = await coordinator.get_study(study_id)
    if as_json:
        print_json(detail)
        return
    view = progress(detail, datetime.now(UTC).timestamp())
    click.echo(f"{view.study_id}  {view.title}")
    eta = "" if view.eta_s is None else f", about {duration(view.eta_s)} to go"
    click.echo(f"{view.state.value}: {view.finished} of {view.budget} trials, {duration(view.elapsed_s)}{eta}")
    if view.waiting:
        click.echo(one_line(view.waiting))
    metrics = view.rows[0].figures if view.rows else ()
    rows: list[tuple[str, ...]] = [
        ("TRIAL", "FROM", "STATE", *(figure.metric.name.upper() for figure in metrics), "DIFFERS IN", "NOTE")
    ]
    for row in view.rows:
        figures = ("-" if figure.value is None else number(figure.value) for figure in row.figures)
        differs = " ".join(f"{name}={scalar(value)}" for name, value in row.changes.items())
        mark = " *" if row.is_best else ""
        rows.append((f"{row.number}{mark}", row.label, row.status, *figures, differs, row.note))
    click.echo(columns(rows))


@click.command()
@_STUDY_ID
@click.option("--reason", default="cancelled with scootctl", show_default=True, help="Shown with the study.")
@connection_options
@run_async
async def cancel(study_id: str, reason: str, connection: Connection) -> None:
    """Cancel a study. Its running engines are stopped; what it measured is kept."""
    async with connection.open() as coordinator:
        study = await coordinator.cancel_study(study_id, reason)
    click.echo(f"{study.study_id} {study.state.value}{'' if study.state.is_terminal else ', stopping its engines'}")


@click.command()
@_STUDY_ID
@click.option("--json", "form", flag_value="json", default=True, help="results.json (docs/results.schema.json).")
@click.option("--csv", "form", flag_value="csv", help="One row per trial and arrival order.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file instead.")
@connection_options
@run_async
async def results(study_id: str, form: str, out: Path | None, connection: Connection) -> None:
    """Print a study's results."""
    async with connection.open() as coordinator:
        if form == "csv":
            text = csv_table(await coordinator.get_study(study_id))
        else:
            text = (await coordinator.get_report(study_id)).json
    if out is None:
        click.echo(text, nl=not text.endswith("\n"))
    else:
        write_file(out, text.encode())
        click.echo(str(out))


@click.command()
@_STUDY_ID
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder. Default: ID-report.")
@connection_options
@run_async
async def report(study_id: str, out: Path | None, connection: Connection) -> None:
    """Write a study's report: results.json, report.md, report.html."""
    async with connection.open() as coordinator:
        content = await coordinator.get_report(study_id)
    folder = out or Path(f"{study_id}-report")
    if folder.exists() and not folder.is_dir():
        raise UserError("is not a folder", path=str(folder), key="--out", hint="name a folder")
    for path in write_report(folder, content):
        click.echo(str(path))
