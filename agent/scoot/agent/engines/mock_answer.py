"""What the mock engine answers: tokens as text, OpenAI chunks and whole answers, and streams gone wrong. Pure."""

from __future__ import annotations

import zlib
from enum import StrEnum
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

import msgspec

from scoot.agent.engines.mock_knobs import Fault, Knobs
from scoot.simulator.serving import openai
from scoot.simulator.serving.openai import Payloads
from scoot.simulator.serving.question import Question
from scoot.simulator.serving.tokenizer import text_at

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


def token_text(position: int, knobs: Knobs) -> str:
    """Text of the output token at `position`."""
    if knobs.empty_every and (position + 1) % knobs.empty_every == 0:
        return ""
    return text_at(position)


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
        self._payloads = Payloads(question, usage=knobs.usage)
        faulty = draw(knobs.seed, question.number, "fault") < knobs.fault_share
        self._fault = knobs.fault if faulty else Fault.NONE
        self._gathered: list[str] = []
        self._told = False
        self.goes_on = self._fault is Fault.NEVER_ENDING and question.stream

    def opening(self) -> Piece:
        """What is sent before the first token."""
        if self._fault is Fault.EMPTY_FIRST:
            return self._piece([self._event(self._payloads.text("", 0))])
        if self._fault is Fault.ROLE_ONLY or self.question.chat:
            return self._piece([self._event(self._payloads.role())])
        return Piece(())

    def on_token(self) -> Piece:
        """One more token was generated."""
        self.tokens += 1
        self._gathered.append(token_text(self.tokens - 1, self._knobs))
        last = self.tokens >= self.question.max_tokens and not self.goes_on
        if not self.question.stream:
            whole = (self._payloads.whole("".join(self._gathered), self.tokens, "length"),) if last else ()
            return Piece(whole, Finish.END if last else Finish.NOT_YET)
        if self._fault in _STREAM_ENDS and self.tokens > self._knobs.fault_after_tokens:
            return self._broken()
        if len(self._gathered) < self._knobs.tokens_per_chunk and not last:
            return Piece(())
        text = "".join(self._gathered)
        self._gathered = []
        events = [self._event(self._payloads.text(text, self.tokens, "length" if last else ""))]
        if last:
            events += self._closing()
        return self._piece(events, Finish.END if last else Finish.NOT_YET)

    def _closing(self) -> list[bytes]:
        usage = self._payloads.usage(self.tokens)
        events = [self._event(usage)] if usage else []
        if self._fault is not Fault.NO_DONE:
            events.append(self._event(b"[DONE]"))
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
                error = openai.error_body(HTTPStatus.INTERNAL_SERVER_ERROR, "the engine is dead")
                segments = (self._event(error) + self._event(b"[DONE]"),)
            case Fault.LONG_LINE:
                segments = (b"data: " + b"x" * _LONG_LINE_BYTES + b"\n\n",)
            case Fault.TOO_FEW:
                self.tokens -= 1
                end = self._event(self._payloads.text("", self.tokens, "stop"))
                segments = (b"".join([end, *self._closing()]),)
        return Piece(segments, _FINISH.get(self._fault, Finish.STALL))

    def _event(self, data: bytes) -> bytes:
        if self._fault is Fault.RAGGED:
            return b": still here\r\nevent: message\r\nid: %d\r\ndata:%b\r\n\r\n" % (self.tokens, data)
        return openai.event(data)

    def _piece(self, events: list[bytes], finish: Finish = Finish.NOT_YET) -> Piece:
        if self._fault is Fault.SPLIT:
            halves = [half for event in events for half in (event[: len(event) // 2], event[len(event) // 2 :])]
            return Piece(tuple(halves), finish)
        return Piece((b"".join(events),), finish)
