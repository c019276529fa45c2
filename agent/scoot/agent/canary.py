"""Asking an engine whether it works: its health path, and one real completion. Loopback, bounded in time and size."""

from __future__ import annotations

import asyncio
import io
from http.client import HTTPException, HTTPResponse
from typing import Any, Final

import msgspec

from scoot.agent.core.plan import Prompting
from scoot.benchmark.plan import PromptMode

_ANSWER_BYTES: Final = 1024 * 1024
_TOKENS: Final = 4
"""Enough for several decode steps: an engine can survive a prefill and die in the first decode."""

_SHOWN_CHARS: Final = 300


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine answered.

    Attributes:
        path: the question.
        status: HTTP status, 0 where no answer came.
        body: its body, or what went wrong.
        timed_out: the connection was accepted or not, but nothing came in time.
    """

    path: str
    status: int = 0
    body: str = ""
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        """Whether it is a success."""
        return self.status == 200  # noqa: PLR2004 - HTTP OK

    @property
    def shown(self) -> str:
        """One sentence for humans."""
        what = f"HTTP {self.status}: {self.body[:_SHOWN_CHARS]}" if self.status else self.body
        return f"{self.path}: {what}"


class _Canned:
    """Just enough of a socket for http.client to parse an answer that has been read already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._data)


async def ask(port: int, path: str, *, timeout_s: float, body: bytes | None = None) -> Answer:
    """GET, or POST of JSON where `body` is given. Never raises for what the engine does: no answer is status 0."""
    try:
        async with asyncio.timeout(timeout_s):
            data = await _exchange(port, path, body)
    except TimeoutError:
        return Answer(path=path, body=f"no answer within {timeout_s:.1f} s", timed_out=True)
    except OSError as error:
        return Answer(path=path, body=error.strerror or str(error))
    response = HTTPResponse(_Canned(data), method="POST" if body else "GET")  # type: ignore[arg-type]  # see _Canned
    try:
        response.begin()
        text = response.read(_ANSWER_BYTES).decode(errors="replace")
    except (HTTPException, ValueError) as error:
        return Answer(path=path, body=f"not HTTP: {error!r}")
    return Answer(path=path, status=response.status, body=text)


async def _exchange(port: int, path: str, body: bytes | None) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"\r\n" + (body or b""))
        parts: list[bytes] = []
        size = 0
        while size < _ANSWER_BYTES and (part := await reader.read(65_536)):
            parts.append(part)
            size += len(part)
        return b"".join(parts)
    finally:
        writer.close()


def completion_request(prompting: Prompting) -> bytes:
    """A tiny completion, in the way the load will ask."""
    prompt: object = "Hello"
    if prompting.prompt_mode is PromptMode.TOKEN_IDS:
        last = prompting.token_high - 1
        prompt = [min(prompting.token_low + offset, last) for offset in range(_TOKENS)]
    request: dict[str, Any] = {"model": prompting.model, "prompt": prompt, "max_tokens": _TOKENS, "stream": False}
    if prompting.ignore_eos:
        request |= {"ignore_eos": True, "min_tokens": _TOKENS}
    return msgspec.json.encode(request)


async def complete(port: int, prompting: Prompting, *, timeout_s: float) -> Answer:
    """Ask for one real completion; an answer without one does not count as a success."""
    answer = await ask(port, "/v1/completions", timeout_s=timeout_s, body=completion_request(prompting))
    if not answer.ok:
        return answer
    try:
        choices = msgspec.json.decode(answer.body, type=dict[str, Any]).get("choices")
    except msgspec.DecodeError as error:
        return Answer(path=answer.path, body=f"not JSON: {error}")
    return answer if isinstance(choices, list) and choices else Answer(path=answer.path, body="no choices in it")


async def check(
    port: int, health_path: str, prompting: Prompting, *, timeout_s: float, health_timeout_s: float
) -> Answer:
    """Health, then one completion; the first answer that is not a success, else the last."""
    answer = await ask(port, health_path, timeout_s=health_timeout_s)
    return await complete(port, prompting, timeout_s=timeout_s) if answer.ok else answer
