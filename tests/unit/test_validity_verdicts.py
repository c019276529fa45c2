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
    achieved_rate=10.0,
)
_AUDIT = LoadAudit(run=0, cpu_share=0.2, run_queue_s=0.0, clock_step_ms=0.1, dropped=0, wall_s=20.0)
_LIMITS = Limits()


def test_a_clean_run_is_valid() -> None:
    verdict = judge(_METRICS, _AUDIT, _LIMITS)
    assert (verdict.valid, verdict.reason, verdict.detail) == (True, None, "")


def test_figures_at_their_limits_are_valid() -> None:
    audit = msgspec.structs.replace(
        _AUDIT,
        cpu_share=0.9,
        clock_step_ms=50.0,
        run_queue_s=10.0,
        late_read_share=1.0,
        other_cpu_s=10.0,
        host_cpus=2,
    )
    metrics = msgspec.structs.replace(
        _METRICS, lateness_ms=_lateness(20.0), completed=20, achieved_rate=9.8, merged_share=0.05
    )
    assert judge(metrics, audit, _LIMITS).valid


@pytest.mark.parametrize(
    ("audit", "metrics", "reason", "words"),
    [
        ({"clock_step_ms": 50.1}, {}, Reason.CLOCK_STEPPED, ("50.1 ms", "limit 50 ms")),
        ({"clock_step_ms": math.nan}, {}, Reason.CLOCK_STEPPED, ("nan",)),
        ({"cpu_share": 0.95}, {}, Reason.CLIENT_SATURATED, ("95%", "limit 90%")),
        ({"cpu_share": math.nan}, {}, Reason.CLIENT_SATURATED, ("nan",)),
        ({"dropped": 3}, {}, Reason.CLIENT_SATURATED, ("3 of 100", "limit 0")),
        ({"run_queue_s": 10.4}, {}, Reason.CLIENT_SATURATED, ("52% of the run", "limit 50%")),
        ({"run_queue_s": math.nan}, {}, Reason.CLIENT_SATURATED, ("nan",)),
        ({"wall_s": math.nan}, {}, Reason.CLIENT_SATURATED, ("nan",)),
        ({}, {"achieved_rate": 9.7}, Reason.CLIENT_SATURATED, ("9.7/s", "97.0%", "10/s", "98.0%", "900.0 ms", "20 ms")),
        ({}, {"achieved_rate": math.nan}, Reason.CLIENT_SATURATED, ("nan",)),
        (
            {},
            {"achieved_rate": math.nan, "lateness_ms": msgspec.structs.replace(_lateness(1.0), max=1.0)},
            Reason.CLIENT_SATURATED,
            ("nan",),
        ),
        ({}, {"lateness_ms": _lateness(21.0)}, Reason.LOAD_LATE, ("21.0 ms", "n = 100", "limit 20 ms")),
        ({}, {"lateness_ms": _lateness(math.nan)}, Reason.LOAD_LATE, ("nan",)),
        ({"late_read_share": 0.1}, {"merged_share": 0.2}, Reason.CLIENT_SATURATED, ("20.0%", "5.0%", "10.0% of its")),
        ({"run_queue_s": 3.0}, {"merged_share": 0.2}, Reason.CLIENT_SATURATED, ("20.0%", "15% of the run", "10%")),
        ({"cpu_share": 0.6}, {"merged_share": 0.2}, Reason.CLIENT_SATURATED, ("20.0%", "60% of a core", "50%")),
        ({"late_read_share": math.nan}, {"merged_share": 0.2}, Reason.CLIENT_SATURATED, ("nan",)),
        ({}, {"merged_share": math.nan}, Reason.CLIENT_SATURATED, ("nan",)),
        ({}, {"completed": 19}, Reason.TOO_FEW_REQUESTS, ("19", "20")),
        ({}, {"completed": 0, "lateness_ms": None}, Reason.TOO_FEW_REQUESTS, ("0 measured",)),
        ({"other_cpu_s": 32.0, "host_cpus": 4}, {}, Reason.HOST_NOISY, ("40%", "4 CPUs", "limit 25%")),
        ({"other_cpu_s": math.nan, "host_cpus": 4}, {}, Reason.HOST_NOISY, ("nan",)),
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


def test_merged_reads_of_a_client_with_time_to_spare_are_the_servers_doing() -> None:
    metrics = msgspec.structs.replace(_METRICS, merged_share=0.9)
    audit = msgspec.structs.replace(_AUDIT, cpu_share=0.5, run_queue_s=2.0, late_read_share=0.05)
    assert judge(metrics, audit, _LIMITS).valid


def test_a_window_whose_arrivals_end_early_is_no_fault_of_the_sender() -> None:
    metrics = msgspec.structs.replace(
        _METRICS, achieved_rate=9.0, lateness_ms=msgspec.structs.replace(_lateness(2.0), max=20.0)
    )
    assert judge(metrics, _AUDIT, _LIMITS).valid


def test_a_rate_without_a_span_is_not_judged() -> None:
    for changes in ({"achieved_rate": 0.0}, {"offered_rate": 0.0}):
        assert judge(msgspec.structs.replace(_METRICS, **changes), _AUDIT, _LIMITS).valid


@pytest.mark.parametrize(
    ("limit", "audit", "metrics"),
    [
        ("run_queue_share", {"run_queue_s": 20.0}, {}),
        ("achieved_share", {}, {"achieved_rate": 1.0}),
        ("merged_share", {"late_read_share": 1.0}, {"merged_share": 1.0}),
        ("other_cpu_share", {"other_cpu_s": 40.0, "host_cpus": 2}, {}),
    ],
)
def test_a_limit_of_zero_leaves_its_ground_out(limit: str, audit: dict[str, float], metrics: dict[str, object]) -> None:
    """Which is what a study from before there was such a limit says, on the wire."""
    told = msgspec.structs.replace(_METRICS, **metrics)
    seen = msgspec.structs.replace(_AUDIT, **audit)
    reason = Reason.HOST_NOISY if limit == "other_cpu_share" else Reason.CLIENT_SATURATED
    assert judge(told, seen, _LIMITS).reason is reason
    assert judge(told, seen, msgspec.structs.replace(_LIMITS, **{limit: 0.0})).valid


def test_an_audit_that_does_not_tell_its_wall_time_is_not_judged_by_it() -> None:
    assert judge(_METRICS, msgspec.structs.replace(_AUDIT, run_queue_s=100.0, wall_s=0.0), _LIMITS).valid


@pytest.mark.parametrize("unknown", [{"other_cpu_s": None}, {"host_cpus": 0}, {"wall_s": 0.0}])
def test_noise_that_is_not_known_is_not_judged(unknown: dict[str, object]) -> None:
    noisy = {"other_cpu_s": 40.0, "host_cpus": 2}
    assert judge(_METRICS, msgspec.structs.replace(_AUDIT, **(noisy | unknown)), _LIMITS).valid


def test_the_most_fundamental_ground_comes_first() -> None:
    grounds = [
        ("clock_step_ms", 99.0, "the wall clock moved"),
        ("dropped", 1, "never sent"),
        ("cpu_share", 1.0, "of a core"),
        ("run_queue_s", 19.0, "waited for a CPU"),
    ]
    metrics = msgspec.structs.replace(
        _METRICS, lateness_ms=_lateness(99.0), completed=0, achieved_rate=1.0, merged_share=1.0
    )
    noisy = msgspec.structs.replace(_AUDIT, late_read_share=1.0, other_cpu_s=40.0, host_cpus=2)
    audit = msgspec.structs.replace(noisy, **{name: value for name, value, _ in grounds})
    for name, _, words in grounds:
        assert words in judge(metrics, audit, _LIMITS).detail
        audit = msgspec.structs.replace(audit, **{name: 0})
    for changes, words in (
        ({"achieved_rate": 10.0}, "were due"),
        ({"lateness_ms": None}, "late at p99"),
        ({"merged_share": 0.0}, "read together"),
        ({"completed": 20}, "completed, at least"),
    ):
        assert words in judge(metrics, audit, _LIMITS).detail
        metrics = msgspec.structs.replace(metrics, **changes)
    assert judge(metrics, audit, _LIMITS).reason is Reason.HOST_NOISY, "the last: it has no other"
    assert judge(metrics, msgspec.structs.replace(audit, other_cpu_s=0.0), _LIMITS).valid
