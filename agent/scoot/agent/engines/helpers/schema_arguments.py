"""What an engine makes of options that are fields of pydantic models; see `resident`. Runs in its interpreter.

    run.py schema_arguments TITLE MODULE:NAME [MODULE:NAME ...]

The models are made as the engine makes them from its configuration file or its command line: their own checks decide.
The first takes the model's path, as `model`. A field that is in several is the first's.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from scoot.agent.engines.helpers import schema
from scoot.agent.engines.helpers.package_probe import device
from scoot.agent.engines.helpers.plain import is_value, plain
from scoot.agent.engines.helpers.resident import reference_model, stay

_MODEL = "model"


class SchemaArguments:
    """An engine's models; see resident.Arguments."""

    def __init__(self, folder: Path, title: str, names: Collection[str]) -> None:
        package, *_ = (name.partition(":")[0].partition(".")[0] for name in names)
        self.version = str(getattr(importlib.import_module(package), "__version__", ""))
        self.title = f"{title} {self.version}"
        self.device = device()
        self._reference = reference_model(folder)
        self._models = [_attribute(name) for name in names]
        self._options: dict[str, dict[str, Any]] = {}
        self._owner: dict[str, int] = {}
        for number, model in enumerate(self._models):
            for described in schema.options_of(model):
                name = str(described["name"])
                if name != _MODEL and name not in self._options:
                    self._options[name], self._owner[name] = described, number

    @property
    def options(self) -> Collection[str]:
        """See resident.Arguments."""
        return self._options.keys()

    def describe(self) -> list[dict[str, Any]]:
        """See resident.Arguments."""
        return list(self._options.values())

    def resolve(self, config: Mapping[str, Any], model: str) -> dict[str, Any]:
        """See resident.Arguments."""
        found: dict[str, Any] = {}
        for number, kind in enumerate(self._models):
            asked = {name: value for name, value in config.items() if self._owner[name] == number}
            place = {_MODEL: model or str(self._reference)} if number == 0 else {}
            made = kind(**place, **schema.nested(asked))
            for name in (each for each, owner in self._owner.items() if owner == number):
                value = plain(schema.value_of(made, name))
                if is_value(value):
                    found[name] = value
        return found


def _attribute(name: str) -> Any:  # noqa: ANN401 - an engine's class of models
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def main(arguments: list[str]) -> None:
    """Answer until the input ends."""
    title, *names = arguments
    stay(lambda folder: SchemaArguments(folder, title, names))
