"""TLS as the load generator does it, against OpenSSL's server side in memory."""

from __future__ import annotations

import datetime as dt
import itertools
import random
import ssl
from pathlib import Path

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tls_peer import CA, CLIENT, HOST, LEAF, SERVERS, VERSIONS, Peer, client_context, connect, connected, server_context

from scoot.benchmark.tls import Progress, TlsError, TlsStream, make_context
from scoot.wire.errors import LocalProtocolError, UserError


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at these places, taken modulo its length."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def one_by_one(data: bytes) -> list[bytes]:
    """Every byte on its own."""
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize("version", VERSIONS)
def test_both_directions(version: ssl.TLSVersion) -> None:
    peer, stream = connected(version)
    assert stream.version == version.name.replace("_", ".")
    assert peer.tls.selected_alpn_protocol() == "http/1.1"
    assert peer.tls.compression() is None
    assert peer.read(stream.encrypt(b"GET / HTTP/1.1\r\n\r\n")) == b"GET / HTTP/1.1\r\n\r\n"
    assert stream.feed(peer.write(b"HTTP/1.1 200 OK\r\n\r\n")).plain == b"HTTP/1.1 200 OK\r\n\r\n"
    assert stream.encrypt(b"") == b""
    assert stream.feed(b"") == Progress(b"", b"", True, False)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_handshake_byte_by_byte(version: ssl.TLSVersion) -> None:
    peer, stream = Peer(SERVERS[version]), TlsStream(CLIENT, HOST)
    for byte in one_by_one(connect(peer, stream, one_by_one)):
        assert stream.feed(byte) == Progress(b"", b"", True, False)
    assert peer.read(stream.encrypt(b"x")) == b"x"


@pytest.mark.parametrize("version", VERSIONS)
@given(cuts=st.lists(st.integers(0, 1 << 16), max_size=4))
@settings(max_examples=40)
def test_a_handshake_however_split(version: ssl.TLSVersion, cuts: list[int]) -> None:
    peer, stream = Peer(SERVERS[version]), TlsStream(CLIENT, HOST)
    tickets = connect(peer, stream, lambda data: pieces(data, cuts))
    plain = b"".join(stream.feed(piece).plain for piece in pieces(tickets + peer.write(b"data: 1"), cuts))
    assert plain == b"data: 1"


@pytest.mark.parametrize("version", VERSIONS)
def test_every_split_of_the_records_gives_the_same(version: ssl.TLSVersion) -> None:
    peer, stream = connected(version)
    messages = (b"data: 1\n\n", b"d", b"data: 22\n\n", b"\n" * 40)
    length = len(peer.write(*messages))
    peer, stream = connected(version)
    for cut in range(length + 1):
        data = peer.write(*messages)
        assert len(data) == length
        first, second = stream.feed(data[:cut]), stream.feed(data[cut:])
        assert first.plain + second.plain == b"".join(messages)
        assert (first.reply, second.reply, second.closed) == (b"", b"", False)
    assert b"".join(stream.feed(byte).plain for byte in one_by_one(peer.write(*messages))) == b"".join(messages)


@pytest.mark.parametrize("version", VERSIONS)
def test_whole_records_are_told_before_the_part_of_one(version: ssl.TLSVersion) -> None:
    peer, stream = connected(version)
    first, second = peer.write(b"first"), peer.write(b"second")
    assert stream.feed(first + second[:-1]).plain == b"first"
    assert stream.feed(second[-1:]).plain == b"second"


@pytest.mark.parametrize("version", VERSIONS)
@given(cuts=st.lists(st.integers(0, 1 << 20), max_size=6), size=st.integers(0, 60_000))
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_bodies_over_several_records_however_split(version: ssl.TLSVersion, cuts: list[int], size: int) -> None:
    peer, stream = connected(version)
    body = random.Random(size).randbytes(size)
    data = peer.write(body, b".")
    assert b"".join(stream.feed(piece).plain for piece in pieces(data, cuts)) == body + b"."
    assert peer.read(b"".join(pieces(stream.encrypt(body + b"."), cuts))) == body + b"."


