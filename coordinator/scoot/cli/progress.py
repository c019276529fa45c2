"""What there is to see of a running study, computed from what the coordinator says. Pure; `live` draws it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

import msgspec

from scoot.cli.text import number, one_line, percent, scalar
from scoot.cli.validators import (
    Direction,
    Lead,
    Metric,
    lead_of,
    metrics_of,
    objective_values,
    outcomes_of,
    violation,
    worst_figures,
)
from scoot.simulator.serving.target import pretence
from scoot.wire.spec import Config
from scoot.wire.states import StudyState, TrialKind, TrialState
from scoot.wire.view import StudyDetail, Trial


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    """Base of immutable rows."""


class Figure(_Row, frozen=True, kw_only=True):
    """One objective of one trial.

    Attributes:
        metric: name, unit and direction.
        value: in the metric's unit; of several arrival orders the worst; None while unknown.
        change: relative to the default's, -0.25 is a quarter less; None where one of both is unknown or the default's
            is 0.
        better: whether that is an improvement, None without a change.
    """

    metric: Metric
    value: float | None = None
    change: float | None = None
    better: bool | None = None

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.metric.name} -"
        change = "" if self.change is None else f" ({percent(self.change)})"
        return f"{self.metric.name} {self.metric.quantity(number(self.value))}{change}"


class TrialRow(_Row, frozen=True, kw_only=True):
    """One trial, ready to be drawn.

    Attributes:
        label: where it came from: "default", "sobol", "confirm-best of 4".
        status: its state; while it runs, the phase and the requests completed.
        changes: parameters that differ from the default's, with values.
        figures: one per objective, in the study's order.
        note: reason and root cause of what did not succeed.
        duration_s: of its last attempt, 0 if it has not run.
    """

    number: int
    label: str
    state: TrialState
    status: str
    changes: Config
    figures: tuple[Figure, ...]
    note: str = ""
    agent: str = ""
    duration_s: float = 0.0
    is_best: bool = False


class Progress(_Row, frozen=True, kw_only=True):
    """A study, ready to be drawn.

    Attributes:
        title: one line that says what is tuned.
        finished, budget: trials, confirmations not counted.
        agents: names of those that run one of its trials.
        elapsed_s: since submission.
        eta_s: to the end, from the mean trial so far; None before one has finished, and after the end.
        waiting: why nothing can be placed, or why the study or its search ended.
    """

    study_id: str
    title: str
    state: StudyState
    finished: int
    budget: int
    agents: tuple[str, ...]
    elapsed_s: float
    eta_s: float | None
    rows: tuple[TrialRow, ...]
    best: TrialRow | None
    waiting: str = ""


def progress(detail: StudyDetail, now_s: float) -> Progress:
    """The view of a study at wall time `now_s`.

    Raises:
        UserError: the study's objectives are not known here (a newer coordinator).
    """
    study = detail.study
    rows = tuple(trial_row(detail, trial, now_s) for trial in detail.trials)
    running = sorted({row.agent for row in rows if row.state is TrialState.RUNNING and row.agent})
    end_s = study.ended_at_s if study.state.is_terminal and study.ended_at_s else now_s
    return Progress(
        study_id=study.study_id,
        title=title(detail),
        state=study.state,
        finished=sum(trial.state.is_terminal for trial in detail.trials if trial.kind is not TrialKind.CONFIRMATION),
        budget=study.spec.budget.trials,
        agents=tuple(running),
        elapsed_s=max(0.0, end_s - study.created_at_s) if study.created_at_s else 0.0,
        eta_s=eta_s(detail, now_s),
        rows=rows,
        best=next((row for row in rows if row.is_best), None),
        waiting=study.message if study.state.is_terminal else study.waiting or study.message,
    )


def title(detail: StudyDetail) -> str:
    """One line: name, engine, model, objectives, budget."""
    spec = detail.study.spec
    goals = ", ".join(f"{metric.direction.value} {metric.name}" for metric in metrics_of(spec.objectives))
    goals += "".join(f", {outcome}" for outcome in outcomes_of(spec.outcomes))
    return (
        f"{spec.name}: {spec.service.engine} with {spec.service.model}, {goals}, "
        f"{spec.budget.trials} trials, parallelism {spec.budget.parallelism}"
    )


def trial_row(detail: StudyDetail, trial: Trial, now_s: float) -> TrialRow:
    """The row of one trial."""
    label = trial.source or trial.kind.value.lower()
    if trial.confirms is not None:
        label += f" of {trial.confirms}"
    status = trial.state.value
    if trial.state is TrialState.RUNNING:
        sent = f" {trial.requests_completed} requests" if trial.requests_completed else ""
        status = f"{trial.phase or 'STARTING'}{sent}"
    elif trial.state is TrialState.PENDING and trial.attempts:
        status = f"PENDING again after {trial.attempts} attempts"
    note = ": ".join(part for part in (trial.reason.value if trial.reason else "", one_line(trial.message)) if part)
    duration_s = 0.0
    if trial.started_at_s:
        duration_s = max(0.0, (trial.ended_at_s if trial.state.is_terminal else now_s) - trial.started_at_s)
    return TrialRow(
        number=trial.number,
        label=label,
        state=trial.state,
        status=status,
        changes=changes(detail, trial),
        figures=figures(detail, trial),
        note=note,
        agent=trial.agent,
        duration_s=duration_s,
        is_best=trial.number == detail.study.best_trial,
    )


def values_of(metrics: Sequence[Metric], detail: StudyDetail, trial: Trial) -> list[list[float]]:
    """Objective values of the trial's valid runs: one list per objective, one value per arrival order."""
    runs = [objective_values(detail.study.spec.objectives, run.metrics) for run in trial.runs if run.validity.valid]
    return [[values[index] for values in runs if values is not None] for index in range(len(metrics))]


