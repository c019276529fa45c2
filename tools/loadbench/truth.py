"""The ground-truth server and the C client of benchmark/truth: built, started, stopped, and what they wrote, read."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec
import numpy as np
import numpy.typing as npt

from scoot.wire.errors import PermanentInfraError, UserError

Ints = npt.NDArray[np.int64]

SOURCES: Final = Path(__file__).parents[2] / "benchmark" / "truth"
MODES: Final = (
    "plain",
    "role",
    "empty",
    "comments",
    "malformed",
    "error200",
    "rst",
    "close",
    "http429",
    "http500",
    "nodone",
    "coalesce",
    "split",
    "never",
    "hang",
    "slowfirst",
    "hangnohead",
)
"""What may go wrong; the head of truth_server.c says what each is."""

_COMPILERS: Final = ("gcc", "cc", "clang")
_FLAGS: Final = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")
_STOP_S: Final = 60.0


class Binaries(msgspec.Struct, frozen=True, kw_only=True):
    """Where the two programs are."""

    server: Path
    client: Path


class Record(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A request as the server saw it. Times are nanoseconds of CLOCK_MONOTONIC.

    Attributes:
        n: order in which requests were read, counted from 0; the id in the answer is cmpl-<n> (chat: chatcmpl-<n>).
        request_id: its X-Request-Id header, "" without one.
        connection: the connection it came by, counted from 0 in the order of opening.
        status: HTTP status of the answer.
        streamed: whether a stream was asked for; else all tokens have the time of the whole answer.
        arrival_ns: when the kernel received its last segment.
        send_ns: (k,) just before each token was handed to the kernel.
        done: the answer was given to its end, such as the mode has one.
        closed_early: the client closed the connection before that.
        late_ns_max: the most that a token left after it was due.
    """

    n: int
    request_id: str = msgspec.field(name="id")
    connection: int
    status: int
    streamed: bool
    arrival_ns: int
    send_ns: Ints
    done: bool
    closed_early: bool
    late_ns_max: int


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The server's whole run.

    Attributes:
        mode: what went wrong by order.
        requests: completions asked for; other requests are not recorded.
        tokens: sent.
        cpu_s: user and system time of the server.
        send_late_us_p50: median of sent - due over all tokens, microseconds; -1 without tokens.
        send_late_us_p99: 99th percentile.
        send_late_us_max: maximum.
        arrivals_in_freeze: requests that arrived during the freeze.
        frozen_from_ns: when it began, CLOCK_MONOTONIC, 0 if there was none.
        frozen_until_ns: when it ended.
        connections: accepted.
        refused: closed at once, for there were too many.
        most_streams: answers under way at one time, at most.
        blocked_sends: sends the kernel did not take as a whole: the client does not read fast enough.
        unstamped: reads without a kernel stamp; the time of reading stands in for it.
        fifo: whether the server ran with real-time priority.
    """

    mode: str
    requests: int
    tokens: int
    cpu_s: float
    send_late_us_p50: float
    send_late_us_p99: float
    send_late_us_max: float
    arrivals_in_freeze: int
    frozen_from_ns: int
    frozen_until_ns: int
    connections: int
    refused: int
    most_streams: int
    blocked_sends: int
    unstamped: int
    fifo: bool


class Call(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A request as the C client saw it. Times are nanoseconds of CLOCK_MONOTONIC.

    Attributes:
        i: position in the schedule.
        request_id: its X-Request-Id header.
        intended_ns: when it was due.
        sent_ns: just before it was handed to the kernel.
        first_ns: kernel stamp of the first token, 0 without one.
        last_ns: of the last one.
        gaps_ns: (m,) between consecutive reads with tokens.
        tokens: received.
        merged: tokens that were read with another one before them: they have no gap.
        status: HTTP status, 0 without an answer.
        ok: all tokens came, and the answer ended properly.
    """

    i: int
    request_id: str = msgspec.field(name="id")
    intended_ns: int
    sent_ns: int
    first_ns: int
    last_ns: int
    gaps_ns: Ints
    tokens: int
    merged: int
    status: int
    ok: bool


