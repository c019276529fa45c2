"""Forward-only migrations: numbered SQL files, applied in order, each in the transaction that records its version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from scoot.wire.errors import UserError

_FOLDER = Path(__file__).with_name("migrations")


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One step: brings a store of schema `version - 1` to `version`."""

    version: int
    sql: str

    def statements(self, *, blob: str = "BLOB") -> Iterator[str]:
        """Its statements, `blob` being the database's word for bytes."""
        lines = [line for line in self.sql.splitlines() if not line.lstrip().startswith("--")]
        for statement in "\n".join(lines).split(";"):
            if statement.strip():
                yield statement.strip().replace(" BLOB", f" {blob}")


def released() -> tuple[Migration, ...]:
    """Every migration of this version of SCOOT, oldest first, numbered 1, 2, ... without gaps."""
    found = sorted((int(path.name[:4]), path) for path in _FOLDER.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    return tuple(Migration(version=version, sql=path.read_text("utf-8")) for version, path in found)


def pending(migrations: Sequence[Migration], found: int, where: str) -> tuple[Migration, ...]:
    """The migrations a store of schema `found` (0: empty) still needs.

    Raises:
        UserError: the store is newer than this program; `where` names it.
    """
    newest = migrations[-1].version
    if found > newest:
        raise UserError(
            f"the store has schema {found}, this version of SCOOT knows schemas up to {newest}",
            path=where,
            hint="start the newer version of SCOOT that wrote it; schemas only go forward",
        )
    return tuple(migration for migration in migrations if migration.version > found)
