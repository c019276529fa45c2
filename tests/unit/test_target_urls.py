"""Base URLs: what is understood, what is refused and how, and that nothing in one can break a request's head."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.benchmark.plan import Endpoint
from scoot.benchmark.target import Target, parse_target, redacted
from scoot.wire.errors import UserError


@pytest.mark.parametrize(
    ("url", "expected", "authority"),
    [
        ("http://127.0.0.1:8000", Target("http", "127.0.0.1", 8000), "127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", Target("http", "127.0.0.1", 8000), "127.0.0.1:8000"),
        ("https://api.example.com", Target("https", "api.example.com", 443), "api.example.com"),
        ("https://api.example.com:443", Target("https", "api.example.com", 443), "api.example.com"),
        ("https://api.example.com:80", Target("https", "api.example.com", 80), "api.example.com:80"),
        ("http://host", Target("http", "host", 80), "host"),
        ("http://host:443", Target("http", "host", 443), "host:443"),
        ("http://host:", Target("http", "host", 80), "host"),
        ("http://host:0080/", Target("http", "host", 80), "host"),
        (f"http://host:{'0' * 5000}8000/", Target("http", "host", 8000), "host:8000"),
        ("HTTPS://API.Example.COM/V2/Api", Target("https", "api.example.com", 443, "/V2/Api"), "api.example.com"),
        ("http://[::1]:8000/", Target("http", "::1", 8000), "[::1]:8000"),
        ("http://[2001:DB8:0:0::1]", Target("http", "2001:db8::1", 80), "[2001:db8::1]"),
        ("http://my_service:8000", Target("http", "my_service", 8000), "my_service:8000"),
        ("http://xn--bcher-kva.example", Target("http", "xn--bcher-kva.example", 80), "xn--bcher-kva.example"),
        ("http://svc.cluster.local.:8000", Target("http", "svc.cluster.local.", 8000), "svc.cluster.local.:8000"),
        ("http://10gbit:65535", Target("http", "10gbit", 65535), "10gbit:65535"),
        ("http://host/prefix", Target("http", "host", 80, "/prefix"), "host"),
        ("http://host/a/b%20c/", Target("http", "host", 80, "/a/b%20c"), "host"),
        ("http://host/v1", Target("http", "host", 80), "host"),
        ("http://host/v1/", Target("http", "host", 80), "host"),
        ("http://host/openai/v1", Target("http", "host", 80, "/openai"), "host"),
        ("http://host/apiv1", Target("http", "host", 80, "/apiv1"), "host"),
        ("http://host/v1/team", Target("http", "host", 80, "/v1/team"), "host"),
    ],
)
def test_understood(url: str, expected: Target, authority: str) -> None:
    target = parse_target(url)
    assert target == expected
    assert target.authority == authority
    assert target.tls is url.lower().startswith("https")
    assert parse_target(target.url) == target


def test_an_address_is_one_target_however_it_is_written() -> None:
    assert parse_target("http://[::ffff:10.0.0.1]") == parse_target("http://[0:0::FFFF:a00:1]:80/")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "the URL is empty"),
        ("127.0.0.1:8000", "is not a URL"),
        ("localhost:8000", "is not a URL"),
        ("http:/host", "is not a URL"),
        ("//host", "is not a URL"),
        ("ftp://host", "has the scheme 'ftp'"),
        ("unix:///run/x.sock", "has the scheme 'unix'"),
        ("http://", "has no host"),
        ("http:///v1", "has no host"),
        ("http://:8000", "has no valid host"),
        ("http://host:0", "has no valid port"),
        ("http://host:65536", "has no valid port"),
        ("http://host:" + "9" * 5000, "has no valid port"),
        ("http://host:80a", "has no valid host"),
        ("http://host:+80", "has no valid host"),
        ("http://host:80:80", "has no valid host"),
        ("http://::1:8000", "has no valid host"),
        ("http://[::1", "has no valid host"),
        ("http://[::1]x:80", "has no valid host"),
        ("http://[1.2.3.4]", "has no valid host"),
        ("http://[:::1]", "has no valid host"),
        ("http://[fe80::1%25eth0]", "has no valid host"),
        ("http://127.1", "has no valid host"),
        ("http://127.1.", "has no valid host"),
        ("http://2130706433", "has no valid host"),
        ("http://0x7f000001", "has no valid host"),
        ("http://256.0.0.1", "has no valid host"),
        ("http://010.0.0.1", "has no valid host"),
        ("http://-host", "has no valid host"),
        ("http://ho..st", "has no valid host"),
        ("http://.", "has no valid host"),
        ("http://ho%73t", "has no valid host"),
        ("http://ho,st", "has no valid host"),
        ("http://" + "a" * 64, "has no valid host"),
        ("http://" + "a." * 127 + "a", "has no valid host"),
        ("http://host\\path", "has no valid host"),
        ("http://host\r\nX-Injected: 1", "has a space or a control character"),
        ("http://ho\tst", "has a space or a control character"),
        (" http://host", "has a space or a control character"),
        ("http://host\n", "has a space or a control character"),
        ("http://host/a b", "has a space or a control character"),
        ("http://host/\x00", "has a space or a control character"),
        ("http://bücher.example", "is not ASCII"),
        ("http://host/é", "is not ASCII"),
        ("http://ｈost", "is not ASCII"),  # noqa: RUF001 - a full-width letter, which NFKC would make an h
        ("http://host?x=1", "has a query or a fragment"),
        ("http://host/?", "has a query or a fragment"),
        ("http://host#", "has a query or a fragment"),
        ("http://host/v1/completions", "is the URL of an endpoint"),
        ("http://host/v1/chat/completions/", "is the URL of an endpoint"),
        ("http://host//", "has an empty or a dot segment"),
        ("http://host//other/v1", "has an empty or a dot segment"),
        ("http://host/a/../b", "has an empty or a dot segment"),
        ("http://host/./a", "has an empty or a dot segment"),
        ("http://host/%zz", "has a path with characters that must be escaped"),
        ("http://host/a|b", "has a path with characters that must be escaped"),
    ],
)
def test_refused(url: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_target(url)
    assert says in caught.value.message
    assert caught.value.key == "targets"
    assert caught.value.hint
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@host",
        "https://hunter2@host/v1",
        "http://user:hunter2@",
        "http://user:hunter2@host name",
        "http://user:p#hunter2@host",
        "user:hunter2@host",
        "user:p//hunter2@host",
        "http://host?key=hunter2",
        "http://host?key=a@hunter2",
        "http://host/#hunter2",
        "http://hé?hunter2",
    ],
)
def test_secrets_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_target(url)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in redacted(url)


def test_user_information_is_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"has user information .*--api-key-env") as caught:
        parse_target("https://sk-secret@host")
    assert "'https://...'" in str(caught.value)


def test_paths_of_endpoints() -> None:
    target = parse_target("https://host/openai/v1")
    assert target.path(Endpoint.COMPLETIONS) == "/openai/v1/completions"
    assert target.path(Endpoint.CHAT) == "/openai/v1/chat/completions"
    assert target.route("/tokenize") == "/openai/tokenize"
    assert parse_target("http://host").path(Endpoint.COMPLETIONS) == "/v1/completions"


def test_every_endpoint_has_a_path() -> None:
    paths = [parse_target("http://host").path(endpoint) for endpoint in Endpoint]
    assert len(set(paths)) == len(Endpoint) == 2


def test_addresses_always_have_the_port_and_certificates_no_last_dot() -> None:
    target = parse_target("https://svc.example.")
    assert (target.address, target.authority, target.server_name) == ("svc.example.:443", "svc.example.", "svc.example")
    assert parse_target("https://[::1]").address == "[::1]:443"
    assert parse_target("https://[::1]").server_name == "::1"


_HEAD_SAFE = re.compile(r"[\x21-\x7e]+")


@given(text=st.one_of(st.text(), st.text(alphabet=string.printable + "é[]@%"), st.from_regex(r"[a-z0-9.:/\[\]@%?#]*")))
@settings(max_examples=500)
def test_whatever_comes_either_a_safe_head_or_a_user_error(text: str) -> None:
    for url in (text, f"http://{text}", f"https://host/{text}", f"http://host:{text}"):
        try:
            target = parse_target(url)
        except UserError as error:
            assert error.key == "targets"  # noqa: PT017 - either outcome is right
            assert error.hint  # noqa: PT017
        else:
            for part in (target.authority, target.address, target.path(Endpoint.CHAT)):
                assert _HEAD_SAFE.fullmatch(part)
            assert target.path(Endpoint.CHAT).startswith("/")
            assert not target.path(Endpoint.CHAT).startswith("//")
            assert 1 <= target.port <= 65535
            assert parse_target(target.url) == target


_LABELS = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


@given(
    scheme=st.sampled_from(["http", "https"]),
    host=st.one_of(st.lists(_LABELS, min_size=1, max_size=4).map(".".join), st.ip_addresses(v=4).map(str)),
    port=st.integers(1, 65535),
    segments=st.lists(st.from_regex(r"[a-z0-9_~-]{1,8}", fullmatch=True), max_size=3),
)
def test_round_trip(scheme: str, host: str, port: int, segments: list[str]) -> None:
    prefix = "".join(f"/{segment}" for segment in segments if segment != "v1")
    for base in (f"{scheme}://{host}:{port}{prefix}", f"{scheme}://{host}:{port}{prefix}/v1/"):
        target = parse_target(base)
        assert (target.scheme, target.host, target.port, target.prefix) == (scheme, host, port, prefix)
        assert target.address == f"{host}:{port}"


@given(address=st.ip_addresses(v=6), port=st.integers(1, 65535))
def test_round_trip_of_ip6(address: object, port: int) -> None:
    target = parse_target(f"http://[{address}]:{port}")
    assert target.host == str(address)
    assert target.address == f"[{address}]:{port}"
