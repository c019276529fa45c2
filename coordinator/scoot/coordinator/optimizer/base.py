"""What an optimizer is asked and what it answers. Values only; Ask, Observation and Suggestion cross the worker's pipe.

An optimizer is a function of (problem, seed, ordered history): it keeps nothing between calls, so that a restart of the
coordinator, or of the worker process, changes no suggestion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.space.space import Space
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
        reason: why it was infeasible, a scoot.wire.reasons.Reason or any other text; "" is unknown.
        outcomes: one finite figure per outcome of the problem that is limited, where `values` is set; None is unknown.
        noise: standard error of each of `values`, at least 0; None is unknown.

    Raises:
        LocalProtocolError: a figure is NaN or infinite, or values, infeasible and pending contradict each other.
    """

    number: int
    config: Config
    values: tuple[float, ...] | None = None
    infeasible: bool = False
    pending: bool = False
    reason: str = ""
    outcomes: tuple[float, ...] | None = None
    noise: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for what in ("values", "outcomes", "noise"):
            figures = getattr(self, what)
            if figures is not None and not all(map(math.isfinite, figures)):
                raise LocalProtocolError(f"observation {self.number}: {what} {figures} are not all finite")
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


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A figure that has to keep within a limit, whatever the objectives gain.

    Attributes:
        name: its metric.
        direction: MINIMISE: at most `limit`. MAXIMISE: at least.
        limit: in the metric's own unit.
    """

    name: str
    direction: Direction
    limit: float


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
        call: how many suggestions were asked for before, for methods whose schedule depends on it.
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

    Returns at most `task.n` suggestions, fewer only when the space has no more. They are pairwise different, differ
    from every configuration of the history, and satisfy the known constraints.

    Raises:
        UserError: the study's space or objectives are wrong.
    """

    def __call__(self, task: Task, /) -> tuple[Suggestion, ...]:
        """The next suggestions."""
