"""TLS between a socket's bytes and HTTP's: what was read is stamped first and decrypted then. Sans-IO.

Not one of the pure modules: contexts read certificates from files, and OpenSSL draws its dice.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import Final

import msgspec

from scoot.wire.errors import LocalProtocolError, RemoteProtocolError, UserError

_RECORD_BYTES: Final = 16 * 1024
_FIRST_BYTES: Final = b"\x15\x16"  # the records that a handshake can begin with: alert, handshake
_HOSTNAME_MISMATCH: Final = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, ..._IP_ADDRESS_MISMATCH
_OUTDATED: Final = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, ..._HAS_EXPIRED


def make_context(ca_path: str, verify: bool) -> ssl.SSLContext:
    """The settings all connections share: TLS 1.2 or later, and HTTP/1.1 within.

    Args:
        ca_path: file of certificates (PEM) to trust instead of the system's: of the server's CA, or the server's own;
            "" for the system's.
        verify: whether the server's certificate is checked: issuer, dates and name.

    Raises:
        UserError: the file cannot be read, or has no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=ca_path or None)
    except ssl.SSLError as error:
        raise _bad_file(ca_path, "has no certificate in PEM form") from error
    except OSError as error:
        raise _bad_file(ca_path, f"cannot be read: {error.strerror}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    if ca_path:
        # Python 3.13 and later do so by themselves: a server's own certificate can be trusted without its issuer's.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class TlsError(RemoteProtocolError):
    """TLS has failed. Send `reply`, if anything, and close the connection.

    Attributes:
        plain: what the bytes fed brought before.
        reply: an alert that tells the server why.
    """

    def __init__(self, message: str, *, plain: bytes = b"", reply: bytes = b"") -> None:
        super().__init__(message)
        self.plain = plain
        self.reply = reply


class Progress(msgspec.Struct, frozen=True, gc=False):
    """What bytes from the server led to.

    Attributes:
        plain: what they hold for HTTP. Empty for a part of a record, and for TLS's own messages.
        reply: what must be sent now, before anything that is encrypted later; mostly empty.
        ready: whether the handshake is done.
        closed: whether the server has said that it sends no more (close_notify).
    """

    plain: bytes
    reply: bytes
    ready: bool
    closed: bool


class TlsStream:
    """One connection's TLS. Send `start()`, feed what is read, send the replies; when `ready`, encrypt requests.

    Args:
        context: see make_context.
        host: the server's name or IP address, which its certificate has to be for.
        session: of an earlier stream to the same host with the same context, which is then resumed if the server
            likes: that spares both sides the certificates, and their checking. None for a new one.

    Attributes:
        ready: whether the handshake is done.
        closed: whether the server has said that it sends no more.
    """

    __slots__ = ("_answered", "_ended", "_host", "_incoming", "_outgoing", "_started", "_tls", "closed", "ready")

    def __init__(self, context: ssl.SSLContext, host: str, session: ssl.SSLSession | None = None) -> None:
        self.ready = False
        self.closed = False
        self._host = host
        self._started = False
        self._answered = False
        self._ended = False
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host, session=session)

    @property
    def session(self) -> ssl.SSLSession | None:
        """For the next stream to the same host; None while there is none to be resumed. TLS 1.3 brings it late."""
        session = self._tls.session
        return session if session is not None and session.has_ticket else None

    @property
    def resumed(self) -> bool:
        """Whether the server has resumed the session given."""
        return bool(self._tls.session_reused)

    @property
    def version(self) -> str:
        """As "TLSv1.3"; "" before it is agreed on."""
        return self._tls.version() or "" if self.ready else ""

    def start(self) -> bytes:
        """The first bytes to be sent.

        Raises:
            LocalProtocolError: called twice.
        """
        if self._started:
            raise LocalProtocolError("the handshake has begun already")
        self._started = True
        self._shake_hands()
        return self._outgoing.read()

    def feed(self, data: bytes) -> Progress:
        """Bytes from the server.

        Raises:
            TlsError: the certificate is refused, the server refuses us, or its bytes are not TLS or were tampered with.
            LocalProtocolError: the stream has failed or was closed.
        """
        if self._ended:
            raise LocalProtocolError("nothing can be decrypted after an error, nor after close()")
        if not self._answered and data:
            if data[0] not in _FIRST_BYTES:
                self._ended = True
                raise TlsError(f"{self._host}: the server does not answer in TLS (does its URL begin with http://?)")
            self._answered = True
        plain: list[bytes] = []
        self._incoming.write(data)
        try:
            if not self.ready:
                self._shake_hands()
            if self.ready:
                self._decrypt(plain)
        except ssl.SSLError as error:
            self._ended = True
            raise TlsError(self._reason(error), plain=b"".join(plain), reply=self._outgoing.read()) from error
        reply = self._outgoing.read() if self._outgoing.pending else b""
        return Progress(plain[0] if len(plain) == 1 else b"".join(plain), reply, self.ready, self.closed)

    def encrypt(self, data: bytes) -> bytes:
        """What is to be sent for `data`.

        Raises:
            LocalProtocolError: the handshake is not done, or the stream has failed or was closed.
        """
        if not self.ready or self._ended:
            raise LocalProtocolError("nothing can be encrypted before the handshake, after an error, or after close()")
        left = memoryview(data)
        while left:
            left = left[self._tls.write(left) :]
        return self._outgoing.read()

    def eof(self) -> bool:
        """The server closed the connection below. True if it had said so; else what came may be cut off anywhere.

        Raises:
            TlsError: amid the handshake.
        """
        if not self.ready:
            raise TlsError(f"{self._host}: the server closed the connection during the TLS handshake")
        return self.closed

    def close(self) -> bytes:
        """The last bytes to be sent: that no more follow (close_notify). Nothing is encrypted or fed any more."""
        if self.ready and not self._ended:
            # It writes ours, then complains that the server's has not come, which nobody waits for.
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
        self._ended = True
        return self._outgoing.read()

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        self.ready = True

    def _decrypt(self, plain: list[bytes]) -> None:
        """Append all that whole records hold."""
        while not self.closed and (self._incoming.pending or self._tls.pending()):
            try:
                piece = self._tls.read(_RECORD_BYTES)
            except ssl.SSLWantReadError:
                return
            if piece:
                plain.append(piece)
            else:
                self.closed = True

    def _reason(self, error: ssl.SSLError) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            if error.verify_code in _HOSTNAME_MISMATCH:
                remedy = "use a name that the certificate is for, or --insecure"
            elif error.verify_code in _OUTDATED:
                remedy = "renew the certificate or set the clock, or use --insecure"
            else:
                remedy = "trust its CA with --ca FILE, or use --insecure"
            reason = (error.verify_message or "unknown reason").rstrip(".")
            return f"{self._host}: the server's certificate is refused: {reason} ({remedy})"
        reason = (error.reason or str(error)).replace("_", " ").lower()
        return f"{self._host}: TLS {'failed' if self.ready else 'handshake failed'}: {reason}"


def _bad_file(path: str, what: str) -> UserError:
    return UserError(what, path=path, key="ca_path", hint="give a file of certificates, or none for the system's")
