"""Writing what the user asked for: whole files or none, and errors that name the file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from scoot.wire.errors import UserError
from scoot.wire.view import Report


def write_file(path: Path, data: bytes) -> None:
    """Write a file atomically: beside it, flushed, renamed. Folders are made.

    Raises:
        UserError: it cannot be written (no space, no permission); nothing of it is left.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise UserError(
            f"cannot be written: {error.strerror}", path=str(path), hint="free some space or choose another place"
        ) from error


def read_text(path: Path, *, limit_bytes: int) -> str:
    """A text file's contents.

    Raises:
        UserError: missing, unreadable, too large, or not UTF-8.
    """
    try:
        if path.stat().st_size > limit_bytes:
            raise UserError(f"is larger than {limit_bytes} bytes", path=str(path), hint="is it the right file?")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror}", path=str(path), hint="check the path and its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", path=str(path), hint="is it the right file?") from error


def write_report(folder: Path, report: Report) -> tuple[Path, ...]:
    """Write results.json, report.md and report.html into `folder`; returns their paths."""
    contents = {"results.json": report.json, "report.md": report.markdown, "report.html": report.html}
    for name, text in contents.items():
        write_file(folder / name, text.encode())
    return tuple(folder / name for name in contents)
