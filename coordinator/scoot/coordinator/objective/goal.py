"""What a study wants, as a whole: its objectives, its outcomes, and whether its workload can give them. Pure."""

from __future__ import annotations

import msgspec

from scoot.coordinator.objective.metric import Metric, metrics_of
from scoot.coordinator.objective.outcome import Outcome, outcomes_of
from scoot.wire.errors import UserError
from scoot.wire.spec import StudySpec


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """What a study wants: metrics of its objectives in order, and limits on others (or the same)."""

    metrics: tuple[Metric, ...]
    outcomes: tuple[Outcome, ...]


def goal_of(spec: StudySpec) -> Goal:
    """The goal of a study, checked.

    Raises:
        UserError: as metrics_of and outcomes_of; also when a metric of goodput is wanted and no request is promised
            anything.
    """
    goal = Goal(metrics=metrics_of(spec.objectives), outcomes=outcomes_of(spec.outcomes))
    wanted = [(f"objectives[{place}].metric", metric.name) for place, metric in enumerate(goal.metrics)]
    wanted += [(f"outcomes[{place}]", outcome.name) for place, outcome in enumerate(goal.outcomes)]
    classes = spec.workload.slo_classes
    promised = any(limit is not None for each in classes for limit in (each.ttft_ms, each.tpot_ms, each.e2e_ms))
    for key, name in wanted:
        if name.startswith("goodput") and not promised:
            why = "no class of workload.slo_classes promises anything" if classes else "there are no SLO classes"
            raise UserError(
                f"{name} counts the requests that met what they were promised, and {why}",
                key=key,
                hint="add [[workload.slo_classes]] with a name and ttft_ms, tpot_ms or e2e_ms",
            )
    return goal
