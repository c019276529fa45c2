"""What one event of an OpenAI-compatible stream says: text, tokens, an end, an error. Pure.

Completions and chat chunks are understood alike. Tokens are counted, not chunks: a chunk may bring several, or bring
one whose text is still empty (half a character), and a chunk with a role only brings none.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

_DONE: Final = b"[DONE]"
_MESSAGE_CHARS: Final = 300
_NULL: Final = b"null"
_NO_ERROR: Final = msgspec.Raw(_NULL)


class ChunkKind(StrEnum):
    """What an event is. Anything that is not understood is MALFORMED."""

    DELTA = "delta"
    DONE = "done"
    ERROR = "error"
    MALFORMED = "malformed"


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """An event of the stream.

    Attributes:
        kind: see ChunkKind.
        choices: whether it has any; a chunk without carries usage only and is never a token.
        has_text: whether a choice has text, a reasoning delta or a tool call.
        listed: tokens listed one by one (token ids or log probabilities), 0 if none are.
        completion_tokens: tokens generated so far as the server counts them, None if it does not tell here.
        prompt_tokens: length of the prompt likewise.
        finish_reason: "" while the choice goes on.
        message: of an error or of what is malformed, for humans, clipped.
    """

    kind: ChunkKind
    choices: bool = False
    has_text: bool = False
    listed: int = 0
    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    finish_reason: str = ""
    message: str = ""


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Logprobs(msgspec.Struct):
    tokens: list[msgspec.Raw] | None = None
    content: list[msgspec.Raw] | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class Message(msgspec.Struct):
    """The top level of a chunk, and of an error in either of its two shapes."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: msgspec.Raw = _NO_ERROR
    object: str | None = None
    message: str | None = None


_DECODER: Final = msgspec.json.Decoder(Message)


def parse_chunk(data: bytes, *, event: bytes = b"") -> Chunk:
    """What `data`, the payload of one event (or a whole JSON answer), says. Never raises.

    An empty payload (a keep-alive) says nothing.

    Args:
        data: the payload.
        event: the event's type; "error" makes any payload an error.
    """
    text = data.strip()
    if not text:
        return Chunk(kind=ChunkKind.DELTA)
    if text == _DONE:
        return Chunk(kind=ChunkKind.DONE)
    if event == b"error":
        return Chunk(kind=ChunkKind.ERROR, message=_clip(data))
    try:
        return _chunk(_DECODER.decode(data), data)
    except (msgspec.DecodeError, RecursionError) as error:
        return Chunk(kind=ChunkKind.MALFORMED, message=f"{error}: {_clip(data)}")


def parse_lines(lines: bytes) -> list[Message]:
    """Messages, one per line.

    Raises:
        msgspec.DecodeError, RecursionError: one is none.
    """
    return _DECODER.decode_lines(lines)


def _chunk(message: Message, data: bytes) -> Chunk:
    if message.error is not _NO_ERROR and bytes(message.error) != _NULL:
        return Chunk(kind=ChunkKind.ERROR, message=_clip(bytes(message.error)))
    if message.object == "error":
        return Chunk(kind=ChunkKind.ERROR, message=(message.message or "")[:_MESSAGE_CHARS])
    if message.choices is None and message.usage is None:
        return Chunk(kind=ChunkKind.MALFORMED, message=f"neither choices nor usage: {_clip(data)}")
    usage = message.usage
    choices = message.choices
    if choices and len(choices) == 1:
        # Nearly every event of a stream.
        choice = choices[0]
        return Chunk(
            ChunkKind.DELTA,
            True,
            bool(choice.text) or (choice.delta is not None and _delta_has_text(choice.delta)),
            _listed(choice) if choice.token_ids or choice.logprobs is not None else 0,
            usage.completion_tokens if usage is not None else None,
            usage.prompt_tokens if usage is not None else None,
            choice.finish_reason or "",
        )
    finish = ""
    has_text = False
    listed = 0
    for choice in choices or ():
        has_text = has_text or bool(choice.text) or (choice.delta is not None and _delta_has_text(choice.delta))
        listed += _listed(choice)
        finish = finish or choice.finish_reason or ""
    return Chunk(
        kind=ChunkKind.DELTA,
        choices=bool(choices),
        has_text=has_text,
        listed=listed,
        completion_tokens=usage.completion_tokens if usage is not None else None,
        prompt_tokens=usage.prompt_tokens if usage is not None else None,
        finish_reason=finish,
    )


def _delta_has_text(delta: _Delta) -> bool:
    return bool(delta.content or delta.reasoning_content or delta.reasoning or delta.tool_calls)


def _listed(choice: _Choice) -> int:
    if choice.token_ids:
        return len(choice.token_ids)
    if choice.logprobs is not None:
        return len(choice.logprobs.tokens or choice.logprobs.content or ())
    return 0


def _clip(data: bytes) -> str:
    return data[:_MESSAGE_CHARS].decode("utf-8", "replace")


class TokenCount:
    """Running count of one request's output tokens.

    In order of trust: tokens listed in the chunk, the server's own cumulative count, one per chunk with text.

    Attributes:
        counted: tokens that chunks brought.
    """

    __slots__ = ("_told", "counted")

    def __init__(self) -> None:
        self.counted = 0
        self._told = 0

    @property
    def total(self) -> int:
        """Output tokens so far: as counted, or as the server tells, whichever is more."""
        return max(self.counted, self._told)

    def add_plain(self, message: Message) -> int:
        """Tokens that an event brought, if it is of the plainest kind; else -1: `add` what it parses to.

        That is one choice that goes on, told of by its text or the server's count: nearly every event of a stream, so
        this is made cheap. The result is what `add` would give.
        """
        choices = message.choices
        if not choices or len(choices) > 1 or message.error is not _NO_ERROR or message.object == "error":
            return -1
        choice = choices[0]
        if choice.finish_reason or choice.token_ids or choice.logprobs is not None:
            return -1
        usage = message.usage
        if usage is not None and usage.completion_tokens:
            told = usage.completion_tokens
            self._told = max(self._told, told)
            new = told - self.counted
            if new <= 0:
                return 0
        elif choice.text or (choice.delta is not None and _delta_has_text(choice.delta)):
            new = 1
        else:
            return 0
        self.counted += new
        return new

    def add(self, chunk: Chunk) -> int:
        """Tokens that `chunk` brought, at least 0. A chunk without choices corrects the total but brings none."""
        told = chunk.completion_tokens
        if told is not None and told > self._told:
            self._told = told
        if not chunk.choices:
            return 0
        new = chunk.listed
        if not new:
            if told:
                new = max(0, told - self.counted)
            elif chunk.has_text:
                new = 1
        self.counted += new
        return new
