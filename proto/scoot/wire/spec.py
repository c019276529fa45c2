"""The study specification: what a user asks for, typed and frozen.

These structs are the study file's schema (docs/study-file.md documents every key), the payload of CreateStudy, and what
the coordinator stores. `scoot.wire.study_file` parses TOML into them; meaning that needs more than one field is checked
there and in `scoot.coordinator.space`. Durations are seconds, rates are requests per second, lengths are tokens.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

Scalar = bool | int | float | str
"""A parameter's value. bool is not an int here: True and 1 are different values."""

Config = dict[str, Scalar]
"""A configuration: parameter name -> value. Absent parameters are left to the engine's own default."""

SPEC_SCHEMA = 1


class _Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base: immutable, and unknown keys are refused."""


class ParameterKind(StrEnum):
    """The type of a parameter."""

    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    ENUM = "enum"


class Scale(StrEnum):
    """How a numeric range is spread over the unit interval. POW2 takes powers of two only."""

    LINEAR = "linear"
    LOG = "log"
    POW2 = "pow2"


class Parameter(_Spec, frozen=True, kw_only=True):
    """One dimension of the search space.

    Attributes:
        name: the engine's own name in snake case, `max_num_seqs`; or one of the client's (wire.client_parameters).
        kind: key `type` in the file.
        low, high: inclusive range of an int or float.
        step: an int's values are multiples of it (`low` and `high` are rounded inwards).
        scale: see Scale.
        choices: values of an enumeration, in order; of an int too, when only some values make sense.
        default: the value of trial 0. Left out, the flag is not passed and the engine's own default is used.
        when: an expression over other parameters and facts, as constraints are. Where it does not hold the parameter
            is inactive: it is in no configuration and its flag is not passed. None: always active.
    """

    name: str
    kind: ParameterKind = msgspec.field(name="type")
    low: float | None = None
    high: float | None = None
    step: int | None = None
    scale: Scale = Scale.LINEAR
    choices: tuple[Scalar, ...] = ()
    default: Scalar | None = None
    when: str | None = None


class Service(_Spec, frozen=True, kw_only=True):
    """What is served, on what.

    Attributes:
        engine: adapter name an agent offers: "vllm", "simulated", "mock".
        model: path or name of the model, as the agent sees it.
        device: kind of device: "gpu" (any), "cpu", or a product name such as "H200" that an agent's inventory shows.
        devices: devices every trial occupies. At tensor-parallel degree t they run devices/t replicas behind
            least-outstanding routing (SCOOT section 5.1). Left out, a trial takes t x `replicas` devices.
        replicas: replicas when `devices` is left out.
        max_model_len: longest context served, tokens; requests are clipped to it. Passed to the engine.
        options: fixed engine flags, not tuned (snake case, typed), subject to the agent's allow-list.
        env: environment variables for the engine, subject to the agent's allow-list.
    """

    engine: str
    model: str
    device: str = "gpu"
    devices: int | None = None
    replicas: int = 1
    max_model_len: int | None = None
    options: dict[str, Scalar] = {}
    env: dict[str, str] = {}


class ArrivalProcess(StrEnum):
    """How intended starts are drawn."""

    POISSON = "poisson"
    GAMMA = "gamma"
    CONSTANT = "constant"
    TRACE = "trace"
    CLOSED = "closed"


class Arrivals(_Spec, frozen=True, kw_only=True):
    """The arrival process.

    Attributes:
        process: see ArrivalProcess.
        rate: mean requests per second (poisson, gamma, constant).
        cv: coefficient of variation of gamma gaps; 1 is Poisson.
        users: users of a closed loop; each sends its next request when the last is answered.
        time_scale: trace replay: a gap of 1 s in the trace lasts this many seconds.
        ramp_s: the rate (the number of users) rises linearly over the first so many seconds of the load. Not for trace.
        ramp_from: share of the rate (of the users) the ramp begins with, 0..1.
        max_in_flight: at most so many requests are outstanding at the engine, all replicas together; the others wait at
            the client in the order of their intended starts. None: all are sent when they are due. Not for closed.
    """

    process: ArrivalProcess = ArrivalProcess.POISSON
    rate: float | None = None
    cv: float | None = None
    users: int | None = None
    time_scale: float = 1.0
    ramp_s: float = 0.0
    ramp_from: float = 0.0
    max_in_flight: int | None = None


class SloClass(_Spec, frozen=True, kw_only=True):
    """A class of requests that were promised something. A limit left out is not promised.

    Attributes:
        name: shown in results; a trace's rows may name it.
        share: of the requests (of the sessions, where there are sessions) that no row assigns; all shares add up to 1.
        ttft_ms, tpot_ms, e2e_ms: a completed request is good when none of them is exceeded.
    """

    name: str
    share: float = 1.0
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None


class Selection(StrEnum):
    """Which rows of a trace are used. LONGEST_HALF: outputs at or above the median (SCOOT section 5.1)."""

    ALL = "all"
    LONGEST_HALF = "longest_half"


class Workload(_Spec, frozen=True, kw_only=True):
    """The requests and when they arrive.

    Attributes:
        profile: built-in workload ("SQL", "BOT", "CLS", "REC", "AZURE_CONV", "CHAT_SESSIONS"); exclusive with `trace`.
        trace: path of a trace file on the machine that runs scootctl, relative to the study file.
        format: trace format; "auto" looks at the first row.
        select: see Selection.
        length_scale: input and output lengths are multiplied by it, rounded, at least 1.
        max_requests: at most so many distinct rows are kept (the first, in trace order).
        arrivals: see Arrivals.
        duration_s: length of the measured window of arrivals.
        warm_up_s: load before it, from the same process, not measured.
        request_timeout_s: a request unfinished so long after its intended start counts as failed.
        drain_s: longest wait for outstanding requests after the last arrival.
        seed: draws arrivals, order and prompt tokens.
        cool_down_s: load after it, from the same process, not measured: measured requests end under full load.
        sessions: arrivals are starts of sessions (conversations); each further turn of one follows the answer of the
            turn before after a pause. Without it every row is a request of its own.
        slo_classes: each request belongs to one of them; none: there are no classes.
    """

    profile: str | None = None
    trace: str | None = None
    format: str = "auto"
    select: Selection = Selection.LONGEST_HALF
    length_scale: float = 1.0
    max_requests: int | None = None
    arrivals: Arrivals = Arrivals()
    duration_s: float = 100.0
    warm_up_s: float = 10.0
    request_timeout_s: float = 300.0
    drain_s: float = 300.0
    seed: int = 0
    cool_down_s: float = 0.0
    sessions: bool = False
    slo_classes: tuple[SloClass, ...] = ()


class Objective(_Spec, frozen=True, kw_only=True):
    """One thing to optimise. The direction follows from the metric (docs/measurement.md lists them)."""

    metric: str


class Budget(_Spec, frozen=True, kw_only=True):
    """How much may be spent.

    Attributes:
        trials: trials, the default configuration and infeasible ones included.
        parallelism: trials in flight at once.
        max_attempts: executions of one trial before HOST and HARNESS trouble makes it FAILED.
        ask_deadline_s: the optimizer answers within it or Sobol points are used instead.
        min_gain: the search ends early once the optimizer expects less further gain than this, relative to the best so
            far (0.02 is 2 %). None and 0: it does not. Optimizers that say nothing of it never end a search early.
    """

    trials: int = 30
    parallelism: int = 1
    max_attempts: int = 3
    ask_deadline_s: float = 60.0
    min_gain: float | None = None


class Confirm(_Spec, frozen=True, kw_only=True):
    """The re-test after the budget: best and default, each under the same `arrival_orders` orders. 0 leaves it out."""

    arrival_orders: int = 3


class Optimizer(_Spec, frozen=True, kw_only=True):
    """Which optimizer suggests, and its seed."""

    method: str = "auto"
    seed: int = 0


class Limits(_Spec, frozen=True, kw_only=True):
    """When an attempt is cut off, and when its measurement is not believed.

    Attributes:
        start_timeout_s: engine start to ready.
        stall_timeout_s: no token from any stream for so long under load means the engine hangs.
        lateness_p99_ms: dispatch lateness at p99 above it: LOAD_LATE.
        client_cpu_share: CPU share of one core used by the busiest sending process above it: CLIENT_SATURATED.
        clock_step_ms: wall clock moved against the monotonic one by more: CLOCK_STEPPED.
        min_requests: fewer completed measured requests: TOO_FEW_REQUESTS.
        max_failed_share: failed requests over sent, above it the configuration is infeasible.
        run_queue_share: a sending process waited for a CPU for more than this share of the run: CLIENT_SATURATED.
        achieved_share: requests left at less than this share of the offered rate, late ones: CLIENT_SATURATED.
        merged_share: more of the chunks were merged by a starved load generator: CLIENT_SATURATED.
        other_cpu_share: others used more than this share of the host's CPUs during the run: HOST_NOISY.

    The last four are left out at 0.
    """

    start_timeout_s: float = 900.0
    stall_timeout_s: float = 60.0
    lateness_p99_ms: float = 20.0
    client_cpu_share: float = 0.9
    clock_step_ms: float = 50.0
    min_requests: int = 20
    max_failed_share: float = 0.01
    run_queue_share: float = 0.5
    achieved_share: float = 0.98
    merged_share: float = 0.05
    other_cpu_share: float = 0.25


class WorkloadFacts(_Spec, frozen=True, kw_only=True):
    """What resolving the workload found: filled in by scootctl, shown in the report, empty in a study file.

    Attributes:
        sha256: digest of the blob of normalised requests.
        requests: rows in it.
        input_p50, input_max, output_p50, output_max: lengths in tokens, after scaling and clipping.
        notes: one sentence per thing that was done to the trace (selection, scaling, clipping).
    """

    sha256: str
    requests: int
    input_p50: int
    input_max: int
    output_p50: int
    output_max: int
    notes: tuple[str, ...] = ()


class StudySpec(_Spec, frozen=True, kw_only=True):
    """A whole study. `workload_facts` is set exactly when the workload has been resolved.

    `outcomes` are limits that a configuration has to keep whatever it gains, "ttft_p95 <= 2000", in the metric's unit.
    `engine_constraints`: what is known of the engine's own constraints holds in the search beside `constraints`.
    """

    name: str
    service: Service
    workload: Workload
    parameters: tuple[Parameter, ...]
    objectives: tuple[Objective, ...]
    schema: int = SPEC_SCHEMA
    constraints: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    budget: Budget = Budget()
    confirm: Confirm = Confirm()
    optimizer: Optimizer = Optimizer()
    limits: Limits = Limits()
    engine_constraints: bool = True
    workload_facts: WorkloadFacts | None = None
