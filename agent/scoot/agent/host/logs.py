"""Engine logs as bounded, clean text. A log is hostile input: any size, any bytes, lines without end."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from scoot.wire import limits

HEAD_BYTES: Final = 512 * 1024
TAIL_BYTES: Final = 512 * 1024
_LINE_CHARS: Final = 1000
"""A longer line of a tail is cut in the middle."""
_ESCAPE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """`text` without ANSI sequences and control characters; a carriage return ends a line. Pure."""
    text = _ESCAPE.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub("", text)


def tail_of(text: str, *, lines: int = limits.LOG_TAIL_LINES, chars: int = limits.LOG_TAIL_CHARS) -> str:
    """The last `lines` lines of clean text, at most `chars` characters, overlong lines cut in the middle. Pure."""
    kept = [_shortened(line) for line in clean(text).rstrip("\n").split("\n")[-lines:]]
    return "\n".join(kept)[-chars:]


def read_tail(path: Path) -> str:
    """The log's tail as reports show it; "" when there is no log."""
    return tail_of(_read(path, start=-TAIL_BYTES, size=TAIL_BYTES))


def read_head(path: Path) -> str:
    """The log's beginning (512 KiB), clean: where engines tell what they resolved. "" when there is no log."""
    return clean(_read(path, start=0, size=HEAD_BYTES))


def read_text(path: Path) -> str:
    """Beginning and end of a log (512 KiB each), clean, for classification. "" when there is no log."""
    try:
        size = path.stat().st_size
    except OSError:
        return ""
    if size <= HEAD_BYTES + TAIL_BYTES:
        return clean(_read(path, start=0, size=HEAD_BYTES + TAIL_BYTES))
    return clean(_read(path, start=0, size=HEAD_BYTES) + "\n" + _read(path, start=-TAIL_BYTES, size=TAIL_BYTES))


def _read(path: Path, *, start: int, size: int) -> str:
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end + start) if start < 0 else start)
            return file.read(size).decode(errors="replace")
    except OSError:
        return ""


def _shortened(line: str) -> str:
    if len(line) <= _LINE_CHARS:
        return line
    half = _LINE_CHARS // 2 - 10
    return f"{line[:half]} [{len(line) - 2 * half} more] {line[-half:]}"
