"""Numbers and names as people read them. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final

from scoot.coordinator.objective.metric import Direction, metric_of
from scoot.coordinator.objective.outcome import Outcome
from scoot.coordinator.report.results import ObjectiveInfo, OutcomeInfo

_SUBJECTS: Final = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "E2E latency"}
_WHOLE_NAMES: Final = {
    "request_throughput": "request throughput",
    "output_token_throughput": "output token throughput",
    "goodput": "goodput",
    "goodput_share": "goodput share",
}
_UNITS: Final = {"1/s": "req/s"}
_SMALL: Final = 10.0
_MIDDLE: Final = 100.0
_MINUTE_S: Final = 60.0
_HOUR_S: Final = 3600.0


def objective_info(metric: str) -> ObjectiveInfo:
    """Label, unit and direction of an objective.

    Raises:
        UserError: there is no such metric.
    """
    known = metric_of(metric)
    subject, _, statistic = metric.partition("_")
    label = _WHOLE_NAMES.get(metric) or f"{_SUBJECTS.get(subject, subject)} {statistic}".strip()
    return ObjectiveInfo(metric=metric, label=label, unit=_UNITS.get(known.unit, known.unit), direction=known.direction)


def outcome_info(outcome: Outcome) -> OutcomeInfo:
    """Label, unit, direction and limit of an outcome."""
    info = objective_info(outcome.name)
    return OutcomeInfo(
        metric=info.metric, label=info.label, unit=info.unit, direction=info.direction, limit=outcome.limit
    )


def outcome_of(info: OutcomeInfo) -> Outcome:
    """The outcome that `info` describes."""
    return Outcome(name=info.metric, direction=info.direction, limit=info.limit)


def heading(info: ObjectiveInfo | OutcomeInfo) -> str:
    """Label and unit: "TTFT mean (ms)"."""
    return f"{info.label} ({info.unit})" if info.unit else info.label


def limit_text(info: OutcomeInfo) -> str:
    """An outcome as it was asked for: "TTFT p95 ≤ 2000 ms"."""
    sign = "≤" if info.direction is Direction.MINIMISE else "≥"
    return f"{info.label} {sign} {info.limit:,.12g} {info.unit}".strip()


def _digits(size: float) -> int:
    """Decimals that leave about three significant digits of a number of that size."""
    if size == 0:
        return 0
    if size < 1:
        return 2 - math.floor(math.log10(size))
    return 2 if size < _SMALL else 1 if size < _MIDDLE else 0


def number(value: float | None) -> str:
    """About three significant digits, thousands separated; "-" for None."""
    if value is None or not math.isfinite(value):
        return "-"
    return _trim(f"{value:,.{_digits(abs(value))}f}", abs(value))


def _trim(text: str, size: float) -> str:
    """Without the trailing zeros of a fraction below 1, where they say nothing: 0.5, not 0.500."""
    return text.rstrip("0").rstrip(".") if 0 < size < 1 else text


def quantity(value: float | None, unit: str) -> str:
    """A number with its unit."""
    return "-" if value is None else f"{number(value)} {unit}".strip()


def bound(value: float, objective: ObjectiveInfo) -> str:
    """The good side of a bound: "TTFT mean ≤ 38.3 ms". Rounded towards the bad side: it must hold as it is printed."""
    factor = 10.0 ** _digits(abs(value))
    if objective.direction is Direction.MINIMISE:
        return f"{objective.label} ≤ {quantity(math.ceil(round(value * factor, 6)) / factor, objective.unit)}"
    return f"{objective.label} ≥ {quantity(math.floor(round(value * factor, 6)) / factor, objective.unit)}"


def percent(value: float | None) -> str:
    """A signed percentage: "+12.3 %"; "-" for None."""
    if value is None:
        return "-"
    return f"{value:+.1f} %" if abs(value) < _MIDDLE else f"{value:+,.0f} %"


def seconds(value: float) -> str:
    """A duration: "0.8 s", "4 min 10 s", "2 h 5 min"."""
    if value < _SMALL:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, rest = divmod(round(whole / 60), 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def moment(at_s: float) -> str:
    """Wall time in UTC: "2026-01-31 12:00:05 UTC"; "-" for 0, which means not yet."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if at_s else "-"


def one_line(text: str) -> str:
    """The text with every run of whitespace and control characters turned into one space."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def numbers(values: list[int] | tuple[int, ...]) -> str:
    """Trial numbers: "3", "3 and 7", "3, 7 and 9"."""
    words = [str(value) for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "none"
