"""Why a trial was suggested, from what its optimizer left with it and what was measured then. Pure.

What is read is results.json (docs/results.md), of a coordinator or of a run folder. An explanation is free-form: the
keys that are known are shown as what they are, the others as they come.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from scoot.cli.text import columns, number, one_line, percent, scalar
from scoot.wire.errors import UserError
from scoot.wire.spec import Config, Scalar
from scoot.wire.states import TrialKind, TrialState

_KNOWN: Final = ("design", "predicted", "pof", "pof_threshold", "acquisition", "expected_gain")
_SHOWN_CHARS: Final = 120


class _Value(msgspec.Struct, frozen=True, kw_only=True):
    """Base of immutable values."""


class _Objective(_Value, frozen=True, kw_only=True):
    metric: str
    label: str
    unit: str


class _Trial(_Value, frozen=True, kw_only=True):
    number: int
    kind: TrialKind
    source: str
    state: TrialState
    config: Config
    explanation: dict[str, Any] = {}
    confirms: int | None = None
    effective_config: Config = {}
    reason: str | None = None
    message: str = ""
    values: tuple[float, ...] | None = None


class _Results(_Value, frozen=True, kw_only=True):
    """The part of results.json that is needed here."""

    study_id: str
    name: str
    objectives: tuple[_Objective, ...]
    trials: tuple[_Trial, ...]


class ObjectiveWhy(_Value, frozen=True, kw_only=True):
    """One objective of the trial: forecast beside measurement, both in the metric's own unit.

    Attributes:
        mean, low, high: the forecast and its 90 % interval; None where there is none.
        measured: None while there is no figure.
        inside: whether the measurement lies in the interval; None without both.
    """

    metric: str
    label: str
    unit: str
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    measured: float | None = None
    inside: bool | None = None


class Why(_Value, frozen=True, kw_only=True):
    """Why a trial was suggested.

    Attributes:
        source: which optimizer; "default", "confirm-best", ... of what none suggested.
        note: for people: why there is no explanation, "" if there is one.
        design: the rule that the point came from.
        pof, pof_threshold: probability that the configuration works as it was forecast, and the least that was asked
            for; 0 to 1, None where unknown.
        expected_gain: relative to the best of then; 0.03 is 3 %.
        acquisition: the figures by which the point was chosen, by name.
        changes: parameters that differ from the default's, as far as that is known.
        outcome: state, reason and root cause.
        more: whatever else the explanation holds.
    """

    study_id: str
    study: str
    trial: int
    kind: TrialKind
    state: TrialState
    source: str
    config: Config
    changes: Config
    note: str
    design: str
    pof: float | None
    pof_threshold: float | None
    expected_gain: float | None
    acquisition: dict[str, float]
    objectives: tuple[ObjectiveWhy, ...]
    outcome: str
    more: dict[str, Any]


def why(results_json: bytes | str, trial: int, *, path: str) -> Why:
    """Why trial `trial` of these results was suggested.

    Args:
        results_json: a results.json.
        trial: its number.
        path: where it is from, for errors.

    Raises:
        UserError: not results.json, or it has no such trial.
    """
    try:
        results = msgspec.json.decode(results_json, type=_Results)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"is not a results.json: {error}", path=path, hint="`scootctl tune` writes one") from error
    found = next((each for each in results.trials if each.number == trial), None)
    if found is None:
        last = max((each.number for each in results.trials), default=-1)
        hint = f"its trials are 0 to {last}" if last >= 0 else "it has none yet"
        raise UserError(f"there is no trial {trial}", path=path, key="TRIAL", hint=hint)
    told = found.explanation
    outcome = ": ".join(filter(None, (found.state.value, found.reason, one_line(found.message))))
    return Why(
        study_id=results.study_id,
        study=results.name,
        trial=trial,
        kind=found.kind,
        state=found.state,
        source=found.source,
        config=found.config,
        changes=_changes(results, found),
        note=_note(found),
        design=one_line(str(told.get("design", ""))),
        pof=_figure(told.get("pof")),
        pof_threshold=_figure(told.get("pof_threshold")),
        expected_gain=_figure(told.get("expected_gain")),
        acquisition=_figures(told.get("acquisition")),
        objectives=tuple(_objective(results, found, place) for place in range(len(results.objectives))),
        outcome=outcome,
        more={key: value for key, value in told.items() if key not in _KNOWN},
    )


def _note(trial: _Trial) -> str:
    """Why there is no explanation, "" if there is one."""
    if trial.kind is TrialKind.DEFAULT:
        return "The default configuration: what everything else is compared with. No optimizer suggested it."
    if trial.kind is TrialKind.CONFIRMATION:
        return f"Repeats trial {trial.confirms} under several arrival orders. No optimizer suggested it."
    if not trial.explanation:
        return f"{trial.source or 'Its optimizer'} left no explanation."
    return ""


def _changes(results: _Results, trial: _Trial) -> Config:
    default = next((each for each in results.trials if each.kind is TrialKind.DEFAULT), None)
    known = {} if default is None else {**default.effective_config, **default.config}
    return {name: value for name, value in trial.config.items() if not _same(known.get(name), value)}


def _same(default: Scalar | None, value: Scalar) -> bool:
    return default == value and isinstance(default, bool) is isinstance(value, bool)


def _objective(results: _Results, trial: _Trial, place: int) -> ObjectiveWhy:
    about = results.objectives[place]
    predicted = trial.explanation.get("predicted")
    told = predicted.get(str(place)) if isinstance(predicted, Mapping) else None
    forecast = _figures(told)
    low, high = forecast.get("low"), forecast.get("high")
    measured = trial.values[place] if trial.values is not None and place < len(trial.values) else None
    inside = None if low is None or high is None or measured is None else low <= measured <= high
    return ObjectiveWhy(
        metric=about.metric,
        label=about.label,
        unit=about.unit,
        mean=forecast.get("mean"),
        low=low,
        high=high,
        measured=measured,
        inside=inside,
    )


def _figure(value: object) -> float | None:
    """A number (JSON has finite ones only), None for whatever else an explanation may hold."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _figures(value: object) -> dict[str, float]:
    """The numbers of a mapping."""
    found = {one_line(str(key)): _figure(item) for key, item in value.items()} if isinstance(value, Mapping) else {}
    return {key: item for key, item in found.items() if item is not None}


