"""One simulated trial: a service, a workload and a seed give metrics, or the reason why there are none. Pure.

For optimizer experiments, which take thousands of them: everything that does not depend on the configuration is in a
`Load`, made once. The same service, load and seed give bit-equal results.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from scoot.benchmark.goodput import goodput
from scoot.benchmark.metrics import summarise
from scoot.benchmark.trace_row import TraceRow
from scoot.benchmark.validity import judge
from scoot.simulator.load import Load
from scoot.simulator.routing import routing_named
from scoot.simulator.service import SimulatedService, resolve
from scoot.simulator.settings import Resolved, StartFailure
from scoot.simulator.stress import StressTest, stress
from scoot.wire.columns import RequestStatus
from scoot.wire.errors import UserError
from scoot.wire.measurement import Metrics, Validity
from scoot.wire.reasons import Reason
from scoot.wire.spec import Limits, Workload

_NS: Final = 1e9
_START_REASONS: Final = MappingProxyType(
    {"arguments": Reason.ENGINE_REJECTED_ARGS, "memory": Reason.ENGINE_OOM, "engine": Reason.ENGINE_EXITED_ON_START}
)
_NO_LIMITS: Final = Limits()


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """How a trial ended.

    Attributes:
        seed: of the run.
        reason: None where it succeeded; else what an agent or the coordinator would have found.
        message: the root cause in one line; "" where it succeeded.
        lines: what the engine logged when it did not start, or died.
        metrics: of the measured window, with goodput where latencies are promised; None where the engine did not start.
            Of a run that failed they are of what was measured until then.
        validity: whether the metrics may be believed; None without.
        start_s: simulated seconds of the engine's start, or until it failed.
        load_s: simulated seconds of warm-up, measurement, cool-down and drain.
    """

    seed: int
    reason: Reason | None = None
    message: str = ""
    lines: tuple[str, ...] = ()
    metrics: Metrics | None = None
    validity: Validity | None = None
    start_s: float = 0.0
    load_s: float = 0.0

    @property
    def succeeded(self) -> bool:
        """Whether the metrics are to be told to an optimizer."""
        return self.reason is None

    @property
    def simulated_s(self) -> float:
        """What it would have taken."""
        return self.start_s + self.load_s


def simulate(
    service: SimulatedService,
    workload: Workload,
    rows: Sequence[TraceRow],
    *,
    seed: int,
    limits: Limits = _NO_LIMITS,
    load: Load | None = None,
    transport_s: float = 0.0,
) -> Trial:
    """One trial.

    Args:
        service: the engine and its configuration.
        workload: resolved.
        rows: its rows.
        seed: of the run.
        limits: when it has failed, and when it is not believed.
        load: Load(workload, rows, seed=seed), to spare making it again.
        transport_s: from the client to the engine, and back.

    Raises:
        UserError: the service or the workload makes no sense, or is too large.
    """
    try:
        resolved, replicas = resolve(service)
    except StartFailure as error:
        return start_failed(error, seed=seed, scale=service.start_scale)
    if resolved.start_s > limits.start_timeout_s:
        return start_too_slow(resolved, limits=limits, seed=seed)
    if load is None:
        load = Load(workload, rows, seed=seed)
    elif load.workload != workload or load.seed != seed:
        raise UserError("the load was made for another workload or seed", key="workload")
    tested = stress(
        resolved, replicas, load, routing=routing_named(service.routing), limits=limits, transport_s=transport_s
    )
    return judged(tested, load, limits=limits, start_s=resolved.start_s)


def start_failed(failure: StartFailure, *, seed: int, scale: float = 1.0) -> Trial:
    """The trial of an engine that does not come up; `scale` times the time that takes."""
    reason, lines = _START_REASONS[failure.kind], tuple(failure.lines)
    return Trial(seed=seed, reason=reason, message=_line(lines), lines=lines, start_s=scale * failure.after_s)


def start_too_slow(resolved: Resolved, *, limits: Limits, seed: int) -> Trial:
    """The trial of an engine whose start is given up."""
    message = f"{resolved.engine} was not ready in time, after {limits.start_timeout_s:g} s"
    return Trial(seed=seed, reason=Reason.ENGINE_START_TIMEOUT, message=message, start_s=limits.start_timeout_s)


def judged(tested: StressTest, load: Load, *, limits: Limits, start_s: float) -> Trial:
    """The trial of a run under load: what the agent sees first, then what the coordinator finds in the timings."""
    run = tested.audit.run
    classes = load.workload.slo_classes
    metrics = summarise(tested.batch, run=run)
    if classes:
        together, each = goodput(tested.batch, run=run, classes=classes)
        metrics = msgspec.structs.replace(metrics, goodput=together, goodput_by_class=each)
    validity = judge(metrics, tested.audit, limits)
    reason, message = fault_of(tested, metrics, validity, limits)
    return Trial(
        seed=load.seed,
        reason=reason,
        message=message,
        lines=tested.end.died,
        metrics=metrics,
        validity=validity,
        start_s=start_s,
        load_s=tested.end.end_ns / _NS,
    )


def fault_of(tested: StressTest, metrics: Metrics, validity: Validity, limits: Limits) -> tuple[Reason | None, str]:
    """Why a run is no success, and the line that says so; (None, "") where it is one."""
    end = tested.end
    if end.died:
        return Reason.ENGINE_OOM, _line(end.died)
    if end.hung:
        message = (
            f"the engine stopped answering under load: nothing from any of {end.hung} outstanding requests for"
            f" {limits.stall_timeout_s:g} s"
        )
        return Reason.ENGINE_HUNG_UNDER_LOAD, message
    failed = metrics.failed - metrics.failures.get(RequestStatus.NOT_SENT.name, 0)
    if metrics.sent and failed / metrics.sent > limits.max_failed_share:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(metrics.failures.items()))
        return Reason.ENGINE_REQUESTS_FAILED, f"{metrics.failed} of {metrics.sent} requests failed ({kinds})"
    if not validity.valid:
        return validity.reason, validity.detail
    return None, ""


def _line(lines: Sequence[str]) -> str:
    """The root cause on one line."""
    return " ".join(lines[0].split())
