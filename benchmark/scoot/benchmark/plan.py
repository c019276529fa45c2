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


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a load process needs.

    Attributes:
        targets: base URLs of the replicas, "http://127.0.0.1:8000"; loopback only.
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


class LoadProgress(msgspec.Struct, frozen=True, kw_only=True):
    """A sign of life of the load process.

    Attributes:
        phase: WARM_UP, MEASURE or DRAIN.
        run: index of the current run.
        sent, completed, failed: requests of the current run.
        tokens: output tokens of the current run.
        outstanding: requests sent and not ended.
        silent_s: seconds since any stream last brought a byte while something was outstanding, else 0.
    """

    phase: Phase
    run: int
    sent: int
    completed: int
    failed: int
    tokens: int
    outstanding: int
    silent_s: float
