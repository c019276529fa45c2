"""Writes the committed database of the newest schema: tests/golden/store/vN.db from tests/golden/store/vN.json.

Run it once, when a new schema is released. It never overwrites: a released database must stay as it was written.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import msgspec

from scoot.coordinator.store import schema
from scoot.coordinator.store.base import Change, Snapshot
from scoot.coordinator.store.sqlite import DATABASE_NAME, SqliteStore

_FOLDER = Path(__file__).parents[1] / "tests" / "golden" / "store"


def main() -> int:
    """Write the database; 1 if it exists."""
    version = schema.released()[-1].version
    target = _FOLDER / f"v{version}.db"
    if target.exists():
        print(f"{target} exists: released schemas are not written again", file=sys.stderr)
        return 1
    snapshot = msgspec.json.decode((_FOLDER / f"v{version}.json").read_bytes(), type=Snapshot)
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(folder)
        store.commit(
            Change(
                studies=snapshot.studies,
                trials=snapshot.trials,
                attempts=snapshot.attempts,
                agents=snapshot.agents,
                journal=(b'{"event":"first"}', b'{"event":"second"}'),
                next_fence=snapshot.next_fence,
            )
        )
        store.close()
        shutil.copyfile(Path(folder) / DATABASE_NAME, target)
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
