"""What a stress test taught: metrics, the verdict on its own validity, and the outcome of an attempt.

Definitions of every metric: docs/measurement.md (design section 8). Latencies are milliseconds, from the *intended*
start unless the name says `from_send`.
"""

from __future__ import annotations

from typing import Final

import msgspec

from scoot.wire.reasons import Reason
from scoot.wire.spec import Config

LATE_READ_US: Final = 1_000
"""A read that begins later than this after the kernel stamped its bytes is late: the reader did not get the CPU."""


class _Value(msgspec.Struct, frozen=True, kw_only=True):
    """Base of immutable values."""


class Distribution(_Value, frozen=True, kw_only=True):
    """Summary of n samples; percentiles by nearest rank. Milliseconds unless the field says otherwise.

    Attributes:
        std: standard deviation of the samples themselves (divided by n); 0 in summaries written before it was there.
    """

    n: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    std: float = 0.0


class Goodput(_Value, frozen=True, kw_only=True):
    """Measured requests that met every latency promised to them.

    Attributes:
        name: the SLO class; "" for all requests together.
        sent: measured requests, failed ones included.
        attained: of those, completed within every threshold.
        share: attained / sent, 0..1; 0 without requests.
        rate: attained / duration_s of the window, 1/s.
    """

    name: str
    sent: int
    attained: int
    share: float
    rate: float


class Metrics(_Value, frozen=True, kw_only=True):
    """Metrics of one measured window.

    Attributes:
        sent, completed, failed: measured requests; sent = completed + failed.
        failures: kind of failure -> count: the name of a RequestStatus, or "HTTP_429" for answers with that status.
        duration_s: last completion - first intended start.
        request_throughput: completed / duration_s, 1/s.
        output_token_throughput, input_token_throughput: tokens/s of completed requests over duration_s.
        offered_rate: intended arrivals per second of the window.
        achieved_rate: requests sent per second, from the first sending to the last; 0 for fewer than two.
        ttft_ms, tpot_ms, itl_ms, e2e_ms: None where no request had one.
        request_itl_ms: one figure per request, (end - first token) / (tokens - 1): what aiperf and guidellm call ITL.
        ttft_from_send_ms, e2e_from_send_ms: the same from the moment the request was sent.
        lateness_ms: sent - due: when it was admitted where only so many may be in flight, else when it was intended.
        output_tokens, input_tokens: of completed requests.
        merged_share: chunks whose read brought several events under one receive stamp / all token-bearing chunks. Their
            gaps are not in `itl_ms`.
        multi_token_share: chunks that brought several tokens in one event (speculative decoding) / the same.
        goodput: of all requests; None where no latency was promised.
        goodput_by_class: one per SLO class, in the study's order; empty without classes.
        admission_ms: admitted - intended, of those that were admitted; None where nothing had to wait.
        admitted_rate: requests admitted per second, from the first to the last; 0 where nothing had to wait.
    """

    sent: int
    completed: int
    failed: int
    failures: dict[str, int]
    duration_s: float
    request_throughput: float
    output_token_throughput: float
    input_token_throughput: float
    offered_rate: float
    ttft_ms: Distribution | None
    tpot_ms: Distribution | None
    itl_ms: Distribution | None
    e2e_ms: Distribution | None
    ttft_from_send_ms: Distribution | None
    e2e_from_send_ms: Distribution | None
    lateness_ms: Distribution | None
    output_tokens: int
    input_tokens: int
    merged_share: float
    achieved_rate: float = 0.0
    request_itl_ms: Distribution | None = None
    multi_token_share: float = 0.0
    goodput: Goodput | None = None
    goodput_by_class: tuple[Goodput, ...] = ()
    admission_ms: Distribution | None = None
    admitted_rate: float = 0.0


