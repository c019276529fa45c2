"""results.json: what a study taught, as versioned values. docs/results.schema.json is generated from these structs.

Values of objectives are natural (milliseconds, requests per second, ...), never negated; `direction` says which way is
better. Wall times (`*_at_s`) are seconds since the epoch, 0 where the thing has not happened yet.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

import msgspec

from scoot.coordinator.objective.confirmation import Lead
from scoot.coordinator.objective.metric import Direction
from scoot.wire.measurement import LoadAudit, Metrics, PhaseTime, Validity
from scoot.wire.reasons import Blame, Reason
from scoot.wire.spec import Config, StudySpec
from scoot.wire.states import StudyState, TrialKind, TrialState

RESULTS_SCHEMA: Final = 1
"""Raised when a field is removed or changes its meaning; added fields leave it alone."""


class _Value(msgspec.Struct, frozen=True, kw_only=True):
    """Base of immutable values."""


class ObjectiveInfo(_Value, frozen=True, kw_only=True):
    """An objective: the metric's name, a short label for people, the unit of its values, and its direction."""

    metric: str
    label: str
    unit: str
    direction: Direction


class OutcomeInfo(_Value, frozen=True, kw_only=True):
    """A limit that a configuration has to keep: at most `limit` where `direction` is minimise, else at least."""

    metric: str
    label: str
    unit: str
    direction: Direction
    limit: float


class EngineInfo(_Value, frozen=True, kw_only=True):
    """The engine's adapter name, and every version its agents reported, in order of first appearance."""

    name: str
    versions: tuple[str, ...]


class Seeds(_Value, frozen=True, kw_only=True):
    """Everything random follows from these. `confirmation`: the arrival orders of the confirmation, in order."""

    optimizer: int
    workload: int
    confirmation: tuple[int, ...]


class RunSummary(_Value, frozen=True, kw_only=True):
    """One measured window. `values`: one per objective, null where it has none (no request had that latency)."""

    run: int
    seed: int
    values: tuple[float, ...] | None
    metrics: Metrics
    audit: LoadAudit
    validity: Validity


class TrialResult(_Value, frozen=True, kw_only=True):
    """A trial: what was asked, what the engine made of it, how it ended.

    Attributes:
        number: 0 is the engine's default configuration.
        source: who suggested it ("default", "sobol", "sobol-fallback", "confirm-default", "confirm-best").
        explanation: why, in the optimizer's words.
        confirms: the trial whose configuration a confirmation repeats.
        config: the configuration asked for; absent parameters were left to the engine.
        effective_config: the tuned parameters as the engine resolved them, where it tells.
        reason, blame: null exactly when the trial succeeded or is not over.
        message: the root-cause line.
        log_tail: last lines of the engine's log, for trials that did not succeed.
        values: of a succeeded trial, one per objective: the median over its valid runs (the value, with one run).
        outcomes: where there are values, one per outcome of the study: the worst over its valid runs; null where it is
            undefined.
        kept: whether every outcome is kept in all of them; null where there are no outcomes, or no values.
        run_seeds: one stress test per seed.
        attempts: executions begun.
        phases: seconds per phase of the attempt that decided the trial, in order of entry.
        agent: where that attempt ran.
        command: the engine's argument list there.
    """

    number: int
    kind: TrialKind
    source: str
    state: TrialState
    config: Config
    explanation: dict[str, Any] = {}
    confirms: int | None = None
    effective_config: Config = {}
    reason: Reason | None = None
    blame: Blame | None = None
    message: str = ""
    log_tail: str = ""
    values: tuple[float, ...] | None = None
    outcomes: tuple[float | None, ...] = ()
    kept: bool | None = None
    run_seeds: tuple[int, ...] = ()
    runs: tuple[RunSummary, ...] = ()
    phases: tuple[PhaseTime, ...] = ()
    attempts: int = 0
    agent: str = ""
    engine_version: str = ""
    command: tuple[str, ...] = ()
    started_at_s: float = 0.0
    ended_at_s: float = 0.0


class TrialCounts(_Value, frozen=True, kw_only=True):
    """Trials of the search by state; confirmations are not among them. `budget` is what was asked for."""

    budget: int
    succeeded: int
    infeasible: int
    failed: int
    cancelled: int
    running: int
    pending: int
    confirmations: int


class Improvement(_Value, frozen=True, kw_only=True):
    """The best against the default on one objective.

    Attributes:
        percent: change relative to the default in the objective's direction, above 0 is better; null if the default's
            value is 0.
    """

    metric: str
    direction: Direction
    default: float
    best: float
    percent: float | None


class Best(_Value, frozen=True, kw_only=True):
    """The configuration to run: the best value, or with several objectives the chosen point of the front.

    Attributes:
        trial: its number; 0 when nothing beat the default configuration.
        values: as measured in the search, one per objective.
        flags: the tuned flags as the engine got them, cut out of `command`; empty where it is not known.
        command: the engine's whole argument list.
        env: environment variables it ran with.
        improvement: one per objective, in their order; empty where the default has no values.
        kept: whether it kept every outcome of the study in the search; null where there are none. When no trial did, it
            is the one that violates them least.
    """

    trial: int
    config: Config
    effective_config: Config
    values: tuple[float, ...]
    flags: tuple[str, ...]
    command: tuple[str, ...]
    env: dict[str, str]
    improvement: tuple[Improvement, ...]
    kept: bool | None = None


