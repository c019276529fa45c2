"""A client of the ground-truth server that sees every chunk, for its tests."""

from __future__ import annotations

import functools
import json
import select
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import pytest
from tools.loadbench.truth import serve

fast = functools.partial(serve, ttft_us=2_000, gap_us=1_000)
CLOCKS_NS = 1_000_000
"""What the kernel's stamp may be off by, for it is on another clock: very generous."""

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
BOTH = pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
_DATA_SEGMENTS_IN = 152
"""Offset of tcpi_data_segs_in in Linux's struct tcp_info."""


@dataclass
class Answer:
    """What came back. `end`: "complete", "eof" or "reset"."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    end: str = "complete"

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[str]:
        """Payloads of the events."""
        return [event.removeprefix("data: ") for event in self.body.decode().split("\n\n") if event]

    @property
    def texts(self) -> list[str]:
        """Texts of the chunks that have a choice."""
        chunks = [json.loads(event) for event in self.events if event.startswith("{")]
        choices = [chunk["choices"][0] for chunk in chunks if chunk.get("choices")]
        return [choice["text"] if "text" in choice else choice["delta"]["content"] for choice in choices]


class Wire:
    """A connection that speaks just enough HTTP."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((host, port), timeout=30)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()
        self.socket.close()

    def send(self, path: str, body: dict[str, Any] | str | None = None, *, more: str = "") -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode() if body is not None else b""
        method = "GET" if body is None else "POST"
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n{more}\r\n"
        self.socket.sendall(head.encode() + data)

    def stream(self, path: str, tokens: int, *, request_id: str = "", **fields: Any) -> Answer:
        self.ask(path, tokens, request_id=request_id, **fields)
        return self.read()

    def ask(self, path: str, tokens: int, *, request_id: str = "", **fields: Any) -> None:
        prompt: dict[str, Any] = {"prompt": [1, 2, 3]}
        if path == CHAT:
            prompt = {"messages": [{"role": "user", "content": "hello"}]}
        more = f"x-REQUEST-id:  {request_id} \r\n" if request_id else ""
        self.send(path, {**prompt, "max_tokens": tokens, "stream": True, **fields}, more=more)

    def read(self, *, most_chunks: int = 1_000_000) -> Answer:
        """An answer, or its first chunks."""
        answer = Answer()
        try:
            line = self._file.readline()
            if not line:
                answer.end = "eof"
                return answer
            answer.status = int(line.split()[1])
            while (line := self._file.readline().strip()) != b"":
                name, _, value = line.decode().partition(":")
                answer.headers[name.lower()] = value.strip()
            if "content-length" in answer.headers:
                answer.chunks = [self._file.read(int(answer.headers["content-length"]))]
                return answer
            while len(answer.chunks) < most_chunks:
                line = self._file.readline()
                if not line:
                    answer.end = "eof"
                    return answer
                chunk = self._file.read(int(line, 16) + 2)
                assert chunk.endswith(b"\r\n")
                if len(chunk) == 2:
                    return answer
                answer.chunks.append(chunk[:-2])
        except ConnectionResetError:
            answer.end = "reset"
        return answer

    @property
    def segments(self) -> int:
        """Segments with data that came: one per send(), and one more for each that was sent again on a busy machine."""
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return int(struct.unpack_from("I", info, _DATA_SEGMENTS_IN)[0])

    def silent(self, *, after: int, before: int) -> bool:
        """Whether, when `after` segments have come, a long time passes without `before` of them having come."""
        poll = select.poll()  # of nothing: a wait
        while self.segments < after:
            poll.poll(1)
        poll.poll(100)
        return self.segments < before
