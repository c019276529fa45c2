"""Which simulator this is."""

from __future__ import annotations

import importlib.metadata


def simulator_version() -> str:
    """SCOOT's own version: the simulator is part of it."""
    try:
        return importlib.metadata.version("scoot-tuner")
    except importlib.metadata.PackageNotFoundError:
        return "0"
