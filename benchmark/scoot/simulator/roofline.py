"""Time of a layer's matrix multiplications and element-wise work from its shapes: for what no table covers. Pure.

A multiplication of (m, k) by (k, n) takes (tc^p + tm^p)^(1/p) + a launch. tm is the bytes of its operands at the memory
bandwidth that is reached. tc is its operations at the rate that is reached, times a factor for tiles that do not fill
the device: tiles of 128 x 128 are computed in waves of one per multiprocessor, and a last wave takes as long as a full
one. The factor has a power between 0 (no such effect) and 1.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import msgspec

from scoot.simulator.shapes import Gpu, ModelShape

MULTIPROCESSORS: Final = MappingProxyType({"a10": 72, "a40": 84, "a100": 108, "h100": 132, "h200": 132, "l40s": 142})
"""Streaming multiprocessors of each GPU, from its vendor's data sheet."""

_TILE: Final = 128
_BYTES: Final = 2


class Roofline(msgspec.Struct, frozen=True, kw_only=True):
    """What a GPU reaches of its data sheet, as fitted.

    Attributes:
        compute, memory: shares of peak rate and of bandwidth that large multiplications reach.
        power: how sharply one gives way to the other, >= 1.
        wave: power of the factor for tiles, 0..1.
        launch_us: of each multiplication.
        element_us: of everything element-wise in a layer, however small.
        element_memory: share of the bandwidth that element-wise work reaches.
    """

    compute: float
    memory: float
    power: float
    wave: float
    launch_us: float
    element_us: float
    element_memory: float


def multiply_us(roof: Roofline, gpu: Gpu, m: int, n: int, k: int) -> float:
    """Microseconds of an (m, k) by (k, n) multiplication in 16 bits; integers, or arrays of them."""
    tiles = -(-m // _TILE) * -(-n // _TILE)
    sms = MULTIPROCESSORS[gpu.name]
    padding = -(-tiles // sms) * (sms * _TILE * _TILE) / (m * n)
    compute_us = 2.0 * m * n * k / (roof.compute * gpu.tflops * 1e6) * padding**roof.wave
    memory_us = _BYTES * (1.0 * n * k + 1.0 * m * (n + k)) / (roof.memory * gpu.gb_per_s * 1e3)
    # An annotation: with arrays of tokens, which tools use, the result is one as well.
    us: float = (compute_us**roof.power + memory_us**roof.power) ** (1 / roof.power) + roof.launch_us
    return us


def multiplications(model: ModelShape, degree: int) -> tuple[tuple[int, int], ...]:
    """(n, k) of each of a layer's multiplications on one of `degree` devices."""
    q, kv = heads_of(model, degree)
    return (
        ((q + 2 * kv) * model.head_dim, model.hidden),
        (model.hidden, q * model.head_dim),
        (2 * -(-model.ffn // degree), model.hidden),
        (model.hidden, -(-model.ffn // degree)),
    )


def element_bytes(model: ModelShape, degree: int, tokens: int) -> float:
    """Bytes that norms, rotary embedding, activation and residual of a layer move."""
    q, kv = heads_of(model, degree)
    values = 7 * model.hidden + 2 * (q + kv) * model.head_dim + 3 * model.ffn / degree
    return _BYTES * tokens * values


def layer_us(roof: Roofline, gpu: Gpu, model: ModelShape, degree: int, tokens: int) -> float:
    """Microseconds of a layer without attention, for so many tokens (>= 1) on one of `degree` devices."""
    us = roof.element_us + element_bytes(model, degree, tokens) / (roof.element_memory * gpu.gb_per_s * 1e3)
    for n, k in multiplications(model, degree):
        us += multiply_us(roof, gpu, tokens, n, k)
    return us


def heads_of(model: ModelShape, degree: int) -> tuple[int, int]:
    """Query heads, and key-value heads, on one of `degree` devices; a device has at least one of each."""
    return max(1, model.heads // degree), max(1, model.kv_heads // degree)
