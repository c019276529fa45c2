"""Calling a method by name and checking what it answers, wherever that happens: in the worker or, at worst, here."""

from __future__ import annotations

from collections.abc import Mapping

from scoot.coordinator.optimizer.base import Ask, Method, Suggestion
from scoot.coordinator.optimizer.contract import ask_method
from scoot.coordinator.optimizer.problem import task_of
from scoot.coordinator.optimizer.registry import METHODS, check_method, load_method
from scoot.coordinator.solver.faults import faults


def check_known(name: str, environ: Mapping[str, str], *, objectives: int = 1) -> None:
    """Refuse an unknown method, or one that cannot optimise so many objectives; known ones are not imported.

    Raises:
        UserError: listing those that will do.
    """
    check_method(name, (*METHODS, *faults(environ)), objectives=objectives)


def suggest(name: str, ask: Ask, environ: Mapping[str, str]) -> tuple[Suggestion, ...]:
    """The method's suggestions, checked.

    Raises:
        UserError: unknown method, or the study's space or objectives are wrong: no other method would do better.
        SolverError: the method failed, in whatever way (optimizer.contract.ask_method).
    """
    check_known(name, environ, objectives=len(ask.spec.objectives))
    method: Method = faults(environ).get(name) or load_method(name)
    return ask_method(method, task_of(ask))
