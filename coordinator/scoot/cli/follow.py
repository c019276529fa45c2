"""Following a study to its end, over broken connections."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from scoot.cli.client import Coordinator
from scoot.cli.exits import CoordinatorUnreachableError, Exit
from scoot.cli.interrupts import Interrupts
from scoot.cli.live import Display
from scoot.wire.states import StudyState
from scoot.wire.view import StudyDetail

T = TypeVar("T")

PATIENCE_S: Final = 60.0
"""How long a coordinator may be away (a restart) before following gives up."""

_BREAKS: Final = 1_000
"""Broken connections after which following gives up: a proxy that ends every stream must not make it spin for ever."""


async def follow(
    coordinator: Coordinator, study_id: str, display: Display, *, patience_s: float = PATIENCE_S
) -> StudyDetail:
    """Show the study until it ends; returns its last state.

    Raises:
        CoordinatorUnreachableError: the first connection failed, or the coordinator was away for `patience_s`.
    """
    last: StudyDetail | None = None
    for _ in range(_BREAKS):
        try:
            async for detail in coordinator.watch_study(study_id):
                last = detail
                display.update(detail)
        except CoordinatorUnreachableError:
            if last is None:
                raise
        if last is not None and last.study.state.is_terminal:
            return last
        display.note(f"the connection to {coordinator.endpoint} is lost; trying again for {patience_s:g} s")
        await coordinator.wait_ready(patience_s)
    raise CoordinatorUnreachableError(
        f"the connection broke {_BREAKS} times", path=str(coordinator.endpoint), hint=f"scootctl watch {study_id}"
    )


async def until_interrupted(work: Coroutine[Any, Any, T], interrupts: Interrupts) -> T | None:
    """The result of `work`, or None when Ctrl-C came first; `work` is cancelled then."""
    task = asyncio.ensure_future(work)
    asked = asyncio.ensure_future(interrupts.asked.wait())
    try:
        await asyncio.wait((task, asked), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for each in (task, asked):
            each.cancel()
        await asyncio.gather(task, asked, return_exceptions=True)


def exit_of(detail: StudyDetail) -> Exit:
    """The exit code that says how a study ended."""
    if detail.study.state is StudyState.CANCELLED:
        return Exit.CANCELLED
    found = detail.study.state is StudyState.COMPLETED and detail.study.best_trial is not None
    return Exit.OK if found else Exit.FAILED
