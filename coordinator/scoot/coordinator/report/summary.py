"""What a report says, as text, before any format: the headline, and rows for its tables. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from scoot.coordinator.objective.confirmation import Lead
from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.objective.outcome import violation
from scoot.coordinator.report.command import config_text, flat_line, scalar_text, shell_line
from scoot.coordinator.report.results import Improvement, ObjectiveInfo, Results, TrialResult
from scoot.coordinator.report.text import (
    bound,
    heading,
    limit_text,
    moment,
    number,
    one_line,
    outcome_of,
    percent,
    quantity,
    seconds,
)
from scoot.simulator.serving.target import pretence
from scoot.wire.client_parameters import CLIENT_PARAMETERS
from scoot.wire.measurement import Goodput, Metrics, other_cpu_share
from scoot.wire.spec import ArrivalProcess, Workload
from scoot.wire.states import TrialKind


class _Value(msgspec.Struct, frozen=True, kw_only=True):
    """Base of immutable values."""


class Row(_Value, frozen=True, kw_only=True):
    """A name and what it is."""

    name: str
    text: str


class SloRow(_Value, frozen=True, kw_only=True):
    """One objective of the SLO table; `default` and `ratio` are empty without a default to compare with."""

    label: str
    promise: str
    per_order: str
    median: str
    default: str
    ratio: str


class LimitRow(_Value, frozen=True, kw_only=True):
    """One outcome of the study, as the recommended configuration keeps it in the worst arrival order."""

    limit: str
    verdict: str
    worst: str
    per_order: str


class TrialRow(_Value, frozen=True, kw_only=True):
    """One line of the table of trials.

    Attributes:
        mark: "best", "front", "default", "confirms N" or "".
        values: of the parameters, then of the objectives, in the order of the columns.
        limits: "kept", or what is not; "" where the study limits nothing.
        reason: for those without success, with who is to blame.
        cause: the root-cause line.
        took: seconds of the deciding attempt, by phase in `phases`.
    """

    number: int
    mark: str
    source: str
    parameters: tuple[str, ...]
    values: tuple[str, ...]
    limits: str
    state: str
    reason: str
    cause: str
    attempts: int
    took: str
    phases: str


class Summary(_Value, frozen=True, kw_only=True):
    """Everything the pages show, in their order.

    Attributes:
        banner: (in large letters, a sentence) where the engine was simulated.
        verdict: the answer in a sentence.
        flags: the tuned flags to run with, on a line; "" where there is nothing to run.
        command: the whole command, to paste; "" where it is not known.
        promises: bounds of the SLO; empty while nothing is confirmed.
        confirmation: what was measured again, in sentences; "" while nothing was.
        gains: per objective, against the default; `gains_basis` says how they were measured.
        load: what the load generator did and saw in the runs of the answer's configuration; empty without such runs.
    """

    title: str
    status: str
    banner: tuple[str, str] | None
    verdict: str
    flags: str
    command: str
    promises: tuple[str, ...]
    gains: tuple[str, ...]
    gains_basis: str
    slo: tuple[SloRow, ...]
    limits: tuple[LimitRow, ...]
    confirmation: str
    parameters: tuple[str, ...]
    objectives: tuple[str, ...]
    trials: tuple[TrialRow, ...]
    service: tuple[Row, ...]
    workload: tuple[Row, ...]
    load: tuple[Row, ...]
    provenance: tuple[Row, ...]


def summarise(results: Results) -> Summary:
    """The text of a report."""
    gains, basis = _gains(results)
    return Summary(
        title=one_line(results.name),
        status=_status(results),
        banner=pretence(results.spec.service, results.engine.versions),
        verdict=_verdict(results),
        flags=_flags(results),
        command=_command(results),
        promises=_promises(results),
        gains=gains,
        gains_basis=basis,
        slo=_slo_rows(results),
        limits=_limit_rows(results),
        confirmation=_confirmation(results),
        parameters=tuple(parameter.name for parameter in results.spec.parameters),
        objectives=tuple(map(heading, results.objectives)),
        trials=tuple(_trial_row(results, trial) for trial in results.trials),
        service=_service_rows(results),
        workload=_workload_rows(results),
        load=_load_rows(results),
        provenance=_provenance_rows(results),
    )


def _status(results: Results) -> str:
    counts = results.counts
    parts = [f"{counts.succeeded} succeeded", f"{counts.infeasible} infeasible"]
    parts += [f"{n} {name}" for n, name in ((counts.failed, "failed"), (counts.cancelled, "cancelled")) if n]
    parts += [f"{n} {name}" for n, name in ((counts.running, "running"), (counts.pending, "waiting")) if n]
    return f"{results.state.lower()}: of {counts.budget} trials {', '.join(parts)}"


def _verdict(results: Results) -> str:
    best = results.best
    if best is None:
        ended = results.counts.succeeded + results.counts.infeasible + results.counts.failed
        if not ended:
            return "No trial has ended, so there is no configuration to recommend."
        return f"Nothing met: none of the {ended} trials that ended succeeded. There is no configuration to recommend."
    lead = None if results.slo is None else results.slo.lead
    if best.trial == 0:
        what = "Keep the engine's default configuration: no trial is better"
        if best.kept is False:
            what = "Nothing keeps every limit, and the engine's default configuration comes closest"
    elif lead is Lead.LOST:
        what = (
            f"Keep the engine's default configuration: trial {best.trial} led the search, but not when measured again"
        )
    elif lead is Lead.MIXED:
        what = f"Run the configuration of trial {best.trial} if its trade suits you: it wins on one objective only"
    else:
        what = f"Run the configuration of trial {best.trial}"
        if best.kept is False:
            what = f"Nothing keeps every limit, and the configuration of trial {best.trial} comes closest"
    return f"{what}." if results.final else f"{what} - so far; the study is not over."


def _lost(results: Results) -> bool:
    """Whether the best is not to be recommended: measured again it was worse than the default."""
    return results.slo is not None and results.slo.lead is Lead.LOST


def _command(results: Results) -> str:
    if results.best is None:
        return ""
    command = results.trials[0].command if _lost(results) else results.best.command
    return shell_line(command, results.best.env)


def _flags(results: Results) -> str:
    best = results.best
    if best is None or _lost(results):
        return ""
    if best.flags:
        client = {name: value for name, value in best.config.items() if name in CLIENT_PARAMETERS}
        return flat_line(best.flags) + (f"  # client: {config_text(client)}" if client else "")
    if best.trial == 0 and not best.config:
        return ""
    return " ".join(f"{name}={scalar_text(value)}" for name, value in best.config.items())


def _promises(results: Results) -> tuple[str, ...]:
    if results.slo is None:
        return ()
    return tuple(
        bound(promise.bound, objective)
        for promise, objective in zip(results.slo.promise, results.objectives, strict=True)
    )


def _gains(results: Results) -> tuple[tuple[str, ...], str]:
    """Lines about the improvement over the default, and what they rest on: paired orders where there are any."""
    best = results.best
    if best is None or best.trial == 0:
        return (), ""
    slo = results.slo
    if slo is not None and slo.paired and slo.default is not None and slo.best.confirms == best.trial:
        lines = [
            _gain_line(objective, theirs.median, ours.median)
            for objective, ours, theirs in zip(
                results.objectives, slo.best.objectives, slo.default.objectives, strict=True
            )
        ]
        return tuple(lines), f"medians over {len(slo.seeds)} arrival orders, the same ones for both"
    if not best.improvement:
        return (), ""
    return tuple(
        _gain_line(objective, gain.default, gain.best)
        for objective, gain in zip(results.objectives, best.improvement, strict=True)
    ), "one arrival order each"


def _gain_line(objective: ObjectiveInfo, default: float, best: float) -> str:
    sign = Improvement(metric=objective.metric, direction=objective.direction, default=default, best=best, percent=None)
    return f"{objective.label}: {number(default)} → {quantity(best, objective.unit)} ({_change(sign)})"


def _change(gain: Improvement) -> str:
    """The change in the value's own sense, and whether that is good."""
    if gain.default == 0:
        return "default is 0"
    change = 100.0 * (gain.best - gain.default) / abs(gain.default)
    if change == 0:
        return "the same"
    good = (change < 0) == (gain.direction is Direction.MINIMISE)
    return f"{percent(change)}, {'better' if good else 'worse'}"


