"""The attempt's table: which phase may follow which, how long each took, and how an attempt may end. Pure.

The diagram in docs/state-machines.md is generated from PHASE_TRANSITIONS by tools/gen_diagrams.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeVar

import msgspec

from scoot.wire.assignment import Phase
from scoot.wire.errors import InvariantViolation
from scoot.wire.measurement import PhaseTime
from scoot.wire.reasons import Blame, Reason, blame_of

State = TypeVar("State", bound=StrEnum)

PHASE_TRANSITIONS: Final[Mapping[Phase, frozenset[Phase]]] = MappingProxyType(
    {
        Phase.PREPARE: frozenset({Phase.START, Phase.STOP}),
        Phase.START: frozenset({Phase.READY, Phase.STOP}),
        # Back to START: the port was taken between choosing and binding it, once per attempt.
        Phase.READY: frozenset({Phase.START, Phase.WARM_UP, Phase.MEASURE, Phase.STOP}),
        Phase.WARM_UP: frozenset({Phase.MEASURE, Phase.STOP}),
        Phase.MEASURE: frozenset({Phase.DRAIN, Phase.STOP}),
        # The next run begins with its own warm-up, or at once where there is none.
        Phase.DRAIN: frozenset({Phase.WARM_UP, Phase.MEASURE, Phase.STOP}),
        Phase.STOP: frozenset({Phase.VERIFY_CLEAN}),
        Phase.VERIFY_CLEAN: frozenset({Phase.COLLECT}),
        Phase.COLLECT: frozenset(),
    }
)
"""Every phase up to DRAIN may end in STOP: on success, failure, cancellation and fencing alike nothing skips it."""

LOAD_PHASES: Final = frozenset({Phase.WARM_UP, Phase.MEASURE, Phase.DRAIN})
"""Phases that the load process reports."""

_NEXT_RUN: Final = frozenset({Phase.WARM_UP, Phase.MEASURE})


class EndState(StrEnum):
    """How an attempt ends; the terminal attempt states an agent may tell."""

    COMPLETED = "COMPLETED"
    INFEASIBLE = "INFEASIBLE"
    ABORTED = "ABORTED"
    REFUSED = "REFUSED"
    CANCELLED = "CANCELLED"


class Ending(msgspec.Struct, frozen=True):
    """How and why an attempt ends. `reason` is None exactly when COMPLETED; `message` is one line for humans."""

    state: EndState
    reason: Reason | None = None
    message: str = ""

    def __post_init__(self) -> None:
        if (self.state is EndState.COMPLETED) != (self.reason is None):
            raise InvariantViolation(f"an attempt cannot end {self.state} with reason {self.reason}")


COMPLETED: Final = Ending(EndState.COMPLETED)


def failure(reason: Reason, message: str) -> Ending:
    """The ending that `reason` stands for: INFEASIBLE where the configuration is to blame, ABORTED otherwise."""
    if reason is Reason.CANCELLED_BY_USER:
        return Ending(EndState.CANCELLED, reason, message)
    state = EndState.INFEASIBLE if blame_of(reason) is Blame.CONFIG else EndState.ABORTED
    return Ending(state, reason, message)


def refusal(reason: Reason, message: str) -> Ending:
    """The ending of an attempt that this agent will not begin."""
    return Ending(EndState.REFUSED, reason, message)


class Unclean(msgspec.Struct, frozen=True):
    """What an attempt left its host like: devices that cannot be trusted from now on, and why.

    `reason` is GPU_FAULT where the hardware failed, GPU_MEMORY_NOT_RELEASED where something of the engine is left.
    """

    reason: Reason
    why: str
    devices: tuple[str, ...]


def after_dirty_stop(ending: Ending, trouble: Unclean) -> Ending:
    """`ending` once the host was found unclean. A success is given up; a failure keeps its cause and names the trouble.

    What was measured may share its device with a leak that began earlier; and the coordinator has to hear of the host.
    A device that failed explains every other failure, so the host is blamed and the configuration is not.
    """
    if ending.state is EndState.COMPLETED:
        return failure(trouble.reason, trouble.why)
    if trouble.reason is Reason.GPU_FAULT and ending.state in (EndState.INFEASIBLE, EndState.ABORTED):
        return failure(trouble.reason, f"{trouble.why} (the attempt ended: {ending.reason}: {ending.message})")
    return msgspec.structs.replace(ending, message=f"{ending.message} (afterwards: {trouble.why})")


class Step(msgspec.Struct, frozen=True):
    """Entry into a phase at `at_s` (monotonic seconds), during run `run`."""

    phase: Phase
    run: int
    at_s: float

    def __str__(self) -> str:
        return f"{self.at_s:.3f} s: {self.phase} (run {self.run})"


class AttemptRun(msgspec.Struct, frozen=True):
    """The story of an attempt so far: its steps, the current one last."""

    attempt_id: str
    steps: tuple[Step, ...]

    @property
    def phase(self) -> Phase:
        """The current phase."""
        return self.steps[-1].phase

    @property
    def run(self) -> int:
        """Index of the current run (arrival order)."""
        return self.steps[-1].run


def begin(attempt_id: str, now_s: float) -> AttemptRun:
    """An attempt in PREPARE."""
    return AttemptRun(attempt_id, (Step(Phase.PREPARE, 0, now_s),))


def advance(run: AttemptRun, phase: Phase, now_s: float) -> AttemptRun:
    """`run` after entering `phase`. Entering a load phase from DRAIN begins the next run.

    Raises:
        InvariantViolation: the table does not allow it, or time ran backwards; carries the whole story.
    """
    last = run.steps[-1]
    if phase not in PHASE_TRANSITIONS[last.phase]:
        raise InvariantViolation(f"attempt {run.attempt_id}: {last.phase} -> {phase} is not legal", story=run.steps)
    if now_s < last.at_s:
        raise InvariantViolation(f"attempt {run.attempt_id}: time ran backwards to {now_s:.3f} s", story=run.steps)
    number = last.run + (last.phase is Phase.DRAIN and phase in _NEXT_RUN)
    return AttemptRun(run.attempt_id, (*run.steps, Step(phase, number, now_s)))


def leave(run: AttemptRun, now_s: float) -> AttemptRun:
    """`run` in STOP: the early (or regular) exit. Nothing changes where it is stopping already."""
    return advance(run, Phase.STOP, now_s) if Phase.STOP in PHASE_TRANSITIONS[run.phase] else run


def durations(run: AttemptRun, now_s: float) -> tuple[PhaseTime, ...]:
    """Seconds spent in each phase, in order of entry; the current one counts until `now_s`."""
    ends = [step.at_s for step in run.steps[1:]] + [now_s]
    return tuple(
        PhaseTime(phase=step.phase.value, seconds=end - step.at_s) for step, end in zip(run.steps, ends, strict=True)
    )


def mermaid(table: Mapping[State, frozenset[State]], initial: State) -> str:
    """A transition table as a Mermaid state diagram, in the order of the table; states without a way out are final."""
    order = list(table)
    lines = ["stateDiagram-v2", f"    [*] --> {initial}"]
    for state in order:
        lines += [f"    {state} --> {target}" for target in sorted(table[state], key=order.index)]
        if not table[state]:
            lines.append(f"    {state} --> [*]")
    return "\n".join(lines)
