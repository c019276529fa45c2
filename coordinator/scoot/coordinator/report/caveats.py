"""What a reader has to know before believing a report's numbers. Each caveat is one sentence with a stable code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from scoot.coordinator.report.command import scalar_text
from scoot.coordinator.report.results import Caveat, Results, TrialResult
from scoot.coordinator.report.text import limit_text, numbers, percent, quantity
from scoot.simulator.serving.target import pretence
from scoot.wire.measurement import other_cpu_share
from scoot.wire.reasons import Reason
from scoot.wire.spec import Limits
from scoot.wire.states import StudyState, TrialKind, TrialState

_MOCK: Final = "mock"

_START_UP_OPTIONS: Final[tuple[tuple[str, object, str], ...]] = (
    ("enforce_eager", True, "no graph capture and no compilation, quick to start and slower to serve"),
    ("load_format", "dummy", "the weights are random, so timings are real and texts are noise"),
)
"""Engine options that shape a measurement: name, value, what it means."""

_START_UP_ENV: Final = (
    ("VLLM_ENABLE_V1_MULTIPROCESSING", "0", "the engine core shares the API server's process, quick to start"),
)
_LOOSER_LIMITS: Final = (
    ("lateness_p99_ms", "ms", "latencies count from the intended start, so lateness of the load generator is in them"),
    ("client_cpu_share", "of a core", "a busy load generator may itself be what is slow"),
    ("clock_step_ms", "ms", "the host's clock may have moved during a run"),
    ("max_failed_share", "of the requests", "so many may fail and the configuration still counts as feasible"),
    ("run_queue_share", "of the run", "a load generator without a CPU may itself be what is slow"),
    ("achieved_share", "of the offered rate", "the load may have been lighter than the load asked for"),
    ("merged_share", "of the chunks", "gaps between tokens that were read together are not in ITL"),
    ("other_cpu_share", "of the host's CPUs", "others' work may have slowed the engine or the load generator"),
)
"""Limits that this study may have set looser than SCOOT's own: name, unit, what that means."""

_SWITCHED_OFF_AT_0: Final = ("run_queue_share", "achieved_share", "merged_share", "other_cpu_share")
_LOWER_IS_LOOSER: Final = ("achieved_share",)

_P99_REQUESTS: Final = 100


def find_caveats(results: Results, *, redacted: Sequence[str] = ()) -> tuple[Caveat, ...]:
    """Every caveat of `results`, the gravest kind first. `redacted`: names whose values were hidden."""
    return (
        *_about_the_study(results),
        *_about_the_engine(results),
        *(Caveat(code="options", text=f"{note[:1].upper()}{note[1:]}.") for note in results.notes),
        *_about_the_answer(results),
        *_about_the_confirmation(results),
        *_about_the_limits(results),
        *_about_the_workload(results),
        *_about_measurements(results),
        *_about_noise(results),
        *_about_trials(results),
        *(
            (Caveat(code="redacted", text=f"Values of {', '.join(redacted)} are hidden: their names look secret."),)
            if redacted
            else ()
        ),
    )


def _search(results: Results) -> list[TrialResult]:
    return [trial for trial in results.trials if trial.kind is not TrialKind.CONFIRMATION]


def _about_the_study(results: Results) -> Iterator[Caveat]:
    counts = results.counts
    done = counts.succeeded + counts.infeasible + counts.failed
    if not results.final:
        yield Caveat(
            code="unfinished",
            text=f"The study is not over: {done} of {counts.budget} trials have ended. Everything here may change.",
        )
    elif results.state is StudyState.CANCELLED:
        yield Caveat(
            code="cancelled", text=f"The study was cancelled after {done} of {counts.budget} trials{_why(results)}."
        )
    elif results.state is StudyState.FAILED:
        yield Caveat(code="study-failed", text=f"The study failed{_why(results)}.")
    elif done < counts.budget:
        yield Caveat(
            code="budget-left", text=f"Only {done} of {counts.budget} trials of the budget were used{_why(results)}."
        )
    if done and not counts.succeeded:
        yield Caveat(
            code="nothing-met",
            text=f"Nothing met: none of the {done} trials that ended succeeded, so there is no configuration to run.",
        )


def _why(results: Results) -> str:
    message = results.message.strip().rstrip(".")
    return f": {message}" if message else ""


