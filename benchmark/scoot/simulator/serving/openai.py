"""Answers in OpenAI's format: events of a stream, whole answers, errors. Pure.

What stays the same over a stream is encoded once; an event costs little more than joining bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

import msgspec

from scoot.simulator.serving.question import Question

DONE: Final = b"data: [DONE]\n\n"
"""The last event of a stream."""

_KINDS: Final[Mapping[int, str]] = MappingProxyType(
    {
        HTTPStatus.BAD_REQUEST: "BadRequestError",
        HTTPStatus.NOT_FOUND: "NotFoundError",
        HTTPStatus.SERVICE_UNAVAILABLE: "ServiceUnavailableError",
    }
)
_CREATED: Final = 0
"""Answers are the same whenever they are asked for."""


class Payloads:
    """JSON of the events of one answer, and of the answer as a whole.

    Args:
        question: what is answered.
        usage: whether token counts are told where they are asked for.
    """

    def __init__(self, question: Question, *, usage: bool = True) -> None:
        self._question = question
        self._usage_told = usage
        self._length = len(question.prompt)
        head = msgspec.json.encode(self._frame())[:-1] + b',"choices":[{"index":0,'
        self._head = head + (b'"delta":{"content":' if question.chat else b'"text":')
        self._middle = (b"}" if question.chat else b"") + b',"logprobs":null,"finish_reason":'
        self._continuous = usage and question.continuous_usage

    def role(self) -> bytes:
        """The first event of a chat's stream: who speaks, and no text."""
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        return msgspec.json.encode({**self._frame(), "choices": [choice]})

    def text(self, text: str, tokens: int, finish: str = "") -> bytes:
        """An event with text.

        Args:
            text: of the tokens since the last event.
            tokens: of the answer, these included.
            finish: why the answer ends here; "" while it goes on.
        """
        reason = b'"%b"' % finish.encode() if finish else b"null"
        head, middle, said = self._head, self._middle, msgspec.json.encode(text)
        if self._continuous:
            length = self._length
            return b'%b%b%b%b}],"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}}' % (
                *(head, said, middle, reason),
                *(length, tokens, length + tokens),
            )
        return b"%b%b%b%b}]}" % (head, said, middle, reason)

    def usage(self, tokens: int) -> bytes:
        """The event that tells how many tokens there were; b"" where that is not asked for."""
        if not self._question.include_usage or not self._usage_told:
            return b""
        return msgspec.json.encode({**self._frame(), "choices": [], "usage": self._counts(tokens)})

    def whole(self, text: str, tokens: int, finish: str) -> bytes:
        """An answer that is not streamed."""
        chat = self._question.chat
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        frame = self._frame() | ({"object": "chat.completion"} if chat else {})
        return msgspec.json.encode({**frame, "choices": [choice], "usage": self._counts(tokens)})

    def _frame(self) -> dict[str, Any]:
        chat = self._question.chat
        return {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{self._question.number}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": _CREATED,
            "model": self._question.model,
        }

    def _counts(self, tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self._length,
            "completion_tokens": tokens,
            "total_tokens": self._length + tokens,
        }


def event(payload: bytes) -> bytes:
    """One event of a stream."""
    return b"data: %b\n\n" % payload


def error_body(status: int, message: str, kind: str = "") -> bytes:
    """Body of an error; `kind` is its type, vLLM's name for the status where it is left out."""
    named = kind or _KINDS.get(status, "InternalServerError")
    return msgspec.json.encode({"error": {"message": message, "type": named, "param": None, "code": int(status)}})


def models_body(model: str, max_model_len: int) -> bytes:
    """Body of /v1/models."""
    card = {"id": model, "object": "model", "created": _CREATED, "owned_by": "scoot", "max_model_len": max_model_len}
    return msgspec.json.encode({"object": "list", "data": [card]})


def tokenize_body(tokens: list[int], max_model_len: int) -> bytes:
    """Body of /tokenize."""
    return msgspec.json.encode({"count": len(tokens), "max_model_len": max_model_len, "tokens": tokens})
