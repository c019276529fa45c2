"""What a replica computes in which step, rule by rule."""

from __future__ import annotations

import math
from collections.abc import Sequence as Many

import msgspec
import pytest

from scoot.simulator.kv_cache import KvCache
from scoot.simulator.replica import EngineDied, Replica, Step
from scoot.simulator.sequence import Sequence
from scoot.simulator.settings import Admission, Chunking, LoadMemory, Order, Resolved, SchedulerSettings

MS = 1_000_000


class Millisecond:
    """Every step takes one."""

    def gpu_s(self, decodes: int, decode_context: int, prefills: Many[tuple[int, int]]) -> float:
        return 0.001

    def cpu_s(self, sequences: int) -> float:
        return 0.0


def replica(memory: LoadMemory | None = None, **changes: object) -> Replica:
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
    endless = LoadMemory(free_bytes=math.inf, fixed_bytes=0, token_bytes=0, sequence_bytes=0)
    return Replica(
        Resolved(
            engine="test",
            scheduler=msgspec.structs.replace(plain, **changes),
            memory=memory or endless,
            step_time=Millisecond(),
            tensor_parallel=1,
            effective={},
            start_s=0.0,
        ),
        record=True,
    )


def sequence(number: int, prompt: int, output: int = 10, *, at: int = 0, keys: Many[int] = ()) -> Sequence:
    return Sequence(number, prompt, output, arrived_ns=at, keys=keys)


def steps(engine: Replica, count: int = 100, now: int = 0) -> list[Step]:
    """The next ones, back to back."""
    done = []
    for _ in range(count):
        step = engine.begin(now)
        if step is None:
            break
        engine.end(step)
        done.append(step)
        now = step.ends_ns
    return done


def shape(step: Step) -> tuple[list[tuple[int, int]], int]:
    """(request, chunk) of each prompt, and how many decode."""
    return [(each.number, chunk) for each, chunk in step.prefills], step.decodes


def test_prompts_come_first_whole_and_hold_up_decoding() -> None:
    engine = replica(order=Order.PREFILL_FIRST, chunked=False)
    for number in range(3):
        engine.add(sequence(number, 30, 3))
    assert [shape(step) for step in steps(engine)] == [
        ([(0, 30), (1, 30)], 0),
        ([(2, 30)], 0),
        ([], 3),
        ([], 3),
    ]


def test_decodes_come_first_and_prompts_get_the_rest_of_the_budget() -> None:
    engine = replica()
    for number in range(3):
        engine.add(sequence(number, 30, 3))
    assert [shape(step) for step in steps(engine)] == [
        ([(0, 30), (1, 30), (2, 4)], 0),
        ([(2, 26)], 2),
        ([], 3),
        ([], 1),
    ]


def test_a_long_prompt_is_computed_in_parts_of_the_threshold() -> None:
    engine = replica(long_prefill_threshold=16)
    engine.add(sequence(0, 40, 1))
    engine.add(sequence(1, 20, 1))
    assert [shape(step)[0] for step in steps(engine)] == [[(0, 16), (1, 16)], [(0, 16), (1, 4)], [(0, 8)]]
    engine = replica(long_prefill_threshold=16)
    engine.add(sequence(0, 40, 1))
    assert [shape(step)[0] for step in steps(engine)] == [[(0, 40)]], "a request on its own holds up nobody"


def test_equal_progress_shares_the_budget() -> None:
    engine = replica(chunking=Chunking.EQUAL)
    for number, length in enumerate((50, 50, 8)):
        engine.add(sequence(number, length, 1))
    first, second = (shape(step)[0] for step in steps(engine, 2))
    assert first == [(0, 22), (1, 21), (2, 8)]
    assert second == [(0, 28), (1, 29)]


