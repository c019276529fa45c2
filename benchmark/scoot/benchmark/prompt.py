"""Synthetic prompts of exact length: token ids, or text fitted with the engine's own tokenizer. Pure.

Every token is a hash of (run seed, block or request, position), so that a prompt is the same wherever it is made,
prefixes are shared exactly where block ids are, and no run meets another run's prefixes in an engine's cache. Turns of
a session share what is in no block, too: each prompt begins with the one before it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Final

import numpy as np
import numpy.typing as npt

from scoot.benchmark.ask import NO_SESSION
from scoot.benchmark.trace_row import TraceRow

FIT_CALLS: Final = 24
"""Most calls of `count_tokens` in one fit."""

_PIECES: Final = (" a", " I", ".", ",", "1", " b", "\n", "?", " the", "!")

_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E37_79B9_7F4A_7C15
_MIX_1: Final = 0xBF58_476D_1CE4_E5B9
_MIX_2: Final = 0x94D0_49BB_1331_11EB

_U64 = npt.NDArray[np.uint64]

WORDS: Final = tuple(
    """
    time year people way day man thing woman life child world school state family student group country problem hand
    part place case week company system program question work number night point home water room mother area money
    story fact month lot right study book eye job word business issue side kind head house service friend father power
    hour game line end member law car city name team minute idea body back parent face level office door health person
    art war history party result change morning reason research girl guy moment air teacher force education foot boy
    age policy music market sense nation plan college interest death course someone experience behind reach local
    six effect use class control field pass former sell major sometimes require along development themselves report
    role better economic effort decide rate strong possible heart drug show leader light voice wife whole police mind
    finally pull return free military price less according decision explain son hope view carry town road drive arm
    true federal break difference thank receive value international building action full model join season society
    tax director position player agree record pick wear paper special space ground form support event official center
    couple site project hit base activity star table need court produce eat teach oil half situation easy cost figure
    street image phone data cover quite picture clear practice piece land recent describe product doctor wall patient
    worker news test movie certain north love third technology catch step baby computer type attention draw film tree
    source red nearly organization choose cause hair century evidence window difficult listen soon culture chance
    brother energy period summer realize hundred available plant likely opportunity term short letter condition choice
    """.split()  # noqa: SIM905 - one word per line, or one line of 1,500 characters, would not be readable
)
"""Common English words; nearly all are one token in byte-pair vocabularies."""


def token_ids(row: TraceRow, *, index: int, run_seed: int, low: int, high: int, session: int = NO_SESSION) -> list[int]:
    """A prompt of exactly `row.input_tokens` token ids in [low, high).

    Leading blocks depend on their ids and the run only, what follows them on `session` too, or without one on `index`.

    Args:
        row: a row with `input_tokens`.
        index: the request's position in the run's schedule, unique within the run.
        run_seed: the run.
        low: smallest id.
        high: one more than the largest id.
        session: the session in the run's schedule that this is a turn of.

    Raises:
        ValueError: the row has no input length, or the range of ids is empty.
    """
    if row.input_tokens is None:
        raise ValueError("a row without input_tokens is sent as its text")
    if not 0 <= low < high <= 1 << 32:
        raise ValueError(f"token ids from [{low}, {high}) cannot be drawn")
    ids: list[int] = _draw(row, row.input_tokens, _tail_key(run_seed, index, session), run_seed, low, high).tolist()
    return ids


def fit_text(
    row: TraceRow,
    *,
    index: int,
    run_seed: int,
    count_tokens: Callable[[str], int],
    session: int = NO_SESSION,
) -> tuple[str, int]:
    """A text of `row.input_tokens` tokens as the engine counts them, and how many it really has.

    Text comes as words, so blocks are shared as far as one word is one token. Where no text found within FIT_CALLS
    counts has exactly the length, the longest one below it is returned (above it, if even one word is longer). A row
    that carries a prompt gets that prompt, whatever its length.

    Args:
        row: a row with `input_tokens` or `prompt`.
        index: the request's position in the run's schedule, unique within the run.
        run_seed: the run.
        count_tokens: tokens the engine makes of a text, special tokens included; expensive.
        session: the session in the run's schedule that this is a turn of; its texts begin alike, as far as words go.
    """
    if row.prompt is not None:
        return row.prompt, count_tokens(row.prompt)
    if row.input_tokens is None:
        raise ValueError("a row without input_tokens and prompt cannot be made")
    return _Fit(row, _tail_key(run_seed, index, session), run_seed, count_tokens).search(row.input_tokens)


class _Fit:
    """One search for a text of a given length: a secant over the number of words, then single letters at the end."""

    def __init__(self, row: TraceRow, key_of_tail: int, run_seed: int, count_tokens: Callable[[str], int]) -> None:
        self._row = row
        self._key_of_tail = key_of_tail
        self._run_seed = run_seed
        self._count = count_tokens
        self._calls = 0
        self._best = ("", -1)

    def search(self, target: int) -> tuple[str, int]:
        low, high = 0, 0  # words known to give fewer tokens; words known to give more (0: none known)
        words = target
        while self._calls < FIT_CALLS * 3 // 4:
            count = self._try(self._text(words), target)
            if count == target:
                return self._best
            if count < target:
                low = words
            else:
                high = words
            guess = max(1, round(words * target / max(1, count)))
            if high and high - low <= 1:
                break
            words = min(max(guess, low + 1), high - 1) if high else max(guess, low + 1)
        base = self._text(low) if low else ""
        tail = ""
        refused = 0
        for piece in cycle(_PIECES):
            if self._calls >= FIT_CALLS or refused == len(_PIECES):
                break
            count = self._try(base + tail + piece, target)
            if count == target:
                return self._best
            if count < target:
                tail += piece
            refused = 0 if count < target else refused + 1
        if self._best[1] < 0:
            text = self._text(1)
            return text, self._count(text)
        return self._best

    def _try(self, text: str, target: int) -> int:
        self._calls += 1
        count = self._count(text)
        if self._best[1] < count <= target:
            self._best = (text, count)
        return count

    def _text(self, words: int) -> str:
        drawn = _draw(self._row, words, self._key_of_tail, self._run_seed, 0, len(WORDS))
        return " ".join([WORDS[word] for word in drawn.tolist()])


def _tail_key(run_seed: int, index: int, session: int) -> int:
    """Key of what is in no block: the request's own, or its session's."""
    return _key(run_seed, 1, index) if session == NO_SESSION else _key(run_seed, 2, session)


def _draw(row: TraceRow, length: int, key_of_tail: int, run_seed: int, low: int, high: int) -> _U64:
    """(length,) uint64 in [low, high)."""
    if row.blocks and row.block_tokens > 0:
        whole = -(-length // row.block_tokens)
        keys = np.array([_key(run_seed, 0, block) for block in row.blocks[:whole]], dtype=np.uint64)
        shared = min(length, len(keys) * row.block_tokens)
        key = np.full(length, key_of_tail, dtype=np.uint64)
        key[:shared] = np.repeat(keys, row.block_tokens)[:shared]
        place = np.arange(length, dtype=np.uint64)
        place[:shared] %= np.uint64(row.block_tokens)
        state = key + place * np.uint64(_GOLDEN)
    else:
        state = np.uint64(key_of_tail) + np.arange(length, dtype=np.uint64) * np.uint64(_GOLDEN)
    # The upper 32 bits, scaled into the range: no modulo bias worth naming, and no division.
    drawn: _U64 = ((_mix(state) >> np.uint64(32)) * np.uint64(high - low) >> np.uint64(32)) + np.uint64(low)
    return drawn


def _mix(state: _U64) -> _U64:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection that scatters consecutive states."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_MIX_1)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_MIX_2)
    return state ^ (state >> np.uint64(31))


def _key(run_seed: int, kind: int, number: int) -> int:
    """A 64-bit key of (run, kind of stream, number in it): three rounds of SplitMix64 on Python integers."""
    state = 0
    for part in (run_seed, kind, number):
        state = (state + (part & _MASK) + _GOLDEN) & _MASK
        state = ((state ^ (state >> 30)) * _MIX_1) & _MASK
        state = ((state ^ (state >> 27)) * _MIX_2) & _MASK
        state ^= state >> 31
    return state
