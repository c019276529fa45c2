"""The coordinator's configuration: a TOML file, overridden by flags."""

from __future__ import annotations

import pathlib
import tomllib

import msgspec

from scoot.wire.endpoint import TlsFiles
from scoot.wire.errors import UserError
from scoot.wire.lease import LeasePolicy


class CoordinatorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a coordinator is told.

    Attributes:
        data_dir: folder of the store; created if absent. One coordinator at a time.
        listen: "host:port"; port 0 takes a free one. Beyond loopback, `tls` is required.
        store: "sqlite", or a PostgreSQL address "postgresql://...".
        solver_memory_mib: memory cap of the optimizer's process.
        tls: PEM files for mutual TLS.
        lease: see LeasePolicy.
    """

    data_dir: str = "/var/lib/scoot/coordinator"
    listen: str = "127.0.0.1:7070"
    store: str = "sqlite"
    solver_memory_mib: int = 4096
    tls: TlsFiles | None = None
    lease: LeasePolicy = LeasePolicy()


def read_config(path: str) -> CoordinatorConfig:
    """Parse a configuration file.

    Raises:
        UserError: unreadable, no TOML, an unknown key, or a value of the wrong type; names file and key.
    """
    try:
        data = tomllib.loads(pathlib.Path(path).read_text())
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror}", path=path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"is no TOML: {error}", path=path) from error
    try:
        return msgspec.convert(data, CoordinatorConfig)
    except msgspec.ValidationError as error:
        raise UserError(str(error), path=path, hint="docs/coordinator-config.md lists every key") from error
    except UserError as error:
        raise error.at(path=path) from error
