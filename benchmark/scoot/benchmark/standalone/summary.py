"""From timings to the summary of a run, as it is in summary.json (docs/benchmark.md). Pure."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from scoot.benchmark.goodput import goodput
from scoot.benchmark.metrics import measured_of, summarise
from scoot.benchmark.validity import judge
from scoot.wire.columns import NONE_US, TimingBatch
from scoot.wire.measurement import Distribution, Goodput, LoadAudit, Metrics, Validity
from scoot.wire.spec import Limits, SloClass, Workload, WorkloadFacts

SCHEMA: Final = 1
"""Of summary.json: raised when a field is removed or changes its meaning."""

LATENCY_FIELDS: Final = (
    ("ttft_ms", "ttft_ms"),
    ("tpot_ms", "tpot_ms"),
    ("itl_ms", "itl_ms"),
    ("request_itl_ms", "request_itl_ms"),
    ("e2el_ms", "e2e_ms"),
    ("ttft_from_send_ms", "ttft_from_send_ms"),
    ("e2el_from_send_ms", "e2e_from_send_ms"),
    ("lateness_ms", "lateness_ms"),
    ("admission_ms", "admission_ms"),
)
"""Name in the summary -> field of Metrics."""

STATISTICS: Final = (
    ("mean", "mean"),
    ("median", "p50"),
    ("std", "std"),
    ("p50", "p50"),
    ("p90", "p90"),
    ("p95", "p95"),
    ("p99", "p99"),
    ("max", "max"),
)
"""Prefix in the summary -> field of Distribution."""

_US_PER_S: Final = 1e6

_FOR_MAX: Final = 100
"""The p99 of fewer samples is the largest of them."""

Figures = dict[str, int | float | None]
"""Name -> value; None where no request had one."""


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One run: an arrival order of its own.

    Attributes:
        run, seed: which, and what drew it.
        interrupted: it was stopped before its end.
        validity: whether it may be believed.
        metrics: see `figures`.
        failures: kind -> count.
        goodput_by_class: one per SLO class.
        audit: what the load generator observed of itself.
    """

    run: int
    seed: int
    interrupted: bool
    validity: Validity
    metrics: Figures
    failures: dict[str, int]
    goodput_by_class: tuple[Goodput, ...]
    audit: LoadAudit


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Smallest and largest value of every metric over several runs."""

    min: Figures
    max: Figures


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What was loaded, and how it was asked. Headers are told by name only: their values may be secret."""

    urls: tuple[str, ...]
    model: str
    endpoint: str
    prompt: str
    ignore_eos: bool
    max_model_len: int | None
    headers: tuple[str, ...]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A whole measurement.

    Attributes:
        schema: see SCHEMA.
        state: "valid", "invalid" or "interrupted"; of a simulated engine that does not start or dies, "failed".
        detail: why it is not valid, one sentence.
        metrics: of the only run, or the medians over the runs, figure by figure.
        spread: where there are several runs.
        runs: each.
        target, workload, facts: what was asked of whom.
        seeds: of the runs.
        limits: of the verdict.
        command: the command line, values of headers left out.
        versions: of SCOOT, Python and the kernel.
        started_at: date and time, UTC, ISO 8601.
        notes: one sentence per thing to know.
    """

    schema: int
    state: str
    detail: str
    metrics: Figures
    spread: Spread | None
    runs: tuple[RunSummary, ...]
    target: Target
    workload: Workload
    facts: WorkloadFacts
    seeds: tuple[int, ...]
    limits: Limits
    command: tuple[str, ...]
    versions: dict[str, str]
    started_at: str
    notes: tuple[str, ...]

    @property
    def valid(self) -> bool:
        """Whether it may be believed."""
        return self.state == VALID


VALID: Final = "valid"
INVALID: Final = "invalid"
INTERRUPTED: Final = "interrupted"


def run_summaries(
    batch: TimingBatch,
    audits: Sequence[LoadAudit],
    *,
    seeds: Sequence[int],
    classes: Sequence[SloClass],
    limits: Limits,
    interrupted: bool,
    max_in_flight: int | None = None,
) -> tuple[RunSummary, ...]:
    """The runs that have an audit, in their order.

    Args:
        batch: everything in the spool.
        audits: one per run that began.
        seeds: of all runs.
        classes: what requests were promised; empty for nothing.
        limits: of the verdict.
        interrupted: whether the last of them was stopped before its end.
        max_in_flight: the limit they were admitted under; None: there was none, and so no wait.

    Raises:
        ValueError: a request of a class that is not among `classes`, or an audit of a run that has no seed.
    """
    summaries: list[RunSummary] = []
    if max_in_flight is not None and batch.admitted_us is None:
        # Timings leave the column out where nobody had to wait: under a limit that is a wait of 0, and no unknown one.
        batch = dataclasses.replace(batch, admitted_us=np.zeros(len(batch), np.uint32))
    for audit in sorted(audits, key=lambda each: each.run):
        if audit.run >= len(seeds):
            raise ValueError(f"an audit of run {audit.run}, of {len(seeds)} runs")
        metrics = summarise(batch, run=audit.run)
        if classes:
            together, each = goodput(batch, run=audit.run, classes=classes)
            metrics = msgspec.structs.replace(metrics, goodput=together, goodput_by_class=each)
        summaries.append(
            RunSummary(
                run=audit.run,
                seed=seeds[audit.run],
                interrupted=interrupted and audit is max(audits, key=lambda other: other.run),
                validity=judge(metrics, audit, limits),
                metrics=figures(metrics) | concurrency(batch, run=audit.run),
                failures=metrics.failures,
                goodput_by_class=metrics.goodput_by_class,
                audit=audit,
            )
        )
    return tuple(summaries)


def figures(metrics: Metrics) -> Figures:
    """Metrics under the names that serving benchmarks share (docs/benchmark.md defines each)."""
    flat: Figures = {
        "requests": metrics.sent,
        "completed": metrics.completed,
        "failed": metrics.failed,
        "duration": metrics.duration_s,
        "offered_rate": metrics.offered_rate,
        "achieved_rate": metrics.achieved_rate,
        "admitted_rate": None if metrics.admission_ms is None else metrics.admitted_rate,
        "request_throughput": metrics.request_throughput,
        "request_goodput": None if metrics.goodput is None else metrics.goodput.rate,
        "goodput_share": None if metrics.goodput is None else metrics.goodput.share,
        "input_throughput": metrics.input_token_throughput,
        "output_throughput": metrics.output_token_throughput,
        "total_token_throughput": metrics.input_token_throughput + metrics.output_token_throughput,
        "total_input_tokens": metrics.input_tokens,
        "total_output_tokens": metrics.output_tokens,
        "merged_share": metrics.merged_share,
        "multi_token_share": metrics.multi_token_share,
    }
    for name, field in LATENCY_FIELDS:
        summary: Distribution | None = getattr(metrics, field)
        flat[f"n_{name}"] = 0 if summary is None else summary.n
        for prefix, statistic in STATISTICS:
            flat[f"{prefix}_{name}"] = None if summary is None else getattr(summary, statistic)
    return flat


def concurrency(batch: TimingBatch, *, run: int) -> Figures:
    """Measured requests between their sending and their end at once: the mean over the measured window, and the peak.

    A request without an end (the server never closed, or was never asked) is left out.
    """
    counted = measured_of(batch, run=run) & (batch.sent_us != NONE_US) & (batch.end_us != NONE_US)
    intended = batch.intended_us[counted].astype(np.int64)
    begin = intended + batch.sent_us[counted]
    end = intended + batch.end_us[counted]
    if not len(begin):
        return {"mean_concurrency": 0.0, "max_concurrency": 0}
    times = np.concatenate([end, begin])
    steps = np.concatenate([np.full(len(end), -1), np.ones(len(begin), np.int64)])
    # A stable sort puts an end before a beginning of the same microsecond.
    order = np.argsort(times, kind="stable")
    span_s = (int(end.max()) - int(intended.min())) / _US_PER_S
    mean = float((end - begin).sum()) / _US_PER_S / span_s if span_s > 0 else 0.0
    return {"mean_concurrency": mean, "max_concurrency": int(np.cumsum(steps[order]).max())}


def over_runs(runs: Sequence[RunSummary]) -> tuple[Figures, Spread | None]:
    """Metrics of the only run, or medians over several (a figure that some lack: over the others), and their spread."""
    if not runs:
        return {}, None
    if len(runs) == 1:
        return runs[0].metrics, None
    there = {
        name: [value for value in (run.metrics[name] for run in runs) if value is not None] for name in runs[0].metrics
    }
    return (
        {name: statistics.median(values) if values else None for name, values in there.items()},
        Spread(
            min={name: min(values, default=None) for name, values in there.items()},
            max={name: max(values, default=None) for name, values in there.items()},
        ),
    )


def verdict(runs: Sequence[RunSummary], *, interrupted: bool) -> tuple[str, str]:
    """State of the whole, and why it is not valid."""
    if interrupted:
        return INTERRUPTED, "stopped before its end: the figures are of what had come until then"
    for run in runs:
        if not run.validity.valid:
            which = f"run {run.run + 1} of {len(runs)}: " if len(runs) > 1 else ""
            reason = run.validity.reason.value if run.validity.reason is not None else ""
            return INVALID, f"{which}{reason}: {run.validity.detail}"
    if not runs:
        return INVALID, "nothing was measured"
    return VALID, ""


def all_refused(runs: Sequence[RunSummary]) -> bool:
    """Whether there are requests, and the server refused each of them (HTTP 400 to 499)."""
    sent = sum(int(run.metrics["requests"] or 0) for run in runs)
    refused = sum(count for run in runs for kind, count in run.failures.items() if kind.startswith("HTTP_4"))
    return 0 < sent == refused


def caveats(runs: Sequence[RunSummary], limits: Limits) -> tuple[str, ...]:
    """What to know before believing a figure that is valid all the same."""
    notes: list[str] = []
    sent = sum(int(run.metrics["requests"] or 0) for run in runs)
    failed = sum(int(run.metrics["failed"] or 0) for run in runs)
    kinds: Counter[str] = Counter()
    for run in runs:
        kinds.update(run.failures)
    if sent and failed / sent > limits.max_failed_share:
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        notes.append(f"{failed} of {sent} requests failed ({listed}): latencies are of the others only")
    if any(run.audit.clock == "user" for run in runs):
        notes.append("receive times are the load generator's own (audit.clock is user): they include its own delays")
    few = min((int(run.metrics["completed"] or 0) for run in runs), default=0)
    if 0 < few < _FOR_MAX:
        notes.append(f"{few} completed requests are few: the p99 is the maximum")
    return tuple(notes)
