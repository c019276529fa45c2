"""scootctl catalogue: an engine's options, what changed between versions, and a study's options against both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import msgspec

from scoot.cli.exits import Exit
from scoot.cli.files import read_text
from scoot.cli.options import AS_JSON, OVERRIDES, STUDY_FILE, print_json
from scoot.cli.text import columns, one_line, scalar
from scoot.wire import limits
from scoot.wire.catalogue.diff import CatalogueDiff, FieldChange, diff_catalogues
from scoot.wire.catalogue.option import Catalogue, EngineOption, Value, decode_catalogue
from scoot.wire.catalogue.overlay import Overlay, Tuning
from scoot.wire.catalogue.shelf import engines, overlay_of, snapshot_of, versions
from scoot.wire.catalogue.study_check import Finding, Level, check_options
from scoot.wire.errors import UserError
from scoot.wire.study_file import parse_study

_VALUE_CHARS: Final = 40
_FILE = click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path),
    help="A catalogue in a file, as tools/catalogue_snapshot.py writes it, instead of one of SCOOT's own.",
)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One option as `show` has it: what the engine says, and what is known; either may be missing."""

    name: str
    option: EngineOption | None
    tuning: Tuning | None


@click.group()
def catalogue() -> None:
    """Show what an engine's options are, what changed between versions, and check a study's against them."""


@catalogue.command()
@click.argument("engine")
@click.argument("version", default="")
@click.option("--all", "everything", is_flag=True, help="Also options of which nothing but the name is known.")
@_FILE
@AS_JSON
def show(engine: str, version: str, everything: bool, file: Path | None, as_json: bool) -> None:
    """List an engine's options: what they are, and how they are tuned. VERSION: the latest known if left out."""
    show_catalogue(engine, _catalogue(engine, version, file), everything=everything, as_json=as_json)


def show_catalogue(engine: str, found: Catalogue | None, *, everything: bool, as_json: bool) -> None:
    """Print an engine's options.

    Raises:
        UserError: nothing is known of the engine.
    """
    overlay = overlay_of(engine)
    rows = rows_of(found, overlay, everything=everything)
    if as_json:
        print_json({"engine": engine, "about": overlay.about, "catalogue": _head(found), "options": rows})
        return
    click.echo(_source(engine, found, overlay))
    table: list[tuple[str, ...]] = [("OPTION", "CLASS", "TYPE", "DEFAULT", "EFFECTIVE", "TUNED")]
    table += [_row(row) for row in rows]
    click.echo(columns(table))
    if found is not None and not everything:
        click.echo(f"{len(found.options) - sum(row.option is not None for row in rows)} more with --all")


def rows_of(found: Catalogue | None, overlay: Overlay, *, everything: bool) -> list[Row]:
    """Options by name: of a catalogue those that are known to matter, or all; without one those that are known."""
    if found is None:
        return [Row(name=name, option=None, tuning=tuning) for name, tuning in sorted(overlay.options.items())]
    rows = [Row(name=item.name, option=item, tuning=overlay.options.get(item.name)) for item in found.options]
    return [row for row in rows if everything or row.tuning is not None]


def _row(row: Row) -> tuple[str, ...]:
    option, tuning = row.option, row.tuning
    effect = "-" if tuning is None else tuning.effect.value
    tuned = "-" if tuning is None else f"{tuning.range() or '-'}{' *' if tuning.tune else ''}"
    if option is None:
        return (row.name, effect, "-", "-", "-", tuned)
    return (row.name, effect, option.kind.value, _shown(option.default), _shown(option.effective), tuned)


def _shown(value: Value | None) -> str:
    if value is None:
        return "-"
    text = " ".join(map(scalar, value)) or "[]" if isinstance(value, tuple) else scalar(value) or '""'
    text = one_line(text)
    return text if len(text) <= _VALUE_CHARS else f"{text[: _VALUE_CHARS - 3]}..."


def _source(engine: str, found: Catalogue | None, overlay: Overlay) -> str:
    """What the table is made of."""
    if found is None:
        return (
            f"{engine}: no version's own list of options comes with SCOOT, so this is only what is known of it\n"
            f"known from: {overlay.about}\n* tuned by default"
        )
    others = [version for version in versions(engine) if version != found.version]
    more = f"; other versions: {', '.join(others)}" if others else ""
    return f"{found.title}{more}\nknown from: {overlay.about}\n* tuned by default"


def _head(found: Catalogue | None) -> dict[str, str] | None:
    if found is None:
        return None
    return {"version": found.version, "device": found.device, "source": found.source.value}


