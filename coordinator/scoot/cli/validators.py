"""The coordinator's pure validators that scootctl shares, so that `validate` and the coordinator cannot disagree.

The only module of scootctl that imports from scoot.coordinator (an exception named in the import contracts): everything
here is a pure function of a specification.
"""

from __future__ import annotations

from scoot.coordinator.objective.confirmation import Lead, lead_of
from scoot.coordinator.objective.goal import Goal, goal_of
from scoot.coordinator.objective.metric import Direction, Metric, metrics_of, objective_values
from scoot.coordinator.objective.outcome import Outcome, outcomes_of, violation, worst_figures
from scoot.coordinator.optimizer.registry import check_method
from scoot.coordinator.space.space import SpaceSize
from scoot.coordinator.space.study_space import space_of

__all__ = [
    "Direction",
    "Goal",
    "Lead",
    "Metric",
    "Outcome",
    "SpaceSize",
    "check_method",
    "goal_of",
    "lead_of",
    "metrics_of",
    "objective_values",
    "outcomes_of",
    "space_of",
    "violation",
    "worst_figures",
]
