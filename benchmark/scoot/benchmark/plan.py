"""What a load process is told and what it tells back, as files and JSON lines. Values only.

The agent writes `plan.json` (a LoadPlan) and starts `python -m scoot.benchmark.process plan.json`. It prints one
LoadProgress as a JSON line to stdout whenever a phase begins and at least twice a second, appends timing batches to
`spool_path` (scoot.benchmark.spool), and at the end writes `audit_path` (JSON list of LoadAudit) and exits 0. SIGTERM
makes it cancel what is outstanding, spool it as CANCELLED, write the audit and exit 0 promptly.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from scoot.wire.assignment import Phase
from scoot.wire.spec import Limits, Workload


class PromptMode(StrEnum):
    """How prompts are sent: as token ids (exact length), or as text fitted with the engine's tokenizer."""

    TOKEN_IDS = "token_ids"  # noqa: S105 - not a password
    TEXT = "text"


class Endpoint(StrEnum):
    """Which of the OpenAI API's two generating endpoints requests go to."""

    COMPLETIONS = "completions"
    CHAT = "chat"


class Priority(StrEnum):
    """How the sending processes are scheduled; what is not permitted falls back to NORMAL, and the audit says so.

    HIGH: nice -10. REALTIME: SCHED_FIFO, priority 1 (the kernel's throttling keeps 5 % of the machine for others).
    """

    NORMAL = "normal"
    HIGH = "high"
    REALTIME = "realtime"


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a load process needs.

    Attributes:
        targets: base URLs of the replicas, "http://127.0.0.1:8000" or "https://host/prefix".
        model: value of the requests' "model" field.
        prompt_mode: see PromptMode. Rows that carry a prompt text are sent as text in either mode.
        token_low, token_high: token ids prompts are drawn from, low inclusive, high exclusive.
        ignore_eos: ask for exactly the trace's output length (`ignore_eos`, `min_tokens`).
        max_model_len: requests longer than it were clipped already; 0 is unknown.
        workload: arrivals, windows, deadlines.
        rows_path: the workload blob (gzip JSONL of normalised rows, scoot.benchmark.workload).
        run_seeds: one run per seed, one after the other; a run's requests, order and prompts follow from its seed.
        limits: only `stall_timeout_s` matters here.
        spool_path, audit_path: outputs.
        endpoint: see Endpoint. Chat requests are always sent as text.
        headers: more headers of every request, in order.
        api_key_env: name of the environment variable whose value is sent as bearer token; "" for none. The key itself
            is in no file.
        proxies: use the proxies that the environment names (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).
        ca_path: file of certificates trusted for https; "" for the system's.
        verify_tls: whether the server's certificate is checked.
        senders: sending processes; 0 lets the offered load decide.
        priority: see Priority.
        cpus: CPUs the sending processes are pinned to, one each in turn; empty for none.
        own_root: a process of this host. What is neither it nor below it is others', whose CPU time the audit tells.
            0: whose is whose is not known, and the audit says nothing of it.
    """

    targets: tuple[str, ...]
    model: str
    prompt_mode: PromptMode
    token_low: int
    token_high: int
    ignore_eos: bool
    max_model_len: int
    workload: Workload
    rows_path: str
    run_seeds: tuple[int, ...]
    limits: Limits
    spool_path: str
    audit_path: str
    endpoint: Endpoint = Endpoint.COMPLETIONS
    headers: tuple[tuple[str, str], ...] = ()
    api_key_env: str = ""
    proxies: bool = False
    ca_path: str = ""
    verify_tls: bool = True
    senders: int = 0
    priority: Priority = Priority.NORMAL
    cpus: tuple[int, ...] = ()
    own_root: int = 0


class LoadProgress(msgspec.Struct, frozen=True, kw_only=True):
    """A sign of life of the load process.

    Attributes:
        phase: WARM_UP, MEASURE or DRAIN.
        run: index of the current run.
        sent, completed, failed: requests of the current run.
        tokens: output tokens of the current run.
        outstanding: requests sent and not ended.
        silent_s: seconds since the replica that has been silent longest brought a byte, of those where something is
            outstanding; else 0.
        silent_replica: that replica's index.
        ttft_ms, lateness_ms: medians since the line before (TTFT from the intended start), for display; None where
            nothing came.
        itl_ms: median over the streams under way of each one's latest gap; None without.
    """

    phase: Phase
    run: int
    sent: int
    completed: int
    failed: int
    tokens: int
    outstanding: int
    silent_s: float
    silent_replica: int = 0
    ttft_ms: float | None = None
    itl_ms: float | None = None
    lateness_ms: float | None = None
