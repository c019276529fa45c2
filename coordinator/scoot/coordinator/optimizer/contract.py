"""What every method promises (base.Method), checked before its suggestions are used; what goes wrong is its fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from scoot.coordinator.optimizer.base import Method, Observation, Suggestion, Task
from scoot.coordinator.optimizer.registry import load_method
from scoot.wire.errors import SolverError

_EVERY_LAST: Final = "sobol"
"""The method that knows whether a space has more."""


def ask_method(method: Method, task: Task) -> tuple[Suggestion, ...]:
    """A method's suggestions, checked. Its task is a good one, so that whatever goes wrong is the method's own fault.

    Raises:
        SolverError: it raised anything (that is the cause, unless it was a SolverError itself), broke its contract as
            check_suggestions says, or gave fewer than asked for although the space has more.
        MemoryError: as it is: what is left of the process is not to be trusted.
    """
    try:
        found = tuple(method(task))
        check_suggestions(task, found)
    except (SolverError, MemoryError):
        raise
    except Exception as error:
        raise SolverError(f"{type(error).__name__}: {error}") from error
    if len(found) < task.n and _has_more(method, task, found):
        raise SolverError(f"{len(found)} suggestions instead of {task.n}, though the space has more")
    return found


def check_suggestions(task: Task, suggestions: Sequence[Suggestion]) -> None:
    """Refuse suggestions that would waste a trial.

    Raises:
        SolverError: more than asked for, one that is there already, or one that is not a configuration of the space or
            violates a known constraint.
    """
    if len(suggestions) > task.n:
        raise SolverError(f"{len(suggestions)} suggestions instead of {task.n}")
    space = task.problem.space
    seen = {key for key in (space.key(observation.config) for observation in task.history) if key is not None}
    for suggestion in suggestions:
        key = space.key(suggestion.config)
        if key is None:
            raise SolverError(f"a suggestion is not a configuration of the space: {suggestion.config}")
        if key in seen:
            raise SolverError(f"a suggestion was there before: {suggestion.config}")
        seen.add(key)
        violated = space.violated(suggestion.config)
        if violated:
            raise SolverError(f"a suggestion violates `{violated[0]}`: {suggestion.config}")


def _has_more(method: Method, task: Task, found: Sequence[Suggestion]) -> bool:
    """Whether Sobol knows a configuration beside the history and what was found; its own word is the last."""
    last = load_method(_EVERY_LAST)
    if method is last:
        return False
    first = max((observation.number for observation in task.history), default=0) + 1
    taken = [Observation(number=first + k, config=each.config, pending=True) for k, each in enumerate(found)]
    return len(last(replace(task, history=(*task.history, *taken), n=1))) > 0
