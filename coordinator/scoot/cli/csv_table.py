"""A study's trials as a table for spreadsheets: one row per trial and arrival order. Pure."""

from __future__ import annotations

import csv
import io
from typing import Final

import msgspec

from scoot.cli.text import one_line, scalar
from scoot.wire.measurement import Distribution, RunResult
from scoot.wire.reasons import blame_of
from scoot.wire.view import StudyDetail, Trial

_LATENCIES: Final = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms", "ttft_from_send_ms", "e2e_from_send_ms", "lateness_ms")
_COUNTS: Final = (
    "sent",
    "completed",
    "failed",
    "duration_s",
    "offered_rate",
    "achieved_rate",
    "request_throughput",
    "output_token_throughput",
    "input_token_throughput",
)
_STATISTICS: Final = tuple(field.name for field in msgspec.structs.fields(Distribution))


def csv_table(detail: StudyDetail) -> str:
    """CSV (RFC 4180) with a header.

    Columns: trial, kind, source, state, reason, blame, message, attempts, seconds, config.NAME and effective.NAME for
    every parameter, run, seed, valid, counts and rates, then LATENCY.STATISTIC in milliseconds. Trials without a
    measurement have one row with empty metrics.
    """
    names = [parameter.name for parameter in detail.study.spec.parameters]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        [
            *("trial", "kind", "source", "state", "reason", "blame", "message", "attempts", "seconds"),
            *(f"config.{name}" for name in names),
            *(f"effective.{name}" for name in names),
            *("run", "seed", "valid"),
            *_COUNTS,
            *(f"{latency}.{statistic}" for latency in _LATENCIES for statistic in _STATISTICS),
        ]
    )
    for trial in detail.trials:
        for run in trial.runs or (None,):
            writer.writerow(_row(trial, run, names))
    return out.getvalue()


def _row(trial: Trial, run: RunResult | None, names: list[str]) -> list[str]:
    seconds = trial.ended_at_s - trial.started_at_s if trial.state.is_terminal and trial.started_at_s else None
    row = [
        str(trial.number),
        trial.kind.value,
        trial.source,
        trial.state.value,
        trial.reason.value if trial.reason else "",
        blame_of(trial.reason).value if trial.reason else "",
        _safe(one_line(trial.message)),
        str(trial.attempts),
        "" if seconds is None else f"{seconds:.3f}",
    ]
    for config in (trial.config, trial.effective_config):
        row += [_safe(scalar(config[name])) if name in config else "" for name in names]
    if run is None:
        return row + [""] * (3 + len(_COUNTS) + len(_LATENCIES) * len(_STATISTICS))
    row += [str(run.run), str(run.seed), str(run.validity.valid).lower()]
    row += [f"{getattr(run.metrics, name):.10g}" for name in _COUNTS]
    for latency in _LATENCIES:
        distribution = getattr(run.metrics, latency)
        row += ["" if distribution is None else f"{getattr(distribution, name):.10g}" for name in _STATISTICS]
    return row


def _safe(text: str) -> str:
    """Text that no spreadsheet takes for a formula: it may come from an engine's log."""
    return f"'{text}" if text.startswith(("=", "@", "+")) or (text.startswith("-") and not _is_number(text)) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
