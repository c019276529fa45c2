"""Options of an engine whose server has an argument parser. Runs in its interpreter: the standard library only."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from scoot.agent.engines.helpers.plain import option
from scoot.agent.engines.helpers.refusal import UsageError

_ASIDE = frozenset({"help", "version"})
_REFUSED = object()
_FIRST_SENTENCE = re.compile(r"(?<=\.)(?<!e\.g\.)(?<!i\.e\.)\s(?=[A-Z])")


def actions_of(parser: Any) -> dict[str, Any]:  # noqa: ANN401 - an argparse parser, or an engine's own like it
    """The action behind each option, by the name of what it sets: the first, as others are old spellings of it."""
    found: dict[str, Any] = {}
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to list options
        if action.option_strings and action.dest not in _ASIDE:
            found.setdefault(action.dest, action)
    return found


def make_refuse(parser: Any) -> None:  # noqa: ANN401 - as above
    """Have it raise UsageError where it would end the process."""

    def refuse(message: str) -> NoReturn:
        raise UsageError(message)

    parser.error = refuse


def options_of(parser: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - as above
    """Every option, described."""
    for name, action in actions_of(parser).items():
        spelled = {each.lstrip("-").replace("-", "_") for each in action.option_strings if not each.startswith("--no-")}
        listed = action.choices or (action.metavar if isinstance(action.metavar, (list, tuple)) else ())
        if isinstance(listed, (set, frozenset)):
            listed = sorted(listed, key=str)  # the same in every process
        default = None if action.default is argparse.SUPPRESS else action.default
        described = option(
            name,
            _kind_of(action),
            default,
            _FIRST_SENTENCE.split(_paragraph(action.help), maxsplit=1)[0],
            choices=[item for item in listed if item not in (None, "None")],
            aliases=sorted(spelled - {name}),
            group=group_of(parser, action),
        )
        yield {**described, "nullable": default is None or _takes(action.type, "None") is None}


def _paragraph(text: str | None) -> str:
    """The first paragraph of a help text in one line."""
    return " ".join((text or "").replace("%%", "%").split("\n\n")[0].split())


def group_of(parser: Any, action: Any) -> str:  # noqa: ANN401 - argparse's own
    """The title of the group an option is listed in."""
    for group in parser._action_groups:  # noqa: SLF001 - argparse has no other way
        if action in group._group_actions:  # noqa: SLF001 - as above
            return str(group.title or "")
    return ""


def arguments(action: Any, value: object) -> list[str]:  # noqa: ANN401 - an argparse action
    """A value on the command line, as the agent writes it; a switch that cannot be turned off is left out for False."""
    flag = next((item for item in action.option_strings if item.startswith("--")), action.option_strings[0])
    if isinstance(value, bool):
        negative = f"--no-{flag[2:]}"
        if not value and negative not in action.option_strings and action.nargs == 0:
            return []
        return [flag if value else negative]
    if isinstance(value, list):
        return [flag, *(str(item) for item in value)]
    if isinstance(value, dict):
        return [f"{flag}={json.dumps(value)}"]
    return [f"{flag}={value!r}" if isinstance(value, float) else f"{flag}={value}"]


def _takes(convert: Callable[[str], Any] | None, text: str) -> object:
    """What a parser's type makes of a text; _REFUSED if it raises."""
    if convert is None:
        return text
    try:
        return convert(text)
    except Exception:  # noqa: BLE001 - types raise what they like
        return _REFUSED


def _kind_of(action: Any) -> str:  # noqa: ANN401 - an argparse action
    """Kind of an option by what its type does with texts: types are closures that do not say what they are."""
    if action.nargs in ("+", "*") or type(action).__name__ == "_AppendAction":
        return "list"
    if action.nargs == 0:
        return "bool"
    if action.type is None or _takes(action.type, "{}") is not _REFUSED:
        return "text"
    whole = _takes(action.type, "2")
    if isinstance(whole, int) and not isinstance(whole, bool) and _takes(action.type, "0.5") is _REFUSED:
        return "int"
    return "float" if isinstance(whole, float) and _takes(action.type, "word") is _REFUSED else "text"
