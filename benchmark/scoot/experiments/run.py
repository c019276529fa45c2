"""One run of one method on one service, in virtual time. Pure: clocks and trials are given.

It asks as the coordinator does: trial 0 is the default configuration, as many trials run at once as the parallelism
allows, and a slot that is free is filled at once while the others are still busy (asynchronous parallelism).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec
import numpy as np

from scoot.coordinator.optimizer import sobol
from scoot.coordinator.optimizer.base import Method, Observation, Problem, Suggestion, Task
from scoot.coordinator.optimizer.contract import check_suggestions
from scoot.experiments.evaluation import Evaluate, Evaluated
from scoot.wire.spec import Config

PEER_CPU_S: Final = "peer_cpu_s"
"""Key of an explanation: CPU seconds that another process spent on the whole call that the suggestion is from."""


class Design(StrEnum):
    """Who chooses the first configurations after the default.

    OWN: each method. SOBOL: Sobol points, as many as there are parameters. AROUND: half as many, each the default with
    some parameters drawn anew. The last two are the same for every method, paired by seed.
    """

    OWN = "own"
    SOBOL = "sobol"
    AROUND = "around"


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What one run is.

    Attributes:
        service: name.
        method: name.
        seed: of the method and of the first design.
        budget: trials, the default included.
        parallelism: trials at once.
        design: see Design.
        noise: whether the method is told standard errors.
    """

    service: str
    method: str
    seed: int
    budget: int = 30
    parallelism: int = 1
    design: Design = Design.OWN
    noise: bool = True


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One trial of a run.

    Attributes:
        number: of the trial; 0 is the default.
        config, trial: see there.
        source: what proposed it: "default", "design" or what the suggestion says.
        asked_s, ended_s: virtual time of its suggestion and of its end, from the beginning of the run.
        cpu_s: CPU seconds of the suggestion, other processes' included; where several were asked for at once, its part.
        explanation: why, from the method.
    """

    number: int
    config: Config
    trial: Evaluated
    source: str
    asked_s: float
    ended_s: float
    cpu_s: float = 0.0
    explanation: dict[str, Any] = {}


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A finished run.

    Attributes:
        spec: what was asked for.
        steps: in order of number; fewer than the budget only where the space has no more.
        error: why the method gave up; "" where it did not.
    """

    spec: RunSpec
    steps: tuple[Step, ...]
    error: str = ""

    @property
    def total_s(self) -> float:
        """Virtual seconds from the first trial's begin to the last one's end."""
        return max((step.ended_s for step in self.steps), default=0.0)


class _Pending(msgspec.Struct, order=True):
    """A trial on its way; the first to end comes first."""

    ended_s: float
    number: int


