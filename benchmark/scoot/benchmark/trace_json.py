"""Traces of JSON lines: Mooncake, vLLM's custom data set, and SCOOT's plain form. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

import msgspec

from scoot.benchmark.trace_row import (
    MAX_THINK_S,
    Rows,
    Sessions,
    TraceRow,
    check_arrival,
    check_class,
    check_pause,
    check_tokens,
)
from scoot.wire import limits
from scoot.wire.errors import UserError

MOONCAKE_BLOCK_TOKENS: Final = 512
"""Tokens behind one of Mooncake's hash_ids (its trace's documentation)."""

_BLOCKS: Final = 100_000
_MS: Final = 1e3


class _Mooncake(msgspec.Struct):
    """A line of a Mooncake trace; further keys are its other columns and do not matter here."""

    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...] = ()
    session_id: str | int | None = None
    conversation_id: str | int | None = None
    delay: float | None = None
    slo_class: str | None = None


class _Vllm(msgspec.Struct):
    """A line of vLLM's custom data set. Its length goes by several names; further keys do not matter here."""

    prompt: str
    output_tokens: int | None = None
    output_len: int | None = None
    expected_output_len: int | None = None
    session_id: str | int | None = None
    conversation_id: str | int | None = None
    delay: float | None = None
    slo_class: str | None = None


class _Plain(msgspec.Struct, forbid_unknown_fields=True):
    """A line of SCOOT's own form. `id`, `app` and `output` document a request and change nothing."""

    output_tokens: int
    prompt: str | None = None
    input_tokens: int | None = None
    arrived_at: float | None = None
    prefix_group: str | int | None = None
    prefix_tokens: int | None = None
    id: str | int | None = None
    app: str | None = None
    output: str | None = None
    session: str | int | None = None
    think_s: float | None = None
    slo_class: str | None = None


_T = TypeVar("_T")


def parse_mooncake(lines: Iterable[str], path: str, *, sessions: bool = False) -> Rows:
    """Rows of a Mooncake trace. Times are milliseconds there; each hash id is a block of 512 tokens.

    With `sessions`, rows of one `session_id` (or `conversation_id`) are its turns, each with its whole prompt. The
    pause before one is its `delay` (ms), else the gap between the two arrivals, which is noted. Only the starts of
    sessions have to be in order then.
    """
    rows: list[TraceRow] = []
    previous: float | None = None
    numbers = Sessions()
    last_s: dict[int | None, float] = {}
    guessed = 0
    for line, item in _items(lines, path, _Mooncake):
        session, further = numbers.turn(_session_of(item)) if sessions else (None, False)
        arrived = check_arrival(
            item.timestamp / _MS,
            last_s[session] if further else previous,
            key="timestamp",
            path=path,
            line=line,
        )
        pause_s = 0.0
        if further:
            guessed += item.delay is None
            pause_s = min(MAX_THINK_S, arrived - last_s[session])
            if item.delay is not None:
                pause_s = check_pause(item.delay / _MS, key="delay", path=path, line=line)
        else:
            previous = arrived
        last_s[session] = arrived
        if len(item.hash_ids) > _BLOCKS or any(not 0 <= block < 1 << 63 for block in item.hash_ids):
            raise UserError("block ids are at most 100000 integers, not negative", path=path, line=line, key="hash_ids")
        rows.append(
            TraceRow(
                arrived_s=None if further else arrived,
                input_tokens=check_tokens(item.input_length, key="input_length", path=path, line=line),
                output_tokens=check_tokens(item.output_length, key="output_length", path=path, line=line),
                blocks=item.hash_ids,
                block_tokens=MOONCAKE_BLOCK_TOKENS if item.hash_ids else 0,
                session=session,
                think_s=pause_s,
                slo_class=check_class(item.slo_class, path=path, line=line),
            )
        )
    notes = []
    if guessed:
        notes.append(f"{guessed} turns have no delay: their pauses are the gaps to the arrivals of the turns before")
    return Rows(rows, notes)


def parse_vllm(lines: Iterable[str], path: str, *, sessions: bool = False) -> Rows:
    """Rows of vLLM's custom data set. The output length is `output_tokens`, `output_len` or `expected_output_len`.

    With `sessions`, rows of one `session_id` (or `conversation_id`) are its turns, `delay` (ms) apart.
    """
    rows: list[TraceRow] = []
    numbers = Sessions()
    for line, item in _items(lines, path, _Vllm):
        length = next(
            (n for n in (item.output_tokens, item.output_len, item.expected_output_len) if n is not None), None
        )
        session, further = numbers.turn(_session_of(item)) if sessions else (None, False)
        rows.append(
            TraceRow(
                prompt=_prompt(item.prompt, path, line),
                output_tokens=check_tokens(length, key="output_tokens", path=path, line=line),
                session=session,
                think_s=check_pause((item.delay or 0.0) / _MS, key="delay", path=path, line=line) if further else 0.0,
                slo_class=check_class(item.slo_class, path=path, line=line),
            )
        )
    return Rows(rows)


def _session_of(item: _Mooncake | _Vllm) -> str | int | None:
    return item.conversation_id if item.session_id is None else item.session_id


