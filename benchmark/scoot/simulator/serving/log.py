"""The log of an engine that pretends: lines on stdout as engines write them."""

from __future__ import annotations

import os
import sys
import time
from typing import Final, NoReturn

GENERAL_LINE: Final = "RuntimeError: the engine core could not go on; the root cause is above"
"""What follows every root cause, as in real logs."""


class Log:
    """Lines on stdout, each with level, time and `source` (a file's name)."""

    def __init__(self, source: str) -> None:
        self._source = source

    def say(self, message: str) -> None:
        """An ordinary line."""
        self._write("INFO", message)

    def warn(self, message: str) -> None:
        """Something is not as it should be."""
        self._write("WARNING", message)

    def error(self, message: str) -> None:
        """A line of an error."""
        self._write("ERROR", message)

    def fail(self, *lines: str) -> None:
        """The lines of an error, root cause first, and the general line."""
        for line in (*lines, GENERAL_LINE):
            self._write("ERROR", line)

    def die(self, code: int, *lines: str) -> NoReturn:
        """The same, and the end of this process, at once."""
        self.fail(*lines)
        os._exit(code)

    def _write(self, level: str, message: str) -> None:
        stamp = time.strftime("%m-%d %H:%M:%S")
        sys.stdout.write(f"{level} {stamp} [{self._source}] {message}\n")
        sys.stdout.flush()
