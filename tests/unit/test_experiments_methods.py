"""Methods by name: the coordinator's, variants of them, other people's; and comparisons of them."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.optimizer.base import Observation, Problem, Task
from scoot.coordinator.optimizer.registry import METHODS, load_method
from scoot.coordinator.optimizer.scoot import method as scoot_method
from scoot.coordinator.space.space import Space
from scoot.experiments import methods
from scoot.experiments.catalogue import SERVICES
from scoot.experiments.catalogue import select as services_of
from scoot.experiments.compare import THREADS, Place, Plan, compare, specs_of
from scoot.experiments.figures import PRESETS
from scoot.experiments.peer import SCRIPT, PeerMethod
from scoot.experiments.run_file import path_of, read_run
from scoot.wire.errors import UserError
from scoot.wire.spec import Parameter, ParameterKind

ROOT = Path(__file__).parents[2]
ONE, TWO = "CLS-4a10-13b", "SQL-2a100-13b"
"""Services of one and of two objectives."""

FAKE = """#!{python}
import json, os, sys
log = open({log!r}, "a")
print(json.dumps({{name: os.environ.get(name) for name in {threads!r}}}), file=log, flush=True)
for line in sys.stdin:
    question = json.loads(line)["ask"]
    draw = len(question["history"]) + 1
    config = {{each["name"]: min(each.get("low", 0) + draw, each["high"]) for each in question["space"]}}
    print(json.dumps({{"configs": [config], "cpu_s": 100.0}}), flush=True)
"""


class Peers:
    """Environments in a folder of the test: fake interpreters that note when they start, and answer any question."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._log = home / "log"

    def install(self, environment: str, text: str | None = None) -> Path:
        python = self.home / environment / "bin" / "python"
        python.parent.mkdir(parents=True)
        fake = FAKE.format(python=sys.executable, log=str(self._log), threads=THREADS)
        python.write_text(fake if text is None else text, encoding="utf-8")
        python.chmod(0o700)
        return python

    @property
    def started(self) -> list[dict[str, Any]]:
        if not self._log.exists():
            return []
        return [json.loads(line) for line in self._log.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(name="peers")
def fixture_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peers]:
    monkeypatch.setattr(methods, "HOME", tmp_path / "peers")
    yield Peers(tmp_path / "peers")
    methods.close()


def task(objectives: int = 1) -> Task:
    space = Space.build([Parameter(name="a", kind=ParameterKind.INT, low=0, high=9, default=0)])
    problem = Problem(space=space, directions=(Direction.MINIMISE,) * objectives)
    told = Observation(number=0, config={"a": 0}, values=(1.0,) * objectives)
    return Task(problem=problem, history=(told,), n=1, call=0, seed=0)


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_coordinators_names_mean_the_coordinators_methods(name: str) -> None:
    with methods.method_of(name) as method:
        assert method is load_method(name)


@pytest.mark.parametrize("name", sorted(methods.VARIANTS))
def test_a_variant_is_a_method_with_settings_it_knows(name: str) -> None:
    with methods.method_of(name) as method:
        assert isinstance(method, partial)
        assert method.keywords == methods.VARIANTS[name].settings != {}
        inspect.signature(method.func).bind(task(), **method.keywords)
    assert any(name.startswith(f"{ours}-") for ours in METHODS)


def test_scoot_without_forest_is_scoot_with_the_forest_off() -> None:
    with methods.method_of("scoot-without-forest") as method:
        assert isinstance(method, partial)
        assert method.func is scoot_method.suggest
        assert method.keywords == {"forest": False}


def test_names_are_unique_and_those_of_the_figures_exist() -> None:
    assert len(set(methods.names())) == len(METHODS) + len(methods.VARIANTS) + len(methods.PEERS)
    assert {name for preset in PRESETS.values() for name in preset.methods} <= set(methods.names())
    assert set(methods.MOST_OBJECTIVES) <= set(methods.names())


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(UserError, match="unknown method 'optuna'") as caught:
        methods.check_method("optuna")
    assert all(name in caught.value.message for name in methods.names())
    with pytest.raises(UserError, match="did you mean 'hebo'"), methods.method_of("hebbo"):
        pass


