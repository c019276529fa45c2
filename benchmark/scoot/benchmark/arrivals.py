"""Intended starts of requests, drawn beforehand from a seed. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
    * closed: when each user joins: all at 0 without a ramp. A closed loop has no schedule: each user's first request
      is due when it joins, and every further one when the one before it has ended, which only the load process knows.

    With a ramp, the rate at time t < `ramp_s` is rate x (ramp_from + (1 - ramp_from) t / ramp_s). The process is drawn
    in the time of its own clock, which runs at that share of the real one, and mapped back exactly: constant arrivals
    stay exact, Poisson ones become an inhomogeneous Poisson process. The users of a closed loop join accordingly.

    Args:
        arrivals: the process.
        window_s: length of the window, seconds, finite and positive.
        rng: a Generator over PCG64; only poisson and gamma draw from it.
        trace_s: arrival times of the trace, seconds, non-decreasing; for trace replay.

    Raises:
        UserError: the process lacks what it needs or has what it cannot have, or would send more than limits.REQUESTS
            requests.
    """
    _within(window_s, 0.0, math.inf, "workload.duration_s")
    _check_limit(arrivals)
    ramp = _Ramp.of(arrivals)
    full_s = ramp.elapsed(window_s)
    match arrivals.process:
        case ArrivalProcess.POISSON:
            times = ramp.real(_renewal(_rate(arrivals, full_s), 1.0, full_s, rng))
        case ArrivalProcess.GAMMA:
            cv = 1.0 if arrivals.cv is None else arrivals.cv
            _within(cv, _CV_MIN, _CV_MAX, "workload.arrivals.cv")
            times = ramp.real(_renewal(_rate(arrivals, full_s), cv, full_s, rng))
        case ArrivalProcess.CONSTANT:
            rate = _rate(arrivals, full_s)
            times = ramp.real(np.arange(math.ceil(full_s * rate)) / rate)
        case ArrivalProcess.TRACE:
            _within(arrivals.time_scale, _SCALE_MIN, _SCALE_MAX, "workload.arrivals.time_scale")
            times = _replay(trace_s, arrivals.time_scale, window_s)
        case ArrivalProcess.CLOSED:
            users = arrivals.users or 0
            _within(users, 1, limits.REQUESTS, "workload.arrivals.users")
            return np.rint(ramp.joins(users) * _US).astype(np.int64)
    starts_us = np.rint(times[times < window_s] * _US)
    _bounded(len(starts_us))
    return starts_us[starts_us < window_s * _US].astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Ramp:
    """A clock that runs at a share of the real one: `start` at 0, rising linearly to 1 at `length_s`."""

    length_s: float
    start: float

    @classmethod
    def of(cls, arrivals: Arrivals) -> _Ramp:
        """The ramp of a process, checked."""
        length_s, start = arrivals.ramp_s, arrivals.ramp_from
        if not 0 <= length_s < math.inf:
            raise UserError(f"{length_s:g} is no length of a ramp", key="workload.arrivals.ramp_s", hint="0 or more")
        if not 0 <= start <= 1:
            raise UserError(f"{start:g} is no share", key="workload.arrivals.ramp_from", hint="from 0 to 1")
        if length_s and arrivals.process is ArrivalProcess.TRACE:
            raise UserError("a replay has the trace's own times", key="workload.arrivals.ramp_s", hint="remove it")
        return cls(length_s, start)

    def elapsed(self, real_s: float) -> float:
        """Time of this clock at a real time: the integral of its speed."""
        if real_s >= self.length_s:
            return real_s - self.length_s * (1.0 - self.start) / 2.0
        return self.start * real_s + (1.0 - self.start) * real_s * real_s / (2.0 * self.length_s)

    def real(self, clock_s: _Times) -> _Times:
        """Real times at times of this clock, the inverse of `elapsed`."""
        if not self.length_s:
            return clock_s
        # The root of the quadratic in the form that loses no digits where the ramp is all but flat, or t all but 0.
        root = np.sqrt(self.start**2 + 2.0 * (1.0 - self.start) / self.length_s * clock_s)
        divisor = np.maximum(self.start + root, np.finfo(np.float64).tiny)
        later = clock_s + self.length_s * (1.0 - self.start) / 2.0
        real_s: _Times = np.where(later >= self.length_s, later, 2.0 * clock_s / divisor)
        return real_s

    def joins(self, users: int) -> _Times:
        """(users,) real times at which the share of users that are there reaches 0/n, 1/n, ..."""
        shares = np.arange(users) / users
        if self.start == 1.0:
            return np.zeros(users)
        return self.length_s * np.maximum(0.0, (shares - self.start) / (1.0 - self.start))


def _check_limit(arrivals: Arrivals) -> None:
    """A limit of requests in flight is at least one, and an open loop's."""
    key = "workload.arrivals.max_in_flight"
    if arrivals.max_in_flight is not None:
        _within(arrivals.max_in_flight, 1, math.inf, key)
        if arrivals.process is ArrivalProcess.CLOSED:
            raise UserError("a closed loop has as many in flight as users", key=key, hint="remove it")


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
    return np.concatenate(pieces) if pieces else np.empty(0)


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
