"""What a sweep over rates teaches: which rates to try, when to stop, goodput knee and saturation. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

RISING: Final = 0.1
"""Completions gained per request offered in addition; with less, throughput no longer rises."""

FULL: Final = 0.95
"""Share of the highest throughput from which on a rate is said to saturate the server."""

_DIGITS: Final = 3


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One rate of a sweep, measured.

    Attributes:
        rate: asked for, requests/s.
        offered: as drawn, requests/s.
        throughput: completed requests/s.
        goodput: requests/s within all SLOs; None without SLOs.
        share: of the requests that were within all SLOs, failed ones counting as not; None without SLOs.
        failed_share: of the requests.
        valid: whether the measurement may be believed.
        saturated: whether it may not because the load generator was at its limit.
        detail: why not.
    """

    rate: float
    offered: float
    throughput: float
    goodput: float | None = None
    share: float | None = None
    failed_share: float = 0.0
    valid: bool = True
    saturated: bool = False
    detail: str = ""


class Knee(msgspec.Struct, frozen=True, kw_only=True):
    """The largest rate at which the SLOs hold.

    Attributes:
        target: share of the requests that must be within all SLOs.
        rate: largest rate measured with at least that share; None if there is none.
        share, goodput: at `rate`.
        next_rate, next_share: the next higher rate measured, where it is too small; None if every higher rate holds.
        interpolated: where the share crosses `target` on the straight line between the two; None without both.
        monotonic: whether no lower rate failed; if one did, more or longer runs are needed.
        detail: all of this in a sentence.
    """

    target: float
    rate: float | None
    share: float | None
    goodput: float | None
    next_rate: float | None
    next_share: float | None
    interpolated: float | None
    monotonic: bool
    detail: str


class Saturation(msgspec.Struct, frozen=True, kw_only=True):
    """The most the server does, SLOs aside.

    Attributes:
        throughput: highest measured, completed requests/s; None if no measurement is valid.
        rate: smallest rate that gave at least FULL of it.
        reached: whether a higher rate brought no more, so that this is the server's limit and not the sweep's.
        detail: in a sentence.
    """

    throughput: float | None
    rate: float | None
    reached: bool
    detail: str


def rates_between(synchronous: float, highest: float, count: int) -> tuple[float, ...]:
    """`count` rates in even steps from above the throughput of one user to that of many, to three digits, ascending.

    Where many users get no more than one, in even steps from 0 (left out) to `highest`. Fewer where digits coincide.

    Args:
        synchronous: requests/s of one user, positive.
        highest: requests/s of many users, positive.
        count: at least 1.
    """
    low = synchronous if synchronous < highest else 0.0
    steps = (low + (highest - low) * step / count for step in range(1, count + 1))
    return tuple(sorted({rounded for rate in steps if (rounded := float(f"{rate:.{_DIGITS}g}")) > 0}))


def stop_reason(points: Sequence[Point], *, max_failed_share: float) -> str:
    """Why no higher rate is worth trying, one sentence; "" to go on.

    Args:
        points: measured so far, in the order of their rates.
        max_failed_share: more failures than this, and the server is past its limit.
    """
    if not points:
        return ""
    last = points[-1]
    if last.saturated:
        return f"at {last.rate:g} req/s the load generator is at its limit: {last.detail}"
    if not last.failed_share <= max_failed_share:
        return f"at {last.rate:g} req/s {last.failed_share:.1%} of the requests failed"
    before = [point for point in points[:-1] if point.valid]
    if last.valid and before and not _rises(max(before, key=lambda point: point.throughput), last):
        return f"at {last.rate:g} req/s throughput no longer rises: {last.throughput:.4g} req/s completed"
    return ""


def _rises(best: Point, last: Point) -> bool:
    """Whether more was completed where more was offered."""
    more = last.offered - best.offered
    return more <= 0 or last.throughput - best.throughput >= RISING * more


def goodput_knee(points: Sequence[Point], *, target: float) -> Knee | None:
    """The largest rate at which at least `target` of the requests are within all SLOs; None without SLOs.

    Only valid measurements count. The crossing between that rate and the next higher one is interpolated linearly in
    the share; both ends are told, so that nobody has to believe the line.

    Args:
        points: in any order.
        target: 0..1.
    """
    known = sorted((point.rate, point) for point in points if point.valid and point.share is not None)
    told = [(point, point.share) for _, point in known if point.share is not None]
    if not told:
        return None
    good = [index for index, (_, share) in enumerate(told) if share >= target]
    what = f"{target:.0%} of the requests within the SLOs"
    if not good:
        first, share = told[0]
        return Knee(
            target=target,
            rate=None,
            share=None,
            goodput=None,
            next_rate=first.rate,
            next_share=share,
            interpolated=None,
            monotonic=True,
            detail=f"no rate kept {what}: at the lowest, {first.rate:g} req/s, {share:.1%} were",
        )
    at = good[-1]
    best, share = told[at]
    monotonic = len(good) == at + 1
    after = told[at + 1] if at + 1 < len(told) else None
    warning = "" if monotonic else "; a lower rate did not, so measure longer"
    if after is None:
        return Knee(
            target=target,
            rate=best.rate,
            share=share,
            goodput=best.goodput,
            next_rate=None,
            next_share=None,
            interpolated=None,
            monotonic=monotonic,
            detail=f"every rate up to the highest, {best.rate:g} req/s, kept {what}: the knee lies above{warning}"
            if monotonic
            else f"the highest rate, {best.rate:g} req/s, kept {what}{warning}",
        )
    worse, next_share = after
    crossing = best.rate + (worse.rate - best.rate) * (share - target) / (share - next_share)
    crossing = min(max(crossing, best.rate), worse.rate)
    return Knee(
        target=target,
        rate=best.rate,
        share=share,
        goodput=best.goodput,
        next_rate=worse.rate,
        next_share=next_share,
        interpolated=crossing,
        monotonic=monotonic,
        detail=f"{best.rate:g} req/s kept {what} ({share:.1%}), {worse.rate:g} req/s did not ({next_share:.1%});"
        f" on a straight line between them the crossing is at {crossing:.4g} req/s{warning}",
    )


def saturation(points: Sequence[Point]) -> Saturation:
    """The highest throughput, and the smallest rate that gives it.

    Args:
        points: in any order; only valid ones count.
    """
    valid = sorted((point for point in points if point.valid), key=lambda point: point.rate)
    best = max((point.throughput for point in valid), default=math.nan)
    if not best > 0:
        return Saturation(throughput=None, rate=None, reached=False, detail="no valid measurement completed anything")
    index = next(at for at, point in enumerate(valid) if point.throughput >= FULL * best)
    full = valid[index]
    reached = any(not _rises(full, point) for point in valid[index + 1 :] if point.offered > full.offered)
    if reached:
        detail = f"throughput stops rising at {best:.4g} req/s, from {full.rate:g} req/s on"
    else:
        detail = f"{best:.4g} req/s were completed and it was still rising: the server's limit lies above"
    return Saturation(throughput=best, rate=full.rate, reached=reached, detail=detail)
