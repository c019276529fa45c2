"""The command line of `scootctl tune`."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import click
import msgspec

from scoot.cli.agent_file import check_model, engines_of, slots_of
from scoot.cli.exits import Exit
from scoot.cli.live import make_display
from scoot.cli.options import OVERRIDES, run_async
from scoot.cli.resolve import resolve_study
from scoot.cli.run_folder import RunFolder, RunRecord, new_folder
from scoot.cli.tune import tell_resume, tune
from scoot.wire import limits
from scoot.wire.errors import UserError
from scoot.wire.spec import StudySpec
from scoot.wire.study_file import located

_BASE = Path(".scoot")


@click.command(name="tune")
@click.argument("study", type=click.Path(path_type=Path), required=False)
@OVERRIDES
@click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), help="Run folder. Default: .scoot/tune-NAME-N."
)
@click.option(
    "--engine",
    "engines",
    multiple=True,
    metavar="NAME=PYTHON",
    help="The interpreter an engine lives in; also SCOOT_VLLM_PYTHON. SCOOT's own engines (simulated, mock) need none.",
)
@click.option(
    "--slots",
    type=click.IntRange(1, limits.DEVICES_PER_AGENT),
    help="CPU slots of the agent. Default: what the study can use at once.",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="NAME",
    help="Allow the study an engine flag or variable besides the usual ones. May be repeated.",
)
@click.option("--resume", type=click.Path(path_type=Path, file_okay=False), help="Go on with the run in this folder.")
@run_async
async def tune_command(
    study: Path | None,
    overrides: tuple[str, ...],
    data: Path | None,
    engines: tuple[str, ...],
    slots: int | None,
    allow: tuple[str, ...],
    resume: Path | None,
) -> None:
    """Run a whole study on this machine: starts its own coordinator and agent, follows, reports, stops them.

    Ctrl-C cancels the study and waits for its engines to stop; a second one kills everything at once.
    """
    if (study is None) == (resume is None):
        raise click.UsageError("give either STUDY or --resume DIR")
    if study is None:
        if overrides or data or engines or slots or allow or resume is None:
            raise click.UsageError("--resume takes the study as it was: nothing else can be given")
        folder, record, blob = resume, None, b""
        if not folder.is_dir():
            raise UserError("there is no such folder", path=str(folder), key="--resume")
    else:
        resolved = resolve_study(study, overrides)
        record = msgspec.structs.replace(_record(study, overrides, resolved.spec, engines, slots), allow=allow)
        folder, blob = data or new_folder(record.spec.name, _BASE), resolved.blob
    code = await tune(folder, record, blob, make_display())
    if code is Exit.INTERRUPTED and RunFolder(folder).record_path.exists():
        tell_resume(folder)
    raise click.exceptions.Exit(code)


def _record(
    study: Path, overrides: tuple[str, ...], spec: StudySpec, engines: tuple[str, ...], slots: int | None
) -> RunRecord:
    """What the run needs of this machine, checked before anything is written."""
    try:
        check_model(spec.service)
        found = engines_of(spec, engines, os.environ)
    except UserError as error:
        if error.path:
            raise
        raise located(error, study.read_text(), path=str(study), overrides=overrides) from error
    return RunRecord(idempotency_key=uuid.uuid4().hex, spec=spec, engines=found, slots=slots or slots_of(spec))
