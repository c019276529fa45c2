"""One stress test in virtual time: an engine that has just started, a load, and the timings that come of it. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from scoot.simulator.load import Load
from scoot.simulator.replica import Replica
from scoot.simulator.routing import Router, Routing
from scoot.simulator.settings import Resolved
from scoot.simulator.timings import TimingRecorder, ideal_audit
from scoot.simulator.virtual import VirtualEnd, VirtualRun, VirtualSettings
from scoot.wire.columns import TimingBatch
from scoot.wire.errors import UserError
from scoot.wire.measurement import LoadAudit
from scoot.wire.spec import Limits

MOST_TRANSPORT_S: Final = 60.0

_NS: Final = 1e9
_NO_LIMITS: Final = Limits()


class StressTest(msgspec.Struct, frozen=True, kw_only=True):
    """What a run under load gave.

    Attributes:
        batch: timings of all requests that were sent, as a load process writes them.
        audit: of a load generator that takes no time.
        end: how it ended.
        preemptions, prefix_hit_tokens, prefix_queried_tokens: of all replicas.
    """

    batch: TimingBatch
    audit: LoadAudit
    end: VirtualEnd
    preemptions: int
    prefix_hit_tokens: int
    prefix_queried_tokens: int


def stress(
    resolved: Resolved,
    replicas: int,
    load: Load,
    *,
    run: int = 0,
    routing: Routing = Routing.LEAST_OUTSTANDING,
    limits: Limits = _NO_LIMITS,
    transport_s: float = 0.0,
) -> StressTest:
    """Load an engine that has just started.

    Args:
        resolved: of each replica.
        replicas: how many there are, at least 1.
        load: see Load.
        run: its index within the attempt.
        routing: how replicas are chosen.
        limits: only `stall_timeout_s` matters here.
        transport_s: from the client to the engine, and back; 0..MOST_TRANSPORT_S.

    Raises:
        UserError: times out of range, or a load without end.
    """
    if not 0 <= transport_s <= MOST_TRANSPORT_S:
        raise UserError(f"{transport_s:g} s is out of range", key="transport_s", hint=f"from 0 to {MOST_TRANSPORT_S:g}")
    if replicas < 1:
        raise UserError(f"{replicas} replicas serve nothing", key="devices", hint="at least as many as a replica takes")
    workload = load.workload
    engines = [Replica(resolved, record=True) for _ in range(replicas)]
    transport_ns = round(transport_s * _NS)
    recorder = TimingRecorder(engines, stream_interval=resolved.stream_interval, transport_ns=transport_ns, run=run)
    scheduler = resolved.scheduler
    end = VirtualRun(
        load.feed(),
        engines,
        Router(routing, replicas),
        VirtualSettings(
            timeout_ns=round(workload.request_timeout_s * _NS),
            drain_ns=round(workload.drain_s * _NS),
            windows_end_ns=load.schedule.windows.end_us * 1000,
            most_in_flight=workload.arrivals.max_in_flight,
            request_limit=resolved.request_limit,
            transport_ns=transport_ns,
            stall_ns=round(limits.stall_timeout_s * _NS),
        ),
        keys=load.keys(scheduler.block_size) if scheduler.prefix_caching else None,
        ended=recorder.add,
    ).execute()
    return StressTest(
        batch=recorder.batch(),
        audit=ideal_audit(run=run, wall_s=end.end_ns / _NS),
        end=end,
        preemptions=sum(engine.preemptions for engine in engines),
        prefix_hit_tokens=sum(engine.prefix_hit_tokens for engine in engines),
        prefix_queried_tokens=sum(engine.prefix_queried_tokens for engine in engines),
    )
