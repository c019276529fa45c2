"""The answer to one question on its way out of the simulated engine, streamed or whole."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from scoot.simulator.sequence import Sequence
from scoot.simulator.serving import http1, openai
from scoot.simulator.serving.connection import ServerConnection
from scoot.simulator.serving.question import Question
from scoot.simulator.serving.tokenizer import text_at


class Stream:
    """One answer.

    Args:
        connection: where it goes to.
        question: what is answered.
        sequence: what the engine computes for it.
        interval: tokens sent together; the first and the last go at once.
        on_cancel: told when the client has gone before the end.
    """

    __slots__ = ("_connection", "_interval", "_last", "_on_cancel", "_payloads", "_question", "_sent", "sequence")

    def __init__(
        self,
        connection: ServerConnection,
        question: Question,
        sequence: Sequence,
        interval: int,
        on_cancel: Callable[[Stream], None],
    ) -> None:
        self.sequence = sequence
        self._connection = connection
        self._question = question
        self._interval = interval
        self._on_cancel = on_cancel
        self._payloads = openai.Payloads(question)
        self._sent = 0
        self._last = sequence.output_tokens

    def open(self) -> None:
        """Send what comes before the first token."""
        if self._question.stream:
            data = http1.stream_head()
            if self._question.chat:
                data += http1.chunk(openai.event(self._payloads.role()))
            self._connection.write(data)

    def on_token(self, tokens: int) -> bool:
        """The engine has made the `tokens`-th token. Whether it was the last."""
        last = tokens >= self._last
        if not last and (not self._question.stream or (self._sent and tokens - self._sent < self._interval)):
            return False
        text = text_at(tokens - 1) if tokens - self._sent == 1 else "".join(map(text_at, range(self._sent, tokens)))
        if not last:
            self._sent = tokens
            self._connection.write(http1.chunk(openai.event(self._payloads.text(text, tokens))))
            return False
        finish = "stop" if tokens < self._question.max_tokens else "length"
        if not self._question.stream:
            self._connection.answer(HTTPStatus.OK, self._payloads.whole(text, tokens, finish))
            return True
        data = http1.chunk(openai.event(self._payloads.text(text, tokens, finish)))
        usage = self._payloads.usage(tokens)
        if usage:
            data += http1.chunk(openai.event(usage))
        self._connection.write(data + http1.chunk(openai.DONE) + http1.LAST_CHUNK)
        self._connection.done()
        return True

    def cancel(self) -> None:
        """The client is gone."""
        self._on_cancel(self)
