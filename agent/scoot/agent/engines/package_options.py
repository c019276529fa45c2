"""Asks a Python engine's installation for its options. Run by path with *its* interpreter; imports nothing of SCOOT.

    INTERPRETER package_options.py KIND MODULE:NAME [MODULE:NAME ...]

KIND says what the NAMEs are: `pydantic`, models whose JSON schema is read (fields of a part as PART__FIELD);
`arguments`, classes with `add_cli_args(parser)`; `signature`, classes whose constructor's parameters are options.
Prints one line, `SCOOT-PROBE {...}`, whatever else the packages print: `version` (of the first package), `options`, as
scoot.wire.catalogue.option has them, and `error`, why they cannot be told, "" if they can.
"""

from __future__ import annotations

import argparse
import enum
import importlib
import inspect
import json
import math
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARK = "SCOOT-PROBE "
_HELP_CHARS = 160
_DEPTH = 2
_PLAIN_KINDS = {"boolean": "bool", "integer": "int", "number": "float", "string": "text", "array": "list"}
_OF_TYPE: dict[Any, str] = {bool: "bool", int: "int", float: "float", str: "text"}


def told(name: str, kind: str, default: object, help_text: str, **more: object) -> dict[str, Any]:
    """An option as it is written down; what is not plain is left out."""
    listed: Any = more.pop("choices", ())
    choices = [item for item in listed if _is_plain(item)]
    sentence = " ".join((help_text or "").split())
    plain_default = default.value if isinstance(default, enum.Enum) else default
    found: dict[str, Any] = {
        "name": name,
        "kind": "enum" if choices and kind == "text" else kind,
        "choices": choices,
        "default": plain_default if _is_plain(plain_default) else None,
        "nullable": default is None,
        "help": sentence if len(sentence) <= _HELP_CHARS else sentence[: _HELP_CHARS - 3] + "...",
    }
    return {**found, **{key: value for key, value in more.items() if value not in (None, "", [])}}


def _is_plain(value: object) -> bool:
    """Whether it is a scalar of JSON; no paths."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, (bool, int)) or (isinstance(value, str) and not value.startswith(("/", "~")))


def of_schema(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Options of a pydantic model, from its JSON schema."""
    yield from _fields(schema, schema.get("$defs", {}), prefix="", depth=_DEPTH)


def _fields(part: dict[str, Any], defined: dict[str, Any], *, prefix: str, depth: int) -> Iterator[dict[str, Any]]:
    for name, field in part.get("properties", {}).items():
        forms = [_resolved(form, defined) for form in field.get("anyOf", field.get("allOf", [field]))]
        forms = [form for form in forms if form.get("type") != "null"]
        nested = [form for form in forms if form.get("properties")]
        if nested:
            if depth > 1:
                for form in nested[:1]:
                    yield from _fields(form, defined, prefix=f"{prefix}{name}__", depth=depth - 1)
            continue
        form = forms[0] if forms else {}
        limits = {
            "minimum": form.get("minimum", form.get("exclusiveMinimum")),
            "maximum": form.get("maximum", form.get("exclusiveMaximum")),
        }
        excluded = {"above_minimum": "exclusiveMinimum" in form, "below_maximum": "exclusiveMaximum" in form}
        choices = [item for each in forms for item in each.get("enum", [each["const"]] if "const" in each else [])]
        yield told(
            prefix + name,
            _PLAIN_KINDS.get(form.get("type", ""), "text") if len(forms) == 1 or choices else "text",
            field.get("default"),
            field.get("description", ""),
            choices=choices,
            group=prefix.rstrip("_"),
            **limits,
            **{key: True for key, value in excluded.items() if value},
        )


def _resolved(form: dict[str, Any], defined: dict[str, Any]) -> dict[str, Any]:
    reference = form.get("$ref", "")
    return {**defined.get(reference.rpartition("/")[2], {}), **form} if reference else form


def of_parser(parser: argparse.ArgumentParser) -> Iterator[dict[str, Any]]:
    """Options of an argument parser."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to list options
        if not action.option_strings or action.dest in {"help", "version"}:
            continue
        spelled = {each.lstrip("-").replace("-", "_") for each in action.option_strings if not each.startswith("--no-")}
        kind = {0: "bool", "+": "list", "*": "list"}.get(action.nargs, _OF_TYPE.get(action.type, "text"))
        default = None if action.default is argparse.SUPPRESS else action.default
        yield told(
            action.dest,
            kind,
            default,
            (action.help or "").replace("%%", "%"),
            choices=list(action.choices or ()),
            aliases=sorted(spelled - {action.dest}),
        )


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
        yield told(
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
                options = of_schema(source.model_json_schema())
            elif kind == "arguments":
                parser = argparse.ArgumentParser()
                source.add_cli_args(parser)
                options = of_parser(parser)
            else:
                options = of_signature(source)
            for option in options:
                found.setdefault(option["name"], option)
        out["options"] = [found[name] for name in sorted(found)]
    except Exception as error:  # noqa: BLE001 - anything an installation can raise is the answer
        out["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return out


def main(arguments: list[str]) -> None:
    """Look and print; the exit status is 0 even when the engine is broken."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [item for item in sys.path if Path(item).resolve() != here]  # it has modules named like engines
    kind, *names = arguments
    out = look(kind, names)
    sys.stdout.write("\n" + MARK + json.dumps(out, allow_nan=False) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