@pytest.mark.parametrize("version", VERSIONS)
def test_big_transfers(version: ssl.TLSVersion) -> None:
    peer, stream = connected(version)
    body = random.Random(1).randbytes(5 << 20)
    assert peer.read(stream.encrypt(body)) == body
    assert stream.feed(peer.write(body)).plain == body


def test_plaintext_can_come_with_the_end_of_the_handshake() -> None:
    peer, stream = Peer(SERVERS[ssl.TLSVersion.TLSv1_2]), TlsStream(CLIENT, HOST)
    flight = stream.feed(peer.shake(stream.start())).reply
    last = peer.shake(flight)
    assert (peer.ready, stream.ready) == (True, False)
    assert stream.feed(last + peer.write(b"at ", b"once")) == Progress(b"at once", b"", True, False)


def test_tickets_bring_no_plaintext_and_can_come_amid_it() -> None:
    peer, stream = Peer(SERVERS[ssl.TLSVersion.TLSv1_3]), TlsStream(CLIENT, HOST)
    tickets = connect(peer, stream)
    assert tickets
    sessions = [stream.session]
    before, after = peer.write(b"before"), peer.write(b"after")
    # Records are numbered: they must stay in order, and the tickets were made first.
    assert stream.feed(tickets[:-1]) == Progress(b"", b"", True, False)
    sessions.append(stream.session)
    assert [session is None for session in sessions] == [True, False]
    assert stream.feed(tickets[-1:] + before + after) == Progress(b"beforeafter", b"", True, False)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_is_resumed(version: ssl.TLSVersion) -> None:
    _, first = connected(version)
    assert first.session is not None
    assert not first.resumed
    peer, second = connected(version, first.session)
    assert second.resumed
    assert peer.tls.session_reused
    assert peer.read(second.encrypt(b"again")) == b"again"
    _, third = connected(version)
    assert not third.resumed


def test_a_session_the_server_does_not_know_is_no_error() -> None:
    _, first = connected(ssl.TLSVersion.TLSv1_3)
    peer, stream = Peer(server_context()), TlsStream(CLIENT, HOST, first.session)
    connect(peer, stream)
    assert not stream.resumed
    assert peer.read(stream.encrypt(b"x")) == b"x"


@pytest.mark.parametrize("version", VERSIONS)
def test_an_announced_end_is_told_from_a_cut(version: ssl.TLSVersion) -> None:
    peer, stream = connected(version)
    assert stream.feed(peer.write(b"last")) == Progress(b"last", b"", True, False)
    assert not stream.eof()
    data = peer.write(b"x") + peer.close()
    assert stream.feed(data[:-1]) == Progress(b"x", b"", True, False)
    assert not stream.eof()
    assert stream.feed(data[-1:]) == Progress(b"", b"", True, True)
    assert stream.closed
    assert stream.eof()
    assert stream.feed(b"noise") == Progress(b"", b"", True, True)


@pytest.mark.parametrize("version", VERSIONS)
def test_plaintext_and_the_end_in_one_read(version: ssl.TLSVersion) -> None:
    peer, stream = connected(version)
    assert stream.feed(peer.write(b"a", b"b") + peer.close()) == Progress(b"ab", b"", True, True)


@pytest.mark.parametrize("version", VERSIONS)
def test_our_own_end_is_announced(version: ssl.TLSVersion) -> None:
    peer, stream = connected(version)
    assert peer.read(stream.encrypt(b"bye") + stream.close()) == b"bye<closed>"
    assert stream.close() == b""
    with pytest.raises(LocalProtocolError):
        stream.encrypt(b"more")
    with pytest.raises(LocalProtocolError):
        stream.feed(b"more")


def test_a_stream_can_be_closed_with_an_answer_underway() -> None:
    peer, stream = connected(ssl.TLSVersion.TLSv1_3)
    data = peer.write(b"x" * 40_000)
    stream.feed(data[:100])
    assert peer.read(stream.close()) == b"<closed>"


