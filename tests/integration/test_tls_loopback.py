"""TLS as the load generator does it, over loopback against asyncio's."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trustme
from tls_peer import CLIENT, HOST, SERVERS, VERSIONS, Peer, client_context

from scoot.benchmark.http1 import ResponseParser
from scoot.benchmark.proxy import ConnectTunnel, Proxy
from scoot.benchmark.target import Target
from scoot.benchmark.tls import TlsError, TlsStream

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler, context: ssl.SSLContext | None, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """A server; its port. Handlers must have ended without an error at the end."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(run, host, 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*tasks)
    finally:
        server.close()
        await server.wait_closed()


class Raw:
    """A connection of which the test sees the raw bytes, as a sender does."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: TlsStream) -> None:
        self.reader = reader
        self.writer = writer
        self.stream = stream

    async def shake(self, read_bytes: int) -> bytes:
        """Until the handshake is done; plaintext that came with it already."""
        self.writer.write(self.stream.start())
        plain = b""
        while not self.stream.ready:
            plain += await self.read(read_bytes)
        return plain

    async def read(self, read_bytes: int) -> bytes:
        """The plaintext of one read."""
        data = await self.reader.read(read_bytes)
        assert data, "the connection has ended"
        progress = self.stream.feed(data)
        self.writer.write(progress.reply)
        return progress.plain

    async def answer(self, read_bytes: int) -> tuple[ResponseParser, bytes]:
        """One whole HTTP response."""
        parser = ResponseParser()
        body = b""
        while not parser.complete:
            body += parser.feed(await self.read(read_bytes))
        return parser, body


@asynccontextmanager
async def raw(port: int, stream: TlsStream, host: str = "127.0.0.1") -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield Raw(reader, writer, stream)
        writer.write(stream.close())
        await reader.read()  # the server closes first: bytes that it sends into a closed socket would reset it
    finally:
        writer.close()
        await writer.wait_closed()


async def http_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each request with its body, streamed in chunks."""
    while line := await reader.readline():
        assert line.startswith(b"POST ")
        length = 0
        while (header := await reader.readline()) != b"\r\n":
            if header.lower().startswith(b"content-length:"):
                length = int(header.split(b":")[1])
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        body = await reader.readexactly(length)
        for at in range(0, length, 5000):
            piece = body[at : at + 5000]
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")


def post(body: bytes) -> bytes:
    return b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def has_ip6_loopback() -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


HOSTS = ["127.0.0.1", pytest.param("::1", marks=pytest.mark.skipif(not has_ip6_loopback(), reason="no IPv6 here"))]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("read_bytes", [1, 300, 1 << 16])
async def test_http_streams_through(version: ssl.TLSVersion, host: str, read_bytes: int) -> None:
    bodies = [b"x", random.Random(2).randbytes(2000 if read_bytes == 1 else 300_000), b"", b"last"]
    session: ssl.SSLSession | None = None
    async with serving(http_echo, SERVERS[version], host) as port:
        for expected in (False, True):
            async with raw(port, TlsStream(CLIENT, host, session), host) as client:
                assert await client.shake(read_bytes) == b""
                for body in bodies:
                    client.writer.write(client.stream.encrypt(post(body)))
                    parser, got = await client.answer(read_bytes)
                    assert (parser.status, got, parser.keep_alive) == (200, body, True)
                assert client.stream.resumed is expected
                session = client.stream.session


async def test_a_request_can_be_written_in_the_handshakes_last_flight() -> None:
    async with (
        serving(http_echo, SERVERS[ssl.TLSVersion.TLSv1_3]) as port,
        raw(port, TlsStream(CLIENT, HOST)) as client,
    ):
        client.writer.write(client.stream.start())
        flight = b""
        while not client.stream.ready:
            flight += client.stream.feed(await client.reader.read(1 << 16)).reply
        client.writer.write(flight + client.stream.encrypt(post(b"at once")))
        assert (await client.answer(1 << 16))[1] == b"at once"


async def test_the_servers_orderly_end_is_announced() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nall of it")

    async with serving(handler, SERVERS[ssl.TLSVersion.TLSv1_3]) as port, raw(port, TlsStream(CLIENT, HOST)) as client:
        await client.shake(1 << 16)
        client.writer.write(client.stream.encrypt(b"GET\n"))
        plain = b""
        while not client.stream.closed:
            plain += await client.read(1 << 16)
        assert plain.endswith(b"all of it")
        assert client.stream.eof()


async def test_a_connection_cut_below_tls_is_told_apart() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(SERVERS[ssl.TLSVersion.TLSv1_3])
        while not peer.ready:
            writer.write(peer.shake(await reader.read(1 << 16)))
        writer.write(peer.write(b"HTTP/1.0 200 OK\r\n\r\nnot all of ") + peer.write(b"it")[:-3])

    async with serving(handler, None) as port, raw(port, TlsStream(CLIENT, HOST)) as client:
        plain = await client.shake(1 << 16)
        while data := await client.reader.read(1 << 16):
            plain += client.stream.feed(data).plain
        assert plain.endswith(b"not all of ")
        assert not client.stream.eof()


async def test_asyncios_server_learns_why_it_is_refused() -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pytest.fail("the handshake was done")

    stream = TlsStream(client_context(trustme.CA()), HOST)
    async with serving(never, SERVERS[ssl.TLSVersion.TLSv1_3]) as port, raw(port, stream) as client:
        with pytest.raises(TlsError, match="certificate is refused: unable to get local issuer") as caught:
            await client.shake(1 << 16)
        client.writer.write(caught.value.reply)
        assert await client.reader.read() == b""


async def test_through_a_proxys_tunnel() -> None:
    async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            sink.write(data)
        sink.close()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        asked.append(request)
        there_reader, there_writer = await asyncio.open_connection(
            "127.0.0.1", int(request.split()[1].rpartition(b":")[2])
        )
        try:
            writer.write(b"HTTP/1.1 200 OK\r\nVia: 1.1 proxy\r\n\r\n")
            await asyncio.gather(pipe(reader, there_writer), pipe(there_reader, writer))
        finally:
            there_writer.close()
            await there_writer.wait_closed()

    asked: list[bytes] = []
    async with serving(http_echo, SERVERS[ssl.TLSVersion.TLSv1_3]) as port, serving(proxy, None) as proxy_port:
        tunnel = ConnectTunnel(Target("https", HOST, port), Proxy("127.0.0.1", proxy_port, "Basic dTpw"))
        async with raw(proxy_port, TlsStream(CLIENT, HOST)) as client:
            client.writer.write(tunnel.start())
            left = b""
            while not tunnel.done:
                _, left = tunnel.feed(await client.reader.read(7))
            assert left == b""
            assert await client.shake(1 << 16) == b""
            client.writer.write(client.stream.encrypt(post(b"hello")))
            assert (await client.answer(1 << 16))[1] == b"hello"
    assert asked == [
        f"CONNECT {HOST}:{port} HTTP/1.1\r\nHost: {HOST}:{port}\r\nProxy-Authorization: Basic dTpw\r\n\r\n".encode()
    ]
