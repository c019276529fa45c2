"""Time of one layer's attention: of prompts, and of sequences that get one token each. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Final

from scoot.simulator.calibration import AttentionTable, Calibration
from scoot.simulator.curves import Curve, PowerSurface, Surface, blend, curve
from scoot.simulator.dense import roofline_for
from scoot.simulator.roofline import heads_of
from scoot.simulator.shapes import GPUS, Gpu, ModelShape
from scoot.wire.errors import UserError

LIKE: Final = MappingProxyType({"a10": "l40s", "a40": "l40s", "h200": "h100"})
"""GPUs without attention figures, and whose they are derived from: the nearest architecture and kind of memory."""

_QUADRATIC: Final = 2.0
_KEPT: Final = 8192
"""Batch sizes and prompt lengths whose results are kept; beyond, they are made anew."""


class PrefillAttention:
    """Time of the prompts of a step, in one kernel.

    Prompts of several lengths take as long as prompts of one length with the same tokens and the same work (the sum of
    squared lengths). A chunk after cached tokens takes what its whole prompt takes more than the cached part, at least
    what it would take alone.
    """

    __slots__ = ("_alone", "_scale", "_surface", "lines")

    def __init__(self, surface: Surface, *, scale: float = 1.0, lines: tuple[str, ...] = ()) -> None:
        """Read a surface of microseconds; each sequence counts as `scale` of the table's."""
        self._surface = PowerSurface(surface, length_power=_QUADRATIC)
        self._scale = scale
        self._alone: dict[int, float] = {}
        self.lines = lines

    def us(self, prefills: Sequence[tuple[int, int]]) -> float:
        """Microseconds of a layer for (tokens computed, tokens cached before them) of each prompt."""
        if len(prefills) == 1 and not prefills[0][1]:
            tokens = prefills[0][0]
            known = self._alone.get(tokens)
            if known is None:
                known = self._of(tokens, tokens * tokens)
                if len(self._alone) < _KEPT:
                    self._alone[tokens] = known
            return known
        chunk = chunk_2 = cached = cached_2 = whole = whole_2 = 0
        for tokens, before in prefills:
            chunk += tokens
            chunk_2 += tokens * tokens
            if before:
                cached += before
                cached_2 += before * before
                whole += before + tokens
                whole_2 += (before + tokens) * (before + tokens)
            else:
                whole += tokens
                whole_2 += tokens * tokens
        alone = self._of(chunk, chunk_2)
        return max(alone, self._of(whole, whole_2) - self._of(cached, cached_2)) if cached else alone

    def _of(self, tokens: int, squares: int) -> float:
        """Microseconds for prompts by the sum of their lengths and of the squares of those."""
        if not tokens:
            return 0.0
        return self._surface.at(self._scale * tokens * tokens / squares, squares / tokens)


class DecodeAttention:
    """Time of sequences that get one token each; it depends on how many they are and on their mean context."""

    __slots__ = ("_curves", "_scale", "_surface", "lines")

    def __init__(self, surface: Surface, *, scale: float = 1.0, lines: tuple[str, ...] = ()) -> None:
        """Read a surface of microseconds; each sequence counts as `scale` of the table's."""
        self._surface = surface
        self._scale = scale
        self._curves: dict[int, Curve] = {}
        self.lines = lines

    def us(self, sequences: int, context: int) -> float:
        """Microseconds of a layer for so many sequences (>= 1) with so many tokens of context together."""
        known = self._curves.get(sequences)
        if known is None:
            known = self._curve(sequences)
            if len(self._curves) < _KEPT:
                self._curves[sequences] = known
        return known.at(context)

    def _curve(self, sequences: int) -> Curve:
        """Over the sum of contexts, so that reading it does not divide."""
        ys = self._surface.row(sequences * self._scale)
        xs = [length * sequences for length in self._surface.lengths]
        return curve(xs, ys, beyond=(ys[-1] - ys[-2]) / (xs[-1] - xs[-2]))