def worst(metric: Metric, values: Sequence[float]) -> float | None:
    """The value one can promise: the highest of what is minimised, the lowest of what is maximised."""
    if not values:
        return None
    return max(values) if metric.direction is Direction.MINIMISE else min(values)


def figures(detail: StudyDetail, trial: Trial) -> tuple[Figure, ...]:
    """The trial's objectives, next to its default's: trial 0, or the confirmed default for a confirmation."""
    metrics = metrics_of(detail.study.spec.objectives)
    default = _default_of(detail, trial)
    own = values_of(metrics, detail, trial)
    base = values_of(metrics, detail, default) if default is not None and default is not trial else [[] for _ in own]
    out = []
    for metric, values, base_values in zip(metrics, own, base, strict=True):
        value, reference = worst(metric, values), worst(metric, base_values)
        change = (value - reference) / reference if value is not None and reference else None
        better = None if change is None else (change < 0) == (metric.direction is Direction.MINIMISE)
        out.append(Figure(metric=metric, value=value, change=change, better=better))
    return tuple(out)


def _default_of(detail: StudyDetail, trial: Trial) -> Trial | None:
    if trial.kind is TrialKind.CONFIRMATION:
        return next((other for other in detail.trials if other.source == "confirm-default"), None)
    return next((other for other in detail.trials if other.kind is TrialKind.DEFAULT), None)


def changes(detail: StudyDetail, trial: Trial) -> Config:
    """Parameters whose value differs from the default's, as far as the default's is known."""
    default = next((other for other in detail.trials if other.kind is TrialKind.DEFAULT), None)
    known = {} if default is None else {**default.effective_config, **default.config}
    return {
        name: value
        for name, value in ordered(detail, trial.config).items()
        if name not in known or known[name] != value or isinstance(known[name], bool) is not isinstance(value, bool)
    }


def ordered(detail: StudyDetail, config: Config) -> Config:
    """A configuration in the study file's order of parameters: maps of the protocol have none."""
    names = [parameter.name for parameter in detail.study.spec.parameters]
    return {name: config[name] for name in sorted(config, key=lambda n: names.index(n) if n in names else len(names))}


