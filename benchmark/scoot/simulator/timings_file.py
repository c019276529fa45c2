"""Reads a user's timed steps: CSV or JSON lines, plain or gzip. IO.

CSV needs a header with the columns of COLUMNS; others are ignored, but columns that tell services apart (GROUPS) must
hold one value each, or be filtered. A line of JSON is an object with the same keys, or says the same in lists:

    {"prefills": [[512, 0], [128, 1024]], "decodes": [700, 1200], "ms": 61.3}

where `prefills` are [tokens computed, tokens cached before them] and `decodes` the contexts of the decoding sequences.
A line that is wrong ends the reading: nothing is skipped.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np

from scoot.simulator.fit import Timings
from scoot.wire.errors import UserError
from scoot.wire.study_file import suggest

COLUMNS: Final = (
    "prefill_tokens",
    "prefill_sum_sq",
    "prefill_sum_tokens_x_ctx",
    "decode_seqs",
    "decode_ctx_sum",
    "time_ms",
)
"""Of a CSV file: sums over the chunks and the decodes of each step, and milliseconds."""
GROUPS: Final = ("engine", "model", "gpu", "tp", "tensor_parallel", "link")
"""Columns that say which service a step is of."""

FILE_BYTES: Final = 256 * 1024**2
"""Largest file, inflated."""
MAX_ROWS: Final = 1_000_000
MAX_NUMBER: Final = 1e15

_LINE_CHARS: Final = 1024**2
_GZIP: Final = b"\x1f\x8b"
_SHOWN: Final = 60
_GROUPS_SHOWN: Final = 8

_Step = tuple[float, ...]
_Service = tuple[tuple[str, str], ...]
_Fields = Mapping[str, Any]


def read_timings(path: str, *, where: Mapping[str, str] | None = None) -> Timings:
    """Timed steps of a file, in its order.

    Args:
        path: CSV (its first line names columns) or JSON lines (its first line is an object); gzip by its first bytes.
        where: column or key -> text; only steps with these values are read.

    Raises:
        UserError: unreadable, over FILE_BYTES or MAX_ROWS, no such format, a missing column, a wrong value (with line
            and column), several services in one file, or none that `where` asks for.
    """
    wanted = dict(where or {})
    services: dict[_Service, int] = {}
    steps: list[_Step] = []
    with _named(path), Path(path).open("rb") as file, contextlib.closing(_lines(file, path)) as lines:
        for line, fields in _records(lines, path):
            if not _chosen(fields, wanted, path, line):
                continue
            service = tuple((name, str(fields[name]).strip()) for name in GROUPS if fields.get(name) is not None)
            services[service] = services.get(service, 0) + 1
            steps.append(_step(fields, path, line))
            if len(steps) > MAX_ROWS:
                raise UserError(f"over {MAX_ROWS} steps", path=path, line=line, hint="fit to a part of them")
    if not steps:
        which = f" with {_and(wanted.items())}" if wanted else ""
        raise UserError(f"no steps{which} in the file", path=path)
    if len(services) > 1:
        raise _several(services, path)
    columns = np.array(steps, np.float64).T
    return Timings(
        prefill_tokens=columns[0],
        sum_squares=columns[1],
        sum_cached=columns[2],
        decode_seqs=columns[3],
        decode_context=columns[4],
        time_s=columns[5] / 1e3,
    )


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """What goes wrong with a file, as UserErrors that name it."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError("there is no such file", path=path) from error
    except IsADirectoryError as error:
        raise UserError("this is a folder", path=path, hint="name a file in it") from error
    except EOFError as error:
        raise UserError("the gzip file is cut off", path=path, hint="copy it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"the gzip file is damaged: {error}", path=path, hint="copy it again") from error
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", path=path, hint="timings are CSV or JSON lines, plain or gzip") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UserError(f"cannot be read: {error}", path=path) from error


def _lines(file: BinaryIO, path: str) -> Generator[str, None, None]:
    """Lines of the file, inflated if need be, at most FILE_BYTES of them."""
    packed = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    plain = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if packed else file
    text = io.TextIOWrapper(plain, encoding="utf-8-sig", newline="")
    try:
        total = 0
        while line := text.readline(_LINE_CHARS):
            total += len(line)
            if total > FILE_BYTES:
                raise UserError(f"over {FILE_BYTES >> 20} MiB", path=path, hint="fit to a part of it")
            if len(line) >= _LINE_CHARS:
                raise UserError(f"a line of over {_LINE_CHARS >> 20} MiB", path=path, hint="is it a file of timings?")
            yield line
    finally:
        text.detach()


def _records(lines: Iterator[str], path: str) -> Iterator[tuple[int, _Fields]]:
    """(line number, fields) of every step."""
    first = next(lines, "")
    if first.lstrip().startswith("{"):
        yield from _json_records(first, lines, path)
    else:
        yield from _csv_records(first, lines, path)


def _csv_records(first: str, lines: Iterator[str], path: str) -> Iterator[tuple[int, _Fields]]:
    header = [name.strip() for name in next(csv.reader([first]), [])]
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise UserError(
            f"no column {missing[0]!r}",
            path=path,
            line=1,
            hint=f"the first line names the columns; needed are {', '.join(COLUMNS)}",
        )
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise UserError(
            f"the column {twice[0][:_SHOWN]!r} is there twice", path=path, line=1, hint="rename one of them"
        )
    reader = csv.reader(lines)
    try:
        for values in reader:
            line = reader.line_num + 1
            if not values:
                continue
            if len(values) != len(header):
                raise UserError(f"{len(values)} values under {len(header)} columns", path=path, line=line)
            yield line, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise UserError(f"not valid CSV: {error}", path=path, line=reader.line_num + 1) from error


def _json_records(first: str, lines: Iterator[str], path: str) -> Iterator[tuple[int, _Fields]]:
    number = 0
    for text in _chain(first, lines):
        number += 1
        if not text.strip():
            continue
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"not valid JSON: {error.msg}", path=path, line=number, hint="one object a line") from error
        except (RecursionError, ValueError) as error:  # ValueError: an integer of thousands of digits
            raise UserError(
                "not valid JSON: nested too deeply, or too long a number", path=path, line=number
            ) from error
        if not isinstance(fields, dict):
            raise UserError("not an object", path=path, line=number, hint="one object a line")
        yield number, fields


