"""Time of the CPU in a step: scheduler, inputs, sampler and outputs. Pure."""

from __future__ import annotations

import difflib
from typing import Final

import msgspec

from scoot.simulator.calibration import Calibration
from scoot.wire.errors import UserError

NONE: Final = "none"
"""The profile without any."""


class Overheads(msgspec.Struct, frozen=True):
    """CPU time of a step, in a straight line.

    Attributes:
        base_s: of every step.
        per_sequence_s: of each sequence in it.
        lines: where the figures are from.
    """

    base_s: float
    per_sequence_s: float
    lines: tuple[str, ...]


def overheads(calibration: Calibration, profile: str, degree: int) -> Overheads:
    """Of an engine generation on `degree` devices.

    Raises:
        UserError: no such profile.
    """
    if profile == NONE:
        return Overheads(0.0, 0.0, ("CPU per step: none",))
    fit = next((fit for fit in calibration.cpu if fit.profile == profile), None)
    if fit is None:
        names = sorted([NONE, *(fit.profile for fit in calibration.cpu)])
        near = difflib.get_close_matches(profile, names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(names)}"
        raise UserError(f"there is no CPU profile {profile[:80]!r}", key="overheads", hint=hint)
    workers_us = fit.workers_us if degree > 1 else 0.0
    line = (
        f"CPU per step, {profile}: {fit.base_us:g} us + {fit.per_sequence_us:g} us a sequence"
        + (f" + {workers_us:g} us for several workers" if workers_us else "")
        + f", {calibration.sources[fit.source]}"
    )
    return Overheads((fit.base_us + workers_us) * 1e-6, fit.per_sequence_us * 1e-6, (line,))
