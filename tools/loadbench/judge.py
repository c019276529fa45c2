"""What a load generator said against what the truth server saw: lateness, errors of TTFT and gaps. Pure.

The server knows when the kernel received each request and when it handed each token to the kernel. A client's figure is
judged against those, so its error is its own and not the network's or the engine's. All results are microseconds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from scoot.benchmark.quantile import percentile

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NEVER: Final = math.nan


class Served(Protocol):
    """A request as the server saw it; times are CLOCK_MONOTONIC nanoseconds.

    Attributes:
        n: order of arrival, counted from 0.
        request_id: its X-Request-Id header, "" without one.
        arrival_ns: when the kernel received it.
        send_ns: (k,) just before each token was handed to the kernel.
    """

    @property
    def n(self) -> int: ...  # noqa: D102 - see the class
    @property
    def request_id(self) -> str: ...  # noqa: D102
    @property
    def arrival_ns(self) -> int: ...  # noqa: D102
    @property
    def send_ns(self) -> npt.NDArray[Any]: ...  # noqa: D102


@dataclass(frozen=True, slots=True, eq=False)
class Reported:
    """A request as its client reports it, in the order the client began them.

    Attributes:
        key: what the server knows it by, see `pair`; "" if nothing.
        ok: whether the client counts it as completed.
        ttft_us: first token - start of sending; NEVER without a token.
        gaps_us: (m - 1,) between consecutive chunks; None where the client keeps no single gaps.
        tokens: (m,) tokens each chunk brought; None: one each.
        merged: (m,) chunks whose gap the client itself says is none; None: it says so of no chunk.
        intended_us: due time on a clock of the client's own; NEVER where it does not tell.
        late_us: sent - intended by its own account; NEVER where it does not tell.
        note: status or error in the client's words.
    """

    key: str
    ok: bool
    ttft_us: float = NEVER
    gaps_us: Floats | None = None
    tokens: Ints | None = None
    merged: npt.NDArray[np.bool_] | None = None
    intended_us: float = NEVER
    late_us: float = NEVER
    note: str = ""

    @property
    def chunks(self) -> int:
        """Token-bearing chunks; 0 where the client keeps no gaps."""
        if self.gaps_us is None or math.isnan(self.ttft_us):
            return 0
        return len(self.gaps_us) + 1


class Tails(msgspec.Struct, frozen=True, kw_only=True):
    """Median, 99th percentile and maximum of n samples, microseconds, by nearest rank."""

    n: int
    p50: float
    p99: float
    max: float


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One client in one run. Microseconds; None where there is nothing to judge.

    Attributes:
        arrived: requests the server received.
        completed: requests the client counts as completed.
        joined: requests of both sides that were matched.
        by_order: they were matched by order, since nothing identified them.
        rate: arrivals per second; in a closed loop requests served per second, to the last token.
        lateness: arrivals against the constant-rate grid, see `grid_lateness_us`.
        absolute: arrivals against the client's own intended starts, see `absolute_lateness_us`.
        own_lateness: sent - intended by the client's own account.
        ttft_error, itl_error: |client - server|.
        merged_share: chunks the client itself excludes / all chunks.
        odd: matched requests whose number of tokens differs from the server's.
    """

    arrived: int
    completed: int
    joined: int
    by_order: bool
    rate: float
    lateness: Tails | None
    absolute: Tails | None
    own_lateness: Tails | None
    ttft_error: Tails | None
    itl_error: Tails | None
    merged_share: float
    odd: int


def tails(samples: Floats) -> Tails | None:
    """Summary of finite samples; None if there are none."""
    if len(samples) == 0:
        return None
    return Tails(
        n=len(samples),
        p50=percentile(samples, 50),
        p99=percentile(samples, 99),
        max=float(samples.max()),
    )


def grid_lateness_us(arrivals_ns: Ints, rate: float) -> Floats:
    """(n,) how late each arrival was against the constant-rate grid that fits best.

    The grid has the asked rate, as many points as there were arrivals, and starts as late as it can without any arrival
    being early. So the most punctual request has 0, and a client that falls behind is late by what it fell behind.

    Args:
        arrivals_ns: (n,) in any order.
        rate: of the grid, 1/s.
    """
    late_us: Floats = np.sort(arrivals_ns).astype(np.float64) / 1e3
    if len(late_us):
        late_us = late_us - late_us[0] - np.arange(len(late_us)) * (1e6 / rate)
        late_us -= late_us.min()
    return late_us