def eta_s(detail: StudyDetail, now_s: float) -> float | None:
    """Seconds to the end, from the mean time of the trials so far; None before one has finished, and after the end.

    A confirmation costs a trial, and the window once more for each further arrival order.
    """
    spec = detail.study.spec
    search = [trial for trial in detail.trials if trial.kind is not TrialKind.CONFIRMATION]
    spent = [t.ended_at_s - t.started_at_s for t in search if t.state.is_terminal and 0 < t.started_at_s < t.ended_at_s]
    if not spent or detail.study.state.is_terminal:
        return None
    mean_s = fmean(spent)
    orders = spec.confirm.arrival_orders
    load = spec.workload
    confirmation_s = mean_s + (orders - 1) * (load.warm_up_s + load.duration_s + load.cool_down_s)
    searching = detail.study.state is StudyState.SEARCHING  # a search may end before its budget does
    left = max(0, spec.budget.trials - sum(trial.state.is_terminal for trial in search)) * mean_s if searching else 0.0
    finished = sum(t.state.is_terminal for t in detail.trials if t.kind is TrialKind.CONFIRMATION)
    left += max(0, (2 if orders else 0) - finished) * confirmation_s
    begun = [now_s - t.started_at_s for t in detail.trials if t.state is TrialState.RUNNING and t.started_at_s]
    left -= sum(min(max(0.0, seconds), mean_s) for seconds in begun)
    return max(0.0, left) / max(1, spec.budget.parallelism)


def events(before: StudyDetail | None, after: StudyDetail) -> tuple[str, ...]:
    """What happened between two looks at a study, one plain line each. States in between may have been missed."""
    now_s = after.study.ended_at_s
    old = {trial.number: trial for trial in before.trials} if before else {}
    lines: list[str] = []
    if before is None:
        lines.append(f"study {after.study.study_id} {title(after)}")
    said = before.study.notes if before else ()
    lines += [f"note: {one_line(note)}" for note in after.study.notes if note not in said]
    state = after.study.state
    news = state is not (before.study.state if before else StudyState.SEARCHING)
    if news and state is StudyState.CONFIRMING:
        orders = after.study.spec.confirm.arrival_orders
        why = f", the search is over: {one_line(after.study.message)}" if after.study.message else ""
        lines.append(f"confirming the best and the default under {orders} arrival orders{why}")
    for trial in after.trials:
        previous = old.get(trial.number)
        if previous is not None and (previous.state, previous.attempts) == (trial.state, trial.attempts):
            continue
        line = _trial_event(trial_row(after, trial, now_s), previous, trial.attempts)
        if line:
            lines.append(line)
    best = after.study.best_trial
    if best is not None and best != (before.study.best_trial if before else None):
        lines.append(f"best so far: trial {best}")
    if after.study.waiting and after.study.waiting != (before.study.waiting if before else ""):
        lines.append(f"waiting: {one_line(after.study.waiting)}")
    if news and state is not StudyState.CONFIRMING:
        message = f": {one_line(after.study.message)}" if after.study.message else ""
        lines.append(f"study {state.value}{message}")
    return tuple(lines)


def _trial_event(row: TrialRow, previous: Trial | None, attempts: int) -> str:
    head = f"trial {row.number}"
    if row.state is TrialState.PENDING:
        return f"{head} will run again: {row.note or row.status}" if previous is not None else ""
    if row.state is TrialState.RUNNING:
        config = " ".join(f"{name}={scalar(value)}" for name, value in row.changes.items())
        again = " again" if attempts > 1 else ""
        return f"{head} ({row.label}) started{again} on {row.agent or 'an agent'}" + (f": {config}" if config else "")
    took = f" in {row.duration_s:.1f} s" if row.duration_s else ""
    what = ", ".join(map(str, row.figures)) if row.state is TrialState.SUCCEEDED else row.note
    return f"{head} ({row.label}) {row.state.value}{took}" + (f": {what}" if what else "")


def headline(detail: StudyDetail) -> tuple[str, ...]:
    """What the study found, for the end: what to run, what it brings, the SLO it can promise.

    Where the engine was simulated, that comes first.
    """
    pretends = pretence(detail.study.spec.service)
    if pretends is None:
        return _findings(detail)
    large, sentence = pretends
    return (f"*** {large} ***", one_line(sentence), *_findings(detail))