class LoadAudit(_Value, frozen=True, kw_only=True):
    """What the load generator observed of itself during one run. Shares and seconds are over `wall_s`.

    The *senders* write requests and read answers; the *parser* makes timings of what they read, behind their back.

    Attributes:
        run: index of the run within the attempt (one per arrival order).
        cpu_share: CPU seconds / wall seconds of the sender that used most.
        run_queue_s: seconds the sender that waited longest waited for a CPU (/proc/PID/schedstat), 0 where unknown.
        clock_step_ms: largest movement of the wall clock against the monotonic one.
        dropped: intended arrivals never sent.
        clock: "kernel" or "user": where receive stamps come from; "virtual": nothing was received, it is simulated.
        senders: sending processes; 0 is unknown (an agent that does not tell).
        wall_s: from the first intended start to the end of the last request; 0 is unknown.
        parser_cpu_share: CPU seconds / wall seconds of the parser.
        late_read_share: reads that began more than LATE_READ_US after the kernel's stamp / reads; 0 without stamps.
        parse_lag_s: longest time something read had to wait to be parsed.
        backlog_bytes: most that was read and not yet parsed.
        priority: scheduling the senders really had: "normal", "high" or "realtime".
        pinned: CPUs the senders were pinned to; empty for none.
        stolen_s: CPU seconds the hypervisor withheld from the machine, all CPUs together (/proc/stat).
        connections: connections opened.
        other_cpu_s: CPU seconds that processes which are not this study's used on the host, all CPUs together; None
            where it is not known.
        host_cpus: CPUs of the host; 0 is unknown.
    """

    run: int
    cpu_share: float
    run_queue_s: float
    clock_step_ms: float
    dropped: int
    clock: str = "user"
    senders: int = 1
    wall_s: float = 0.0
    parser_cpu_share: float = 0.0
    late_read_share: float = 0.0
    parse_lag_s: float = 0.0
    backlog_bytes: int = 0
    priority: str = "normal"
    pinned: tuple[int, ...] = ()
    stolen_s: float = 0.0
    connections: int = 0
    other_cpu_s: float | None = None
    host_cpus: int = 0


def other_cpu_share(audit: LoadAudit) -> float | None:
    """Share of the host's CPUs that others used during the run, 0..1; None where it is not known."""
    if audit.other_cpu_s is None or audit.host_cpus == 0 or audit.wall_s == 0:
        return None
    return audit.other_cpu_s / (audit.host_cpus * audit.wall_s)


class Validity(_Value, frozen=True, kw_only=True):
    """Whether a measurement may be believed; if not, why, in one sentence with the figure and its limit.

    A valid one with a reason was taken although it has that fault, because its trial had no attempt left.
    """

    valid: bool
    reason: Reason | None = None
    detail: str = ""


class RunResult(_Value, frozen=True, kw_only=True):
    """One measured window: `run` counts arrival orders, `seed` drew this one."""

    run: int
    seed: int
    metrics: Metrics
    audit: LoadAudit
    validity: Validity


class PhaseTime(_Value, frozen=True, kw_only=True):
    """Seconds an attempt spent in a phase, in order of entry."""

    phase: str
    seconds: float


class AttemptOutcome(_Value, frozen=True, kw_only=True):
    """How an attempt ended, told by its agent. `state` is a terminal attempt state.

    Attributes:
        attempt_id, fence: which attempt; a stale fence makes the message void.
        state: COMPLETED, INFEASIBLE, ABORTED, REFUSED or CANCELLED.
        reason: None exactly when COMPLETED.
        message: the root-cause line for humans.
        log_tail: last lines of the engine's log, for INFEASIBLE and ABORTED.
        effective_config: the tuned parameters as the engine resolved them, where it tells.
        engine_version: as probed.
        phases: see PhaseTime.
        audits: one per finished run.
        batches: timing batches uploaded and acknowledged; the coordinator checks that it has them all.
        command: the engine's argument list, for reproduction.
    """

    attempt_id: str
    fence: int
    state: str
    reason: Reason | None = None
    message: str = ""
    log_tail: str = ""
    effective_config: Config = {}
    engine_version: str = ""
    phases: tuple[PhaseTime, ...] = ()
    audits: tuple[LoadAudit, ...] = ()
    batches: int = 0
    command: tuple[str, ...] = ()
