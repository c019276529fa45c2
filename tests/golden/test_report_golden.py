"""Whole reports of hand-made studies against committed ones; SCOOT_UPDATE_GOLDEN=1 rewrites those."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import msgspec
import pytest

from scoot.coordinator.report.build import build_results
from scoot.coordinator.report.html import render_html
from scoot.coordinator.report.markdown import render_markdown
from scoot.coordinator.report.results import Results, decode_results, encode_results, results_json_schema
from scoot.coordinator.study.state import StudyRecord, TrialRecord
from scoot.wire.measurement import Distribution, Goodput, LoadAudit, Metrics, PhaseTime, RunResult, Validity
from scoot.wire.reasons import Reason
from scoot.wire.spec import (
    Arrivals,
    Budget,
    Config,
    Objective,
    Parameter,
    ParameterKind,
    Scale,
    Service,
    SloClass,
    StudySpec,
    Workload,
    WorkloadFacts,
)
from scoot.wire.states import StudyState, TrialKind, TrialState

GOLDEN = Path(__file__).parent / "report"
ROOT = Path(__file__).parents[2]
START_S = 1_767_225_600.0


def distribution(mean: float) -> Distribution:
    return Distribution(n=240, mean=mean, p50=mean * 0.9, p90=mean * 1.5, p95=mean * 1.8, p99=mean * 2.5, max=mean * 3)


def metrics(ttft_ms: float, tpot_ms: float) -> Metrics:
    return Metrics(
        sent=240,
        completed=240,
        failed=0,
        failures={},
        duration_s=20.0,
        request_throughput=12.0,
        output_token_throughput=600.0,
        input_token_throughput=2400.0,
        offered_rate=12.0,
        ttft_ms=distribution(ttft_ms),
        tpot_ms=distribution(tpot_ms),
        itl_ms=distribution(tpot_ms),
        e2e_ms=distribution(ttft_ms + 50 * tpot_ms),
        ttft_from_send_ms=distribution(ttft_ms),
        e2e_from_send_ms=distribution(ttft_ms + 50 * tpot_ms),
        lateness_ms=distribution(0.2),
        output_tokens=12_000,
        input_tokens=48_000,
        merged_share=0.004,
        achieved_rate=11.98,
        request_itl_ms=distribution(tpot_ms),
        multi_token_share=0.25,
    )


def run(index: int, seed: int, ttft_ms: float, tpot_ms: float) -> RunResult:
    return RunResult(
        run=index,
        seed=seed,
        metrics=metrics(ttft_ms, tpot_ms),
        audit=LoadAudit(
            run=index,
            cpu_share=0.2,
            run_queue_s=0.01,
            clock_step_ms=0.0,
            dropped=0,
            clock="kernel",
            senders=2,
            wall_s=26.0,
            pinned=(0, 1),
            connections=31,
        ),
        validity=Validity(valid=True),
    )


CLASSES = (SloClass(name="chat", share=0.75, ttft_ms=30.0, tpot_ms=9.0), SloClass(name="batch", share=0.25, e2e_ms=5e3))


def promised(result: RunResult, chat: int) -> RunResult:
    """The run with so many of its 180 chat requests, and all of its 60 batch requests, good."""
    each = tuple(
        Goodput(name=name, sent=sent, attained=good, share=good / sent, rate=good / 20)
        for name, sent, good in (("chat", 180, chat), ("batch", 60, 60))
    )
    together = Goodput(name="", sent=240, attained=chat + 60, share=(chat + 60) / 240, rate=(chat + 60) / 20)
    return msgspec.structs.replace(
        result, metrics=msgspec.structs.replace(result.metrics, goodput=together, goodput_by_class=each)
    )


def spec(*objectives: str, trials: int) -> StudySpec:
    return StudySpec(
        name="Chat on a small <box>",
        service=Service(
            engine="vllm",
            model="/srv/models/tiny-llama",
            device="cpu",
            max_model_len=2048,
            options={"enforce_eager": True, "load_format": "dummy"},
            env={"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_TOKEN": "hf_do_not_show"},
        ),
        workload=Workload(
            trace="azure2023_conv.csv.gz",
            arrivals=Arrivals(rate=12.0),
            duration_s=20.0,
            warm_up_s=5.0,
            seed=11,
        ),
        parameters=(
            Parameter(name="max_num_seqs", kind=ParameterKind.INT, low=4, high=256, scale=Scale.LOG),
            Parameter(name="block_size", kind=ParameterKind.INT, choices=(16, 32, 48, 64)),
            Parameter(name="enable_chunked_prefill", kind=ParameterKind.BOOL),
        ),
        objectives=tuple(Objective(metric=metric) for metric in objectives),
        constraints=("max_num_seqs * block_size <= 8192",),
        budget=Budget(trials=trials, parallelism=2),
        workload_facts=WorkloadFacts(
            sha256="5f" * 32,
            requests=9_683,
            input_p50=410,
            input_max=1_536,
            output_p50=212,
            output_max=511,
            notes=("Lengths are scaled by 0.4.", "118 requests were clipped to 2,048 tokens."),
        ),
    )


def trial(number: int, config: Config, *runs: RunResult, **changes: object) -> TrialRecord:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in config.items() if not isinstance(value, bool)]
    flags += [
        f"--{'' if value else 'no-'}{name.replace('_', '-')}"
        for name, value in config.items()
        if isinstance(value, bool)
    ]
    fields: dict[str, object] = {
        "study_id": "s-000001",
        "number": number,
        "kind": TrialKind.SUGGESTED if number else TrialKind.DEFAULT,
        "config": config,
        "source": "sobol" if number else "default",
        "run_seeds": tuple(r.seed for r in runs) or (11,),
        "created_at_s": START_S + 60 * number,
        "state": TrialState.SUCCEEDED,
        "attempts": 1,
        "effective_config": config or {"max_num_seqs": 128, "block_size": 128, "enable_chunked_prefill": True},
        "runs": runs,
        "phases": (PhaseTime(phase="START", seconds=14.5), PhaseTime(phase="MEASURE", seconds=20.4)),
        "engine_version": "0.32.0",
        "command": (
            "/opt/vllm/bin/python",
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--model",
            "/srv/models/tiny-llama",
            *flags,
        ),
        "agent_id": "box-1",
        "started_at_s": START_S + 60 * number,
        "ended_at_s": START_S + 60 * number + 45,
    }
    return TrialRecord(**(fields | changes))  # type: ignore[arg-type]  # the fields above, and what a test changes


def infeasible(number: int, config: Config, reason: Reason, message: str) -> TrialRecord:
    return trial(
        number,
        config,
        state=TrialState.INFEASIBLE,
        reason=reason,
        message=message,
        log_tail=f"INFO starting\nERROR {message}\nRuntimeError: Engine core initialization failed.",
    )


def config(seqs: int, block: int, *, chunked: bool = True) -> Config:
    return {"max_num_seqs": seqs, "block_size": block, "enable_chunked_prefill": chunked}


CRASH = "RuntimeError: CPUAttentionBackend: block_size 48 is not a multiple of 32 | see <docs>"


def two_objectives() -> Results:
    plain = spec("ttft_mean", "tpot_mean", trials=12)
    study = StudyRecord(
        study_id="s-000001",
        spec=msgspec.structs.replace(plain, workload=msgspec.structs.replace(plain.workload, slo_classes=CLASSES)),
        idempotency_key="k",
        created_at_s=START_S,
        state=StudyState.COMPLETED,
        ended_at_s=START_S + 1_000,
    )
    seeds = (1_000_014, 2_000_017, 3_000_020)
    default_orders = ((29.0, 8.4), (26.0, 8.9), (41.0, 8.6))
    best_orders = ((22.1, 6.9), (20.3, 7.4), (23.7, 7.02))
    trials = (
        trial(0, {}, run(0, 11, 28.0, 8.6)),
        trial(1, config(64, 32), run(0, 11, 24.0, 8.0)),
        infeasible(2, config(32, 48), Reason.ENGINE_CRASHED_UNDER_LOAD, CRASH),
        trial(3, config(4, 64), run(0, 11, 4_310.0, 3.1)),
        trial(4, config(128, 128), run(0, 11, 21.0, 7.1), effective_config=config(128, 64)),
        trial(5, config(16, 32, chunked=False), run(0, 11, 1_160.0, 5.2)),
        infeasible(6, config(256, 16), Reason.ENGINE_EXITED_ON_START, "ValueError: block_size 16 is too small"),
        trial(7, config(200, 32), run(0, 11, 19.0, 9.7), attempts=2),
        trial(8, config(40, 64), run(0, 11, 64.0, 6.6)),
        trial(
            9,
            config(24, 32),
            state=TrialState.FAILED,
            attempts=3,
            reason=Reason.LOAD_LATE,
            message="p99 was 71 ms late",
        ),
        trial(10, config(24, 64), run(0, 11, 310.0, 6.1), source="sobol-fallback"),
        trial(11, config(90, 64, chunked=False), run(0, 11, 33.0, 7.9)),
        trial(
            12,
            {},
            *(run(i, seed, *values) for i, (seed, values) in enumerate(zip(seeds, default_orders, strict=True))),
            kind=TrialKind.CONFIRMATION,
            source="confirm-default",
            confirms=0,
        ),
        trial(
            13,
            config(128, 128),
            *(
                promised(run(i, seed, *values), chat=170 - i)
                for i, (seed, values) in enumerate(zip(seeds, best_orders, strict=True))
            ),
            kind=TrialKind.CONFIRMATION,
            source="confirm-best",
            confirms=4,
            effective_config=config(128, 64),
        ),
    )
    return build_results(study, trials, scoot_version="0.1.0", now_s=START_S + 1_001)


def one_objective() -> Results:
    study = StudyRecord(
        study_id="s-000002",
        spec=spec("e2e_p95", trials=8),
        idempotency_key="k",
        created_at_s=START_S,
        state=StudyState.SEARCHING,
        waiting="agent box-1 has no free CPU slot",
    )
    trials = (
        trial(0, {}, run(0, 11, 28.0, 8.6)),
        trial(1, config(64, 32), run(0, 11, 35.0, 9.4)),
        infeasible(2, config(32, 48), Reason.ENGINE_CRASHED_UNDER_LOAD, CRASH),
        trial(3, config(128, 64), run(0, 11, 24.0, 7.6)),
        trial(4, config(100, 64), run(0, 11, 30.0, 8.1)),
        trial(5, config(140, 64), run(0, 11, 22.0, 7.2)),
        trial(6, config(8, 64), state=TrialState.RUNNING, runs=(), phases=(), ended_at_s=0.0),
    )
    return build_results(study, trials, scoot_version="0.1.0", now_s=START_S + 500)


STUDIES: dict[str, Callable[[], Results]] = {"two_objectives": two_objectives, "one_objective": one_objective}
FORMATS: dict[str, Callable[[Results], str]] = {
    "json": lambda results: encode_results(results).decode(),
    "md": render_markdown,
    "html": render_html,
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("study", STUDIES)
def test_report_is_the_committed_one(study: str, suffix: str) -> None:
    text = FORMATS[suffix](STUDIES[study]())
    path = GOLDEN / f"{study}.{suffix}"
    if os.environ.get("SCOOT_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "run with SCOOT_UPDATE_GOLDEN=1 and look at the difference"


@pytest.mark.parametrize("study", STUDIES)
def test_results_fit_the_published_schema_and_read_back(study: str) -> None:
    results = STUDIES[study]()
    schema = json.loads((ROOT / "docs" / "results.schema.json").read_text(encoding="utf-8"))
    assert schema == results_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    encoded = encode_results(results)
    jsonschema.validate(json.loads(encoded), schema, cls=jsonschema.Draft202012Validator)
    assert decode_results(encoded) == results


def test_schema_refuses_what_is_no_result() -> None:
    schema = results_json_schema()
    document = json.loads(encode_results(two_objectives()))
    document["schema"] = 2
    with pytest.raises(jsonschema.ValidationError, match="1 was expected"):
        jsonschema.validate(document, schema, cls=jsonschema.Draft202012Validator)


class _Outside(HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {name for name, _ in attrs}
        if tag in ("script", "link", "img", "iframe", "object", "embed", "base", "use") or names & {"src", "href"}:
            self.found.append(tag)
        self.found += [name for name in names if name.startswith("on")]
        if tag not in ("meta", "path", "circle", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "path", "circle", "br"):
            assert self.open.pop() == tag


@pytest.mark.parametrize("study", STUDIES)
def test_page_is_self_contained_and_well_formed(study: str) -> None:
    page = render_html(STUDIES[study]())
    parser = _Outside()
    parser.feed(page)
    assert parser.found == []
    assert parser.open == []
    assert "@import" not in page
    assert "url(" not in page
    assert len(page.encode()) < 40_000


def test_secrets_are_nowhere() -> None:
    for study in STUDIES.values():
        for render in FORMATS.values():
            text = render(study())
            assert "hf_do_not_show" not in text
            assert "HF_TOKEN" in text
