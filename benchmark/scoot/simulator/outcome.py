"""From simulated stress tests to the summary of a run, of the same shape as a real one's summary.json. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from scoot.benchmark.plan import Endpoint, PromptMode
from scoot.benchmark.standalone import summary as of
from scoot.simulator.load import Load
from scoot.simulator.service import SimulatedService
from scoot.simulator.stress import StressTest
from scoot.simulator.trial import Trial
from scoot.wire.spec import Limits, Workload, WorkloadFacts

FAILED: Final = "failed"
"""State of a run whose engine did not start, died or hung; besides those of scoot.benchmark.standalone.summary."""

_NOTED_LINES: Final = 20


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What was simulated, and when.

    Attributes:
        service: see there.
        workload, facts: resolved.
        seeds: of the runs.
        limits: of the verdict.
        command: the command line.
        versions: of SCOOT, Python and the kernel.
        started_at: date and time, UTC, ISO 8601.
    """

    service: SimulatedService
    workload: Workload
    facts: WorkloadFacts
    seeds: tuple[int, ...]
    limits: Limits
    command: tuple[str, ...]
    versions: dict[str, str]
    started_at: str


def run_summary(tested: StressTest, load: Load, *, seeds: Sequence[int], limits: Limits) -> of.RunSummary:
    """One run."""
    return of.run_summaries(
        tested.batch,
        [tested.audit],
        seeds=seeds,
        classes=load.workload.slo_classes,
        limits=limits,
        interrupted=False,
        max_in_flight=load.workload.arrivals.max_in_flight,
    )[0]


def summary_of(
    origin: Origin, runs: Sequence[of.RunSummary], *, failure: Trial | None, notes: Sequence[str]
) -> of.Summary:
    """The whole.

    Args:
        origin: see there.
        runs: those that were measured, in part where the engine ended.
        failure: of the engine, if it did not start, or ended; None if it did neither.
        notes: more of them, one sentence each.
    """
    if failure is None:
        state, detail = of.verdict(runs, interrupted=False)
    else:
        reason = failure.reason.value if failure.reason is not None else ""
        state, detail = FAILED, f"{reason}: {failure.message}"
    lines = failure.lines if failure is not None else ()
    metrics, spread = of.over_runs(runs)
    return of.Summary(
        schema=of.SCHEMA,
        state=state,
        detail=detail,
        metrics=metrics,
        spread=spread,
        runs=tuple(runs),
        target=of.Target(
            urls=(),
            model=origin.service.model,
            endpoint=Endpoint.COMPLETIONS.value,
            prompt=PromptMode.TOKEN_IDS.value,
            ignore_eos=True,
            max_model_len=origin.service.max_model_len,
            headers=(),
        ),
        workload=origin.workload,
        facts=origin.facts,
        seeds=origin.seeds,
        limits=origin.limits,
        command=origin.command,
        versions=origin.versions,
        started_at=origin.started_at,
        notes=(
            simulated_note(origin),
            *of.caveats(runs, origin.limits),
            *notes,
            *(f"the engine's log: {line}" for line in lines[:_NOTED_LINES]),
        ),
    )


def simulated_note(origin: Origin) -> str:
    """That nothing of this was measured, and what it follows from."""
    service = origin.service
    link = f" ({service.link})" if service.link else ""
    profile = f"the profile {service.profile}" if service.profile else "the built-in step times"
    seeds = ", ".join(map(str, origin.seeds))
    return (
        f"SIMULATED in virtual time, nothing was measured: {service.engine} with {service.model} on"
        f" {service.devices} x {service.gpu}{link}, by {profile}, seed{'s' if len(origin.seeds) > 1 else ''} {seeds}"
    )


def cache_note(tests: Sequence[StressTest]) -> tuple[str, ...]:
    """What happened in the KV cache, where something did."""
    notes: list[str] = []
    preemptions = sum(tested.preemptions for tested in tests)
    if preemptions:
        notes.append(f"{preemptions} times a running request was put back for lack of KV cache, and computed again")
    queried = sum(tested.prefix_queried_tokens for tested in tests)
    hits = sum(tested.prefix_hit_tokens for tested in tests)
    if hits:
        notes.append(f"prefix cache: {hits} of {queried} prompt tokens ({hits / queried:.1%}) were found in it")
    return tuple(notes)
