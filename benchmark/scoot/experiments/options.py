"""Options that the commands of the experiments share. IO: looks for the checkout."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from scoot.experiments.run import Design

T = TypeVar("T", bound=Callable[..., Any])

_CHECKOUT: Final = Path(".scoot") / "experiments"


def _with(*options: Callable[[T], T]) -> Callable[[T], T]:
    """Several options at once."""

    def add(command: T) -> T:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def with_services(default: str | None = "development") -> Callable[[T], T]:
    """--services."""
    return click.option(
        "--services",
        default=default,
        show_default=default is not None,
        metavar="NAMES",
        help="development, judging, all, a group, an application, or names; with commas; A&B is what is in both.",
    )


with_cache = click.option(
    "--cache", metavar="FOLDER", help="Remembered trials. Default: .scoot/experiments in a checkout, else a new one."
)
with_place = _with(
    with_cache,
    click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Processes."),
    click.option("--backend", default="loky", show_default=True, metavar="NAME", help="joblib's: loky, dask, ray, ..."),
)
with_runs = _with(
    click.option("--seeds", type=click.IntRange(1), default=10, show_default=True, metavar="N"),
    click.option(
        "--budget", type=click.IntRange(1), default=30, show_default=True, metavar="N", help="Trials of a run."
    ),
    click.option(
        "--design",
        type=click.Choice([each.value for each in Design]),
        default=Design.OWN.value,
        show_default=True,
        help="First configurations: each method's own, or the same for all.",
    ),
    click.option("--noise/--exact", default=True, help="Whether methods are told standard errors."),
    click.option("--out", required=True, metavar="FOLDER", help="Results; runs that are there are not repeated."),
)


def cache_of(given: str | None) -> Path:
    """The folder of remembered trials: the given one, the checkout's, or one for this once."""
    if given is not None:
        return Path(given)
    if Path(".git").exists():
        return _CHECKOUT
    return Path(tempfile.mkdtemp(prefix="scoot-experiments-"))


def names_of(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def tell(line: str) -> None:
    """A line about progress: on standard error, so that tables can be piped."""
    click.echo(line, err=True)
    sys.stderr.flush()
