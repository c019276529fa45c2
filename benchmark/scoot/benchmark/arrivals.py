"""Intended starts of requests, drawn beforehand from a seed. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from scoot.wire import limits
from scoot.wire.errors import UserError
from scoot.wire.spec import ArrivalProcess, Arrivals

_US: Final = 1_000_000

_RATE_MIN: Final = 1e-6
_RATE_MAX: Final = 1e9
_CV_MIN: Final = 1e-3
_CV_MAX: Final = 1e3
_SCALE_MIN: Final = 1e-6
_SCALE_MAX: Final = 1e6

_Times = npt.NDArray[np.float64]


def intended_starts_us(
    arrivals: Arrivals,
    window_s: float,
    rng: np.random.Generator,
    *,
    trace_s: Sequence[float] | None = None,
) -> npt.NDArray[np.int64]:
    """Intended starts in [0, window_s), microseconds, non-decreasing.

    * poisson: exponential gaps of mean 1/rate; gamma: gaps of mean 1/rate and coefficient of variation `cv` (shape
      1/cv^2). The first request comes after the first gap.
    * constant: k / rate for k = 0, 1, ...
    * trace: the trace's own gaps times `time_scale`, its first arrival at 0. A trace shorter than the window is
      repeated after its mean gap. Nothing is drawn.
    * closed: zeros, one per user. A closed loop has no schedule: each user's first request is due at 0 and every
      further one when the one before it has ended, which only the load process knows.

    Args:
        arrivals: the process.
        window_s: length of the window, seconds, finite and positive.
        rng: a Generator over PCG64; only poisson and gamma draw from it.
        trace_s: arrival times of the trace, seconds, non-decreasing; for trace replay.

    Raises:
        UserError: the process lacks what it needs, or would send more than limits.REQUESTS requests.
    """
    _within(window_s, 0.0, math.inf, "workload.duration_s")
    match arrivals.process:
        case ArrivalProcess.POISSON:
            times = _renewal(_rate(arrivals, window_s), 1.0, window_s, rng)
        case ArrivalProcess.GAMMA:
            cv = 1.0 if arrivals.cv is None else arrivals.cv
            _within(cv, _CV_MIN, _CV_MAX, "workload.arrivals.cv")
            times = _renewal(_rate(arrivals, window_s), cv, window_s, rng)
        case ArrivalProcess.CONSTANT:
            rate = _rate(arrivals, window_s)
            times = np.arange(math.ceil(window_s * rate)) / rate
        case ArrivalProcess.TRACE:
            _within(arrivals.time_scale, _SCALE_MIN, _SCALE_MAX, "workload.arrivals.time_scale")
            times = _replay(trace_s, arrivals.time_scale, window_s)
        case ArrivalProcess.CLOSED:
            users = arrivals.users or 0
            _within(users, 1, limits.REQUESTS, "workload.arrivals.users")
            return np.zeros(users, dtype=np.int64)
    starts_us = np.rint(times[times < window_s] * _US)
    _bounded(len(starts_us))
    return starts_us[starts_us < window_s * _US].astype(np.int64)


def _within(value: float, low: float, high: float, key: str) -> None:
    """Refuse a value that is not positive, or outside of [low, high]."""
    if not (value > 0 and low <= value <= high and math.isfinite(value)):
        span = "a positive number" if math.isinf(high) else f"between {low:g} and {high:g}"
        raise UserError(f"{value:g} is not {span}", key=key)


def _rate(arrivals: Arrivals, window_s: float) -> float:
    """The rate, checked; so that drawing it cannot exhaust memory."""
    if arrivals.rate is None:
        raise UserError(
            f"the {arrivals.process} process needs a rate",
            key="workload.arrivals.rate",
            hint="set it to the mean requests per second",
        )
    _within(arrivals.rate, _RATE_MIN, _RATE_MAX, "workload.arrivals.rate")
    _bounded(arrivals.rate * window_s)
    return arrivals.rate


def _bounded(requests: float) -> None:
    if not requests <= limits.REQUESTS:
        raise UserError(
            f"about {requests:.3g} requests in one window, over the limit of {limits.REQUESTS}",
            key="workload.arrivals",
            hint="lower the rate or the duration",
        )


def _renewal(rate: float, cv: float, window_s: float, rng: np.random.Generator) -> _Times:
    """Times of independent gamma gaps of mean 1/rate until past the window; shape 1 is exponential."""
    shape = 1.0 / (cv * cv)
    mean = rate * window_s
    # Six standard deviations of the count above its mean: one draw nearly always reaches the end of the window.
    size = min(limits.REQUESTS, math.ceil(mean + 6.0 * max(1.0, cv) * math.sqrt(mean) + 16))
    pieces: list[_Times] = []
    at_s = 0.0
    while at_s < window_s:
        _bounded(len(pieces) * size)
        pieces.append(at_s + np.cumsum(rng.gamma(shape, 1.0 / (rate * shape), size)))
        at_s = float(pieces[-1][-1])
    return np.concatenate(pieces)


def _replay(trace_s: Sequence[float] | None, time_scale: float, window_s: float) -> _Times:
    """The trace's times from 0, repeated to the end of the window. A trace of one instant is one burst."""
    if not trace_s:
        raise UserError(
            "trace replay needs arrival times, and the workload has none",
            key="workload.arrivals.process",
            hint='use process = "poisson" with a rate, or a trace with arrival times',
        )
    given = np.asarray(trace_s, dtype=np.float64)
    times: _Times = (given - given[0]) * time_scale
    span = float(times[-1])
    if span <= 0:
        return times
    period = span + span / (len(times) - 1)
    _bounded(window_s / period * len(times))
    laps = math.ceil(window_s / period)
    repeated: _Times = (np.arange(laps)[:, None] * period + times[None, :]).ravel()
    return repeated
