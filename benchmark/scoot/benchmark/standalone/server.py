"""Questions to the server outside of the load: is it there, which model does it serve, why does it refuse? IO.

They go the way the load will go: same proxy, same certificates, same headers.
"""

from __future__ import annotations

import http.client
import os
import ssl
from collections.abc import Mapping
from typing import Final

import msgspec

from scoot.benchmark.plan import Endpoint, PromptMode
from scoot.benchmark.proxy import Proxy, proxy_for, request_target
from scoot.benchmark.standalone.options import RunOptions
from scoot.benchmark.target import Target, parse_target
from scoot.benchmark.tls import make_context
from scoot.wire.errors import UserError

MODELS_PATH: Final = "/v1/models"
HEALTH_PATH: Final = "/health"
TIMEOUT_S: Final = 5.0

_ANSWER_BYTES: Final = 4 * 1024 * 1024
_SHOWN_MODELS: Final = 5
_SHOWN_CHARS: Final = 400
_OK: Final = 200
_MOVED: Final = range(300, 400)
_REFUSED: Final = frozenset({401, 403})
_UNKNOWN_PATH: Final = frozenset({404, 405, 501})
_SERVER_ERRORS: Final = range(500, 600)
_PROXY_HEADER: Final = "Proxy-Authorization"


class Model(msgspec.Struct, frozen=True):
    """A model that a server lists; `max_model_len` where it tells."""

    id: str
    max_model_len: int | None = None


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """What the load needs to know: the model's name, and the longest context served, None if unknown."""

    model: str
    max_model_len: int | None = None


class _Models(msgspec.Struct, frozen=True):
    data: tuple[Model, ...] = ()


def ask_server(options: RunOptions) -> Server:
    """Ask every replica; the model is the one asked for, or the only one served.

    Raises:
        UserError: a replica does not answer, refuses, or does not serve the model; or the model is not known.
    """
    headers = request_headers(options, os.environ)
    context = _context(options)
    if not options.check:
        if not options.model:
            raise UserError("is missing", key="--model", hint="name it, or leave out --no-check")
        return Server(model=options.model, max_model_len=options.max_model_len)
    asked = [_Asked(url, options, context) for url in options.urls]
    listed = [each.models(headers) for each in asked]
    model = options.model or _only_model(options.urls[0], listed[0])
    lengths: list[int] = []
    for url, models in zip(options.urls, listed, strict=True):
        found = next((each for each in models if each.id == model), None)
        if found is None and models:
            raise UserError(f"the model {model!r} is not served", path=url, key="--model", hint=_serves(models))
        if found is not None and found.max_model_len is not None:
            lengths.append(found.max_model_len)
    return Server(model=model, max_model_len=options.max_model_len or min(lengths, default=None))


def refusal(options: RunOptions, model: str) -> str:
    """Why the server refuses requests, in its own words: it is sent one as small as can be, of the same kind."""
    fields: dict[str, object] = {"model": model, "max_tokens": 1, "temperature": 0.0}
    if options.endpoint is Endpoint.CHAT:
        fields["messages"] = [{"role": "user", "content": "hello"}]
    elif options.prompt is PromptMode.TEXT:
        fields["prompt"] = "hello"
    else:
        fields["prompt"] = [options.vocab.low, options.vocab.high]
    if options.ignore_eos:
        fields |= {"ignore_eos": True, "min_tokens": 1}
    try:
        asked = _Asked(options.urls[0], options, _context(options))
        path = f"/v1/{'chat/' if options.endpoint is Endpoint.CHAT else ''}completions"
        status, body = asked.ask("POST", path, request_headers(options, os.environ), msgspec.json.encode(fields))
    except UserError as error:
        return str(error)
    if status == _OK:
        return "but a small one it answers, so see the lengths and the server's log"
    words = "".join(char if char.isprintable() else " " for char in body.decode(errors="replace"))
    return f"HTTP {status}: {words[:_SHOWN_CHARS]}"


