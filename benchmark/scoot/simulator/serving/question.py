"""What a client asks of an OpenAI-compatible server: completions and chats, understood and checked. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from scoot.simulator.serving.tokenizer import VOCABULARY, tokenize
from scoot.wire.errors import UserError

COMPLETIONS: Final = "/v1/completions"
CHAT: Final = "/v1/chat/completions"

_USUAL_TOKENS: Final = 16
"""OpenAI's default of max_tokens for completions."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A completion request, understood.

    Attributes:
        number: counts requests, from 1.
        chat: whether it came as a chat.
        prompt: token ids.
        max_tokens: tokens to generate, at least 1.
        min_tokens: fewest tokens to generate, at most `max_tokens`.
        ignore_eos: the answer has exactly `max_tokens`, and ends nowhere before.
        stream, include_usage, continuous_usage: as OpenAI's `stream` and vLLM's `stream_options`.
    """

    number: int
    chat: bool
    model: str
    prompt: tuple[int, ...]
    max_tokens: int
    min_tokens: int = 0
    ignore_eos: bool = False
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class _Asked(msgspec.Struct):
    """A completion, chat or tokenize request, as far as engines without a model care."""

    model: str = ""
    prompt: str | list[int] = ""
    messages: list[dict[str, Any]] = []
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int = 0
    n: int | None = None
    stream: bool = False
    stream_options: _StreamOptions | None = None
    ignore_eos: bool = False


_DECODER: Final = msgspec.json.Decoder(_Asked)


def read_question(
    body: bytes,
    *,
    number: int,
    chat: bool,
    model: str,
    vocabulary: int = VOCABULARY,
    chat_context: int = 0,
) -> Question:
    """The question in the body of a request.

    Args:
        body: as the client sent it.
        number: see Question.
        chat: whether it was sent to CHAT.
        model: the served model's name; a request may leave it out.
        vocabulary: texts become token ids below this.
        chat_context: tokens of prompt and answer that a chat may have which does not say; 0: as completions have.

    Raises:
        UserError: not understood, or not to be answered; its key is "model" where there is no such model.
    """
    asked = _decoded(body)
    if asked.model not in ("", model):
        raise UserError(f"The model `{asked.model[:200]}` does not exist.", key="model")
    if chat:
        prompt: Sequence[int] = tokenize("\n".join(map(_said, asked.messages)), vocabulary)
    else:
        prompt = tokenize(asked.prompt, vocabulary) if isinstance(asked.prompt, str) else asked.prompt
    wanted = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
    if wanted is None:
        wanted = max(1, chat_context - len(prompt)) if chat and chat_context else _USUAL_TOKENS
    if not prompt or wanted < 1:
        raise UserError("an empty prompt, or no tokens asked for")
    if not 0 <= asked.min_tokens <= wanted:
        raise UserError(f"min_tokens = {asked.min_tokens} is not within 0 and max_tokens = {wanted}")
    if asked.n not in (None, 1):
        raise UserError("only n = 1 is answered here")
    options = asked.stream_options or _StreamOptions()
    return Question(
        number=number,
        chat=chat,
        model=model,
        prompt=tuple(prompt),
        max_tokens=wanted,
        min_tokens=asked.min_tokens,
        ignore_eos=asked.ignore_eos,
        stream=asked.stream,
        include_usage=options.include_usage,
        continuous_usage=options.include_usage and options.continuous_usage_stats,
    )


def check_length(question: Question, max_model_len: int) -> None:
    """Refuse what is longer than the engine's context.

    Raises:
        UserError: says both lengths.
    """
    length = len(question.prompt)
    if length + question.max_tokens > max_model_len:
        raise UserError(
            f"This model's maximum context length is {max_model_len} tokens (max_model_len). However, you requested"
            f" {question.max_tokens} output tokens and your prompt contains {length} input tokens."
        )


def read_tokenize(body: bytes, vocabulary: int = VOCABULARY) -> list[int]:
    """Token ids of what a request to /tokenize asks about: a prompt or a chat.

    Raises:
        UserError: not understood.
    """
    asked = _decoded(body)
    if asked.messages:
        return tokenize("\n".join(map(_said, asked.messages)), vocabulary)
    return tokenize(asked.prompt, vocabulary) if isinstance(asked.prompt, str) else asked.prompt


def _said(message: dict[str, Any]) -> str:
    """Text of a message; of one in parts, the texts among them."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return str(content or "")


def _decoded(body: bytes) -> _Asked:
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise UserError(f"the request is not understood: {error}") from error
