"""One replica of an engine: continuous batching over a paged KV cache, step by step. Pure: the caller has the clock.

A step costs the same however many sequences decode: those that do are one group that moves together. What a step needs
of it is kept up to date instead of added up: how many they are, what is in the KV cache of all of them, how many need
a new block at which step, and who is finished when.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from scoot.simulator.kv_cache import KvCache
from scoot.simulator.sequence import Sequence, State
from scoot.simulator.settings import Admission, Chunking, Order, Resolved
from scoot.wire.errors import ScootError

_NS: Final = 1e9
_GIB: Final = 1024**3


class EngineDied(ScootError):
    """The engine ends in the middle of its work.

    Attributes:
        lines: what a real one would log, root cause first.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(lines[0])
        self.lines = lines


class Step:
    """One step of a replica.

    Attributes:
        begins_ns, ends_ns: it is computed from..to; its tokens are there at the end.
        prefills: prompts of which something is computed, and how many tokens of each, cached ones left out.
        prefill_tokens: of all of them.
        decodes: running sequences that get a token each.
        firsts: sequences whose prompt is computed to its end, which get a token, too.
        finished: sequences that have all their tokens now; filled by Replica.end.
    """

    __slots__ = ("begins_ns", "decodes", "ends_ns", "finished", "firsts", "prefill_tokens", "prefills")

    def __init__(
        self, begins_ns: int, ends_ns: int, prefills: list[tuple[Sequence, int]], tokens: int, decodes: int
    ) -> None:
        self.begins_ns = begins_ns
        self.ends_ns = ends_ns
        self.prefills = prefills
        self.prefill_tokens = tokens
        self.decodes = decodes
        self.firsts = [sequence for sequence, _ in prefills if sequence.computed >= sequence.target]
        self.finished: list[Sequence] = []


