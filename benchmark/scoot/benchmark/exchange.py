"""One request and its answer: from bytes with receive stamps to token timings and a status. Sans-IO, pure.

Times are microseconds since the start of the run. A chunk is everything that arrived with one receive stamp, so that
tokens merged by the network or by either side's buffers show as one chunk of several tokens and not as gaps of zero.
"""

from __future__ import annotations

from array import array
from typing import Final

import msgspec

from scoot.benchmark.completion import Chunk, ChunkKind, TokenCount, parse_chunk
from scoot.benchmark.http1 import Http1Error, ResponseParser
from scoot.benchmark.sse import Event, EventParser, SseError
from scoot.wire.columns import MAX_US, NONE_US, RequestPhase, RequestStatus

CHUNKS_MAX: Final = 100_000
"""Chunks kept apart; tokens beyond are added to the last one, which keeps any request within one timing batch."""

_CHUNK_TOKENS_MAX: Final = 0xFFFF
_U32_MAX: Final = 0xFFFF_FFFF
_PLAIN_BYTES: Final = 256 * 1024
_HTTP_OK: Final = 200
_SLACK_TOKENS: Final = 16
_SLACK_SHARE: Final = 10


class Ask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A request to be sent.

    Attributes:
        index: position in the run's schedule.
        intended_us: intended start.
        phase: window of the intended start.
        input_tokens: as the workload knows it; the server's own count replaces it.
        wanted_tokens: output tokens asked for.
        exact: whether the server was told to generate exactly so many.
        body: everything after the Host header: rest of the head, and the body.
    """

    index: int
    intended_us: int
    phase: RequestPhase
    input_tokens: int
    wanted_tokens: int
    exact: bool
    body: bytes

    def at(self, intended_us: int, phase: RequestPhase) -> Ask:
        """The same request with another intended start."""
        return msgspec.structs.replace(self, intended_us=intended_us, phase=phase)


def token_cap(wanted_tokens: int) -> int:
    """Output tokens at which a stream is cut: `wanted_tokens` and some slack for servers that count otherwise."""
    return wanted_tokens + max(_SLACK_TOKENS, wanted_tokens // _SLACK_SHARE)


class Exchange:
    """The state of one request. Every method takes the time of its event; once ended, nothing changes any more.

    Attributes:
        ask: what was asked.
        replica: index of the target it went to.
        deadline_us: when it counts as failed.
        sent_us: when it was handed to the kernel, None until then.
        first_us, last_us: receive stamps of the first and last token-bearing chunk, None without.
        end_us: last byte of the answer, or when it failed; None until ended.
        gaps_us, chunk_tokens: one entry per token-bearing chunk, as in TimingBatch.
        status: None until ended.
        message: what went wrong, for humans.
    """

    __slots__ = (
        "_count",
        "_done",
        "_events",
        "_finish",
        "_parser",
        "_plain",
        "_plain_bytes",
        "_prompt_tokens",
        "ask",
        "chunk_tokens",
        "deadline_us",
        "end_us",
        "first_us",
        "gaps_us",
        "last_us",
        "message",
        "replica",
        "sent_us",
        "status",
    )

    def __init__(self, ask: Ask, *, replica: int, deadline_us: int) -> None:
        self.ask = ask
        self.replica = replica
        self.deadline_us = deadline_us
        self.sent_us: int | None = None
        self.first_us: int | None = None
        self.last_us: int | None = None
        self.end_us: int | None = None
        self.gaps_us = array("I")
        self.chunk_tokens = array("H")
        self.status: RequestStatus | None = None
        self.message = ""
        self._parser = ResponseParser()
        self._events = EventParser()
        self._count = TokenCount()
        self._plain: list[bytes] | None = None
        self._plain_bytes = 0
        self._prompt_tokens = 0
        self._done = False
        self._finish = ""

    @property
    def ended(self) -> bool:
        """Whether it has a status."""
        return self.status is not None

    @property
    def reusable(self) -> bool:
        """Whether its connection can carry another request."""
        return self._parser.keep_alive

    @property
    def http_status(self) -> int:
        """0 if no answer came."""
        return self._parser.status

    @property
    def output_tokens(self) -> int:
        """Output tokens so far."""
        return self._count.total

    @property
    def input_tokens(self) -> int:
        """The server's count if it told one."""
        return self._prompt_tokens or self.ask.input_tokens

    def receive(self, stamp_us: int, data: bytes) -> None:
        """Bytes of the answer, received at `stamp_us`."""
        if self.ended:
            return
        broken = ""
        try:
            body = self._parser.feed(data)
        except Http1Error as error:
            body, broken = error.body, str(error)
        if body:
            self._on_body(stamp_us, body)
        if broken:
            self._end(stamp_us, RequestStatus.MALFORMED, broken)
        elif self._parser.complete:
            self._on_complete(stamp_us)

    def closed(self, stamp_us: int, *, reset: bool) -> None:
        """The server closed the connection, or reset it."""
        if self._parser.eof() and not reset:
            self._on_complete(stamp_us)
        elif self._parser.head_complete and self.http_status != _HTTP_OK:
            self._end(stamp_us, RequestStatus.HTTP_ERROR, f"HTTP status {self.http_status}")
        elif self._whole:
            self._end_whole(self._last_byte_us(stamp_us))
        elif reset:
            self._end(stamp_us, RequestStatus.RESET, "the connection was reset")
        else:
            self._end(stamp_us, RequestStatus.CLOSED_EARLY, "the connection was closed before the answer was whole")

    def expire(self, now_us: int) -> None:
        """Its deadline has passed."""
        if self._whole:
            self._end_whole(self._last_byte_us(now_us))
        else:
            self._end(now_us, RequestStatus.DEADLINE, "not finished at its deadline")

    def fail(self, now_us: int, status: RequestStatus, message: str) -> None:
        """It ended for a reason outside its answer: not connected, not sent, cancelled."""
        self._end(now_us, status, message)

    @property
    def _whole(self) -> bool:
        """Whether all of the answer that matters is in, though the response has not ended."""
        return self._done or bool(self._finish)

    def _last_byte_us(self, fallback_us: int) -> int:
        return self.last_us if self.last_us is not None else fallback_us

    def _on_body(self, stamp_us: int, body: bytes) -> None:
        if self.http_status != _HTTP_OK:
            return
        if self._plain is None and self._parser.headers.get("content-type", "").startswith("application/json"):
            self._plain = []
        if self._plain is not None:
            self._plain_bytes += len(body)
            if self._plain_bytes <= _PLAIN_BYTES:
                self._plain.append(body)
            return
        broken = ""
        try:
            events = self._events.feed(body)
        except SseError as error:
            events, broken = list(error.events), str(error)
        failure = self._on_events(stamp_us, events)
        if failure is not None:
            kind = RequestStatus.STREAM_ERROR if failure.kind is ChunkKind.ERROR else RequestStatus.MALFORMED
            self._end(stamp_us, kind, failure.message)
        elif broken:
            self._end(stamp_us, RequestStatus.MALFORMED, broken)
        elif self.output_tokens > token_cap(self.ask.wanted_tokens):
            self._end(
                stamp_us,
                RequestStatus.STREAM_ERROR,
                f"{self.output_tokens} tokens came, {self.ask.wanted_tokens} were asked for",
            )

    def _on_events(self, stamp_us: int, events: list[Event]) -> Chunk | None:
        """Count what `events` brought; the first that is an error or malformed, which ends the request."""
        tokens = 0
        failure = None
        for event in events:
            chunk = parse_chunk(event.data, event=event.event)
            if chunk.kind is ChunkKind.DELTA:
                tokens += self._count.add(chunk)
                self._finish = self._finish or chunk.finish_reason
                self._prompt_tokens = max(self._prompt_tokens, chunk.prompt_tokens or 0)
            elif chunk.kind is ChunkKind.DONE:
                self._done = True
            else:
                failure = chunk
                break
        self._on_tokens(stamp_us, tokens)
        return failure

    def _on_tokens(self, stamp_us: int, tokens: int) -> None:
        if not tokens:
            return
        if self.last_us is None:
            self.first_us = stamp_us
            self.gaps_us.append(0)
            self.chunk_tokens.append(min(tokens, _CHUNK_TOKENS_MAX))
        elif stamp_us == self.last_us or len(self.gaps_us) >= CHUNKS_MAX:
            self.gaps_us[-1] = min(MAX_US, self.gaps_us[-1] + stamp_us - self.last_us)
            self.chunk_tokens[-1] = min(_CHUNK_TOKENS_MAX, self.chunk_tokens[-1] + tokens)
        else:
            self.gaps_us.append(min(MAX_US, stamp_us - self.last_us))
            self.chunk_tokens.append(min(tokens, _CHUNK_TOKENS_MAX))
        self.last_us = stamp_us

    def _on_complete(self, stamp_us: int) -> None:
        """The response ended as HTTP says."""
        if self.http_status != _HTTP_OK:
            self._end(stamp_us, RequestStatus.HTTP_ERROR, f"HTTP status {self.http_status}")
        elif self._plain is not None:
            chunk = parse_chunk(b"".join(self._plain))
            if chunk.kind is ChunkKind.ERROR:
                self._end(stamp_us, RequestStatus.STREAM_ERROR, chunk.message)
            else:
                self._end(stamp_us, RequestStatus.MALFORMED, "a plain answer came where a stream was asked for")
        elif self._whole or (self.ask.exact and self.output_tokens >= self.ask.wanted_tokens):
            self._end_whole(stamp_us)
        else:
            self._end(stamp_us, RequestStatus.CLOSED_EARLY, "the stream ended without an end of its answer")

    def _end_whole(self, stamp_us: int) -> None:
        if self.ask.exact and self.output_tokens < self.ask.wanted_tokens:
            self._end(
                stamp_us,
                RequestStatus.TOO_FEW_TOKENS,
                f"{self.output_tokens} tokens came, {self.ask.wanted_tokens} were asked for",
            )
        else:
            self._end(stamp_us, RequestStatus.OK, "")

    def _end(self, stamp_us: int, status: RequestStatus, message: str) -> None:
        """The first end counts."""
        if self.ended:
            return
        self.end_us = stamp_us
        self.status = status
        self.message = message

    def offset_us(self, at_us: int | None) -> int:
        """`at_us` as the wire has it: since the intended start, NONE_US for never, clipped to what fits."""
        return NONE_US if at_us is None else min(MAX_US, max(0, at_us - self.ask.intended_us))

    def wire_output_tokens(self) -> int:
        """`output_tokens`, clipped to what fits into a column."""
        return min(_U32_MAX, self.output_tokens)
