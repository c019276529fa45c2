"""Which optimizers there are. Naming one imports nothing heavy: its module is imported when it is first used."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Collection
from types import MappingProxyType
from typing import Final, cast

from scoot.coordinator.optimizer.base import Method
from scoot.wire import limits
from scoot.wire.errors import UserError

METHODS: Final = MappingProxyType(
    {
        "auto": "scoot.coordinator.optimizer.auto.method:suggest",
        "ga": "scoot.coordinator.optimizer.baselines.genetic:suggest",
        "rd": "scoot.coordinator.optimizer.baselines.sampling:suggest",
        "scoot": "scoot.coordinator.optimizer.scoot.method:suggest",
        "sobol": "scoot.coordinator.optimizer.sobol:suggest",
        "vbo": "scoot.coordinator.optimizer.baselines.vanilla:suggest",
    }
)
"""Name in a study file -> "module:function" of its Method."""

MOST_OBJECTIVES: Final = MappingProxyType({"scoot": 2, "vbo": 2})
"""The most objectives of those that do not take as many as a study may have (limits.OBJECTIVES)."""

DEFAULT_METHOD: Final = "auto"
"""The method of an Optimizer that is not told any; of studies, scoot.wire.spec.Optimizer says the same."""


def check_method(name: str, known: Collection[str] = METHODS.keys(), *, objectives: int = 1) -> None:
    """Refuse an unknown method, or one that cannot optimise so many objectives.

    Raises:
        UserError: with the known ones and the nearest of them, or with those that can.
    """
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known methods: {', '.join(sorted(known))}"
        message = f"unknown optimizer {name!r}" + (f"; known methods: {', '.join(sorted(known))}" if near else "")
        raise UserError(message, key="optimizer.method", hint=hint)
    most = _most_objectives(name)
    if objectives > most:
        able = ", ".join(sorted(method for method in METHODS if _most_objectives(method) >= objectives))
        raise UserError(
            f"method {name} takes at most {most} objectives, not {objectives}",
            key="optimizer.method",
            hint=f"these take {objectives}: {able}" if able else f"no method takes {objectives}",
        )


def _most_objectives(name: str) -> int:
    return MOST_OBJECTIVES.get(name, limits.OBJECTIVES)


def load_method(name: str) -> Method:
    """The optimizer called `name`.

    Raises:
        UserError: there is none of that name.
    """
    check_method(name)
    module, _, function = METHODS[name].partition(":")
    return cast("Method", getattr(importlib.import_module(module), function))