def test_a_peer_without_its_environment_names_it_and_what_installs_it(peers: Peers) -> None:
    with pytest.raises(UserError, match="make peers-optimizers") as caught:
        methods.check_method("optuna-gp")
    assert caught.value.path == str(peers.home / "optuna" / "bin" / "python")
    assert re.search(r"^peers-optimizers:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in methods.names() if name not in methods.PEERS])
def test_who_takes_three_objectives(name: str) -> None:
    with methods.method_of(name) as method:
        if name in methods.MOST_OBJECTIVES:
            with pytest.raises(UserError, match="objectives"):
                method(task(methods.MOST_OBJECTIVES[name] + 1))
        else:
            assert len(method(task(3))) == 1


def test_the_script_the_makefile_and_the_pins_know_the_same_peers() -> None:
    found = importlib.util.spec_from_file_location("optimizer_peer", SCRIPT)
    assert found is not None
    assert found.loader is not None
    script = importlib.util.module_from_spec(found)
    found.loader.exec_module(script)
    assert set(methods.PEERS) == set(script.PEERS)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    environments = set(methods.PEERS.values())
    listed = re.search(r"^OPTIMIZERS = (.*)$", makefile, re.MULTILINE)
    assert listed is not None
    assert set(listed[1].split()) == environments
    for name in environments:
        pins = (ROOT / "tools" / "peers" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        assert [pin for pin in pins if not re.fullmatch(r"#.*|[\w.-]+==[\w.]+", pin)] == []


# -- processes ---------------------------------------------------------------------------------------------------------


def test_a_peers_process_is_kept_for_the_next_run_and_ended_by_close(peers: Peers) -> None:
    peers.install("hebo")
    seen = []
    for _ in range(2):
        with methods.method_of("hebo") as method:
            assert isinstance(method, PeerMethod)
            method(task())
            seen.append(method._process)
    assert seen[0] is seen[1]
    assert len(peers.started) == 1
    assert seen[0] is not None
    assert seen[0].poll() is None
    methods.close()
    assert seen[0].poll() is not None
    with methods.method_of("hebo") as method:
        method(task())
    assert len(peers.started) == 2


def test_two_runs_at_a_time_have_a_process_each_and_so_have_two_names(peers: Peers) -> None:
    peers.install("optuna")
    with methods.method_of("optuna-tpe") as first, methods.method_of("optuna-tpe") as second:
        assert first is not second
    with methods.method_of("optuna-tpe") as again, methods.method_of("optuna-gp") as other:
        assert again in {first, second}
        assert other not in {first, second}


def test_a_run_that_is_broken_off_ends_its_peer(peers: Peers) -> None:
    peers.install("hebo")
    seen = []

    def run() -> None:
        with methods.method_of("hebo") as method:
            assert isinstance(method, PeerMethod)
            method(task())
            seen.append(method._process)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert seen[0] is not None
    assert seen[0].poll() is not None
    assert not any(methods._idle.values())


HOST = """
import sys
from pathlib import Path
from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.optimizer.base import Problem, Task
from scoot.coordinator.space.space import Space
from scoot.experiments import methods
from scoot.wire.errors import SolverError
from scoot.wire.spec import Parameter, ParameterKind

methods.HOME = Path({home!r})
space = Space.build([Parameter(name="a", kind=ParameterKind.INT, low=0, high=9)])
with methods.method_of("optuna-tpe") as method:
    try:
        method(Task(problem=Problem(space=space, directions=(Direction.MINIMISE,)), history=(), n=1, call=0, seed=0))
    except SolverError as error:
        print(error, flush=True)
    sys.stdin.read()
"""


def test_a_peer_ends_when_its_process_is_killed(peers: Peers, tmp_path: Path) -> None:
    """The real script. It holds a pipe, whose end is its own."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    peers.install("optuna", f'#!/bin/sh\nexec 9>{pipe}\necho $$ >&9\nexec {sys.executable} "$@"\n')
    host = subprocess.Popen(
        [sys.executable, "-c", HOST.format(home=str(peers.home))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        assert host.stdout is not None
        assert "No module named 'optuna'" in host.stdout.readline()  # it has answered: it is in its loop
        peer = int(os.read(reader, 100))
        assert select.select([reader], [], [], 0) == ([], [], [])  # and goes on
        host.send_signal(signal.SIGKILL)
        host.communicate()
        ended = select.select([reader], [], [], 30)[0] == [reader]
        if not ended:
            os.kill(peer, signal.SIGKILL)
        assert ended
        assert os.read(reader, 100) == b""
    finally:
        host.kill()
        host.communicate()
        os.close(reader)


# -- comparisons -------------------------------------------------------------------------------------------------------


def test_a_comparison_counts_a_peers_cpu_gives_it_one_thread_and_ends_it(
    peers: Peers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    peers.install("hebo")
    plan = Plan(services=services_of(ONE), methods=("hebo", "sobol"), seeds=2, budget=3)
    place = Place(out=tmp_path / "out", cache=tmp_path / "cache")
    told: list[str] = []
    assert compare(plan, place, tell=told.append) == 4
    peer = [read_run(path_of(place.out, spec))[0] for spec in specs_of(plan) if spec.method == "hebo"]
    assert [step.source for step in peer[0].steps] == ["default", "hebo", "hebo"]
    assert all(100.0 <= step.cpu_s < 200.0 for run in peer for step in run.steps[1:])
    (started,) = peers.started
    assert [started[name] for name in THREADS] == ["1"] * len(THREADS)
    assert not any(methods._idle.values())


def test_services_of_more_objectives_than_a_method_takes_are_left_out(peers: Peers, tmp_path: Path) -> None:
    peers.install("hebo")
    assert len(SERVICES[TWO].objectives) == 2
    plan = Plan(services=services_of(f"{ONE},{TWO}"), methods=("hebo",), seeds=1, budget=1)
    place = Place(out=tmp_path / "out", cache=tmp_path / "cache")
    told: list[str] = []
    assert compare(plan, place, tell=told.append) == 1
    assert told[0] == f"hebo takes 1 objective at most, no runs of {TWO}"
    assert told[1] == "1 runs, 0 of them are there"
    assert [path.parent.name for path in (tmp_path / "out").rglob("*.jsonl")] == [ONE]


def test_a_comparison_refuses_a_missing_environment_before_any_run(peers: Peers, tmp_path: Path) -> None:
    plan = Plan(services=services_of(ONE), methods=("sobol", "ax"), seeds=1, budget=2)
    with pytest.raises(UserError, match="peers-optimizers"):
        compare(plan, Place(out=tmp_path / "out", cache=tmp_path / "cache"), tell=print)
    assert not (tmp_path / "out").exists()
    assert peers.started == []
