"""Connections to the replicas: raw sockets that stamp and hand on, and a pool of open ones per replica."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from scoot.benchmark.clock import STAMP_SPACE, ReceiveClock, monotonic_ns
from scoot.benchmark.messages import Read
from scoot.benchmark.proxy import ConnectTunnel, Proxy, ProxyError
from scoot.benchmark.target import Target
from scoot.benchmark.tls import TlsError, TlsStream
from scoot.wire.columns import RequestStatus

if TYPE_CHECKING:
    from scoot.benchmark.exchange import Exchange

_READ_BYTES: Final = 64 * 1024
"""Read at once. Python gets a buffer of this size for each read, and above 128 KiB malloc maps and unmaps it."""

_READS_MAX: Final = 512
PATIENCE_NS: Final = 1_000_000
_PATIENCE_S: Final = PATIENCE_NS / 1e9
_STAY_NS: Final = 20_000_000
_WAIT_S: Final = 0.001
"""How long reading goes on without a look at anything else, and waits for more."""


RESERVE: Final = 8
"""Idle connections a pool tries to keep, so that a dispatch finds one open."""

_IDLE_NS: Final = 2_000_000_000
"""A used connection idle for longer is not used again: servers close theirs after a few seconds (uvicorn: five), and a
request that crosses such a close would be counted as the engine's failure."""

_OWN_LIMITS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN}
)
"""Errors of connect() that are this machine's limits and not the engine's refusal."""

Ancillary = list[tuple[int, int, bytes]]
"""Control messages of a read, with the kernel's stamp among them."""


class Lost(msgspec.Struct, frozen=True):
    """The end of a connection: the server closed it, or reset it; `cut`: closed without TLS's word that it ends."""

    reset: bool
    cut: bool = False


Special = tuple["Connection", Ancillary, "bytes | Lost", int]
"""What must be looked at: connection, control messages, raw bytes or the end, and the monotonic time of reading.

No bytes: those read are among the reads already, and may end the answer.
"""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """How a replica is reached.

    Attributes:
        target: the replica.
        proxy: through which proxy, if any.
        tls: for https.
    """

    target: Target
    proxy: Proxy | None = None
    tls: ssl.SSLContext | None = None