def _confirmation(results: Results) -> str:
    slo = results.slo
    if slo is None:
        return ""
    trial = f"(trial {slo.best.trial})" + (", paired with the default under the same ones" if slo.paired else "")
    lost = " Its lead over the default did not hold: the promise is the default's." if _lost(results) else ""
    return f"Trial {slo.best.confirms} was measured again under {slo.orders} arrival orders {trial}.{lost}"


def _slo_rows(results: Results) -> tuple[SloRow, ...]:
    slo = results.slo
    if slo is None:
        return ()
    rows = []
    for position, objective in enumerate(results.objectives):
        ours = slo.best.objectives[position]
        promised = slo.default.objectives[position] if slo.default is not None and _lost(results) else ours
        paired = slo.paired[position] if slo.paired else None
        default = slo.default.objectives[position] if slo.default is not None and slo.paired else None
        rows.append(
            SloRow(
                label=heading(objective),
                promise=bound(promised.worst, objective).removeprefix(f"{objective.label} "),
                per_order=", ".join(number(value) for value in ours.per_order),
                median=number(promised.median),
                default="" if default is None else ", ".join(number(value) for value in default.per_order),
                ratio="" if paired is None else ", ".join(number(ratio) for ratio in paired.ratios),
            )
        )
    return tuple(rows)


