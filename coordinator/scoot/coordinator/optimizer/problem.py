"""From a study to what an optimizer is asked. Pure."""

from __future__ import annotations

from scoot.coordinator.objective.goal import goal_of
from scoot.coordinator.optimizer.base import Ask, Problem, Task
from scoot.coordinator.space.study_space import space_of
from scoot.wire.spec import StudySpec


def problem_of(spec: StudySpec) -> Problem:
    """What a study wants optimised.

    Raises:
        UserError: its space, its objectives or its outcomes are wrong.
    """
    goal = goal_of(spec)
    return Problem(
        space=space_of(spec),
        directions=tuple(metric.direction for metric in goal.metrics),
        outcomes=goal.outcomes,
    )


def task_of(ask: Ask) -> Task:
    """One call for a study, as its method sees it.

    Raises:
        UserError: as problem_of.
    """
    return Task(problem=problem_of(ask.spec), history=ask.history, n=ask.n, call=ask.call, seed=ask.seed)
