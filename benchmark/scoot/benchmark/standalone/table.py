"""Summaries as text. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from scoot.benchmark.standalone.summary import STATISTICS, Figures, Summary
from scoot.benchmark.standalone.view import number, offered
from scoot.wire.measurement import LoadAudit

_LATENCY_LINES: Final = (
    ("TTFT", "ttft_ms"),
    ("  from send", "ttft_from_send_ms"),
    ("TPOT", "tpot_ms"),
    ("ITL, per gap", "itl_ms"),
    ("ITL, per request", "request_itl_ms"),
    ("E2E latency", "e2el_ms"),
    ("  from send", "e2el_from_send_ms"),
    ("lateness of sending", "lateness_ms"),
)
_ADMISSION_LINE: Final = ("wait for admission", "admission_ms")
"""Shown where only so many may be in flight."""

_SHOWN: Final = tuple(prefix for prefix, _ in STATISTICS if prefix != "p50")
"""Beside the median, its other name would only take room."""


def summary_text(summary: Summary) -> str:
    """The summary as it is printed: load, counts, rates, latencies, notes, verdict."""
    runs = f", median of {len(summary.runs)} runs" if len(summary.runs) > 1 else ""
    blocks = [f"{summary.target.model}: {offered(summary.workload)}{runs}"]
    if summary.metrics:
        blocks.append(aligned(_counts(summary.metrics), right=(1, 4)))
        blocks.append(aligned(_latencies(summary.metrics), right=range(1, len(_SHOWN) + 1)))
    classes = [
        f"goodput of {each.name}: {number(each.rate)} req/s, {each.attained} of {each.sent} ({each.share:.1%})"
        for each in (summary.runs[0].goodput_by_class if len(summary.runs) == 1 else ())
    ]
    client = [_client(run.audit) for run in summary.runs[:1]]
    notes = [f"note: {note}" for note in summary.notes]
    blocks.append("\n".join([*classes, *client, *notes, verdict_line(summary)]))
    return "\n\n".join(blocks)


def verdict_line(summary: Summary) -> str:
    """One sentence."""
    if summary.valid:
        return "VALID: the load generator kept to its schedule"
    return f"{summary.state.upper()}: {summary.detail}"


def _counts(metrics: Figures) -> list[tuple[str, ...]]:
    def pair(label: str, name: str, unit: str) -> tuple[str, str, str]:
        return label, number(metrics[name]), unit

    left = [
        pair("requests", "requests", ""),
        pair("completed", "completed", ""),
        pair("failed", "failed", ""),
        pair("duration", "duration", "s"),
        pair("concurrency, mean", "mean_concurrency", ""),
        pair("concurrency, peak", "max_concurrency", ""),
    ]
    right = [
        pair("offered rate", "offered_rate", "req/s"),
        pair("achieved rate", "achieved_rate", "req/s"),
        pair("request throughput", "request_throughput", "req/s"),
        pair("goodput", "request_goodput", "req/s"),
        pair("output throughput", "output_throughput", "tok/s"),
        pair("total throughput", "total_token_throughput", "tok/s"),
    ]
    return [(*one, *other) for one, other in zip(left, right, strict=True)]


def _latencies(metrics: Figures) -> list[tuple[str, ...]]:
    header = ("latencies in ms", *_SHOWN)
    lines = (*_LATENCY_LINES, _ADMISSION_LINE) if metrics["n_admission_ms"] else _LATENCY_LINES
    rows = [(label, *(number(metrics[f"{prefix}_{name}"]) for prefix in _SHOWN)) for label, name in lines]
    return [header, *rows]


def _client(audit: LoadAudit) -> str:
    senders = f"{audit.senders} sender{'s' if audit.senders != 1 else ''}, " if audit.senders else ""
    return f"load generator: {senders}{audit.cpu_share:.0%} of a core, {audit.clock} receive stamps"


def aligned(rows: Sequence[Sequence[str]], *, right: Collection[int]) -> str:
    """Rows as columns, two spaces between them; those in `right` are aligned to the right."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