def rate_per_s(arrivals_ns: Ints) -> float:
    """Arrivals per second, from the first to the last; 0 where there is no span."""
    span_ns = int(np.ptp(arrivals_ns)) if len(arrivals_ns) else 0
    return (len(arrivals_ns) - 1) * 1e9 / span_ns if span_ns else 0.0


def served_per_s(served: Sequence[Served]) -> float:
    """Requests served per second, from the first arrival to the last token; 0 where there is no span."""
    ends = [int(one.send_ns[-1]) for one in served if len(one.send_ns)]
    span_ns = max(ends) - min(one.arrival_ns for one in served) if ends else 0
    return len(ends) * 1e9 / span_ns if span_ns > 0 else 0.0


def absolute_lateness_us(arrival_ns: Ints, intended_us: Floats, late_us: Floats) -> Floats:
    """(n,) arrival - intended start, on the client's own schedule.

    Client and server count from different zeros. They are aligned by the request that was quickest from sending to
    arrival, as if it had taken no time; so this is right but for the least transit.

    Args:
        arrival_ns: (n,) at the server.
        intended_us: (n,) on the client's clock.
        late_us: (n,) sent - intended, by the client's account.
    """
    after_us: Floats = arrival_ns.astype(np.float64) / 1e3 - intended_us
    return after_us - (after_us - late_us).min() if len(after_us) else after_us


def pair(
    reported: Sequence[Reported], served: Sequence[Served], key: Callable[[Served], str]
) -> tuple[list[tuple[Reported, Served]], bool]:
    """Requests of both sides that are the same: (pairs, whether matched by order).

    By `key` where any key is known to both sides; else by order, the i-th begun with the i-th arrived, which may
    mis-pair neighbours when the client has a backlog. Without equal numbers there is no such order: no pairs.
    """
    by_key = {key(one): one for one in served}
    pairs = [(mine, by_key[mine.key]) for mine in reported if mine.key and mine.key in by_key]
    if pairs:
        return pairs, False
    ordered = sorted(served, key=lambda one: one.arrival_ns)
    return (list(zip(reported, ordered, strict=True)) if len(reported) == len(ordered) else []), True


def ttft_errors_us(pairs: Iterable[tuple[Reported, Served]]) -> Floats:
    """|(client first token - client start) - (server first send - server arrival)| of those that have both."""
    errors = [
        abs(mine.ttft_us - (int(truth.send_ns[0]) - truth.arrival_ns) / 1e3)
        for mine, truth in pairs
        if len(truth.send_ns) and not math.isnan(mine.ttft_us)
    ]
    return np.array(errors, np.float64)


def gap_errors_us(mine: Reported, send_ns: npt.NDArray[Any]) -> Floats:
    """|client gap - server gap| for each gap of a request that the client stands by and the server can confirm.

    A chunk of k tokens stands for its last one: that is what its stamp is of. Gaps that end in a merged chunk are left
    out, as the client leaves them out; tokens beyond the server's are not compared.
    """
    if mine.chunks <= 1 or mine.gaps_us is None:
        return np.empty(0)
    tokens = np.ones(mine.chunks, np.int64) if mine.tokens is None else mine.tokens
    last = np.cumsum(tokens) - 1
    known = last < len(send_ns)
    if mine.merged is not None:
        known[1:] &= ~mine.merged[1:]
    ends = np.flatnonzero(known[1:]) + 1
    stamps_us = np.asarray(send_ns, np.int64)
    truth_us = (stamps_us[last[ends]] - stamps_us[last[ends - 1]]) / 1e3
    errors: Floats = np.abs(mine.gaps_us[ends - 1] - truth_us)
    return errors


