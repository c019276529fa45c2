"""Calling a method by name and checking what it answers, wherever that happens: in the worker or, at worst, here."""

from __future__ import annotations

from collections.abc import Mapping

from scoot.coordinator.optimizer.base import Ask, Method, Suggestion
from scoot.coordinator.optimizer.contract import check_suggestions
from scoot.coordinator.optimizer.problem import task_of
from scoot.coordinator.optimizer.registry import METHODS, check_method, load_method
from scoot.coordinator.solver.faults import faults


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
    check_suggestions(task, suggestions)
    return suggestions