class Replica:
    """`begin` a step, let the time pass until its end, `end` it; over and over until it is idle.

    Args:
        resolved: what kind of engine.
        record: whether the times of tokens are kept for `tokens_ns`.

    Attributes:
        preemptions: sequences put back into the queue because blocks ran out, so far.
        prefix_queried_tokens, prefix_hit_tokens: of prompts that were started, so far.
    """

    def __init__(self, resolved: Resolved, *, record: bool = False) -> None:
        settings = resolved.scheduler
        self.preemptions = 0
        self.prefix_queried_tokens = 0
        self.prefix_hit_tokens = 0
        self._settings = settings
        self._memory = resolved.memory
        self._time = resolved.step_time
        self._record = record
        self._cache = KvCache(settings.blocks, settings.block_size, sharing=settings.prefix_caching)
        self._least_free = int(settings.watermark * settings.blocks)
        self._queue: deque[Sequence] = deque()
        self._gone = 0
        """Sequences in the queue that were aborted."""
        self._running: dict[Sequence, None] = {}
        """In the order they were started."""
        self._prefilling: dict[Sequence, None] = {}
        self._reserved = 0
        """Blocks set aside by NO_EVICT."""

        self._decoding: dict[Sequence, None] = {}
        self._decode_steps = 0
        self._context = 0
        """Tokens in the KV cache of all that decode."""
        self._growing = [0] * settings.block_size
        """Of those that decode: how many need another block at decode steps of each remainder by the block size."""
        self._due: dict[int, dict[Sequence, None]] = {}
        """Decode step -> sequences that are finished before it."""
        self._in_decode = False
        """In a step that decodes: each of the group has room for its next token."""

        self._last: Step | None = None
        self._last_prompt_ns = 0
        self._decode_ends: list[int] = []
        self._decode_ends_array: npt.NDArray[np.int64] = np.empty(0, np.int64)

    # --- what is there -----------------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """Sequences that were started and are not done."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return len(self._queue) - self._gone

    @property
    def outstanding(self) -> int:
        """Sequences that are not done."""
        return self.running + self.waiting

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.outstanding

    @property
    def kv_share(self) -> float:
        """Share of the KV cache in use, 0..1."""
        return 1.0 - self._cache.free / self._cache.blocks if self._cache.blocks else 1.0

    def refusal(self, prompt_tokens: int, output_tokens: int) -> str:
        """Why a request of such lengths can never be served, in an engine's words; "" if it can."""
        settings = self._settings
        if prompt_tokens < 1 or output_tokens < 1:
            return "a prompt of one token at least, and one token to generate at least, are needed"
        if prompt_tokens + output_tokens > settings.max_model_len:
            return (
                f"This model's maximum context length is {settings.max_model_len} tokens. However, you requested"
                f" {output_tokens} output tokens and your prompt contains {prompt_tokens} input tokens."
            )
        if settings.reject_long_prompts and not settings.chunked and prompt_tokens > settings.token_budget:
            return (
                f"The sum of prompt length ({prompt_tokens}) should not exceed max_num_tokens ({settings.token_budget})"
            )
        if self._cache.blocks_for(prompt_tokens + output_tokens) > self._cache.blocks - self._least_free:
            return (
                f"a request of {prompt_tokens + output_tokens} tokens is larger than the KV cache,"
                f" {self._cache.blocks} blocks of {settings.block_size}"
            )
        return ""

    def tokens_ns(self, sequence: Sequence) -> npt.NDArray[np.int64]:
        """(generated,) when each token of a sequence came, in order. Only for replicas that record."""
        if len(self._decode_ends_array) != len(self._decode_ends):
            self._decode_ends_array = np.array(self._decode_ends, np.int64)
        ends = self._decode_ends_array
        times = sequence.times
        if sequence.state is State.DECODING:
            times = [*times, (sequence.decodes_from, self._decode_steps)]
        parts = [np.array([each], np.int64) if isinstance(each, int) else ends[each[0] : each[1]] for each in times]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    # --- requests come and go ----------------------------------------------------------------------------------------

    def add(self, sequence: Sequence) -> None:
        """Another one, last in the queue. `refusal` must have nothing against it."""
        self._queue.append(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Its client is gone. Nothing happens to one that is done."""
        if sequence.state is State.DONE:
            return
        if sequence.state is State.WAITING:
            self._gone += 1
        else:
            self._stop(sequence)
        sequence.state = State.DONE

    # --- steps -------------------------------------------------------------------------------------------------------

    def begin(self, now_ns: int) -> Step | None:
        """Plan the next step, which begins at once; None when there is nothing to do.

        Raises:
            EngineDied: the device's memory does not suffice.
        """
        step = self._plan(now_ns, self._cutoff(now_ns))
        if step is None and self._settings.async_scheduling:
            # Nothing had come when this step was planned, so nothing was hidden behind the one before.
            step = self._plan(now_ns, now_ns)
        self._last = step
        return step

    def decoded(self) -> Iterable[Sequence]:
        """Between `begin` and `end`: the sequences that get a token in this step, those in `Step.firsts` left out."""
        return self._decoding if self._in_decode else ()

    def end(self, step: Step) -> None:
        """The step is computed."""
        if self._in_decode:
            self._in_decode = False
            self._decode_steps += 1
            self._context += len(self._decoding)
            if self._record:
                self._decode_ends.append(step.ends_ns)
            for sequence in self._due.pop(self._decode_steps, ()):
                self._finish(sequence, step)
        if not step.prefills:
            return
        self._last_prompt_ns = step.ends_ns - step.begins_ns
        if not self._settings.prefix_at_once:
            for sequence, _ in step.prefills:
                if sequence.state is not State.DONE:
                    self._cache.publish(sequence, sequence.computed)
        for sequence in step.firsts:
            if sequence.state is not State.DONE:
                self._prefilled(sequence, step)

    def _prefilled(self, sequence: Sequence, step: Step) -> None:
        """A prompt is computed to its end."""
        sequence.generated += 1
        if self._record:
            sequence.times.append(step.ends_ns)
        del self._prefilling[sequence]
        if sequence.generated >= sequence.output_tokens:
            self._finish(sequence, step)
        else:
            self._join(sequence)

    def _cutoff(self, now_ns: int) -> int:
        """Sequences that arrived later are not known when the step is planned."""
        last = self._last
        if self._settings.async_scheduling and last is not None and last.ends_ns == now_ns:
            return last.begins_ns
        return now_ns

    def _plan(self, now_ns: int, cutoff_ns: int) -> Step | None:
        settings = self._settings
        prefills: list[tuple[Sequence, int]] = []
        if settings.order is Order.PREFILL_FIRST:
            self._start(prefills, self._continue(prefills, settings.token_budget), now_ns, cutoff_ns)
            if not prefills:
                self._grow()
        else:
            before = self.preemptions
            budget = settings.token_budget - self._grow()
            if settings.chunking is Chunking.EQUAL:
                budget = self._continue_equally(prefills, budget)
            else:
                budget = self._continue(prefills, budget)
            if self.preemptions == before:
                self._start(prefills, budget, now_ns, cutoff_ns)
        decodes = len(self._decoding) if self._in_decode else 0
        if not prefills and not decodes:
            return None
        tokens = sum(chunk for _, chunk in prefills)
        sequences = decodes + len(prefills)
        short = self._memory.short_by(tokens + decodes, sequences)
        if short > 0:
            raise EngineDied(
                f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {short / _GIB:.2f} GiB: a step of"
                f" {tokens + decodes} tokens and {sequences} sequences does not fit beside the KV cache"
            )
        seconds = self._time.gpu_s(
            decodes,
            self._context + decodes if decodes else 0,
            [(chunk, sequence.computed - chunk) for sequence, chunk in prefills],
        )
        cpu_s = self._time.cpu_s(sequences)
        seconds = max(seconds, cpu_s) if settings.async_scheduling else seconds + cpu_s
        return Step(now_ns, now_ns + max(1, round(seconds * _NS)), prefills, tokens, decodes)

    def _grow(self) -> int:
        """A block for each that decodes and needs one; the last ones started make room. How many decode."""
        growing, at = self._growing, self._decode_steps % self._settings.block_size
        while growing[at] > self._cache.free:
            self._preempt()
        if growing[at]:
            self._cache.take(growing[at])
        self._in_decode = bool(self._decoding)
        return len(self._decoding)

    def _continue(self, prefills: list[tuple[Sequence, int]], budget: int) -> int:
        """Prompts in progress, in their order. The budget that is left."""
        for sequence in list(self._prefilling):
            if budget <= 0:
                break
            if sequence.state is State.PREFILLING:
                budget -= self._compute(sequence, budget, prefills)
        return budget

    def _continue_equally(self, prefills: list[tuple[Sequence, int]], budget: int) -> int:
        """As `_continue`, the budget in equal parts; what one does not need is for those after it."""
        several = list(self._prefilling)
        room = self._settings.max_running - len(self._running)
        parts = len(several) + min(room, self.waiting)
        for done, sequence in enumerate(several):
            if budget <= 0:
                break
            if sequence.state is State.PREFILLING:
                budget -= self._compute(sequence, -(-budget // (parts - done)), prefills)
        return budget

    def _compute(self, sequence: Sequence, most: int, prefills: list[tuple[Sequence, int]]) -> int:
        """The next chunk of a prompt that was started, of at most so many tokens. Its length; 0 if it was preempted."""
        chunk = self._chunk(sequence.target - sequence.computed, most)
        while self._lacks(sequence, sequence.computed + chunk) > self._cache.free:
            if self._preempt() is sequence:
                return 0
        self._extend(sequence, chunk)
        prefills.append((sequence, chunk))
        return chunk

    def _chunk(self, missing: int, most: int) -> int:
        limit = self._settings.long_prefill_threshold
        # A request on its own has nobody to hold up.
        return min(missing, most, limit) if limit and self.outstanding > 1 else min(missing, most)

    def _lacks(self, sequence: Sequence, tokens: int) -> int:
        return max(0, self._cache.blocks_for(tokens) - sequence.blocks)

    def _extend(self, sequence: Sequence, chunk: int) -> None:
        """Take what the chunk needs; it counts as computed from now on."""
        sequence.computed += chunk
        lacks = self._lacks(sequence, sequence.computed)
        if lacks:
            self._cache.take(lacks)
            sequence.blocks += lacks
        if self._settings.prefix_at_once:
            self._cache.publish(sequence, sequence.computed)

    def _start(self, prefills: list[tuple[Sequence, int]], budget: int, now_ns: int, cutoff_ns: int) -> None:
        """Start waiting sequences, first come, first served, as long as everything suffices."""
        settings, cache, queue = self._settings, self._cache, self._queue
        if settings.admission is Admission.STATIC_BATCH and self._running:
            return
        while queue and budget > 0 and len(self._running) < settings.max_running:
            sequence = queue[0]
            if sequence.state is State.DONE:
                queue.popleft()
                self._gone -= 1
                continue
            if sequence.arrived_ns > cutoff_ns or self._delayed(sequence, now_ns):
                return
            hits = cache.found(sequence)
            cached = hits * settings.block_size
            missing = sequence.target - cached
            charge = sequence.target if settings.budget_counts_cached else missing
            whole = not settings.chunked and charge <= settings.token_budget
            if whole and charge > budget:
                return
            most = budget
            if settings.chunking is Chunking.EQUAL:
                most = -(-budget // max(1, min(self.waiting, settings.max_running - len(self._running))))
            chunk = missing if whole else self._chunk(missing, most)
            if not self._admit(sequence, hits, cached + chunk):
                return
            queue.popleft()
            self.prefix_queried_tokens += sequence.target
            self.prefix_hit_tokens += cached
            sequence.state = State.PREFILLING
            sequence.computed = cached
            self._running[sequence] = self._prefilling[sequence] = None
            self._extend(sequence, chunk)
            prefills.append((sequence, chunk))
            budget -= charge if whole else chunk

    def _delayed(self, sequence: Sequence, now_ns: int) -> bool:
        factor = self._settings.delay_factor
        if not factor or not self._running:
            return False
        return now_ns - sequence.arrived_ns <= factor * self._last_prompt_ns

    def _admit(self, sequence: Sequence, hits: int, tokens: int) -> bool:
        """Give a sequence the blocks that it must have to start, if they are there."""
        admission, cache = self._settings.admission, self._cache
        if admission in (Admission.NO_EVICT, Admission.STATIC_BATCH):
            reserved = cache.blocks_for(sequence.prompt_tokens + sequence.output_tokens)
            if self._reserved + reserved > cache.blocks - self._least_free:
                return False
            self._reserved += reserved
            sequence.reserved = reserved
        blocks = cache.blocks_for(tokens if admission is Admission.NEXT_CHUNK else sequence.target)
        revived = cache.idle_among(sequence.keys[:hits]) if hits else 0
        if blocks - hits + revived > cache.free - (self._least_free if self._running else 0):
            self._unreserve(sequence)
            return False
        if hits:
            cache.share(sequence, hits)
        cache.take(blocks - hits)
        sequence.blocks = blocks
        return True

    def _unreserve(self, sequence: Sequence) -> None:
        self._reserved -= sequence.reserved
        sequence.reserved = 0

    # --- the group that decodes --------------------------------------------------------------------------------------

    def _join(self, sequence: Sequence) -> None:
        now, size = self._decode_steps, self._settings.block_size
        sequence.state = State.DECODING
        sequence.decodes_from = now
        self._decoding[sequence] = None
        self._context += sequence.computed
        self._growing[(now - sequence.computed) % size] += 1
        self._due.setdefault(now + sequence.output_tokens - sequence.generated, {})[sequence] = None

    def _leave(self, sequence: Sequence) -> None:
        """Out of the group; what was implied by its steps is written down."""
        size, since = self._settings.block_size, sequence.decodes_from
        steps = self._decode_steps - since
        del self._decoding[sequence]
        self._growing[(since - sequence.computed) % size] -= 1
        due = since + sequence.output_tokens - sequence.generated
        if due in self._due:
            del self._due[due][sequence]
        if steps and self._record:
            sequence.times.append((since, self._decode_steps))
        sequence.generated += steps
        sequence.computed += steps
        self._context -= sequence.computed
        # In the middle of a step the block for the token that is being computed is taken already.
        sequence.blocks = self._cache.blocks_for(sequence.computed + self._in_decode)

    def _preempt(self) -> Sequence:
        """The last one started is put back, first in the queue, and is computed again later."""
        victim = next(reversed(self._running))
        self._stop(victim, comes_back=True)
        self.preemptions += 1
        victim.preemptions += 1
        victim.state = State.WAITING
        victim.target = victim.prompt_tokens + victim.generated
        victim.computed = 0
        self._queue.appendleft(victim)
        return victim

    def _finish(self, sequence: Sequence, step: Step) -> None:
        self._stop(sequence)
        sequence.state = State.DONE
        step.finished.append(sequence)

    def _stop(self, sequence: Sequence, *, comes_back: bool = False) -> None:
        """Out of everything but the queue; its blocks are free."""
        if sequence in self._decoding:
            self._leave(sequence)
        if comes_back:
            self._cache.remember(sequence)
        self._prefilling.pop(sequence, None)
        del self._running[sequence]
        self._unreserve(sequence)
        self._cache.release(sequence, sequence.blocks)
