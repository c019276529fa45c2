"""A replica keeps the laws of its cache and its budget, whatever it is asked; and it agrees with a plain one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence as Many
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.simulator.replica import EngineDied, Replica, Step
from scoot.simulator.sequence import Sequence, State
from scoot.simulator.settings import Admission, Chunking, LoadMemory, Order, Resolved, SchedulerSettings

ENDLESS = LoadMemory(free_bytes=math.inf, fixed_bytes=0, token_bytes=0, sequence_bytes=0)


class Linear:
    """A millisecond, and microseconds for everything."""

    def gpu_s(self, decodes: int, decode_context: int, prefills: Many[tuple[int, int]]) -> float:
        work = sum(chunk * (20 + (chunk + 2 * before) / 100) for chunk, before in prefills)
        return 1e-3 + 1e-6 * (work + 50 * decodes + decode_context / 10)

    def cpu_s(self, sequences: int) -> float:
        return 1e-4 + 1e-6 * sequences


def resolved(scheduler: SchedulerSettings, memory: LoadMemory = ENDLESS) -> Resolved:
    return Resolved(
        engine="test",
        scheduler=scheduler,
        memory=memory,
        step_time=Linear(),
        tensor_parallel=1,
        effective={},
        start_s=0.0,
    )


def scheduler(**changes: object) -> SchedulerSettings:
    plain = SchedulerSettings(
        order=Order.DECODE_FIRST,
        admission=Admission.FULL_INPUT,
        chunked=True,
        token_budget=64,
        max_running=8,
        max_model_len=128,
        block_size=4,
        blocks=40,
        prefix_caching=False,
    )
    return msgspec.structs.replace(plain, **changes)


@st.composite
def schedulers(draw: st.DrawFn) -> SchedulerSettings:
    size = draw(st.sampled_from([1, 2, 4, 16]))
    longest = draw(st.integers(2, 60))
    running = draw(st.integers(1, 12))
    watermark = draw(st.sampled_from([0.0, 0.01, 0.2]))
    least = -(-longest // size)
    blocks = draw(st.integers(least, 3 * least + 5))
    while blocks - int(watermark * blocks) < least:
        blocks += 1
    order = draw(st.sampled_from(Order))
    admissions = [each for each in Admission if each is not Admission.NEXT_CHUNK or order is Order.DECODE_FIRST]
    return SchedulerSettings(
        order=order,
        admission=draw(st.sampled_from(admissions)),
        chunking=draw(st.sampled_from(Chunking)),
        chunked=draw(st.booleans()),
        token_budget=draw(st.integers(running, running + 80)),
        max_running=running,
        max_model_len=longest,
        block_size=size,
        blocks=blocks,
        watermark=watermark,
        prefix_caching=draw(st.booleans()),
        prefix_at_once=draw(st.booleans()),
        budget_counts_cached=draw(st.booleans()),
        delay_factor=draw(st.sampled_from([0.0, 0.5, 3.0])),
        long_prefill_threshold=draw(st.sampled_from([0, 0, 1, 7])),
        async_scheduling=draw(st.booleans()),
    )


@st.composite
def worlds(draw: st.DrawFn) -> tuple[SchedulerSettings, list[tuple[int, int, int, list[int], int]]]:
    """Settings, and requests: (gap before it in us, input, output, keys, aborted so many us after it or never)."""
    chosen = draw(schedulers())
    longest = chosen.max_model_len
    requests = []
    for number in range(draw(st.integers(0, 25))):
        prompt = draw(st.integers(1, longest - 1))
        shared = draw(st.integers(0, prompt // chosen.block_size))
        family = draw(st.integers(0, 2))
        keys = [1000 * family + at if at < shared else 10_000 * (number + 1) + at for at in range(prompt)]
        requests.append(
            (
                draw(st.sampled_from([0, 0, 100, 3000, 50_000])),
                prompt,
                draw(st.integers(1, longest - prompt)),
                keys[: prompt // chosen.block_size],
                draw(st.sampled_from([-1, -1, -1, 0, 2500, 20_000])),
            )
        )
    return chosen, requests


def check(replica: Replica, chosen: SchedulerSettings) -> None:
    """Blocks are conserved; what is kept up to date is what it would be if it were added up."""
    cache = replica._cache
    steps = replica._decode_steps
    in_use = 0
    users: Counter[int] = Counter()
    context = 0
    for sequence in replica._running:
        computed, blocks = sequence.computed, sequence.blocks
        if sequence.state is State.DECODING:
            computed += steps - sequence.decodes_from
            context += computed
            blocks = cache.blocks_for(computed + replica._in_decode)
        assert blocks >= cache.blocks_for(computed)
        assert len(sequence.held) <= blocks
        in_use += blocks - len(sequence.held)
        users.update(sequence.held)
    assert 0 <= cache.free <= cache.blocks
    assert cache.free + in_use + len(users) == cache.blocks
    assert replica._context == context
    assert replica.running <= chosen.max_running
    if chosen.prefix_caching:
        valid = [each for each in cache._queue if isinstance(each, int) or cache._freed.get(each[0]) == each[1]]
        assert sum(each if isinstance(each, int) else 1 for each in valid) == cache.free
        assert {key: n for key, n in cache._users.items() if n} == dict(users)
        assert {key for key, n in cache._users.items() if not n} == set(cache._freed)


def check_step(step: Step, chosen: SchedulerSettings) -> None:
    assert step.ends_ns > step.begins_ns
    assert all(chunk >= 1 for _, chunk in step.prefills)
    assert step.prefill_tokens == sum(chunk for _, chunk in step.prefills)
    assert step.prefill_tokens + step.decodes <= chosen.token_budget
    assert 1 <= step.decodes + len(step.prefills) <= chosen.max_running
    assert len({sequence for sequence, _ in step.prefills}) == len(step.prefills)
    if chosen.order is Order.PREFILL_FIRST:
        assert not (step.decodes and step.prefills)


def play(
    chosen: SchedulerSettings, requests: list[tuple[int, int, int, list[int], int]]
) -> list[tuple[Sequence, list[int]]]:
    """Everything to its end, checked at every step: the requests, and when their tokens came."""
    replica = Replica(resolved(chosen), record=True)
    now = at = 0
    arrivals = []
    for number, (gap, prompt, output, keys, aborted) in enumerate(requests):
        at += gap * 1000
        arrivals.append((Sequence(number, prompt, output, arrived_ns=at, keys=keys), aborted))
    pending = [sequence for sequence, _ in arrivals]
    aborts = sorted((s.arrived_ns + after * 1000, s.number) for s, after in arrivals if after >= 0)
    finished: Counter[int] = Counter()
    steps = 0
    while pending or not replica.idle:
        steps += 1
        assert steps < 20_000, "it does not come to an end"
        while pending and pending[0].arrived_ns <= now:
            assert replica.refusal(pending[0].prompt_tokens, pending[0].output_tokens) == ""
            replica.add(pending.pop(0))
        step = replica.begin(now)
        if step is None:
            assert replica.idle, "nothing is done although there is something to do"
            now = pending[0].arrived_ns if pending else now
            continue
        check_step(step, chosen)
        check(replica, chosen)
        assert len(list(replica.decoded())) == step.decodes
        while aborts and aborts[0][0] <= step.ends_ns:
            sequence = arrivals[aborts.pop(0)[1]][0]
            if sequence not in pending:
                replica.abort(sequence)
        check(replica, chosen)
        replica.end(step)
        check(replica, chosen)
        finished.update(sequence.number for sequence in step.finished)
        assert step.ends_ns > now
        now = step.ends_ns
    assert replica._reserved == 0
    assert replica._cache.free == chosen.blocks
    for sequence, aborted in arrivals:
        assert finished[sequence.number] == 1 or (aborted >= 0 and not finished[sequence.number])
        check_times(sequence, replica.tokens_ns(sequence).tolist(), complete=bool(finished[sequence.number]))
    return [(sequence, replica.tokens_ns(sequence).tolist()) for sequence, _ in arrivals]


def check_times(sequence: Sequence, times: list[int], *, complete: bool) -> None:
    assert sequence.done
    assert len(times) == sequence.generated
    assert all(a < b for a, b in pairwise([sequence.arrived_ns, *times]))
    if complete:
        assert sequence.generated == sequence.output_tokens


@given(worlds())
@settings(max_examples=300, deadline=None)
def test_blocks_are_conserved_and_every_request_is_served_once(
    world: tuple[SchedulerSettings, list[tuple[int, int, int, list[int], int]]],
) -> None:
    assert [sequence.done for sequence, _ in play(*world)] == [True] * len(world[1])


@given(worlds())
@settings(max_examples=50, deadline=None)
def test_the_same_requests_give_the_same_times(
    world: tuple[SchedulerSettings, list[tuple[int, int, int, list[int], int]]],
) -> None:
    assert [times for _, times in play(*world)] == [times for _, times in play(*world)]


@given(worlds())
@settings(max_examples=100, deadline=None)
def test_nothing_is_preempted_where_everything_was_set_aside(
    world: tuple[SchedulerSettings, list[tuple[int, int, int, list[int], int]]],
) -> None:
    chosen = msgspec.structs.replace(world[0], admission=Admission.NO_EVICT)
    assert all(sequence.preemptions == 0 for sequence, _ in play(chosen, world[1]))


class Plain:
    """Decodes first, prompts in chunks, nothing shared: every sequence looked at in every step."""

    def __init__(self, chosen: SchedulerSettings) -> None:
        self.chosen = chosen
        self.free = chosen.blocks
        self.queue: list[Sequence] = []
        self.running: list[Sequence] = []
        self.times: dict[int, list[int]] = {}

    def need(self, sequence: Sequence, tokens: int) -> int:
        return max(0, -(-tokens // self.chosen.block_size) - sequence.blocks)

    def preempt(self) -> Sequence:
        victim = self.running.pop()
        self.free += victim.blocks
        victim.blocks = victim.computed = 0
        victim.target = victim.prompt_tokens + victim.generated
        self.queue.insert(0, victim)
        return victim

    def decode(self) -> tuple[list[Sequence], bool]:
        """Those that decode, with room for a token each; whether somebody had to go for it."""
        preempted = False
        while True:
            decoding = [s for s in self.running if s.computed >= s.target]
            if sum(self.need(s, s.computed + 1) for s in decoding) <= self.free:
                break
            self.preempt()
            preempted = True
        for sequence in decoding:
            need = self.need(sequence, sequence.computed + 1)
            self.free -= need
            sequence.blocks += need
        return decoding, preempted

    def prefill(self, now: int, budget: int, *, preempted: bool) -> list[tuple[Sequence, int]]:
        """Chunks of prompts."""
        prefills: list[tuple[Sequence, int]] = []
        for sequence in self.running:
            if sequence.computed < sequence.target and budget:
                chunk = min(budget, sequence.target - sequence.computed)
                prefills.append((sequence, chunk))
                budget -= chunk
        while not preempted and self.queue and budget and len(self.running) < self.chosen.max_running:
            sequence = self.queue[0]
            need = self.need(sequence, sequence.target)
            if sequence.arrived_ns > now or need > self.free:
                break
            self.queue.pop(0)
            self.running.append(sequence)
            self.free -= need
            sequence.blocks = need
            chunk = min(budget, sequence.target)
            prefills.append((sequence, chunk))
            budget -= chunk
        return prefills

    def step(self, now: int) -> int:
        """The end of the next step, or -1."""
        decoding, preempted = self.decode()
        prefills = self.prefill(now, self.chosen.token_budget - len(decoding), preempted=preempted)
        if not prefills and not decoding:
            return -1
        seconds = Linear().gpu_s(
            len(decoding), sum(s.computed + 1 for s in decoding), [(chunk, s.computed) for s, chunk in prefills]
        ) + Linear().cpu_s(len(decoding) + len(prefills))
        end = now + round(seconds * 1e9)
        for sequence, chunk in prefills:
            sequence.computed += chunk
        for sequence in decoding:
            sequence.computed += 1
            sequence.target += 1
        for sequence in decoding + [s for s, _ in prefills if s.computed >= s.target]:
            sequence.generated += 1
            self.times.setdefault(sequence.number, []).append(end)
            if sequence.generated == sequence.output_tokens:
                self.running.remove(sequence)
                self.free += sequence.blocks
        return end


@given(worlds())
@settings(max_examples=200, deadline=None)
def test_it_agrees_with_a_plain_one(
    world: tuple[SchedulerSettings, list[tuple[int, int, int, list[int], int]]],
) -> None:
    chosen = msgspec.structs.replace(
        world[0],
        order=Order.DECODE_FIRST,
        admission=Admission.FULL_INPUT,
        chunking=Chunking.FCFS,
        chunked=True,
        watermark=0.0,
        prefix_caching=False,
        delay_factor=0.0,
        long_prefill_threshold=0,
        async_scheduling=False,
    )
    requests: list[tuple[int, int, int, list[int], int]] = [
        (gap, prompt, output, [], -1) for gap, prompt, output, _, _ in world[1]
    ]
    plain = Plain(chosen)
    at = now = 0
    pending = []
    for number, (gap, prompt, output, _, _) in enumerate(requests):
        at += gap * 1000
        pending.append(Sequence(number, prompt, output, arrived_ns=at))
    while True:
        while pending and pending[0].arrived_ns <= now:
            plain.queue.append(pending.pop(0))
        end = plain.step(now)
        if end < 0:
            if not pending:
                break
            now = pending[0].arrived_ns
            continue
        now = end
    for sequence, times in play(chosen, requests):
        assert times == plain.times.get(sequence.number, [])


def test_a_step_that_does_not_fit_into_memory_ends_the_engine() -> None:
    tight = LoadMemory(free_bytes=1000, fixed_bytes=100, token_bytes=10, sequence_bytes=50)
    replica = Replica(resolved(scheduler(), tight))
    replica.add(Sequence(0, 85, 3, arrived_ns=0))
    replica.add(Sequence(1, 30, 3, arrived_ns=0))
    assert replica.begin(0) is not None, "64 tokens and one sequence take 790 of 1,000 bytes"
    tighter = Replica(resolved(scheduler(), msgspec.structs.replace(tight, free_bytes=789)))
    tighter.add(Sequence(0, 85, 3, arrived_ns=0))
    with pytest.raises(EngineDied, match="CUDA out of memory"):
        tighter.begin(0)