def prefill_attention(calibration: Calibration, model: ModelShape, gpu: Gpu, degree: int) -> PrefillAttention:
    """Of a model's prompts on one of `degree` devices. Raises UserError as `decode_attention`."""
    q, kv = heads_of(model, degree)
    base = LIKE.get(gpu.name, gpu.name)
    tables = [t for t in calibration.attention_of("prefill", base) if (t.heads == t.kv_heads) == (q == kv)]
    _need(tables, gpu)
    surface, scale, how = _between(tables, q, [table.heads for table in tables])
    lines = [
        f"prefill attention, {q} query and {kv} kv heads on a device: {how}, {calibration.sources[tables[0].source]}"
    ]
    if base != gpu.name:
        theirs, ours = roofline_for(calibration, GPUS[base])[0], roofline_for(calibration, gpu)[0]
        factor = theirs.compute * GPUS[base].tflops / (ours.compute * gpu.tflops)
        surface = _scaled(surface, factor, factor)
        lines.append(
            f"prefill attention of {gpu.name} is DERIVED from {base}: x {factor:.3g}, by the rate of multiplication"
        )
    return PrefillAttention(surface, scale=scale, lines=tuple(lines))


def decode_attention(calibration: Calibration, model: ModelShape, gpu: Gpu, degree: int) -> DecodeAttention:
    """Of a model's running sequences on one of `degree` devices.

    Raises:
        UserError: there are no figures for this GPU.
    """
    q, kv = heads_of(model, degree)
    base = LIKE.get(gpu.name, gpu.name)
    tables = list(calibration.attention_of("decode", base))
    _need(tables, gpu)
    # Keys and values are what is read: more of them are like more sequences.
    nearest = max((t.kv_heads for t in tables if t.kv_heads <= kv), default=min(t.kv_heads for t in tables))
    tables = [table for table in tables if table.kv_heads == nearest]
    surface, _, how = _between(tables, q / kv, [table.heads / table.kv_heads for table in tables])
    lines = [
        f"decode attention, {q} query and {kv} kv heads on a device: {how}, {calibration.sources[tables[0].source]}"
    ]
    if kv != nearest:
        lines.append(
            f"decode attention of {kv} kv heads is DERIVED: as {nearest} heads and {kv / nearest:g} x sequences"
        )
    if base != gpu.name:
        factor = GPUS[base].gb_per_s / gpu.gb_per_s
        surface = _scaled(surface, max(1.0, factor), factor)
        lines.append(f"decode attention of {gpu.name} is DERIVED from {base}: x {factor:.3g}, by memory bandwidth")
    return DecodeAttention(surface, scale=kv / nearest, lines=tuple(lines))


def _need(tables: Sequence[AttentionTable], gpu: Gpu) -> None:
    if not tables:
        raise UserError(f"the simulator has no attention times of {gpu.name!r}", key="gpu")


def _between(tables: Sequence[AttentionTable], at: float, sizes: Sequence[float]) -> tuple[Surface, float, str]:
    """The surface at a size: of a table, between two (by logarithms), or of the nearest with a scale for sequences."""
    order = sorted(zip(sizes, tables, strict=True), key=lambda pair: pair[0])
    for size, table in order:
        if size == at:
            return table.surface(), 1.0, f"table of {table.heads}/{table.kv_heads} heads"
    for (low, one), (high, other) in pairwise(order):
        if low < at < high:
            share = math.log(at / low) / math.log(high / low)
            how = f"between tables of {one.heads}/{one.kv_heads} and {other.heads}/{other.kv_heads} heads"
            return blend(one.surface(), other.surface(), share), 1.0, how
    size, table = order[0] if at < order[0][0] else order[-1]
    return table.surface(), at / size, f"DERIVED from the table of {table.heads}/{table.kv_heads} heads"


def _scaled(surface: Surface, first: float, rest: float) -> Surface:
    """Every value: what the shortest length takes times `first`, and what is on top of it times `rest`."""
    us = tuple(tuple(row[0] * first + (y - row[0]) * rest for y in row) for row in surface.us)
    return Surface(surface.batches, surface.lengths, us)
