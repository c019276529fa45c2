"""What the host adds to a step besides its scheduler: kernels launched one by one, heavier bookkeeping. Pure.

A step that runs from a captured graph is launched at once. Any other is launched kernel by kernel, ahead of the
device: it cannot be over before the host has launched it. No table in reach measures this: the times
are assumed, and matter only where the device needs less than a tenth of a millisecond or so for a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from scoot.simulator.settings import StepTime

EAGER_LAYER_S: Final = 150e-6
"""To launch one layer from Python: about ten operators of 10 to 15 us each. Assumed."""

COMPILED_LAYER_S: Final = 40e-6
"""To launch one compiled layer: about six kernels of 5 to 7 us each. Assumed."""


class LaunchCost(msgspec.Struct, frozen=True, kw_only=True):
    """What the host adds.

    Attributes:
        eager_s: time to launch a whole step kernel by kernel, seconds.
        captured: widest step that runs from a graph, tokens; 0 is none.
        decodes_only: steps with prompts never run from a graph.
        step_s, sequence_s: CPU time more per step and per sequence in it, seconds.
    """

    eager_s: float = 0.0
    captured: int = 0
    decodes_only: bool = False
    step_s: float = 0.0
    sequence_s: float = 0.0


class Launched:
    """A StepTime with what the host adds."""

    __slots__ = ("_cost", "_inner")

    def __init__(self, inner: StepTime, cost: LaunchCost) -> None:
        self._inner = inner
        self._cost = cost

    def gpu_s(self, decodes: int, decode_context: int, prefills: Sequence[tuple[int, int]]) -> float:
        """Time on the device, at least that of launching. See StepTime."""
        busy_s = self._inner.gpu_s(decodes, decode_context, prefills)
        cost = self._cost
        if busy_s >= cost.eager_s:
            return busy_s
        tokens = decodes
        for chunk, _ in prefills:
            tokens += chunk
        from_graph = tokens <= cost.captured and not (prefills and cost.decodes_only)
        return busy_s if from_graph or not tokens else cost.eager_s

    def cpu_s(self, sequences: int) -> float:
        """Time of the CPU. See StepTime."""
        return self._inner.cpu_s(sequences) + self._cost.step_s + self._cost.sequence_s * sequences


def launched(inner: StepTime, cost: LaunchCost) -> StepTime:
    """`inner` with what the host adds; itself where that is nothing."""
    return inner if cost == LaunchCost() else Launched(inner, cost)