def _limit_rows(results: Results) -> tuple[LimitRow, ...]:
    if results.slo is None:
        return ()
    return tuple(
        LimitRow(
            limit=limit_text(info),
            verdict="kept" if orders.kept else "not kept" if orders.worst is not None else "not measured",
            worst=quantity(orders.worst, info.unit),
            per_order=", ".join(number(value) for value in orders.per_order),
        )
        for info, orders in zip(results.outcomes, results.slo.outcomes, strict=True)
    )


def _limits_text(results: Results, trial: TrialResult) -> str:
    """What a trial makes of the limits."""
    if trial.kept is None:
        return "-" if results.outcomes else ""
    broken = [
        f"{info.label} {quantity(figure, info.unit)}"
        for info, figure in zip(results.outcomes, trial.outcomes, strict=True)
        if violation([outcome_of(info)], [figure])
    ]
    return f"not kept: {', '.join(broken)}" if broken else "kept"


def _trial_row(results: Results, trial: TrialResult) -> TrialRow:
    inactive = _inactive(results, trial)
    reason = f"{trial.reason} (blame: {trial.blame})" if trial.reason is not None else ""
    return TrialRow(
        number=trial.number,
        mark=_mark(results, trial),
        source=trial.source,
        parameters=tuple(
            "-" if parameter.name in inactive else _parameter_text(trial, parameter.name)
            for parameter in results.spec.parameters
        ),
        values=tuple(number(value) for value in trial.values)
        if trial.values is not None
        else ("-",) * len(results.objectives),
        limits=_limits_text(results, trial),
        state=trial.state.value,
        reason=reason,
        cause=one_line(trial.message),
        attempts=trial.attempts,
        took=seconds(sum(phase.seconds for phase in trial.phases)) if trial.phases else "-",
        phases=", ".join(f"{phase.phase} {seconds(phase.seconds)}" for phase in trial.phases),
    )


def _inactive(results: Results, trial: TrialResult) -> set[str]:
    """Conditional parameters that a suggestion left out; the default leaves out others, too, and is not asked."""
    if 0 in (trial.number, trial.confirms):
        return set()
    return {p.name for p in results.spec.parameters if p.when is not None and p.name not in trial.config}


