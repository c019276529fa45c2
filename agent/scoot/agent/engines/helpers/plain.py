"""Values and options of an engine as JSON has them. Runs in the engine's interpreter: the standard library only."""

from __future__ import annotations

import enum
import math
from typing import Any

MARK = "SCOOT-PROBE "
"""Begins the line with the answer of a program that answers once: engines print when they are imported."""

HELP_CHARS = 160
TEXT_CHARS = 600
ITEMS = 64
"""Longest list that is a value; longer ones (sizes of graphs) are cut."""


def plain(value: object) -> object:
    """Enumerations by their value or name, torch's types by text, sets and tuples as lists; others as they are."""
    if isinstance(value, enum.Enum):
        return value.value if isinstance(value.value, (str, int)) else value.name
    if type(value).__module__ == "torch" and type(value).__name__ == "dtype":
        return str(value).removeprefix("torch.")
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def is_plain(value: object) -> bool:
    """Whether it is a scalar of JSON or a short list of them; no paths."""
    if isinstance(value, list):
        return len(value) <= ITEMS and all(is_plain(item) and not isinstance(item, list) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return not value.startswith(("/", "~")) and len(value) <= TEXT_CHARS
    return isinstance(value, (bool, int))


def is_value(value: object) -> bool:
    """Whether it can be part of an effective configuration: plain, a long list of plain ones, or None."""
    return value is None or is_plain(value) or (isinstance(value, list) and all(map(is_plain, value)))


def line(text: str) -> str:
    """The first line that says something, without control characters."""
    first = next((each.strip() for each in text.splitlines() if each.strip()), "")
    return "".join(char if char.isprintable() else " " for char in first)[:TEXT_CHARS]


def option(name: str, kind: str, default: object, help_text: str, **more: object) -> dict[str, Any]:
    """An option as scoot.wire.catalogue.option has it; what is not plain is left out, as is what is empty of `more`.

    A text with `choices` is an enumeration.
    """
    listed: Any = more.pop("choices", ())
    choices = [item for item in map(plain, listed) if is_plain(item) and not isinstance(item, list)]
    sentence = " ".join((help_text or "").split())
    shown = plain(default)
    found: dict[str, Any] = {
        "name": name,
        "kind": "enum" if choices and kind == "text" else kind,
        "choices": choices,
        "default": shown if is_plain(shown) else None,
        "nullable": default is None,
        "help": sentence if len(sentence) <= HELP_CHARS else sentence[: HELP_CHARS - 3] + "...",
    }
    return {**found, **{key: value for key, value in more.items() if value not in (None, "", [])}}
