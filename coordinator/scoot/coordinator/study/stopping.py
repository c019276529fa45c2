"""Whether a search may end before its budget does, because too little further gain is expected of it.

The decision is a function of the study's specification and its trials alone, so that a replay of the journal decides
the same. What is expected comes with each suggestion, as `explanation["expected_gain"]`: relative to the best so far,
of the objective, or of the hypervolume where there are several; 0.03 is 3 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from scoot.coordinator.study.state import TrialRecord
from scoot.wire.spec import StudySpec
from scoot.wire.states import TrialKind, TrialState

EXPECTED_GAIN: Final = "expected_gain"
"""Its key in the explanation of a suggestion."""

IN_A_ROW: Final = 3
"""Suggestions in a row that have to promise too little: one alone may be a whim of the surrogate's fit."""

MIN_TRIALS: Final = 10
TRIALS_PER_PARAMETER: Final = 2
"""Before so many trials have taught something, what a surrogate expects is not believed."""


def expected_gain(explanation: Mapping[str, Any]) -> float | None:
    """What a suggestion was expected to gain; None if its optimizer did not say, or said no finite number."""
    gain = explanation.get(EXPECTED_GAIN)
    if isinstance(gain, bool) or not isinstance(gain, int | float) or not math.isfinite(gain):
        return None
    return float(gain)


def trials_needed(spec: StudySpec) -> int:
    """Trials that have to have taught something before a search may end early."""
    return max(MIN_TRIALS, TRIALS_PER_PARAMETER * len(spec.parameters))


def window(spec: StudySpec) -> int:
    """Latest suggestions that are looked at.

    At least all that can be in flight: a suggestion beside running ones promises only what it adds to them.
    """
    return max(IN_A_ROW, spec.budget.parallelism)


def why_enough(spec: StudySpec, trials: Iterable[TrialRecord]) -> str:
    """Why the search of a study should end now, one sentence for people; "" if it should go on.

    Args:
        spec: the study.
        trials: its trials in order of number.
    """
    floor = spec.budget.min_gain
    if not floor:
        return ""
    search = [trial for trial in trials if trial.kind is not TrialKind.CONFIRMATION]
    states = [trial.state for trial in search]
    taught = states.count(TrialState.SUCCEEDED) + states.count(TrialState.INFEASIBLE)
    if taught < trials_needed(spec) or TrialState.SUCCEEDED not in states:
        return ""
    latest = [trial for trial in search if trial.kind is TrialKind.SUGGESTED][-window(spec) :]
    gains = [expected_gain(trial.explanation) for trial in latest]
    if len(gains) < window(spec) or any(gain is None or gain >= floor for gain in gains):
        return ""
    most = max(0.0, *(gain for gain in gains if gain is not None))
    return (
        f"the expected further gain is {100 * most:.2g} % at most by the last {len(gains)} suggestions, "
        f"under budget.min_gain ({100 * floor:.3g} %)"
    )
