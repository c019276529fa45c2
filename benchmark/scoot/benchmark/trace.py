"""Request traces: parsing of every supported format into rows. Pure; files are read by scoot.benchmark.trace_file.

Formats (`format = "auto"` looks at the first line that is not blank):

* azure: CSV with the header `TIMESTAMP,ContextTokens,GeneratedTokens` (wall-clock times), or with the columns
  `arrived_at` (seconds, optional), `input_tokens`, `output_tokens`.
* burstgpt: CSV `Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type`.
* mooncake: JSON lines `{timestamp (ms), input_length, output_length, hash_ids}`.
* sharegpt: one JSON array of conversations; all their turns where sessions are wanted.
* vllm: JSON lines `{prompt, output_tokens}` as vLLM's custom data set.
* jsonl: JSON lines `{prompt | input_tokens, output_tokens, arrived_at?, prefix_group?, prefix_tokens?, session?,
  think_s?, slo_class?}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from types import MappingProxyType
from typing import Final, Protocol

import msgspec

from scoot.benchmark.trace_csv import BURSTGPT_HEADER, parse_azure, parse_burstgpt
from scoot.benchmark.trace_json import parse_mooncake, parse_plain, parse_vllm
from scoot.benchmark.trace_row import Rows, TraceRow
from scoot.benchmark.trace_sharegpt import parse_sharegpt
from scoot.wire.errors import UserError


class _Parser(Protocol):
    def __call__(self, lines: Iterable[str], path: str, *, sessions: bool) -> Rows: ...


__all__ = ["FORMATS", "Rows", "TraceRow", "detect_format", "parse_trace"]

_PARSERS: Final[Mapping[str, _Parser]] = MappingProxyType(
    {
        "azure": parse_azure,
        "burstgpt": parse_burstgpt,
        "jsonl": parse_plain,
        "mooncake": parse_mooncake,
        "sharegpt": parse_sharegpt,
        "vllm": parse_vllm,
    }
)

FORMATS: Final = ("auto", *_PARSERS)
"""Values of `workload.format`."""

_BLANKS: Final = 1000


def parse_trace(
    lines: Iterable[str],
    *,
    format: str = "auto",  # noqa: A002 - the study file's key
    path: str = "",
    sessions: bool = False,
) -> tuple[TraceRow, ...]:
    """Rows of a trace, in order. The result is a `Rows`: its `notes` say what was skipped or estimated.

    Args:
        lines: the text, line by line, with or without line ends.
        format: one of FORMATS.
        path: of the file, for messages.
        sessions: make turns of sessions of the rows that belong to one; otherwise every row is on its own.

    Raises:
        UserError: an unknown format, or a trace that is empty, malformed, over limits.REQUESTS rows, or has lengths or
            arrival times that make no sense; with path, line and remedy.
    """
    if format not in FORMATS:
        raise UserError(
            f"unknown trace format {format!r}", path=path, key="workload.format", hint=f"one of {', '.join(FORMATS)}"
        )
    rest = iter(lines)
    head = list(islice(_until_text(rest), _BLANKS))
    if not any(line.strip() for line in head):
        raise UserError("the trace is empty", path=path, hint="it needs at least one request")
    name = detect_format(head[-1], path=path, line=len(head)) if format == "auto" else format
    rows = _PARSERS[name](chain(head, rest), path, sessions=sessions)
    if not rows:
        notes = "; ".join(rows.notes)
        raise UserError(
            "the trace has no usable request" + (f": {notes}" if notes else ""),
            path=path,
            hint="it needs at least one request",
        )
    return rows


def detect_format(first: str, *, path: str = "", line: int = 1) -> str:
    """The format of a trace by its first line that is not blank.

    Raises:
        UserError: no format begins like this.
    """
    text = first.lstrip("\ufeff").strip()
    if text.startswith("["):
        return "sharegpt"
    if text.startswith("{"):
        return _json_format(text, path, line)
    names = [name.strip() for name in text.split(",")]
    if len(names) > 1 and set(names) & set(BURSTGPT_HEADER[:4]):
        return "burstgpt"
    if len(names) > 1:
        return "azure"
    raise UserError(
        "cannot tell the format of the trace from its first line",
        path=path,
        line=line,
        hint=f"set workload.format to one of {', '.join(_PARSERS)}",
    )


def _json_format(text: str, path: str, line: int) -> str:
    try:
        first = msgspec.json.decode(text, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise UserError(
            f"not a JSON object on one line: {error}",
            path=path,
            line=line,
            hint="JSON traces have one request per line; a ShareGPT file is one array",
        ) from error
    if "hash_ids" in first or "input_length" in first:
        return "mooncake"
    if "prompt" in first and {"output_len", "expected_output_len"} & set(first):
        return "vllm"
    return "jsonl"


def _until_text(lines: Iterator[str]) -> Iterator[str]:
    """Lines up to and with the first that is not blank."""
    for line in lines:
        yield line
        if line.strip("\ufeff \t\r\n"):
            return
