"""What an engine says of a configuration without being started, and when two configurations are the same to it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

import msgspec

from scoot.wire.spec import Config, Scalar

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


class CheckState(StrEnum):
    """Which kind of verdict it is; see Ok, Invalid, Unknown."""

    OK = "OK"
    INVALID = "INVALID"
    UNKNOWN = "UNKNOWN"


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict as it is told to the coordinator.

    Attributes:
        reason: INVALID: the engine's own words. UNKNOWN: why. One line.
        digest: OK: of everything the engine resolved. Equal digests: the engine makes the same of both.
        effective: OK: what it made of the parameters asked about, as far as they are plain.
        unknown_option: INVALID: it has no option of a name at all.
    """

    state: CheckState
    reason: str = ""
    digest: str = ""
    effective: Config = {}
    unknown_option: bool = False


def told(verdict: Verdict, names: Iterable[str]) -> Checked:
    """A verdict without what only the agent needs; `names` are the parameters asked about."""
    match verdict:
        case Ok(effective):
            plain = {name: effective.get(name) for name in names}
            return Checked(
                state=CheckState.OK,
                digest=digest(effective),
                effective={name: item for name, item in plain.items() if isinstance(item, Scalar)},
            )
        case Invalid(reason, kind):
            missing = kind is RefusalKind.UNKNOWN_OPTION
            return Checked(state=CheckState.INVALID, reason=reason, unknown_option=missing)
        case Unknown(why):
            return Checked(state=CheckState.UNKNOWN, reason=why)


def digest(effective: Effective) -> str:
    """SHA-256 (hex) of a resolved configuration; equal where the engine makes the same of two."""
    plain = {name: _plain(value) for name, value in effective.items()}
    return hashlib.sha256(msgspec.json.encode(plain, order="deterministic")).hexdigest()


def _plain(value: object) -> object:
    """1 as 1.0; True stays another value than 1."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def same_effective(one: Effective, two: Effective) -> bool:
    """Whether an engine makes the same of two configurations, so that measuring both would be measuring one twice."""
    return digest(one) == digest(two)


def inert(base: Checked, variants: Mapping[str, Sequence[tuple[Scalar, Checked]]]) -> frozenset[str]:
    """Options that cannot be told from the default, whatever they are set to: not worth tuning on this host.

    An option of which a value is refused, or that nobody can tell of, is not called inert. Neither is one whose value
    the engine notes down and then ignores: what it resolved cannot show that.

    Args:
        base: what the engine makes of no option at all.
        variants: for each option, values it was set to and what the engine made of that alone.

    Returns:
        The options of which at least one value differs from the default's, and none changed anything.
    """
    if base.state is not CheckState.OK:
        return frozenset()
    return frozenset(
        name
        for name, tried in variants.items()
        if any(not _same(value, base.effective.get(name)) for value, _ in tried)
        and all(checked.digest == base.digest for _, checked in tried)
    )


def _same(one: object, two: object) -> bool:
    """Equal, where True is not 1 but 1 is 1.0."""
    return one == two and isinstance(one, bool) == isinstance(two, bool)
