"""Goodput: how many requests met every latency promised to them (docs/measurement.md). Pure, vectorised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from scoot.benchmark.metrics import measured_of, tpot_us, window_s
from scoot.wire.columns import NONE_US, RequestStatus, TimingBatch
from scoot.wire.measurement import Goodput
from scoot.wire.spec import SloClass

_US_PER_MS: Final = 1e3

_Bools = npt.NDArray[np.bool_]


def attained_of(batch: TimingBatch, *, run: int, classes: Sequence[SloClass]) -> _Bools:
    """(n,) True where a measured request of `run` completed and met all that its class is promised, limits included.

    A request that failed met nothing, and neither did one without a token where a TTFT is promised. An answer of one
    token cannot break a TPOT.

    Args:
        batch: finished requests, of any runs and phases, in any order.
        run: arrival order to look at.
        classes: what each class is promised, in the order that `slo_class` counts; milliseconds, TTFT and E2E from the
            intended start. One alone where requests have no class.

    Raises:
        ValueError: a measured request of a class that is not among `classes`.
    """
    measured = measured_of(batch, run=run)
    of = _class_of(batch)
    if measured.any() and int(of[measured].max()) >= len(classes):
        raise ValueError(f"a request of SLO class {int(of[measured].max())}, of {len(classes)} classes")
    attained: _Bools = measured & (batch.status == RequestStatus.OK)
    answered = batch.first_us != NONE_US
    tpot = np.zeros(len(batch), np.float64)
    several = attained & answered & (batch.output_tokens > 1)
    tpot[several] = tpot_us(batch, several)
    for index, promise in enumerate(classes):
        here = of == index
        if promise.ttft_ms is not None:
            attained &= ~here | (answered & _within(batch.first_us, promise.ttft_ms))
        if promise.tpot_ms is not None:
            attained &= ~here | _within(tpot, promise.tpot_ms)
        if promise.e2e_ms is not None:
            attained &= ~here | _within(batch.end_us, promise.e2e_ms)
    return attained


def goodput(batch: TimingBatch, *, run: int, classes: Sequence[SloClass]) -> tuple[Goodput, tuple[Goodput, ...]]:
    """Goodput of all measured requests of `run` together, and of each class on its own, in the order of `classes`.

    Rates are over the same duration as the throughputs of Metrics, so the rates of the classes add up to the whole's.

    Args, Raises: as `attained_of`.
    """
    attained = attained_of(batch, run=run, classes=classes)
    measured = measured_of(batch, run=run)
    duration_s = window_s(batch, measured)
    of = _class_of(batch)
    each = tuple(
        _summary(promise.name, measured & (of == index), attained, duration_s) for index, promise in enumerate(classes)
    )
    return _summary("", measured, attained, duration_s), each


def _class_of(batch: TimingBatch) -> npt.NDArray[np.unsignedinteger]:
    """(n,) the SLO class of every request."""
    return np.zeros(len(batch), np.uint8) if batch.slo_class is None else batch.slo_class


def _within(value_us: npt.NDArray[np.unsignedinteger] | npt.NDArray[np.float64], limit_ms: float) -> _Bools:
    """(n,) True where a latency is at its limit or below; a limit that is not a number is met by none."""
    # Divided, not multiplied: 1005 us / 1000 is the float that 1.005 ms is read as, 1.005 * 1000 is below 1005.
    within: _Bools = value_us / _US_PER_MS <= limit_ms
    return within


def _summary(name: str, of: _Bools, attained: _Bools, duration_s: float) -> Goodput:
    sent = int(np.count_nonzero(of))
    good = int(np.count_nonzero(of & attained))
    return Goodput(
        name=name,
        sent=sent,
        attained=good,
        share=good / sent if sent else 0.0,
        rate=good / duration_s if duration_s > 0 else 0.0,
    )