def test_a_prompt_waits_for_its_share_of_the_last_prompt_step() -> None:
    engine = replica(order=Order.PREFILL_FIRST, chunked=False, delay_factor=3.0)
    engine.add(sequence(0, 10, 20))
    assert shape(steps(engine, 1)[0]) == ([(0, 10)], 0)
    engine.add(sequence(1, 10, 20, at=1 * MS))
    done = steps(engine, 5, now=1 * MS)
    assert [shape(step)[1] for step in done] == [1, 1, 1, 1, 0]
    assert done[-1].begins_ns - 1 * MS > 3 * MS


def test_a_static_batch_is_served_to_its_end() -> None:
    engine = replica(admission=Admission.STATIC_BATCH)
    engine.add(sequence(0, 8, 4))
    engine.begin(0)
    engine = replica(admission=Admission.STATIC_BATCH)
    for number in range(2):
        engine.add(sequence(number, 8, 2 + 2 * number))
    first = steps(engine, 1)[0]
    engine.add(sequence(2, 8, 2))
    rest = steps(engine, now=first.ends_ns)
    assert [shape(step) for step in rest] == [([], 2), ([], 1), ([], 1), ([(2, 8)], 0), ([], 1)]


def test_no_evict_sets_aside_what_outputs_will_need() -> None:
    engine = replica(admission=Admission.NO_EVICT, blocks=32)
    for number in range(3):
        engine.add(sequence(number, 8, 56))
    done = steps(engine)
    assert shape(done[0]) == ([(0, 8), (1, 8)], 0)
    assert max(step.decodes for step in done) == 2
    assert engine.preemptions == 0


def test_the_last_one_started_makes_room_and_nobody_starts_in_that_step() -> None:
    engine = replica(blocks=8, max_model_len=32, prefix_caching=False)
    engine.add(sequence(0, 12, 20))
    engine.add(sequence(1, 12, 20))
    engine.add(sequence(2, 4, 4, at=5 * MS))
    seen = []
    now = 0
    while not engine.idle:
        before = engine.preemptions
        step = engine.begin(now)
        assert step is not None
        seen.append((engine.preemptions - before, len(step.prefills)))
        engine.end(step)
        now = step.ends_ns
    assert (1, 0) in seen
    assert all(not started for preempted, started in seen if preempted)
    assert engine.tokens_ns(sequence(9, 1)).size == 0


@pytest.mark.parametrize("sharing", [True, False])
def test_one_that_made_room_finds_its_blocks_again_where_prefixes_are_kept(sharing: bool) -> None:
    engine = replica(blocks=11, max_model_len=32, prefix_caching=sharing)
    first, second = sequence(0, 12, 13), sequence(1, 12, 13)
    engine.add(first)
    engine.add(second)
    again = [step for step in steps(engine) if step.prefills][1:]
    assert engine.preemptions == second.preemptions == 1
    assert (first.done, second.done) == (True, True)
    # 20 tokens were in the cache, five whole blocks.
    assert [chunk for step in again for _, chunk in step.prefills] == ([1] if sharing else [21])


def test_what_arrives_during_a_step_waits_for_the_next_but_one_when_it_is_planned_ahead() -> None:
    for ahead, expected in ((False, [2, 2]), (True, [1, 2])):
        engine = replica(async_scheduling=ahead)
        engine.add(sequence(0, 8, 50))
        first = steps(engine, 1)[0]
        engine.add(sequence(1, 8, 50, at=first.ends_ns - 1))
        rest = steps(engine, len(expected), now=first.ends_ns)
        assert [step.decodes + len(step.prefills) for step in rest] == expected


def test_an_idle_engine_that_plans_ahead_starts_at_once() -> None:
    engine = replica(async_scheduling=True)
    engine.add(sequence(0, 8, 1))
    first = steps(engine, 1)[0]
    engine.add(sequence(1, 8, 1, at=first.ends_ns - 1))
    assert len(steps(engine, 1, now=first.ends_ns)) == 1


