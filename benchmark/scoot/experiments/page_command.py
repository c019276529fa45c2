"""The page of results on the command line. IO."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from scoot.experiments import catalogue
from scoot.experiments.figures import FIGURE_2, FIGURE_13
from scoot.experiments.landscape import conflict, transfer
from scoot.experiments.memo import fingerprint
from scoot.experiments.options import cache_of, names_of, tell, with_cache
from scoot.experiments.page import Comparison, Page, page_of, slug
from scoot.experiments.plots import styles_of, svg
from scoot.experiments.reference import known_of
from scoot.experiments.run_file import finished, read_runs
from scoot.experiments.series import Conflicts
from scoot.experiments.table import labels
from scoot.wire.errors import PermanentInfraError, UserError

_FIGURES: Final = ("2", "13")
_PLOT: Final = r"\]\({}/([a-z0-9-]+)\.svg\)"
"""Links to a page's own plots."""


@click.command("page")
@click.argument("folders", nargs=-1, required=True, metavar="[TITLE=]FOLDER...")
@click.option("--out", required=True, metavar="FILE", help="The page; its plots go into a folder of its name.")
@click.option("--against", default="scoot", show_default=True, metavar="METHOD", help="Whom others are compared with.")
@click.option("--figures", default="", metavar="N,...", help="2, 13: needs no runs; run `reference` first.")
@with_cache
def page_command(folders: tuple[str, ...], out: str, against: str, figures: str, cache: str | None) -> None:
    """A page of finished runs: Markdown, and plots as SVG beside it. Each folder is a comparison of its own."""
    memo = str(cache_of(cache))
    wanted = names_of(figures)
    if not set(wanted) <= set(_FIGURES):
        raise UserError(f"{figures!r} names a figure that there is not", key="--figures", hint="2, 13 or both")
    named = [_named(each) for each in folders]
    titles = [slug(title) for title, _ in named]
    if len(set(titles)) < len(titles):
        raise UserError("two folders have the same title", key="FOLDER", hint='"TITLE=FOLDER" gives one another title')
    path = Path(out)
    comparisons = [_comparison(title, folder, memo) for title, folder in named]
    found = page_of(
        comparisons,
        command=_command(named, path, against, wanted),
        folder=path.stem,
        against=against,
        transfer=transfer(memo, catalogue.select(",".join(FIGURE_2))) if "2" in wanted else None,
        conflicts=(
            Conflicts(conflicts=tuple(conflict(memo, each) for each in catalogue.select(",".join(FIGURE_13))))
            if "13" in wanted
            else None
        ),
    )
    _write(path, found, [label for each in comparisons for label in labels(each.runs)])
    tell(f"{path} and {len(found.plots)} plots")


def _named(text: str) -> tuple[str, Path]:
    """A folder and its title: what was given before a "=", else its name."""
    title, given, rest = text.partition("=")
    if given and not Path(text).exists():
        return title.strip(), Path(rest)
    return Path(text).name, Path(text)


def _shown(path: Path) -> str:
    """A path as the page names it: nothing of the machine on which it was made."""
    return path.name if path.is_absolute() or ".." in path.parts else str(path)


def _command(named: Sequence[tuple[str, Path]], out: Path, against: str, figures: Sequence[str]) -> tuple[str, ...]:
    """What makes the page again."""
    folders = [_shown(path) if title == path.name else f"{title}={_shown(path)}" for title, path in named]
    chosen = ("--against", against) if against != "scoot" else ()
    drawn = ("--figures", ",".join(figures)) if figures else ()
    return ("page", *folders, "--out", _shown(out), *chosen, *drawn)


def _comparison(title: str, folder: Path, memo: str) -> Comparison:
    runs = tuple(read_runs(folder))
    if not runs:
        raise UserError("there are no runs", path=str(folder), hint="`compare` makes them")
    ran = {run.spec.service for run in runs}
    gone = sorted(ran - catalogue.SERVICES.keys())
    if gone:
        raise UserError(f"there is no service {gone[0]} any more", path=str(folder), hint="remove its runs")
    services = [name for name in catalogue.SERVICES if name in ran]
    prints = {name: fingerprint(catalogue.SERVICES[name]) for name in services}
    stale = sum(not run.error and not finished(folder, run.spec, prints[run.spec.service]) for run in runs)
    return Comparison(title=title, folder=_shown(folder), runs=runs, known=known_of(memo, services), stale=stale)


def _write(path: Path, page: Page, drawn: Sequence[str]) -> None:
    """The page, and its plots; those of the page that was there go first."""
    beside = path.parent / path.stem
    styles = styles_of(drawn)
    try:
        beside.mkdir(parents=True, exist_ok=True)
        former = path.read_text(encoding="utf-8") if path.exists() else ""
        for name in re.findall(_PLOT.format(re.escape(path.stem)), former):
            (beside / f"{name}.svg").unlink(missing_ok=True)
        for name, plot in page.plots.items():
            (beside / f"{name}.svg").write_bytes(svg(plot, styles))
        path.write_text(page.text, encoding="utf-8")
    except OSError as error:
        raise PermanentInfraError(f"{path} cannot be written: {error.strerror}") from error