class FrontMember(_Value, frozen=True, kw_only=True):
    """A trial that no other trial dominates; in order of the first objective, best first.

    Where some trials keep every outcome of the study, those that do not are left aside.

    Attributes:
        hypervolume: of the box between it and the default's values, in the product of the units; 0 where it does not
            beat the default on every objective, null without a default.
        chosen: it is `Results.best`.
    """

    trial: int
    values: tuple[float, ...]
    hypervolume: float | None
    chosen: bool


class OrderValues(_Value, frozen=True, kw_only=True):
    """One objective of one configuration over the arrival orders.

    Attributes:
        per_order: in order of `Slo.seeds`; null where that order was not measured or its measurement is invalid.
        worst, median: over the orders that are there.
    """

    metric: str
    per_order: tuple[float | None, ...]
    worst: float
    median: float


class Confirmed(_Value, frozen=True, kw_only=True):
    """A configuration measured again: `trial` is the confirmation, `confirms` the trial it repeats."""

    trial: int
    confirms: int
    objectives: tuple[OrderValues, ...]


class PairedRatio(_Value, frozen=True, kw_only=True):
    """Best over default under the same arrival order, for one objective.

    Attributes:
        ratios: value of the best / value of the default; null where either is missing or the default's is 0.
        worst, median: over the ratios that are there; worst is the one least in favour of the best. Null if none is.
        never_worse: whether the best was at least as good as the default under every compared order (at least one).
    """

    metric: str
    ratios: tuple[float | None, ...]
    worst: float | None
    median: float | None
    never_worse: bool


class Promise(_Value, frozen=True, kw_only=True):
    """One bound of the SLO: the metric stays on the good side of `bound`, the worst case over the arrival orders."""

    metric: str
    direction: Direction
    bound: float
    orders: int


class OutcomeOrders(_Value, frozen=True, kw_only=True):
    """One outcome of one configuration over the arrival orders.

    Attributes:
        per_order: in order of `Slo.seeds`; null where that order was not measured, is not believed, or has no figure.
        worst: over the orders that are there; null if none is.
        kept: whether the limit is kept in the worst order; false where nothing is known.
    """

    metric: str
    limit: float
    direction: Direction
    per_order: tuple[float | None, ...]
    worst: float | None
    kept: bool


class Slo(_Value, frozen=True, kw_only=True):
    """What can be promised, and how it was found.

    Attributes:
        orders: arrival orders asked for.
        seeds: they follow from these.
        lead: what became of the best's lead over the default; null where there is nothing to compare.
        promise: one bound per objective: the worst case, over the orders, of the configuration that is recommended:
            the best, or the default where the lead is LOST.
        best, default: the confirmed configurations; `default` is null where it was not measured. When nothing beat
            the default they are the same.
        paired: one per objective; empty without a default to compare with, or when it is the best itself.
        outcomes: one per outcome of the study, of the configuration that is recommended.
    """

    orders: int
    seeds: tuple[int, ...]
    lead: Lead | None
    promise: tuple[Promise, ...]
    best: Confirmed
    default: Confirmed | None
    paired: tuple[PairedRatio, ...]
    outcomes: tuple[OutcomeOrders, ...] = ()


class Caveat(_Value, frozen=True, kw_only=True):
    """Something to know before believing a number. `code` is stable, `text` is one sentence for people."""

    code: str
    text: str
    trial: int | None = None


class Results(_Value, frozen=True, kw_only=True):
    """The document.

    Attributes:
        schema: RESULTS_SCHEMA.
        scoot_version: of the coordinator that wrote this.
        generated_at_s: when it did.
        final: the study is over; otherwise this is its state so far.
        message: why the study failed or was cancelled, why its search ended early, or what it waits for.
        spec: the study as resolved. Values of secret-looking variables and options are replaced by "***".
        default: values of trial 0; null if it has none.
        best: null while no trial has succeeded.
        front: members of the Pareto front; empty with one objective.
        slo: null while nothing is confirmed.
        outcomes: limits that a configuration has to keep.
        notes: what was found out about the study's options and its space, a sentence each.
    """

    schema: int
    scoot_version: str
    generated_at_s: float
    study_id: str
    name: str
    state: StudyState
    final: bool
    message: str
    created_at_s: float
    ended_at_s: float
    spec: StudySpec
    engine: EngineInfo
    seeds: Seeds
    objectives: tuple[ObjectiveInfo, ...]
    counts: TrialCounts
    trials: tuple[TrialResult, ...]
    default: tuple[float, ...] | None
    best: Best | None
    front: tuple[FrontMember, ...]
    slo: Slo | None
    caveats: tuple[Caveat, ...]
    outcomes: tuple[OutcomeInfo, ...] = ()
    notes: tuple[str, ...] = ()


def encode_results(results: Results) -> bytes:
    """The content of results.json: indented UTF-8 JSON ending in a newline; keys in the order of the structs."""
    return msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n"


def decode_results(data: bytes) -> Results:
    """Parse a results.json of this schema.

    Raises:
        msgspec.DecodeError: not JSON, or not of this schema.
    """
    return msgspec.json.decode(data, type=Results)


def results_json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of results.json."""
    schema = msgspec.json.schema(Results, ref_template="#/$defs/{name}")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["$id"] = f"https://scoot-tuner.example/schema/results/{RESULTS_SCHEMA}"
    schema["title"] = f"SCOOT results, schema {RESULTS_SCHEMA}"
    schema["$defs"]["Results"]["properties"]["schema"] = {"const": RESULTS_SCHEMA}
    for definition in schema["$defs"].values():
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(schema))  # tuples in defaults become lists
    return plain
