"""The metrics that can be objectives: their direction, unit, and place in Metrics (docs/measurement.md)."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal

import msgspec

from scoot.wire import limits
from scoot.wire.errors import UserError
from scoot.wire.measurement import Distribution, Metrics
from scoot.wire.spec import Objective


class Direction(StrEnum):
    """Which way is better."""

    MINIMISE = "minimise"
    MAXIMISE = "maximise"


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One metric.

    Attributes:
        name: as in a study file.
        direction: which way is better.
        unit: "ms", "1/s", "tokens/s", or "" for a share.
        get: its value in a window's metrics; None where it is undefined.
        error: standard error of that value, at least 0; None where it is not known. It is that of independent requests:
            requests that queue behind each other are not, so the value varies more than it says.
        largest: no value is above it; None if there is no such bound.
    """

    name: str
    direction: Direction
    unit: str
    get: Callable[[Metrics], float | None]
    error: Callable[[Metrics], float | None] = lambda _metrics: None
    largest: float | None = None

    @property
    def heading(self) -> str:
        """Name and unit: "ttft_mean [ms]"."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name

    def quantity(self, number: str) -> str:
        """A number's text with the unit."""
        return f"{number} {self.unit}" if self.unit else number


_Latency = Literal["ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"]
_LATENCIES: Final[tuple[_Latency, ...]] = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms")
_STATISTICS: Final = ("mean", "p50", "p90", "p95", "p99")


def _latency(field: _Latency, statistic: str) -> Metric:
    def get(metrics: Metrics) -> float | None:
        distribution: Distribution | None = getattr(metrics, field)
        return None if distribution is None else float(getattr(distribution, statistic))

    def error(metrics: Metrics) -> float | None:
        distribution: Distribution | None = getattr(metrics, field)
        if statistic != "mean" or distribution is None or distribution.std <= 0 or distribution.n < 1:
            return None  # 0 is unknown: see Distribution
        return distribution.std / math.sqrt(distribution.n)

    name = f"{field.removesuffix('_ms')}_{statistic}"
    return Metric(name=name, direction=Direction.MINIMISE, unit="ms", get=get, error=error)


def _goodput_share(metrics: Metrics) -> float | None:
    """A window without requests has no share."""
    return None if metrics.goodput is None or not metrics.goodput.sent else metrics.goodput.share


def _goodput_rate(metrics: Metrics) -> float | None:
    return None if metrics.goodput is None else metrics.goodput.rate


def _goodput_share_error(metrics: Metrics) -> float | None:
    """Of a binomial share, one good and one bad request added, so that it is not 0 where all are alike."""
    if metrics.goodput is None or not metrics.goodput.sent:
        return None
    share = (metrics.goodput.attained + 1) / (metrics.goodput.sent + 2)
    return math.sqrt(share * (1 - share) / metrics.goodput.sent)


def _goodput_rate_error(metrics: Metrics) -> float | None:
    """The share's, times the rate that a share of 1 would be."""
    error = _goodput_share_error(metrics)
    if error is None or metrics.goodput is None or metrics.duration_s <= 0:
        return None
    return error * metrics.goodput.sent / metrics.duration_s


def _table() -> dict[str, Metric]:
    metrics = [
        Metric(
            name="request_throughput",
            direction=Direction.MAXIMISE,
            unit="1/s",
            get=lambda metrics: metrics.request_throughput,
        ),
        Metric(
            name="output_token_throughput",
            direction=Direction.MAXIMISE,
            unit="tokens/s",
            get=lambda metrics: metrics.output_token_throughput,
        ),
        Metric(name="goodput", direction=Direction.MAXIMISE, unit="1/s", get=_goodput_rate, error=_goodput_rate_error),
        Metric(
            name="goodput_share",
            direction=Direction.MAXIMISE,
            unit="",
            get=_goodput_share,
            error=_goodput_share_error,
            largest=1.0,
        ),
        *(_latency(field, statistic) for field in _LATENCIES for statistic in _STATISTICS),
    ]
    return {metric.name: metric for metric in metrics}


METRICS: Final = MappingProxyType(_table())
"""Every objective metric by name."""

_OTHER_NAMES: Final = MappingProxyType(
    {
        "throughput": "request_throughput",
        "token_throughput": "output_token_throughput",
        "tokens_per_second": "output_token_throughput",
        "goodput_rate": "goodput",
        "slo_attainment": "goodput_share",
        "ttft": "ttft_mean",
        "tpot": "tpot_mean",
        "itl": "itl_mean",
        "latency": "e2e_p95",
        "tail_latency": "e2e_p95",
        **{f"{q}_latency": f"e2e_{q}" for q in _STATISTICS},
        **{f"latency_{q}": f"e2e_{q}" for q in _STATISTICS},
        **{q: f"e2e_{q}" for q in _STATISTICS},
    }
)
"""What people write instead -> what they mean. Only suggested, never accepted: a study file says what it measures."""


def metric_of(name: str, *, key: str = "objectives") -> Metric:
    """The metric called `name`.

    Raises:
        UserError: there is none; `key` says where it was asked for.
    """
    metric = METRICS.get(name)
    if metric is not None:
        return metric
    plain = name.lower().replace("-", "_").removesuffix("_ms")
    turned = "_".join(reversed(plain.split("_", 1)))  # p95_ttft -> ttft_p95
    exact = next((word for word in (plain, turned) if word in METRICS), _OTHER_NAMES.get(plain))
    near = [exact] if exact is not None else difflib.get_close_matches(plain, METRICS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"metrics: {', '.join(METRICS)}"
    raise UserError(f"unknown metric {name!r}", key=key, hint=hint)


def metrics_of(objectives: Sequence[Objective]) -> tuple[Metric, ...]:
    """The metrics of a study's objectives, checked.

    Raises:
        UserError: no objective, more than limits.OBJECTIVES, an unknown metric, or one that is there twice.
    """
    if not 1 <= len(objectives) <= limits.OBJECTIVES:
        raise UserError(
            f"a study has 1 to {limits.OBJECTIVES} objectives, not {len(objectives)}",
            key="objectives",
            hint="for example `ttft_mean` and `tpot_mean`",
        )
    metrics: list[Metric] = []
    for position, objective in enumerate(objectives):
        key = f"objectives[{position}].metric"
        metric = metric_of(objective.metric, key=key)
        if metric in metrics:
            raise UserError(f"objective {metric.name!r} is there twice", key=key, hint="remove one of them")
        metrics.append(metric)
    return tuple(metrics)


def directions_of(objectives: Sequence[Objective]) -> tuple[Direction, ...]:
    """The direction of each objective. Raises as `metrics_of`."""
    return tuple(metric.direction for metric in metrics_of(objectives))


def objective_values(objectives: Sequence[Objective], metrics: Metrics) -> tuple[float, ...] | None:
    """One finite value per objective, in the metric's own unit; None if any is undefined (no request had one).

    Raises:
        UserError: as `metrics_of`.
    """
    values: list[float] = []
    for metric in metrics_of(objectives):
        value = metric.get(metrics)
        if value is None or not math.isfinite(value):
            return None
        values.append(float(value))
    return tuple(values)


def objective_errors(objectives: Sequence[Objective], metrics: Metrics) -> tuple[float, ...] | None:
    """Standard errors of `objective_values`, in the same units; None if any is not known (see Metric.error).

    Raises:
        UserError: as `metrics_of`.
    """
    errors = [metric.error(metrics) for metric in metrics_of(objectives)]
    known = [error for error in errors if error is not None and math.isfinite(error)]
    return tuple(known) if len(known) == len(errors) else None
