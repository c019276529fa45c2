"""Which failures count against a configuration."""

from __future__ import annotations

from typing import Any

import pytest

from scoot.coordinator.study.machine import _failed_share
from scoot.wire.measurement import LoadAudit, Metrics, RunResult, Validity

_NONE: dict[str, Any] = dict.fromkeys(
    ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms", "ttft_from_send_ms", "e2e_from_send_ms", "lateness_ms")
)
_RATES: dict[str, Any] = dict.fromkeys(
    ("request_throughput", "output_token_throughput", "input_token_throughput", "offered_rate", "merged_share"), 0.0
)


@pytest.mark.parametrize(
    ("failures", "share"),
    [({}, 0.0), ({"RESET": 4, "HTTP_500": 1}, 0.5), ({"NOT_SENT": 5}, 0.0), ({"NOT_SENT": 3, "RESET": 2}, 0.2)],
)
def test_what_the_load_generator_could_not_send_is_not_the_engines_failure(
    failures: dict[str, int], share: float
) -> None:
    failed = sum(failures.values())
    metrics = Metrics(
        sent=10,
        completed=10 - failed,
        failed=failed,
        failures=failures,
        duration_s=1.0,
        output_tokens=0,
        input_tokens=0,
        **_NONE,
        **_RATES,
    )
    audit = LoadAudit(run=0, cpu_share=0.1, run_queue_s=0.0, clock_step_ms=0.0, dropped=0)
    assert _failed_share(RunResult(run=0, seed=1, metrics=metrics, audit=audit, validity=Validity(valid=True))) == share
