"""Asks a Python engine's installation for its options, once. Runs in its interpreter: the standard library only.

    run.py options KIND MODULE:NAME [MODULE:NAME ...]

KIND says what the NAMEs are: `pydantic`, models whose JSON schema is read; `arguments`, classes with
`add_cli_args(parser)`; `signature`, classes whose constructor's parameters are options. Prints one line,
`SCOOT-PROBE {...}`, whatever else the packages print: `version` (of the first package), `options`, as
scoot.wire.catalogue.option has them, and `error`, why they cannot be told, "" if they can.
"""

from __future__ import annotations

import argparse
import enum
import importlib
import inspect
import json
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any

from scoot.agent.engines.helpers import command_line, schema
from scoot.agent.engines.helpers.plain import MARK, line, option

_OF_TYPE: dict[Any, str] = {bool: "bool", int: "int", float: "float", str: "text"}


def of_signature(call: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - any class
    """Options of a command whose parameters are annotated, as typer's are."""
    hints = typing.get_type_hints(call.__init__, include_extras=True)
    for parameter in inspect.signature(call).parameters.values():
        annotated = hints.get(parameter.name, str)
        base, *notes = typing.get_args(annotated) if hasattr(annotated, "__metadata__") else (annotated,)
        base, choices = _base_of(base)
        note = next((each for each in notes if hasattr(each, "help")), None)
        if type(note).__name__ == "ArgumentInfo":
            continue  # by position: no option
        default = None if parameter.default is inspect.Parameter.empty else parameter.default
        limits = {"minimum": getattr(note, "min", None), "maximum": getattr(note, "max", None)}
        yield option(
            parameter.name,
            _OF_TYPE.get(base, "text"),
            default,
            getattr(note, "help", "") or "",
            choices=choices,
            **limits,
        )


def _base_of(annotation: Any) -> tuple[Any, list[object]]:  # noqa: ANN401 - what a program is annotated with
    """The type behind an optional one, and its values where they are listed."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [each for each in typing.get_args(annotation) if each is not type(None)]
        return _base_of(members[0]) if len(members) == 1 else (str, [])
    if typing.get_origin(annotation) is typing.Literal:
        return str, list(typing.get_args(annotation))
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return str, [member.value for member in annotation]
    return annotation, []


def look(kind: str, names: list[str]) -> dict[str, Any]:
    """The answer, as the module's docstring tells."""
    out: dict[str, Any] = {"version": "", "options": [], "error": ""}
    try:
        package = importlib.import_module(names[0].partition(":")[0].partition(".")[0])
        out["version"] = str(getattr(package, "__version__", ""))
        found: dict[str, dict[str, Any]] = {}
        for name in names:
            module, _, attribute = name.partition(":")
            source = getattr(importlib.import_module(module), attribute)
            if kind == "pydantic":
                options = schema.options_of(source)
            elif kind == "arguments":
                parser = argparse.ArgumentParser()
                source.add_cli_args(parser)
                options = command_line.options_of(parser)
            else:
                options = of_signature(source)
            for described in options:
                found.setdefault(described["name"], described)
        out["options"] = [found[name] for name in sorted(found)]
    except Exception as error:  # noqa: BLE001 - anything an installation can raise is the answer
        out["error"] = line(f"{type(error).__name__}: {error}")
    return out


def main(arguments: list[str]) -> None:
    """Look and print; the exit status is 0 even when the engine is broken."""
    kind, *names = arguments
    sys.stdout.write("\n" + MARK + json.dumps(look(kind, names), allow_nan=False) + "\n")
    sys.stdout.flush()