def _about_the_engine(results: Results) -> Iterator[Caveat]:
    service = results.spec.service
    simulated = pretence(service, results.engine.versions) is not None
    if simulated or results.engine.name == _MOCK:
        how_true = (
            "the numbers are a model's and not a GPU's, so measure again on a real one before you promise anything"
            if simulated
            else "the numbers say nothing about real hardware"
        )
        yield Caveat(code="pretend-engine", text=f"The engine is {results.engine.name}, not a real one: {how_true}.")
    elif service.device == "cpu":
        yield Caveat(code="cpu", text="Measured on CPU: flags that suit it need not suit a GPU.")
    for name, value, why in _START_UP_OPTIONS:
        if service.options.get(name) == value:
            yield Caveat(code="start-up-option", text=f"{name} = {scalar_text(value)} is set in this study: {why}.")
    for name, text, why in _START_UP_ENV:
        if service.env.get(name) == text:
            yield Caveat(code="start-up-option", text=f"{name}={text} is set in this study: {why}.")
    if len(results.engine.versions) > 1:
        yield Caveat(
            code="engine-versions",
            text=f"Trials ran on different versions of the engine: {', '.join(results.engine.versions)}.",
        )


def _about_the_answer(results: Results) -> Iterator[Caveat]:
    default = next((trial for trial in results.trials if trial.kind is TrialKind.DEFAULT), None)
    if default is not None and default.state in (TrialState.INFEASIBLE, TrialState.FAILED):
        what = "does not work here" if default.state is TrialState.INFEASIBLE else "could not be measured"
        yield Caveat(
            code="default-infeasible" if default.state is TrialState.INFEASIBLE else "default-failed",
            text=f"The default configuration {what} ({default.reason}): there is nothing to compare the best with.",
            trial=default.number,
        )
    best = results.best
    if best is None:
        return
    several = len(results.objectives) > 1
    if best.kept is False:
        yield Caveat(
            code="outcomes-not-kept",
            text=f"No trial kept every limit ({'; '.join(map(limit_text, results.outcomes))}): trial {best.trial} "
            "is the one that exceeds them least.",
            trial=best.trial,
        )
    elif best.trial == 0:
        how = (
            " without losing on another objective; the front shows what can be traded" if len(results.front) > 1 else ""
        )
        yield Caveat(
            code="default-is-best", text=f"No trial beat the engine's default configuration{how}.", trial=best.trial
        )
    elif several and results.default is None:
        yield Caveat(
            code="compromise",
            text="Without the default's values the chosen one is the front's compromise, which gives up least.",
            trial=best.trial,
        )


def _about_the_confirmation(results: Results) -> Iterator[Caveat]:
    slo = results.slo
    if slo is None:
        if not results.final or results.best is None:
            return
        failed = [trial for trial in results.trials if trial.kind is TrialKind.CONFIRMATION and not _succeeded(trial)]
        if failed:
            how = ", ".join(f"trial {trial.number}: {trial.reason or trial.state}" for trial in failed)
            text = (
                f"The best configuration could not be confirmed ({how}): its values were measured once, promise none."
            )
        else:
            text = (
                "The best configuration was not measured again: its values come from one arrival order, promise none."
            )
        yield Caveat(code="not-confirmed", text=text, trial=results.best.trial)
        return
    short = [promise.orders for promise in slo.promise if promise.orders < slo.orders]
    if short:
        yield Caveat(
            code="confirmation-partial",
            text=f"The SLO rests on {min(short)} of {slo.orders} arrival orders; the others were not measured or are "
            "not believed.",
            trial=slo.best.trial,
        )
    if results.best is not None and slo.best.confirms != results.best.trial:
        yield Caveat(
            code="confirmed-another",
            text=f"The confirmation repeats trial {slo.best.confirms}, the best is now trial {results.best.trial}.",
            trial=slo.best.trial,
        )
    if slo.default is None and not any(c.code.startswith("default-") for c in _about_the_answer(results)):
        yield Caveat(
            code="default-unconfirmed", text="The default configuration was not confirmed: nothing to pair with."
        )
    labels = {objective.metric: objective.label for objective in results.objectives}
    for paired in slo.paired:
        if paired.worst is not None and not paired.never_worse:
            yield Caveat(
                code="not-always-better",
                text=f"Under at least one arrival order the best is worse than the default on "
                f"{labels[paired.metric]} ({percent(100 * (paired.worst - 1))}).",
                trial=slo.best.trial,
            )


def _about_the_limits(results: Results) -> Iterator[Caveat]:
    """Outcomes that the recommended configuration did not keep in the worst order of the confirmation."""
    for info, orders in zip(results.outcomes, results.slo.outcomes if results.slo is not None else (), strict=False):
        if not orders.kept:
            worst = None if orders.worst is None else quantity(orders.worst, info.unit)
            yield Caveat(
                code="outcome-not-confirmed",
                text=f"{limit_text(info)} is not kept: measured again it "
                + ("had no figure." if worst is None else f"was {worst} in the worst arrival order."),
            )


