"""What changed between two versions of an engine."""

from __future__ import annotations

import difflib
from typing import Final

import msgspec

from scoot.wire.catalogue.option import Catalogue, EngineOption
from scoot.wire.catalogue.overlay import Overlay

_COMPARED: Final = (
    "kind",
    "choices",
    "minimum",
    "above_minimum",
    "maximum",
    "below_maximum",
    "default",
    "effective",
    "nullable",
    "aliases",
)
"""Fields of an option that make a difference; its help and its heading do not."""

_CLOSE: Final = 0.8


class FieldChange(msgspec.Struct, frozen=True, kw_only=True):
    """One field of an option that both versions have."""

    field: str
    old: object
    new: object


class OptionChange(msgspec.Struct, frozen=True, kw_only=True):
    """An option that both versions have and describe differently."""

    name: str
    fields: tuple[FieldChange, ...]


class RemovedOption(msgspec.Struct, frozen=True, kw_only=True):
    """An option only the older version has.

    Attributes:
        name: of the option.
        instead: options of the newer version to use now: by the engine's aliases, else by the overlay.
        guess: an option new in the newer version whose name is much like it; "" if there is none.
        note: what the overlay says of it.
    """

    name: str
    instead: tuple[str, ...] = ()
    guess: str = ""
    note: str = ""


class CatalogueDiff(msgspec.Struct, frozen=True, kw_only=True):
    """The way from one version to another; everything sorted by name.

    Attributes:
        engine, old, new: what was compared.
        added: options only the newer has.
        removed, changed: see RemovedOption, OptionChange.
    """

    engine: str
    old: str
    new: str
    added: tuple[EngineOption, ...]
    removed: tuple[RemovedOption, ...]
    changed: tuple[OptionChange, ...]


def diff_catalogues(old: Catalogue, new: Catalogue, overlay: Overlay | None = None) -> CatalogueDiff:
    """What `new` added, dropped and changed. Effective defaults are compared only on the same kind of device."""
    compared = [name for name in _COMPARED if name != "effective" or old.device == new.device]
    added = tuple(option for option in new.options if option.name not in old.by_name)
    gone = [option for option in old.options if option.name not in new.by_name]
    changed: list[OptionChange] = []
    for option in old.options:
        other = new.by_name.get(option.name)
        if other is None:
            continue
        fields = tuple(
            FieldChange(field=name, old=getattr(option, name), new=getattr(other, name))
            for name in compared
            if not _same(getattr(option, name), getattr(other, name))
        )
        if fields:
            changed.append(OptionChange(name=option.name, fields=fields))
    return CatalogueDiff(
        engine=new.engine,
        old=old.version,
        new=new.version,
        added=added,
        removed=tuple(_removed(option, new, added, overlay) for option in gone),
        changed=tuple(changed),
    )


def _same(one: object, two: object) -> bool:
    """Equal, and of the same kind: True is not 1."""
    if isinstance(one, tuple) and isinstance(two, tuple):
        return len(one) == len(two) and all(map(_same, one, two))
    return one == two and isinstance(one, bool) == isinstance(two, bool)


def _removed(
    option: EngineOption, new: Catalogue, added: tuple[EngineOption, ...], overlay: Overlay | None
) -> RemovedOption:
    change = None if overlay is None else overlay.changes.get(option.name)
    alias = new.by_alias.get(option.name)
    if alias is not None:
        instead: tuple[str, ...] = (alias.name,)
    elif change is not None:
        named = (change.to,) if change.to else change.nearest
        instead = tuple(name for name in named if name in new.by_name)
    else:
        instead = ()
    close = difflib.get_close_matches(option.name, [item.name for item in added], n=1, cutoff=_CLOSE)
    return RemovedOption(
        name=option.name,
        instead=instead,
        guess=close[0] if close and not instead else "",
        note="" if change is None else change.note,
    )
