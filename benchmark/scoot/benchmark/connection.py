"""Connections to the replicas: raw sockets that stamp and hand on, and a pool of open ones per replica."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

import msgspec

from scoot.benchmark.clock import STAMP_SPACE, ReceiveClock, monotonic_ns
from scoot.benchmark.exchange import Exchange
from scoot.wire.columns import RequestStatus
from scoot.wire.errors import UserError

_READ_BYTES: Final = 256 * 1024

RESERVE: Final = 8
"""Idle connections a pool tries to keep, so that a dispatch finds one open."""

_IDLE_NS: Final = 2_000_000_000
"""A used connection idle for longer is not used again: servers close theirs after a few seconds (uvicorn: five), and a
request that crosses such a close would be counted as the engine's failure."""

_OWN_LIMITS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN}
)
"""Errors of connect() that are this machine's limits and not the engine's refusal."""


class Lost(msgspec.Struct, frozen=True):
    """The end of a connection: the server closed it, or reset it."""

    reset: bool


Received = Callable[["Connection", int, bytes | Lost], None]
"""What a connection calls: itself, the monotonic stamp in ns, and the bytes or the end."""


class Target(msgspec.Struct, frozen=True):
    """Where a replica listens."""

    host: str
    port: int

    @property
    def authority(self) -> str:
        """As the Host header has it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_target(url: str) -> Target:
    """The target of a base URL.

    Raises:
        UserError: not of the form http://HOST:PORT.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "http" or not parts.hostname or port is None or parts.path.strip("/"):
        raise UserError(f"{url!r} is not a base URL", key="targets", hint="as http://127.0.0.1:8000")
    return Target(parts.hostname, port)


