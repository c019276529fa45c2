"""What every method promises about its suggestions (base.Method), checked before they are used. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from scoot.coordinator.optimizer.base import Suggestion, Task
from scoot.wire.errors import SolverError


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
