"""Both sides of TLS for tests: certificates of our own, OpenSSL's server in memory, and shaking hands with it."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest
import trustme

from scoot.benchmark.tls import Progress, TlsStream, make_context

HOST = "server.test"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
CA = trustme.CA()
LEAF = CA.issue_cert(HOST, "127.0.0.1", "::1")


def server_context(
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, leaf: trustme.LeafCert = LEAF, client_ca: trustme.CA | None = None
) -> ssl.SSLContext:
    """A server that speaks one version."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    leaf.configure_cert(context)
    if client_ca is not None:
        client_ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(ca: trustme.CA = CA, *, verify: bool = True) -> ssl.SSLContext:
    """The generator's own context, which trusts `ca`."""
    with ca.cert_pem.tempfile() as path:
        return make_context(path, verify=verify)


SERVERS = {version: server_context(version) for version in VERSIONS}
CLIENT = client_context()


class Peer:
    """The server's side, in memory."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.ready = False

    def shake(self, data: bytes) -> bytes:
        """Go on with the handshake."""
        self._incoming.write(data)
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        else:
            self.ready = True
        return self._outgoing.read()

    def write(self, *messages: bytes) -> bytes:
        """Each in records of its own."""
        for message in messages:
            assert self.tls.write(message) == len(message)
        return self._outgoing.read()

    def read(self, data: bytes) -> bytes:
        """What the client encrypted."""
        self._incoming.write(data)
        plain: list[bytes] = []
        while True:
            try:
                piece = self.tls.read(1 << 20)
            except ssl.SSLWantReadError:
                return b"".join(plain)
            if not piece:
                return b"".join(plain) + b"<closed>"
            plain.append(piece)

    def close(self) -> bytes:
        """The close_notify."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self._outgoing.read()


def connect(peer: Peer, stream: TlsStream, cut: Callable[[bytes], list[bytes]] = lambda data: [data]) -> bytes:
    """Shake hands, the server's bytes cut into pieces. What the server says last (tickets) is not fed but returned."""
    flight = stream.start()
    while True:
        answer = peer.shake(flight)
        if peer.ready and stream.ready:
            return answer
        flight = b""
        for piece in cut(answer):
            progress = stream.feed(piece)
            assert (progress.plain, progress.closed) == (b"", False)
            assert progress.ready is stream.ready
            flight += progress.reply
        if peer.ready:
            assert stream.ready
            return b""


def connected(version: ssl.TLSVersion, session: ssl.SSLSession | None = None) -> tuple[Peer, TlsStream]:
    """Both sides, ready, nothing underway."""
    peer, stream = Peer(SERVERS[version]), TlsStream(CLIENT, HOST, session)
    assert stream.feed(connect(peer, stream)) == Progress(b"", b"", True, False)
    return peer, stream
