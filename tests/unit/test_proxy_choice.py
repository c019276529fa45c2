"""Which proxy is chosen, against urllib's choice where both mean the same; what is refused; tunnels, however split."""

from __future__ import annotations

import base64
import itertools
import urllib.request
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.benchmark.proxy import ConnectTunnel, Proxy, ProxyError, proxy_for, request_target
from scoot.benchmark.target import parse_target
from scoot.wire.errors import UserError

HTTP = parse_target("http://api.example.com:8000")
HTTPS = parse_target("https://api.example.com/prefix")
P = "http://proxy:3128"
# Not in the stubs, though it is what requests asks too.
URLLIB_BYPASS = cast("Callable[[str, dict[str, str]], bool]", vars(urllib.request)["proxy_bypass_environment"])


def chosen(url: str, **environ: str) -> str:
    """The proxy's host, "" for none."""
    proxy = proxy_for(parse_target(url), environ)
    return "" if proxy is None else proxy.host


@pytest.mark.parametrize(
    ("environ", "http", "https"),
    [
        ({}, "", ""),
        ({"http_proxy": "h:1"}, "h", ""),
        ({"HTTP_PROXY": "h:1"}, "h", ""),
        ({"HTTPS_PROXY": "s:1"}, "", "s"),
        ({"https_proxy": "s:1", "HTTPS_PROXY": "x:1", "http_proxy": "h:1", "HTTP_PROXY": "x:1"}, "h", "s"),
        ({"ALL_PROXY": "a:1"}, "a", "a"),
        ({"all_proxy": "a:1", "https_proxy": "s:1"}, "a", "s"),
        ({"http_proxy": "", "HTTP_PROXY": "x:1"}, "", ""),
        ({"http_proxy": "", "ALL_PROXY": "a:1"}, "a", "a"),
        ({"HTTP_PROXY": "x:1", "HTTPS_PROXY": "s:1", "REQUEST_METHOD": "GET"}, "", "s"),
        ({"http_proxy": "h:1", "HTTP_PROXY": "x:1", "REQUEST_METHOD": "GET"}, "h", ""),
        ({"ALL_PROXY": "a:1", "NO_PROXY": "example.com"}, "", ""),
        ({"ALL_PROXY": "a:1", "NO_PROXY": "example.com", "no_proxy": ""}, "a", "a"),
        ({"ALL_PROXY": " a:1 "}, "a", "a"),
    ],
)
def test_variables(environ: dict[str, str], http: str, https: str) -> None:
    assert chosen("http://api.example.com:8000", **environ) == http
    assert chosen("https://api.example.com", **environ) == https


@pytest.mark.parametrize(
    ("url", "no_proxy", "direct"),
    [
        ("http://a.b.example.com", "example.com", True),
        ("http://a.b.example.com", ".example.com", True),
        ("http://a.b.example.com", "*.example.com", True),
        ("http://example.com", ".example.com", True),
        ("http://EXAMPLE.com", "Example.COM", True),
        ("http://example.com.", "example.com", True),
        ("http://example.com", "example.com.", True),
        ("http://badexample.com", "example.com", False),
        ("http://badexample.com", "*example.com", False),
        ("http://example.com", "a.example.com", False),
        ("http://example.com", "", False),
        ("http://example.com", ",, ,", False),
        ("http://example.com", ".", False),
        ("http://example.com", "*", True),
        ("http://example.com", "other,*", True),
        ("http://10.0.0.1", "*", True),
        ("http://example.com", "other example.com", True),
        ("http://example.com", "other,\texample.com ", True),
        ("http://example.com:8000", "example.com:8000", True),
        ("http://a.example.com:8000", ".example.com:8000", True),
        ("http://example.com:8001", "example.com:8000", False),
        ("http://example.com", "example.com:80", True),
        ("https://example.com", "example.com:80", False),
        ("https://example.com", "example.com:0443", True),
        ("http://example.com", "example.com:", False),
        ("http://10.1.2.3", "10.1.2.3", True),
        ("http://10.1.2.3:8000", "10.1.2.3:8000", True),
        ("http://10.1.2.3:8001", "10.1.2.3:8000", False),
        ("http://10.1.2.3", "10.0.0.0/8", True),
        ("http://10.1.2.3", "10.9.9.9/8", True),
        ("http://10.1.2.3:8000", "10.0.0.0/8:8000", True),
        ("http://10.1.2.3:8001", "10.0.0.0/8:8000", False),
        ("http://11.1.2.3", "10.0.0.0/8", False),
        ("http://10.1.2.3", "10.0.0.0/33", False),
        ("http://10.1.2.3", "2.3", False),
        ("http://10.1.2.3", "fd00::/8", False),
        ("http://a10.1.2.3.example", "10.0.0.0/8", False),
        ("http://[fd00::1]", "fd00::1", True),
        ("http://[fd00::1]", "FD00:0::1", True),
        ("http://[fd00::1]", "[fd00::1]", True),
        ("http://[fd00::1]:8000", "[fd00::1]:8000", True),
        ("http://[fd00::1]:8001", "[fd00::1]:8000", False),
        ("http://[fd00::1]", "fd00::/8", True),
        ("http://[fd00::1]", "[fd00::]/8", False),
        ("http://[fd00::1]", "fd00::2", False),
        ("http://example.com", "[example.com", False),
    ],
)
def test_no_proxy(url: str, no_proxy: str, direct: bool) -> None:
    assert (chosen(url, all_proxy=P, no_proxy=no_proxy) == "") is direct


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "a.localhost",
        "localhost.",
        "127.0.0.1",
        "127.9.9.9",
        "[::1]",
        "0.0.0.0",  # noqa: S104 - connected to, not bound
        "[::]",
        "[::ffff:127.0.0.1]",
    ],
)
def test_loopback_is_never_proxied(host: str) -> None:
    assert chosen(f"http://{host}:8000", all_proxy=P) == ""
    assert chosen(f"https://{host}", https_proxy=P) == ""