class Drive(msgspec.Struct, frozen=True, kw_only=True):
    """A run of the C client.

    Attributes:
        requests: begun.
        ok: completed.
        tokens: received.
        merged: tokens read together with another one before them.
        wall_s: from the first request to the last token.
        requests_per_s: completed ones / wall_s.
        cpu_s: user and system time from the first request on.
        late_us_p50: median of sent - intended, microseconds.
        late_us_p99: 99th percentile.
        late_us_max: maximum.
        opened_late: connections opened while the clock ran, for there were too few.
        fifo: whether it ran with real-time priority.
        calls: one per request.
    """

    requests: int
    ok: int
    tokens: int
    merged: int
    wall_s: float
    requests_per_s: float
    cpu_s: float
    late_us_p50: float
    late_us_p99: float
    late_us_max: float
    opened_late: int
    fifo: bool
    calls: tuple[Call, ...] = ()


def _array(_kind: type, value: list[int]) -> Ints:
    """A JSON list as an array, for msgspec."""
    return np.array(value, np.int64)


_RECORD: Final = msgspec.json.Decoder(Record, dec_hook=_array)
_CALL: Final = msgspec.json.Decoder(Call, dec_hook=_array)


def compiler() -> str | None:
    """A C compiler on this machine's PATH, None if there is none."""
    return next((found for name in _COMPILERS if (found := shutil.which(name))), None)


def build(folder: Path, *, flags: Sequence[str] = ()) -> Binaries:
    """Compile both programs into `folder`, which is made if it is not there. Any warning is an error.

    Args:
        folder: where they go.
        flags: more flags for the compiler, such as -fsanitize=address.

    Raises:
        UserError: there is no compiler, or it refuses the sources.
    """
    found = compiler()
    if found is None:
        raise UserError("there is no C compiler on PATH", hint=f"install one of {', '.join(_COMPILERS)}")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("truth_server", "truth_client"):
        argv = [found, *_FLAGS, *flags, "-o", str(folder / name), str(SOURCES / f"{name}.c")]
        result = subprocess.run(argv, capture_output=True, text=True, check=False)
        if result.returncode:
            raise UserError(f"{found} does not compile it:\n{result.stderr}", path=str(SOURCES / f"{name}.c"))
    return Binaries(server=folder / "truth_server", client=folder / "truth_client")


def read_records(path: Path) -> tuple[list[Record], Summary]:
    """A server's dump: (requests in the order of `n`, summary).

    Raises:
        PermanentInfraError: the dump is incomplete.
    """
    lines = path.read_bytes().splitlines()
    if not lines or not lines[-1].startswith(b'{"summary":true,'):
        raise PermanentInfraError(f"{path}: the dump does not end with a summary: the server was killed")
    summary = msgspec.json.decode(lines.pop(), type=Summary)
    records = [_RECORD.decode(line) for line in lines]
    if len(records) != summary.requests or sum(len(one.send_ns) for one in records) != summary.tokens:
        raise PermanentInfraError(f"{path}: the dump has not all of its {summary.requests} requests")
    return records, summary


