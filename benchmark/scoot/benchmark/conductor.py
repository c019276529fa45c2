"""The conductor: starts the senders' runs, makes timings of what they read, spools them, and tells how it goes."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from scoot.benchmark.answer import Answer
from scoot.benchmark.batching import BatchBuilder
from scoot.benchmark.channel import Channel
from scoot.benchmark.clock import CpuWatch, StealWatch, monotonic_ns, stamps_ns
from scoot.benchmark.crew import Member
from scoot.benchmark.host_cpu import OthersWatch
from scoot.benchmark.messages import (
    Abandon,
    Frame,
    FromSender,
    Go,
    Ready,
    SenderAudit,
    SenderState,
    Stop,
    ToSender,
    Traffic,
    Trouble,
)
from scoot.benchmark.plan import LoadProgress
from scoot.benchmark.pulse import Pulse
from scoot.wire.assignment import Phase
from scoot.wire.columns import RequestStatus
from scoot.wire.errors import PermanentInfraError
from scoot.wire.measurement import LATE_READ_US, LoadAudit

_TICK_S: Final = 0.1
_REPORT_NS: Final = 400_000_000
_PARSE_NS: Final = 1_000_000_000
_START_NS: Final = 5_000_000
"""From telling the senders to go to the run's zero: longer than the message takes."""

_NS_PER_US: Final = 1000
_PHASES: Final = (Phase.WARM_UP, Phase.MEASURE, Phase.DRAIN)
_SEEN_BY_SENDER: Final = (RequestStatus.OK, RequestStatus.HTTP_ERROR)
_DECODER: Final = msgspec.msgpack.Decoder(FromSender)


class SenderFailedError(PermanentInfraError):
    """A sending process cannot go on, or died. `code` is the exit code that says so."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class _Sender:
    """What the conductor knows of one sender."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.gone = False
        self.ready_run = -1
        """Kept over a run's end: a sender may be ready for the next before the others have ended this one."""
        self.state: SenderState | None = None
        self.audit: SenderAudit | None = None
        self.answers: dict[int, Answer] = {}


