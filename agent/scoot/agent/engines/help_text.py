"""Options of a program from the text of its `--help`, in llama.cpp's form. Pure.

An option begins at the left edge with its names, short ones first, and perhaps a word for its value; what it does
stands beside and below, indented, with "(default: ...)" where it has one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from scoot.wire.catalogue.option import EngineOption, OptionKind
from scoot.wire.spec import Scalar

_HEADING: Final = re.compile(r"^-{3,}\s*(.*?)\s*-{3,}$")
_BEGINS: Final = re.compile(r"^(?P<names>-{1,2}[A-Za-z][\w-]*(?:,\s+-{1,2}[A-Za-z][\w-]*)*)(?P<rest>(?:\s.*)?)$")
_GAP: Final = re.compile(r"\s{2,}")
_DEFAULT: Final = re.compile(r"\((?:[^()]*,\s*)?default:\s*([^,()]+)")
_LISTED: Final = re.compile(r"^[\[{<]([\w.+-]+(?:[|,][\w.+-]+)+)[\]}>]$")
_RANGE: Final = re.compile(r"^<(-?\d+)\.\.\.(-?\d+)>$")
_NOTE: Final = re.compile(r"\((?:env|default):[^()]*\)")
_HELP_CHARS: Final = 160


def options_of(text: str) -> tuple[EngineOption, ...]:
    """Every option, sorted by name; () where the text has another form."""
    found = {option.name: option for option in _options(text)}
    return tuple(found[name] for name in sorted(found))


def _options(text: str) -> Iterator[EngineOption]:
    group, entry = "", ""
    for line in [*text.splitlines(), "----- -----"]:
        heading = _HEADING.match(line)
        if (heading or _BEGINS.match(line)) and entry:
            option = _option(entry, group)
            if option is not None:
                yield option
            entry = ""
        if heading:
            group = heading[1]
        elif _BEGINS.match(line):
            entry = line
        elif entry and line.startswith(" "):
            entry += f"  {line.strip()}"


def _option(entry: str, group: str) -> EngineOption | None:
    """One option from its lines, joined by two blanks; None for one without a long name."""
    match = _BEGINS.match(entry)
    if match is None:
        return None
    names = [name for name in re.split(r",\s+", match["names"]) if not re.match(r"-no|--no-", name)]
    long = [name for name in names if name.startswith("--")]
    if not long or long[0] in ("--help", "--version"):
        return None
    spelled = {name.lstrip("-").replace("-", "_") for name in names}
    value, _, words = match["rest"].lstrip(",").partition("  ")
    name = long[0].lstrip("-").replace("-", "_")
    words = " ".join(words.split())
    found = _DEFAULT.search(words)
    default = found[1].strip().strip("'\"") if found is not None else ""
    kind, choices, low, high = _kind(value.strip(), default)
    sentence = " ".join(_NOTE.sub("", words).split())
    return EngineOption(
        name=name,
        kind=kind,
        aliases=tuple(sorted(spelled - {name})),
        choices=choices,
        minimum=low,
        maximum=high,
        default=_typed(default, kind),
        help=sentence if len(sentence) <= _HELP_CHARS else f"{sentence[: _HELP_CHARS - 3]}...",
        group=group,
    )


def _kind(value: str, default: str) -> tuple[OptionKind, tuple[Scalar, ...], int | None, int | None]:
    """Kind, choices and limits, from the word for the value and the default."""
    if not value:
        return OptionKind.BOOL, (), None, None
    between = _RANGE.match(value)
    if between is not None:
        return OptionKind.INT, (), int(between[1]), int(between[2])
    listed = _LISTED.match(value)
    if listed is not None:
        words = re.split(r"[|,]", listed[1])
        if all(word.isdigit() for word in words):
            return OptionKind.INT, tuple(map(int, words)), None, None
        return OptionKind.ENUM, tuple(words), None, None
    if value == "N":
        return (OptionKind.FLOAT if re.fullmatch(r"-?\d+\.\d+", default) else OptionKind.INT), (), None, None
    return OptionKind.TEXT, (), None, None


def _typed(text: str, kind: OptionKind) -> Scalar | None:
    """A default as a value of the option's kind; None where it is none ("same as --threads")."""
    if kind is OptionKind.BOOL:
        return {"true": True, "false": False, "enabled": True, "disabled": False}.get(text)
    if kind is OptionKind.INT:
        return int(text) if re.fullmatch(r"-?\d+", text) else None
    if kind is OptionKind.FLOAT:
        return float(text) if re.fullmatch(r"-?\d+(\.\d+)?", text) else None
    return text if kind is OptionKind.ENUM and text else None
