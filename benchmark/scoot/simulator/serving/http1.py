"""Just enough HTTP/1.1 of the server's side for engines that pretend: requests in, answers out. Sans-IO, pure."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import msgspec

from scoot.wire.errors import RemoteProtocolError

HEAD_BYTES: Final = 64 * 1024
BODY_BYTES: Final = 64 * 1024 * 1024

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"


class Request(msgspec.Struct, frozen=True):
    """A whole request. `close`: the client will not send another one on this connection."""

    method: str
    path: str
    body: bytes
    close: bool


class RequestParser:
    """Requests of one connection, one after the other."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: tuple[str, str, int, bool] | None = None
        self.wants_continue = False
        """Whether the client waits for CONTINUE before it sends the body; the caller clears it."""

    def feed(self, data: bytes) -> None:
        """Bytes from the client."""
        self._buffer += data

    def next(self) -> Request | None:
        """The next whole request, None if more bytes are needed.

        Raises:
            RemoteProtocolError: not a request this server understands.
        """
        if self._head is None and not self._read_head():
            return None
        if self._head is None:
            return None
        method, path, length, close = self._head
        if len(self._buffer) < length:
            return None
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        self._head = None
        return Request(method, path, body, close)

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_BYTES:
                raise RemoteProtocolError("the head of the request is too long")
            return False
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):  # noqa: PLR2004 - method, target, version
            raise RemoteProtocolError("not a request line")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not length.isascii() or not length.isdigit() or int(length) > BODY_BYTES:
            raise RemoteProtocolError("a body needs a content length within limits")
        option = headers.get("connection", "").lower()
        close = option == "close" or (words[2] == "HTTP/1.0" and option != "keep-alive")
        self.wants_continue = headers.get("expect", "").lower() == "100-continue"
        self._head = (words[0], words[1].partition("?")[0], int(length), close)
        return True


def answer(status: int, body: bytes, *, content_type: str = "application/json", close: bool = False) -> bytes:
    """A whole answer."""
    return _head(status, content_type, f"content-length: {len(body)}", close=close) + body


def stream_head(*, close: bool = False) -> bytes:
    """The start of a stream of events, in chunks."""
    return _head(HTTPStatus.OK, "text/event-stream; charset=utf-8", "transfer-encoding: chunked", close=close)


def chunk(data: bytes) -> bytes:
    """`data`, not empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _head(status: int, content_type: str, framing: str, *, close: bool) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", "server: scoot", f"content-type: {content_type}", framing]
    if close:
        lines.append("connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