def test_names_that_only_look_like_loopback_are_proxied() -> None:
    for host in ("localhost.example.com", "mylocalhost", "128.0.0.1", "[::2]"):
        assert chosen(f"http://{host}:8000", all_proxy=P) == "proxy"


_LABELS = st.sampled_from(["a", "b", "corp", "example", "com", "x-1"])
_NAMES = st.lists(_LABELS, min_size=1, max_size=4).map(".".join)
_IPS = st.sampled_from(["10.0.0.1", "10.0.0.2", "192.168.1.1"])
_PORTS = st.sampled_from(["", ":80", ":8000"])
_ENTRIES = st.lists(
    st.tuples(
        st.sampled_from(["", " "]), st.one_of(st.tuples(st.sampled_from(["", "."]), _NAMES).map("".join), _IPS), _PORTS
    ),
    max_size=4,
).map(lambda entries: ",".join("".join(entry) for entry in entries))


@given(host=st.one_of(_NAMES, _IPS), port=st.sampled_from(["8000", "81"]), no_proxy=st.one_of(_ENTRIES, st.just("*")))
@settings(max_examples=500)
def test_bypass_is_as_urllibs(host: str, port: str, no_proxy: str) -> None:
    direct = chosen(f"http://{host}:{port}", all_proxy=P, no_proxy=no_proxy) == ""
    assert direct == URLLIB_BYPASS(f"{host}:{port}", {"no": no_proxy})


_VALUES = st.sampled_from(["", "http://one:1", "http://two:2", "http://three:3"])
_NAMED = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]


@given(
    environ=st.dictionaries(st.sampled_from(_NAMED), _VALUES),
    cgi=st.booleans(),
    scheme=st.sampled_from(["http", "https"]),
)
@settings(max_examples=300)
def test_choice_is_as_urllibs(environ: dict[str, str], cgi: bool, scheme: str) -> None:
    if cgi:
        environ = {**environ, "REQUEST_METHOD": "GET"}
    with pytest.MonkeyPatch.context() as patch:
        for name in (*_NAMED, "no_proxy", "NO_PROXY", "REQUEST_METHOD"):
            patch.delenv(name, raising=False)
        for name, value in environ.items():
            patch.setenv(name, value)
        found = urllib.request.getproxies_environment()
    proxy = proxy_for(parse_target(f"{scheme}://host"), environ)
    expected = found.get(scheme) or found.get("all")  # as requests does
    assert (None if proxy is None else f"http://{proxy.host}:{proxy.port}") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("http://proxy:3128", Proxy("proxy", 3128)),
        ("http://proxy:3128/", Proxy("proxy", 3128)),
        ("HTTP://Proxy", Proxy("proxy", 80)),
        ("proxy:3128", Proxy("proxy", 3128)),
        ("proxy", Proxy("proxy", 80)),
        ("http://[fd00::1]:3128", Proxy("fd00::1", 3128)),
    ],
)
def test_proxies_understood(value: str, expected: Proxy) -> None:
    assert proxy_for(HTTP, {"http_proxy": value}) == expected


