"""Requests as bytes: the completion asked for, with a prompt of the row's length, and its HTTP/1.1 head."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from scoot.benchmark.connection import Target
from scoot.benchmark.exchange import Ask
from scoot.benchmark.plan import LoadPlan, PromptMode
from scoot.benchmark.prompt import fit_text, token_ids
from scoot.benchmark.trace_row import TraceRow, input_estimate
from scoot.wire.columns import RequestPhase
from scoot.wire.errors import TransientError

COMPLETIONS_PATH: Final = "/v1/completions"
TOKENIZE_PATH: Final = "/tokenize"

_TOKENIZE_TIMEOUT_S: Final = 30.0
_HTTP_OK: Final = 200
_STREAM_OPTIONS: Final = {"include_usage": True, "continuous_usage_stats": True}
"""With the count in every chunk, tokens can be counted: the text of one may be empty, and a chunk may bring several."""


def head(target: Target) -> bytes:
    """The start of every request to `target`; an Ask's body completes it."""
    return f"POST {COMPLETIONS_PATH} HTTP/1.1\r\nHost: {target.authority}\r\n".encode("ascii")


class RequestBuilder:
    """Builds the requests of one run.

    Args:
        plan: how prompts are sent, and to which model.
        rows: the workload's rows.
        run_seed: the run.
        count_tokens: counts a text's tokens as the engine does; used for PromptMode.TEXT only.
    """

    def __init__(
        self, plan: LoadPlan, rows: Sequence[TraceRow], run_seed: int, *, count_tokens: Callable[[str], int]
    ) -> None:
        self._plan = plan
        self._rows = rows
        self._run_seed = run_seed
        self._count_tokens = count_tokens
        self._encode = msgspec.json.Encoder().encode

    def build(self, index: int, row_index: int, *, intended_us: int = 0, phase: RequestPhase) -> Ask:
        """The request of schedule position `index` for row `row_index`.

        Raises:
            TransientError: the engine cannot count the tokens of a text.
        """
        plan = self._plan
        row = self._rows[row_index]
        prompt: str | list[int]
        if row.prompt is not None:
            prompt, length = row.prompt, input_estimate(row)
        elif plan.prompt_mode is PromptMode.TOKEN_IDS:
            prompt = token_ids(row, index=index, run_seed=self._run_seed, low=plan.token_low, high=plan.token_high)
            length = len(prompt)
        else:
            prompt, length = fit_text(row, index=index, run_seed=self._run_seed, count_tokens=self._count_tokens)
        fields: dict[str, object] = {
            "model": plan.model,
            "prompt": prompt,
            "max_tokens": row.output_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": _STREAM_OPTIONS,
        }
        if plan.ignore_eos:
            fields["ignore_eos"] = True
            fields["min_tokens"] = row.output_tokens
        body = self._encode(fields)
        rest = (
            f"Accept: text/event-stream\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode("ascii") + body
        return Ask(
            index=index,
            intended_us=intended_us,
            phase=phase,
            input_tokens=length,
            wanted_tokens=row.output_tokens,
            exact=plan.ignore_eos,
            body=rest,
        )


class _Counted(msgspec.Struct):
    count: int


class TokenCounter:
    """Counts tokens through an engine's /tokenize. Blocking: for the time before a run's clock starts."""

    def __init__(self, target: Target, model: str) -> None:
        self._model = model
        self._connection = http.client.HTTPConnection(target.host, target.port, timeout=_TOKENIZE_TIMEOUT_S)

    def __call__(self, text: str) -> int:
        """Tokens of `text`, special ones included.

        Raises:
            TransientError: the engine does not answer, or not with a count.
        """
        body = msgspec.json.encode({"model": self._model, "prompt": text})
        try:
            self._connection.request("POST", TOKENIZE_PATH, body, {"Content-Type": "application/json"})
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
