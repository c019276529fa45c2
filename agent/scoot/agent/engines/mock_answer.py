"""What the mock engine answers: tokens as text, OpenAI chunks and whole answers, and streams gone wrong. Pure."""

from __future__ import annotations

import re
import zlib
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

import msgspec

from scoot.agent.engines.mock_knobs import Fault, Knobs

_PIECE: Final = re.compile(r"\s*\S{1,6}|\s+")
_VOCABULARY: Final = 32_000
_LONG_LINE_BYTES: Final = 10_000_000
_STREAM_ENDS: Final = frozenset(
    {
        Fault.MALFORMED,
        Fault.ERROR_OBJECT,
        Fault.RESET,
        Fault.CLOSE,
        Fault.END,
        Fault.LONG_LINE,
        Fault.STALL,
        Fault.TOO_FEW,
    }
)
_WORDS: Final = ("the", "of", "and", "to", "in", "it", "is", "that", "was", "for", "on", "with", "as", "at", "by")


class Finish(StrEnum):
    """What is to be done with the connection after some bytes: go on, end the response, close, reset, or stall."""

    NOT_YET = "not_yet"
    END = "end"
    CLOSE = "close"
    RESET = "reset"
    STALL = "stall"


_FINISH: Final = MappingProxyType(
    {
        Fault.ERROR_OBJECT: Finish.END,
        Fault.LONG_LINE: Finish.END,
        Fault.END: Finish.END,
        Fault.TOO_FEW: Finish.END,
        Fault.RESET: Finish.RESET,
        Fault.CLOSE: Finish.CLOSE,
    }
)


class Piece(msgspec.Struct, frozen=True):
    """Body bytes to send, each entry a segment of its own, and what comes after."""

    segments: tuple[bytes, ...]
    finish: Finish = Finish.NOT_YET


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A completion request, understood.

    Attributes:
        number: counts requests, from 1.
        chat: whether it came as a chat.
        prompt: token ids.
        max_tokens: tokens to generate, at least 1.
        stream, include_usage, continuous_usage: as OpenAI's `stream` and vLLM's `stream_options`.
    """

    number: int
    chat: bool
    model: str
    prompt: tuple[int, ...]
    max_tokens: int
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False


def tokenize(text: str) -> list[int]:
    """Token ids of a text: up to six characters of a word, with the space before them. The same text, the same ids."""
    return [zlib.crc32(piece.encode("utf-8", "surrogatepass")) % _VOCABULARY for piece in _PIECE.findall(text)]


def token_text(position: int, knobs: Knobs) -> str:
    """Text of the output token at `position`."""
    if knobs.empty_every and (position + 1) % knobs.empty_every == 0:
        return ""
    return f" {_WORDS[position * 7 % len(_WORDS)]}"


def draw(seed: int, number: int, purpose: str) -> float:
    """A number in [0, 1), the same for the same arguments."""
    return zlib.crc32(f"{seed}/{number}/{purpose}".encode()) / 2**32


class Answer:
    """One answer in the making.

    Attributes:
        question: what it answers.
        tokens: tokens so far.
        goes_on: whether tokens are generated for ever.
    """

    def __init__(self, question: Question, knobs: Knobs) -> None:
        self.question = question
        self.tokens = 0
        self._knobs = knobs
        faulty = draw(knobs.seed, question.number, "fault") < knobs.fault_share
        self._fault = knobs.fault if faulty else Fault.NONE
        self._gathered: list[str] = []
        self._told = False
        self.goes_on = self._fault is Fault.NEVER_ENDING and question.stream

    def opening(self) -> Piece:
        """What is sent before the first token."""
        question = self.question
        if self._fault is Fault.EMPTY_FIRST:
            return self._piece([self._chunk("", finish=None)])
        if self._fault is Fault.ROLE_ONLY or question.chat:
            choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            return self._piece([self._event({**self._frame(), "choices": [choice]})])
        return Piece(())

    def on_token(self) -> Piece:
        """One more token was generated."""
        self.tokens += 1
        self._gathered.append(token_text(self.tokens - 1, self._knobs))
        last = self.tokens >= self.question.max_tokens and not self.goes_on
        if not self.question.stream:
            return Piece((self._whole(),), Finish.END) if last else Piece(())
        if self._fault in _STREAM_ENDS and self.tokens > self._knobs.fault_after_tokens:
            return self._broken()
        if len(self._gathered) < self._knobs.tokens_per_chunk and not last:
            return Piece(())
        text = "".join(self._gathered)
        self._gathered = []
        events = [self._chunk(text, finish="length" if last else None)]
        if last:
            events += self._closing()
        return self._piece(events, Finish.END if last else Finish.NOT_YET)

    def _closing(self) -> list[bytes]:
        events = []
        if self.question.include_usage and self._knobs.usage:
            events.append(self._event({**self._frame(), "choices": [], "usage": self._usage()}))
        if self._fault is not Fault.NO_DONE:
            events.append(self._line(b"[DONE]"))
        return events

    def _broken(self) -> Piece:
        """The fault has come. Only once: nothing is sent after it."""
        if self._told:
            return Piece((), Finish.STALL)
        self._told = True
        segments: tuple[bytes, ...] = ()
        match self._fault:
            case Fault.MALFORMED:
                segments = (b'data: {"choices": [{"text": " the", \n\n',)
            case Fault.ERROR_OBJECT:
                error = {"message": "the engine is dead", "type": "InternalServerError", "code": 500}
                segments = (self._event({"error": error}) + self._line(b"[DONE]"),)
            case Fault.LONG_LINE:
                segments = (b"data: " + b"x" * _LONG_LINE_BYTES + b"\n\n",)
            case Fault.TOO_FEW:
                self.tokens -= 1
                segments = (b"".join([self._chunk("", finish="stop"), *self._closing()]),)
        return Piece(segments, _FINISH.get(self._fault, Finish.STALL))

    def _chunk(self, text: str, *, finish: str | None) -> bytes:
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": None}
        if self.question.chat:
            choice["delta"] = {"content": text}
        else:
            choice["text"] = text
        body = {**self._frame(), "choices": [choice]}
        if self.question.continuous_usage and self._knobs.usage:
            body["usage"] = self._usage()
        return self._event(body)

    def _whole(self) -> bytes:
        text = "".join(self._gathered)
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
        choice |= {"message": {"role": "assistant", "content": text}} if self.question.chat else {"text": text}
        kind = "chat.completion" if self.question.chat else "text_completion"
        return msgspec.json.encode({**self._frame(), "object": kind, "choices": [choice], "usage": self._usage()})

    def _frame(self) -> dict[str, Any]:
        chat = self.question.chat
        return {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{self.question.number}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": 0,
            "model": self.question.model,
        }

    def _usage(self) -> dict[str, int]:
        length = len(self.question.prompt)
        return {"prompt_tokens": length, "completion_tokens": self.tokens, "total_tokens": length + self.tokens}

    def _event(self, body: dict[str, Any]) -> bytes:
        return self._line(msgspec.json.encode(body))

    def _line(self, data: bytes) -> bytes:
        if self._fault is Fault.RAGGED:
            return b": still here\r\nevent: message\r\nid: %d\r\ndata:%b\r\n\r\n" % (self.tokens, data)
        return b"data: " + data + b"\n\n"

    def _piece(self, events: list[bytes], finish: Finish = Finish.NOT_YET) -> Piece:
        if self._fault is Fault.SPLIT:
            halves = [half for event in events for half in (event[: len(event) // 2], event[len(event) // 2 :])]
            return Piece(tuple(halves), finish)
        return Piece((b"".join(events),), finish)
