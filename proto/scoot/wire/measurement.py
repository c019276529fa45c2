"""What a stress test taught: metrics, the verdict on its own validity, and the outcome of an attempt.

Definitions of every metric: docs/measurement.md (design section 8). Latencies are milliseconds, from the *intended*
start unless the name says `from_send`.
"""

from __future__ import annotations

import msgspec

from scoot.wire.reasons import Reason
from scoot.wire.spec import Config


class _Value(msgspec.Struct, frozen=True, kw_only=True):
    """Base of immutable values."""


class Distribution(_Value, frozen=True, kw_only=True):
    """Summary of n samples; percentiles by nearest rank. Milliseconds unless the field says otherwise."""

    n: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class Metrics(_Value, frozen=True, kw_only=True):
    """Metrics of one measured window.

    Attributes:
        sent, completed, failed: measured requests; sent = completed + failed.
        failures: kind of failure -> count.
        duration_s: last completion - first intended start.
        request_throughput: completed / duration_s, 1/s.
        output_token_throughput, input_token_throughput: tokens/s of completed requests over duration_s.
        offered_rate: intended arrivals per second of the window.
        ttft_ms, tpot_ms, itl_ms, e2e_ms: None where no request had one.
        ttft_from_send_ms, e2e_from_send_ms: the same from the moment the request was sent.
        lateness_ms: sent - intended.
        output_tokens, input_tokens: of completed requests.
        merged_share: chunks that brought more than one token / all token-bearing chunks.
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


class LoadAudit(_Value, frozen=True, kw_only=True):
    """What the load process observed of itself during one run.

    Attributes:
        run: index of the run within the attempt (one per arrival order).
        cpu_share: CPU seconds of the load process / wall seconds.
        run_queue_s: seconds it waited for a CPU (/proc/self/schedstat), 0 where unknown.
        clock_step_ms: largest movement of the wall clock against the monotonic one.
        dropped: intended arrivals never sent.
        clock: "kernel" or "user": where receive stamps come from.
    """

    run: int
    cpu_share: float
    run_queue_s: float
    clock_step_ms: float
    dropped: int
    clock: str = "user"


class Validity(_Value, frozen=True, kw_only=True):
    """Whether a measurement may be believed; if not, why, in one sentence with the figure and its limit."""

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