def judge(
    reported: Sequence[Reported], served: Sequence[Served], *, key: Callable[[Served], str], rate: float | None
) -> Verdict:
    """The verdict on one run.

    Args:
        reported: by the client.
        served: by the server, in any order.
        key: what `Reported.key` is of a served request.
        rate: of the grid arrivals are held against, 1/s; None in a closed loop.
    """
    pairs, by_order = pair(reported, served, key)
    arrivals = np.array([one.arrival_ns for one in served], np.int64)
    timed = [(mine, truth) for mine, truth in pairs if not math.isnan(mine.intended_us + mine.late_us)]
    errors = [gap_errors_us(mine, truth.send_ns) for mine, truth in pairs]
    chunks = sum(mine.chunks for mine in reported)
    merged = sum(int(mine.merged.sum()) for mine in reported if mine.merged is not None)
    return Verdict(
        arrived=len(served),
        completed=sum(mine.ok for mine in reported),
        joined=len(pairs),
        by_order=by_order,
        rate=rate_per_s(arrivals) if rate else served_per_s(served),
        lateness=tails(grid_lateness_us(arrivals, rate)) if rate else None,
        absolute=tails(
            absolute_lateness_us(
                np.array([truth.arrival_ns for _, truth in timed], np.int64),
                np.array([mine.intended_us for mine, _ in timed]),
                np.array([mine.late_us for mine, _ in timed]),
            )
        ),
        own_lateness=tails(np.array([one.late_us for one in reported if not math.isnan(one.late_us)])),
        ttft_error=tails(ttft_errors_us(pairs)),
        itl_error=tails(np.concatenate([np.empty(0), *errors])),
        merged_share=merged / chunks if chunks else 0.0,
        odd=sum(mine.chunks > 0 and _tokens(mine) != len(truth.send_ns) for mine, truth in pairs),
    )


def _tokens(mine: Reported) -> int:
    return mine.chunks if mine.tokens is None else int(mine.tokens.sum())


def cpu_per_100k(cpu_s: float, tokens: float, *, beyond_s: float = 0.0) -> float | None:
    """CPU seconds per 100,000 tokens, beyond those that any run costs; at least 0, None without tokens."""
    return max(0.0, cpu_s - beyond_s) * 1e5 / tokens if tokens else None


class Against(StrEnum):
    """What a bar is held against."""

    PEER = "best peer"
    CEILING = "C client"
    NOTHING = "absolute"


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """A goal for one figure of one scenario.

    Attributes:
        scenario, figure: names.
        limit: of the ratio SCOOT / other, or of the figure itself where `against` is NOTHING.
        against: see Against.
        higher: the ratio or figure is to be at least, not at most, the limit.
    """

    scenario: str
    figure: str
    limit: float
    against: Against = Against.PEER
    higher: bool = False


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A bar and what came of it. `ratio` is SCOOT / other, the figure itself where nothing is compared.

    `ok` is None where it cannot be told; `short` says by what factor the bar was missed, 1 where it was met.
    """

    bar: Bar
    ok: bool | None
    ours: float | None = None
    other: float | None = None
    whose: str = ""
    ratio: float | None = None
    short: float = 1.0


def hold(bar: Bar, figures: Mapping[str, float | None], *, ours: str, peers: Sequence[str], ceiling: str) -> Held:
    """Hold one bar.

    Args:
        bar: see Bar.
        figures: client -> its figure (median over rounds); clients without one may be left out.
        ours: SCOOT's name.
        peers: names among which the best is looked for.
        ceiling: the C client's name.
    """
    mine = _finite(figures.get(ours))
    if mine is None:
        return Held(bar=bar, ok=None)
    if bar.against is Against.NOTHING:
        ratio, other, whose = mine, None, ""
    else:
        names = peers if bar.against is Against.PEER else (ceiling,)
        known = {name: value for name in names if (value := _finite(figures.get(name))) is not None}
        if not known:
            return Held(bar=bar, ok=None, ours=mine)
        whose = (max if bar.higher else min)(known, key=lambda name: known[name])
        other = known[whose]
        if other == 0:
            return Held(bar=bar, ok=None, ours=mine, other=other, whose=whose)
        ratio = mine / other
    ok = ratio >= bar.limit if bar.higher else ratio <= bar.limit
    missed = bar.limit / ratio if bar.higher and ratio else ratio / bar.limit
    return Held(bar=bar, ok=ok, ours=mine, other=other, whose=whose, ratio=ratio, short=1.0 if ok else missed)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def median(values: Iterable[float | None]) -> float | None:
    """The median of the finite values; None if there are none."""
    known = [value for value in values if _finite(value) is not None]
    return statistics.median(known) if known else None  # type: ignore[type-var]  # None was left out above
