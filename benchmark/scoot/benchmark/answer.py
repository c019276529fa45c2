"""What one answer said: from the bytes of its body with receive stamps to token timings and a verdict. Sans-IO, pure.

Times are microseconds since the start of the run. A chunk is everything that arrived with one receive stamp: events
merged by the network or by either side's buffers show as one chunk, marked as merged, and not as gaps of zero.
"""

from __future__ import annotations

import re
from array import array
from functools import lru_cache
from typing import Final

import msgspec

from scoot.benchmark.completion import Chunk, ChunkKind, TokenCount, parse_chunk, parse_lines
from scoot.benchmark.http1 import Http1Error, ResponseParser
from scoot.benchmark.messages import Begun, Ended
from scoot.benchmark.sse import EventParser, SseError
from scoot.wire.columns import MAX_US, NONE_US, RequestStatus

CHUNKS_MAX: Final = 100_000
"""Chunks kept apart; tokens beyond are added to the last one, which keeps any request within one timing batch."""

_READS_MAX: Final = 32
_is_size: Final = re.compile(rb"[0-9A-Fa-f]{1,7}").fullmatch
_PLAIN_END: Final = b"\n\n\r\n"
_PLAIN_LF: Final = 4
_PLAIN_CR: Final = 2
_EVENT_FRAME_BYTES: Final = len("data: \n\n")
_CHUNK_TOKENS_MAX: Final = 0xFFFF
_U32_MAX: Final = 0xFFFF_FFFF
_PLAIN_BYTES: Final = 256 * 1024
_HTTP_OK: Final = 200
_SLACK_TOKENS: Final = 16
_SLACK_SHARE: Final = 10