def test_a_stream_can_be_closed_before_it_is_ready() -> None:
    stream = TlsStream(CLIENT, HOST)
    assert stream.close() == b""
    stream = TlsStream(CLIENT, HOST)
    stream.start()
    assert stream.close() == b""


def test_out_of_order_calls_are_bugs() -> None:
    stream = TlsStream(CLIENT, HOST)
    with pytest.raises(LocalProtocolError):
        stream.encrypt(b"x")
    assert stream.version == ""
    stream.start()
    with pytest.raises(LocalProtocolError):
        stream.start()


def test_an_end_amid_the_handshake_is_told() -> None:
    peer, stream = Peer(SERVERS[ssl.TLSVersion.TLSv1_3]), TlsStream(CLIENT, HOST)
    stream.feed(peer.shake(stream.start())[:-1])
    with pytest.raises(TlsError, match=f"^{HOST}: the server closed the connection during the TLS handshake$"):
        stream.eof()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_tampered_record_is_refused_and_what_came_before_is_kept(version: ssl.TLSVersion) -> None:
    peer, stream = connected(version)
    good, bad = peer.write(b"good"), bytearray(peer.write(b"bad"))
    bad[-1] ^= 1
    with pytest.raises(TlsError, match=f"^{HOST}: TLS failed: decryption failed or bad record mac") as caught:
        stream.feed(good + bytes(bad))
    assert caught.value.plain == b"good"
    with pytest.raises(ssl.SSLError, match="alert"):
        peer.read(caught.value.reply)
    assert not stream.eof()
    assert stream.close() == b""
    with pytest.raises(LocalProtocolError):
        stream.feed(good)
    with pytest.raises(LocalProtocolError):
        stream.encrypt(b"x")


@given(noise=st.binary(min_size=1, max_size=200), cuts=st.lists(st.integers(0, 200), max_size=3))
@settings(max_examples=100)
def test_noise_instead_of_a_handshake_is_a_tls_error_or_not_whole_yet(noise: bytes, cuts: list[int]) -> None:
    stream = TlsStream(CLIENT, HOST)
    stream.start()
    try:
        for piece in pieces(noise, cuts):
            assert stream.feed(piece).plain == b""
    except TlsError as error:
        assert str(error).startswith(HOST)  # noqa: PT017 - either outcome is right
    assert not stream.ready


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n"])
def test_a_server_without_tls_is_told(answer: bytes) -> None:
    for piece in (answer, answer[:1]):
        stream = TlsStream(CLIENT, HOST)
        stream.start()
        with pytest.raises(TlsError, match=f"^{HOST}: the server does not answer in TLS .*http://"):
            stream.feed(piece)


def refusal(leaf: trustme.LeafCert, context: ssl.SSLContext, host: str = HOST) -> str:
    """How the client refuses the server; the server learns of it by an alert."""
    peer, stream = Peer(server_context(leaf=leaf)), TlsStream(context, host)
    with pytest.raises(TlsError) as caught:
        connect(peer, stream)
    assert not stream.ready
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        peer.shake(caught.value.reply)
    return str(caught.value)


def test_a_certificate_of_an_unknown_issuer_is_refused() -> None:
    message = refusal(trustme.CA().issue_cert(HOST), CLIENT)
    assert message.startswith(f"{HOST}: the server's certificate is refused: unable to get local issuer certificate (")
    assert message.endswith("(trust its CA with --ca FILE, or use --insecure)")


def self_signed() -> tuple[trustme.LeafCert, bytes]:
    """A certificate that is its own issuer, as `openssl req -x509` makes it; and its PEM."""
    ca = trustme.CA(organization_name="self")
    pem = ca.cert_pem.bytes()
    return trustme.LeafCert(ca.private_key_pem.bytes(), pem, []), pem