class Conductor:
    """All runs of a load.

    Args:
        members: the senders' processes.
        runs: how many runs there are.
        warm_up: whether runs begin with a warm-up window.
        spool: called with every encoded batch.
        report: called with progress, for display; must not block.
        own_root: see LoadPlan.
    """

    def __init__(
        self,
        members: list[Member],
        *,
        runs: int,
        warm_up: bool,
        spool: Callable[[bytes], None],
        report: Callable[[LoadProgress], None],
        own_root: int = 0,
    ) -> None:
        self._own_root = own_root
        self._members = members
        self._runs = runs
        self._warm_up = warm_up
        self._spool = spool
        self._report = report
        self._encoder = msgspec.msgpack.Encoder()
        self._senders: list[_Sender] = []
        self._changed = asyncio.Event()
        self._trouble: BaseException | None = None
        self._batch = BatchBuilder()
        self._reset(0)

    def _reset(self, run: int) -> None:
        self._run = run
        self._zero_ns: int | None = None
        self._reported_ns = self._parsed_ns = 0
        self._phase = Phase.WARM_UP if self._warm_up else Phase.MEASURE
        self._sent = self._completed = self._failed = self._tokens = 0
        self._lag_ns = 0
        self._pulse = Pulse()
        self._reads = self._late_reads = 0
        self._kernel = True
        self._ttft_us: list[int] = []
        self._late_us: list[int] = []
        for sender in self._senders:
            sender.state = sender.audit = None

    async def execute(self, stop: asyncio.Event) -> list[LoadAudit]:
        """Conduct every run, or until `stop` is set: then what is outstanding is CANCELLED. One audit per run begun.

        Raises:
            OSError: the spool could not be written.
            SenderFailedError: a sender cannot go on.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_loop_error)
        self._senders = [self._listen(member) for member in self._members]
        tick = loop.create_task(self._ticks())
        stopping = loop.create_task(self._stop_when_told(stop))
        for task in (tick, stopping):
            task.add_done_callback(self._on_task_done)
        audits: list[LoadAudit] = []
        try:
            for run in range(self._runs):
                self._reset(run)
                await self._until(
                    lambda: all(sender.ready_run == self._run for sender in self._senders) or stop.is_set()
                )
                if stop.is_set():
                    break
                audits.append(await self._conduct())
                if stop.is_set():
                    break
            await self._until(lambda: all(sender.gone for sender in self._senders), gone_is_fine=True)
        finally:
            tick.cancel()
            stopping.cancel()
            for sender in self._senders:
                sender.channel.close()
            loop.set_exception_handler(None)
        return audits

    async def _conduct(self) -> LoadAudit:
        others, cpu, steal = OthersWatch(self._own_root), CpuWatch(), StealWatch()
        self._zero_ns = monotonic_ns() + _START_NS
        self._tell_all(Go(self._zero_ns))
        self._tell()
        await self._until(lambda: all(sender.audit is not None for sender in self._senders))
        if len(self._batch):
            self._spool(self._batch.take())
        self._tell()
        return self._audit(cpu, steal, others)

    def _audit(self, cpu: CpuWatch, steal: StealWatch, others: OthersWatch) -> LoadAudit:
        audits = [sender.audit for sender in self._senders if sender.audit is not None]
        other_cpu_s, host_cpus = others.look()
        return LoadAudit(
            run=self._run,
            cpu_share=max(audit.cpu_share for audit in audits),
            run_queue_s=max(audit.run_queue_s for audit in audits),
            clock_step_ms=max(audit.clock_step_ms for audit in audits),
            dropped=sum(audit.dropped for audit in audits),
            clock="kernel" if self._kernel else "user",
            senders=len(audits),
            wall_s=max(audit.wall_s for audit in audits),
            parser_cpu_share=cpu.share(),
            late_read_share=self._late_reads / self._reads if self._reads else 0.0,
            parse_lag_s=self._lag_ns / 1e9,
            backlog_bytes=max(audit.backlog_bytes for audit in audits),
            priority=min((audit.priority for audit in audits), key=("normal", "high", "realtime").index),
            pinned=tuple(audit.pinned for audit in audits if audit.pinned is not None),
            stolen_s=steal.stolen_s(),
            connections=sum(audit.connections for audit in audits),
            other_cpu_s=other_cpu_s,
            host_cpus=host_cpus,
        )

    async def _until(self, done: Callable[[], bool], *, gone_is_fine: bool = False) -> None:
        """Wait for `done`; every message may be what it waits for."""
        while not done():
            if self._trouble is not None:
                raise self._trouble
            if not gone_is_fine and any(sender.gone and sender.audit is None for sender in self._senders):
                raise SenderFailedError("a sending process died", 1)
            self._changed.clear()
            await self._changed.wait()
        if self._trouble is not None:
            raise self._trouble

    # --- senders -----------------------------------------------------------------------------------------------------

    def _listen(self, member: Member) -> _Sender:
        def received(payload: bytes) -> None:
            self._on_message(sender, payload)

        def lost() -> None:
            sender.gone = True
            self._changed.set()

        sender = _Sender(Channel(member.sock, received, lost))
        return sender

    def _tell_all(self, message: ToSender) -> None:
        payload = self._encoder.encode(message)
        for sender in self._senders:
            if not sender.gone:
                sender.channel.send(payload)

    async def _stop_when_told(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._tell_all(Stop())
        self._changed.set()

    def _on_message(self, sender: _Sender, payload: bytes) -> None:
        message = _DECODER.decode(payload)
        match message:
            case Traffic():
                self._on_frame(sender, message.frame)
            case Ready():
                sender.ready_run = message.run
                self._changed.set()
            case Trouble():
                self._trouble = self._trouble or SenderFailedError(message.message, message.code)
                self._changed.set()

    def _on_frame(self, sender: _Sender, frame: Frame) -> None:
        answers = sender.answers
        for begun in frame.begun:
            answers[begun.index] = Answer(begun)
            if begun.sent_us is not None:
                self._sent += 1
                due_us = begun.intended_us if begun.admitted_us is None else begun.admitted_us
                self._late_us.append(begun.sent_us - due_us)
                self._pulse.sent(begun.replica, begun.sent_us)
        decided = self._on_reads(answers, frame)
        failed = 0
        for ended in frame.ended:
            answer = answers.pop(ended.index)
            answer.end(ended)
            decided.discard(ended.index)
            if answer.begun.sent_us is not None:
                self._pulse.ended(answer.begun.replica)
            # What the sender took for a success, since only its body tells of the error.
            failed += ended.status == RequestStatus.OK and answer.status not in _SEEN_BY_SENDER
            self._account(answer)
        if decided or failed:
            sender.channel.send(self._encoder.encode(Abandon(sorted(decided), failed)))
        sender.state = frame.state
        self._lag_ns = max(self._lag_ns, monotonic_ns() - frame.made_ns)
        self._advance()
        if frame.audit is not None:
            sender.audit = frame.audit
            self._changed.set()

    def _on_reads(self, answers: dict[int, Answer], frame: Frame) -> set[int]:
        """Take in what was read; the requests whose verdicts that decided."""
        decided: set[int] = set()
        if not frame.reads or self._zero_ns is None:
            return decided
        indices, read_ns, stamps, pieces = zip(*frame.reads, strict=True)
        arrived_ns = stamps_ns(stamps, read_ns, frame.offset_ns)
        self._note_reads(stamps, np.array(read_ns, dtype=np.int64) - arrived_ns - frame.patience_ns)
        stamps_us: list[int] = ((arrived_ns - self._zero_ns) // _NS_PER_US).tolist()
        for replica, at_us in {answers[i].begun.replica: at for i, at in zip(indices, stamps_us, strict=True)}.items():
            self._pulse.read(replica, at_us)
        for index, stamp_us, data in zip(indices, stamps_us, pieces, strict=True):
            answer = answers[index]
            waiting = answer.first_us is None
            if answer.receive(stamp_us, data):
                decided.add(index)
            if waiting and answer.first_us is not None:
                self._ttft_us.append(answer.first_us - answer.begun.intended_us)
        return decided

    def _note_reads(self, stamps: Sequence[bytes], late_ns: npt.NDArray[np.int64]) -> None:
        """For the audit: reads, those that came late, and whether the kernel stamped them."""
        if not all(stamps):
            self._kernel = False
        self._reads += len(stamps)
        self._late_reads += int(np.count_nonzero(late_ns > LATE_READ_US * _NS_PER_US))

    def _parse_all(self) -> None:
        """Look at what streams under way have received: none may go on for long unlooked at."""
        self._parsed_ns = monotonic_ns()
        for sender in self._senders:
            decided = [index for index, answer in sender.answers.items() if answer.parse()]
            if decided:
                sender.channel.send(self._encoder.encode(Abandon(decided, 0)))

    def _account(self, answer: Answer) -> None:
        ok = answer.status is RequestStatus.OK
        self._completed += ok
        self._failed += not ok
        self._tokens += answer.output_tokens
        now_us = self._now_us()
        self._batch.add(answer, run=self._run, now_us=now_us)
        if self._batch.due(now_us):
            self._spool(self._batch.take())

    # --- time --------------------------------------------------------------------------------------------------------

    def _now_us(self) -> int:
        return 0 if self._zero_ns is None else max(0, monotonic_ns() - self._zero_ns) // _NS_PER_US

    async def _ticks(self) -> None:
        """Ten times a second: batches that have waited long enough, progress."""
        loop = asyncio.get_running_loop()
        at = loop.time()
        while True:
            at += _TICK_S
            await asyncio.sleep(max(0.0, at - loop.time()))  # noqa: TID251 - the tick of a running load
            now_us = self._now_us()
            if self._batch.due(now_us):
                self._spool(self._batch.take())
            if monotonic_ns() - self._parsed_ns >= _PARSE_NS:
                self._parse_all()
            if monotonic_ns() - self._reported_ns >= _REPORT_NS:
                self._tell()

    def _advance(self) -> None:
        """The phase is that of the sender that is least far; each is told, none left out."""
        states = [sender.state for sender in self._senders]
        reached = min(0 if state is None else _PHASES.index(Phase(state.phase)) for state in states)
        while _PHASES.index(self._phase) < reached:
            self._phase = _PHASES[_PHASES.index(self._phase) + 1]
            self._tell()

    def _tell(self) -> None:
        self._reported_ns = monotonic_ns()
        live = [answer for sender in self._senders for answer in sender.answers.values()]
        states = [sender.state for sender in self._senders if sender.state is not None]
        replica, silent_us = self._pulse.silent(self._now_us())
        self._report(
            LoadProgress(
                phase=self._phase,
                run=self._run,
                sent=self._sent,
                completed=self._completed,
                failed=self._failed,
                tokens=self._tokens + sum(answer.output_tokens for answer in live),
                outstanding=sum(state.outstanding for state in states),
                silent_s=silent_us / 1e6,
                silent_replica=replica,
                ttft_ms=_median_ms(self._ttft_us),
                itl_ms=_median_ms([a.gaps_us[-1] for a in live if len(a.gaps_us) > 1]),
                lateness_ms=_median_ms(self._late_us),
            )
        )
        self._ttft_us, self._late_us = [], []

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """Neither of our tasks ends by itself but by an error."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_error(error)

    def _on_loop_error(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """A callback raised: that is our own failure, and ends the load."""
        error = context.get("exception")
        self._on_error(error if isinstance(error, Exception) else RuntimeError(str(context.get("message"))))

    def _on_error(self, error: BaseException) -> None:
        self._trouble = self._trouble or error
        self._changed.set()


def _median_ms(values_us: list[int]) -> float | None:
    return statistics.median_low(values_us) / 1e3 if values_us else None
