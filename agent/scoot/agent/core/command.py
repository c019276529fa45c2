"""How an engine is started. A value: adapters make it, host.process executes it."""

from __future__ import annotations

import msgspec


class EngineCommand(msgspec.Struct, frozen=True, kw_only=True):
    """How to start an engine: argument list, complete environment, and files to write into its folder first."""

    argv: tuple[str, ...]
    env: dict[str, str]
    files: dict[str, str] = {}
