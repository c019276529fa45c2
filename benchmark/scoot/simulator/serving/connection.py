"""One connection of a client to an engine that pretends: requests one after the other, answers whole or bit by bit."""

from __future__ import annotations

import asyncio
import socket
from http import HTTPStatus
from typing import Protocol, cast

from scoot.simulator.serving import http1
from scoot.simulator.serving.http1 import Request, RequestParser
from scoot.simulator.serving.openai import error_body
from scoot.wire.errors import RemoteProtocolError


class Handler(Protocol):
    """Who answers requests."""

    def handle(self, connection: ServerConnection, request: Request) -> None:
        """Answer a request, now or later; `connection.done()` ends every answer that was not given whole."""
        ...


class Cancellable(Protocol):
    """An answer on its way out."""

    def cancel(self) -> None:
        """The client is gone."""
        ...


class ServerConnection(asyncio.Protocol):
    """One connection of a client.

    Attributes:
        stream: the answer on its way out; cancelled when the client goes.
    """

    def __init__(self, handler: Handler, *, keep_alive_s: float = 0.0) -> None:
        """`keep_alive_s`: an idle connection is closed after so long, 0 never."""
        self._handler = handler
        self._keep_alive_s = keep_alive_s
        self._parser = RequestParser()
        self._transport: asyncio.Transport | None = None
        self._busy = False
        self._close = False
        self._idle: asyncio.TimerHandle | None = None
        self.stream: Cancellable | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._transport = cast("asyncio.Transport", transport)
        # Segments go out one by one, as they are written.
        self._transport.set_write_buffer_limits(high=0)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: what it asked for is given up, as engines do."""
        del exc
        self._transport = None
        self._rest_timer(start=False)
        if self.stream is not None:
            self.stream.cancel()
            self.stream = None

    def data_received(self, data: bytes) -> None:
        """Bytes of requests."""
        self._parser.feed(data)
        self._next()

    def _next(self) -> None:
        """Handle requests until one takes time."""
        while not self._busy and self._transport is not None:
            try:
                request = self._parser.next()
            except RemoteProtocolError as error:
                self._close = True
                self.answer(HTTPStatus.BAD_REQUEST, error_body(HTTPStatus.BAD_REQUEST, str(error)))
                return
            if self._parser.wants_continue:
                self._parser.wants_continue = False
                if request is None:
                    self.write(http1.CONTINUE)
            if request is None:
                return
            self._rest_timer(start=False)
            self._busy = True
            self._close = request.close
            self._handler.handle(self, request)

    def write(self, data: bytes) -> None:
        """Send bytes, if the client is still there."""
        if self._transport is not None:
            self._transport.write(data)

    def answer(self, status: int, body: bytes, *, content_type: str = "application/json") -> None:
        """Send a whole answer."""
        self.write(http1.answer(status, body, content_type=content_type, close=self._close))
        self.done()

    def done(self) -> None:
        """The answer is out: close, or go on with the next request."""
        self.stream = None
        self._busy = False
        if self._close:
            self.drop(reset=False)
            return
        self._rest_timer(start=True)
        # Not from within: a client that pipelines a thousand requests would recurse a thousand times.
        asyncio.get_running_loop().call_soon(self._next)

    def drop(self, *, reset: bool) -> None:
        """End the connection."""
        if self._transport is None:
            return
        if reset:
            sock = self._transport.get_extra_info("socket")
            # Lingering for zero seconds makes the kernel send RST instead of FIN.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            self._transport.abort()
        else:
            self._transport.close()

    def _rest_timer(self, *, start: bool) -> None:
        """Close the connection when nothing is asked for a while, as uvicorn does."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if start and self._keep_alive_s > 0 and self._transport is not None:
            self._idle = asyncio.get_running_loop().call_later(self._keep_alive_s, self.drop_idle)

    def drop_idle(self) -> None:
        """The idle time is over."""
        if not self._busy:
            self.drop(reset=False)