@pytest.mark.parametrize(("at_once", "expected"), [(True, [8, 4]), (False, [8, 8])])
def test_prefixes_are_found_at_once_or_once_computed(at_once: bool, expected: list[int]) -> None:
    engine = replica(prefix_caching=True, prefix_at_once=at_once)
    engine.add(sequence(0, 8, 2, keys=[1, 2]))
    engine.add(sequence(1, 8, 2, keys=[1, 3]))
    step = steps(engine, 1)[0]
    assert [chunk for _, chunk in step.prefills] == expected
    engine.add(sequence(2, 8, 2, keys=[1, 2]))
    later = steps(engine, 1, now=step.ends_ns)[0]
    assert [chunk for _, chunk in later.prefills] == [4], "one token at least is computed, so its block is"
    assert engine.prefix_hit_tokens == (8 if at_once else 4)
    assert engine.prefix_queried_tokens == 24


def test_cached_tokens_may_count_against_the_budget() -> None:
    for counts, expected in ((True, 1), (False, 2)):
        engine = replica(
            order=Order.PREFILL_FIRST, chunked=False, prefix_caching=True, token_budget=40, budget_counts_cached=counts
        )
        engine.add(sequence(0, 40, 1, keys=range(10)))
        first = steps(engine, 1)[0]
        for number in (1, 2):
            engine.add(sequence(number, 36, 1, keys=range(8)))
        assert len(steps(engine, 1, now=first.ends_ns)[0].prefills) == expected


def test_the_prefix_used_longest_ago_is_lost_first_its_end_before_its_beginning() -> None:
    cache = KvCache(6, 4, sharing=True)

    def use(keys: list[int]) -> int:
        each = sequence(0, 4 * len(keys) + 1, keys=keys)
        hits = cache.found(each)
        revived = cache.idle_among(each.keys[:hits])
        assert cache.free >= len(keys) - hits + revived
        cache.share(each, hits)
        cache.take(len(keys) - hits)
        each.blocks = len(keys)
        cache.publish(each, 4 * len(keys))
        cache.release(each, each.blocks)
        return hits

    assert use([1, 2, 3]) == 0
    assert use([4, 5]) == 0
    assert use([1, 2, 3]) == 3
    assert use([6, 7]) == 0, "one block was never used, and 5, the end of the oldest, had to go"
    assert use([4, 5]) == 1
    assert cache.free == 6


def test_a_block_that_is_used_is_never_lost() -> None:
    cache = KvCache(4, 4, sharing=True)
    holder = sequence(0, 9, keys=[1, 2])
    cache.take(2)
    holder.blocks = 2
    cache.publish(holder, 8)
    cache.take(2)
    assert cache.free == 0
    assert cache.found(sequence(1, 9, keys=[1, 2])) == 2


def test_requests_that_can_never_be_served_are_told_why() -> None:
    engine = replica(max_model_len=128, blocks=40)
    assert engine.refusal(100, 28) == ""
    assert "maximum context length is 128" in engine.refusal(100, 29)
    assert "one token" in engine.refusal(0, 5)
    assert "larger than the KV cache" in replica(blocks=10).refusal(40, 20)
    assert "max_num_tokens (64)" in replica(chunked=False, reject_long_prompts=True).refusal(65, 1)
    assert replica(chunked=True, reject_long_prompts=True).refusal(65, 1) == ""


def test_a_step_that_does_not_fit_into_memory_ends_the_engine() -> None:
    tight = LoadMemory(free_bytes=790, fixed_bytes=100, token_bytes=10, sequence_bytes=50)
    engine = replica(tight)
    engine.add(sequence(0, 85))
    assert engine.begin(0) is not None, "64 tokens and one sequence take all 790 bytes"
    engine = replica(msgspec.structs.replace(tight, free_bytes=789))
    engine.add(sequence(0, 85))
    with pytest.raises(EngineDied, match="CUDA out of memory"):
        engine.begin(0)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="NEXT_CHUNK"):
        replica(order=Order.PREFILL_FIRST, admission=Admission.NEXT_CHUNK)
    with pytest.raises(ValueError, match="budget"):
        replica(max_running=65)
