"""The verdict on a measurement."""

from __future__ import annotations

import math

import msgspec
import pytest

from scoot.benchmark.validity import judge
from scoot.wire.measurement import Distribution, LoadAudit, Metrics
from scoot.wire.reasons import Blame, Reason, blame_of
from scoot.wire.spec import Limits


def _lateness(p99: float) -> Distribution:
    return Distribution(n=100, mean=0.1, p50=0.1, p90=0.2, p95=0.3, p99=p99, max=900.0)


_METRICS = Metrics(
    sent=100,
    completed=90,
    failed=10,
    failures={"RESET": 10},
    duration_s=10.0,
    request_throughput=9.0,
    output_token_throughput=90.0,
    input_token_throughput=90.0,
    offered_rate=10.0,
    ttft_ms=None,
    tpot_ms=None,
    itl_ms=None,
    e2e_ms=None,
    ttft_from_send_ms=None,
    e2e_from_send_ms=None,
    lateness_ms=_lateness(1.0),
    output_tokens=900,
    input_tokens=900,
    merged_share=0.0,
)
_AUDIT = LoadAudit(run=0, cpu_share=0.2, run_queue_s=0.0, clock_step_ms=0.1, dropped=0)
_LIMITS = Limits()


def test_a_clean_run_is_valid() -> None:
    verdict = judge(_METRICS, _AUDIT, _LIMITS)
    assert (verdict.valid, verdict.reason, verdict.detail) == (True, None, "")


def test_figures_at_their_limits_are_valid() -> None:
    audit = msgspec.structs.replace(_AUDIT, cpu_share=0.9, clock_step_ms=50.0)
    metrics = msgspec.structs.replace(_METRICS, lateness_ms=_lateness(50.0), completed=20)
    assert judge(metrics, audit, _LIMITS).valid


@pytest.mark.parametrize(
    ("audit", "metrics", "reason", "words"),
    [
        ({"clock_step_ms": 50.1}, {}, Reason.CLOCK_STEPPED, ("50.1 ms", "limit 50 ms")),
        ({"clock_step_ms": math.nan}, {}, Reason.CLOCK_STEPPED, ("nan",)),
        ({"cpu_share": 0.95}, {}, Reason.CLIENT_SATURATED, ("95%", "limit 90%")),
        ({"cpu_share": math.nan}, {}, Reason.CLIENT_SATURATED, ("nan",)),
        ({"dropped": 3}, {}, Reason.CLIENT_SATURATED, ("3 of 100", "limit 0")),
        ({}, {"lateness_ms": _lateness(51.0)}, Reason.LOAD_LATE, ("51.0 ms", "n = 100", "limit 50 ms")),
        ({}, {"completed": 19}, Reason.TOO_FEW_REQUESTS, ("19", "20")),
        ({}, {"completed": 0, "lateness_ms": None}, Reason.TOO_FEW_REQUESTS, ("0 measured",)),
    ],
)
def test_grounds_state_figure_and_limit(
    audit: dict[str, float], metrics: dict[str, object], reason: Reason, words: tuple[str, ...]
) -> None:
    verdict = judge(msgspec.structs.replace(_METRICS, **metrics), msgspec.structs.replace(_AUDIT, **audit), _LIMITS)
    assert (verdict.valid, verdict.reason) == (False, reason)
    assert blame_of(reason) is Blame.HARNESS
    for word in words:
        assert word in verdict.detail


def test_the_most_fundamental_ground_comes_first() -> None:
    everything = [
        ("clock_step_ms", 99.0, Reason.CLOCK_STEPPED),
        ("cpu_share", 1.0, Reason.CLIENT_SATURATED),
    ]
    metrics = msgspec.structs.replace(_METRICS, lateness_ms=_lateness(99.0), completed=0)
    audit = msgspec.structs.replace(_AUDIT, clock_step_ms=99.0, cpu_share=1.0)
    for name, _, reason in everything:
        assert judge(metrics, audit, _LIMITS).reason is reason
        audit = msgspec.structs.replace(audit, **{name: 0.0})
    assert judge(metrics, audit, _LIMITS).reason is Reason.LOAD_LATE
    metrics = msgspec.structs.replace(metrics, lateness_ms=None)
    assert judge(metrics, audit, _LIMITS).reason is Reason.TOO_FEW_REQUESTS