@pytest.mark.parametrize(
    ("userinfo", "pair"),
    [
        ("user:secret", b"user:secret"),
        ("user", b"user:"),
        ("us%65r:p%40ss%3A%2f", b"user:p@ss:/"),
        ("user:a:b", b"user:a:b"),
        ("user:p@ss", b"user:p@ss"),
        ("user:%C3%A9", "user:é".encode()),
        ("user:%0D%0AX-Injected:%201", b"user:\r\nX-Injected: 1"),
    ],
)
def test_user_and_password_become_a_header(userinfo: str, pair: bytes) -> None:
    for value in (f"http://{userinfo}@proxy:3128", f"{userinfo}@proxy:3128"):
        proxy = proxy_for(HTTP, {"http_proxy": value})
        assert proxy is not None
        scheme, _, coded = proxy.authorization.partition(" ")
        assert (scheme, base64.b64decode(coded, validate=True)) == ("Basic", pair)
        assert "\n" not in proxy.authorization
        assert coded not in repr(proxy)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("https://user:hunter2@proxy:3128", "proxies of scheme 'https' are not supported"),
        ("socks5h://user:hunter2@proxy:1080", "proxies of scheme 'socks5h' are not supported"),
        ("socks4://proxy", "proxies of scheme 'socks4' are not supported"),
        ("http://user:hunter2@", "has no host"),
        ("http://user:hunter2@proxy:99999", "has no valid port"),
        ("http://user:hunter2@pro xy", "has a space or a control character"),
        ("http://user:hunter2@proxy\r\nX: 1", "has a space or a control character"),
        ("http://user:hünter2@proxy", "is not ASCII"),
        ("http://user:hunter2@proxy/proxy.pac", "not the URL of a proxy"),
        ("http://user:hunter2#@proxy", "not the URL of a proxy"),
        ("http://user:hunter2@proxy?x", "not the URL of a proxy"),
        ("direct://", "proxies of scheme 'direct' are not supported"),
    ],
)
@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_proxies_refused(name: str, value: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        proxy_for(HTTP, {name: value})
    assert says in caught.value.message
    assert caught.value.key == name
    assert caught.value.hint
    assert "nter2" not in str(caught.value)
    assert proxy_for(HTTP, {name: value, "no_proxy": "*"}) is None


def test_request_targets() -> None:
    proxy = Proxy("proxy", 3128)
    assert request_target(HTTP, "/v1/completions", None) == "/v1/completions"
    assert request_target(HTTP, "/v1/completions", proxy) == "http://api.example.com:8000/v1/completions"
    assert request_target(HTTPS, "/prefix/v1/completions", proxy) == "/prefix/v1/completions"
    assert request_target(parse_target("http://[fd00::1]/x"), "/x/y", proxy) == "http://[fd00::1]/x/y"


def test_the_request_for_a_tunnel() -> None:
    assert ConnectTunnel(HTTPS, Proxy("proxy", 3128)).start() == (
        b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n"
    )
    assert ConnectTunnel(parse_target("https://[fd00::1]:8443"), Proxy("proxy", 3128, "Basic dTpw")).start() == (
        b"CONNECT [fd00::1]:8443 HTTP/1.1\r\nHost: [fd00::1]:8443\r\nProxy-Authorization: Basic dTpw\r\n\r\n"
    )


_ANSWERS = [
    b"HTTP/1.1 200 Connection established\r\n\r\n",
    b"HTTP/1.0 200\r\n\r\n",
    b"HTTP/1.1 200 OK\nVia: x\n\n",
    b"\r\nHTTP/1.1 200 OK\r\nVia: x\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
]


@pytest.mark.parametrize("answer", _ANSWERS)
@pytest.mark.parametrize("through", [b"", b"\x16\x03\x03", b"HTTP/1.1 200 OK\r\n\r\nx\n\n", b"\r\n"])
def test_a_tunnel_opens_however_the_answer_is_split(answer: bytes, through: bytes) -> None:
    stream = answer + through
    for first, second in itertools.combinations_with_replacement(range(len(stream) + 1), 2):
        tunnel = ConnectTunnel(HTTPS, Proxy("proxy", 3128))
        left = b""
        fed = 0
        for part in (stream[:first], stream[first:second], stream[second:]):
            done, brought = tunnel.feed(part)
            left += brought
            fed += len(part)
            assert done is tunnel.done is (fed >= len(answer))
        assert left == through
        tunnel.eof()


@pytest.mark.parametrize(
    ("status", "authorization", "says"),
    [
        (407, "", r"HTTP status 407 for a tunnel to api.example.com:443 \(.* give http://USER:PASSWORD@HOST:PORT in "),
        (407, "Basic dTpw", r"HTTP status 407 .* give others in "),
        (403, "", "HTTP status 403 for a tunnel to api.example.com:443$"),
        (502, "", "HTTP status 502"),
        (301, "", "HTTP status 301"),
    ],
)
def test_refusals_tell_the_status(status: int, authorization: str, says: str) -> None:
    tunnel = ConnectTunnel(HTTPS, Proxy("proxy", 3128, authorization))
    with pytest.raises(ProxyError, match=f"^proxy proxy, port 3128: .*{says}") as caught:
        tunnel.feed(f"HTTP/1.1 {status} No\r\nContent-Length: 3\r\n\r\nabc".encode())
    assert caught.value.status == status
    assert "dTpw" not in str(caught.value)
    assert not tunnel.done


@pytest.mark.parametrize(
    "answer",
    [
        b"\x16\x03\x03\r\n",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad\r\n",
        b"x" * 70_000,
    ],
)
def test_other_protocols_are_told(answer: bytes) -> None:
    with pytest.raises(ProxyError, match=r"^proxy proxy, port 3128: ") as caught:
        ConnectTunnel(HTTPS, Proxy("proxy", 3128)).feed(answer)
    assert caught.value.status == 0


def test_a_proxy_that_hangs_up_is_told() -> None:
    tunnel = ConnectTunnel(HTTPS, Proxy("proxy", 3128))
    assert tunnel.feed(b"HTTP/1.1 200 OK\r\n") == (False, b"")
    with pytest.raises(ProxyError, match="closed before it answered"):
        tunnel.eof()