def first_design(problem: Problem, design: Design, seed: int) -> tuple[Config, ...]:
    """The configurations that follow the default, whatever the method: none for Design.OWN.

    All satisfy the known constraints; they and the default are pairwise different.

    Args:
        problem: of the service.
        design: which.
        seed: of the run.
    """
    space = problem.space
    if design is Design.OWN:
        return ()
    if design is Design.SOBOL:
        task = Task(problem=problem, history=(), n=len(space.axes), call=0, seed=seed)
        return tuple(suggestion.config for suggestion in sobol.suggest(task))
    rng = np.random.default_rng([seed, 1])
    default = space.default_config()
    wanted = max(1, len(space.axes) // 2)
    seen = {space.key(default)}
    found: list[Config] = []
    for drawn in space.sample(rng, 8 * wanted):
        changed = rng.random(len(space.axes)) < 1 / 3
        moved = {name for name, change in zip(space.names, changed.tolist(), strict=True) if change}
        near = {**drawn, **{name: value for name, value in default.items() if name not in moved}}
        config = space.project([near])[0]
        if space.key(config) not in seen and len(found) < wanted:
            seen.add(space.key(config))
            found.append(config)
    return tuple(found)


def perform(
    spec: RunSpec, problem: Problem, method: Method, evaluate: Evaluate, *, cpu_clock: Callable[[], float]
) -> Run:
    """The run. A method that raises, or breaks its contract, ends it early: see Run.error.

    Args:
        spec: what to do.
        problem: of the service.
        method: of that name.
        evaluate: from a configuration to its trial.
        cpu_clock: CPU seconds used so far.
    """
    state = _State(spec, problem, evaluate)
    default = problem.space.default_config()
    state.start(default, source="default")
    queue = list(first_design(problem, spec.design, spec.seed))[: spec.budget - 1]
    call = 0
    error = ""
    exhausted = False
    while True:
        wanted = min(spec.parallelism - len(state.pending), spec.budget - len(state.steps))
        while queue and wanted > 0:
            state.start(queue.pop(0), source="design")
            wanted -= 1
        if wanted > 0 and not exhausted and not error:
            call += 1
            task = Task(problem=problem, history=state.history(), n=wanted, call=call, seed=spec.seed)
            began = cpu_clock()
            try:
                suggestions = method(task)
                cpu_s = cpu_clock() - began + _elsewhere_s(suggestions)
                check_suggestions(task, suggestions)
            except Exception as failure:  # noqa: BLE001 - a method that fails is a result of the comparison
                error, suggestions, cpu_s = f"{type(failure).__name__}: {failure}", (), 0.0
            exhausted = len(suggestions) < wanted
            for suggestion in suggestions:
                state.start(
                    suggestion.config,
                    source=suggestion.source,
                    cpu_s=cpu_s / len(suggestions),
                    explanation=suggestion.explanation,
                )
        if not state.pending:
            return Run(spec=spec, steps=tuple(state.steps), error=error)
        state.wait()


def _elsewhere_s(suggestions: Sequence[Suggestion]) -> float:
    """CPU seconds of a call that this process's clock does not see."""
    return max((float(each.explanation.get(PEER_CPU_S, 0.0)) for each in suggestions), default=0.0)


class _State:
    """Trials so far, and the virtual time."""

    def __init__(self, spec: RunSpec, problem: Problem, evaluate: Evaluate) -> None:
        self.now_s = 0.0
        self.steps: list[Step] = []
        self.pending: list[_Pending] = []
        self._noise = spec.noise
        self._outcomes = bool(problem.outcomes)
        self._evaluate = evaluate

    def start(
        self, config: Config, *, source: str, cpu_s: float = 0.0, explanation: dict[str, Any] | None = None
    ) -> None:
        """Begin a trial now. What it will find is known to us already, and to nobody else before it ends."""
        trial = self._evaluate(config)
        step = Step(
            number=len(self.steps),
            config=config,
            trial=trial,
            source=source,
            asked_s=self.now_s,
            ended_s=self.now_s + trial.simulated_s,
            cpu_s=cpu_s,
            explanation=explanation or {},
        )
        self.steps.append(step)
        heapq.heappush(self.pending, _Pending(step.ended_s, step.number))

    def wait(self) -> None:
        """Until the next trial ends, and those that end at the same moment."""
        self.now_s = self.pending[0].ended_s
        while self.pending and self.pending[0].ended_s <= self.now_s:
            heapq.heappop(self.pending)

    def history(self) -> tuple[Observation, ...]:
        """What a method may know now."""
        busy = {each.number for each in self.pending}
        return tuple(self._observation(step, pending=step.number in busy) for step in self.steps)

    def _observation(self, step: Step, *, pending: bool) -> Observation:
        if pending:
            return Observation(number=step.number, config=step.config, pending=True)
        trial = step.trial
        return Observation(
            number=step.number,
            config=step.config,
            values=trial.values,
            infeasible=trial.failed,
            reason=trial.reason,
            outcomes=trial.outcomes if self._outcomes else None,
            noise=trial.noise if self._noise else None,
        )
