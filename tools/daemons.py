"""SCOOT's daemons as processes of a tool or a test: started, killed, started again; what an agent's log tells."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from scoot.wire.assignment import Phase

PATIENCE_S: Final = 180.0
_POLL_S: Final = 0.02
_LAST_LINES: Final = 20
_AGENT: Final = "scoot.agent"
_BEGINS: Final = "begins"
_LINE: Final = re.compile(r"(?P<attempt>[0-9a-zA-Z_-]+/\d+/\d+): (?P<word>[A-Za-z_]+)\b(?: \(fence (?P<fence>\d+)\))?")


class Daemon:
    """A coordinator or an agent. It may be killed, by whoever, and started again in the same folder.

    Args:
        name: of its log and its ready file.
        argv: module and options, without those about its ready file and its standard input; see `argv`.
        folder: where both files are.
        tied: it ends with this process, however that ends (--exit-with-stdin). An agent then takes what runs beside it
            for its own, as under `scootctl tune`; untied it runs as it does under an init process.
        patience_s: longest wait until it is ready, and until it has stopped.

    Attributes:
        argv: what the next start runs.
        log_path: what it writes to standard output and standard error, of all its starts.
    """

    def __init__(
        self, name: str, argv: Sequence[str], folder: Path, *, tied: bool, patience_s: float = PATIENCE_S
    ) -> None:
        self.argv = tuple(argv)
        self.log_path = folder / f"{name}.log"
        self._ready = folder / f"{name}.ready"
        self._tied = tied
        self._patience_s = patience_s
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that was started last; 0 before the first start."""
        return 0 if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it, again where it has ended."""
        self.reap()
        self._ready.unlink(missing_ok=True)
        option = "--once-ready-file" if self.argv[0] == _AGENT else "--ready-file"
        argv = [sys.executable, "-m", *self.argv, option, str(self._ready)]
        argv += ["--exit-with-stdin"] if self._tied else []
        stdin = subprocess.PIPE if self._tied else subprocess.DEVNULL
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(argv, stdin=stdin, stdout=log, stderr=log, start_new_session=True)

    async def ready(self) -> str:
        """What its ready file says, once it is there: a coordinator's address.

        Raises:
            RuntimeError: it ended before; with the end of its log.
            TimeoutError: nothing of both in time.
        """
        async with asyncio.timeout(self._patience_s):
            while not self._ready.exists():
                status = None if self._process is None else self._process.poll()
                if status is not None:
                    said = "\n".join(self.log().splitlines()[-_LAST_LINES:])
                    raise RuntimeError(f"{self.argv[0]} ended with {status}:\n{said}")
                await asyncio.sleep(_POLL_S)  # noqa: TID251 - nobody tells when the file is there
        return self._ready.read_text().strip()

    def kill(self) -> None:
        """SIGKILL the daemon itself, as the kernel or an operator would; its children are left to their fate."""
        if self._process is not None:
            self._process.kill()
        self.reap()

    def stop(self) -> int | None:
        """SIGTERM where it still runs; its exit status, None if it was never started.

        Raises:
            subprocess.TimeoutExpired: it does not end.
        """
        if self._process is not None:
            self._process.terminate()
        return self.reap()

    def reap(self) -> int | None:
        """Wait for the end of what was killed, and its exit status; None if it was never started.

        Raises:
            subprocess.TimeoutExpired: it does not end.
        """
        if self._process is None:
            return None
        status = self._process.wait(self._patience_s)
        if self._process.stdin is not None:
            self._process.stdin.close()
        return status

    def log(self) -> str:
        """What it has said so far, in all its starts."""
        return self.log_path.read_text(errors="replace")


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
