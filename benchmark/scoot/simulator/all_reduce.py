"""Time of an all-reduce between the devices of a tensor-parallel group, by link and size. Pure."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Final

import msgspec

from scoot.simulator.calibration import Calibration, ReduceTable
from scoot.simulator.curves import Curve, curve
from scoot.simulator.shapes import LINKS, Gpu
from scoot.wire.errors import UserError

LIKE: Final = MappingProxyType(
    {
        ("h200", "nvlink"): "h100",
        ("a10", "pcie"): "l40s",
        ("a100", "pcie"): "l40s",
        ("h100", "pcie"): "l40s",
        ("h200", "pcie"): "l40s",
    }
)
"""Links without figures of that GPU, and whose they are taken from."""

_PCIE_CUSTOM: Final = 2
"""Most devices on PCIe that vLLM's own all-reduce works for."""


class AllReduce(msgspec.Struct, frozen=True):
    """An all-reduce of one group.

    Attributes:
        known: microseconds over bytes; None for one device, which needs none.
        lines: where the figures are from.
    """

    known: Curve | None
    lines: tuple[str, ...]

    def us(self, size: float) -> float:
        """Microseconds for a message of so many bytes."""
        return 0.0 if self.known is None else self.known.at(size)


def all_reduce(calibration: Calibration, gpu: Gpu, degree: int, *, link: str, custom: bool) -> AllReduce:
    """Between `degree` devices.

    Args:
        calibration: figures.
        gpu, degree: the group; one device needs no all-reduce.
        link: "nvlink" or "pcie".
        custom: with vLLM's own kernel where it applies: on NVLink, or on PCIe between two devices; NCCL otherwise.

    Raises:
        UserError: no such link, or no figures for it.
    """
    if link not in LINKS:
        raise UserError(f"there is no link {link[:80]!r}", key="link", hint=f"it is one of {', '.join(LINKS)}")
    if degree == 1:
        return AllReduce(None, ())
    base = LIKE.get((gpu.name, link), gpu.name)
    own = custom and (link != "pcie" or degree <= _PCIE_CUSTOM)
    tables = {t.devices: t for t in calibration.all_reduce if (t.gpu, t.link, t.custom) == (base, link, own)}
    if own and not tables:
        own = False
        tables = {t.devices: t for t in calibration.all_reduce if (t.gpu, t.link, t.custom) == (base, link, False)}
    if not tables:
        raise UserError(
            f"the simulator has no figures for {link} between {gpu.name} GPUs",
            key="link",
            hint=f"set link to {gpu.link!r}",
        )
    known, how = _at(tables, degree)
    source = calibration.sources[next(iter(tables.values())).source]
    lines = [f"all-reduce over {link}, {'custom kernel' if own else 'NCCL'}, {degree} devices: {how}, {source}"]
    if base != gpu.name:
        lines.append(f"all-reduce over {link} between {gpu.name} GPUs is DERIVED: taken to be as between {base} GPUs")
    return AllReduce(known, tuple(lines))


def _at(tables: dict[int, ReduceTable], degree: int) -> tuple[Curve, str]:
    if degree in tables:
        return tables[degree].curve(), f"table of {len(tables[degree].bytes)} knots"
    below = max((n for n in tables if n < degree), default=None)
    above = min((n for n in tables if n > degree), default=None)
    if below is None or above is None:
        nearest = min(tables, key=lambda n: abs(n - degree))
        return tables[nearest].curve().times(degree / nearest), f"DERIVED from {nearest} devices, in proportion"
    share = math.log(degree / below) / math.log(above / below)
    one, other = tables[below].curve(), tables[above].curve()
    xs = sorted({*one.xs, *other.xs})
    ys = [math.exp((1 - share) * math.log(one.at(x)) + share * math.log(other.at(x))) for x in xs]
    return curve(xs, ys), f"DERIVED: between {below} and {above} devices, by logarithms"