def _parameter_text(trial: TrialResult, name: str) -> str:
    """What was asked, and what the engine made of it where that differs; "default (16)" where it was left to it."""
    used = trial.effective_config.get(name)
    if name not in trial.config:
        return "default" if used is None else f"default ({scalar_text(used)})"
    asked = scalar_text(trial.config[name])
    return asked if used is None or used == trial.config[name] else f"{asked} (used {scalar_text(used)})"


def _mark(results: Results, trial: TrialResult) -> str:
    if trial.confirms is not None:
        return f"confirms {trial.confirms}"
    if results.best is not None and trial.number == results.best.trial:
        return "best"
    if trial.kind is TrialKind.DEFAULT:
        return "default"
    return "front" if any(member.trial == trial.number for member in results.front) else ""


def _service_rows(results: Results) -> tuple[Row, ...]:
    service = results.spec.service
    versions = ", ".join(results.engine.versions)
    rows = [
        Row(name="engine", text=f"{service.engine} {versions}".strip()),
        Row(name="model", text=one_line(service.model)),
        Row(name="device", text=service.device if service.devices is None else f"{service.devices} x {service.device}"),
    ]
    if service.max_model_len is not None:
        rows.append(Row(name="longest context", text=f"{service.max_model_len:,} tokens"))
    if service.options:
        text = ", ".join(f"{name} = {scalar_text(value)}" for name, value in service.options.items())
        rows.append(Row(name="fixed options", text=text))
    if service.env:
        text = ", ".join(f"{name}={one_line(value)}" for name, value in service.env.items())
        rows.append(Row(name="environment", text=text))
    if results.spec.constraints:
        rows.append(Row(name="known constraints", text="; ".join(one_line(c) for c in results.spec.constraints)))
    if results.outcomes:
        rows.append(Row(name="limits", text="; ".join(map(limit_text, results.outcomes))))
    return tuple(rows)


def _workload_rows(results: Results) -> tuple[Row, ...]:
    workload, facts = results.spec.workload, results.spec.workload_facts
    source = f"trace {workload.trace}" if workload.trace is not None else f"built-in profile {workload.profile}"
    rows = [Row(name="requests from", text=one_line(source))]
    if facts is not None:
        rows += [
            Row(name="distinct requests", text=f"{facts.requests:,}"),
            Row(name="input length", text=f"median {facts.input_p50:,}, longest {facts.input_max:,} tokens"),
            Row(name="output length", text=f"median {facts.output_p50:,}, longest {facts.output_max:,} tokens"),
        ]
    rows += [
        Row(name="arrivals", text=_arrivals_text(workload)),
        Row(
            name="stress test",
            text=f"{seconds(workload.duration_s)} measured after {seconds(workload.warm_up_s)} of warm-up",
        ),
        Row(name="request timeout", text=seconds(workload.request_timeout_s)),
    ]
    return tuple(rows)


def _arrivals_text(workload: Workload) -> str:
    limit = workload.arrivals.max_in_flight
    return _process_text(workload) + (f", at most {limit} in flight" if limit is not None else "")


def _process_text(workload: Workload) -> str:
    arrivals = workload.arrivals
    rate = f" at {arrivals.rate:g} req/s" if arrivals.rate is not None else ""
    match arrivals.process:
        case ArrivalProcess.GAMMA:
            return f"open loop, gamma{rate}" + (f", CV {arrivals.cv:g}" if arrivals.cv is not None else "")
        case ArrivalProcess.TRACE:
            return f"open loop, the trace's own{rate}, gaps x {arrivals.time_scale:g}"
        case ArrivalProcess.CLOSED:
            return f"closed loop, {arrivals.users} users"
        case process:
            return f"open loop, {process}{rate}"


