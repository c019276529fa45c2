"""Messages between the processes of a load: a socket pair that neither side ever waits for."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

_LENGTH: Final = struct.Struct("<I")
_READ_BYTES: Final = 128 * 1024
_BUFFER_BYTES: Final = 4 * 1024 * 1024


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, to be owned by one process each.

    Raises:
        OSError: the kernel gives none.
    """
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for sock in pair:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    return pair


class Channel:
    """One end, on the running loop.

    Attributes:
        backlog_bytes: bytes that the other side has not taken yet.
        largest_backlog_bytes: most of them there ever were.
    """

    def __init__(self, sock: socket.socket, received: Callable[[bytes], None], lost: Callable[[], None]) -> None:
        """`received` gets whole messages; `lost` is called once when the other side is gone."""
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._received = received
        self._lost = lost
        self._unread = bytearray()
        self._unsent: deque[bytes] = deque()
        self._drained: asyncio.Future[None] | None = None
        self.backlog_bytes = 0
        self.largest_backlog_bytes = 0
        self._loop.add_reader(sock, self._on_readable)

    def send(self, payload: bytes) -> None:
        """Send a message, or keep it until there is room."""
        data = _LENGTH.pack(len(payload)) + payload
        if not self._unsent:
            data = self._write(data)
        if data:
            self._keep(data)

    async def drain(self) -> None:
        """Wait until everything sent was taken, or the other side is gone."""
        if self._unsent:
            self._drained = self._loop.create_future()
            await self._drained

    def close(self) -> None:
        """Give up what was not sent, and close."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
        self._unsent.clear()
        self._tell_drained()

    def _write(self, data: bytes) -> bytes:
        """Write what the kernel takes; the rest."""
        try:
            return data[self._sock.send(data) :]
        except (BlockingIOError, InterruptedError):
            return data
        except OSError:  # the reader will tell
            return b""

    def _keep(self, data: bytes) -> None:
        if not self._unsent:
            self._loop.add_writer(self._sock, self._on_writable)
        self._unsent.append(data)
        self.backlog_bytes += len(data)
        self.largest_backlog_bytes = max(self.largest_backlog_bytes, self.backlog_bytes)

    def _on_writable(self) -> None:
        data = self._unsent.popleft()
        rest = self._write(data)
        self.backlog_bytes -= len(data) - len(rest)
        if rest:
            self._unsent.appendleft(rest)
        elif not self._unsent:
            self._loop.remove_writer(self._sock)
            self._tell_drained()

    def _tell_drained(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _on_readable(self) -> None:
        """Everything that is there, to its end: after an error uvloop calls this once, and never again."""
        while self._sock.fileno() >= 0:
            try:
                data = self._sock.recv(_READ_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if not data:
                self.close()
                self._lost()
                return
            self._unread += data
            self._hand_on()

    def _hand_on(self) -> None:
        """Every whole message."""
        at = 0
        while len(self._unread) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._unread, at)
            end = at + _LENGTH.size + length
            if len(self._unread) < end:
                break
            message = bytes(memoryview(self._unread)[at + _LENGTH.size : end])
            at = end
            self._received(message)
        del self._unread[:at]
