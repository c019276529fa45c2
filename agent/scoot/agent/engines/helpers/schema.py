"""Options of an engine whose arguments are pydantic models. Runs in its interpreter: the standard library only.

Fields of a part of the configuration are PART__FIELD.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from scoot.agent.engines.helpers.plain import option

DOT = "__"
_DEPTH = 2
_KINDS = {"boolean": "bool", "integer": "int", "number": "float", "string": "text", "array": "list"}


def options_of(model: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - an engine's class of models
    """Options of a model, from its JSON schema."""
    schema = _schema_of(model)
    yield from _fields(schema, schema.get("$defs", {}), "", _DEPTH)


def _schema_of(model: Any) -> dict[str, Any]:  # noqa: ANN401 - as above
    """Its JSON schema; a field that has no form in one (a loader, a tokenizer) has an empty form there."""
    generator = importlib.import_module("pydantic.json_schema").GenerateJsonSchema
    lenient = type("Lenient", (generator,), {"handle_invalid_for_json_schema": lambda *_: {}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of defaults that have no form
        found: dict[str, Any] = model.model_json_schema(schema_generator=lenient)
    return found


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Options by the parts they belong to, as the model takes them."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parts, last = name.split(DOT)
        inner = tree
        for part in parts:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return tree


def value_of(made: object, name: str) -> object:
    """An option's value in a model that was made; None where its part is not in use."""
    for part in name.split(DOT):
        made = getattr(made, part, None)
    return made


def _fields(part: Mapping[str, Any], defined: Mapping[str, Any], prefix: str, depth: int) -> Iterator[dict[str, Any]]:
    for name, field in part.get("properties", {}).items():
        forms = [_resolved(form, defined) for form in field.get("anyOf", field.get("allOf", [field]))]
        forms = [form for form in forms if form.get("type") != "null"]
        inner = [form for form in forms if form.get("properties")]
        if inner:
            if depth > 1:
                for form in inner[:1]:
                    yield from _fields(form, defined, f"{prefix}{name}{DOT}", depth - 1)
            continue
        form = forms[0] if forms else {}
        limits = {
            "minimum": form.get("minimum", form.get("exclusiveMinimum")),
            "maximum": form.get("maximum", form.get("exclusiveMaximum")),
        }
        excluded = {"above_minimum": "exclusiveMinimum" in form, "below_maximum": "exclusiveMaximum" in form}
        choices = [item for each in forms for item in each.get("enum", [each["const"]] if "const" in each else [])]
        yield option(
            prefix + name,
            _KINDS.get(form.get("type", ""), "text") if len(forms) == 1 or choices else "text",
            field.get("default"),
            field.get("description", ""),
            choices=choices,
            group=prefix.removesuffix(DOT),
            **limits,
            **{key: True for key, value in excluded.items() if value},
        )


def _resolved(form: dict[str, Any], defined: Mapping[str, Any]) -> dict[str, Any]:
    reference = form.get("$ref", "")
    return {**defined.get(reference.rpartition("/")[2], {}), **form} if reference else form