def _load_rows(results: Results) -> tuple[Row, ...]:
    trial = _answer(results)
    runs = [run for run in trial.runs if run.validity.valid] if trial is not None else []
    if trial is None or not runs:
        return ()
    measured = [run.metrics for run in runs]
    late = max((metrics.lateness_ms.p99 for metrics in measured if metrics.lateness_ms is not None), default=None)
    kernel = all(run.audit.clock == "kernel" for run in runs)
    several = max(metrics.multi_token_share for metrics in measured)
    rows = [
        Row(name="measured", text=f"trial {trial.number}, {len(runs)} run{'s' if len(runs) > 1 else ''}"),
        Row(name="requests sent / due (req/s)", text=", ".join(_rate_text(metrics) for metrics in measured)),
        *_admission_rows(measured),
        Row(name="sent late, p99", text=quantity(late, "ms")),
        Row(name="receive stamps", text="the kernel's" if kernel else "the load generator's own"),
        Row(name="chunks read together", text=_share_text(max(metrics.merged_share for metrics in measured))),
    ]
    if several:
        rows.append(Row(name="chunks of several tokens", text=_share_text(several)))
    shares = [share for run in runs if (share := other_cpu_share(run.audit)) is not None]
    if shares:
        rows.append(Row(name="CPUs used by others", text=_share_text(max(shares))))
    for name, goods in _goodputs(measured):
        text = ", ".join(f"{quantity(good.rate, 'req/s')} ({_share_text(good.share)})" for good in goods)
        rows.append(Row(name=f"goodput of {one_line(name)}" if name else "goodput", text=text))
    return tuple(rows)


def _admission_rows(measured: Sequence[Metrics]) -> list[Row]:
    """How long requests waited where only so many may be in flight."""
    waits = [metrics.admission_ms for metrics in measured if metrics.admission_ms is not None]
    if not waits:
        return []
    texts = (quantity(max(wait.p50 for wait in waits), "ms"), quantity(max(wait.p99 for wait in waits), "ms"))
    return [Row(name="waited for admission, p50 / p99", text=" / ".join(texts))]


def _answer(results: Results) -> TrialResult | None:
    """The trial that the answer rests on: a confirmation where there is one, else the best."""
    slo = results.slo
    if slo is not None:
        number_of = slo.default.trial if slo.default is not None and _lost(results) else slo.best.trial
    elif results.best is not None:
        number_of = results.best.trial
    else:
        return None
    return next(trial for trial in results.trials if trial.number == number_of)


def _rate_text(metrics: Metrics) -> str:
    """An older agent's run has no achieved rate."""
    return f"{number(metrics.achieved_rate or None)} / {number(metrics.offered_rate)}"


def _share_text(share: float) -> str:
    return f"{number(100 * share)} %"


def _goodputs(measured: Sequence[Metrics]) -> list[tuple[str, list[Goodput]]]:
    """All requests together and then each SLO class: name, and one goodput per run. Empty without promises."""
    columns = [
        [metrics.goodput, *(metrics.goodput_by_class if len(metrics.goodput_by_class) > 1 else ())]
        for metrics in measured
        if metrics.goodput is not None
    ]
    return [(each[0].name, list(each)) for each in zip(*columns, strict=True)]


def _provenance_rows(results: Results) -> tuple[Row, ...]:
    spec, seeds = results.spec, results.seeds
    agents = dict.fromkeys(trial.agent for trial in results.trials if trial.agent)
    confirmation = f", confirmation {', '.join(str(seed) for seed in seeds.confirmation)}" if seeds.confirmation else ""
    rows = [
        Row(name="study", text=one_line(results.study_id)),
        Row(name="SCOOT", text=f"{results.scoot_version}, results schema {results.schema}"),
        Row(name="optimizer", text=spec.optimizer.method),
        Row(name="seeds", text=f"optimizer {seeds.optimizer}, workload {seeds.workload}{confirmation}"),
        Row(name="parallelism", text=str(spec.budget.parallelism)),
        Row(name="agents", text=", ".join(one_line(agent) for agent in agents) or "-"),
        Row(name="submitted", text=moment(results.created_at_s)),
        Row(name="ended", text=moment(results.ended_at_s)),
        Row(name="written", text=moment(results.generated_at_s)),
    ]
    if spec.workload_facts is not None:
        rows.append(Row(name="workload SHA-256", text=spec.workload_facts.sha256))
    return tuple(rows)
