"""SCOOT's daemons as processes of a tool: started, killed, started again; and what an agent's log tells."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from scoot.wire.assignment import Phase

_PATIENCE_S: Final = 180.0
_POLL_S: Final = 0.02
_BEGINS: Final = "begins"
_LINE: Final = re.compile(r"(?P<attempt>[0-9a-zA-Z_-]+/\d+/\d+): (?P<word>[A-Za-z_]+)\b(?: \(fence (?P<fence>\d+)\))?")


class Daemon:
    """A daemon of this storm; it ends with it."""

    def __init__(self, name: str, argv: Sequence[str], folder: Path) -> None:
        """`argv` without the options that every daemon gets."""
        self.log = folder / f"{name}.log"
        self._ready = folder / f"{name}.ready"
        option = "--ready-file" if name == "coordinator" else "--once-ready-file"
        self._argv = [sys.executable, "-m", *argv, "--exit-with-stdin", option, str(self._ready)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> str:
        """Start it, and what its ready file says."""
        self._ready.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - a fork
                self._argv, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        async with asyncio.timeout(_PATIENCE_S):
            while not self._ready.exists():
                if self._process.poll() is not None:
                    raise RuntimeError(f"{self.log.name}: ended with {self._process.returncode}")
                await asyncio.sleep(_POLL_S)  # noqa: TID251 - nobody tells when the file is there
        return self._ready.read_text().strip()

    def reap(self) -> None:
        """After a kill."""
        if self._process is not None:
            self._process.wait()

    def stop(self) -> None:
        """The end of its standard input ends it."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait(_PATIENCE_S)


class Story:
    """The agent's log (at level debug) as it grows: which attempt entered which phase."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = ""
        self.attempts: list[str] = []
        self.fences: dict[str, int] = {}
        self.phases: dict[str, list[Phase]] = {}

    def read(self) -> None:
        """Take up what is new."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *lines, self._rest = (self._rest + data.decode(errors="replace")).split("\n")
        for line in lines:
            found = _LINE.search(line)
            if found is None:
                continue
            attempt, word = found["attempt"], found["word"]
            if word == _BEGINS:
                self.attempts.append(attempt)
                self.fences[attempt] = int(found["fence"])
            elif word in Phase.__members__:
                self.phases.setdefault(attempt, []).append(Phase(word))

    def last(self, attempt: str) -> Phase:
        """Where an attempt is."""
        return self.phases.get(attempt, [Phase.PREPARE])[-1]
