"""An engine's flags on a command line, as typed values. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from scoot.wire.errors import UserError
from scoot.wire.spec import Config, Scalar

_BOOLS: Final = {"true": True, "false": False}
_NUMBER_CHARS: Final = 64


def read_flags(arguments: Sequence[str]) -> Config:
    """`--flag=value`, `--flag value`, `--flag` and `--no-flag` as snake-case names and values; the last one wins.

    Values are numbers and booleans where they look like some, else texts.

    Raises:
        UserError: something that is no flag.
    """
    config: Config = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--") or not argument.strip("-"):
            raise UserError(f"unrecognized arguments: {argument}", hint="write --flag=value")
        word, equals, text = argument.partition("=")
        name = word[2:].replace("-", "_")
        if equals:
            config[name] = value_of(text)
        elif rest and not rest[0].startswith("--"):
            config[name] = value_of(rest.pop(0))
        elif name.startswith("no_"):
            config[name.removeprefix("no_")] = False
        else:
            config[name] = True
    return config


def value_of(text: str) -> Scalar:
    """A boolean or a number if `text` is one, else `text`."""
    if text.lower() in _BOOLS:
        return _BOOLS[text.lower()]
    if len(text) > _NUMBER_CHARS or not text.isascii() or "_" in text:
        return text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