def _chain(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines


def _chosen(fields: _Fields, wanted: Mapping[str, str], path: str, line: int) -> bool:
    for name, value in wanted.items():
        if name not in fields:
            raise UserError(
                f"there is no {name[:_SHOWN]!r} to choose steps by",
                path=path,
                line=line,
                hint=suggest(name, list(fields)),
            )
        if str(fields[name]).strip() != value:
            return False
    return True


def _step(fields: _Fields, path: str, line: int) -> _Step:
    """The step in the order of COLUMNS."""
    step = (
        _from_lists(fields, path, line)
        if "prefills" in fields or "decodes" in fields
        else _from_sums(fields, path, line)
    )
    tokens, squares, cached, decodes, context, time_ms = step
    wrong = ""
    if time_ms <= 0:
        wrong, why = "time_ms", "a step takes time: it must be above 0"
    elif not tokens and not decodes:
        wrong, why = "prefill_tokens", "the step computes nothing, leave such lines out"
    elif squares < tokens or squares > tokens * tokens or (cached and not tokens):
        wrong, why = "prefill_sum_sq", "sums of squares of chunks lie between prefill_tokens and its square"
    elif context < decodes or (context and not decodes):
        wrong, why = "decode_ctx_sum", "every decoding sequence has a context of one token at least"
    if wrong:
        raise UserError(f"{step[COLUMNS.index(wrong)]:g} cannot be", path=path, line=line, key=wrong, hint=why)
    return step


def _from_sums(fields: _Fields, path: str, line: int) -> _Step:
    values = []
    for name in COLUMNS:
        key = "ms" if name == "time_ms" and name not in fields and "ms" in fields else name
        if key not in fields:
            raise UserError(f"no {name!r}", path=path, line=line, hint=f"needed are {', '.join(COLUMNS)}")
        values.append(_number(fields[key], path, line, key))
    return tuple(values)


def _from_lists(fields: _Fields, path: str, line: int) -> _Step:
    tokens = squares = cached = context = 0.0
    prefills, decodes = fields.get("prefills", []), fields.get("decodes", [])
    if not isinstance(prefills, list) or not all(isinstance(each, list) and len(each) == 2 for each in prefills):  # noqa: PLR2004 - a pair
        raise UserError("not a list of pairs", path=path, line=line, key="prefills", hint="as [[512, 0], [128, 1024]]")
    if not isinstance(decodes, list):
        raise UserError("not a list", path=path, line=line, key="decodes", hint="as [700, 1200]")
    for chunk, before in prefills:
        chunk_tokens = _number(chunk, path, line, "prefills")
        cached_tokens = _number(before, path, line, "prefills")
        tokens += chunk_tokens
        squares += chunk_tokens * chunk_tokens
        cached += chunk_tokens * cached_tokens
    for each in decodes:
        context += _number(each, path, line, "decodes")
    key = "ms" if "ms" in fields else "time_ms"
    if key not in fields:
        raise UserError("no 'ms'", path=path, line=line, hint="how long the step took, milliseconds")
    return tokens, squares, cached, float(len(decodes)), context, _number(fields[key], path, line, key)


def _number(value: object, path: str, line: int, key: str) -> float:
    """A number of 0 or more, from a text or a JSON value."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)
            if math.isfinite(number) and 0 <= number <= MAX_NUMBER:
                return number
    raise UserError(f"{str(value)[:_SHOWN]!r} is not a number of 0 or more", path=path, line=line, key=key)


def _several(services: Mapping[_Service, int], path: str) -> UserError:
    """Says what else tells the steps apart, and how to choose."""
    differing = [name for name in GROUPS if len({dict(service).get(name) for service in services}) > 1]
    each = sorted((_and(pair for pair in service if pair[0] in differing), rows) for service, rows in services.items())
    listed = "; ".join(f"{text} ({rows} steps)" for text, rows in each[:_GROUPS_SHOWN])
    more = f"; and {len(each) - _GROUPS_SHOWN} more" if len(each) > _GROUPS_SHOWN else ""
    return UserError(
        f"steps of {len(services)} services: {listed}{more}",
        path=path,
        hint=f"choose one with {' '.join(f'--where {name}=...' for name in differing)}",
    )


def _and(pairs: Any) -> str:  # noqa: ANN401 - any iterable of pairs
    return ", ".join(f"{name[:_SHOWN]}={value[:_SHOWN]}" for name, value in pairs)
