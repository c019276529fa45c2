"""Other people's optimizers as methods: each in a process of its own environment, see tools/optimizer_peer.py. IO.

They get what SCOOT's baselines get: the same history, a penalty where a configuration crashed, proposals moved onto the
known constraints, Sobol points in place of proposals that are known already.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import numpy as np

from scoot.coordinator.objective.pareto import FloatArray
from scoot.coordinator.optimizer.base import Suggestion, Task
from scoot.coordinator.optimizer.baselines.penalty import punished
from scoot.coordinator.optimizer.baselines.proposals import Proposals
from scoot.coordinator.space.encoding import Axis, ChoiceAxis, GridAxis, IntegerAxis, RealAxis
from scoot.coordinator.space.space import Space
from scoot.experiments.run import PEER_CPU_S
from scoot.wire.errors import SolverError
from scoot.wire.spec import Config

SCRIPT: Final = Path(__file__).parents[3] / "tools" / "optimizer_peer.py"

ATTEMPTS: Final = 3
"""Times a peer is asked for something new before Sobol points take the place of its repetitions."""

_Process = subprocess.Popen[str]


class PeerMethod:
    """A Method that another interpreter answers for. Its process starts with the first question, and ends with `close`.

    Args:
        python: interpreter of an environment that has the optimizer.
        name: "optuna-tpe", "optuna-gp", "optuna-nsga2", "hebo" or "ax"; also the source of its suggestions.
    """

    def __init__(self, python: str, name: str) -> None:
        self.python = python
        self.name = name
        self._process: _Process | None = None

    def __reduce__(self) -> tuple[Callable[[str, str], PeerMethod], tuple[str, str]]:
        """A copy for another process has a peer of its own."""
        return PeerMethod, (self.python, self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def __call__(self, task: Task, /) -> tuple[Suggestion, ...]:
        """The next suggestions (a Method). `peer_cpu_s` in an explanation is the peer's CPU time for the whole call.

        Raises:
            SolverError: the peer failed or is not there.
            UserError: a trial has another number of values than the problem has objectives.
        """
        space = task.problem.space
        proposals = Proposals(task, self.name)
        cpu_s = 0.0
        for attempt in range(ATTEMPTS):
            if not proposals.missing:
                break
            answer = self._ask(_question(task, attempt, [point.config for point in proposals.found], proposals.missing))
            try:
                points = np.asarray([_point(space, numbers) for numbers in answer["configs"]])
                cpu_s += float(answer["cpu_s"])
            except (KeyError, TypeError, ValueError) as error:
                raise SolverError(f"{self.name}: no answer to the question: {error!r}") from error
            for config in space.decode(space.project_points(points.reshape(-1, len(space.axes)))):
                proposals.add(config, {"design": self.name})
        proposals.add_sobol(proposals.missing, "Sobol fill-up")
        return tuple(
            msgspec.structs.replace(each, explanation={**each.explanation, PEER_CPU_S: cpu_s})
            for each in proposals.found
        )

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        try:
            process = self._started()
            stdin, stdout = process.stdin, process.stdout
            if stdin is None or stdout is None:
                raise SolverError(f"{self.name}: no pipes")
            stdin.write(json.dumps({"ask": question}) + "\n")
            stdin.flush()
            line = stdout.readline()
        except OSError as error:
            self.close()
            raise SolverError(f"{self.name}: {error}") from error
        if not line:
            self.close()
            raise SolverError(f"{self.name}: {self.python} ended before it answered")
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise SolverError(f"{self.name}: no answer to the question: {line[:200]!r}") from error
        if "error" in answer:
            raise SolverError(f"{self.name}: {answer['error']}")
        return answer

    def _started(self) -> _Process:
        if self._process is None:
            self._process = subprocess.Popen(
                [self.python, str(SCRIPT), self.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
            )
        return self._process


def _question(task: Task, attempt: int, chosen: Sequence[Config], n: int) -> dict[str, Any]:
    """What the script is asked. Trials that its space has no place for are left out."""
    space, history = task.problem.space, task.history
    figures, _ = punished(task.problem, history)
    trials = [
        {
            "config": _numbers(space, each.config),
            "values": None if found is None else found.tolist(),
            "infeasible": each.infeasible,
            "pending": each.pending,
        }
        for each, found in zip(history, figures, strict=True)
        if (each.pending or found is not None) and space.key(each.config) is not None
    ]
    trials += [
        {"config": _numbers(space, config), "values": None, "infeasible": False, "pending": True} for config in chosen
    ]
    return {
        "space": [_described(axis) for axis in space.axes],
        "objectives": len(task.problem.directions),
        "history": trials,
        "n": n,
        "seed": abs(task.seed),
        "draw": [int(task.seed < 0), len(history), attempt],
    }


def _described(axis: Axis) -> dict[str, Any]:
    """A parameter as the script takes it: numbers that have an order keep it, everything else is a choice."""
    if isinstance(axis, RealAxis):
        return {"name": axis.name, "kind": "float", "low": axis.low, "high": axis.high, "log": axis.log}
    if isinstance(axis, IntegerAxis):
        return {"name": axis.name, "kind": "int", "low": axis.first, "high": axis.last, "log": axis.log}
    last = (axis.count or 1) - 1
    if isinstance(axis, ChoiceAxis) and isinstance(axis.choices[0], bool | str):
        return {"name": axis.name, "kind": "choice", "high": last}
    return {"name": axis.name, "kind": "int", "low": 0, "high": last, "log": False}


def _numbers(space: Space, config: Config) -> dict[str, int | float]:
    """A configuration of the space in the script's numbers; what is inactive in it has a value there all the same."""
    point = space.encode([config])[0]
    return {axis.name: _number(axis, point[place : place + 1]) for place, axis in enumerate(space.axes)}


def _number(axis: Axis, unit: FloatArray) -> int | float:
    if not isinstance(axis, GridAxis):
        return float(axis.decode(unit)[0])
    return int(axis.cells(unit)[0]) + _offset(axis)


def _point(space: Space, numbers: Mapping[str, float]) -> list[float]:
    """The point that the script's numbers mean; what is out of range counts as the nearest value."""
    return [_unit(axis, float(numbers[axis.name])) for axis in space.axes]


def _unit(axis: Axis, number: float) -> float:
    if not isinstance(axis, GridAxis):
        return float(axis.encode([number])[0])
    index = np.clip(np.rint([number - _offset(axis)]), 0, axis.count - 1)
    return float(axis.units(index.astype(np.int64))[0])


def _offset(axis: GridAxis) -> int:
    """The script's number of the first value: an integer is itself (in steps), all else is counted from 0."""
    return axis.first if isinstance(axis, IntegerAxis) else 0
