"""HTTP/1.1 responses as bytes come in: status, headers, and the body freed of its framing. Sans-IO, pure.

Understood are chunked bodies (extensions and trailers are skipped), bodies of a known length, and bodies that end with
the connection. Requests are never pipelined, so bytes after the end of a response make its connection unusable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

from scoot.wire.errors import RemoteProtocolError

HEAD_BYTES: Final = 64 * 1024
"""Status line and headers, interim (1xx) responses included; trailers likewise."""

CHUNKED_END: Final = b"\r\n\r\n"
"""Last bytes of every chunked response, with trailers or without."""

_CHUNK_LINE_BYTES: Final = 4096
_OK_WITHOUT_BODY: Final = frozenset({204, 304})
_SWITCHING: Final = 101
_FIRST_FINAL: Final = 200
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: .*)?")
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")
_LENGTH: Final = re.compile(r"[0-9]{1,15}")
_HEADS_MAX: Final = 256
_KNOWN_HEAD_BYTES: Final = 4096
_match_plain_size: Final = re.compile(rb"([0-9A-Fa-f]{1,7})\r\n").match


class Http1Error(RemoteProtocolError):
    """The server does not speak HTTP/1.1. Close the connection; `body` is what was understood of the last bytes fed."""

    def __init__(self, message: str, *, body: bytes = b"") -> None:
        super().__init__(message)
        self.body = body


class _State(Enum):
    STATUS = auto()
    HEADERS = auto()
    SIZED = auto()
    CHUNK_SIZE = auto()
    CHUNK_DATA = auto()
    CHUNK_END = auto()
    TRAILERS = auto()
    UNTIL_CLOSE = auto()
    COMPLETE = auto()


class ResponseParser:
    """One response. Make a new parser for the next one on the connection.

    Attributes:
        status: final status code, 0 until the status line is in.
        started: whether any byte came.
    """

    __slots__ = (
        "_head_bytes",
        "_headers",
        "_keep_alive",
        "_left",
        "_line",
        "_minor",
        "_state",
        "started",
        "status",
    )

    def __init__(self) -> None:
        self.status = 0
        self.started = False
        self._headers: dict[str, str] = {}
        self._state = _State.STATUS
        self._line = b""
        self._left = 0
        self._head_bytes = 0
        self._minor = 1
        self._keep_alive = False

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers by lower-case name; repeated ones joined by ", ". Complete when `head_complete`."""
        return self._headers

    @property
    def head_complete(self) -> bool:
        """Whether status and headers are final."""
        return self._state not in (_State.STATUS, _State.HEADERS)

    @property
    def complete(self) -> bool:
        """Whether the whole response is in."""
        return self._state is _State.COMPLETE

    @property
    def chunked(self) -> bool:
        """Whether the body goes on, and is chunked."""
        return self._state in (_State.CHUNK_SIZE, _State.CHUNK_DATA, _State.CHUNK_END, _State.TRAILERS)

    @property
    def between_chunks(self) -> bool:
        """Whether the next byte is the first of a chunk's size."""
        return self._state is _State.CHUNK_SIZE and not self._line

    @property
    def keep_alive(self) -> bool:
        """Whether the connection can carry another request now."""
        return self._state is _State.COMPLETE and self._keep_alive

    def feed(self, data: bytes) -> bytes:
        """The bytes of the body that `data` brings.

        Raises:
            Http1Error: not HTTP/1.1, or over a limit.
        """
        if data:
            self.started = True
        body: list[bytes] = []
        at = 0
        end = len(data)
        try:
            if self._state is _State.STATUS and not self._line:
                at = self._take_known_head(data)
            while at < end:
                state = self._state
                if state is _State.CHUNK_SIZE and not self._line:
                    at = self._take_chunk(data, at, body)
                elif state is _State.CHUNK_DATA or state is _State.SIZED:
                    at = self._take_data(data, at, body)
                elif state is _State.UNTIL_CLOSE:
                    body.append(data[at:])
                    at = end
                elif state is _State.COMPLETE:
                    self._keep_alive = False
                    at = end
                else:
                    at = self._feed_line(data, at)
        except Http1Error as error:
            error.body = b"".join(body)
            raise
        return body[0] if len(body) == 1 else b"".join(body)

    def _take_known_head(self, data: bytes) -> int:
        """Take in a head that is all there, known from before if possible: a server's differ once a second.

        Where the body begins; 0 if the head must be read line by line.
        """
        end = data.find(b"\r\n\r\n", 0, _KNOWN_HEAD_BYTES) + 4
        if end < 4 or self._head_bytes:  # noqa: PLR2004 - not found
            return 0
        head = data[:end]
        known = _KNOWN_HEADS.get(head)
        if known is None:
            other = ResponseParser()
            known = other._read_head(head)
            if known is None:
                return 0
            if len(_KNOWN_HEADS) >= _HEADS_MAX:
                _KNOWN_HEADS.clear()
            _KNOWN_HEADS[head] = known
        self.status, self._headers, self._state, self._left, self._minor, self._keep_alive = known
        return end

    def _read_head(self, head: bytes) -> _KnownHead | None:
        """What `head` comes to; None if it is not one head exactly."""
        at = 0
        while at < len(head) and not self.head_complete:
            at = self._feed_line(head, at)
        if at < len(head) or not self.head_complete:
            return None
        return self.status, self._headers, self._state, self._left, self._minor, self._keep_alive

    def _take_chunk(self, data: bytes, at: int, body: list[bytes]) -> int:
        """The chunk at `at` if it is all there in its plainest form, else the line of its size; where to go on.

        The former is nearly every chunk of a stream of tokens, and much cheaper than line by line.
        """
        found = _match_plain_size(data, at)
        if found is not None:
            start = found.end()
            end = start + int(found[1], 16)
            if end > start and data[end : end + 2] == b"\r\n":
                body.append(data[start:end])
                return end + 2
            if end == start and data[end:] == b"\r\n":
                self._state = _State.COMPLETE
                return end + 2
        return self._feed_line(data, at)

    def _take_data(self, data: bytes, at: int, body: list[bytes]) -> int:
        piece = data[at : at + self._left] if at or self._left < len(data) else data
        self._left -= len(piece)
        body.append(piece)
        if not self._left:
            self._state = _State.CHUNK_END if self._state is _State.CHUNK_DATA else _State.COMPLETE
        return at + len(piece)

    def eof(self) -> bool:
        """The peer closed its side. True if that leaves the response whole."""
        if self._state is _State.UNTIL_CLOSE:
            self._state = _State.COMPLETE
        self._keep_alive = False
        return self.complete

    def _feed_line(self, data: bytes, at: int) -> int:
        """Consume up to and including the next line end; where to go on in `data`."""
        limit = HEAD_BYTES - self._head_bytes
        if self._state in (_State.CHUNK_SIZE, _State.CHUNK_END):
            limit = _CHUNK_LINE_BYTES
        stop = data.find(b"\n", at)
        taken = (len(data) if stop < 0 else stop) - at
        if len(self._line) + taken > limit:
            raise Http1Error(f"a line of the {self._state.name.lower()} is over the limit")
        if stop < 0:
            self._line += data[at:]
            return len(data)
        line = self._line + data[at:stop]
        self._line = b""
        self._on_line(line.removesuffix(b"\r"), len(line) + 1)
        return stop + 1

    def _on_line(self, line: bytes, size: int) -> None:
        match self._state:
            case _State.STATUS:
                self._head_bytes += size
                if line:
                    self._on_status(line)
            case _State.HEADERS:
                self._head_bytes += size
                if line:
                    self._on_header(line)
                else:
                    self._on_head_end()
            case _State.CHUNK_SIZE:
                found = _CHUNK_SIZE.fullmatch(line)
                if found is None:
                    raise Http1Error(f"{line[:40]!r} is not the size of a chunk")
                self._left = int(found[1], 16)
                self._state = _State.CHUNK_DATA if self._left else _State.TRAILERS
                self._head_bytes = 0
            case _State.CHUNK_END:
                if line:
                    raise Http1Error("a chunk is longer than its size")
                self._state = _State.CHUNK_SIZE
            case _:  # TRAILERS
                self._head_bytes += size
                if not line:
                    self._state = _State.COMPLETE

    def _on_status(self, line: bytes) -> None:
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            raise Http1Error(f"{line[:40]!r} is not a status line of HTTP/1.1")
        self._minor = int(found[1])
        self.status = int(found[2])
        self._headers = {}
        self._state = _State.HEADERS

    def _on_header(self, line: bytes) -> None:
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(name):
            raise Http1Error(f"{line[:40]!r} is not a header")
        key = name.decode("ascii").lower()
        text = value.strip(b" \t").decode("latin-1")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def _on_head_end(self) -> None:
        if self.status == _SWITCHING:
            raise Http1Error("the server switches protocols unasked")
        if self.status < _FIRST_FINAL:
            self._state = _State.STATUS
            return
        options = {option.strip().lower() for option in self._headers.get("connection", "").split(",")}
        self._keep_alive = "close" not in options and (self._minor == 1 or "keep-alive" in options)
        coding = self._headers.get("transfer-encoding", "").strip().lower()
        length = self._headers.get("content-length")
        if self.status in _OK_WITHOUT_BODY:
            self._state = _State.COMPLETE
        elif coding:
            if coding != "chunked":
                raise Http1Error(f"transfer encoding {coding[:40]!r} is not supported")
            self._state = _State.CHUNK_SIZE
        elif length is not None:
            values = {value.strip() for value in length.split(",")}
            if len(values) != 1 or not _LENGTH.fullmatch(value := values.pop()):
                raise Http1Error(f"{length[:40]!r} is not a content length")
            self._left = int(value)
            self._state = _State.SIZED if self._left else _State.COMPLETE
        else:
            self._keep_alive = False
            self._state = _State.UNTIL_CLOSE


_KnownHead = tuple[int, dict[str, str], _State, int, int, bool]

_KNOWN_HEADS: Final[dict[bytes, _KnownHead]] = {}
"""Heads seen, by their bytes. Headers are never changed once complete."""
