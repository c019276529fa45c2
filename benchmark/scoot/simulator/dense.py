"""Time of all but attention and communication: a layer over the tokens of a step, and the model's two ends. Pure."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Final

import msgspec

from scoot.simulator.calibration import Calibration, DenseTable
from scoot.simulator.curves import curve
from scoot.simulator.roofline import Roofline, layer_us, multiply_us
from scoot.simulator.shapes import GPUS, Gpu, ModelShape
from scoot.wire.errors import UserError

LIKE: Final = MappingProxyType({"a10": "a40", "h200": "h100"})
"""GPUs without dense figures, and whose they are derived from: the same architecture with other rates."""

_VALUE_BYTES: Final = 2


class Dense(msgspec.Struct, frozen=True):
    """A layer without attention.

    Attributes:
        us: microseconds over tokens (>= 1).
        lines: where the figures are from.
    """

    us: Callable[[int], float]
    lines: tuple[str, ...]


def roofline_for(calibration: Calibration, gpu: Gpu) -> tuple[Roofline, str]:
    """A GPU's roofline and where it is from.

    Raises:
        UserError: there are no figures for this GPU.
    """
    base = LIKE.get(gpu.name, gpu.name)
    fit = calibration.roofline(base)
    if fit is None:
        raise UserError(f"the simulator has no rates of {gpu.name!r}", key="gpu")
    source = calibration.sources[fit.source]
    if base != gpu.name:
        return fit.roofline, f"DERIVED: shares of peak as {base}, peaks of {gpu.name}'s data sheet, {source}"
    return fit.roofline, source


def dense(calibration: Calibration, model: ModelShape, gpu: Gpu, degree: int, *, tables: bool = True) -> Dense:
    """A layer of a model on one of `degree` devices: from a table if its shape was measured, else from the roofline.

    Args:
        calibration: figures.
        model, gpu, degree: whose time.
        tables: False to use the roofline in any case.

    Raises:
        UserError: there are no figures for this GPU.
    """
    roof, origin = roofline_for(calibration, gpu)

    def by_roofline(tokens: int) -> float:
        return layer_us(roof, gpu, model, degree, tokens)

    base = LIKE.get(gpu.name, gpu.name)
    table = _table(calibration, model, base, degree) if tables else None
    if table is None:
        return Dense(by_roofline, (f"layer without attention: roofline, {origin}",))
    known = curve(table.tokens, table.us)
    line = (
        f"layer without attention: table of {len(table.tokens)} knots (hidden {table.hidden}, ffn {table.ffn}, "
        f"heads {table.heads}/{table.kv_heads}, tp {degree}), {calibration.sources[table.source]}"
    )
    if base == gpu.name:
        return Dense(known.at, (line,))
    theirs = GPUS[base]

    def by_ratio(tokens: int) -> float:
        return known.at(tokens) * by_roofline(tokens) / layer_us(roof, theirs, model, degree, tokens)

    derived = f"layer without attention of {gpu.name} is DERIVED: times of {base} x ratio of their rooflines"
    return Dense(by_ratio, (line, derived))


def embedding_us(roof: Roofline, gpu: Gpu, model: ModelShape, tokens: int) -> float:
    """Microseconds to look up the embeddings of so many tokens."""
    return roof.launch_us + 2 * _VALUE_BYTES * tokens * model.hidden / (roof.element_memory * gpu.gb_per_s * 1e3)


def head_us(roof: Roofline, gpu: Gpu, model: ModelShape, degree: int, sequences: int) -> float:
    """Microseconds of the last norm and of the logits of so many sequences (>= 1) on one of `degree` devices."""
    norm = 2 * _VALUE_BYTES * sequences * model.hidden / (roof.element_memory * gpu.gb_per_s * 1e3)
    return roof.launch_us + norm + multiply_us(roof, gpu, sequences, -(-model.vocab // degree), model.hidden)


def logits_bytes(model: ModelShape, sequences: int) -> int:
    """Bytes of the logits of so many sequences."""
    return _VALUE_BYTES * sequences * model.vocab


def _table(calibration: Calibration, model: ModelShape, gpu: str, degree: int) -> DenseTable | None:
    shape = (gpu, model.hidden, model.ffn, model.heads, model.kv_heads, degree)
    for table in calibration.dense:
        if (table.gpu, table.hidden, table.ffn, table.heads, table.kv_heads, table.degree) == shape:
            return table
    return None
