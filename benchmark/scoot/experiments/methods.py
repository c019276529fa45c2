"""From a name of the command line to a method: the coordinator's, variants of them, other people's. IO.

A variant leaves a part of a method out, or gives it another setting, to show what that part is worth. Other people's
optimizers need environments of their own, which `make peers-optimizers` installs.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from scoot.coordinator.optimizer import registry
from scoot.coordinator.optimizer.auto.parts import Parts
from scoot.coordinator.optimizer.base import Method
from scoot.coordinator.optimizer.registry import METHODS, load_method
from scoot.experiments.peer import SCRIPT, PeerMethod
from scoot.wire.errors import UserError


class Variant(msgspec.Struct, frozen=True):
    """A function with keyword arguments that the coordinator never gives it.

    Attributes:
        target: "module:function" of a Method, imported when it is first used.
        settings: its keyword arguments.
    """

    target: str
    settings: dict[str, Any] = {}


VARIANTS: Final[Mapping[str, Variant]] = MappingProxyType(
    {
        "scoot-without-forest": Variant("scoot.coordinator.optimizer.scoot.method:suggest", {"forest": False}),
        **{
            f"auto-without-{part.name}": Variant(
                "scoot.coordinator.optimizer.auto.method:suggest", {"parts": Parts(**{part.name: False})}
            )
            for part in fields(Parts)
        },
    }
)
"""Ablations by name. Names of the coordinator come first in theirs, so that tables show which method it is."""

PEERS: Final = MappingProxyType(
    {"optuna-tpe": "optuna", "optuna-gp": "optuna", "optuna-nsga2": "optuna", "hebo": "hebo", "ax": "ax"}
)
"""Other people's optimizers, see tools/optimizer_peer.py, and the folder of the environment that has each."""

HOME: Final = SCRIPT.parents[1] / ".scoot" / "peers"
"""Folder of these environments, in the checkout."""

MOST_OBJECTIVES: Final = MappingProxyType(
    {**registry.MOST_OBJECTIVES, "scoot-without-forest": registry.MOST_OBJECTIVES["scoot"], "hebo": 1}
)
"""How many objectives a method has at most, of those that have not three."""

_idle: Final[dict[Path, list[PeerMethod]]] = {}
"""Peers that wait for this process's next run, by the interpreter and the name behind it."""


def names() -> tuple[str, ...]:
    """Of every method there is, whether its environment is there or not."""
    return (*sorted(METHODS), *VARIANTS, *PEERS)


def check_method(name: str) -> None:
    """Refuse a method that is unknown or cannot start.

    Raises:
        UserError: with the known ones, and the nearest of them; or with what installs it.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown method {name!r}; there are {', '.join(names())}", key="--methods", hint=hint)
    if name in PEERS and not (python := _python(name)).is_file():
        raise UserError(
            f"there is no environment for the method {name!r}",
            path=str(python),
            key="--methods",
            hint="`make peers-optimizers` installs it",
        )


@contextmanager
def method_of(name: str) -> Iterator[Method]:
    """The method called `name`, for one run.

    Some peers need seconds to start, so a peer's process outlives the run: this process's next run of the method gets
    it, and it ends with `close`, or with this process, however that ends, as it reads the end of its input then.

    Raises:
        UserError: see check_method.
    """
    check_method(name)
    if name in VARIANTS:
        variant = VARIANTS[name]
        module, _, function = variant.target.partition(":")
        yield partial(getattr(importlib.import_module(module), function), **variant.settings)
    elif name in PEERS:
        idle = _idle.setdefault(_python(name) / name, [])
        try:
            peer = idle.pop()  # no two threads get the same one
        except IndexError:
            peer = PeerMethod(str(_python(name)), name)
        try:
            yield peer
        except BaseException:
            peer.close()
            raise
        idle.append(peer)
    else:
        yield load_method(name)


def close() -> None:
    """End the peers that no run uses any more."""
    for idle in _idle.values():
        while idle:
            idle.pop().close()


def _python(name: str) -> Path:
    return HOME / PEERS[name] / "bin" / "python"
