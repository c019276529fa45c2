"""Optimizers that fail, each in its own way: for testing deadlines, crashes and memory limits on the real worker.

They exist only where the environment says SCOOT_SOLVER_FAULTS=1, which no installation of SCOOT sets.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from scoot.coordinator.optimizer.base import Method, Suggestion, Task
from scoot.wire.errors import UserError

ENVIRONMENT: Final = "SCOOT_SOLVER_FAULTS"


def faults(environ: Mapping[str, str]) -> Mapping[str, Method]:
    """The failing methods by name; none unless the environment asks for them."""
    return _FAULTS if environ.get(ENVIRONMENT) == "1" else MappingProxyType({})


def _hang(task: Task) -> tuple[Suggestion, ...]:
    del task
    threading.Event().wait()
    return ()


def _crash(task: Task) -> tuple[Suggestion, ...]:
    del task
    sys.stderr.write("about to crash on purpose\n")
    sys.stderr.flush()
    os.abort()


def _error(task: Task) -> tuple[Suggestion, ...]:
    raise ArithmeticError(f"failing on purpose for {task.n} suggestions")


def _user_error(task: Task) -> tuple[Suggestion, ...]:
    """Blame the user for a mistake of its own, as code that calls what checks users' input may."""
    raise UserError(f"no such parameter among {len(task.problem.space.names)}", key="parameters.x", hint="add it")


def _too_few(task: Task) -> tuple[Suggestion, ...]:
    """Give up early, as if the space had no more."""
    del task
    return ()


def _garbage(task: Task) -> tuple[Suggestion, ...]:
    """Write into the protocol's own pipe, whichever descriptor the worker keeps it at."""
    del task
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b"this is no JSON\n")
        except OSError:
            continue
    return ()


def _chatter(task: Task) -> tuple[Suggestion, ...]:
    """Print to standard output, as a careless library does, and then answer properly."""
    from scoot.coordinator.optimizer.sobol import suggest

    sys.stdout.write("a library's greeting\n")
    sys.stdout.flush()
    os.write(1, b"and one past Python's own buffers\n")
    return suggest(task)


def _out_of_memory(task: Task) -> tuple[Suggestion, ...]:
    """Take memory until there is none: the worker's limit has to end it, not the machine's."""
    del task
    taken: list[bytearray] = []
    while True:
        taken.append(bytearray(64 * 1024 * 1024))


def _infeasible(task: Task) -> tuple[Suggestion, ...]:
    """Break the contract: a configuration that is none."""
    return tuple(Suggestion(config={"no_such_parameter": 1}, source="fault") for _ in range(task.n))


_FAULTS: Final[Mapping[str, Method]] = MappingProxyType(
    {
        "fault-hang": _hang,
        "fault-crash": _crash,
        "fault-error": _error,
        "fault-user-error": _user_error,
        "fault-too-few": _too_few,
        "fault-garbage": _garbage,
        "fault-chatter": _chatter,
        "fault-out-of-memory": _out_of_memory,
        "fault-infeasible": _infeasible,
    }
)
