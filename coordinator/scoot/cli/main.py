"""scootctl: the command line."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from scoot.cli.catalogue_command import catalogue
from scoot.cli.doctor import doctor
from scoot.cli.engines_command import engines
from scoot.cli.exits import MEANING, ChildDiedError, CoordinatorUnreachableError, Exit
from scoot.cli.host_commands import agents, validate
from scoot.cli.study_commands import cancel, list_studies, report, results, status, submit, watch
from scoot.cli.tune_command import tune_command
from scoot.cli.why_command import why_command
from scoot.wire.errors import ScootError, UserError

_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code.value:>3}  {text}" for code, text in MEANING.items())


class _Group(click.Group):
    """Commands whose errors become one clear line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Run a command; SCOOT's errors are shown and never traced, unless --debug."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader of our output went away (`| head`): nothing to say, and nobody to say it to.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(Exit.OK)
        except ScootError as error:
            if ctx.params.get("debug"):
                raise
            show(error)
            ctx.exit(exit_code(error))


def exit_code(error: ScootError) -> Exit:
    """The exit code of an error."""
    if isinstance(error, CoordinatorUnreachableError):
        return Exit.UNREACHABLE
    if isinstance(error, UserError) and not isinstance(error, ChildDiedError):
        return Exit.USAGE
    return Exit.FAILED


def show(error: ScootError) -> None:
    """Write an error to standard error: what and where, then the remedy on a line of its own."""
    if isinstance(error, UserError):
        plain = UserError(error.message, path=error.path, line=error.line, key=error.key)
        click.echo(f"error: {plain}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
    else:
        click.echo(f"error: {error}", err=True)


def _version() -> str:
    try:
        return version("scoot-tuner")
    except PackageNotFoundError:
        return "unknown"


@click.group(cls=_Group, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(_version(), prog_name="scootctl")
def cli(debug: bool) -> None:
    """Tunes LLM inference engine flags against your own request trace."""


for _command in (
    tune_command,
    submit,
    list_studies,
    status,
    watch,
    cancel,
    results,
    report,
    why_command,
    agents,
    engines,
    validate,
    catalogue,
    doctor,
):
    cli.add_command(_command)


def main() -> None:
    """Entry point of the console script."""
    cli(prog_name="scootctl")
