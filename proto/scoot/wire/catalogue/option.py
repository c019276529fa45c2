"""An engine's options as the engine itself lists them, for one version on one kind of device."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator
from enum import StrEnum
from functools import cached_property
from typing import Final

import msgspec

from scoot.wire.errors import UserError
from scoot.wire.spec import Scalar

Value = Scalar | tuple[Scalar, ...]
"""What an option may hold, where that can be written down: structured values have no form here."""

SCHEMA: Final = 1


class OptionKind(StrEnum):
    """The type of an option. TEXT may be structured (JSON, a path); ENUM is a text out of `choices`."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    TEXT = "text"
    ENUM = "enum"
    LIST = "list"


class Source(StrEnum):
    """Where a catalogue comes from: an installation asked now, or a file of SCOOT's own."""

    LIVE = "live"
    SNAPSHOT = "snapshot"


class EngineOption(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One option.

    Attributes:
        name: snake case, as studies write it.
        aliases: the engine's other names for it, snake case (short forms among them), sorted.
        kind: see OptionKind.
        choices: the values it takes, where the engine says so; () where it does not.
        minimum, maximum: inclusive limits the engine states for the value by itself; None: it states none.
        above_minimum, below_maximum: that limit itself is excluded.
        default: the argument parser's; None where it has none or a structured one.
        effective: what the engine makes of the option when nothing is set, on one host; None: unknown.
        nullable: leaving it unset is a value of its own, which the engine resolves later.
        help: one line.
        group: the heading the engine lists it under.
    """

    name: str
    kind: OptionKind
    aliases: tuple[str, ...] = ()
    choices: tuple[Scalar, ...] = ()
    minimum: int | float | None = None
    maximum: int | float | None = None
    above_minimum: bool = False
    below_maximum: bool = False
    default: Value | None = None
    effective: Value | None = None
    nullable: bool = False
    help: str = ""
    group: str = ""

    def allows(self, value: float) -> bool:
        """Whether a number is within the stated limits."""
        if self.minimum is not None and (value < self.minimum or (self.above_minimum and value == self.minimum)):
            return False
        return self.maximum is None or not (value > self.maximum or (self.below_maximum and value == self.maximum))

    def limits(self) -> str:
        """The stated limits in words: "above 0, at most 1"; "" if there are none."""
        low = high = ""
        if self.minimum is not None:
            low = f"{'above' if self.above_minimum else 'at least'} {self.minimum:g}"
        if self.maximum is not None:
            high = f"{'below' if self.below_maximum else 'at most'} {self.maximum:g}"
        return ", ".join(filter(None, (low, high)))


class Catalogue(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All options of one version of an engine.

    Attributes:
        engine: adapter name.
        version: the engine's own.
        device: kind of device it was asked on, in the engine's words ("cpu", "cuda"; "" unknown): defaults follow it.
        source: see Source.
        options: sorted by name.
    """

    engine: str
    version: str
    device: str
    source: Source
    options: tuple[EngineOption, ...]

    @cached_property
    def by_name(self) -> dict[str, EngineOption]:
        """Options by their own names."""
        return {option.name: option for option in self.options}

    @cached_property
    def by_alias(self) -> dict[str, EngineOption]:
        """Options by their other names; an option's own name is never another's alias here."""
        found = {alias: option for option in self.options for alias in option.aliases}
        return {alias: option for alias, option in found.items() if alias not in self.by_name}

    @property
    def title(self) -> str:
        """Engine, version, device and source, for people."""
        on = f" on {self.device}" if self.device else ""
        return f"{self.engine} {self.version}{on} ({self.source.value})"


_HOST_PATH: Final = re.compile(r"(^|[\s:=,'\"(])(/|~/|file:)\S*[/.]")


def without_host(catalogue: Catalogue, agreed: Catalogue | None = None, *, forget: Collection[str] = ()) -> Catalogue:
    """The catalogue without what is one host's own: for a snapshot.

    Values that hold a path are left out, and effective ones of the options to `forget`. With `agreed`, the same
    installation asked under other circumstances (fewer cores, say), so is every effective value the two do not agree
    on.
    """
    other = {} if agreed is None else agreed.by_name

    def cleaned(option: EngineOption) -> EngineOption:
        effective = option.effective
        if (
            _has_path(effective)
            or option.name in forget
            or (agreed is not None and effective != _effective(other.get(option.name)))
        ):
            effective = None
        default = None if _has_path(option.default) else option.default
        return msgspec.structs.replace(option, default=default, effective=effective)

    options = tuple(cleaned(option) for option in catalogue.options)
    return msgspec.structs.replace(catalogue, source=Source.SNAPSHOT, options=options)


def _effective(option: EngineOption | None) -> Value | None:
    return None if option is None else option.effective


def _has_path(value: Value | None) -> bool:
    items = value if isinstance(value, tuple) else (value,)
    return any(isinstance(item, str) and _HOST_PATH.search(item) is not None for item in items)


def encode_catalogue(catalogue: Catalogue) -> bytes:
    """JSON with a line for each option, so that two versions can be compared as text."""
    head = {
        "schema": SCHEMA,
        "engine": catalogue.engine,
        "version": catalogue.version,
        "device": catalogue.device,
        "source": catalogue.source,
    }
    lines = list(_lines(catalogue.options))
    body = ",\n".join(lines)
    return msgspec.json.encode(head)[:-1] + b',"options":[\n' + body.encode() + b"\n]}\n"


def _lines(options: tuple[EngineOption, ...]) -> Iterator[str]:
    for option in options:
        yield msgspec.json.encode(option).decode()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A catalogue as it is written down."""

    schema: int
    engine: str
    version: str
    device: str
    source: Source
    options: tuple[EngineOption, ...]


def decode_catalogue(data: bytes, *, path: str) -> Catalogue:
    """A catalogue from its JSON.

    Raises:
        UserError: not one, of a later schema, unsorted, or an option twice; names `path` and the place in it.
    """
    hint = "make it anew with tools/catalogue_snapshot.py"
    try:
        file = msgspec.json.decode(data, type=_File)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at ")
        raise UserError(message, path=path, key=where.strip("`"), hint=hint) from error
    except msgspec.DecodeError as error:
        raise UserError(f"not JSON: {error}", path=path, hint=hint) from error
    if file.schema != SCHEMA:
        raise UserError(f"version {file.schema} is not known here", path=path, key="schema", hint=hint)
    names = [option.name for option in file.options]
    for one, two in itertools.pairwise(names):
        if one >= two:
            raise UserError(f"{two!r} comes after {one!r}", path=path, key="options", hint="each once, sorted by name")
    return Catalogue(
        engine=file.engine, version=file.version, device=file.device, source=file.source, options=file.options
    )
