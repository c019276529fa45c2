"""All attempts of this agent: those that run, and the outcomes the coordinator has not acknowledged."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from scoot.agent.attempt import Attempt, AttemptEnd, ending_of_upload
from scoot.agent.core import inventory, run
from scoot.agent.core.inventory import Holdings
from scoot.agent.core.run import Ending, EndState, Unclean, failure, refusal
from scoot.agent.folders import KeptOutcome
from scoot.agent.link.codec import AttemptRef
from scoot.agent.link.upload import Upload, UploadEnd
from scoot.agent.spooled import SpoolFrames
from scoot.agent.workplace import Workplace
from scoot.wire.assignment import Assignment, Device, Progress
from scoot.wire.lease import LeasePolicy
from scoot.wire.measurement import AttemptOutcome
from scoot.wire.reasons import Reason

LOG: Final = logging.getLogger(__name__)

_REMEMBERED: Final = 4096
"""Acknowledged attempts remembered, so that a repeated assignment does not start one again."""

_TIMED: Final = frozenset({EndState.COMPLETED, EndState.INFEASIBLE})
"""Ends whose timings are worth a transfer."""


class Roster:
    """The attempts of this agent. All methods are for the event loop's thread.

    Attributes:
        changed: called when an update or an outcome may be told; set by the session's owner.
    """

    def __init__(self, workplace: Workplace, devices: Sequence[Device]) -> None:
        """`devices` in the order of the inventory."""
        self.changed: Callable[[], None] = lambda: None
        self._workplace = workplace
        self._holdings = Holdings(tuple(devices))
        self._running: dict[AttemptRef, Attempt] = {}
        self._settled: dict[AttemptRef, asyncio.Event] = {}
        self._tasks: dict[AttemptRef, asyncio.Task[None]] = {}
        self._kept: dict[AttemptRef, KeptOutcome] = {}
        self._done: dict[AttemptRef, None] = {}
        self._chores: set[asyncio.Task[None]] = set()
        self._draining: Ending | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    async def recover(self) -> None:
        """Take up the outcomes of earlier incarnations; call it once, before the first assignment.

        Raises:
            OSError: the data folder cannot be read or written.
        """
        for kept in await asyncio.to_thread(self._workplace.folders.recover):
            LOG.info("%s: outcome %s was not acknowledged yet", kept.ref.attempt_id, kept.outcome.state)
            self._kept[kept.ref] = kept
            if not kept.uploaded:
                upload = self._workplace.uploader.add(kept.ref, SpoolFrames(self._workplace.folders.spool(kept.ref)))
                upload.close()
                self._spawn(kept.ref, self._finish_upload(kept, upload))

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices to offer."""
        return inventory.trusted(self._holdings)

    def running(self) -> tuple[AttemptRef, ...]:
        """Attempts that run; those whose outcome is kept already count as finished."""
        return tuple(ref for ref in self._running if ref not in self._kept)

    def finished(self) -> tuple[AttemptRef, ...]:
        """Attempts whose outcome is kept."""
        return tuple(self._kept)

    def updates(self) -> Mapping[AttemptRef, Progress]:
        """Where every running attempt is."""
        return {ref: attempt.progress for ref, attempt in self._running.items()}

    def outcomes(self) -> Sequence[AttemptOutcome]:
        """Outcomes whose timings have all arrived."""
        return [kept.outcome for kept in self._kept.values() if kept.uploaded]

    def assign(self, assignment: Assignment, policy: LeasePolicy) -> None:
        """Begin an attempt, unless it runs, is finished or was acknowledged."""
        ref = AttemptRef(assignment.attempt_id, assignment.fence)
        if ref in self._tasks or ref in self._kept or ref in self._done:
            self.changed()
            return
        refused = self._draining or inventory.refuse(self._holdings, ref.attempt_id, assignment.devices)
        if refused is not None:
            LOG.warning("%s: %s %s", ref.attempt_id, refused.state, refused.message)
            self._spawn(ref, self._finish_refused(ref, refused))
            return
        self._holdings = inventory.hold(self._holdings, ref.attempt_id, assignment.devices)
        attempt = Attempt(assignment, self._workplace, policy, self.changed)
        self._running[ref] = attempt
        self._spawn(ref, self._execute(attempt, assignment.devices))
        self.changed()

    def cancel(self, ref: AttemptRef) -> None:
        """Stop an attempt; unknown ones are ignored."""
        attempt = self._running.get(ref)
        if attempt is not None:
            attempt.stop(failure(Reason.CANCELLED_BY_USER, "cancelled"))

    def stop_all(self, ending: Ending, *, hurry: bool = False) -> None:
        """Stop every attempt with `ending`."""
        for attempt in self._running.values():
            attempt.stop(ending, hurry=hurry)

    def drain(self) -> None:
        """Stop every attempt and take no new ones."""
        self._draining = refusal(Reason.HOST_LOST, "the agent is being stopped")
        self.stop_all(failure(Reason.HOST_LOST, "the agent was stopped while the attempt was running"))

    def acknowledged(self, ref: AttemptRef) -> None:
        """The coordinator has the outcome: forget the attempt."""
        kept = self._kept.get(ref)
        if kept is None or not kept.uploaded:
            return
        del self._kept[ref]
        self._remember(ref)
        chore = asyncio.get_running_loop().create_task(self._drop(ref))
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)
        self._check_idle()

    async def idle(self) -> None:
        """Wait until nothing runs and every outcome was acknowledged."""
        await self._idle.wait()

    async def stopped(self) -> None:
        """Wait until every attempt has stopped and its outcome is on disk (timings may still be on their way)."""
        await asyncio.gather(*(settled.wait() for settled in list(self._settled.values())))

    async def close(self) -> None:
        """End what still runs here, uploads included; kept outcomes stay on disk for the next incarnation."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks or self._chores:
            await asyncio.wait([*tasks, *self._chores])

    def _spawn(self, ref: AttemptRef, work: asyncio._CoroutineLike[None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"attempt-{ref.fence}")
        self._tasks[ref] = task
        self._settled[ref] = asyncio.Event()
        self._idle.clear()
        task.add_done_callback(lambda done: self._ended(ref, done))

    def _ended(self, ref: AttemptRef, task: asyncio.Task[None]) -> None:
        self._tasks.pop(ref, None)
        self._settled.pop(ref).set()
        self._running.pop(ref, None)
        self._holdings = inventory.release(self._holdings, ref.attempt_id)
        if not task.cancelled() and task.exception() is not None:
            LOG.error("%s: a bug of SCOOT", ref.attempt_id, exc_info=task.exception())
        self._check_idle()
        self.changed()

    def _check_idle(self) -> None:
        if not self._tasks and not self._kept:
            self._idle.set()

    async def _execute(self, attempt: Attempt, devices: Sequence[str]) -> None:
        """Run an attempt, keep its outcome, and see its timings through."""
        ref = attempt.ref
        try:
            end = await attempt.run()
        except Exception:
            # Whatever it was, the coordinator is told and the other attempts of this host go on.
            LOG.exception("%s: a bug of SCOOT; its devices are not used again", ref.attempt_id)
            bug = Unclean(Reason.GPU_MEMORY_NOT_RELEASED, "an attempt on it ended in a bug of SCOOT", tuple(devices))
            self._holdings = inventory.quarantine(self._holdings, bug)
            await self._keep(_plain(ref, failure(Reason.CLIENT_CRASHED, "a bug of SCOOT; see the agent's log")))
            return
        finally:
            if attempt.upload is not None and not attempt.upload.closed:
                attempt.upload.drop()
        if end.dirty is not None:
            self._holdings = inventory.quarantine(self._holdings, end.dirty)
        self._holdings = inventory.release(self._holdings, ref.attempt_id)
        upload, outcome = attempt.upload, end.outcome
        if upload is None or EndState(outcome.state) not in _TIMED:
            batches = 0
            if upload is not None:
                upload.drop()
                batches = upload.stored
            await self._keep(_told(end, self._workplace.clock(), outcome, batches=batches))
        else:
            await self._keep(outcome, uploaded=False)
            how = await asyncio.shield(upload.ended)
            if how is not UploadEnd.DROPPED:
                outcome = _after_upload(outcome, upload, how)
                await self._keep(_told(end, self._workplace.clock(), outcome, batches=outcome.batches))
        self._running.pop(ref, None)

    async def _finish_upload(self, kept: KeptOutcome, upload: Upload) -> None:
        """The upload of an attempt that an earlier incarnation finished."""
        how = await asyncio.shield(upload.ended)
        if how is not UploadEnd.DROPPED:
            await self._keep(_after_upload(kept.outcome, upload, how))

    async def _finish_refused(self, ref: AttemptRef, ending: Ending) -> None:
        await self._keep(_plain(ref, ending))

    async def _drop(self, ref: AttemptRef) -> None:
        try:
            await asyncio.to_thread(self._workplace.folders.drop, ref)
        except OSError as error:
            LOG.warning("%s: its folder could not be removed: %s", ref.attempt_id, error)

    async def _keep(self, outcome: AttemptOutcome, *, uploaded: bool = True) -> None:
        """Make an outcome durable, then known."""
        kept = KeptOutcome(outcome=outcome, uploaded=uploaded)
        try:
            await asyncio.to_thread(self._write, kept)
        except OSError:
            # Told from memory: a full disk must not silence the agent. A crash now loses the outcome, invents none.
            LOG.exception("%s: its outcome could not be written", kept.ref.attempt_id)
        self._kept[kept.ref] = kept
        if kept.ref in self._settled:
            self._settled[kept.ref].set()
        self.changed()

    def _write(self, kept: KeptOutcome) -> None:
        """Where the disk is full, the attempt's own timings make room, once they are not needed any more. Blocks."""
        folders = self._workplace.folders
        try:
            folders.keep(kept)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not kept.uploaded:
                raise
            folders.spool(kept.ref).unlink(missing_ok=True)
            folders.keep(kept)

    def _remember(self, ref: AttemptRef) -> None:
        self._done[ref] = None
        while len(self._done) > _REMEMBERED:
            del self._done[next(iter(self._done))]


def _plain(ref: AttemptRef, ending: Ending) -> AttemptOutcome:
    """An outcome without anything measured."""
    return AttemptOutcome(
        attempt_id=ref.attempt_id,
        fence=ref.fence,
        state=ending.state.value,
        reason=ending.reason,
        message=ending.message,
    )


def _told(end: AttemptEnd, now_s: float, outcome: AttemptOutcome, *, batches: int) -> AttemptOutcome:
    """`outcome` with COLLECT's duration and the batches that arrived."""
    return msgspec.structs.replace(outcome, phases=run.durations(end.story, now_s), batches=batches)


def _after_upload(outcome: AttemptOutcome, upload: Upload, how: UploadEnd) -> AttemptOutcome:
    """`outcome` once the fate of its timings is known."""
    ending = ending_of_upload(how)
    if ending is None:
        return outcome
    return msgspec.structs.replace(
        outcome, state=ending.state.value, reason=ending.reason, message=ending.message, batches=upload.stored
    )