class Truth:
    """A running truth server; made by `serve`. What it saw can be read once the context was left.

    Attributes:
        port: where it listens; set while the context is open.
        pid: its process likewise.
        records: requests in the order of `n`; empty before.
        summary: None before.
    """

    def __init__(self, argv: Sequence[str], dump: Path | None) -> None:
        self._argv = argv
        self._dump = dump
        self._process: subprocess.Popen[str] | None = None
        self.port = 0
        self.pid = 0
        self.records: list[Record] = []
        self.summary: Summary | None = None

    def __enter__(self) -> Self:
        if self._process is not None:
            raise UserError("a Truth is used once", hint="call serve() again")
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="truth-")))
            self._path = self._dump or folder / "dump.jsonl"
            self._errors = folder / "stderr"
            errors = stack.enter_context(self._errors.open("w"))
            # The pipe is the leash: without its parent, however that ends, the server ends too.
            process = self._process = subprocess.Popen(
                [*self._argv, "--exit-with-stdin", "--dump", str(self._path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            word, _, port = process.stdout.readline().partition(" ") if process.stdout is not None else ("", "", "")
            if word != "listening":
                code = self._end(process)
                raise UserError(f"the truth server ended with {code}: {self._said()}")
            self.port = int(port)
            self.pid = process.pid
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        process = self._process
        if process is None:
            return
        with self._stack:
            code = self._end(process)
            if kind is not None:
                return
            if code:
                raise PermanentInfraError(f"the truth server ended with {code}: {self._said()}")
            self.records, self.summary = read_records(self._path)

    def _end(self, process: subprocess.Popen[str]) -> int:
        """End the process: its exit status."""
        process.terminate()
        try:
            # Not communicate(): that closes stdin first, which is an order to end too, and one without a time limit.
            return process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _said(self) -> str:
        return self._errors.read_text(errors="replace").strip() or "it did not say why"


def serve(
    binaries: Binaries,
    *,
    ttft_us: int = 20_000,
    gap_us: int = 10_000,
    mode: str = "plain",
    freeze_at_s: float | None = None,
    freeze_s: float = 0.0,
    host: str = "127.0.0.1",
    port: int = 0,
    model: str = "truth",
    max_connections: int | None = None,
    fifo: bool = False,
    dump: Path | None = None,
    prefix: Sequence[str] = (),
) -> Truth:
    """A truth server, running while the context is open.

    Args:
        binaries: see `build`.
        ttft_us: from a request's arrival to its first token.
        gap_us: from one token to the next.
        mode: what goes wrong, one of MODES.
        freeze_at_s: from the first arrival to the start of the freeze; None: there is none.
        freeze_s: how long the server then neither reads nor sends.
        host: numeric address to listen at, 127.0.0.1 or ::1.
        port: 0: any that is free.
        model: the name it gives its model.
        max_connections: more are closed at once; None: as many as the system allows.
        fifo: ask for real-time priority; without the right to it, go on without.
        dump: where the dump is kept; None: it is read and removed.
        prefix: a command to run the server with, such as ("taskset", "-c", "0").

    Raises:
        UserError: on entering, the server refuses its options.
        PermanentInfraError: on leaving, it has failed.
    """
    argv = [*prefix, str(binaries.server), f"--ttft-us={ttft_us}", f"--gap-us={gap_us}", f"--mode={mode}"]
    argv += [f"--host={host}", f"--port={port}", f"--model={model}"]
    if freeze_at_s is not None:
        argv += [f"--freeze-at-s={freeze_at_s}", f"--freeze-s={freeze_s}"]
    if max_connections is not None:
        argv.append(f"--max-connections={max_connections}")
    if fifo:
        argv.append("--fifo")
    return Truth(argv, dump)


def drive(
    binaries: Binaries,
    port: int,
    *,
    requests: int,
    tokens: int,
    rate: float | None = None,
    closed: int | None = None,
    connections: int = 64,
    prompt_tokens: int = 8,
    usage: bool = False,
    host: str = "127.0.0.1",
    id_prefix: str = "truth",
    idle_s: float = 30.0,
    fifo: bool = False,
    prefix: Sequence[str] = (),
) -> Drive:
    """Run the C client to its end.

    Args:
        binaries: see `build`.
        port: the server's.
        requests: how many.
        tokens: of each answer.
        rate: requests per second, in an open loop.
        closed: connections of a closed loop. Exactly one of `rate` and `closed` is given.
        connections: opened before the clock starts, in an open loop.
        prompt_tokens: length of the prompt, a list of token ids.
        usage: ask for the usage in every chunk, as SCOOT does.
        host: the server's numeric address.
        id_prefix: of the X-Request-Id headers, which are PREFIX-00000000 and on.
        idle_s: give up after so long without anything received.
        fifo: ask for real-time priority.
        prefix: a command to run the client with.

    Raises:
        UserError: the client refuses its options, or cannot connect.
    """
    if (rate is None) == (closed is None):
        raise UserError("one of rate and closed is needed")
    argv = [*prefix, str(binaries.client), f"--host={host}", f"--port={port}", f"--requests={requests}"]
    argv += [f"--tokens={tokens}", f"--connections={connections}", f"--prompt-tokens={prompt_tokens}"]
    argv += [f"--id-prefix={id_prefix}", f"--idle-s={idle_s}"]
    argv.append(f"--rate={rate}" if closed is None else f"--closed={closed}")
    argv += ["--usage"] * usage + ["--fifo"] * fifo
    with tempfile.TemporaryDirectory(prefix="truth-") as folder:
        path = Path(folder) / "calls.jsonl"
        result = subprocess.run([*argv, "--dump", str(path)], capture_output=True, text=True, check=False)
        if result.returncode:
            raise UserError(f"the C client ended with {result.returncode}: {result.stderr.strip()}")
        calls = tuple(_CALL.decode(line) for line in path.read_bytes().splitlines())
    return msgspec.structs.replace(msgspec.json.decode(result.stdout, type=Drive), calls=calls)