class Connection:
    """One connection on a raw socket. Bytes are stamped before anything else is done, and handed on unread.

    Attributes:
        exchange: what it carries, None while idle.
        used: whether it ever carried one.
        idle_since_ns: when it was given back.
        open: whether it can be written to.
        pool: where it belongs.
    """

    __slots__ = (
        "_clock",
        "_loop",
        "_received",
        "_sock",
        "_unsent",
        "exchange",
        "idle_since_ns",
        "open",
        "pool",
        "used",
    )

    def __init__(self, pool: Pool, sock: socket.socket, received: Received, clock: ReceiveClock) -> None:
        """`sock` is connected and does not block; the connection owns it."""
        self.pool = pool
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._received = received
        self._clock = clock
        self._unsent = b""
        self.exchange: Exchange | None = None
        self.used = False
        self.idle_since_ns = 0
        self.open = True
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        clock.enable(sock)
        self._loop.add_reader(sock, self._on_readable)

    def _on_readable(self) -> None:
        """Bytes, or the end. One look a wake-up: the loop comes back at once if there is more."""
        try:
            data, ancillary, _, _ = self._sock.recvmsg(_READ_BYTES, STAMP_SPACE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._on_lost(reset=True)
            return
        if data:
            self._received(self, self._clock.stamp_ns(ancillary), data)
        else:
            self._on_lost(reset=False)

    def _on_lost(self, *, reset: bool) -> None:
        stamp_ns = monotonic_ns()
        was_open = self.open
        self._shut()
        if was_open:
            self._received(self, stamp_ns, Lost(reset))
            self.pool.forget(self)

    def send(self, exchange: Exchange, parts: tuple[bytes, bytes]) -> None:
        """Send a request; the connection must be open and idle."""
        if not self.open or self.exchange is not None:
            raise RuntimeError("the connection is not open and idle")
        self.exchange = exchange
        self.used = True
        self._write(b"", parts)

    def _write(self, rest: bytes, parts: tuple[bytes, bytes] = (b"", b"")) -> None:
        """Write what the kernel takes now, and the rest when it can. A broken connection is told by its reader."""
        try:
            taken = self._sock.sendmsg((rest, *parts)) if rest else self._sock.sendmsg(parts)
        except (BlockingIOError, InterruptedError):
            taken = 0
        except OSError:
            return
        left = len(rest) + len(parts[0]) + len(parts[1]) - taken
        if not left:
            return
        self._unsent = (rest + parts[0] + parts[1])[-left:]
        self._loop.add_writer(self._sock, self._on_writable)

    def _on_writable(self) -> None:
        self._loop.remove_writer(self._sock)
        rest, self._unsent = self._unsent, b""
        self._write(rest)

    def close(self) -> None:
        """Close it at once; nothing is reported any more."""
        self.exchange = None
        self._shut()

    def _shut(self) -> None:
        self.open = False
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()


class Pool:
    """Connections of one replica: idle ones, and requests waiting for one that is being opened.

    Args:
        target: the replica.
        received: see Connection.
        clock: stamps what is received.
        dispatch: called with a connection and a waiting exchange: send it now.
        failed: called with a waiting exchange that cannot be sent: status and message.
    """

    def __init__(
        self,
        target: Target,
        *,
        received: Received,
        clock: ReceiveClock,
        dispatch: Callable[[Connection, Exchange], None],
        failed: Callable[[Exchange, RequestStatus, str], None],
    ) -> None:
        self.target = target
        self._received = received
        self._clock = clock
        self._dispatch = dispatch
        self._failed = failed
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._waiting: deque[Exchange] = deque()
        self._connecting: set[asyncio.Task[None]] = set()

    async def warm(self, connections: int) -> None:
        """Open so many connections. A replica that cannot be reached is no error here: its requests will tell."""
        for _ in range(connections - len(self._idle) - len(self._connecting)):
            self._connect()
        while self._connecting:
            await asyncio.wait(tuple(self._connecting))

    def acquire(self) -> Connection | None:
        """An open idle connection, the one used last; None if there is none (then `wait`)."""
        now_ns = monotonic_ns()
        while self._idle:
            connection = self._idle.pop()
            if not connection.open:
                continue
            if connection.used and now_ns - connection.idle_since_ns > _IDLE_NS:
                connection.close()
                continue
            self._busy.add(connection)
            self._refill()
            return connection
        return None

    def wait(self, exchange: Exchange) -> None:
        """Send `exchange` as soon as a connection is open."""
        self._waiting.append(exchange)
        self._refill()

    def release(self, connection: Connection, *, reusable: bool) -> None:
        """The connection's exchange has ended."""
        connection.exchange = None
        self._busy.discard(connection)
        if not (reusable and connection.open):
            connection.close()
            return
        connection.idle_since_ns = monotonic_ns()
        self._offer(connection)

    def discard(self, connection: Connection) -> None:
        """Close an idle connection that is of no use any more."""
        connection.close()
        self.forget(connection)

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        if connection in self._idle:
            self._idle.remove(connection)

    async def close(self) -> None:
        """Close every connection and give up opening more."""
        self._waiting.clear()
        tasks = tuple(self._connecting)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for connection in (*self._idle, *self._busy):
            connection.close()
        self._idle.clear()
        self._busy.clear()

    def _offer(self, connection: Connection) -> None:
        """An open connection goes to the request that waits longest, or is idle."""
        while self._waiting:
            exchange = self._waiting.popleft()
            if not exchange.ended:
                self._busy.add(connection)
                self._dispatch(connection, exchange)
                return
        self._idle.append(connection)

    def _refill(self) -> None:
        lacking = len(self._waiting) + max(0, RESERVE - len(self._idle)) - len(self._connecting)
        for _ in range(lacking):
            self._connect()

    def _connect(self) -> None:
        task = asyncio.get_running_loop().create_task(self._open())
        self._connecting.add(task)
        task.add_done_callback(self._on_opened)

    def _on_opened(self, task: asyncio.Task[None]) -> None:
        """Raises what the task raised, which is never the engine's trouble, into the loop's exception handler."""
        self._connecting.discard(task)
        if not task.cancelled():
            task.result()

    async def _open(self) -> None:
        try:
            sock = await self._connected()
        except OSError as error:
            own = error.errno in _OWN_LIMITS
            status = RequestStatus.NOT_SENT if own else RequestStatus.CONNECT_FAILED
            while self._waiting:
                exchange = self._waiting.popleft()
                if not exchange.ended:
                    self._failed(exchange, status, f"{self.target.authority}: {error}")
                    break
        else:
            self._offer(Connection(self, sock, self._received, self._clock))

    async def _connected(self) -> socket.socket:
        """A connected socket that does not block."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self.target.host, self.target.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return sock
