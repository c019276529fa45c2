"""Other people's optimizers as methods: what they are asked, and what becomes of what they answer."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.optimizer.base import Observation, Problem, Suggestion, Task
from scoot.coordinator.space.space import Space
from scoot.experiments.methods import HOME, PEERS
from scoot.experiments.peer import ATTEMPTS, PeerMethod
from scoot.experiments.run import PEER_CPU_S
from scoot.wire.errors import SolverError
from scoot.wire.spec import Config, Parameter, ParameterKind, Scale

SPACE = Space.build(
    [
        Parameter(name="seqs", kind=ParameterKind.INT, low=8, high=512, scale=Scale.LOG),
        Parameter(name="tokens", kind=ParameterKind.INT, low=64, high=8192, step=64),
        Parameter(name="block", kind=ParameterKind.INT, choices=(8, 16, 32)),
        Parameter(name="mode", kind=ParameterKind.ENUM, choices=("a", "b")),
        Parameter(name="power", kind=ParameterKind.INT, low=2, high=16, scale=Scale.POW2),
        Parameter(name="share", kind=ParameterKind.FLOAT, low=0.5, high=0.9),
        Parameter(name="chunk", kind=ParameterKind.BOOL, when="mode == 'b'"),
    ],
    ["tokens >= 2 * seqs"],
)
FIRST: Config = {"seqs": 100, "tokens": 640, "block": 32, "mode": "b", "power": 8, "share": 0.75, "chunk": True}
SECOND: Config = {"seqs": 9, "tokens": 64, "block": 8, "mode": "a", "power": 2, "share": 0.5}
IN_NUMBERS = {"seqs": 100, "tokens": 10, "block": 2, "mode": 1, "power": 2, "share": 0.75, "chunk": 1}

FAKE = """#!{python}
import json, sys
lines = iter({answers!r})
for line in sys.stdin:
    with open({log!r}, "a") as log:
        log.write(line)
    answer = next(lines, None)
    if answer is None:
        break
    print(json.dumps(answer), flush=True)
