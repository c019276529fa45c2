"""One attempt from PREPARE to COLLECT: performs what scoot.agent.core decides, and ends in a value, never an exception.

Whatever happens in between - failure, cancellation, fencing, a bug - the engine is stopped and the host verified clean.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from scoot.agent.core import plan, run
from scoot.agent.core.classify import classify_load, classify_start, may_be_noise
from scoot.agent.core.plan import Prompting
from scoot.agent.core.run import COMPLETED, AttemptRun, Ending, EndState, Unclean, failure, refusal
from scoot.agent.engines.base import EngineAdapter, LaunchRequest
from scoot.agent.fleet import Fleet, ReplicaTrouble
from scoot.agent.host import gpu, memory
from scoot.agent.host.gpu import GpuReading
from scoot.agent.host.process import HelperProcess, SpawnError
from scoot.agent.link.codec import AttemptRef
from scoot.agent.link.upload import Upload, UploadEnd
from scoot.agent.load import LoadRun
from scoot.agent.spooled import SpoolFrames, summarise
from scoot.agent.stall import StallWatch
from scoot.agent.workplace import Workplace
from scoot.benchmark.plan import LoadProgress
from scoot.wire.assignment import Assignment, Phase, Progress
from scoot.wire.catalogue.verdict import Invalid, Unknown
from scoot.wire.client_parameters import client_config, engine_config
from scoot.wire.errors import PermanentInfraError, RemoteProtocolError, ScootError, TransientError, UserError
from scoot.wire.lease import LeasePolicy
from scoot.wire.measurement import AttemptOutcome
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config

LOG: Final = logging.getLogger(__name__)

_CANARY_TIMEOUT_S: Final = 30.0
_FETCH_TRIES: Final = 30
_RELEASE_TIMEOUT_S: Final = 15.0
"""GPU memory of a dead process is given back by the driver within seconds."""
_RELEASE_POLL_S: Final = 0.25
_ROOM_POLL_S: Final = 1.0


class AttemptEnd(msgspec.Struct, frozen=True, kw_only=True):
    """A finished attempt before its timings are all uploaded.

    Attributes:
        outcome: with `batches` as spooled.
        story: in COLLECT.
        dirty: devices that cannot be trusted any more, None if all can.
    """

    outcome: AttemptOutcome
    story: AttemptRun
    dirty: Unclean | None


class Attempt:
    """Executes one assignment. Make it, await `run()` once; `stop()` ends it early.

    Attributes:
        ref: which attempt.
        upload: of its timings, once load began.
    """

    def __init__(
        self, assignment: Assignment, workplace: Workplace, policy: LeasePolicy, changed: Callable[[], None]
    ) -> None:
        """`policy` has the graces of a stop; `changed` is called when `progress` did."""
        self.ref = AttemptRef(assignment.attempt_id, assignment.fence)
        self.upload: Upload | None = None
        self._assignment = assignment
        self._work_place = workplace
        self._policy = policy
        self._changed = changed
        self._story = run.begin(assignment.attempt_id, workplace.clock())
        self._load: LoadProgress | None = None
        self._fleet: Fleet | None = None
        self._adapter: EngineAdapter | None = None
        self._model = assignment.service.model
        self._token_range = (0, 0)
        self._effective: Config = {}
        self._audits: LoadRun | None = None
        self._stall: StallWatch | None = None
        self._baseline: dict[str, GpuReading] = {}
        self._available_bytes = 0
        self._oom_kills_before: int | None = None
        self._blamed_replica = 0
        self._frames = 0
        self._requested: Ending | None = None
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    @property
    def progress(self) -> Progress:
        """Where it is."""
        load = self._load
        if load is None:
            return Progress(phase=self._story.phase, run=self._story.run)
        return Progress(
            phase=self._story.phase,
            run=self._story.run,
            sent=load.sent,
            completed=load.completed,
            failed=load.failed,
            tokens=load.tokens,
        )

    def stop(self, ending: Ending, *, hurry: bool = False) -> None:
        """End it early with `ending`; the first call decides. `hurry`: SIGKILL instead of a graceful stop."""
        if self._requested is None:
            self._requested = ending
        self._stop.set()
        if hurry:
            self._hurry.set()

    async def run(self) -> AttemptEnd:
        """Execute it. A cancelled call still stops and verifies before it raises."""
        whole = asyncio.create_task(self._run(), name=f"attempt-{self.ref.fence}")
        try:
            return await asyncio.shield(whole)
        except asyncio.CancelledError:
            self.stop(failure(Reason.HOST_LOST, "the agent is being stopped"))
            await asyncio.wait({whole})
            raise

    async def _run(self) -> AttemptEnd:
        LOG.info("%s: begins (fence %d)", self.ref.attempt_id, self.ref.fence)
        self._oom_kills_before = await asyncio.to_thread(memory.oom_kills)
        ending = await self._work_or_stop()
        self._story = run.leave(self._story, self._work_place.clock())
        self._changed()
        await self._stop_engines()
        self._enter(Phase.VERIFY_CLEAN)
        dirty = await self._verify_clean(ending)
        self._work_place.ports.give_back(self.ref.attempt_id)
        if dirty is not None:
            LOG.error("%s: %s", self.ref.attempt_id, dirty.why)
            ending = run.after_dirty_stop(ending, dirty)
        self._enter(Phase.COLLECT)
        outcome = await self._outcome(ending)
        what = " ".join(part for part in (ending.state.value, ending.reason, ending.message) if part)
        LOG.info("%s: %s after %.1f s", self.ref.attempt_id, what, sum(time.seconds for time in outcome.phases))
        return AttemptEnd(outcome=outcome, story=self._story, dirty=dirty)

    async def _work_or_stop(self) -> Ending:
        work = asyncio.create_task(self._work())
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            stop.cancel()
            await asyncio.wait({work, stop})
        error = None if work.cancelled() else work.exception()
        if error is not None and not isinstance(error, ScootError | OSError):
            LOG.error("%s: a bug of SCOOT", self.ref.attempt_id, exc_info=error)
        if self._requested is not None:
            return self._requested
        return work.result() if error is None else _ending_of(error)

    async def _work(self) -> Ending:
        """From PREPARE to the end of the last DRAIN."""
        refused = await self._prepare()
        if refused is not None:
            return refused
        rows = await self._fetch_rows()
        trouble = await self._start_and_ready()
        if trouble is not None:
            return trouble
        return await self._run_load(rows)

    async def _prepare(self) -> Ending | None:
        """Everything that can be known before a process is started."""
        assignment, place = self._assignment, self._work_place
        name = assignment.service.engine
        adapter = self._adapter = place.adapters.get(name)
        offer = place.offers.get(name)
        if adapter is None or offer is None:
            return refusal(Reason.ENGINE_MISSING, f"this agent has no engine {name!r}: {sorted(place.adapters)}")
        if offer.error:
            return refusal(Reason.ENGINE_MISSING, f"engine {name!r} cannot run here: {offer.error}")
        model = await asyncio.to_thread(adapter.models_ok, assignment.service.model, place.model_roots)
        if isinstance(model, Reason):
            roots = ", ".join(place.model_roots) or "none"
            return refusal(model, f"model {assignment.service.model!r} is in no model root of this agent ({roots})")
        self._model = model
        try:
            self._token_range = await asyncio.to_thread(adapter.token_range, model)
        except UserError as error:
            return refusal(Reason.MODEL_MISSING, str(error))
        refused = await self._refuse_for_room(plan.replica_count(assignment)) or await self._refuse_for_arguments()
        if refused is None:
            await asyncio.to_thread(place.folders.create, self.ref)
        return refused

    async def _refuse_for_arguments(self) -> Ending | None:
        """What the engine says of its own options, where it can be asked; its start would say the same, later."""
        checker = self._work_place.checkers.get(self._assignment.service.engine)
        if checker is None:
            return None
        count = plan.replica_count(self._assignment)
        launch = self._launches([0] * count)[0]  # replicas differ in devices and ports only
        verdict = await checker.check(launch)
        if isinstance(verdict, Invalid):
            return failure(Reason.ENGINE_REJECTED_ARGS, f"{verdict.reason} (told before a start)")
        if isinstance(verdict, Unknown):
            LOG.debug("%s: the engine's own check does not tell: %s", self.ref.attempt_id, verdict.why)
        return None

    async def _refuse_for_room(self, count: int) -> Ending | None:
        """A lack of room that lasts: another try at once on the same host would meet it again."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._work_place.room_wait_s
        while True:
            refused = await self._lack_of_room(count)
            left_s = deadline_s - loop.time()
            if refused is None or left_s <= 0:
                return refused
            await asyncio.sleep(min(_ROOM_POLL_S, left_s))  # noqa: TID251 - nobody tells when others make room

    async def _lack_of_room(self, count: int) -> Ending | None:
        """GPUs that are in use by others, or too little host memory for `count` replicas."""
        place = self._work_place
        for device in self._gpu_ids():
            reading = self._baseline[device] = await asyncio.to_thread(place.gpus.read, device)
            why = gpu.busy(reading)
            if why:
                return refusal(Reason.GPU_BUSY, f"{device}: {why}")
        host = await asyncio.to_thread(memory.read_memory)
        self._available_bytes = host.available_bytes // count
        admission = memory.admit(
            host,
            engines=count,
            predicted_rss_bytes=place.memory.predicted(self._assignment.service.engine, self._model),
            reserve_bytes=place.reserve_memory_bytes,
        )
        if not admission.admitted:
            return refusal(Reason.HOST_MEMORY_SHORT, admission.detail)
        return None

    async def _fetch_rows(self) -> Path:
        """The workload's file; while the coordinator is away it is asked again until the lease ends."""
        for attempt in range(_FETCH_TRIES):
            try:
                return await self._work_place.fetch(self._assignment.workload_sha256)
            except TransientError as error:
                LOG.warning("%s: %s (try %d)", self.ref.attempt_id, error, attempt + 1)
                pause_s = error.retry_after_s
            await asyncio.sleep(pause_s)  # noqa: TID251 - the pause the error asks for
        raise PermanentInfraError(f"workload {self._assignment.workload_sha256} could not be fetched")

    async def _start_and_ready(self) -> Ending | None:
        """Start the engine and wait until it answers; a port taken meanwhile is worth a second try."""
        for generation in (0, 1):
            fleet = self._new_fleet(generation)
            self._enter(Phase.START)
            self._fleet = fleet
            started_s = asyncio.get_running_loop().time()
            await fleet.start(
                attempt_id=self.ref.attempt_id, state_dir=self._work_place.state_dir, cgroups=self._work_place.cgroups
            )
            self._enter(Phase.READY)
            deadline_s = started_s + self._assignment.limits.start_timeout_s
            trouble = await fleet.ready(self._prompting, deadline_s)
            if trouble is None:
                self._effective = self._as_used(await fleet.effective_config(running=True))
                await self._note_memory()
                return None
            ending = await self._blame_start(fleet, trouble)
            if ending.reason is not Reason.PORT_TAKEN or generation == 1:
                return ending
            LOG.warning("%s: %s; once more on another port", self.ref.attempt_id, ending.message)
            await fleet.stop(self._policy.stop_grace_s, self._policy.kill_grace_s)
        raise AssertionError("unreachable: the second start returns")

    def _as_used(self, engine: Config) -> Config:
        """What the engine made of its part of the configuration, and the client's part."""
        return {**engine, **client_config(plan.load_of(self._assignment))}

    def _new_fleet(self, generation: int) -> Fleet:
        chosen = self._work_place.ports.take(self.ref.attempt_id, plan.replica_count(self._assignment))
        folder = self._work_place.folders.path(self.ref)
        return Fleet(self._the_adapter, self._launches(chosen), folder, generation=generation)

    def _launches(self, chosen: Sequence[int]) -> list[LaunchRequest]:
        """The replicas to start on these ports."""
        assignment = self._assignment
        folder = self._work_place.folders.path(self.ref)
        return [
            LaunchRequest(
                service=msgspec.structs.replace(assignment.service, model=self._model),
                config=engine_config(assignment.config),
                tensor_parallel=replica.tensor_parallel,
                devices=tuple(self._work_place.devices[device] for device in replica.devices),
                port=replica.port,
                workdir=str(folder / f"engine-{replica.index}"),
            )
            for replica in plan.replicas(assignment, chosen)
        ]

    async def _blame_start(self, fleet: Fleet, trouble: ReplicaTrouble) -> Ending:
        self._blamed_replica = trouble.replica
        if trouble.foreign:
            return failure(Reason.PORT_TAKEN, trouble.detail)
        self._effective = self._as_used(await fleet.effective_config(running=False))
        text = await asyncio.to_thread(fleet.log_text, trouble.replica)
        reason, line = classify_start(
            trouble.exit,
            timed_out=trouble.exit is None,
            log_text=text,
            engine=self._assignment.service.engine,
            oom_kills=await self._oom_kills(),
        )
        return failure(reason, f"{line} ({trouble.detail})" if trouble.exit is None and trouble.detail else line)

    async def _run_load(self, rows: Path) -> Ending:
        """Warm-up, measurement and drain of every run, with an eye on everything that can end."""
        place, fleet = self._work_place, self._the_fleet
        folder = place.folders.path(self.ref)
        spool = place.folders.spool(self.ref)
        load_plan = plan.load_plan(
            self._assignment,
            plan.replicas(self._assignment, [launch.port for launch in fleet.launches]),
            self._prompting(fleet.launches[0]),
            rows_path=str(rows),
            spool_path=str(spool),
            audit_path=str(folder / "audit.json"),
            own_root=place.own_root,
        )
        load = self._audits = LoadRun(load_plan, folder, self._heard)
        limit_s = self._assignment.limits.stall_timeout_s
        stall = self._stall = StallWatch(limit_s, self._ask_under_load, place.clock)
        upload = self.upload = place.uploader.add(self.ref, SpoolFrames(spool))
        try:
            async with await load.start() as helper:
                ending = await self._watch(load, helper, upload, stall)
        finally:
            upload.close()
        await self._note_memory()
        if ending is None:
            ending = await asyncio.to_thread(load.understand, helper.exited.result())
        summary = await asyncio.to_thread(summarise, spool, whole=ending is None)
        self._frames = summary.frames
        if ending is not None:
            return ending
        trouble = fleet.dead() or await fleet.check(self._prompting, timeout_s=_CANARY_TIMEOUT_S)
        if trouble is not None:
            return await self._blame_load(trouble, failed_share=summary.failed_share)
        limit = self._assignment.limits.max_failed_share
        if summary.failed_share > limit:
            detail = f"{summary.failed} of {summary.measured} failed, mostly {summary.worst}; the limit is {limit:.1%}"
            trouble = ReplicaTrouble(replica=0, exit=None, detail=detail)
            blamed = await self._blame_load(trouble, failed_share=summary.failed_share)
            unexplained = blamed.reason is Reason.ENGINE_REQUESTS_FAILED
            if not unexplained or not may_be_noise(summary.error_share, load.audits, self._assignment.limits):
                return blamed
            LOG.info("%s: %s; others used the host meanwhile", self.ref.attempt_id, detail)
        return COMPLETED

    async def _watch(self, load: LoadRun, helper: HelperProcess, upload: Upload, stall: StallWatch) -> Ending | None:
        """Until the load process has ended (None), or something else ended first: the reason why."""
        fleet = self._the_fleet
        follow = asyncio.create_task(load.follow(helper))
        hang = asyncio.create_task(stall.hang())
        waiting: set[asyncio.Future[object]] = {follow, hang, upload.ended, *fleet.exits()}  # type: ignore[arg-type]  # any results
        try:
            while True:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                trouble = fleet.dead()
                if trouble is not None:
                    await load.end(helper, at_once=True)
                    return await self._blame_load(trouble)
                if upload.ended in done:
                    waiting.discard(upload.ended)
                    ending = ending_of_upload(upload.ended.result())
                    if ending is not None:
                        return ending
                if follow in done:
                    ending = follow.result()
                    await load.end(helper, at_once=ending is not None)
                    return ending
                if hang in done:
                    await load.end(helper, at_once=True)
                    return await self._blame_load(hang.result())
        finally:
            follow.cancel()
            hang.cancel()
            await asyncio.wait({follow, hang})

    async def _ask_under_load(self, timeout_s: float) -> ReplicaTrouble | None:
        """Ask the engines for a completion while a load runs; their exits are watched meanwhile."""
        return await self._the_fleet.check(self._prompting, timeout_s=timeout_s, exit_wait_s=0.0)

    async def _blame_load(self, trouble: ReplicaTrouble, *, failed_share: float = 0.0) -> Ending:
        self._blamed_replica = trouble.replica
        text = await asyncio.to_thread(self._the_fleet.log_text, trouble.replica)
        reason, line = classify_load(
            trouble.exit,
            hung=trouble.silent,
            failed_share=failed_share,
            log_text=text,
            engine=self._assignment.service.engine,
            oom_kills=await self._oom_kills(),
        )
        return failure(reason, f"{line} ({trouble.detail})" if trouble.detail else line)

    async def _oom_kills(self) -> int | None:
        """Processes of this host that the kernel killed for lack of memory since this attempt began."""
        before, now = self._oom_kills_before, await asyncio.to_thread(memory.oom_kills)
        return None if before is None or now is None else now - before

    async def _stop_engines(self) -> None:
        if self._fleet is None:
            return
        policy = self._policy
        stop = asyncio.create_task(self._fleet.stop(policy.stop_grace_s, policy.kill_grace_s))
        hurry = asyncio.create_task(self._hurry.wait())
        try:
            await asyncio.wait({stop, hurry}, return_when=asyncio.FIRST_COMPLETED)
            if not stop.done():
                await self._fleet.stop(0.0, policy.kill_grace_s)
            await stop
        finally:
            hurry.cancel()

    async def _verify_clean(self, ending: Ending) -> Unclean | None:
        """No process, no port, GPUs without a fault and their memory back; None when all of it holds.

        A port that was taken was never this attempt's.
        """
        if self._fleet is None:
            return None
        left = await asyncio.to_thread(self._fleet.unclean, ports=ending.reason is not Reason.PORT_TAKEN)
        deadline_s = asyncio.get_running_loop().time() + (0.0 if left else _RELEASE_TIMEOUT_S)
        faults, leaks = {}, {}
        for device, before in self._baseline.items():
            after = await self._once_released(device, before, deadline_s)
            if fault := gpu.fault(before, after):
                faults[device] = f"GPU {device} {fault}"
            elif not gpu.released(before, after):
                leaks[device] = f"GPU {device} holds {after.used_bytes - before.used_bytes} bytes more than before"
        whys = [*faults.values(), *([left] if left else []), *leaks.values()]
        if not whys:
            return None
        return Unclean(
            Reason.GPU_FAULT if faults else Reason.GPU_MEMORY_NOT_RELEASED,
            "; ".join(whys),
            self._assignment.devices if left else (*faults, *leaks),
        )

    async def _once_released(self, device: str, before: GpuReading, deadline_s: float) -> GpuReading:
        """A GPU once its memory is back, it is lost, or `deadline_s` has passed."""
        while True:
            reading = await asyncio.to_thread(self._work_place.gpus.read, device)
            if gpu.released(before, reading) or reading.lost or asyncio.get_running_loop().time() > deadline_s:
                return reading
            await asyncio.sleep(_RELEASE_POLL_S)  # noqa: TID251 - the driver tells nobody when memory is back

    async def _outcome(self, ending: Ending) -> AttemptOutcome:
        fleet, name = self._fleet, self._assignment.service.engine
        offer = self._work_place.offers.get(name)
        tail = ""
        if fleet is not None and ending.state in (EndState.INFEASIBLE, EndState.ABORTED):
            tail = await asyncio.to_thread(fleet.log_tail, self._blamed_replica)
        return AttemptOutcome(
            attempt_id=self.ref.attempt_id,
            fence=self.ref.fence,
            state=ending.state.value,
            reason=ending.reason,
            message=ending.message[:1000],
            log_tail=tail,
            effective_config=self._effective,
            engine_version=offer.version if offer is not None else "",
            phases=run.durations(self._story, self._work_place.clock()),
            audits=self._audits.audits if self._audits is not None else (),
            batches=self._frames,
            command=fleet.commands[0].argv if fleet is not None else (),
        )

    async def _note_memory(self) -> None:
        rss_bytes = await asyncio.to_thread(self._the_fleet.rss_bytes)
        self._work_place.memory.saw(
            self._assignment.service.engine, self._model, rss_bytes, available_bytes=self._available_bytes
        )

    def _heard(self, progress: LoadProgress) -> None:
        self._load = progress
        if self._stall is not None:
            self._stall.heard(progress)
        if (progress.phase, progress.run) != (self._story.phase, self._story.run):
            self._enter(progress.phase)
        else:
            self._changed()

    def _enter(self, phase: Phase) -> None:
        self._story = run.advance(self._story, phase, self._work_place.clock())
        LOG.debug("%s: %s", self.ref.attempt_id, phase)
        self._changed()

    def _prompting(self, launch: LaunchRequest) -> Prompting:
        adapter = self._the_adapter
        low, high = self._token_range
        return Prompting(
            model=adapter.served_model_name(launch),
            prompt_mode=adapter.prompt_mode,
            token_low=low,
            token_high=high,
            ignore_eos=adapter.ignore_eos,
        )

    def _gpu_ids(self) -> list[str]:
        return [each for each in self._assignment.devices if self._work_place.devices[each].kind != "cpu"]

    @property
    def _the_adapter(self) -> EngineAdapter:
        if self._adapter is None:
            raise AssertionError("no adapter before PREPARE")
        return self._adapter

    @property
    def _the_fleet(self) -> Fleet:
        if self._fleet is None:
            raise AssertionError("no engine before START")
        return self._fleet


def ending_of_upload(how: UploadEnd) -> Ending | None:
    """What the end of an upload means for its attempt; None where it means nothing."""
    if how is UploadEnd.CORRUPT:
        return failure(Reason.UPLOAD_CORRUPT, "the timings could not be transferred intact")
    if how is UploadEnd.FENCED:
        return failure(Reason.SELF_FENCED, "the coordinator does not want this attempt any more")
    return None


def _ending_of(error: BaseException) -> Ending:
    """The ending an exception stands for; a bug of SCOOT is the harness's fault."""
    if isinstance(error, OSError | SpawnError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return failure(Reason.DISK_FULL, str(error))
    if isinstance(error, SpawnError):
        return failure(Reason.ENGINE_MISSING, str(error))
    if isinstance(error, UserError):
        return refusal(Reason.SPEC_INVALID, str(error))
    if isinstance(error, PermanentInfraError | RemoteProtocolError):
        return failure(Reason.UPLOAD_CORRUPT, str(error))
    return failure(Reason.CLIENT_CRASHED, f"{type(error).__name__}: {error}")
