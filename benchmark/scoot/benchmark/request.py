"""Requests as bytes: the completion asked for, with a prompt of the row's length, and its HTTP/1.1 head."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from scoot.benchmark.ask import NO_SESSION, Ask
from scoot.benchmark.connection import Route
from scoot.benchmark.plan import Endpoint, LoadPlan, PromptMode
from scoot.benchmark.prompt import fit_text, token_ids
from scoot.benchmark.proxy import request_target
from scoot.benchmark.trace_row import TraceRow, input_estimate
from scoot.wire.columns import RequestPhase
from scoot.wire.errors import TransientError, UserError

TOKENIZE_PATH: Final = "/tokenize"

_TOKENIZE_TIMEOUT_S: Final = 30.0
_HTTP_OK: Final = 200
_STREAM_OPTIONS: Final = {"include_usage": True, "continuous_usage_stats": True}
"""With the count in every chunk, tokens can be counted: the text of one may be empty, and a chunk may bring several."""


def head(route: Route, endpoint: Endpoint, headers: Sequence[tuple[str, str]], api_key: str) -> bytes:
    """The start of every request over `route`; an Ask's body completes it.

    Raises:
        UserError: a header's name or value cannot be sent.
    """
    target, proxy = route.target, route.proxy
    lines = [f"POST {request_target(target, target.path(endpoint), proxy)} HTTP/1.1", f"Host: {target.authority}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if api_key:
        lines.append(f"Authorization: Bearer {api_key}")
    if proxy is not None and proxy.authorization and not target.tls:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    for line in lines:
        if not line.isascii() or not line.isprintable():
            raise UserError(
                f"the header {line.partition(':')[0]!r} cannot be sent", key="headers", hint="printable ASCII only"
            )
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")


class RequestBuilder:
    """Builds the requests of one run.

    Args:
        plan: how prompts are sent, and to which model.
        run: index of the run, part of the requests' ids.
        rows: the workload's rows.
        run_seed: the run.
        count_tokens: counts a text's tokens as the engine does; used for PromptMode.TEXT only.
    """

    def __init__(
        self,
        plan: LoadPlan,
        rows: Sequence[TraceRow],
        run_seed: int,
        *,
        run: int,
        count_tokens: Callable[[str], int],
    ) -> None:
        self._plan = plan
        self._run = run
        self._rows = rows
        self._run_seed = run_seed
        self._count_tokens = count_tokens
        self._encode = msgspec.json.Encoder().encode

    def build(
        self,
        index: int,
        row_index: int,
        *,
        intended_us: int = 0,
        phase: RequestPhase,
        slo_class: int = 0,
        session: int = NO_SESSION,
        think_us: int = 0,
    ) -> Ask:
        """The request of schedule position `index` for row `row_index`; the other arguments as in Ask.

        Raises:
            TransientError: the engine cannot count the tokens of a text.
        """
        plan = self._plan
        row = self._rows[row_index]
        chat = plan.endpoint is Endpoint.CHAT
        prompt: str | list[int]
        if row.prompt is not None:
            prompt, length = row.prompt, input_estimate(row)
        elif plan.prompt_mode is PromptMode.TOKEN_IDS and not chat:
            prompt = token_ids(
                row, index=index, run_seed=self._run_seed, low=plan.token_low, high=plan.token_high, session=session
            )
            length = len(prompt)
        else:
            prompt, length = fit_text(
                row, index=index, run_seed=self._run_seed, count_tokens=self._count_tokens, session=session
            )
        fields: dict[str, object] = {
            "model": plan.model,
            "max_tokens": row.output_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": _STREAM_OPTIONS,
        }
        if chat:
            fields["messages"] = [{"role": "user", "content": prompt}]
        else:
            fields["prompt"] = prompt
        if plan.ignore_eos:
            fields["ignore_eos"] = True
            fields["min_tokens"] = row.output_tokens
        body = self._encode(fields)
        rest = (
            f"X-Request-Id: {self._run}-{index}\r\nAccept: text/event-stream\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode("ascii") + body
        return Ask(
            index=index,
            intended_us=intended_us,
            phase=phase,
            input_tokens=length,
            wanted_tokens=row.output_tokens,
            exact=plan.ignore_eos,
            body=rest,
            slo_class=slo_class,
            session=session,
            think_us=think_us,
        )


class _Counted(msgspec.Struct):
    count: int


class TokenCounter:
    """Counts tokens through an engine's /tokenize. Blocking: for the time before a run's clock starts."""

    def __init__(self, route: Route, model: str) -> None:
        self._model = model
        target = route.target
        self._path = target.route(TOKENIZE_PATH)
        self._connection = (
            http.client.HTTPConnection(target.host, target.port, timeout=_TOKENIZE_TIMEOUT_S)
            if route.tls is None
            else http.client.HTTPSConnection(target.host, target.port, timeout=_TOKENIZE_TIMEOUT_S, context=route.tls)
        )

    def __call__(self, text: str) -> int:
        """Tokens of `text`, special ones included.

        Raises:
            TransientError: the engine does not answer, or not with a count.
        """
        body = msgspec.json.encode({"model": self._model, "prompt": text})
        try:
            self._connection.request("POST", self._path, body, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise TransientError(f"the engine's {TOKENIZE_PATH} does not answer: {error!r}") from error
        if answer.status != _HTTP_OK:
            raise TransientError(f"the engine's {TOKENIZE_PATH} answers with HTTP status {answer.status}")
        try:
            return msgspec.json.decode(data, type=_Counted).count
        except msgspec.DecodeError as error:
            raise TransientError(f"the engine's {TOKENIZE_PATH} answers without a count: {error}") from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
