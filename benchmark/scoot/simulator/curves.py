"""Curves through knots: how a measured time depends on one size, or on two. Pure; made to be read once a step."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import msgspec

_FAR: Final = 1e9
"""A size beyond all: where the knot that extrapolates lies."""


class Curve(msgspec.Struct, frozen=True):
    """Straight lines between knots, flat before the first, and on with `slopes[-1]` after the last.

    Attributes:
        xs: sizes, ascending.
        ys: values at them.
        slopes: of the line that begins at each knot; as many as knots.
    """

    xs: tuple[float, ...]
    ys: tuple[float, ...]
    slopes: tuple[float, ...]

    def at(self, x: float) -> float:
        """The value at `x`."""
        i = bisect_right(self.xs, x) - 1
        if i < 0:
            return self.ys[0]
        return self.ys[i] + self.slopes[i] * (x - self.xs[i])

    def times(self, factor: float) -> Curve:
        """The same curve with every value multiplied."""
        return Curve(self.xs, tuple(y * factor for y in self.ys), tuple(slope * factor for slope in self.slopes))


def curve(xs: Sequence[float], ys: Sequence[float], *, beyond: float | None = None) -> Curve:
    """A curve through knots.

    Args:
        xs: (n,) strictly ascending, n >= 1.
        ys: (n,).
        beyond: slope after the last knot; in proportion to the size when not given.

    Raises:
        ValueError: the knots are not as described.
    """
    if not xs or len(xs) != len(ys) or any(b <= a for a, b in pairwise(xs)):
        raise ValueError(f"{len(xs)} sizes and {len(ys)} values do not make a curve: sizes must ascend")
    knots = list(zip(xs, ys, strict=True))
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(knots)]
    slopes.append(ys[-1] / xs[-1] if beyond is None else beyond)
    return Curve(tuple(map(float, xs)), tuple(map(float, ys)), tuple(slopes))


class Surface(msgspec.Struct, frozen=True):
    """Values over batch size and length, at knots of both.

    Attributes:
        batches: (b,) ascending, >= 1.
        lengths: (n,) tokens, ascending, >= 1.
        us: (b, n) microseconds, one row per batch size.
    """

    batches: tuple[float, ...]
    lengths: tuple[float, ...]
    us: tuple[tuple[float, ...], ...]

    def row(self, batch: float) -> tuple[float, ...]:
        """(n,) values at a batch size: linear between knots, in proportion after the last."""
        last = self.batches[-1]
        if batch >= last:
            return tuple(y * (batch / last) for y in self.us[-1])
        i = bisect_right(self.batches, batch) - 1
        if i < 0:
            return self.us[0]
        share = (batch - self.batches[i]) / (self.batches[i + 1] - self.batches[i])
        return tuple(a + share * (b - a) for a, b in zip(self.us[i], self.us[i + 1], strict=True))


def blend(one: Surface, other: Surface, share: float) -> Surface:
    """Between two surfaces over the same knots, by their logarithms: `share` 0 is the one, 1 the other."""
    if one.batches != other.batches or one.lengths != other.lengths:
        raise ValueError("only surfaces over the same knots can be blended")
    us = tuple(
        tuple(math.exp((1 - share) * math.log(a) + share * math.log(b)) for a, b in zip(row_a, row_b, strict=True))
        for row_a, row_b in zip(one.us, other.us, strict=True)
    )
    return Surface(one.batches, one.lengths, us)


class PowerSurface:
    """A Surface read as products of powers between its knots, with a power of its own beyond them.

    It is what prompts need: between two knots the time of attention grows with some power of the length, from 0 (a
    short prompt leaves most of the device idle) to 2.
    """

    __slots__ = ("_batches", "_lengths", "_rows")

    def __init__(self, surface: Surface, *, length_power: float) -> None:
        """Read `surface`; after the last length values grow with `length_power`, after the last batch in proportion."""
        rows = [[math.log(y) for y in row] for row in surface.us]
        self._batches = [math.log(b) for b in surface.batches]
        self._lengths = [math.log(n) for n in surface.lengths]
        far = math.log(_FAR)
        for row in rows:
            row.append(row[-1] + length_power * (far - self._lengths[-1]))
        rows.append([y + far - self._batches[-1] for y in rows[-1]])
        self._batches.append(far)
        self._lengths.append(far)
        self._rows = rows

    def at(self, batch: float, length: float) -> float:
        """The value for so many sequences of one length; both are taken as at least the first knot."""
        x, y = self._batches, self._lengths
        log_b, log_n = math.log(batch), math.log(length)
        i, j = bisect_right(x, log_b) - 1, bisect_right(y, log_n) - 1
        if i < 0:
            i, u = 0, 0.0
        else:
            u = (log_b - x[i]) / (x[i + 1] - x[i])
        if j < 0:
            j, v = 0, 0.0
        else:
            v = (log_n - y[j]) / (y[j + 1] - y[j])
        low, high = self._rows[i], self._rows[i + 1]
        at_low = low[j] + v * (low[j + 1] - low[j])
        return math.exp(at_low + u * (high[j] + v * (high[j + 1] - high[j]) - at_low))
