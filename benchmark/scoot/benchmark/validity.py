"""Whether a measurement may be believed. Pure.

An invalid one is never told to the optimizer: the run is repeated. Comparisons are written so that a figure that is
not a number makes the measurement invalid, never valid.
"""

from __future__ import annotations

from scoot.wire.measurement import LoadAudit, Metrics, Validity
from scoot.wire.reasons import Reason
from scoot.wire.spec import Limits


def judge(metrics: Metrics, audit: LoadAudit, limits: Limits) -> Validity:
    """The verdict on one run; the first ground that applies, from the most fundamental to the least.

    1. CLOCK_STEPPED: the wall clock moved against the monotonic one, so stamps of two clocks cannot be compared.
    2. CLIENT_SATURATED: the load process dropped arrivals or used up its CPU, so it was measuring itself.
    3. LOAD_LATE: requests left late, so the load was not the load asked for.
    4. TOO_FEW_REQUESTS: too few completed ones for the percentiles to mean anything.
    """
    if not audit.clock_step_ms <= limits.clock_step_ms:
        return _invalid(
            Reason.CLOCK_STEPPED,
            f"the wall clock moved {audit.clock_step_ms:.1f} ms against the monotonic clock during the run,"
            f" limit {limits.clock_step_ms:g} ms",
        )
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
    late = metrics.lateness_ms
    if late is not None and not late.p99 <= limits.lateness_p99_ms:
        return _invalid(
            Reason.LOAD_LATE,
            f"requests were sent {late.p99:.1f} ms late at p99 (n = {late.n}), limit {limits.lateness_p99_ms:g} ms",
        )
    if metrics.completed < limits.min_requests:
        return _invalid(
            Reason.TOO_FEW_REQUESTS,
            f"{metrics.completed} measured requests completed, at least {limits.min_requests} are needed",
        )
    return Validity(valid=True)


def _invalid(reason: Reason, detail: str) -> Validity:
    return Validity(valid=False, reason=reason, detail=detail)
