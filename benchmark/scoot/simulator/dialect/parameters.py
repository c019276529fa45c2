"""Parameters of a simulated engine: what each may be, and how an engine refuses what it may not be. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from scoot.simulator.settings import StartFailure
from scoot.wire.spec import Config, ParameterKind, Scalar

MOST: Final = 2**31 - 1
"""Largest integer a parameter may have."""


class ParameterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter, by the engine's own name in snake case.

    Attributes:
        kind: its type.
        low, high: inclusive range of an int or float; None is no limit. `above` makes the lower end exclusive, `below`
            the upper one.
        choices: the only values it may have; () is no such list.
        power_of_two: an int must be one.
        default: what an engine without it uses; None where that depends (see `otherwise`) or is no value at all.
        otherwise: the default in words, where there is no single one.
        aliases: other names the engine accepts for it.
        inert: the engine accepts it, and the simulation has no use for it.
        help: what it does, one line.
    """

    name: str
    kind: ParameterKind
    low: float | None = None
    high: float | None = None
    above: bool = False
    below: bool = False
    choices: tuple[Scalar, ...] = ()
    power_of_two: bool = False
    default: Scalar | None = None
    otherwise: str = ""
    aliases: tuple[str, ...] = ()
    inert: bool = False
    help: str

    @property
    def domain(self) -> str:
        """What it may be, in words."""
        if self.choices:
            return ", ".join(str(choice) for choice in self.choices)
        if self.kind in {ParameterKind.BOOL, ParameterKind.ENUM}:
            return "true or false" if self.kind is ParameterKind.BOOL else "a text"
        ends = ("a power of two " if self.power_of_two else "") + (
            "" if self.low is None else f"{'above' if self.above else 'from'} {self.low:g}"
        )
        if self.high is not None and self.high < MOST:
            ends += f"{', below' if self.below else ' to'} {self.high:g}"
        return ends.strip() or "a number"


def integer(
    name: str, help_: str, *, default: int | None = None, low: int = 1, high: int = MOST, otherwise: str = ""
) -> ParameterInfo:
    """An int from `low` to `high`."""
    return ParameterInfo(
        name=name, kind=ParameterKind.INT, low=low, high=high, default=default, otherwise=otherwise, help=help_
    )


def share(name: str, help_: str, *, default: float) -> ParameterInfo:
    """A float above 0, up to 1."""
    return ParameterInfo(name=name, kind=ParameterKind.FLOAT, low=0, high=1, above=True, default=default, help=help_)


def flag(name: str, help_: str, *, default: bool = False, inert: bool = False) -> ParameterInfo:
    """A bool."""
    return ParameterInfo(name=name, kind=ParameterKind.BOOL, default=default, inert=inert, help=help_)


def one_of(name: str, help_: str, *choices: str, default: str | None, otherwise: str = "") -> ParameterInfo:
    """A text out of a list."""
    return ParameterInfo(
        name=name, kind=ParameterKind.ENUM, choices=choices, default=default, otherwise=otherwise, help=help_
    )


def ignored(info: ParameterInfo) -> ParameterInfo:
    """The same parameter, as one that the simulation has no use for."""
    return msgspec.structs.replace(info, inert=True)


class Wording(Protocol):
    """How an engine says no. Each gives the failure to raise."""

    def unknown(self, given: Config) -> StartFailure:
        """Parameters that do not exist."""
        ...

    def mistyped(self, info: ParameterInfo, value: Scalar) -> StartFailure:
        """A value that is not of the parameter's kind."""
        ...

    def not_among(self, info: ParameterInfo, value: Scalar) -> StartFailure:
        """A value that is not one of the parameter's choices."""
        ...

    def out_of_range(self, info: ParameterInfo, value: float) -> StartFailure:
        """A number that is too small or too large, or not a power of two."""
        ...

    def twice(self, info: ParameterInfo) -> StartFailure:
        """A parameter that is given under two names."""
        ...


def checked(given: Config, infos: Sequence[ParameterInfo], wording: Wording) -> Config:
    """`given` with each value of its parameter's kind, under its parameter's name.

    Raises:
        StartFailure: as the engine refuses what is wrong; kind "arguments".
    """
    known = {name: info for info in infos for name in (info.name, *info.aliases)}
    strange = {name: value for name, value in given.items() if name not in known}
    if strange:
        raise wording.unknown(strange)
    out: Config = {}
    for name, value in given.items():
        info = known[name]
        if info.name in out:
            raise wording.twice(info)
        out[info.name] = _checked(info, value, wording)
    return out


def defaults_of(infos: Sequence[ParameterInfo]) -> Config:
    """Every parameter whose default does not depend on anything."""
    return {info.name: info.default for info in infos if info.default is not None}


def range_broken(info: ParameterInfo, value: float) -> str:
    """What a number outside its parameter's range should have been: "greater than or equal to 1"."""
    if not math.isfinite(value):
        return "a finite number"
    if info.low is not None and (value <= info.low if info.above else value < info.low):
        return f"greater than {'' if info.above else 'or equal to '}{info.low:g}"
    if info.high is not None and (value >= info.high if info.below else value > info.high):
        return f"less than {'' if info.below else 'or equal to '}{info.high:g}"
    if info.power_of_two and int(value) & (int(value) - 1):
        return "a power of two"
    return ""


def pydantic_failure(section: str, detail: str) -> StartFailure:
    """As pydantic says it: one message of two lines, the second of which is the cause."""
    return StartFailure(
        f"pydantic_core._pydantic_core.ValidationError: 1 validation error for {section}\n  {detail}", kind="arguments"
    )


def _checked(info: ParameterInfo, value: Scalar, wording: Wording) -> Scalar:
    if info.kind is ParameterKind.FLOAT and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) <= MOST else math.inf
    if type(value) is not _TYPES[info.kind]:
        raise wording.mistyped(info, value)
    if info.choices:
        if value not in info.choices:
            raise wording.not_among(info, value)
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and range_broken(info, value):
        raise wording.out_of_range(info, value)
    return value


_TYPES: Final[dict[ParameterKind, type]] = {
    ParameterKind.INT: int,
    ParameterKind.FLOAT: float,
    ParameterKind.BOOL: bool,
    ParameterKind.ENUM: str,
}
