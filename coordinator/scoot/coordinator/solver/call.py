"""Calling a method by name and checking what it answers, wherever that happens: in the worker or, at worst, here."""

from __future__ import annotations

from collections.abc import Mapping

from scoot.coordinator.optimizer.base import Ask, Method, Suggestion, Task
from scoot.coordinator.optimizer.problem import task_of
from scoot.coordinator.optimizer.registry import METHODS, check_method, load_method
from scoot.coordinator.solver.faults import faults
from scoot.wire.errors import SolverError


def check_known(name: str, environ: Mapping[str, str]) -> None:
    """Refuse an unknown method, without importing the known ones.

    Raises:
        UserError: listing the known ones.
    """
    check_method(name, (*METHODS, *faults(environ)))


def suggest(name: str, ask: Ask, environ: Mapping[str, str]) -> tuple[Suggestion, ...]:
    """The method's suggestions, checked.

    Raises:
        UserError: unknown method, or the study's space is wrong.
        SolverError: the method broke its contract (optimizer.base.Method).
    """
    check_known(name, environ)
    method: Method = faults(environ).get(name) or load_method(name)
    task = task_of(ask)
    suggestions = method(task)
    _check(task, suggestions)
    return suggestions


def _check(task: Task, suggestions: tuple[Suggestion, ...]) -> None:
    """Refuse suggestions that would waste a trial."""
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