def token_cap(wanted_tokens: int) -> int:
    """Output tokens at which a stream is cut: `wanted_tokens` and some slack for servers that count otherwise."""
    return wanted_tokens + max(_SLACK_TOKENS, wanted_tokens // _SLACK_SHARE)


@lru_cache(maxsize=4096)
def _chunk_size(text: bytes) -> int:
    """A chunk's size; -1 if `text` is none in its plainest form. Sizes repeat."""
    return int(text, 16) if _is_size(text) else -1


def _plain_payloads(reads: list[bytes]) -> list[bytes]:
    """Payloads of reads that are one HTTP chunk with one event of one line each, which is what engines send.

    The last read, which ends an answer, may be something else; if any other is, nothing is given. Nothing is taken for
    such a read that is none: the separators, counted, leave no room for others, and every size is checked.
    """
    n = len(reads)
    if reads[-1][-4:] != _PLAIN_END or reads[-1].count(b"\n") != _PLAIN_LF:
        n -= 1
    whole = b"".join(reads[:n])
    pieces = whole.split(_PLAIN_END)
    if len(pieces) != n + 1 or whole.count(b"\n") != _PLAIN_LF * n or whole.count(b"\r") != _PLAIN_CR * n:
        return []
    payloads: list[bytes] = []
    for piece, data in zip(pieces, reads, strict=False):
        size, _, payload = piece.partition(b"\r\ndata: ")
        if _chunk_size(size) != len(payload) + _EVENT_FRAME_BYTES or len(data) != len(piece) + len(_PLAIN_END):
            return []
        payloads.append(payload)
    return payloads


class Answer:
    """The state of one answer. Once it has a status, nothing changes any more.

    Attributes:
        begun: the request it belongs to.
        first_us, last_us: receive stamps of the first and last token-bearing chunk, None without.
        end_us: last byte of the answer, or when it failed; None until ended.
        gaps_us: one entry per token-bearing chunk, as in TimingBatch.
        chunk_tokens: position of such a chunk -> its tokens, where they are not one.
        merged: positions of chunks that came in several events under one stamp.
        status: None until ended.
        message: what went wrong, for humans.
    """

    __slots__ = (
        "_cap",
        "_count",
        "_done",
        "_events",
        "_finish",
        "_flowing",
        "_http",
        "_plain",
        "_prompt_tokens",
        "_reads",
        "_sent_us",
        "_stamps_us",
        "begun",
        "chunk_tokens",
        "end_us",
        "first_us",
        "gaps_us",
        "last_us",
        "merged",
        "message",
        "status",
    )

    def __init__(self, begun: Begun) -> None:
        self.begun = begun
        self.first_us: int | None = None
        self.last_us: int | None = None
        self.end_us: int | None = None
        self.gaps_us = array("I")
        self.chunk_tokens: dict[int, int] = {}
        self.merged: set[int] = set()
        self.status: RequestStatus | None = None
        self.message = ""
        self._http = ResponseParser()
        self._events = EventParser()
        self._flowing = False
        self._stamps_us: list[int] = []
        self._reads: list[bytes] = []
        self._sent_us = begun.sent_us or 0
        self._count = TokenCount()
        self._plain: bytearray | None = None
        self._prompt_tokens = 0
        self._done = False
        self._finish = ""
        self._cap = token_cap(begun.wanted_tokens)

    @property
    def http_status(self) -> int:
        """0 if no answer came."""
        return self._http.status

    @property
    def output_tokens(self) -> int:
        """Output tokens so far."""
        return self._count.total

    @property
    def input_tokens(self) -> int:
        """The server's count if it told one."""
        return self._prompt_tokens or self.begun.input_tokens

    def receive(self, stamp_us: int, data: bytes) -> bool:
        """Bytes of the response, received at `stamp_us`. True if that decided the verdict: nothing more is wanted.

        A stream under way is not looked at at once: many reads together cost a fraction of each on its own.
        """
        if self._flowing:
            self._stamps_us.append(stamp_us)
            self._reads.append(data)
            return len(self._reads) >= _READS_MAX and self.parse()
        return self._receive(stamp_us, data)

    def parse(self) -> bool:
        """Look at everything received. True if that decided the verdict."""
        if not self._reads:
            return False
        stamps_us, self._stamps_us = self._stamps_us, []
        reads, self._reads = self._reads, []
        at = self._parse_plain(stamps_us, reads)
        decided = self.status is not None
        for stamp_us, data in zip(stamps_us[at:], reads[at:], strict=True):
            decided |= self._receive(stamp_us, data)
        return decided

    def _parse_plain(self, stamps_us: list[int], reads: list[bytes]) -> int:
        """Take in reads that are one token each in the plainest form; how many of them from the first on."""
        try:
            messages = parse_lines(b"\n".join(_plain_payloads(reads)))
        except (msgspec.DecodeError, RecursionError):
            return 0
        count = self._count
        at = 0
        for stamp_us, message in zip(stamps_us, messages, strict=False):
            tokens = count.add_plain(message)
            if tokens < 0:
                break
            at += 1
            if tokens:
                self._on_tokens(max(stamp_us, self._sent_us), tokens, 1)
                if count.counted > self._cap:
                    self._end_endless(stamp_us)
                    break
        return at

    def _receive(self, stamp_us: int, data: bytes) -> bool:
        if self.status is not None:
            return False
        # Bytes left over from an earlier answer would otherwise have come before they were asked for.
        self._on_bytes(max(stamp_us, self._sent_us), data)
        return self.status is not None

    def end(self, ended: Ended) -> None:
        """The transport ended; the verdict, unless there is one already."""
        self.parse()
        if self.status is not None:
            return
        status = RequestStatus(ended.status)
        refused = self._http.head_complete and self.http_status != _HTTP_OK
        if status is RequestStatus.OK and not refused:
            self._end_response(ended.end_us)
        elif refused and status in (RequestStatus.OK, RequestStatus.RESET, RequestStatus.CLOSED_EARLY):
            self._end(ended.end_us, RequestStatus.HTTP_ERROR, self._refusal())
        elif self._whole and status in (RequestStatus.RESET, RequestStatus.CLOSED_EARLY, RequestStatus.DEADLINE):
            # All of the answer that matters is in, though the response has not ended as HTTP says.
            self._end_whole(self.last_us if self.last_us is not None else ended.end_us)
        else:
            self._end(ended.end_us, status, ended.message)

    @property
    def _whole(self) -> bool:
        return self._done or bool(self._finish)

    def _refusal(self) -> str:
        chunk = parse_chunk(bytes(self._plain or b""))
        told = f": {chunk.message}" if chunk.kind is ChunkKind.ERROR else ""
        return f"HTTP status {self.http_status}{told}"

    def _on_bytes(self, stamp_us: int, data: bytes) -> None:
        """Any bytes of the response."""
        broken = ""
        try:
            body = self._http.feed(data)
        except Http1Error as error:
            body, broken = error.body, str(error)
        if body:
            self._on_body(stamp_us, body)
        if broken:
            self._end(stamp_us, RequestStatus.MALFORMED, broken)
        self._flowing = (
            self.first_us is not None
            and self.status is None
            and self._http.between_chunks
            and self.http_status == _HTTP_OK
            and self._plain is None
            and self._events.between_events
        )

    def _on_body(self, stamp_us: int, body: bytes) -> None:
        if self._plain is None and (
            self.http_status != _HTTP_OK or self._http.headers.get("content-type", "").startswith("application/json")
        ):
            self._plain = bytearray()
        if self._plain is not None:
            if len(self._plain) < _PLAIN_BYTES:
                self._plain += body
            return
        failure = self._on_events(stamp_us, body)
        if failure is not None:
            kind = RequestStatus.STREAM_ERROR if failure.kind is ChunkKind.ERROR else RequestStatus.MALFORMED
            self._end(stamp_us, kind, failure.message)
        elif self._count.counted > self._cap:
            self._end_endless(stamp_us)

    def _is_document(self) -> bool:
        """Whether the body is one document and not a stream."""
        kind = self._http.headers.get("content-type", "")
        return self.http_status != _HTTP_OK or kind.startswith("application/json")

    def _on_events(self, stamp_us: int, body: bytes) -> Chunk | None:
        """Any bytes of the stream; the first event that is an error or malformed, which ends the request."""
        failure = None
        try:
            events = self._events.feed(body)
        except SseError as error:
            events = list(error.events)
            failure = Chunk(kind=ChunkKind.MALFORMED, message=str(error))
        tokens = bearing = 0
        for event in events:
            chunk = parse_chunk(event.data, event=event.event)
            if chunk.kind is ChunkKind.DELTA:
                new = self._count_delta(chunk)
                tokens += new
                bearing += new > 0
            elif chunk.kind is ChunkKind.DONE:
                self._done = True
            else:
                failure = chunk
                break
        if tokens:
            self._on_tokens(stamp_us, tokens, bearing)
        return failure

    def _count_delta(self, chunk: Chunk) -> int:
        if chunk.finish_reason:
            self._finish = self._finish or chunk.finish_reason
        if chunk.prompt_tokens:
            self._prompt_tokens = max(self._prompt_tokens, chunk.prompt_tokens)
        return self._count.add(chunk)

    def _on_tokens(self, stamp_us: int, tokens: int, events: int) -> None:
        """`tokens` came with one stamp, in so many events."""
        last_us = self.last_us
        self.last_us = stamp_us
        gaps_us = self.gaps_us
        if last_us is None:
            self.first_us = stamp_us
            gaps_us.append(0)
        elif stamp_us == last_us or len(gaps_us) >= CHUNKS_MAX:
            tokens += self.chunk_tokens.get(len(gaps_us) - 1, 1)
            events = 2
            gaps_us[-1] = min(MAX_US, gaps_us[-1] + stamp_us - last_us)
        else:
            gap_us = stamp_us - last_us
            gaps_us.append(gap_us if 0 <= gap_us <= MAX_US else min(MAX_US, max(0, gap_us)))
        if tokens != 1:
            self.chunk_tokens[len(gaps_us) - 1] = min(_CHUNK_TOKENS_MAX, tokens)
        if events > 1:
            self.merged.add(len(gaps_us) - 1)

    def _end_response(self, stamp_us: int) -> None:
        """The response ended as HTTP says."""
        begun = self.begun
        if self._plain is not None:
            chunk = parse_chunk(bytes(self._plain))
            if chunk.kind is ChunkKind.ERROR:
                self._end(stamp_us, RequestStatus.STREAM_ERROR, chunk.message)
            else:
                self._end(stamp_us, RequestStatus.MALFORMED, "a plain answer came where a stream was asked for")
        elif self._whole or (begun.exact and self.output_tokens >= begun.wanted_tokens):
            self._end_whole(stamp_us)
        else:
            self._end(stamp_us, RequestStatus.CLOSED_EARLY, "the stream ended without an end of its answer")

    def _end_whole(self, stamp_us: int) -> None:
        begun = self.begun
        if begun.exact and self.output_tokens < begun.wanted_tokens:
            self._end(
                stamp_us,
                RequestStatus.TOO_FEW_TOKENS,
                f"{self.output_tokens} tokens came, {begun.wanted_tokens} were asked for",
            )
        else:
            self._end(stamp_us, RequestStatus.OK, "")

    def _end_endless(self, stamp_us: int) -> None:
        self._end(
            stamp_us,
            RequestStatus.STREAM_ERROR,
            f"{self.output_tokens} tokens came, {self.begun.wanted_tokens} were asked for",
        )

    def _end(self, stamp_us: int, status: RequestStatus, message: str) -> None:
        if self.status is None:
            self.end_us = stamp_us if self.last_us is None else max(stamp_us, self.last_us)
            self.status = status
            self.message = message

    def offset_us(self, at_us: int | None) -> int:
        """`at_us` as the wire has it: since the intended start, NONE_US for never, clipped to what fits."""
        return NONE_US if at_us is None else min(MAX_US, max(0, at_us - self.begun.intended_us))

    def wire_output_tokens(self) -> int:
        """`output_tokens`, clipped to what fits into a column."""
        return min(_U32_MAX, self.output_tokens)
