"""Keys made without tokens share what the tokens of the prompts share."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scoot.benchmark.ask import NO_SESSION
from scoot.benchmark.prompt import token_ids
from scoot.benchmark.trace_row import TraceRow
from scoot.simulator.prefix import keys_of_row, keys_of_tokens


@st.composite
def rows(draw: st.DrawFn) -> TraceRow:
    blocks = draw(st.lists(st.integers(0, 2), max_size=4))
    return TraceRow(
        input_tokens=draw(st.integers(1, 90)),
        output_tokens=1,
        blocks=tuple(blocks),
        block_tokens=draw(st.sampled_from([16, 20])) if blocks else 0,
    )


def alike(first: list[int], second: list[int]) -> int:
    count = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        count += 1
    return count


@given(
    pair=st.tuples(rows(), rows()),
    sessions=st.tuples(*[st.sampled_from([NO_SESSION, 0, 1])] * 2),
    seeds=st.tuples(*[st.sampled_from([7, 7, 8])] * 2),
    block_size=st.sampled_from([1, 4, 16, 32]),
)
def test_they_share_what_prompts_share(
    pair: tuple[TraceRow, TraceRow], sessions: tuple[int, int], seeds: tuple[int, int], block_size: int
) -> None:
    by_row, by_token = [], []
    for index, (row, session, seed) in enumerate(zip(pair, sessions, seeds, strict=True)):
        by_row.append(keys_of_row(row, session=session, run_seed=seed, block_size=block_size))
        tokens = token_ids(row, index=index, run_seed=seed, low=16, high=1 << 31, session=session)
        by_token.append(keys_of_tokens(tokens, block_size))
        assert len(by_row[-1]) <= len(by_token[-1]) == (row.input_tokens or 0) // block_size
    assert alike(*by_row) == alike(*by_token)


def test_blocks_of_other_lengths_are_other_tokens_behind_the_shorter_one() -> None:
    rows = [
        TraceRow(input_tokens=17, output_tokens=1, blocks=ids, block_tokens=n) for ids, n in (((0,), 20), ((0, 0), 16))
    ]
    long, short = (keys_of_row(row, session=NO_SESSION, run_seed=7, block_size=1) for row in rows)
    assert alike(long, short) == 16


def test_a_request_of_its_own_shares_nothing() -> None:
    row = TraceRow(input_tokens=100, output_tokens=1)
    assert keys_of_row(row, session=NO_SESSION, run_seed=0, block_size=16) == []
    assert len(keys_of_row(row, session=3, run_seed=0, block_size=16)) == 6
