"""Options that several commands share, and what they become."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
import msgspec

from scoot.cli.client import Coordinator
from scoot.wire.endpoint import Endpoint, TlsFiles, parse_endpoint, require_tls
from scoot.wire.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_COORDINATOR = "127.0.0.1:7070"

STUDY_FILE = click.argument("study", type=click.Path(path_type=Path))
"""A study file; existence is checked where the error can say more."""

OVERRIDES = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a key of the study: a dotted key and a TOML value (text needs no quotes). May be repeated.",
)

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Connection(msgspec.Struct, frozen=True):
    """Where the coordinator is and how to prove who we are; `given` says that the address was not the default."""

    endpoint: Endpoint
    tls: TlsFiles | None
    given: bool

    def open(self) -> Coordinator:
        """A client; enter it with `async with`."""
        return Coordinator(self.endpoint, self.tls)


def connection_options(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command --coordinator, --ca, --cert and --key, as one argument `connection`."""

    @click.option(
        "--coordinator",
        envvar="SCOOT_COORDINATOR",
        metavar="HOST:PORT",
        help=f"The coordinator's address. Default {DEFAULT_COORDINATOR}.",
    )
    @click.option("--ca", envvar="SCOOT_CA", metavar="FILE", help="CA that signed the coordinator's certificate (PEM).")
    @click.option("--cert", envvar="SCOOT_CERT", metavar="FILE", help="Your certificate (PEM).")
    @click.option("--key", envvar="SCOOT_KEY", metavar="FILE", help="Its private key (PEM).")
    @wraps(command)
    def wrapped(
        *args: object,
        coordinator: str | None,
        ca: str | None,
        cert: str | None,
        key: str | None,
        **kwargs: object,
    ) -> T:
        return command(*args, connection=_connection(coordinator, ca, cert, key), **kwargs)

    return wrapped


def _connection(coordinator: str | None, ca: str | None, cert: str | None, key: str | None) -> Connection:
    endpoint = parse_endpoint(coordinator or DEFAULT_COORDINATOR, key="--coordinator")
    tls = None
    if ca or cert or key:
        if not (ca and cert and key):
            raise UserError("mutual TLS needs all three of --ca, --cert and --key", key="--ca", hint="give PEM files")
        tls = TlsFiles(ca=ca, cert=cert, key=key)
    require_tls(endpoint, tls, key="--coordinator")
    return Connection(endpoint, tls, coordinator is not None)


def run_async(command: Callable[P, Coroutine[Any, Any, T] | Awaitable[T]]) -> Callable[P, T]:
    """Run a coroutine function as a command."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        async def run() -> T:
            return await command(*args, **kwargs)

        return asyncio.run(run())

    return wrapped


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))
