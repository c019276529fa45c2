"""Metrics, runs, trials and studies for tests of what is made of them."""

from __future__ import annotations

import json
from typing import Any

import jsonschema

from scoot.coordinator.report.build import build_results
from scoot.coordinator.report.html import render_html
from scoot.coordinator.report.markdown import render_markdown
from scoot.coordinator.report.results import Results, encode_results, results_json_schema
from scoot.coordinator.study.state import StudyRecord, TrialRecord
from scoot.wire.measurement import Distribution, LoadAudit, Metrics, RunResult, Validity
from scoot.wire.reasons import Reason
from scoot.wire.spec import (
    Budget,
    Confirm,
    Objective,
    Parameter,
    ParameterKind,
    Service,
    StudySpec,
    Workload,
)
from scoot.wire.states import StudyState, TrialKind, TrialState

SEEDS = (101, 102, 103)


def distribution(value: float) -> Distribution:
    return Distribution(n=50, mean=value, p50=value, p90=value, p95=value, p99=value, max=value)


def metrics(ttft: float, throughput: float = 10.0, **fields: Any) -> Metrics:
    """Of a window of 5 s in which nothing failed, TTFT in ms; `fields` over them."""
    base: dict[str, Any] = {
        "sent": 50,
        "completed": 50,
        "failed": 0,
        "failures": {},
        "duration_s": 5.0,
        "request_throughput": throughput,
        "output_token_throughput": throughput * 10,
        "input_token_throughput": throughput * 20,
        "offered_rate": 10.0,
        "ttft_ms": distribution(ttft),
        "tpot_ms": None,
        "itl_ms": None,
        "e2e_ms": distribution(ttft),
        "ttft_from_send_ms": None,
        "e2e_from_send_ms": None,
        "lateness_ms": None,
        "output_tokens": 500,
        "input_tokens": 1000,
        "merged_share": 0.0,
    }
    return Metrics(**(base | fields))


def audit(index: int = 0) -> LoadAudit:
    """Of a load process that had no trouble."""
    return LoadAudit(run=index, cpu_share=0.1, run_queue_s=0.0, clock_step_ms=0.0, dropped=0)


def run(ttft_ms: float, throughput: float = 10.0, *, seed: int = 1, index: int = 0, valid: bool = True) -> RunResult:
    late = Validity(valid=False, reason=Reason.LOAD_LATE, detail="p99 71 ms > 50 ms")
    return RunResult(
        run=index,
        seed=seed,
        metrics=metrics(ttft_ms, throughput),
        audit=audit(index),
        validity=Validity(valid=True) if valid else late,
    )


def spec(*objectives: str, **service: Any) -> StudySpec:
    return StudySpec(
        name="s",
        service=Service(**({"engine": "mock", "model": "m", "device": "cpu"} | service)),
        workload=Workload(profile="BOT"),
        parameters=(Parameter(name="max_num_seqs", kind=ParameterKind.INT, low=1, high=64),),
        objectives=tuple(Objective(metric=metric) for metric in objectives),
        budget=Budget(trials=4),
        confirm=Confirm(arrival_orders=3),
    )


def study(*objectives: str, state: StudyState = StudyState.COMPLETED, **fields: Any) -> StudyRecord:
    chosen = fields.pop("spec", None) or spec(*(objectives or ("ttft_mean",)))
    return StudyRecord(study_id="s-1", spec=chosen, idempotency_key="k", created_at_s=1.0, state=state, **fields)


def trial(number: int, *runs: RunResult, **fields: Any) -> TrialRecord:
    base: dict[str, Any] = {
        "study_id": "s-1",
        "number": number,
        "kind": TrialKind.SUGGESTED if number else TrialKind.DEFAULT,
        "config": {"max_num_seqs": number} if number else {},
        "source": "sobol" if number else "default",
        "run_seeds": tuple(each.seed for each in runs) or (1,),
        "created_at_s": 1.0,
        "state": TrialState.SUCCEEDED,
        "attempts": 1,
        "runs": runs,
    }
    return TrialRecord(**(base | fields))


def infeasible(number: int) -> TrialRecord:
    return trial(
        number,
        state=TrialState.INFEASIBLE,
        reason=Reason.ENGINE_OOM,
        message="CUDA out of memory",
        log_tail="Traceback",
    )


def confirmation(number: int, confirms: int, *values: float | None, **fields: Any) -> TrialRecord:
    """Runs with these TTFTs; None is one that is not believed."""
    runs = [
        run(value or 1e9, seed=seed, index=index, valid=value is not None)
        for index, (seed, value) in enumerate(zip(SEEDS, values, strict=True))
    ]
    base: dict[str, Any] = {
        "kind": TrialKind.CONFIRMATION,
        "source": "confirm-best" if confirms else "confirm-default",
        "confirms": confirms,
        "run_seeds": SEEDS,
    }
    return trial(number, *runs, **(base | fields))


def build(record: StudyRecord, *trials: TrialRecord) -> Results:
    """Results, checked against the schema and rendered, whatever they are."""
    results = build_results(record, trials, scoot_version="0.1.0", now_s=2.0)
    schema = results_json_schema()
    jsonschema.validate(json.loads(encode_results(results)), schema, cls=jsonschema.Draft202012Validator)
    assert render_markdown(results)
    assert render_html(results)
    return results


def codes(results: Results) -> list[str]:
    return [caveat.code for caveat in results.caveats]
