"""Fitted figures of GPUs, read from the package's data file, which tools/fit_simulator.py writes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from typing import Final

import msgspec

from scoot.simulator.curves import Curve, Surface, curve
from scoot.simulator.roofline import Roofline

FILE: Final = "calibration.json"


class DenseTable(msgspec.Struct, frozen=True, kw_only=True):
    """A layer without attention, over the tokens of a step.

    Attributes:
        gpu, hidden, ffn, heads, kv_heads, degree: what was measured; heads are the model's, not a device's.
        tokens, us: knots.
        source: a key of Calibration.sources.
    """

    gpu: str
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    degree: int
    tokens: tuple[int, ...]
    us: tuple[float, ...]
    source: str


class AttentionTable(msgspec.Struct, frozen=True, kw_only=True):
    """One layer's attention over batch size and length, for the heads of one device.

    Attributes:
        kind: "prefill" (length: prompt) or "decode" (length: context).
        gpu, heads, kv_heads: of one device.
        batches, lengths, us: a Surface.
        source: a key of Calibration.sources.
    """

    kind: str
    gpu: str
    heads: int
    kv_heads: int
    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    us: tuple[tuple[float, ...], ...]
    source: str

    def surface(self) -> Surface:
        """The same as a surface."""
        return Surface(tuple(map(float, self.batches)), tuple(map(float, self.lengths)), self.us)


class ReduceTable(msgspec.Struct, frozen=True, kw_only=True):
    """An all-reduce over the bytes of its message.

    Attributes:
        gpu, link, devices: what was measured.
        custom: vLLM's own kernel, where that is faster, instead of NCCL.
        bytes, us: knots.
        source: a key of Calibration.sources.
    """

    gpu: str
    link: str
    devices: int
    custom: bool
    bytes: tuple[int, ...]
    us: tuple[float, ...]
    source: str

    def curve(self) -> Curve:
        """Microseconds over bytes."""
        return curve(self.bytes, self.us)


class RooflineFit(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU's roofline and where it is from (a key of Calibration.sources)."""

    gpu: str
    roofline: Roofline
    source: str


class CpuFit(msgspec.Struct, frozen=True, kw_only=True):
    """Time of the CPU in a step: base_us + per_sequence_us x sequences (+ workers_us with several devices).

    Attributes:
        profile: its name, e.g. "vllm-0.4.2".
        source: a key of Calibration.sources.
    """

    profile: str
    base_us: float
    per_sequence_us: float
    workers_us: float
    source: str


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was fitted.

    Attributes:
        sources: what a source's key means: file, what was measured, licence.
        dense, rooflines, attention, all_reduce, cpu: the figures.
    """

    sources: dict[str, str]
    dense: tuple[DenseTable, ...]
    rooflines: tuple[RooflineFit, ...]
    attention: tuple[AttentionTable, ...]
    all_reduce: tuple[ReduceTable, ...]
    cpu: tuple[CpuFit, ...]

    def roofline(self, gpu: str) -> RooflineFit | None:
        """The roofline fitted for a GPU; None if there is none."""
        return next((fit for fit in self.rooflines if fit.gpu == gpu), None)

    def attention_of(self, kind: str, gpu: str) -> Iterator[AttentionTable]:
        """Tables of one kind and GPU."""
        return (table for table in self.attention if table.kind == kind and table.gpu == gpu)


@lru_cache(maxsize=1)
def load() -> Calibration:
    """The figures this version came with."""
    data = resources.files("scoot.simulator").joinpath(FILE).read_bytes()
    return msgspec.json.decode(data, type=Calibration)