def test_a_self_signed_certificate_is_refused() -> None:
    leaf, _ = self_signed()
    message = refusal(leaf, CLIENT)
    assert message.startswith(f"{HOST}: the server's certificate is refused: self-signed certificate (")
    assert message.endswith("(trust its CA with --ca FILE, or use --insecure)")


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("other.test", "Hostname mismatch, certificate is not valid for 'other.test'"),
        ("127.0.0.2", "IP address mismatch, certificate is not valid for '127.0.0.2'"),
        ("::2", "IP address mismatch, certificate is not valid for '::2'"),
    ],
)
def test_a_certificate_for_another_host_is_refused(host: str, says: str) -> None:
    message = refusal(LEAF, CLIENT, host)
    assert message == (
        f"{host}: the server's certificate is refused: {says} (use a name that the certificate is for, or --insecure)"
    )


def test_an_expired_certificate_is_refused() -> None:
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    message = refusal(CA.issue_cert(HOST, not_before=past, not_after=past + dt.timedelta(days=1)), CLIENT)
    assert "certificate has expired (renew the certificate" in message


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", HOST, "SERVER.test"])
def test_certificates_are_for_names_and_addresses(host: str) -> None:
    peer, stream = Peer(SERVERS[ssl.TLSVersion.TLSv1_3]), TlsStream(CLIENT, host)
    connect(peer, stream)
    assert stream.ready


def test_unverified_takes_any_certificate() -> None:
    context = client_context(verify=False)
    for leaf in (trustme.CA().issue_cert("other.test"), self_signed()[0], LEAF):
        peer, stream = Peer(server_context(leaf=leaf)), TlsStream(context, HOST)
        connect(peer, stream)
        assert peer.read(stream.encrypt(b"x")) == b"x"


def test_a_servers_own_certificate_can_be_trusted(tmp_path: Path) -> None:
    path = tmp_path / "server.pem"
    own = trustme.CA().issue_cert(HOST)
    path.write_bytes(own.cert_chain_pems[0].bytes())
    peer, stream = Peer(server_context(leaf=own)), TlsStream(make_context(str(path), verify=True), HOST)
    connect(peer, stream)
    assert stream.ready
    assert "unable to get local issuer" in refusal(trustme.CA().issue_cert(HOST), make_context(str(path), verify=True))


def test_a_server_that_wants_a_certificate_of_ours_is_told() -> None:
    peer, stream = Peer(server_context(client_ca=CA)), TlsStream(CLIENT, HOST)
    last = stream.feed(peer.shake(stream.start()))
    assert last.ready  # in TLS 1.3 the client is done before the server has looked
    with pytest.raises(ssl.SSLError):
        peer.shake(last.reply)
    alert = peer._outgoing.read()
    assert alert
    with pytest.raises(TlsError, match=f"^{HOST}: TLS failed: .*certificate required"):
        stream.feed(alert)


def test_the_context_is_strict_by_default() -> None:
    context = make_context("", verify=True)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION


def test_the_systems_certificates_are_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = tmp_path / "system.pem"
    CA.cert_pem.write_to_path(str(system))
    monkeypatch.setenv(ssl.get_default_verify_paths().openssl_cafile_env, str(system))
    peer, stream = Peer(SERVERS[ssl.TLSVersion.TLSv1_3]), TlsStream(make_context("", verify=True), HOST)
    connect(peer, stream)
    assert stream.ready
    assert "unable to get local issuer" in refusal(LEAF, client_context(trustme.CA()))  # a file takes their place


def test_wrong_files_are_the_users_errors(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    LEAF.private_key_pem.write_to_path(str(key))
    text = tmp_path / "text.pem"
    text.write_text("-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n")
    empty = tmp_path / "empty.pem"
    empty.touch()
    for path, says in {
        tmp_path / "none.pem": "cannot be read: No such file",
        tmp_path: "cannot be read",
        key: "has no certificate in PEM form",
        text: "has no certificate in PEM form",
        empty: "has no certificate in PEM form",
    }.items():
        for verify in (True, False):
            with pytest.raises(UserError) as caught:
                make_context(str(path), verify=verify)
            assert (caught.value.path, caught.value.key) == (str(path), "ca_path")
            assert says in caught.value.message
            assert caught.value.hint