class Intake:
    """Reads every connection of a sender, in one place: one wake-up of the loop for all that are ready.

    The connections are in an epoll of their own, which the loop watches; woken, this stays for a while and waits here
    for what comes next, which spares a round of the loop per read. This is where a load generator spends its time.

    Args:
        dispatch: called between reads when `due_ns` has come.
        ready: called with what must be looked at, after a round of reads in which there was such, or when there are
            many.

    Attributes:
        due_ns: monotonic time; kept up to date by the owner.
        reads: what was read of answers; the owner empties it by putting another list here.
        elsewhere: how many things the loop has to do that should not wait; counted by those who give them to it.
        count: reads so far.
        patient: whether reads may wait a moment, so that one wake-up does for many of them. The kernel's stamps lose
            nothing by it, as long as no stream brings two tokens within PATIENCE_NS.
    """

    def __init__(self, *, dispatch: Callable[[], None], ready: Callable[[list[Special]], None]) -> None:
        self.due_ns = 1 << 62
        self.reads: list[Read] = []
        self.elsewhere = 0
        self.patient = False
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._dispatch = dispatch
        self._ready = ready
        self._epoll = select.epoll()
        self._by_fd: dict[int, Connection] = {}
        self._urgent = select.epoll()
        self._others: dict[int, Callable[[], None]] = {}
        self._loop.add_reader(self._epoll.fileno(), self._on_ready)

    def watch(self, fd: int, connection: Connection) -> None:
        """Read it from now on."""
        self._by_fd[fd] = connection
        self._epoll.register(fd, select.EPOLLIN)

    def watch_other(self, fd: int, ready: Callable[[], None]) -> None:
        """Call `ready` whenever something can be read from `fd`, and let it not wait."""
        self._others[fd] = ready
        self._epoll.register(fd, select.EPOLLIN)
        self._urgent.register(fd, select.EPOLLIN)

    def forget(self, fd: int) -> None:
        """Read it no more."""
        if self._by_fd.pop(fd, None) is not None:
            self._epoll.unregister(fd)
        elif self._others.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            self._urgent.unregister(fd)

    def close(self) -> None:
        """Read nothing any more."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._urgent.close()

    def _on_ready(self) -> None:
        """Read, and wait here for more, though never for long."""
        until_ns = monotonic_ns() + _STAY_NS
        events = self._epoll.poll(0, _READS_MAX)
        while events:
            special = self._read(events)
            if special or len(self.reads) >= _READS_MAX:
                self._ready(special)
            if self.elsewhere or self._epoll.closed or monotonic_ns() >= until_ns:
                return
            if not self.patient:
                events = self._epoll.poll(_WAIT_S, _READS_MAX)
                continue
            for fd, _ in self._urgent.poll(_PATIENCE_S):
                self._others[fd]()
            events = self._epoll.poll(0, _READS_MAX)

    def _read(self, events: list[tuple[int, int]]) -> list[Special]:
        """One look at each connection; what must be looked at."""
        special: list[Special] = []
        self.count += len(events)
        by_fd = self._by_fd
        reads = self.reads
        for fd, _ in events:
            connection = by_fd.get(fd)
            if connection is None:
                if fd in self._others:
                    self._others[fd]()
                continue  # or closed by a dispatch since
            data: bytes | Lost
            try:
                data, ancillary, _, _ = connection.recvmsg(_READ_BYTES, STAMP_SPACE)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError:
                data, ancillary = connection.lost(reset=True), []
            now_ns = monotonic_ns()
            exchange = connection.exchange
            if not data:
                special.append((connection, ancillary, connection.lost(reset=False), now_ns))
            elif exchange is None or connection.encrypted or isinstance(data, Lost):
                special.append((connection, ancillary, data, now_ns))
            else:
                reads.append((exchange.index, now_ns, ancillary[0][2] if ancillary else b"", data))
                if not exchange.goes_on(data):
                    special.append((connection, ancillary, b"", now_ns))
            if now_ns >= self.due_ns:
                self._dispatch()
        return special


class Connection:
    """One connection on a raw socket. Bytes are stamped before anything else is done, and handed on as they came.

    Attributes:
        exchange: what it carries, None while idle.
        used: whether it ever carried one.
        idle_since_ns: when it was given back.
        open: whether it can be written to.
        pool: where it belongs.
        encrypted: whether what is read must be decrypted.
        recvmsg: of its socket.
    """

    __slots__ = (
        "_loop",
        "_sock",
        "_tls",
        "_tunnel",
        "_unsent",
        "encrypted",
        "exchange",
        "idle_since_ns",
        "open",
        "pool",
        "recvmsg",
        "used",
    )

    def __init__(self, pool: Pool, sock: socket.socket) -> None:
        """`sock` does not block and is being connected; the connection owns it."""
        self.pool = pool
        self._loop = pool.loop
        self._sock = sock
        self.recvmsg = sock.recvmsg
        self.encrypted = pool.route.tls is not None
        self._unsent = b""
        self._tls: TlsStream | None = None
        self._tunnel: ConnectTunnel | None = None
        self.exchange: Exchange | None = None
        self.used = False
        self.idle_since_ns = 0
        self.open = True
        self._loop.add_writer(sock, self._on_connected)

    # --- opening -----------------------------------------------------------------------------------------------------

    def _on_connected(self) -> None:
        self._loop.remove_writer(self._sock)
        number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._not_opened(OSError(number, os.strerror(number)))
            return
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pool.clock.enable(self._sock)
        route = self.pool.route
        if route.tls is not None:
            self._tls = TlsStream(route.tls, route.target.server_name)
            if route.proxy is not None:
                self._tunnel = ConnectTunnel(route.target, route.proxy)
        if self._tunnel is not None:
            self._begin_opening(self._tunnel.start())
        elif self._tls is not None:
            self._begin_opening(self._tls.start())
        else:
            self._opened()

    def _begin_opening(self, first: bytes) -> None:
        self._loop.add_reader(self._sock, self._on_opening)
        self._write((first,))

    def _on_opening(self) -> None:
        """Bytes of the proxy's answer, or of the TLS handshake.

        Everything that is there: after an error on the socket uvloop calls this once, and never again.
        """
        while self in self.pool.opening:
            try:
                data = self._sock.recv(_READ_BYTES)
                if not data:
                    self._on_opening_end()
                self._on_opening_bytes(data)
            except (BlockingIOError, InterruptedError):
                return
            except (OSError, TlsError, ProxyError) as error:
                self._not_opened(error)

    def _on_opening_end(self) -> None:
        if self._tunnel is not None:
            self._tunnel.eof()
        elif self._tls is not None:
            self._tls.eof()
        raise ConnectionResetError(errno.ECONNRESET, "closed while the connection was being set up")

    def _on_opening_bytes(self, data: bytes) -> None:
        if self._tunnel is not None:
            done, data = self._tunnel.feed(data)
            if not done:
                return
            self._tunnel = None
            if self._tls is not None:
                self._write((self._tls.start(),))
            if not data:
                return
        if self._tls is not None:
            progress = self._tls.feed(data)
            if progress.reply:
                self._write((progress.reply,))
            if progress.plain or progress.closed:
                raise TlsError("the server speaks, or ends, before it was asked anything")
            if progress.ready:
                self._opened()

    def _opened(self) -> None:
        self._loop.remove_reader(self._sock)
        self.pool.intake.watch(self._sock.fileno(), self)
        self.pool.opened(self)

    def _not_opened(self, error: Exception) -> None:
        if isinstance(error, TlsError) and error.reply:
            self._write((error.reply,))
        self._shut()
        self.pool.not_opened(self, error)

    # --- reading -----------------------------------------------------------------------------------------------------

    def lost(self, *, reset: bool) -> Lost:
        """It has ended; what to tell."""
        self._shut()
        self.pool.forget(self)
        return Lost(reset, cut=self._tls is not None and not self._tls.closed)

    def plain(self, data: bytes) -> tuple[bytes, bool]:
        """What raw bytes say: themselves, or what they are decrypted to, and whether TLS says that nothing follows.

        Raises:
            TlsError: they are no TLS.
        """
        if self._tls is None:
            return data, False
        try:
            progress = self._tls.feed(data)
        except TlsError as error:
            if error.reply:
                self._write((error.reply,))
            raise
        if progress.reply:
            self._write((progress.reply,))
        return progress.plain, progress.closed

    # --- writing -----------------------------------------------------------------------------------------------------

    def send(self, exchange: Exchange, parts: tuple[bytes, bytes]) -> None:
        """Send a request; the connection must be open and idle."""
        if not self.open or self.exchange is not None:
            raise RuntimeError("the connection is not open and idle")
        if self._tls is None:
            self._write(parts)
        else:
            self._write((self._tls.encrypt(parts[0] + parts[1]),))
        self.exchange = exchange
        self.used = True

    def _write(self, parts: tuple[bytes, ...]) -> None:
        """Write what the kernel takes now, and the rest when it can. A broken connection is told by its reader."""
        taken = 0
        if not self._unsent:
            try:
                taken = self._sock.sendmsg(parts)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                return
        size = sum(map(len, parts))
        if taken < size:
            self._unsent += b"".join(parts)[taken:]
            self._loop.add_writer(self._sock, self._on_writable)

    def _on_writable(self) -> None:
        self._loop.remove_writer(self._sock)
        rest, self._unsent = self._unsent, b""
        self._write((rest,))

    def close(self) -> None:
        """Close it at once; nothing is reported any more."""
        self.exchange = None
        if self._tls is not None and self._tls.ready and self.open:
            self._write((self._tls.close(),))
        self._shut()

    def _shut(self) -> None:
        self.open = False
        fd = self._sock.fileno()
        if fd >= 0:
            self.pool.intake.forget(fd)
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)
            self._sock.close()


class Pool:
    """Connections of one replica: idle ones, and requests waiting for one that is being opened.

    Args:
        route: how the replica is reached.
        intake: reads the connections.
        clock: stamps what is received.
        dispatch: called with a connection and a waiting exchange: send it now.
        failed: called with a waiting exchange that cannot be sent: status and message.

    Attributes:
        made: connections opened so far.
        opening: connections that are being opened.
    """

    def __init__(
        self,
        route: Route,
        *,
        intake: Intake,
        clock: ReceiveClock,
        dispatch: Callable[[Connection, Exchange], None],
        failed: Callable[[Exchange, RequestStatus, str], None],
    ) -> None:
        self.route = route
        self.clock = clock
        self.loop = asyncio.get_running_loop()
        self.made = 0
        self.intake = intake
        self._dispatch = dispatch
        self._failed = failed
        self._addresses: list[tuple[int, Any]] = []
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self.opening: set[Connection] = set()
        self._waiting: deque[Exchange] = deque()
        self._settled: asyncio.Future[None] | None = None
        self._refill_scheduled = False

    async def warm(self, connections: int) -> None:
        """Find the replica and open so many connections.

        One that cannot be reached is no error here: its requests will tell.
        """
        await self._resolve()
        for _ in range(connections - len(self._idle) - len(self.opening)):
            self._connect()
        if self.opening:
            self._settled = self.loop.create_future()
            await self._settled

    def acquire(self) -> Connection | None:
        """An open idle connection, the one used last; None if there is none (then `wait`)."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.open:
                continue
            if connection.used and monotonic_ns() - connection.idle_since_ns > _IDLE_NS:
                connection.close()
                continue
            self._busy.add(connection)
            return connection
        return None

    def wait(self, exchange: Exchange) -> None:
        """Send `exchange` as soon as a connection is open."""
        self._waiting.append(exchange)
        self._refill()

    def refill_soon(self) -> None:
        """Open what is lacking once the loop has nothing better to do."""
        if len(self._idle) < RESERVE and not self._refill_scheduled:
            self._refill_scheduled = True
            self.intake.elsewhere += 1
            self.loop.call_soon(self._refill)

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

    def opened(self, connection: Connection) -> None:
        """A connection can be used."""
        self.made += 1
        self._no_longer_opening(connection)
        self._offer(connection)
        self._settle()

    def not_opened(self, connection: Connection, error: Exception) -> None:
        """A connection could not be set up; the request that waits longest fails by it."""
        self._no_longer_opening(connection)
        self._on_failed(error)
        self._settle()

    def close(self) -> None:
        """Close every connection and give up opening more."""
        self._waiting.clear()
        for connection in (*self._idle, *self._busy, *self.opening):
            connection.close()
        self._idle.clear()
        self._busy.clear()
        self.opening.clear()
        self._settle()

    def _no_longer_opening(self, connection: Connection) -> None:
        self.opening.discard(connection)
        self.intake.elsewhere -= 1

    def _settle(self) -> None:
        if self._settled is not None and not self.opening and not self._settled.done():
            self._settled.set_result(None)

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
        if self._refill_scheduled:
            self._refill_scheduled = False
            self.intake.elsewhere -= 1
        for _ in range(len(self._waiting) + max(0, RESERVE - len(self._idle)) - len(self.opening)):
            self._connect()

    def _on_failed(self, error: Exception) -> None:
        own = isinstance(error, OSError) and error.errno in _OWN_LIMITS
        status = RequestStatus.NOT_SENT if own else RequestStatus.CONNECT_FAILED
        while self._waiting:
            exchange = self._waiting.popleft()
            if not exchange.ended:
                self._failed(exchange, status, f"{self.route.target.authority}: {error}")
                return

    async def _resolve(self) -> None:
        """Look the address up, once: the name service has no place in a running load."""
        peer = self.route.proxy or self.route.target
        try:
            found = await self.loop.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
        except OSError:
            return
        addresses: list[tuple[int, Any]] = [(family, address) for family, _, _, _, address in found]
        for family, address in addresses:
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                sock.setblocking(False)
                try:
                    await self.loop.sock_connect(sock, address)
                except OSError:
                    continue
            self._addresses = [(family, address)]
            return
        self._addresses = addresses[:1]

    def _connect(self) -> None:
        if not self._addresses:
            self._on_failed(OSError(errno.EHOSTUNREACH, "the name of the host cannot be resolved"))
            return
        family, address = self._addresses[0]
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            self._on_failed(error)
            return
        sock.setblocking(False)
        number = sock.connect_ex(address)
        if number not in (0, errno.EINPROGRESS):
            sock.close()
            self._on_failed(OSError(number, os.strerror(number)))
            return
        self.opening.add(Connection(self, sock))
        self.intake.elsewhere += 1