def _catalogue(engine: str, version: str, file: Path | None) -> Catalogue | None:
    """The catalogue that is asked for; None when there is none of this engine.

    Raises:
        UserError: there is no such version, or the file is of another engine.
    """
    if file is None:
        return snapshot_of(engine, version)
    found = decode_catalogue(read_text(file, limit_bytes=limits.MESSAGE_BYTES).encode(), path=str(file))
    if found.engine != engine:
        raise UserError(f"is a catalogue of {found.engine}", path=str(file), key="engine", hint=f"not of {engine}")
    return found


@catalogue.command()
@click.argument("engine")
@click.argument("old")
@click.argument("new")
@AS_JSON
def diff(engine: str, old: str, new: str, as_json: bool) -> None:
    """Show which options version NEW of an engine added, dropped and changed since OLD."""
    overlay = overlay_of(engine)
    one, two = snapshot_of(engine, old), snapshot_of(engine, new)
    if one is None or two is None:  # an empty version: the engine has no catalogue at all
        raise UserError(f"there is no catalogue of {engine}", hint="scootctl catalogue show lists what is known of it")
    found = diff_catalogues(one, two, overlay)
    if as_json:
        print_json(found)
        return
    click.echo("\n".join(diff_lines(found)))


def diff_lines(found: CatalogueDiff) -> list[str]:
    """A comparison for people."""
    lines = [f"{found.engine} {found.old} -> {found.new}: {_counts(found)}"]
    if found.removed:
        lines.append("removed")
        for item in found.removed:
            instead = f"use {' or '.join(item.instead)}" if item.instead else ""
            guess = f"perhaps now {item.guess}" if item.guess else ""
            said = "; ".join(filter(None, (instead, guess, item.note)))
            lines.append(f"  {item.name}{f': {said}' if said else ''}")
    if found.added:
        lines.append("added")
        rows = [(f"  {item.name}", item.kind.value, _shown(item.default), item.help) for item in found.added]
        lines += columns(rows).splitlines()
    if found.changed:
        lines.append("changed")
        for change in found.changed:
            lines.append(f"  {change.name}: {'; '.join(map(_field, change.fields))}")
    return lines


def _counts(found: CatalogueDiff) -> str:
    return f"{len(found.added)} added, {len(found.removed)} removed, {len(found.changed)} changed"


def _field(change: FieldChange) -> str:
    """One field's change; of two lists only what came and went."""
    old, new = change.old, change.new
    if isinstance(old, tuple) and isinstance(new, tuple) and old and new:
        came, went = (
            (f"+{_any(item)}" for item in new if item not in old),
            (f"-{_any(item)}" for item in old if item not in new),
        )
        return f"{change.field} {' '.join((*came, *went)) or 'in another order'}"
    return f"{change.field} {_any(old)} -> {_any(new)}"


def _any(value: object) -> str:
    """A field's value, lists in braces."""
    if isinstance(value, tuple):
        return "{" + ", ".join(scalar(item) for item in value) + "}"
    return "-" if value is None else scalar(value) if isinstance(value, bool | int | float | str) else str(value)


@catalogue.command()
@STUDY_FILE
@click.option("--version", "version", default="", metavar="VERSION", help="Of the engine. Default: the latest known.")
@_FILE
@OVERRIDES
@AS_JSON
def check(study: Path, version: str, file: Path | None, overrides: Sequence[str], as_json: bool) -> None:
    """Check a study's engine options: unknown or gone, out of range, risky. Fails if the engine would refuse one."""
    text = read_text(study, limit_bytes=limits.SPEC_BYTES)
    spec = parse_study(text, path=str(study), overrides=overrides)
    engine = spec.service.engine
    if engine not in engines():
        raise UserError(
            f"no options of {engine!r} are known",
            path=str(study),
            key="service.engine",
            hint=f"there is a catalogue or an overlay of: {', '.join(engines())}",
        )
    found = _catalogue(engine, version, file)
    findings = check_options(spec, found, overlay_of(engine))
    if as_json:
        print_json({"engine": engine, "catalogue": _head(found), "findings": findings})
    else:
        against = f"what is known of {engine} (there is no catalogue of it)" if found is None else found.title
        click.echo("\n".join([f"{study} against {against}", *finding_lines(findings)]))
    if any(finding.level is Level.ERROR for finding in findings):
        raise click.exceptions.Exit(Exit.FAILED)


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """Findings for people, the remedy on a line of its own."""
    lines: list[str] = []
    for finding in findings:
        lines.append(f"{finding.level.value:<8} {finding.key}: {finding.message}")
        if finding.remedy:
            lines.append(f"         {finding.remedy}")
    return lines or ["nothing to say"]
