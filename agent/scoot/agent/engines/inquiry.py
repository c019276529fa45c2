"""What of a replica is shown to an engine's own argument check, and by which helper. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from scoot.agent.engines.base import LaunchRequest
from scoot.wire.catalogue.option import Catalogue
from scoot.wire.catalogue.verdict import Ok, Verdict

_NONE: Final[Mapping[str, str]] = MappingProxyType({})


class Inquiry(msgspec.Struct, frozen=True, kw_only=True):
    """How one kind of engine is asked.

    Attributes:
        title: the engine, for people.
        helper: program of `helpers` and its arguments.
        options: names the helper may be asked about: options can load code and open files. None: `asked` sees to it.
        env: variables a study may set.
        asked: a replica's options by the engine's own names, as its start would have them; raises UserError for one
            that this agent does not let a study set.
        aliases: further names the adapter takes -> the engine's own.
    """

    title: str
    helper: tuple[str, ...]
    env: frozenset[str]
    asked: Callable[[LaunchRequest], Mapping[str, Any]]
    options: frozenset[str] | None = None
    aliases: Mapping[str, str] = _NONE

    def named(self, verdict: Verdict) -> Verdict:
        """A verdict in which what the engine resolved is found by the adapter's further names as well."""
        if not isinstance(verdict, Ok) or not self.aliases:
            return verdict
        found = verdict.effective
        return Ok({**{alias: found[name] for alias, name in self.aliases.items() if name in found}, **found})

    def listed(self, catalogue: Catalogue) -> Catalogue:
        """A catalogue in which options have the adapter's further names, too."""
        further: dict[str, set[str]] = {}
        for alias, name in self.aliases.items():
            further.setdefault(name, set()).add(alias)
        options = tuple(
            msgspec.structs.replace(option, aliases=tuple(sorted({*option.aliases, *further[option.name]})))
            if option.name in further
            else option
            for option in catalogue.options
        )
        return msgspec.structs.replace(catalogue, options=options)