def parse_plain(lines: Iterable[str], path: str, *, sessions: bool = False) -> Rows:
    """Rows of SCOOT's plain form.

    A row has a `prompt` (sent as it is) or `input_tokens` (a synthetic prompt). Synthetic prompts of one
    `prefix_group` share their first `prefix_tokens` tokens: where that is not given, half of the group's shortest
    input, which is noted. Either every row has `arrived_at` (seconds) or none has.

    With `sessions`, rows of one `session` are its turns, `think_s` seconds after the answer before; without it the two
    keys change nothing.
    """
    items = list(_items(lines, path, _Plain))
    shared, notes = _shared_tokens(items, path)
    groups: dict[str | int, int] = {}
    rows: list[TraceRow] = []
    previous: float | None = None
    numbers = Sessions()
    timed = bool(items) and items[0][1].arrived_at is not None
    for line, item in items:
        if (item.arrived_at is not None) is not timed:
            raise UserError(
                "some rows have an arrival time and some have none",
                path=path,
                line=line,
                key="arrived_at",
                hint="give it in every row or in none",
            )
        if item.arrived_at is not None:
            previous = check_arrival(item.arrived_at, previous, key="arrived_at", path=path, line=line)
        if item.prompt is None and item.input_tokens is None:
            raise UserError("neither prompt nor input_tokens", path=path, line=line, hint="every row needs one of them")
        block: tuple[int, ...] = ()
        if item.prompt is None and item.prefix_group is not None and shared[item.prefix_group] > 0:
            block = (groups.setdefault(item.prefix_group, len(groups)),)
        if item.think_s is not None and item.session is None:
            raise UserError("think_s without session", path=path, line=line, key="think_s", hint="name a session")
        pause_s = check_pause(item.think_s or 0.0, key="think_s", path=path, line=line)
        session, further = numbers.turn(item.session) if sessions else (None, False)
        rows.append(
            TraceRow(
                arrived_s=previous,
                input_tokens=None
                if item.input_tokens is None
                else check_tokens(item.input_tokens, key="input_tokens", path=path, line=line),
                output_tokens=check_tokens(item.output_tokens, key="output_tokens", path=path, line=line),
                prompt=None if item.prompt is None else _prompt(item.prompt, path, line),
                blocks=block,
                block_tokens=shared[item.prefix_group] if block and item.prefix_group is not None else 0,
                session=session,
                think_s=pause_s if further else 0.0,
                slo_class=check_class(item.slo_class, path=path, line=line),
            )
        )
    return Rows(rows, notes)


def _shared_tokens(items: list[tuple[int, _Plain]], path: str) -> tuple[dict[str | int, int], list[str]]:
    """Tokens that the synthetic prompts of each group share, and what had to be assumed."""
    stated: dict[str | int, int] = {}
    shortest: dict[str | int, int] = {}
    for line, item in items:
        if item.prefix_group is None:
            if item.prefix_tokens is not None:
                raise UserError(
                    "prefix_tokens without prefix_group", path=path, line=line, key="prefix_tokens", hint="name a group"
                )
            continue
        if item.prefix_tokens is not None:
            tokens = check_tokens(item.prefix_tokens, key="prefix_tokens", path=path, line=line)
            if stated.setdefault(item.prefix_group, tokens) != tokens:
                raise UserError(
                    f"{tokens} shared tokens, an earlier row of this group says {stated[item.prefix_group]}",
                    path=path,
                    line=line,
                    key="prefix_tokens",
                    hint="one length per group",
                )
        if item.prompt is None and item.input_tokens is not None:
            known = shortest.get(item.prefix_group, item.input_tokens)
            shortest[item.prefix_group] = min(known, item.input_tokens)
    assumed = [group for group in shortest if group not in stated]
    notes = []
    if assumed:
        notes.append(
            f"{len(assumed)} prefix groups give no prefix_tokens: their requests share half of the shortest input"
        )
    return {**{group: shortest[group] // 2 for group in assumed}, **stated}, notes


def _items(lines: Iterable[str], path: str, kind: type[_T]) -> Iterator[tuple[int, _T]]:
    """Decoded lines with their numbers; blank ones are passed over."""
    decoder = msgspec.json.Decoder(kind)
    n = 0
    for line, text in enumerate(lines, start=1):
        stripped = text.strip("\ufeff \t\r\n")
        if not stripped:
            continue
        n += 1
        if n > limits.REQUESTS:
            raise UserError(f"more than {limits.REQUESTS} requests", path=path, line=line, hint="cut the trace")
        try:
            item = decoder.decode(stripped)
        except msgspec.ValidationError as error:
            raise UserError(f"{error}", path=path, line=line, hint="docs/traces.md has the formats") from error
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
            raise UserError(
                f"malformed JSON: {error}", path=path, line=line, hint="one JSON object per line; NaN is not JSON"
            ) from error
        yield line, item


def _prompt(text: str, path: str, line: int) -> str:
    if not text.strip():
        raise UserError("the prompt is empty", path=path, line=line, key="prompt", hint="remove this row")
    return text
