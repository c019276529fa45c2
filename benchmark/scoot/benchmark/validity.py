"""Whether a measurement may be believed. Pure.

An invalid one is never told to the optimizer: the run is repeated. Comparisons are written so that a figure that is
not a number makes the measurement invalid, never valid.
"""

from __future__ import annotations

from typing import Final

from scoot.wire.measurement import LoadAudit, Metrics, Validity, other_cpu_share
from scoot.wire.reasons import Reason
from scoot.wire.spec import Limits

_BUSY_CPU_SHARE: Final = 0.5
_BUSY_WAIT_SHARE: Final = 0.1
"""From here on, merged reads are held to be the load generator's doing, not the server's."""


def judge(metrics: Metrics, audit: LoadAudit, limits: Limits) -> Validity:
    """The verdict on one run; the first ground that applies, from the most fundamental to the least.

    1. CLOCK_STEPPED: the wall clock moved against the monotonic one, so stamps of two clocks cannot be compared.
    2. CLIENT_SATURATED: the load generator dropped arrivals, used up its CPU, did not get one, or did not keep up with
       the rate asked for, so it was measuring itself.
    3. LOAD_LATE: requests left late, so the load was not the load asked for.
    4. CLIENT_SATURATED: it read so seldom that the gaps between tokens are lost. Reads that a load generator with time
       to spare found merged were sent together by the server, and are no ground.
    5. TOO_FEW_REQUESTS: too few completed ones for the percentiles to mean anything.
    6. HOST_NOISY: others used the host's CPUs meanwhile. The last, so that a run with this ground has no other.
    """
    grounds = (
        _clock_stepped(audit, limits),
        _saturated(metrics, audit, limits),
        _fell_behind(metrics, limits),
        _late(metrics, limits),
        _merged(metrics, audit, limits),
        _too_few(metrics, limits),
        noise(audit, limits),
    )
    return next((ground for ground in grounds if ground is not None), Validity(valid=True))


def waiting_share(audit: LoadAudit) -> float:
    """Share of the run that a sending process waited for a CPU; 0 where it is not known."""
    return audit.run_queue_s / audit.wall_s if audit.wall_s != 0 else 0.0


def _clock_stepped(audit: LoadAudit, limits: Limits) -> Validity | None:
    if audit.clock_step_ms <= limits.clock_step_ms:
        return None
    return _invalid(
        Reason.CLOCK_STEPPED,
        f"the wall clock moved {audit.clock_step_ms:.1f} ms against the monotonic clock during the run,"
        f" limit {limits.clock_step_ms:g} ms",
    )


def _saturated(metrics: Metrics, audit: LoadAudit, limits: Limits) -> Validity | None:
    if audit.dropped > 0:
        return _invalid(
            Reason.CLIENT_SATURATED,
            f"{audit.dropped} of {metrics.sent} intended requests were never sent by the load generator, limit 0",
        )
    if not audit.cpu_share <= limits.client_cpu_share:
        return _invalid(
            Reason.CLIENT_SATURATED,
            f"the load generator used {audit.cpu_share:.0%} of a core, limit {limits.client_cpu_share:.0%}",
        )
    waited = waiting_share(audit)
    if limits.run_queue_share != 0 and not waited <= limits.run_queue_share:
        return _invalid(
            Reason.CLIENT_SATURATED,
            f"the load generator waited for a CPU for {waited:.0%} of the run, limit {limits.run_queue_share:.0%}",
        )
    return None


def _fell_behind(metrics: Metrics, limits: Limits) -> Validity | None:
    """A rate that is short of the offered one, where late requests are what made it so.

    In a short window the drawn arrivals alone may end early; then nothing is late. A rate of 0 has no span to be of.
    Where requests wait for admission, those that were admitted are what was due: the wait is the configuration's.
    """
    late = metrics.lateness_ms
    due_rate = metrics.offered_rate if metrics.admission_ms is None else metrics.admitted_rate
    if limits.achieved_share == 0 or late is None or due_rate == 0 or metrics.achieved_rate == 0:
        return None
    share = metrics.achieved_rate / due_rate
    if share >= limits.achieved_share or (share < limits.achieved_share and late.max <= limits.lateness_p99_ms):
        return None
    return _invalid(
        Reason.CLIENT_SATURATED,
        f"requests were sent at {metrics.achieved_rate:.4g}/s, {share:.1%} of the {due_rate:.4g}/s that"
        f" were due, limit {limits.achieved_share:.1%}; the latest was {late.max:.1f} ms late,"
        f" limit {limits.lateness_p99_ms:g} ms",
    )


def _late(metrics: Metrics, limits: Limits) -> Validity | None:
    late = metrics.lateness_ms
    if late is None or late.p99 <= limits.lateness_p99_ms:
        return None
    return _invalid(
        Reason.LOAD_LATE,
        f"requests were sent {late.p99:.1f} ms late at p99 (n = {late.n}), limit {limits.lateness_p99_ms:g} ms",
    )


def _merged(metrics: Metrics, audit: LoadAudit, limits: Limits) -> Validity | None:
    if limits.merged_share == 0 or metrics.merged_share <= limits.merged_share:
        return None
    starved = _starvation(audit, limits)
    if metrics.merged_share > limits.merged_share and not starved:
        return None
    return _invalid(
        Reason.CLIENT_SATURATED,
        f"{metrics.merged_share:.1%} of the chunks were read together with others, limit {limits.merged_share:.1%}"
        f"{f', and the load generator {starved}' if starved else ''}",
    )


def _starvation(audit: LoadAudit, limits: Limits) -> str:
    """What shows that the load generator did not read in time, with figure and limit; "" if nothing does."""
    waited = waiting_share(audit)
    if not audit.late_read_share <= limits.merged_share:
        return f"was late for {audit.late_read_share:.1%} of its reads, limit {limits.merged_share:.1%}"
    if not waited <= _BUSY_WAIT_SHARE:
        return f"waited for a CPU for {waited:.0%} of the run, limit {_BUSY_WAIT_SHARE:.0%} where chunks are merged"
    if not audit.cpu_share <= _BUSY_CPU_SHARE:
        return f"used {audit.cpu_share:.0%} of a core, limit {_BUSY_CPU_SHARE:.0%} where chunks are merged"
    return ""


def _too_few(metrics: Metrics, limits: Limits) -> Validity | None:
    if metrics.completed >= limits.min_requests:
        return None
    return _invalid(
        Reason.TOO_FEW_REQUESTS,
        f"{metrics.completed} measured requests completed, at least {limits.min_requests} are needed",
    )


def noise(audit: LoadAudit, limits: Limits) -> Validity | None:
    """The verdict HOST_NOISY, whatever else a run suffered from; None where others let the host be, or nobody knows."""
    share = other_cpu_share(audit)
    if limits.other_cpu_share == 0 or share is None or share <= limits.other_cpu_share:
        return None
    return _invalid(
        Reason.HOST_NOISY,
        f"others used {share:.0%} of the host's {audit.host_cpus} CPUs during the run,"
        f" limit {limits.other_cpu_share:.0%}",
    )


def _invalid(reason: Reason, detail: str) -> Validity:
    return Validity(valid=False, reason=reason, detail=detail)
