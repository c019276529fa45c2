"""ShareGPT: one JSON array of conversations. Pure.

A conversation gives one request: its first human turn is the prompt, the next model turn the answer. As a session it
gives one for each human turn that is answered, up to the first that is not: the prompt is all that was said before, as
recorded, and the new turn, so each prompt begins with the one before it. The file has no pauses. It also has no
token counts, and no tokenizer is loaded to make them: the output length is `estimate_tokens` of the answer (bytes over
3.6), the input length is known when the engine has counted the prompt. Conversations without such a pair are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import msgspec

from scoot.benchmark.trace_row import BYTES_PER_TOKEN, Rows, TraceRow, estimate_tokens
from scoot.wire import limits
from scoot.wire.errors import UserError

HISTORY_CHARS: Final = 1024**3
"""Most text of all prompts, when every turn brings its history."""

_BETWEEN: Final = "\n\n"
_HUMAN: Final = frozenset({"human", "user"})
_MODEL: Final = frozenset({"gpt", "chatgpt", "bing", "bard", "assistant", "model"})
_BYTE: Final = re.compile(r"\(byte (\d+)\)")


class _Turn(msgspec.Struct):
    """One turn; `from` is a Python keyword. Other keys (markdown, html) do not matter."""

    value: str | None = None
    role: str = msgspec.field(name="from", default="")


class _Conversation(msgspec.Struct):
    conversations: tuple[_Turn, ...] = ()


def parse_sharegpt(lines: Iterable[str], path: str, *, sessions: bool = False) -> Rows:
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
    rows: list[TraceRow] = []
    used = chars = 0
    for conversation in conversations:
        turns = _turns(conversation, used, path) if sessions else _first(conversation)
        rows += turns
        used += bool(turns)
        chars += sum(len(row.prompt or "") for row in turns)
        if sessions and chars > HISTORY_CHARS:
            raise UserError(f"the prompts are over {HISTORY_CHARS >> 30} GiB of text", path=path, hint="cut the trace")
    estimate = f"the trace has no token counts, so the bytes of each answer were divided by {BYTES_PER_TOKEN:g}"
    notes = [f"output lengths are estimates: {estimate}"]
    if sessions:
        notes.append("the trace has no pauses: a turn follows the answer before it at once")
    skipped = len(conversations) - used
    if skipped:
        notes.append(f"{skipped} conversations without a human turn and an answer to it were skipped")
    return Rows(rows, notes)


def _first(conversation: _Conversation) -> list[TraceRow]:
    return [
        TraceRow(prompt=turn, output_tokens=estimate_tokens(answer)) for turn, answer in islice(_pairs(conversation), 1)
    ]


def _turns(conversation: _Conversation, session: int, path: str) -> list[TraceRow]:
    """Every turn with all that was said before it."""
    rows: list[TraceRow] = []
    history = ""
    for turn, answer in _pairs(conversation):
        prompt = history + turn
        rows.append(TraceRow(prompt=prompt, output_tokens=estimate_tokens(answer), session=session))
        history = f"{prompt}{_BETWEEN}{answer}{_BETWEEN}"
        if len(history) > HISTORY_CHARS:
            raise UserError("a conversation of over a GiB of text", path=path, hint="remove it")
    return rows


def _pairs(conversation: _Conversation) -> Iterator[tuple[str, str]]:
    """Human turns with the answers right behind them, from the first human turn to the first pair that is none."""
    turns = conversation.conversations
    start = next((index for index, turn in enumerate(turns) if turn.role in _HUMAN), len(turns))
    for turn, answer in zip(turns[start::2], turns[start + 1 :: 2], strict=False):
        asked, said = turn.value or "", answer.value or ""
        if turn.role not in _HUMAN or answer.role not in _MODEL or not asked.strip() or not said.strip():
            return
        yield asked, said


def _line_of(text: str, message: str) -> int:
    """Line of the byte a decoding error names; of the end of the text where it names none."""
    found = _BYTE.search(message)
    data = text.encode("utf-8", "replace")
    return 1 + data.count(b"\n", 0, int(found[1]) if found else len(data))
