"""The overlays and snapshots that come with SCOOT: package data, read on demand and never written.

The one module of scoot.wire that opens files, its own.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from scoot.wire.catalogue.option import Catalogue, decode_catalogue
from scoot.wire.catalogue.overlay import Overlay, parse_overlay
from scoot.wire.errors import UserError
from scoot.wire.study_file import suggest

_PACKAGE: Final = "scoot.wire.catalogue"
_SNAPSHOT: Final = re.compile(r"(?P<engine>[a-z0-9_]+)-(?P<version>\d[\w.]*)\.json")


def _folder(name: str) -> Traversable:
    return resources.files(_PACKAGE).joinpath(name)


@lru_cache
def engines() -> tuple[str, ...]:
    """Engines with an overlay, sorted."""
    names = (item.name for item in _folder("overlays").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


@lru_cache
def overlay_of(engine: str) -> Overlay:
    """What is known of an engine.

    Raises:
        UserError: there is no overlay for it.
    """
    if engine not in engines():
        raise UserError(f"no options of {engine!r} are known", hint=suggest(engine, engines()))
    name = f"{engine}.toml"
    return parse_overlay(_folder("overlays").joinpath(name).read_text(encoding="utf-8"), path=name)


def version_key(version: str) -> tuple[tuple[int, int | str], ...]:
    """Versions in their order: numbers as numbers, and before words ("0.9" < "0.27.1" < "0.27.1.post1")."""
    parts = re.findall(r"\d+|[a-z]+", version.lower())
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts)


@lru_cache
def versions(engine: str) -> tuple[str, ...]:
    """Versions of an engine that there are snapshots of, oldest first."""
    found = (_SNAPSHOT.fullmatch(item.name) for item in _folder("snapshots").iterdir())
    return tuple(sorted((item["version"] for item in found if item and item["engine"] == engine), key=version_key))


@lru_cache
def snapshot_of(engine: str, version: str = "") -> Catalogue | None:
    """The catalogue of a version, "" for the latest there is; None if there is none of this engine at all.

    Raises:
        UserError: the engine is unknown, or there are snapshots of other versions only.
    """
    known = versions(engine)
    if not known:
        overlay_of(engine)
        if version:
            raise UserError(f"there is no catalogue of {engine} {version}", hint=f"of {engine} there is none at all")
        return None
    if version and version not in known:
        raise UserError(f"there is no catalogue of {engine} {version}", hint=f"there are: {', '.join(known)}")
    name = f"{engine}-{version or known[-1]}.json"
    return decode_catalogue(_folder("snapshots").joinpath(name).read_bytes(), path=name)
