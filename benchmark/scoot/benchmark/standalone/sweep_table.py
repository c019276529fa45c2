"""What sweep.json holds, and a sweep as text and CSV. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Final

import msgspec

from scoot.benchmark.standalone.knee import Knee, Point, Saturation
from scoot.benchmark.standalone.summary import INVALID, VALID, Figures, Summary
from scoot.benchmark.standalone.table import aligned
from scoot.benchmark.standalone.view import number
from scoot.wire.reasons import Reason

SCHEMA: Final = 1
"""Of sweep.json: raised when a field is removed or changes its meaning."""

_CLIENT_REASONS: Final = frozenset({Reason.CLIENT_SATURATED.value, Reason.LOAD_LATE.value})

_COLUMNS: Final = (
    ("offered", "offered_rate"),
    ("completed", "request_throughput"),
    ("out tok/s", "output_throughput"),
    ("goodput", "request_goodput"),
    ("TTFT p50", "median_ttft_ms"),
    ("p99", "p99_ttft_ms"),
    ("TPOT p50", "median_tpot_ms"),
    ("p99", "p99_tpot_ms"),
    ("E2E p50", "median_e2el_ms"),
    ("late p99", "p99_lateness_ms"),
)
_ADMISSION: Final = ("wait p99", "p99_admission_ms")
"""Shown where only so many may be in flight."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a sweep.

    Attributes:
        name: "synchronous", "throughput", or the rate as in the folder's name.
        rate: asked for, requests/s; None in a closed loop.
        users: of a closed loop; None otherwise.
        folder: where its results are, below the sweep's.
        state, detail: of its summary.
        reason: why it is invalid, as in the summary's validity; "" if it is not.
        metrics: of its summary.
    """

    name: str
    rate: float | None
    users: int | None
    folder: str
    state: str
    detail: str
    reason: str
    metrics: Figures


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """A whole sweep.

    Attributes:
        schema: see SCHEMA.
        model, urls: what was loaded.
        slos: what the knee is for, in words; empty for none.
        steps: in the order they were run.
        knee: None without SLOs.
        saturation: SLOs aside.
        stopped: why no higher rate was tried; "" if all were.
        interrupted: it was stopped by its user.
        command, versions, started_at: as in summary.json.
    """

    schema: int
    model: str
    urls: tuple[str, ...]
    slos: tuple[str, ...]
    steps: tuple[Step, ...]
    knee: Knee | None
    saturation: Saturation
    stopped: str
    interrupted: bool
    command: tuple[str, ...]
    versions: dict[str, str]
    started_at: str


def step_of(summary: Summary, *, name: str, folder: str) -> Step:
    """A step from the summary of its run."""
    arrivals = summary.workload.arrivals
    return Step(
        name=name,
        rate=arrivals.rate,
        users=arrivals.users,
        folder=folder,
        state=summary.state,
        detail=summary.detail,
        reason=next((run.validity.reason.value for run in summary.runs if run.validity.reason is not None), ""),
        metrics=summary.metrics,
    )


def point_of(step: Step) -> Point | None:
    """A step as a point of the curve; None for closed loops and for what has no metrics."""
    metrics = step.metrics
    if step.rate is None or not metrics:
        return None
    requests = metrics["requests"] or 0
    return Point(
        rate=step.rate,
        offered=metrics["offered_rate"] or 0.0,
        throughput=metrics["request_throughput"] or 0.0,
        goodput=metrics["request_goodput"],
        share=metrics["goodput_share"],
        failed_share=(metrics["failed"] or 0) / requests if requests else 0.0,
        valid=step.state == VALID,
        saturated=step.state == INVALID and step.reason in _CLIENT_REASONS,
        detail=step.detail,
    )


def sweep_text(sweep: Sweep) -> str:
    """The sweep as it is printed."""
    waits = any(step.metrics.get("n_admission_ms") for step in sweep.steps)
    columns = (*_COLUMNS, _ADMISSION) if waits else _COLUMNS
    header = ("rate", *(label for label, _ in columns), "state")
    rows = [
        (
            step.name,
            *(number(step.metrics.get(name)) for _, name in columns),
            step.state,
        )
        for step in sweep.steps
    ]
    lines = [aligned([header, *rows], right=range(1, len(columns) + 1)), "rates in req/s, latencies in ms", ""]
    lines += [f"{step.name}: {step.state}: {step.detail}" for step in sweep.steps if step.state != VALID]
    if sweep.stopped:
        lines.append(f"stopped: {sweep.stopped}")
    lines.append(f"saturation: {sweep.saturation.detail}")
    if sweep.knee is not None:
        lines.append(f"goodput knee ({'; '.join(sweep.slos)}): {sweep.knee.detail}")
    elif sweep.slos:
        lines.append("goodput knee: none without a valid measurement")
    else:
        lines.append("goodput knee: none without SLOs (--slo ttft=500ms,tpot=50ms)")
    return "\n".join(lines)


def sweep_csv(steps: Sequence[Step]) -> str:
    """CSV (RFC 4180) with a header: a row per step, then every metric of its summary."""
    names = list(dict.fromkeys(name for step in steps for name in step.metrics))
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["name", "rate", "users", "state", "reason", "detail", *names])
    for step in steps:
        values = ["" if (value := step.metrics.get(name)) is None else value for name in names]
        known = [step.name, _blank(step.rate), _blank(step.users), step.state, step.reason, step.detail]
        writer.writerow([*known, *values])
    return out.getvalue()


def _blank(value: float | None) -> float | str:
    return "" if value is None else value
