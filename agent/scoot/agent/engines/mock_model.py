"""A small continuous-batching engine: which sequences a step computes, how long it takes, what it brings. Pure.

The step-time model, and what each flag trades:

* A step costs `base + decode x sequences decoding + prefill x prompt tokens + context x tokens attended to + block x
  blocks attended to`, divided by the tensor-parallel degree, plus an overhead per additional device.
* More `max_num_seqs`: less waiting (TTFT), longer steps for everyone (TPOT).
* More `max_num_batched_tokens`: prompts need fewer steps (TTFT), and hold up decoding for longer (TPOT).
* Larger `block_size`: less work per token, more of the KV cache lost in half-filled blocks, fewer prefixes found.
* Out of blocks, the youngest sequence is preempted and computed again later.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

import msgspec

from scoot.agent.engines.mock_knobs import CommandLine, EngineFlags

_FULL_UTILIZATION: Final = 0.9


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """What a step costs, and the size of the KV cache.

    Attributes:
        base_ms: any step.
        decode_us: per decoding sequence.
        prefill_us: per prompt token.
        context_us: per token attended to.
        block_us: per block attended to.
        tp_overhead_ms: per device after the first.
        kv_tokens: KV cache of one device at gpu_memory_utilization 0.9, tokens.
        time_scale: factor over all of it.
    """

    base_ms: float
    decode_us: float
    prefill_us: float
    context_us: float
    block_us: float
    tp_overhead_ms: float
    kv_tokens: int
    time_scale: float


def costs_of(line: CommandLine) -> Costs:
    """The costs a command line sets."""
    return Costs(**{name: getattr(line.knobs, name) for name in Costs.__struct_fields__})


@dataclass(slots=True, eq=False)
class Job:
    """One request inside the engine. Lengths in tokens."""

    prompt: tuple[int, ...]
    max_tokens: int
    computed: int = 0
    generated: int = 0
    blocks: int = 0
    cached: int = 0
    aborted: bool = False
    hashes: list[int] | None = None

    @property
    def context(self) -> int:
        """Tokens that must be computed before the next one can be generated."""
        return len(self.prompt) + self.generated


class Step(msgspec.Struct, frozen=True):
    """One step: sequences and prompt tokens computed, sequences that get a token, and its length in ms."""

    prefills: tuple[tuple[Job, int], ...]
    decodes: tuple[Job, ...]
    ms: float


class Scheduler:
    """Waiting and running jobs, and the KV cache. `plan` a step, wait for its length, then `complete` it."""

    def __init__(self, flags: EngineFlags, costs: Costs) -> None:
        self._flags = flags
        self._costs = costs
        share = flags.gpu_memory_utilization / _FULL_UTILIZATION
        self.blocks = int(costs.kv_tokens * share * flags.tensor_parallel_size) // flags.block_size
        self.free_blocks = self.blocks
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self._prefixes: OrderedDict[int, None] = OrderedDict()

    @property
    def kv_share(self) -> float:
        """Share of the KV cache in use, 0..1."""
        return 1.0 - self.free_blocks / self.blocks if self.blocks else 1.0

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waiting and not self.running

    def fits(self, tokens: int) -> bool:
        """Whether one job of so many tokens, alone, fits into the KV cache."""
        return self._blocks_for(tokens) <= self.blocks

    def add(self, job: Job) -> None:
        """A new job, last in the queue. It must fit."""
        self.waiting.append(job)

    def abort(self, job: Job) -> None:
        """Its client is gone."""
        job.aborted = True
        if job in self.running:
            self.running.remove(job)
            self._release(job)
        elif job in self.waiting:
            self.waiting.remove(job)

    def plan(self) -> Step:
        """The next step."""
        prefills: list[tuple[Job, int]] = []
        budget = self._flags.max_num_batched_tokens
        if not self._flags.enable_chunked_prefill:
            self._admit(prefills, budget)
            decodes = [] if prefills else self._decodable(budget)
        else:
            decodes = self._decodable(budget)
            budget -= len(decodes)
            for job in self.running:
                missing = job.context - job.computed
                if (missing > 1 or job.generated == 0) and budget > 0:
                    part = min(missing, budget)
                    prefills.append((job, part))
                    budget -= part
            self._admit(prefills, budget)
        return Step(tuple(prefills), tuple(decodes), self._length_ms(prefills, decodes))

    def complete(self, step: Step) -> list[Job]:
        """Account for a computed step. Jobs that got a token, in order; finished ones have left."""
        served: list[Job] = []
        for job, part in step.prefills:
            if job.aborted:
                continue
            job.computed += part
            if job.computed >= job.context:
                served.append(job)
        for job in step.decodes:
            if not job.aborted:
                job.computed += 1
                served.append(job)
        for job in served:
            job.generated += 1
            if job.generated >= job.max_tokens:
                self.running.remove(job)
                self._remember(job)
                self._release(job)
        return served

    def _decodable(self, budget: int) -> list[Job]:
        """Running jobs that lack one token only, each with room for it; the youngest are preempted to make room."""
        decodes: list[Job] = []
        for job in list(self.running):
            if job.context - job.computed != 1 or job.generated == 0 or len(decodes) >= budget:
                continue
            if job not in self.running:
                continue
            while not self._reserve(job, job.context):
                victim = self.running[-1]
                self._preempt(victim)
                if victim in decodes:
                    decodes.remove(victim)
                if victim is job:
                    break
            else:
                decodes.append(job)
        return decodes

    def _admit(self, prefills: list[tuple[Job, int]], budget: int) -> None:
        """Start waiting jobs while sequences, tokens and blocks last; without chunks, whole prompts only."""
        whole = not self._flags.enable_chunked_prefill
        while self.waiting and len(self.running) < self._flags.max_num_seqs and budget > 0:
            job = self.waiting[0]
            cached = self._cached_tokens(job)
            missing = job.context - cached
            if (whole and missing > budget and prefills) or not self._reserve(job, job.context):
                return
            self.waiting.popleft()
            self.running.append(job)
            job.computed = job.cached = cached
            part = missing if whole else min(missing, budget)
            prefills.append((job, part))
            budget -= part

    def _preempt(self, job: Job) -> None:
        self.running.remove(job)
        self._release(job)
        job.computed = 0
        self.waiting.appendleft(job)

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self._flags.block_size)

    def _reserve(self, job: Job, tokens: int) -> bool:
        wanted = self._blocks_for(tokens) - job.blocks
        if wanted > self.free_blocks:
            return False
        self.free_blocks -= max(0, wanted)
        job.blocks += max(0, wanted)
        return True

    def _release(self, job: Job) -> None:
        self.free_blocks += job.blocks
        job.blocks = 0

    def _length_ms(self, prefills: list[tuple[Job, int]], decodes: list[Job]) -> float:
        costs = self._costs
        contexts = [job.context for job in decodes] + [job.computed + part for job, part in prefills]
        us = (
            costs.decode_us * len(decodes)
            + costs.prefill_us * sum(part for _, part in prefills)
            + costs.context_us * sum(contexts)
            + costs.block_us * sum(map(self._blocks_for, contexts))
        )
        degree = self._flags.tensor_parallel_size
        ms = (costs.base_ms + us / 1000) / degree + costs.tp_overhead_ms * (degree - 1)
        return ms * costs.time_scale

    def _hashes(self, job: Job) -> list[int]:
        """One hash per whole block of the prompt, each over everything before its end."""
        if job.hashes is None:
            size = self._flags.block_size
            job.hashes = []
            chain = 0
            for start in range(0, len(job.prompt) - size + 1, size):
                chain = hash((chain, job.prompt[start : start + size]))
                job.hashes.append(chain)
        return job.hashes

    def _cached_tokens(self, job: Job) -> int:
        """Leading tokens that need not be computed; never all of them."""
        if not self._flags.enable_prefix_caching or not self._prefixes:
            return 0
        blocks = 0
        for key in self._hashes(job):
            if key not in self._prefixes:
                break
            self._prefixes.move_to_end(key)
            blocks += 1
        return min(blocks * self._flags.block_size, len(job.prompt) - 1)

    def _remember(self, job: Job) -> None:
        if not self._flags.enable_prefix_caching:
            return
        for key in self._hashes(job):
            self._prefixes[key] = None
            self._prefixes.move_to_end(key)
        while len(self._prefixes) > self.blocks:
            self._prefixes.popitem(last=False)
