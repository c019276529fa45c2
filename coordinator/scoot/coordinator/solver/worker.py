"""The optimizer's own process: `python -m scoot.coordinator.solver.worker --memory-bytes N`.

Requests come as JSON lines on standard input and are answered in order on what was standard output when the process
began; anything else that is printed goes to standard error. The process ends as soon as its input does, even in the
middle of a computation, so that it never outlives its coordinator.
"""

from __future__ import annotations

import argparse
import os
import queue
import resource
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import BinaryIO, Final

import msgspec

from scoot.coordinator.solver import protocol
from scoot.coordinator.solver.call import suggest
from scoot.wire.errors import SolverError, UserError

EXIT_OUT_OF_MEMORY: Final = 70
"""Exit status after an answer that memory has run out: what is left of the process is not trusted."""

EXIT_BAD_REQUEST: Final = 71

_NICE: Final = 10


def answer(request: protocol.Request) -> protocol.Response:
    """The response to a request. Whatever a method raises becomes a failure, except MemoryError.

    Only what is wrong with the study itself is the user's: a UserError out of a method is a SolverError by now.
    """
    try:
        suggestions = suggest(request.method, request.ask, os.environ)
    except MemoryError:
        raise
    except UserError as error:
        failure = protocol.Failure(message=error.message, user=True, key=error.key, hint=error.hint)
    except SolverError as error:
        traceback.print_exc()
        failure = protocol.Failure(message=str(error))
    except Exception as error:  # noqa: BLE001 - any failure at all is an answer; the story goes to the log
        traceback.print_exc()
        failure = protocol.Failure(message=f"{type(error).__name__}: {error}")
    else:
        return protocol.Response(id=request.id, suggestions=suggestions)
    return protocol.Response(id=request.id, failure=failure)


def serve(requests: Callable[[], bytes], out: BinaryIO) -> int:
    """Answer requests until they end or memory does; returns the exit status."""
    while line := requests():
        try:
            request = msgspec.json.decode(line, type=protocol.Request)
        except msgspec.DecodeError as error:
            sys.stderr.write(f"bad request: {error}\n")
            return EXIT_BAD_REQUEST
        status = 0
        try:
            response = answer(request)
        except MemoryError:
            status = EXIT_OUT_OF_MEMORY
            response = protocol.Response(id=request.id, failure=protocol.Failure(message="out of memory"))
        out.write(msgspec.json.encode(response) + b"\n")
        out.flush()
        if status:
            return status
    return 0


def _limit_memory(limit_bytes: int) -> None:
    """Cap private memory: RLIMIT_DATA, as libraries like torch map far more address space than they use."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _read(source: BinaryIO, lines: queue.SimpleQueue[bytes]) -> None:
    """Pass lines on; end the process when they end, whatever it is doing: its coordinator is gone."""
    while line := source.readline(protocol.LINE_BYTES):
        lines.put(line)
    os._exit(0)


def main() -> int:
    """Run the worker."""
    parser = argparse.ArgumentParser(description="SCOOT's optimizer process; started by the coordinator.")
    parser.add_argument("--memory-bytes", type=int, required=True)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's business
    _limit_memory(arguments.memory_bytes)
    os.nice(_NICE)
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, lines), name="requests", daemon=True).start()
    return serve(lines.get, out)


if __name__ == "__main__":
    STATUS = main()
    sys.stderr.flush()
    os._exit(STATUS)  # the thread that reads standard input would stand in the way of an orderly end
