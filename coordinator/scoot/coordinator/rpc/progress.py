"""Display-only state: how far running attempts are, and who waits for a study to change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec


class AttemptProgress(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt's last sign of life. Lost with the process, on purpose."""

    phase: str
    run: int = 0
    completed: int = 0


class ProgressTable:
    """Last progress by attempt id."""

    def __init__(self) -> None:
        self._rows: dict[str, AttemptProgress] = {}

    def get(self, attempt_id: str) -> AttemptProgress | None:
        """The attempt's progress, None if nothing was heard."""
        return self._rows.get(attempt_id)

    def put(self, attempt_id: str, progress: AttemptProgress) -> None:
        """Record progress."""
        self._rows[attempt_id] = progress

    def drop(self, attempt_id: str) -> None:
        """Forget an attempt that is over."""
        self._rows.pop(attempt_id, None)


class ChangeHub:
    """Wakes those who watch a study. Changes are counted, not queued: a slow watcher costs nothing."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}
        self._condition = asyncio.Condition()
        self._wakers: set[asyncio.Task[None]] = set()

    def notify(self, study_ids: Iterable[str]) -> None:
        """Something about these studies changed."""
        for study_id in study_ids:
            self._versions[study_id] = self._versions.get(study_id, 0) + 1
        waker = asyncio.get_running_loop().create_task(self._wake())
        self._wakers.add(waker)
        waker.add_done_callback(self._wakers.discard)

    async def _wake(self) -> None:
        async with self._condition:
            self._condition.notify_all()

    def version(self, study_id: str) -> int:
        """Changes so far."""
        return self._versions.get(study_id, 0)

    async def wait(self, study_id: str, after: int) -> int:
        """The version, as soon as it is above `after`."""
        async with self._condition:
            await self._condition.wait_for(lambda: self.version(study_id) > after)
        return self.version(study_id)
