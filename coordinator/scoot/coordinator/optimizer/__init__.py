"""Optimizers of configurations. The public names: `from scoot.coordinator.optimizer import Optimizer`.

The one __init__.py of the whole namespace (tests/unit/test_house.py): a package can only offer names of its own this
way. It imports nothing: each name is taken from its module when it is first used, so that naming a submodule costs
nothing either. docs/optimizer.md shows how to use them.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from scoot.coordinator.objective.metric import Direction
    from scoot.coordinator.objective.outcome import Outcome
    from scoot.coordinator.optimizer.base import Observation, Suggestion
    from scoot.coordinator.optimizer.optimizer import Optimizer
    from scoot.coordinator.optimizer.told import Infeasible
    from scoot.coordinator.space.space import Space
    from scoot.wire.errors import UserError
    from scoot.wire.spec import Parameter, ParameterKind, Scale

__all__ = [
    "Direction",
    "Infeasible",
    "Observation",
    "Optimizer",
    "Outcome",
    "Parameter",
    "ParameterKind",
    "Scale",
    "Space",
    "Suggestion",
    "UserError",
]

_HOME: Final = MappingProxyType(
    {
        "Direction": "scoot.coordinator.objective.metric",
        "Infeasible": "scoot.coordinator.optimizer.told",
        "Observation": "scoot.coordinator.optimizer.base",
        "Optimizer": "scoot.coordinator.optimizer.optimizer",
        "Outcome": "scoot.coordinator.objective.outcome",
        "Parameter": "scoot.wire.spec",
        "ParameterKind": "scoot.wire.spec",
        "Scale": "scoot.wire.spec",
        "Space": "scoot.coordinator.space.space",
        "Suggestion": "scoot.coordinator.optimizer.base",
        "UserError": "scoot.wire.errors",
    }
)
"""Public name -> the module that has it."""


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the module has under that name
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
