"""scootctl why: why a trial was suggested."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click

from scoot.cli.files import read_text
from scoot.cli.options import AS_JSON, Connection, connection_options, print_json, run_async
from scoot.cli.why_view import text, why
from scoot.wire import limits
from scoot.wire.errors import UserError

_RESULTS: Final = "results.json"


@click.command(name="why")
@click.argument("study", metavar="STUDY")
@click.argument("trial", type=click.IntRange(min=0))
@AS_JSON
@connection_options
@run_async
async def why_command(study: str, trial: int, as_json: bool, connection: Connection) -> None:
    """Show why a trial was suggested, and what came of it.

    STUDY is a study's id, the folder of a `tune`, or a results.json; TRIAL is the trial's number.
    """
    path = results_path(study)
    if path is not None:
        view = why(read_text(path, limit_bytes=limits.REPLY_BYTES), trial, path=str(path))
    else:
        async with connection.open() as coordinator:
            report = await coordinator.get_report(study)
        view = why(report.json, trial, path=study)
    if as_json:
        print_json(view)
    else:
        click.echo(text(view))


def results_path(study: str) -> Path | None:
    """The file to read; None if `study` is the id of a study, which has neither a slash nor an ending.

    Raises:
        UserError: a folder without results.
    """
    path = Path(study)
    named = os.sep in study or study.endswith(".json") or study in (os.curdir, os.pardir)
    if path.is_dir() and (named or (path / _RESULTS).is_file()):
        if not (path / _RESULTS).is_file():
            raise UserError(
                f"has no {_RESULTS} yet",
                path=study,
                hint="it is written when the study ends; until then ask its coordinator, at coordinator.address there",
            )
        return path / _RESULTS
    return path if named else None
