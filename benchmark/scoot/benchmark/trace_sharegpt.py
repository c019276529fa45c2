"""ShareGPT: one JSON array of conversations. Pure.

A conversation gives one request: its first human turn is the prompt, the next model turn the answer. The file has no
token counts, and no tokenizer is loaded to make them: the output length is `estimate_tokens` of the answer (bytes over
3.6), the input length is known when the engine has counted the prompt. Conversations without such a pair are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

import msgspec

from scoot.benchmark.trace_row import BYTES_PER_TOKEN, Rows, TraceRow, estimate_tokens
from scoot.wire import limits
from scoot.wire.errors import UserError

_HUMAN: Final = frozenset({"human", "user"})
_MODEL: Final = frozenset({"gpt", "chatgpt", "bing", "bard", "assistant", "model"})
_BYTE: Final = re.compile(r"\(byte (\d+)\)")


class _Turn(msgspec.Struct):
    """One turn; `from` is a Python keyword. Other keys (markdown, html) do not matter."""

    value: str | None = None
    role: str = msgspec.field(name="from", default="")


class _Conversation(msgspec.Struct):
    conversations: tuple[_Turn, ...] = ()


def parse_sharegpt(lines: Iterable[str], path: str) -> Rows:
    """Rows of a ShareGPT file, with notes on the estimate and on what was skipped."""
    text = "\n".join(line.rstrip("\r\n") for line in lines).lstrip("\ufeff")
    try:
        conversations = msgspec.json.decode(text, type=list[_Conversation])
    except msgspec.ValidationError as error:
        raise UserError(
            f"not a ShareGPT file: {error}",
            path=path,
            hint='an array of {"conversations": [{"from": ..., "value": ...}]}',
        ) from error
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise UserError(
            f"malformed JSON: {error}", path=path, line=_line_of(text, str(error)), hint="is the file complete?"
        ) from error
    if len(conversations) > limits.REQUESTS:
        raise UserError(f"more than {limits.REQUESTS} conversations", path=path, hint="cut the trace")
    rows = [row for row in map(_row, conversations) if row is not None]
    estimate = f"the trace has no token counts, so the bytes of each answer were divided by {BYTES_PER_TOKEN:g}"
    notes = [f"output lengths are estimates: {estimate}"]
    skipped = len(conversations) - len(rows)
    if skipped:
        notes.append(f"{skipped} conversations without a human turn and an answer to it were skipped")
    return Rows(rows, notes)


def _row(conversation: _Conversation) -> TraceRow | None:
    turns = conversation.conversations
    for turn, answer in pairwise(turns):
        if turn.role in _HUMAN:
            if answer.role not in _MODEL or not (turn.value or "").strip() or not (answer.value or "").strip():
                return None
            return TraceRow(prompt=turn.value, output_tokens=estimate_tokens(answer.value or ""))
    return None


def _line_of(text: str, message: str) -> int:
    """Line of the byte a decoding error names; of the end of the text where it names none."""
    found = _BYTE.search(message)
    data = text.encode("utf-8", "replace")
    return 1 + data.count(b"\n", 0, int(found[1]) if found else len(data))
