"""One request of a trace, and the checks that every trace format shares. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, Self

import msgspec

from scoot.wire.errors import UserError

MAX_TOKENS: Final = 10_000_000
"""Longest input or output believed, tokens; beyond it a row is a mistake (a column mixed up, usually)."""

MAX_ARRIVAL_S: Final = 1e15
"""Latest arrival believed, seconds: no date in any unit comes near it."""

MAX_THINK_S: Final = 86_400.0
"""Longest pause between the turns of a session, seconds."""

CLASS_CHARS: Final = 100
"""Longest name of an SLO class."""

BYTES_PER_TOKEN: Final = 3.6
"""Bytes of UTF-8 per token in `estimate_tokens`: LLaMA-2 makes 3.6 of English chat, 2.3 of SQL and code."""


class TraceRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A normalised request.

    Attributes:
        arrived_s: arrival in the trace, seconds, non-decreasing over its rows; None where the trace has none.
        input_tokens: prompt length, at least 1; None when only the text is known, so the length is unknown until sent.
        output_tokens: tokens to generate, at least 1.
        prompt: prompt text, sent as it is; None for a synthetic prompt of `input_tokens` tokens.
        blocks: ids of the prompt's leading blocks; two rows with equal leading ids share that prefix.
        block_tokens: tokens of each block (the last may be cut by `input_tokens`); 0 exactly when there are no blocks.
        session: turns of one session have the same number and come in their order, other rows may lie between; None
            for a request on its own. What of a synthetic prompt is not in `blocks` grows from turn to turn.
        think_s: pause between the end of the turn before and this one, 0..MAX_THINK_S; 0 for a first turn. The arrival
            time of a further turn does not matter.
        slo_class: name of the SLO class the request belongs to; None lets the run's seed decide.
    """

    arrived_s: float | None = None
    input_tokens: int | None = None
    output_tokens: int
    prompt: str | None = None
    blocks: tuple[int, ...] = ()
    block_tokens: int = 0
    session: int | None = None
    think_s: float = 0.0
    slo_class: str | None = None


class Rows(tuple[TraceRow, ...]):  # noqa: SLOT001 - a tuple subclass cannot have non-empty slots
    """Rows of a trace, with one sentence per thing that reading did to them (`notes`). Otherwise a plain tuple."""

    notes: tuple[str, ...]

    def __new__(cls, rows: Iterable[TraceRow], notes: Iterable[str] = ()) -> Self:
        """Rows with their notes."""
        self = super().__new__(cls, rows)
        self.notes = tuple(notes)
        return self


def first_turns(rows: Sequence[TraceRow]) -> list[TraceRow]:
    """The rows that begin something: requests on their own, and first turns of sessions."""
    seen: set[int] = set()
    firsts: list[TraceRow] = []
    for row in rows:
        if row.session is None:
            firsts.append(row)
        elif row.session not in seen:
            seen.add(row.session)
            firsts.append(row)
    return firsts


def estimate_tokens(text: str) -> int:
    """Rough number of tokens of `text`, at least 1, without a tokenizer.

    BYTES_PER_TOKEN bytes make one. That is right on average for English chat with LLaMA-2's vocabulary (a single text
    may be off by a quarter), and too low for SQL and code, by a third.
    """
    return max(1, math.ceil(len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN))


def input_estimate(row: TraceRow) -> int:
    """The row's input length in tokens: as the trace says, else `estimate_tokens` of its text."""
    if row.input_tokens is not None:
        return row.input_tokens
    return estimate_tokens(row.prompt or "")


def check_tokens(value: int | None, *, key: str, path: str, line: int) -> int:
    """`value` as a length in tokens, 1..MAX_TOKENS.

    Raises:
        UserError: it is missing or out of range.
    """
    if value is None:
        raise UserError("the length is missing", path=path, line=line, key=key, hint="every request needs one")
    if value < 1:
        raise UserError(
            f"{value} tokens: a length is at least 1", path=path, line=line, key=key, hint="remove or mend this row"
        )
    if value > MAX_TOKENS:
        raise UserError(
            f"{value} tokens is over the limit of {MAX_TOKENS}", path=path, line=line, key=key, hint="mixed-up columns?"
        )
    return value


def check_arrival(value: float, previous_s: float | None, *, key: str, path: str, line: int) -> float:
    """`value` as an arrival time: finite, not negative, not before the previous row's.

    Raises:
        UserError: it is none of that.
    """
    if not abs(value) <= MAX_ARRIVAL_S:
        raise UserError(f"{value} is not a time", path=path, line=line, key=key, hint="remove or mend this row")
    if value < 0:
        raise UserError(
            f"{value:g} is a negative arrival time", path=path, line=line, key=key, hint="count from the first arrival"
        )
    if previous_s is not None and value < previous_s:
        raise UserError(
            f"arrives at {value:g} s, before the previous row's {previous_s:g} s",
            path=path,
            line=line,
            key=key,
            hint="sort the trace by arrival time",
        )
    return value


class Sessions:
    """Numbers sessions in the order of their first turns, and tells first turns from further ones."""

    def __init__(self) -> None:
        self._numbers: dict[str | int, int] = {}

    def turn(self, name: str | int | None) -> tuple[int | None, bool]:
        """The number of the session `name` (None: a request on its own), and whether this is a further turn of it."""
        if name is None:
            return None, False
        further = name in self._numbers
        return self._numbers.setdefault(name, len(self._numbers)), further


def check_pause(value: float, *, key: str, path: str, line: int) -> float:
    """`value` as a pause between two turns, seconds: 0..MAX_THINK_S.

    Raises:
        UserError: it is none.
    """
    if not 0 <= value <= MAX_THINK_S:
        raise UserError(
            f"{value:g} s is no pause between two turns",
            path=path,
            line=line,
            key=key,
            hint=f"from 0 to {MAX_THINK_S:g} s",
        )
    return value


def check_class(name: str | None, *, path: str, line: int) -> str | None:
    """`name` as that of an SLO class, or None.

    Raises:
        UserError: it is empty or too long.
    """
    if name is not None and not 1 <= len(name) <= CLASS_CHARS:
        raise UserError(
            f"a name of {len(name)} characters", path=path, line=line, key="slo_class", hint=f"1 to {CLASS_CHARS}"
        )
    return name
