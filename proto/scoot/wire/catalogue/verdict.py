"""What an engine says of a configuration without being started, and when two configurations are the same to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

Effective = Mapping[str, object]
"""A resolved configuration: option, or `part.field` where there is no option, -> scalar, list or None."""


class RefusalKind(StrEnum):
    """Why a configuration is refused. CONSTRAINT: its values do not go together, or not with the model."""

    UNKNOWN_OPTION = "unknown_option"
    INVALID_VALUE = "invalid_value"
    CONSTRAINT = "constraint"
    OTHER = "other"


class Ok(msgspec.Struct, frozen=True, tag="ok"):
    """The engine's argument checks accept it. Its start may still fail, and it may ignore what it accepted."""

    effective: dict[str, object]


class Invalid(msgspec.Struct, frozen=True, tag="invalid"):
    """The engine would refuse it at its start.

    Attributes:
        reason: the engine's own words, one line.
        kind: see RefusalKind.
        options: those the message names.
    """

    reason: str
    kind: RefusalKind
    options: tuple[str, ...] = ()


class Unknown(msgspec.Struct, frozen=True, tag="unknown"):
    """Nobody could be asked, or the answer does not concern the configuration. Never to be held against it."""

    why: str


Verdict = Ok | Invalid | Unknown


def same_effective(one: Effective, two: Effective) -> bool:
    """Whether an engine makes the same of two configurations, so that measuring both would be measuring one twice."""
    return one.keys() == two.keys() and all(_same(value, two[name]) for name, value in one.items())


def inert(base: Effective, variants: Mapping[str, Sequence[tuple[object, Effective]]]) -> frozenset[str]:
    """Options that cannot be told from the default, whatever they are set to: not worth tuning on this host.

    Args:
        base: what the engine makes of no option at all.
        variants: for each option, values it was set to and what the engine made of that alone.

    Returns:
        The options of which at least one value differs from the default's, and none changed anything.
    """
    return frozenset(
        name
        for name, tried in variants.items()
        if any(not _same(value, base.get(name)) for value, _ in tried)
        and all(same_effective(base, effective) for _, effective in tried)
    )


def _same(one: object, two: object) -> bool:
    """Equal, where True is not 1 but 1 is 1.0."""
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(_same, one, two))
    return one == two and isinstance(one, bool) == isinstance(two, bool)