def _findings(detail: StudyDetail) -> tuple[str, ...]:
    best = detail.trial(detail.study.best_trial)
    if best is None:
        return ("No feasible configuration was found.",)
    default = next((trial for trial in detail.trials if trial.kind is TrialKind.DEFAULT), None)
    known = {} if default is None else {**default.effective_config, **default.config}
    confirmed = _confirmed(detail, "confirm-best")
    lead = _lead(detail)
    if lead is Lead.LOST:
        lines = [f"Keep the default configuration: trial {best.number} led the search, but not when measured again."]
    else:
        what = " (the default)" if best.kind is TrialKind.DEFAULT else ""
        what += " - a trade: it wins on one objective only" if lead is Lead.MIXED else ""
        lines = [f"Best configuration: trial {best.number}{what}"]
        lines += [
            f"  {name} = {scalar(value)}" + (f"  (default {scalar(known[name])})" if name in known else "")
            for name, value in ordered(detail, best.config).items()
        ]
    if best.kind is not TrialKind.DEFAULT:
        lines.append(
            f"Trial {best.number} against the default" + (", worst of the same arrival orders:" if confirmed else ":")
        )
        lines += [f"  {figure}" for figure in figures(detail, confirmed or best)]
    promised = _confirmed(detail, "confirm-default") if lead is Lead.LOST or confirmed is None else confirmed
    spared = [one_line(sentence) for sentence in detail.study.spared]
    return (*lines, *_promise(detail, promised), *_limits(detail, promised or best), *spared)


def _confirmed(detail: StudyDetail, source: str) -> Trial | None:
    return next((t for t in detail.trials if t.source == source and t.state is TrialState.SUCCEEDED), None)


def _lead(detail: StudyDetail) -> Lead | None:
    """What became of the best's lead; None where it was not measured again beside the default."""
    best, default = _confirmed(detail, "confirm-best"), _confirmed(detail, "confirm-default")
    if best is None or default is None:
        return None
    metrics = metrics_of(detail.study.spec.objectives)
    ours, theirs = values_of(metrics, detail, best), values_of(metrics, detail, default)
    if not all(ours) or not all(theirs):
        return None
    outcomes = outcomes_of(detail.study.spec.outcomes)
    beyond = [violation(outcomes, _worst_figures(detail, trial)) for trial in (best, default)]
    return lead_of(
        [metric.direction for metric in metrics],
        [*map(median, ours)],
        [*map(median, theirs)],
        violations=(beyond[0], beyond[1]),
    )


def _promise(detail: StudyDetail, confirmed: Trial | None) -> list[str]:
    """The SLO of a confirmed configuration: the best, or the default where that is to be kept."""
    if confirmed is None or (confirmed.source == "confirm-default" and _may_not_promise(detail)):
        return []
    metrics = metrics_of(detail.study.spec.objectives)
    values = values_of(metrics, detail, confirmed)
    lines = [f"SLO it can promise (worst of {len(values[0])} arrival orders):"]
    for metric, own in zip(metrics, values, strict=True):
        bound = worst(metric, own)
        if bound is not None:
            sign = "<=" if metric.direction is Direction.MINIMISE else ">="
            lines.append(f"  {metric.name} {sign} {metric.quantity(number(bound))} (median {number(median(own))})")
    return lines


def _limits(detail: StudyDetail, trial: Trial) -> list[str]:
    """Whether a configuration keeps the study's outcomes, in the worst of its runs."""
    outcomes = outcomes_of(detail.study.spec.outcomes)
    lines = [f"Limits, trial {trial.number}:"] if outcomes else []
    for outcome, figure in zip(outcomes, _worst_figures(detail, trial), strict=True):
        kept = "not measured" if figure is None else "not kept" if outcome.excess(figure) else "kept"
        lines.append(f"  {outcome}: {number(figure)}, {kept}" if figure is not None else f"  {outcome}: {kept}")
    return lines


def _worst_figures(detail: StudyDetail, trial: Trial) -> tuple[float | None, ...]:
    windows = [run.metrics for run in trial.runs if run.validity.valid]
    return worst_figures(outcomes_of(detail.study.spec.outcomes), windows)


def _may_not_promise(detail: StudyDetail) -> bool:
    """The confirmed default speaks for itself only: not for another best that could not be confirmed."""
    best = detail.study.best_trial
    return best != 0 and _lead(detail) is not Lead.LOST
