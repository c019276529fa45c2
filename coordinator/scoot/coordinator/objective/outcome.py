"""Outcomes: limits on metrics that a configuration has to keep, whatever its objectives gain. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from scoot.coordinator.objective.metric import Direction, Metric, metric_of
from scoot.wire import limits
from scoot.wire.errors import UserError
from scoot.wire.measurement import Metrics

_FORM: Final = re.compile(r"\s*([^\s<>=!]+)\s*([<>=!]+)\s*(\S.*?)\s*")
_SIGNS: Final = {Direction.MINIMISE: "<=", Direction.MAXIMISE: ">="}
_EXAMPLE: Final = 'for example "ttft_p95 <= 2000" or "goodput_share >= 0.99"'


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A figure that has to keep within a limit, whatever the objectives gain.

    Attributes:
        name: its metric.
        direction: MINIMISE: at most `limit`. MAXIMISE: at least.
        limit: in the metric's own unit.
    """

    name: str
    direction: Direction
    limit: float

    def __str__(self) -> str:
        return f"{self.name} {_SIGNS[self.direction]} {self.limit:g}"

    def excess(self, value: float) -> float:
        """How far `value` is beyond the limit, relative to the limit (to 1 if that is 0); 0 where it is kept."""
        beyond = value - self.limit if self.direction is Direction.MINIMISE else self.limit - value
        return max(0.0, beyond) / (abs(self.limit) or 1.0)


def outcomes_of(texts: Sequence[str]) -> tuple[Outcome, ...]:
    """The outcomes of a study, checked.

    Args:
        texts: "METRIC <= NUMBER" for a metric of which less is better, "METRIC >= NUMBER" for one of which more is.

    Raises:
        UserError: more than limits.OUTCOMES, no such form or metric, the wrong sign, a limit that no configuration can
            keep, or two limits on one metric; key `outcomes[N]`.
    """
    if len(texts) > limits.OUTCOMES:
        raise UserError(f"{len(texts)} are too many", key="outcomes", hint=f"at most {limits.OUTCOMES}")
    found: dict[str, Outcome] = {}
    for position, text in enumerate(texts):
        key = f"outcomes[{position}]"
        outcome = _parsed(text, key)
        if outcome.name in found:
            raise UserError(f"{outcome.name} is limited twice", key=key, hint=f"keep {found[outcome.name]}, or this")
        found[outcome.name] = outcome
    return tuple(found.values())


def outcome_figures(outcomes: Sequence[Outcome], metrics: Metrics) -> tuple[float | None, ...]:
    """What each outcome limits, as measured in a window; None where it is undefined there."""
    values = [metric_of(outcome.name).get(metrics) for outcome in outcomes]
    return tuple(None if value is None or not math.isfinite(value) else float(value) for value in values)


def worst_figures(outcomes: Sequence[Outcome], windows: Sequence[Metrics]) -> tuple[float | None, ...]:
    """Of each outcome the figure least in its favour over several windows; None where it is undefined in all."""
    columns = zip(*(outcome_figures(outcomes, metrics) for metrics in windows), strict=True)
    known = [[figure for figure in column if figure is not None] for column in columns]
    return tuple(
        (max(column) if outcome.direction is Direction.MINIMISE else min(column)) if column else None
        for outcome, column in zip(outcomes, known or [[] for _ in outcomes], strict=True)
    )


def violation(outcomes: Sequence[Outcome], figures: Sequence[float | None]) -> float:
    """How far the worst figure is beyond its limit, relative to the limit; 0 if all are kept, infinite if one is None.

    Args:
        outcomes: see Outcome.
        figures: one per outcome, in the metric's own unit.
    """
    return max(
        (math.inf if figure is None else o.excess(figure) for o, figure in zip(outcomes, figures, strict=True)),
        default=0.0,
    )


def _parsed(text: str, key: str) -> Outcome:
    form = _FORM.fullmatch(text)
    if form is None:
        raise UserError(f"{text!r} is not a limit on a metric", key=key, hint=_EXAMPLE)
    metric = metric_of(form[1], key=key)
    _check_sign(metric, form[2], text, key)
    try:
        limit = float(form[3])
    except ValueError:
        unit = f" of {metric.unit}" if metric.unit else ""
        raise UserError(
            f"{form[3]!r} is not a number", key=key, hint=f"the limit is a plain number{unit}, without a unit"
        ) from None
    if not math.isfinite(limit):
        raise UserError(f"{form[3]} is not a limit", key=key, hint="write a finite number")
    if limit < 0 or (limit == 0 and metric.direction is Direction.MINIMISE):
        raise UserError(f"{metric.name} cannot be {form[2]} {form[3]}", key=key, hint="it is above 0 always")
    if metric.largest is not None and limit > metric.largest:
        hint = f"it is at most {metric.largest:g}"
        hint += f": write {limit / 100:g} for {limit:g} %" if limit <= 100 * metric.largest else ""
        raise UserError(f"{metric.name} cannot be {form[2]} {form[3]}", key=key, hint=hint)
    return Outcome(name=metric.name, direction=metric.direction, limit=limit)


def _check_sign(metric: Metric, sign: str, text: str, key: str) -> None:
    wanted = _SIGNS[metric.direction]
    if sign == wanted:
        return
    better = "less" if metric.direction is Direction.MINIMISE else "more"
    raise UserError(
        f"{text!r} limits {metric.name} with {sign}", key=key, hint=f"{better} of it is better, so write {wanted}"
    )