def text(view: Why) -> str:
    """The view for people: sentences, then a table of the objectives."""
    lines = [f"{view.study_id}  trial {view.trial} ({view.source or view.kind.value.lower()}), {view.outcome}"]
    changes = " ".join(f"{name}={scalar(value)}" for name, value in view.changes.items())
    lines.append(f"differs in      {changes or '-'}")
    if view.note:
        lines.append(view.note)
    if view.design:
        lines.append(f"chosen by       {view.design}")
    if view.acquisition:
        lines.append("acquisition     " + ", ".join(f"{name} {number(v)}" for name, v in view.acquisition.items()))
    if view.pof is not None or view.pof_threshold is not None:
        lines.append(f"works           {_works(view)}")
    if view.expected_gain is not None:
        lines.append(f"expected gain   {percent(view.expected_gain)} on the best of then")
    for name, value in view.more.items():
        shown = one_line(value if isinstance(value, str) else msgspec.json.encode(value).decode())
        lines.append(f"{one_line(name):<15} {shown if len(shown) <= _SHOWN_CHARS else shown[:_SHOWN_CHARS] + '...'}")
    rows: list[tuple[str, ...]] = [("OBJECTIVE", "PREDICTED", "90 % INTERVAL", "MEASURED", "")]
    rows += [_row(objective) for objective in view.objectives]
    return "\n".join((*lines, "", columns(rows)))


def _works(view: Why) -> str:
    """The feasibility forecast: "with probability 0.82 (at least 0.5 was asked for)"."""
    asked = "" if view.pof_threshold is None else f"at least {number(view.pof_threshold)} was asked for"
    if view.pof is None:
        return asked
    return f"with probability {number(view.pof)}" + (f" ({asked})" if asked else "")


def _row(objective: ObjectiveWhy) -> tuple[str, ...]:
    def shown(value: float | None) -> str:
        return "-" if value is None else number(value)

    known = objective.low is not None or objective.high is not None
    verdict = {True: "as forecast", False: "outside the interval", None: ""}[objective.inside]
    return (
        f"{objective.metric} [{objective.unit}]",
        shown(objective.mean),
        f"{shown(objective.low)} to {shown(objective.high)}" if known else "-",
        shown(objective.measured),
        verdict,
    )