def _succeeded(trial: TrialResult) -> bool:
    return trial.state is TrialState.SUCCEEDED


def _about_the_workload(results: Results) -> Iterator[Caveat]:
    facts = results.spec.workload_facts
    for note in facts.notes if facts is not None else ():
        yield Caveat(code="workload", text=note)
    tails = [objective for objective in results.objectives if objective.metric.endswith("_p99")]
    fewest = min(
        (run.metrics.completed for trial in results.trials if _succeeded(trial) for run in trial.runs), default=None
    )
    if tails and fewest is not None and fewest < _P99_REQUESTS:
        yield Caveat(
            code="few-requests",
            text=f"The p99 of {fewest} requests is the slowest of them; a longer stress test would say more.",
        )


def _about_measurements(results: Results) -> Iterator[Caveat]:
    usual = Limits()
    for name, unit, why in _LOOSER_LIMITS:
        ours, default = getattr(results.spec.limits, name), getattr(usual, name)
        looser = ours < default if name in _LOWER_IS_LOOSER else ours > default
        if looser or (ours == 0 and name in _SWITCHED_OFF_AT_0):
            yield Caveat(code="looser-limit", text=f"limits.{name} is {ours:g} {unit} here, not {default:g}: {why}.")
    merged = {
        trial.number: max((run.metrics.merged_share for run in trial.runs if run.validity.valid), default=0.0)
        for trial in results.trials
    }
    much = [number for number, share in merged.items() if share > usual.merged_share]
    if much:
        yield Caveat(
            code="merged-chunks",
            text=f"Up to {100 * max(merged.values()):.0f} % of the chunks of trial{'s' if len(much) > 1 else ''} "
            f"{numbers(much)} came together with others; ITL leaves their gaps out, TTFT, TPOT and E2E stay right.",
        )
    for trial in results.trials:
        for run in trial.runs:
            if not run.validity.valid:
                detail = run.validity.detail.strip().rstrip(".")
                yield Caveat(
                    code="invalid-measurement",
                    text=f"Trial {trial.number}, run {run.run} is not believed: {run.validity.reason}"
                    f"{f' ({detail})' if detail else ''}.",
                    trial=trial.number,
                )


def _about_noise(results: Results) -> Iterator[Caveat]:
    """Runs that were taken although others used the host."""
    noisy: dict[int, float] = {}
    for trial in results.trials:
        for run in trial.runs:
            if run.validity.valid and run.validity.reason is Reason.HOST_NOISY:
                noisy[trial.number] = max(noisy.get(trial.number, 0.0), other_cpu_share(run.audit) or 0.0)
    if noisy:
        several = len(noisy) > 1
        yield Caveat(
            code="noisy-host",
            text=f"Trial{'s' if several else ''} {numbers(list(noisy))} {'were' if several else 'was'} measured while "
            f"others used {'up to ' if several else ''}{100 * max(noisy.values()):.0f} % of the host's CPUs: no "
            "attempt found it quieter, and the figures may be worse for it.",
            trial=None if several else next(iter(noisy)),
        )


def _about_trials(results: Results) -> Iterator[Caveat]:
    for trial in results.trials:
        if trial.state is TrialState.FAILED:
            message = trial.message.strip().rstrip(".")
            yield Caveat(
                code="failed-trial",
                text=f"Trial {trial.number} could not be measured ({trial.reason}{f': {message}' if message else ''}); "
                "that says nothing about its configuration.",
                trial=trial.number,
            )
    for trial in results.trials:
        changed = {
            name: value
            for name, value in trial.effective_config.items()
            if name in trial.config and trial.config[name] != value
        }
        if changed:
            named = ", ".join(
                f"{name} = {scalar_text(value)} where {scalar_text(trial.config[name])} was asked"
                for name, value in changed.items()
            )
            yield Caveat(
                code="engine-changed-value", text=f"Trial {trial.number}: the engine used {named}.", trial=trial.number
            )
    again = [trial.number for trial in results.trials if trial.attempts > 1]
    if again:
        yield Caveat(
            code="retried",
            text=f"More than one attempt was needed for trial{'s' if len(again) > 1 else ''} {numbers(again)}.",
        )
    fallbacks = [trial.number for trial in _search(results) if trial.source == "sobol-fallback"]
    if fallbacks:
        yield Caveat(
            code="optimizer-fallback",
            text=f"The optimizer gave no usable answer for trial{'s' if len(fallbacks) > 1 else ''} "
            f"{numbers(fallbacks)}; Sobol points were used instead.",
        )
