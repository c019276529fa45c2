"""Reading a trace from disk: plain or gzip, bounded, as text. The only IO of the trace modules."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO, Final, cast

from scoot.benchmark.trace import TraceRow, parse_trace
from scoot.wire.errors import UserError

TRACE_BYTES: Final = 2 * 1024**3
"""Largest trace, inflated."""

_GZIP: Final = b"\x1f\x8b"
_SNIFFED: Final = 4096
_LINE_CHARS: Final = 1024**3
_LATER_MAGICS: Final = {b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}


def read_trace(
    path: str,
    *,
    format: str = "auto",  # noqa: A002 - the study file's key
    sessions: bool = False,
) -> tuple[TraceRow, ...]:
    """Rows of the trace file at `path`, gzip recognised by its first bytes, whatever its name.

    `format` and `sessions` are as in parse_trace.

    Raises:
        UserError: the file is missing, unreadable, a folder, no text, cut off, over TRACE_BYTES inflated, or not a
            trace (see parse_trace).
    """
    if not path:
        raise UserError("no trace file is named", key="workload.trace")
    try:
        with Path(path).open("rb") as file, contextlib.closing(_lines(file, path)) as lines:
            return parse_trace(lines, format=format, path=path, sessions=sessions)
    except FileNotFoundError as error:
        raise UserError(
            "there is no such trace file", path=path, key="workload.trace", hint="paths are relative to the study file"
        ) from error
    except IsADirectoryError as error:
        raise UserError(
            "this is a folder, not a trace file", path=path, key="workload.trace", hint="name a file in it"
        ) from error
    except EOFError as error:
        raise UserError("the gzip file is cut off", path=path, hint="copy or download it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"the gzip file is damaged: {error}", path=path, hint="copy or download it again") from error
    except UnicodeDecodeError as error:
        raise UserError("the trace is not UTF-8 text", path=path, hint="convert it to UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UserError(f"the trace cannot be read: {error}", path=path, key="workload.trace") from error


def _lines(file: BinaryIO, path: str) -> Generator[str, None, None]:
    """Lines of the file, inflated if need be, at most TRACE_BYTES of them."""
    buffered = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if _peek(file, 2) == _GZIP else file
    head = buffered.read(_SNIFFED)
    for magic, name in _LATER_MAGICS.items():
        if head.startswith(magic):
            raise UserError(f"the trace is compressed with {name}", path=path, hint="inflate it, or use gzip")
    if b"\0" in head:
        raise UserError(
            "this is a binary file, not a trace", path=path, hint="traces are CSV, JSON or JSON lines, plain or gzip"
        )
    buffered.seek(0)
    # "utf-8-sig" drops a byte order mark; csv wants line ends untouched.
    text = io.TextIOWrapper(buffered, encoding="utf-8-sig", newline="")
    try:
        total = 0
        while line := text.readline(_LINE_CHARS):
            total += len(line)
            if total > TRACE_BYTES or len(line) >= _LINE_CHARS:
                raise UserError(f"the trace is over {TRACE_BYTES >> 30} GiB", path=path, hint="cut it")
            yield line
    finally:
        text.detach()


def _peek(file: BinaryIO, size: int) -> bytes:
    head = file.read(size)
    file.seek(0)
    return head
