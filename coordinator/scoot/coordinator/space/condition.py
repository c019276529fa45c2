"""Conditions: which parameters count, given the values of the others.

A parameter with `when = "enable_chunked_prefill"` is active where that expression holds, and everything the expression
mentions is active itself. Where it is inactive it is absent from the configuration, and its coordinate in the unit cube
is INACTIVE, so that equal configurations have equal points. A constraint that mentions an inactive parameter is not
applied: there is no value that it could be about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from scoot.coordinator.space.encoding import Axis
from scoot.coordinator.space.expression import Column, Expression, parse
from scoot.wire.errors import UserError
from scoot.wire.spec import Parameter

INACTIVE: Final = 0.5
"""Coordinate of an inactive parameter: in the middle, equally far from both ends."""

BoolArray = npt.NDArray[np.bool_]
Columns = Mapping[str, Column]


@dataclass(frozen=True)
class Condition:
    """When a parameter is active.

    Attributes:
        name: the parameter.
        own: its `when`.
        guards: all that have to hold: its own `when`, and those of every conditional parameter on the way to it.
    """

    name: str
    own: Expression
    guards: tuple[Expression, ...]

    @cached_property
    def names(self) -> frozenset[str]:
        """Every parameter and fact that decides about it."""
        return frozenset[str]().union(*(guard.names for guard in self.guards))

    def active(self, columns: Columns, size: int) -> BoolArray:
        """(size,): in which configurations the parameter is active.

        Args:
            columns: for every name in `names`, (size,) or () values; those of inactive parameters do not matter.
            size: number of configurations.
        """
        result = np.ones(size, dtype=np.bool_)
        for guard in self.guards:
            result &= guard.evaluate(columns)
        return result

    def decided(self, columns: Columns) -> bool | None:
        """Whether it is active, from () values of some of `names`; None if they leave that open."""
        known = [guard for guard in self.guards if guard.names <= columns.keys()]
        if not all(bool(guard.evaluate(columns)) for guard in known):
            return False
        return True if len(known) == len(self.guards) else None


def conditions_of(
    parameters: Sequence[Parameter], axes: Sequence[Axis], facts: Columns, hints: Mapping[str, str]
) -> tuple[Condition, ...]:
    """The conditions of a space, each behind those that it depends on.

    Raises:
        UserError: an expression is wrong, or conditions go round in a circle; key `parameters.NAME.when`.
    """
    names = (*(axis.name for axis in axes), *facts)
    nothing = {**facts, **{axis.name: axis.decode(np.empty(0)) for axis in axes}}
    own: dict[str, Expression] = {}
    for parameter in parameters:
        if parameter.when is None:
            continue
        try:
            expression = parse(parameter.when, names, hints=hints, role="a condition")
            expression.evaluate({name: nothing[name] for name in expression.names})
        except UserError as error:
            raise error.at(key=_key(parameter.name)) from None
        own[parameter.name] = expression
    guards: dict[str, tuple[Expression, ...]] = {}
    for name in own:
        _resolve(name, own, guards, ())
    return tuple(Condition(name, own[name], found) for name, found in guards.items())


def guards_of(names: Iterable[str], conditions: Sequence[Condition]) -> tuple[Expression, ...]:
    """All that has to hold for every parameter of `names` to be active."""
    chosen = set(names)
    found = [guard for condition in conditions if condition.name in chosen for guard in condition.guards]
    return tuple(dict.fromkeys(found))


def _resolve(
    name: str, own: Mapping[str, Expression], guards: dict[str, tuple[Expression, ...]], path: tuple[str, ...]
) -> None:
    """Fill in the guards of `name`, those it depends on first. `path`: what led here."""
    if name in guards:
        return
    if name in path:
        circle = [*path[path.index(name) :], name]
        shown = " needs ".join(circle) if len(circle) > 2 else f"{name} needs itself"  # noqa: PLR2004 - a, b, a
        raise UserError(
            f"conditions go round in a circle: {shown}",
            key=_key(name),
            hint="a condition is about parameters that are decided without it",
        )
    found: list[Expression] = []
    for other in sorted(own[name].names & own.keys()):
        _resolve(other, own, guards, (*path, name))
        found += guards[other]
    guards[name] = tuple(dict.fromkeys([*found, own[name]]))


def _key(name: str) -> str:
    return f"parameters.{name}.when"
