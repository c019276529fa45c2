"""What an optimizer is asked and what it answers. Values only; the same types cross the worker's pipe as JSON.

An optimizer is a function of (spec, seed, ordered history): it keeps nothing between calls, so that a restart of the
coordinator, or of the worker process, changes no suggestion.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import msgspec

from scoot.wire.errors import LocalProtocolError
from scoot.wire.spec import Config, StudySpec


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """A trial as the optimizer sees it.

    Attributes:
        number: the trial's number; 0 is the default configuration.
        config: its configuration; parameters may be absent from the default's.
        values: one finite figure per objective, in the metric's own unit and sense (milliseconds, 1/s), or None while
            there is none.
        infeasible: a failure blamed on the configuration; `values` is None then.
        pending: not finished; neither values nor feasibility are known.

    Raises:
        LocalProtocolError: a value is NaN or infinite, or the three last fields contradict each other.
    """

    number: int
    config: Config
    values: tuple[float, ...] | None = None
    infeasible: bool = False
    pending: bool = False

    def __post_init__(self) -> None:
        if self.values is not None and not all(map(math.isfinite, self.values)):
            raise LocalProtocolError(f"observation {self.number}: objective values {self.values} are not all finite")
        if (self.values is not None) + self.infeasible + self.pending > 1:
            raise LocalProtocolError(
                f"observation {self.number}: at most one of values, infeasible and pending can be set"
            )


class Suggestion(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration to try.

    Attributes:
        config: a value for every parameter of the space; satisfies the known constraints.
        source: what proposed it, "sobol".
        explanation: why, free-form and JSON-able, for display.
    """

    config: Config
    source: str
    explanation: dict[str, Any] = {}


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One call of an optimizer.

    Attributes:
        spec: the study.
        history: every trial so far in order of number, pending ones included.
        n: suggestions wanted, at least 1.
        call: how many suggestions were asked for before, for methods whose schedule depends on it.
        seed: the study's optimizer seed.
    """

    spec: StudySpec
    history: tuple[Observation, ...]
    n: int
    call: int
    seed: int


class Method(Protocol):
    """An optimizer.

    Returns at most `ask.n` suggestions, fewer only when the space has no more. They are pairwise different, differ from
    every configuration of the history, and satisfy the known constraints.

    Raises:
        UserError: the study's space or objectives are wrong.
    """

    def __call__(self, ask: Ask, /) -> tuple[Suggestion, ...]:
        """The next suggestions."""
