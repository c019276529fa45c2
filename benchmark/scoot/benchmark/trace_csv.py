"""CSV traces: Azure's public LLM traces, plain length tables, BurstGPT. Pure."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec

from scoot.benchmark.trace_row import MAX_THINK_S, Rows, Sessions, TraceRow, check_arrival, check_tokens
from scoot.wire import limits
from scoot.wire.errors import UserError

AZURE_HEADER: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
LENGTHS_HEADER: Final = ("arrived_at", "input_tokens", "output_tokens")
BURSTGPT_HEADER: Final = ("Request tokens", "Response tokens", "Total tokens", "Log Type", "Timestamp", "Model")

_BURSTGPT_OPTIONAL: Final = frozenset({"Total tokens", "Log Type", "Model", "Session ID", "Elapsed time"})

_Record = tuple[int, Mapping[str, str]]


def parse_azure(lines: Iterable[str], path: str, *, sessions: bool = False) -> Rows:  # noqa: ARG001 - it has none
    """Rows of an Azure trace, or of a table with the same columns in seconds.

    Wall-clock times become seconds from the first row. `arrived_at` may be left out: then there are no arrivals.
    """
    reader = _Reader(lines, path)
    if "TIMESTAMP" in reader.header:
        reader.expect(AZURE_HEADER)
        return Rows(_azure_rows(reader, path))
    reader.expect(LENGTHS_HEADER[1:], optional=frozenset(LENGTHS_HEADER[:1]))
    return Rows(_length_rows(reader, path))


def parse_burstgpt(lines: Iterable[str], path: str, *, sessions: bool = False) -> Rows:
    """Rows of a BurstGPT trace. Rows with 0 response tokens are requests that failed there: skipped, and noted.

    With `sessions`, the column `Session ID` (blank: a request on its own) makes sessions. A pause lasts from the end
    of the turn before, which is `Elapsed time` after its arrival; without that column from its arrival, which is noted.
    """
    reader = _Reader(lines, path)
    reader.expect(("Timestamp", "Request tokens", "Response tokens"), optional=_BURSTGPT_OPTIONAL)
    rows: list[TraceRow] = []
    failed = 0
    previous: float | None = None
    turns = (
        _BurstGptTurns(timed="Elapsed time" in reader.header) if sessions and "Session ID" in reader.header else None
    )
    for line, record in reader:
        previous = arrived = check_arrival(
            _number(record, "Timestamp", path, line), previous, key="Timestamp", path=path, line=line
        )
        if _integer(record, "Response tokens", path, line) == 0:
            failed += 1
            continue
        row = TraceRow(
            arrived_s=arrived,
            input_tokens=_tokens(record, "Request tokens", path, line),
            output_tokens=_tokens(record, "Response tokens", path, line),
        )
        rows.append(row if turns is None else turns.place(row, record, path, line))
    notes = [f"{failed} requests that had failed in the trace (0 response tokens) were skipped"] if failed else []
    if turns is not None and not turns.timed:
        notes.append("the trace does not say when answers ended: pauses between turns are the gaps of their arrivals")
    return Rows(rows, notes)


class _BurstGptTurns:
    """Makes rows of a BurstGPT trace turns of their sessions."""

    def __init__(self, *, timed: bool) -> None:
        self.timed = timed
        self._sessions = Sessions()
        self._ended_s: dict[int, float] = {}

    def place(self, row: TraceRow, record: Mapping[str, str], path: str, line: int) -> TraceRow:
        session, further = self._sessions.turn(record["Session ID"].strip() or None)
        if session is None:
            return row
        arrived_s = row.arrived_s or 0.0
        took_s = _number(record, "Elapsed time", path, line) if self.timed else 0.0
        if not 0 <= took_s < math.inf:
            raise UserError(f"{took_s:g} is no duration", path=path, line=line, key="Elapsed time")
        pause_s = min(MAX_THINK_S, max(0.0, arrived_s - self._ended_s[session])) if further else 0.0
        self._ended_s[session] = arrived_s + took_s
        return msgspec.structs.replace(row, session=session, think_s=pause_s)


def _azure_rows(reader: _Reader, path: str) -> Iterator[TraceRow]:
    start: datetime | None = None
    previous: float | None = None
    for line, record in reader:
        text = record["TIMESTAMP"].strip()
        try:
            at = datetime.fromisoformat(text)
        except ValueError as error:
            raise UserError(
                f"{text!r} is not a date and time",
                path=path,
                line=line,
                key="TIMESTAMP",
                hint="for example 2023-11-16 18:15:46.680590",
            ) from error
        start = start or at
        try:
            seconds = (at - start).total_seconds()
        except TypeError as error:
            raise UserError(
                "some times have a time zone and some have none", path=path, line=line, key="TIMESTAMP"
            ) from error
        if seconds < (previous or 0.0):
            raise UserError(
                f"{text} is before the previous row's time",
                path=path,
                line=line,
                key="TIMESTAMP",
                hint="sort the trace by arrival time",
            )
        previous = seconds
        yield TraceRow(
            arrived_s=seconds,
            input_tokens=_tokens(record, "ContextTokens", path, line),
            output_tokens=_tokens(record, "GeneratedTokens", path, line),
        )


def _length_rows(reader: _Reader, path: str) -> Iterator[TraceRow]:
    timed = "arrived_at" in reader.header
    previous: float | None = None
    for line, record in reader:
        if timed:
            value = _number(record, "arrived_at", path, line)
            previous = check_arrival(value, previous, key="arrived_at", path=path, line=line)
        yield TraceRow(
            arrived_s=previous,
            input_tokens=_tokens(record, "input_tokens", path, line),
            output_tokens=_tokens(record, "output_tokens", path, line),
        )


class _Reader:
    """Records of a CSV text with their line numbers. The header is read at once."""

    def __init__(self, lines: Iterable[str], path: str) -> None:
        self._path = path
        self._csv = csv.reader(lines, strict=True)
        self.header: tuple[str, ...] = ()
        for _, fields in self._records():
            self.header = tuple(name.strip().lstrip("\ufeff") for name in fields)
            break

    def expect(self, required: Sequence[str], *, optional: frozenset[str] = frozenset()) -> None:
        """Refuse a header that lacks a required column, or has one that is unknown or there twice."""
        line = self._csv.line_num
        hint = f"known columns: {', '.join([*required, *sorted(optional)])}"
        missing = [name for name in required if name not in self.header]
        if missing:
            raise UserError(f"the column {missing[0]!r} is missing", hint=hint, path=self._path, line=line)
        unknown = [name for name in self.header if name not in required and name not in optional]
        if unknown:
            raise UserError(f"unknown column {unknown[0]!r}", hint=hint, path=self._path, line=line)
        if len(set(self.header)) < len(self.header):
            raise UserError("a column is there twice", hint=hint, path=self._path, line=line)

    def __iter__(self) -> Iterator[_Record]:
        for n, (line, fields) in enumerate(self._records(), start=1):
            if n > limits.REQUESTS:
                raise UserError(
                    f"more than {limits.REQUESTS} requests", path=self._path, line=line, hint="cut the trace"
                )
            if len(fields) != len(self.header):
                raise UserError(
                    f"{len(fields)} values, the header has {len(self.header)} columns", path=self._path, line=line
                )
            yield line, dict(zip(self.header, fields, strict=True))

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Records that are not blank."""
        while True:
            try:
                fields = next(self._csv)
            except StopIteration:
                return
            except csv.Error as error:
                raise UserError(
                    f"malformed CSV: {error}", path=self._path, line=self._csv.line_num, hint="is this a text file?"
                ) from error
            if any(field.strip() for field in fields):
                yield self._csv.line_num, fields


def _number(record: Mapping[str, str], key: str, path: str, line: int) -> float:
    text = record[key].strip()
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{text!r} is not a number", path=path, line=line, key=key) from error


def _integer(record: Mapping[str, str], key: str, path: str, line: int) -> int:
    value = _number(record, key, path, line)
    if not math.isfinite(value) or value != int(value):
        raise UserError(
            f"{record[key].strip()!r} is not a whole number", path=path, line=line, key=key, hint="mend this row"
        )
    return int(value)


def _tokens(record: Mapping[str, str], key: str, path: str, line: int) -> int:
    return check_tokens(_integer(record, key, path, line), key=key, path=path, line=line)