def request_headers(options: RunOptions, environment: Mapping[str, str]) -> dict[str, str]:
    """Headers of every request, the key among them. Pure.

    Raises:
        UserError: the variable of the key is not set.
    """
    headers = dict(options.headers)
    if options.api_key_env:
        key = environment.get(options.api_key_env, "")
        if not key:
            raise UserError(
                f"the environment variable {options.api_key_env} is not set",
                key="--api-key-env",
                hint=f"export {options.api_key_env}=...",
            )
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _context(options: RunOptions) -> ssl.SSLContext:
    try:
        return make_context(options.ca_path, verify=not options.insecure)
    except UserError as error:
        raise UserError(error.message, path=error.path, key="--ca", hint=error.hint) from error


class _Asked:
    """One replica, asked a few things over connections of their own."""

    def __init__(self, url: str, options: RunOptions, context: ssl.SSLContext) -> None:
        self._url = url
        self._target: Target = parse_target(url)
        self._proxy: Proxy | None = proxy_for(self._target, os.environ) if options.proxy else None
        self._context = context

    def models(self, headers: Mapping[str, str]) -> tuple[Model, ...]:
        """Models that it lists; none where it has no list but is there."""
        path = MODELS_PATH
        status, body = self.ask("GET", path, headers)
        if status in _UNKNOWN_PATH:
            path = HEALTH_PATH
            status, body = self.ask("GET", path, headers)
        if status in _REFUSED:
            raise UserError(
                f"the server refuses us: HTTP {status}",
                path=self._url,
                hint="name the variable that has the key with --api-key-env NAME",
            )
        if status in _MOVED:
            raise UserError(
                f"{path} is elsewhere: HTTP {status}", path=self._url, key="--url", hint="give that address"
            )
        if status in _SERVER_ERRORS:
            raise UserError(
                f"the server is not ready: {path} gives HTTP {status}", path=self._url, hint="wait until it is"
            )
        if path == HEALTH_PATH or status != _OK:
            return ()
        try:
            return msgspec.json.decode(body, type=_Models).data
        except (msgspec.DecodeError, RecursionError):
            return ()

    def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of the answer, whatever the status.

        Raises:
            UserError: there is no answer.
        """
        sent = dict(headers)
        if self._proxy is not None and self._proxy.authorization and not self._target.tls:
            sent[_PROXY_HEADER] = self._proxy.authorization
        if body:
            sent["Content-Type"] = "application/json"
        connection = self._connection()
        try:
            where = request_target(self._target, self._target.route(path), self._proxy)
            connection.request(method, where, body or None, headers=sent)
            answer = connection.getresponse()
            return answer.status, answer.read(_ANSWER_BYTES)
        except (OSError, http.client.HTTPException, ValueError) as error:
            through = "" if self._proxy is None else f" through the proxy {self._proxy.host}:{self._proxy.port}"
            raise UserError(
                f"no server answers{through}: {_said(error)}", path=self._url, key="--url", hint=_remedy(error)
            ) from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        target, proxy = self._target, self._proxy
        host, port = (target.host, target.port) if proxy is None else (proxy.host, proxy.port)
        if not target.tls:
            return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=self._context)
        if proxy is not None:
            authorization = {_PROXY_HEADER: proxy.authorization} if proxy.authorization else {}
            connection.set_tunnel(target.host, target.port, headers=authorization)
        return connection


def _said(error: Exception) -> str:
    """An error in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _remedy(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "name its authority with --ca FILE, or give --insecure"
    if isinstance(error, ssl.SSLError):
        return "does the server speak TLS? if not, the address begins with http://"
    if isinstance(error, TimeoutError):
        return f"it said nothing for {TIMEOUT_S:g} s; --no-check starts the load all the same"
    if isinstance(error, http.client.HTTPException):
        return "does the server speak TLS? then the address begins with https://"
    return "start the server, or correct the address"


def _only_model(url: str, models: tuple[Model, ...]) -> str:
    if len(models) == 1:
        return models[0].id
    what = _serves(models) if models else f"the server lists none under {MODELS_PATH}"
    raise UserError("is missing", path=url, key="--model", hint=f"name it: {what}")


def _serves(models: tuple[Model, ...]) -> str:
    more = f" and {len(models) - _SHOWN_MODELS} more" if len(models) > _SHOWN_MODELS else ""
    return f"it serves {', '.join(model.id for model in models[:_SHOWN_MODELS])}{more}"