"""


class Desk:
    """An interpreter that gives prepared answers, whatever program it is to run."""

    def __init__(self, folder: Path, *answers: dict[str, Any]) -> None:
        self.program = folder / "python"
        self._log = folder / "questions"
        self.program.write_text(
            FAKE.format(python=sys.executable, answers=list(answers), log=str(self._log)), encoding="utf-8"
        )
        self.program.chmod(0o700)

    @property
    def questions(self) -> list[dict[str, Any]]:
        return [json.loads(line)["ask"] for line in self._log.read_text(encoding="utf-8").splitlines()]

    def ask(self, wanted: Task) -> tuple[Suggestion, ...]:
        with PeerMethod(str(self.program), "optuna-tpe") as method:
            return method(wanted)


def task(*history: Observation, n: int = 1, directions: tuple[Direction, ...] = (Direction.MAXIMISE,)) -> Task:
    return Task(problem=Problem(space=SPACE, directions=directions), history=history, n=n, call=3, seed=-5)


def answer(*configs: dict[str, float]) -> dict[str, Any]:
    return {"configs": list(configs), "cpu_s": 0.5}


def test_the_question_is_in_numbers_minimised_with_penalties(tmp_path: Path) -> None:
    desk = Desk(tmp_path, answer(dict(IN_NUMBERS, seqs=50)))
    history = (
        Observation(number=0, config={"seqs": 8}, values=(20.0,)),
        Observation(number=1, config=FIRST, values=(10.0,)),
        Observation(number=2, config=SECOND, infeasible=True),
        Observation(number=3, config=dict(SECOND, seqs=10), pending=True),
    )
    desk.ask(task(*history))
    question = desk.questions[0]
    assert question["space"] == [
        {"name": "seqs", "kind": "int", "low": 8, "high": 512, "log": True},
        {"name": "tokens", "kind": "int", "low": 1, "high": 128, "log": False},
        {"name": "block", "kind": "int", "low": 0, "high": 2, "log": False},
        {"name": "mode", "kind": "choice", "high": 1},
        {"name": "power", "kind": "int", "low": 0, "high": 3, "log": False},
        {"name": "share", "kind": "float", "low": 0.5, "high": 0.9, "log": False},
        {"name": "chunk", "kind": "choice", "high": 1},
    ]
    assert question["history"][0]["config"] == IN_NUMBERS
    assert [trial["values"] for trial in question["history"]] == [[-10.0], [-9.0], None]
    assert [trial["infeasible"] for trial in question["history"]] == [False, True, False]
    assert [trial["pending"] for trial in question["history"]] == [False, False, True]
    assert (question["objectives"], question["n"], question["seed"], question["draw"]) == (1, 1, 5, [1, 4, 0])


def test_answers_are_configurations_moved_onto_the_constraints(tmp_path: Path) -> None:
    outside = dict(IN_NUMBERS, seqs=512, tokens=1, share=7.0, mode=0)
    first, second = Desk(tmp_path, answer(IN_NUMBERS, outside)).ask(task(n=2))
    assert first.config == FIRST
    assert SPACE.feasible([second.config]).all()
    assert second.config["share"] == 0.9
    assert "chunk" not in second.config
    assert first.source == "optuna-tpe"
    assert first.explanation == {"design": "optuna-tpe", PEER_CPU_S: 0.5}


def test_repetitions_are_asked_for_again_and_then_replaced(tmp_path: Path) -> None:
    known = Observation(number=1, config=FIRST, values=(1.0,))
    desk = Desk(tmp_path, *[answer(IN_NUMBERS, IN_NUMBERS)] * ATTEMPTS)
    found = desk.ask(task(known, n=2))
    assert [point.explanation["design"] for point in found] == ["Sobol fill-up"] * 2
    assert [point.explanation[PEER_CPU_S] for point in found] == [0.5 * ATTEMPTS] * 2
    assert [question["draw"][2] for question in desk.questions] == list(range(ATTEMPTS))


def test_what_was_found_at_once_is_pending_when_the_rest_is_asked_for(tmp_path: Path) -> None:
    desk = Desk(tmp_path, answer(IN_NUMBERS, IN_NUMBERS), answer(dict(IN_NUMBERS, tokens=20)))
    found = desk.ask(task(n=2))
    assert [point.config for point in found] == [FIRST, dict(FIRST, tokens=1280)]
    later = desk.questions[1]
    assert later["n"] == 1
    assert later["history"] == [{"config": IN_NUMBERS, "values": None, "infeasible": False, "pending": True}]


@pytest.mark.parametrize(
    ("answers", "what"),
    [
        (({"error": "ValueError: no"},), "ValueError: no"),
        ((), "ended before it answered"),
        (({"configs": [{"seqs": 1}], "cpu_s": 0.0},), "no answer to the question"),
        (({},), "no answer to the question"),
        (({"configs": []},), "no answer to the question"),
        (({"configs": 3, "cpu_s": 0.0},), "no answer to the question"),
    ],
)
def test_a_peer_that_fails_is_a_solver_error(tmp_path: Path, answers: tuple[dict[str, Any], ...], what: str) -> None:
    with pytest.raises(SolverError, match=what):
        Desk(tmp_path, *answers).ask(task())


def test_a_peer_that_is_not_there_is_a_solver_error(tmp_path: Path) -> None:
    with PeerMethod(str(tmp_path / "nowhere"), "hebo") as method, pytest.raises(SolverError, match="nowhere"):
        method(task())


def test_a_copy_has_a_process_of_its_own(tmp_path: Path) -> None:
    desk = Desk(tmp_path, answer(IN_NUMBERS))
    with PeerMethod(str(desk.program), "hebo") as method:
        method(task())
        with pickle.loads(pickle.dumps(method)) as copy:  # noqa: S301 - what we have pickled ourselves
            assert copy.name == "hebo"
            assert copy(task())[0].config == FIRST


def test_the_script_says_what_it_lacks() -> None:
    """SCOOT's own environment has none of them."""
    with (
        PeerMethod(sys.executable, "optuna-tpe") as method,
        pytest.raises(SolverError, match="No module named 'optuna'"),
    ):
        method(task())
    with PeerMethod(sys.executable, "nobody") as method, pytest.raises(SolverError, match="ended before it answered"):
        method(task())


@pytest.mark.timeout(300)  # some take half a minute to start where the disk is slow
@pytest.mark.parametrize(
    ("name", "objectives", "trials"),
    [("optuna-tpe", 2, 16), ("optuna-nsga2", 2, 16), ("optuna-gp", 1, 2), ("hebo", 1, 8), ("ax", 1, 6), ("ax", 2, 2)],
)
def test_peers_answer_where_they_are_installed(name: str, objectives: int, trials: int) -> None:
    """Also a history of crashes only, and twice the same."""
    python = HOME / PEERS[name] / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no .scoot/peers/{PEERS[name]}")
    crash: dict[str, Any] = {"infeasible": True}
    history = [
        Observation(number=k, config=config, **(crash if k % 4 == 0 else {"values": (float(k), 1.0 / k)[:objectives]}))
        for k, config in enumerate(SPACE.sample(np.random.default_rng(0), trials))
    ]
    waiting = Observation(number=trials, config=FIRST, pending=True)
    directions = (Direction.MINIMISE, Direction.MAXIMISE)[:objectives]
    wanted = task(*history, waiting, directions=directions)
    with PeerMethod(str(python), name) as method:
        first = method(wanted)
        crashed = method(task(history[0], directions=directions))
        assert [point.explanation["design"] for point in (*first, *crashed)] == [name] * 2
        assert [point.config for point in method(wanted)] == [point.config for point in first]
    assert SPACE.feasible([point.config for point in first]).all()
