"""Synthetic prompts: exact lengths, shared prefixes within a run, none across runs."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.benchmark.prompt import FIT_CALLS, WORDS, fit_text, token_ids
from scoot.benchmark.trace import TraceRow

_ROWS = st.builds(
    lambda length, blocks, size: TraceRow(
        input_tokens=length, output_tokens=1, blocks=tuple(blocks), block_tokens=size if blocks else 0
    ),
    st.integers(1, 400),
    st.lists(st.integers(0, 50), max_size=8),
    st.integers(1, 64),
)
_SEEDS = st.integers(-(2**70), 2**70)


def _ids(row: TraceRow, index: int = 0, run_seed: int = 0, low: int = 3, high: int = 32_000) -> list[int]:
    return token_ids(row, index=index, run_seed=run_seed, low=low, high=high)


@settings(deadline=None)
@given(row=_ROWS, index=st.integers(0, 2**32), run_seed=_SEEDS, low=st.integers(0, 10), span=st.integers(1, 2**31))
def test_exact_length_in_range_and_deterministic(row: TraceRow, index: int, run_seed: int, low: int, span: int) -> None:
    ids = _ids(row, index, run_seed, low, low + span)
    assert len(ids) == row.input_tokens
    assert all(low <= token < low + span for token in ids)
    assert all(type(token) is int for token in ids)
    assert ids == _ids(row, index, run_seed, low, low + span)


@settings(deadline=None)
@given(a=_ROWS, b=_ROWS, run_seed=_SEEDS)
def test_prefix_shared_exactly_as_far_as_the_blocks_are(a: TraceRow, b: TraceRow, run_seed: int) -> None:
    if a.block_tokens and b.block_tokens:
        b = TraceRow(input_tokens=b.input_tokens, output_tokens=1, blocks=b.blocks, block_tokens=a.block_tokens)
    equal = 0
    for x, y in zip(a.blocks, b.blocks, strict=False):
        if x != y:
            break
        equal += 1
    shared = min(equal * a.block_tokens, a.input_tokens or 0, b.input_tokens or 0)
    ids_a, ids_b = _ids(a, 1, run_seed, 0, 2**31), _ids(b, 2, run_seed, 0, 2**31)
    assert ids_a[:shared] == ids_b[:shared]
    # Beyond it tokens of 31 bits agree by accident once in 2^31 draws.
    rest = list(zip(ids_a[shared:], ids_b[shared:], strict=False))
    assert not rest or rest[0][0] != rest[0][1]


@settings(deadline=None)
@given(row=_ROWS, seeds=st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=2, unique=True))
def test_runs_share_nothing(row: TraceRow, seeds: list[int]) -> None:
    first, second = (_ids(row, 0, seed, 0, 2**31) for seed in seeds)
    assert all(x != y for x, y in zip(first, second, strict=True))


def test_requests_without_blocks_differ_within_a_run() -> None:
    row = TraceRow(input_tokens=16, output_tokens=1)
    assert len({tuple(_ids(row, index)) for index in range(1000)}) == 1000


def test_tokens_are_spread_evenly() -> None:
    ids = _ids(TraceRow(input_tokens=100_000, output_tokens=1), low=0, high=10)
    counts = [ids.count(token) for token in range(10)]
    assert max(abs(count - 10_000) for count in counts) < 600  # six standard deviations


@pytest.mark.parametrize(("low", "high"), [(5, 5), (6, 5), (-1, 5), (0, 2**33)])
def test_ranges_that_hold_no_token(low: int, high: int) -> None:
    with pytest.raises(ValueError, match="cannot be drawn"):
        _ids(TraceRow(input_tokens=1, output_tokens=1), low=low, high=high)


def test_rows_of_unknown_length_have_no_token_ids() -> None:
    row = TraceRow(prompt="text", output_tokens=1)
    with pytest.raises(ValueError, match="sent as its text"):
        _ids(row)
    with pytest.raises(ValueError, match="cannot be made"):
        fit_text(TraceRow(output_tokens=1), index=0, run_seed=0, count_tokens=len)


def _words(text: str) -> int:
    return len(text.split())


def _with_begin(text: str) -> int:
    return 1 + len(re.findall(r"\w+|[^\w\s]", text))


def _pieces(text: str) -> int:
    return sum(1 + (len(word) > 5) + (len(word) > 8) for word in re.findall(r"\w+|[^\w\s]", text))


def _bytes(text: str) -> int:
    return len(text.encode())


@settings(max_examples=40, deadline=None)
@given(
    tokenizer=st.sampled_from([_words, _with_begin, _pieces, _bytes]),
    length=st.integers(2, 3000),
    index=st.integers(0, 1000),
    run_seed=_SEEDS,
)
def test_text_of_exact_length_within_the_allowed_calls(
    tokenizer: object, length: int, index: int, run_seed: int
) -> None:
    assert callable(tokenizer)
    calls = 0

    def count(text: str) -> int:
        nonlocal calls
        calls += 1
        counted = tokenizer(text)
        assert isinstance(counted, int)
        return counted

    row = TraceRow(input_tokens=length, output_tokens=1)
    text, actual = fit_text(row, index=index, run_seed=run_seed, count_tokens=count)
    assert actual == tokenizer(text) == length
    assert calls <= FIT_CALLS


def test_where_exactness_is_impossible_the_longest_below_is_returned_and_said() -> None:
    row = TraceRow(input_tokens=101, output_tokens=1)
    calls = 0

    def even(text: str) -> int:
        nonlocal calls
        calls += 1
        return 2 * len(text.split())

    text, actual = fit_text(row, index=0, run_seed=0, count_tokens=even)
    assert actual == even(text) == 100
    assert calls <= FIT_CALLS + 1


def test_where_one_word_is_too_long_it_is_returned_all_the_same() -> None:
    row = TraceRow(input_tokens=2, output_tokens=1)
    text, actual = fit_text(row, index=0, run_seed=0, count_tokens=lambda text: 50 + len(text))
    assert text in WORDS
    assert actual == 50 + len(text)


def test_a_prompt_is_sent_as_it_is() -> None:
    row = TraceRow(prompt="as it is", input_tokens=99, output_tokens=1)
    assert fit_text(row, index=0, run_seed=0, count_tokens=_words) == ("as it is", 3)


def test_texts_share_their_blocks_and_runs_share_nothing() -> None:
    rows = [TraceRow(input_tokens=60, output_tokens=1, blocks=(4,), block_tokens=40)] * 2
    one, two = (fit_text(row, index=i, run_seed=1, count_tokens=_words)[0] for i, row in enumerate(rows))
    assert one.split()[:40] == two.split()[:40]
    assert one.split()[40:] != two.split()[40:]
    other = fit_text(rows[0], index=0, run_seed=2, count_tokens=_words)[0]
    assert other.split()[:40] != one.split()[:40]
