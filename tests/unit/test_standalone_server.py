"""The question to the server before the load: what is told, and what the user hears when it is not."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from scoot.benchmark.plan import Endpoint, PromptMode
from scoot.benchmark.standalone import server as module
from scoot.benchmark.standalone.options import RunOptions, Span
from scoot.benchmark.standalone.server import Server, ask_server, refusal, request_headers
from scoot.wire.errors import UserError

MODELS = "/v1/models"


class Scripted(ThreadingHTTPServer):
    """Answers as told: path -> (status, body). Keeps the headers it got."""

    daemon_threads = True

    def __init__(self, answers: dict[str, tuple[int, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = answers
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.bodies: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Scripted

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers.items())))
        status, body = self.server.answers.get(self.path, (404, b""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.do_GET()

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def scripted(answers: dict[str, tuple[int, bytes]], *, context: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """A server for as long as it is needed."""
    server = Scripted(answers)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def listing(*models: tuple[str, int | None]) -> bytes:
    """What a server that serves these says."""
    data = [{"id": name} | ({"max_model_len": length} if length else {}) for name, length in models]
    return msgspec.json.encode({"object": "list", "data": data})


def options(*urls: str, **changes: Any) -> RunOptions:
    """Options for these servers."""
    return msgspec.structs.replace(RunOptions(urls=urls), **changes)


def test_the_only_model_is_the_model() -> None:
    with scripted({MODELS: (200, listing(("m", 4096)))}) as server:
        assert ask_server(options(server.url)) == Server(model="m", max_model_len=4096)
        assert ask_server(options(server.url, max_model_len=100)).max_model_len == 100
        assert ask_server(options(server.url, model="m")).model == "m"


def test_the_shortest_context_of_several_replicas_counts() -> None:
    with scripted({MODELS: (200, listing(("m", 4096)))}) as one, scripted({MODELS: (200, listing(("m", 99)))}) as two:
        assert ask_server(options(one.url, two.url)).max_model_len == 99


def test_a_server_without_a_list_needs_a_name() -> None:
    with scripted({"/health": (200, b"")}) as server:
        assert ask_server(options(server.url, model="x")) == Server(model="x")
        with pytest.raises(UserError, match="--model: is missing") as caught:
            ask_server(options(server.url))
        assert "lists none" in caught.value.hint


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b'{"data": 5}', b'{"data": []}', b"[" * 100_000])
def test_a_list_that_is_none_is_no_list(body: bytes) -> None:
    with scripted({MODELS: (200, body)}) as server:
        assert ask_server(options(server.url, model="x")).model == "x"


def test_several_models_need_a_choice() -> None:
    names = [f"m{i}" for i in range(7)]
    with scripted({MODELS: (200, listing(*((name, None) for name in names)))}) as server:
        with pytest.raises(UserError, match="--model: is missing") as caught:
            ask_server(options(server.url))
        assert caught.value.hint == "name it: it serves m0, m1, m2, m3, m4 and 2 more"
        with pytest.raises(UserError, match="'x' is not served"):
            ask_server(options(server.url, model="x"))


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({MODELS: (401, b"")}, "refuses us: HTTP 401"),
        ({MODELS: (403, b"")}, "refuses us: HTTP 403"),
        ({MODELS: (307, b"")}, "elsewhere"),
        ({MODELS: (500, b"")}, "not ready: /v1/models gives HTTP 500"),
        ({"/health": (503, b"")}, "not ready: /health gives HTTP 503"),
    ],
)
def test_what_the_server_says_is_told(answers: dict[str, tuple[int, bytes]], message: str) -> None:
    with scripted(answers) as server, pytest.raises(UserError, match=message) as caught:
        ask_server(options(server.url, model="m"))
    assert caught.value.path == server.url
    assert caught.value.hint


def test_headers_and_key_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "s3cret")
    with scripted({MODELS: (200, listing(("m", None)))}) as server:
        ask_server(options(server.url, api_key_env="THE_KEY", headers=(("X-Team", "a"),)))
    ((path, headers),) = server.seen
    assert path == MODELS
    assert headers["Authorization"] == "Bearer s3cret"
    assert headers["X-Team"] == "a"


def test_a_key_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match="THE_KEY is not set"):
        request_headers(options("http://h", api_key_env="THE_KEY"), {})


def test_a_prefix_is_kept() -> None:
    with scripted({"/a/v1/models": (200, listing(("m", None)))}) as server:
        assert ask_server(options(f"{server.url}/a")).model == "m"


def test_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(UserError, match="no server answers: Connection refused") as caught:
        ask_server(options(url))
    assert (caught.value.path, caught.value.key) == (url, "--url")


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UserError, match="timed out") as caught:
        ask_server(options(f"http://127.0.0.1:{silent.getsockname()[1]}"))
    assert "--no-check" in caught.value.hint


def test_without_the_question_a_name_is_needed() -> None:
    assert ask_server(options("http://h:1", check=False, model="m")) == Server(model="m")
    with pytest.raises(UserError, match="--model: is missing"):
        ask_server(options("http://h:1", check=False))


def test_certificates(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    with scripted({MODELS: (200, listing(("m", None)))}, context=context) as server:
        url = server.url.replace("http:", "https:")
        assert ask_server(options(url, ca_path=str(ca))).model == "m"
        assert ask_server(options(url, insecure=True)).model == "m"
        with pytest.raises(UserError, match="no server answers") as caught:
            ask_server(options(url))
        assert "--ca" in caught.value.hint
        with pytest.raises(UserError, match="no server answers") as caught:
            ask_server(options(server.url))


@pytest.mark.parametrize("text", ["", "no certificate"])
def test_a_file_without_certificates(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ca.pem"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        ask_server(options("https://h", ca_path=str(path), check=False, model="m"))
    assert caught.value.key == "--ca"


def test_a_proxy_is_asked_for_the_whole_address(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = "http://server.example:8000/v1/models"
    with scripted({whole: (200, listing(("m", None)))}) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("http://", "http://user:word@"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert ask_server(options("http://server.example:8000", proxy=True)).model == "m"
    ((path, headers),) = proxy.seen
    assert path == whole
    assert headers["Proxy-Authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    ("changes", "path", "part"),
    [
        ({"vocab": Span(7, 9)}, "/v1/completions", {"prompt": [7, 9], "ignore_eos": True, "min_tokens": 1}),
        ({"prompt": PromptMode.TEXT, "ignore_eos": False}, "/v1/completions", {"prompt": "hello"}),
        ({"endpoint": Endpoint.CHAT}, "/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(changes: dict[str, Any], path: str, part: dict[str, Any]) -> None:
    with scripted({path: (400, b"no\nchat template" + b"x" * 10_000)}) as server:
        said = refusal(options(server.url, **changes), "m")
    assert said.startswith("HTTP 400: no chat templatex")
    assert len(said) < 500
    (body,) = server.bodies
    sent = msgspec.json.decode(body)
    assert sent["model"] == "m"
    assert {name: sent.get(name) for name in part} == part
    assert ("ignore_eos" in sent) == changes.get("ignore_eos", True)


def test_a_small_request_that_is_answered_points_to_the_lengths() -> None:
    with scripted({"/v1/completions": (200, b"{}")}) as server:
        assert "see the lengths" in refusal(options(server.url), "m")
    assert "no server answers" in refusal(options(server.url), "m")
