"""What an optimizer is asked and what it answers. Values only; Ask, Observation and Suggestion cross the worker's pipe.

An optimizer is a function of (problem, seed, ordered history): it keeps nothing between calls, so that a restart of the
coordinator, or of the worker process, changes no suggestion.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.objective.outcome import Outcome as Outcome  # noqa: PLC0414 - part of what a method is asked
from scoot.coordinator.space.space import Space
from scoot.wire.errors import LocalProtocolError, ScootError, UserError
from scoot.wire.spec import Config, StudySpec

UNNUMBERED: Final = -1
"""Number of an observation that a user made; Optimizer gives it its own."""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """A trial as the optimizer sees it; or, told to an Optimizer, what was measured: `Observation(values=(41.2,))`.

    Attributes:
        number: the trial's number; 0 is the default configuration. Left out by users.
        config: its configuration; parameters may be absent from the default's. Users give it in a history only.
        values: one finite figure per objective, in the metric's own unit and sense (milliseconds, 1/s), or None while
            there is none.
        infeasible: a failure blamed on the configuration; `values` is None then.
        pending: not finished; neither values nor feasibility are known.
        reason: why it was infeasible, a scoot.wire.reasons.Reason or any other text; "" is unknown.
        outcomes: one finite figure per outcome of the problem that is limited, where `values` is set; None is unknown.
        noise: standard error of each of `values`, at least 0; None is unknown.

    Raises:
        LocalProtocolError: a figure is NaN or infinite, or values, infeasible and pending contradict each other.
        UserError: the same of an observation without a number, or figures that are no numbers.
    """

    number: int = UNNUMBERED
    config: Config = {}
    values: tuple[float, ...] | None = None
    infeasible: bool = False
    pending: bool = False
    reason: str = ""
    outcomes: tuple[float, ...] | None = None
    noise: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for what in ("values", "outcomes", "noise"):
            figures = getattr(self, what)
            if figures is None:
                continue
            if type(figures) is not tuple:  # a user's list or array; what comes off the wire is a tuple
                figures = _tuple(what, figures)
                msgspec.structs.force_setattr(self, what, figures)
            if not all(map(math.isfinite, figures)):
                raise self._wrong(f"{what} {figures} are not all finite")
        if (self.values is not None) + self.infeasible + self.pending > 1:
            raise self._wrong("at most one of values, infeasible and pending can be set")

    def _wrong(self, how: str) -> ScootError:
        """A bug of ours if we have numbered it, else a user's mistake."""
        if self.number == UNNUMBERED:
            return UserError(how, key="observation")
        return LocalProtocolError(f"observation {self.number}: {how}")


def _tuple(what: str, figures: Any) -> tuple[float, ...]:  # noqa: ANN401 - what a user wrote instead of a tuple
    """A number, or anything that iterates over numbers, as a tuple of floats."""
    if isinstance(figures, Mapping | str):
        raise UserError(f"{what} is a tuple of numbers", key="observation", hint="figures by name go to tell() itself")
    try:
        return tuple(map(float, figures)) if isinstance(figures, Iterable) else (float(figures),)
    except (TypeError, ValueError):
        raise UserError(f"{what} is a tuple of numbers, not {figures!r}", key="observation") from None


class Suggestion(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration to try.

    Attributes:
        config: a value for every active parameter of the space; satisfies the known constraints.
        source: what proposed it: "default", "sobol", ...
        explanation: why, free-form and JSON-able, for display.
    """

    config: Config
    source: str
    explanation: dict[str, Any] = {}


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """What is to be optimised.

    Attributes:
        space: parameters and known constraints.
        directions: of each objective; one to three.
        outcomes: limits that a configuration must keep to be any use.
    """

    space: Space
    directions: tuple[Direction, ...]
    outcomes: tuple[Outcome, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """One call of a method.

    Attributes:
        problem: see Problem.
        history: every trial so far in order of number, pending ones included.
        n: suggestions wanted, at least 1.
        call: part of the seed: it may differ where everything else is the same, and never falls. A study's is the
            number of the call; an Optimizer's, which counts none, how many configurations it knows beside the default.
        seed: the study's optimizer seed.
    """

    problem: Problem
    history: tuple[Observation, ...]
    n: int
    call: int
    seed: int


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One call of an optimizer for a study.

    Attributes:
        spec: the study.
        history: every trial so far in order of number, pending ones included.
        n: suggestions wanted, at least 1.
        call: the number of this call in the study, from 1, as its journal has it; part of the seed.
        seed: the study's optimizer seed.
    """

    spec: StudySpec
    history: tuple[Observation, ...]
    n: int
    call: int
    seed: int


class Method(Protocol):
    """An optimizer. It is called through optimizer.contract.ask_method, to which whatever it raises is its own failure.

    Returns at most `task.n` suggestions, fewer only when the space has no more. They are pairwise different, differ
    from every configuration of the history, and satisfy the known constraints.

    Raises:
        UserError: called by itself, with more objectives than it takes (registry.MOST_OBJECTIVES).
    """

    def __call__(self, task: Task, /) -> tuple[Suggestion, ...]:
        """The next suggestions."""
