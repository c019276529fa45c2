"""What a simulated engine is, once its parameters are resolved: what scheduler, memory and clocks work with. Pure.

Dialects (scoot.simulator.dialect) make it from the parameters of an engine generation; nothing here knows their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from scoot.wire.errors import ScootError
from scoot.wire.spec import Config


class Order(StrEnum):
    """What a step computes.

    PREFILL_FIRST: whole prompts as soon as any can be admitted, else one token of every running sequence (vLLM 0.4).
    Not with Admission.NEXT_CHUNK: prompts that make room for each other would never end.
    DECODE_FIRST: one token of every running sequence, and prompts with what is left of the budget.
    """

    PREFILL_FIRST = "prefill_first"
    DECODE_FIRST = "decode_first"


class Admission(StrEnum):
    """When a waiting sequence may start, as far as the KV cache goes.

    NEXT_CHUNK: blocks for what this step computes of it. FULL_INPUT: blocks for its whole input. NO_EVICT: blocks for
    its input and all of its output, on top of what everything running may still need, so that nothing is ever
    preempted. STATIC_BATCH: as NO_EVICT, and only when nothing runs that was started in an earlier step.
    """

    NEXT_CHUNK = "next_chunk"
    FULL_INPUT = "full_input"
    NO_EVICT = "no_evict"
    STATIC_BATCH = "static_batch"


class Chunking(StrEnum):
    """How prompts share the budget. FCFS: in their order. EQUAL: the same for each of those in progress."""

    FCFS = "fcfs"
    EQUAL = "equal"


class SchedulerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How one replica schedules.

    Attributes:
        order, admission, chunking: see there.
        chunked: prompts may be computed in parts; without it they are computed whole.
        token_budget: most tokens computed in one step, >= max_running.
        max_running: most sequences computed together, >= 1.
        max_model_len: longest input and output of a sequence, tokens.
        block_size: tokens of a block of the KV cache.
        blocks: blocks of the KV cache of a replica; each holds `block_size` tokens of one sequence.
        watermark: share of the blocks that admission leaves free, 0..1.
        prefix_caching: leading blocks of a prompt that are in the cache are not computed again.
        prefix_at_once: blocks can be found from the moment they are scheduled (vLLM 0.32), not once they are computed.
        budget_counts_cached: cached tokens count against the budget as well (vLLM 0.4).
        delay_factor: a prompt waits until the oldest one has waited for so many times the last prompt step (vLLM 0.4's
            scheduler_delay_factor), unless nothing runs; 0 is no delay.
        long_prefill_threshold: most tokens of one prompt in one step, unless it is the only request; 0 is no limit.
        async_scheduling: the next step is planned while this one is computed, so that the time of the CPU is hidden as
            far as it is shorter, and a sequence that arrives during a step waits for the next but one.
        reject_long_prompts: a prompt longer than the budget is refused when it arrives, and not only when it cannot fit
            (TensorRT-LLM without chunking).
    """

    order: Order
    admission: Admission
    chunking: Chunking = Chunking.FCFS
    chunked: bool
    token_budget: int
    max_running: int
    max_model_len: int
    block_size: int
    blocks: int
    watermark: float = 0.0
    prefix_caching: bool
    prefix_at_once: bool = True
    budget_counts_cached: bool = False
    delay_factor: float = 0.0
    long_prefill_threshold: int = 0
    async_scheduling: bool = False
    reject_long_prompts: bool = False

    def __post_init__(self) -> None:
        if self.order is Order.PREFILL_FIRST and self.admission is Admission.NEXT_CHUNK:
            raise ValueError("PREFILL_FIRST does not go with NEXT_CHUNK")
        if not 1 <= self.max_running <= self.token_budget:
            raise ValueError(f"{self.max_running} sequences need a budget of so many tokens, not {self.token_budget}")


class LoadMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Device memory under load: a step that needs more than what is free kills the engine.

    A step needs `fixed_bytes + token_bytes x tokens computed + sequence_bytes x sequences computed`.

    Attributes:
        free_bytes: of one device, after weights, KV cache and everything else that is held for good.
    """

    free_bytes: float
    fixed_bytes: float
    token_bytes: float
    sequence_bytes: float

    def short_by(self, tokens: int, sequences: int) -> float:
        """Bytes that a step lacks; 0 or less where it fits."""
        return self.fixed_bytes + self.token_bytes * tokens + self.sequence_bytes * sequences - self.free_bytes


class StepTime(Protocol):
    """How long the steps of one replica take, seconds. Called once a step: it should take microseconds."""

    def gpu_s(self, decodes: int, decode_context: int, prefills: Sequence[tuple[int, int]]) -> float:
        """Time on the device.

        Args:
            decodes: sequences that get one token each.
            decode_context: tokens they attend to, summed, the new ones included.
            prefills: (tokens computed, tokens before them that are in the KV cache) of each prompt.
        """
        ...

    def cpu_s(self, sequences: int) -> float:
        """Time of the scheduler, of preparing inputs and of processing outputs of a step with so many sequences."""
        ...


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """A service that starts: what one replica is, and how many there are.

    Attributes:
        engine: generation and version as its dialect names it, e.g. "vllm-0.32".
        scheduler, memory, step_time: of each replica.
        tensor_parallel: devices of each replica.
        effective: every parameter the generation knows, with the value it has in the end.
        start_s: how long a start takes, seconds.
        stream_interval: tokens that are sent together; the first and the last go at once.
        request_limit: most requests waiting or running in a replica; one more is refused (HTTP 503). None: no limit.
        log: lines the engine says at its start.
    """

    engine: str
    scheduler: SchedulerSettings
    memory: LoadMemory
    step_time: StepTime
    tensor_parallel: int
    effective: Config
    start_s: float
    stream_interval: int = 1
    request_limit: int | None = None
    log: tuple[str, ...] = ()


class StartFailure(ScootError):
    """The engine does not come up with this configuration. What it is: a result, not an error of the simulator.

    Attributes:
        lines: what the real engine would log, root cause first.
        exit_code: of its process: 2 for arguments that its parser refuses, 1 otherwise.
        kind: "arguments" (a known constraint, or a parameter that does not exist), "memory" or "engine".
        after_s: how long the real engine takes to say so, seconds: it imports its libraries first. Assumed.
    """

    after_s = 10.0

    def __init__(self, *lines: str, exit_code: int = 1, kind: str = "engine") -> None:
        super().__init__(lines[0])
        self.lines = lines
        self.exit_code = exit_code
        self.kind = kind
