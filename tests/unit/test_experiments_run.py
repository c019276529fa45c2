"""Runs of a method in virtual time: what it is asked, when, and what is written down."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.optimizer import sobol
from scoot.coordinator.optimizer.base import Problem, Suggestion, Task
from scoot.coordinator.space.space import Space
from scoot.experiments.evaluation import Evaluated
from scoot.experiments.run import PEER_CPU_S, Design, Run, RunSpec, first_design, perform
from scoot.experiments.run_file import finished, path_of, read_run, read_runs, write_run
from scoot.wire.errors import PermanentInfraError
from scoot.wire.spec import Config, Parameter, ParameterKind


def problem(high: int = 50) -> Problem:
    parameters = (
        Parameter(name="a", kind=ParameterKind.INT, low=0, high=high, default=high),
        Parameter(name="b", kind=ParameterKind.INT, low=0, high=high, default=0),
        Parameter(name="c", kind=ParameterKind.BOOL, default=False),
    )
    return Problem(space=Space.build(parameters, ("a >= b",)), directions=(Direction.MINIMISE,))


def evaluate(config: Config) -> Evaluated:
    a, b = int(config["a"]), int(config["b"])
    if config["c"] and a > 40:
        return Evaluated(reason="ENGINE_OOM", simulated_s=5.0)
    return Evaluated(values=(float((a - 20) ** 2 + b),), noise=(0.5,), outcomes=(), simulated_s=10.0 + a)


def spec(**changes: object) -> RunSpec:
    given = {"service": "toy", "method": "sobol", "seed": 3, "budget": 12, **changes}
    return RunSpec(**given)  # type: ignore[arg-type]  # keywords of a test


def ticking() -> Callable[[], float]:
    ticks = itertools.count()
    return lambda: float(next(ticks))


def perform_toy(asked: RunSpec, method: Callable[[Task], tuple[Suggestion, ...]] = sobol.suggest) -> Run:
    return perform(asked, problem(), method, evaluate, cpu_clock=ticking())


class Recorder:
    """A method that notes what it is asked."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def __call__(self, task: Task) -> tuple[Suggestion, ...]:
        self.tasks.append(task)
        return sobol.suggest(task)


def test_the_default_comes_first_and_the_budget_counts_it() -> None:
    method = Recorder()
    run = perform_toy(spec(), method)
    assert len(run.steps) == 12
    assert run.steps[0].config == {"a": 50, "b": 0, "c": False}
    assert run.steps[0].source == "default"
    assert [task.n for task in method.tasks] == [1] * 11
    assert [task.call for task in method.tasks] == list(range(1, 12))
    assert [len(task.history) for task in method.tasks] == list(range(1, 12))
    assert {step.cpu_s for step in run.steps[1:]} == {1.0}


def test_one_at_a_time_everything_is_known_and_time_adds_up() -> None:
    method = Recorder()
    run = perform_toy(spec(), method)
    assert not any(observation.pending for task in method.tasks for observation in task.history)
    assert run.total_s == pytest.approx(sum(step.trial.simulated_s for step in run.steps))
    last = method.tasks[-1].history
    for step, observation in zip(run.steps, last, strict=False):
        assert observation.config == step.config
        assert observation.values == step.trial.values
        assert observation.infeasible is step.trial.failed
        assert observation.reason == step.trial.reason
    assert any(observation.infeasible for observation in last)


def test_parallel_trials_are_asynchronous_and_pending_ones_are_told() -> None:
    method = Recorder()
    run = perform_toy(spec(parallelism=3), method)
    assert [method.tasks[0].n, len(method.tasks[0].history)] == [2, 1]
    assert method.tasks[0].history[0].pending
    for moment in {step.asked_s for step in run.steps}:
        busy = [step for step in run.steps if step.asked_s <= moment < step.ended_s]
        assert len(busy) <= 3
    for task in method.tasks[1:]:
        known = task.history
        asked_s = run.steps[len(known)].asked_s
        for step, observation in zip(run.steps, known, strict=False):
            assert observation.pending is (step.ended_s > asked_s)
            assert (observation.values is None) is (observation.pending or step.trial.failed)
    assert run.total_s < perform_toy(spec()).total_s / 2
    # A free slot is filled at once: somebody is asked at every moment that a trial ends, while there is budget.
    ends = sorted({step.ended_s for step in run.steps})
    asked = {step.asked_s for step in run.steps}
    assert set(ends[:5]) <= asked


def test_equal_runs_are_equal_and_seeds_differ() -> None:
    assert perform_toy(spec(parallelism=4)) == perform_toy(spec(parallelism=4))
    configs = [[step.config for step in perform_toy(spec(seed=seed)).steps] for seed in (1, 2)]
    assert configs[0] != configs[1]


@pytest.mark.parametrize("design", [Design.SOBOL, Design.AROUND])
def test_a_given_design_is_the_same_for_every_method_and_feasible(design: Design) -> None:
    drawn = first_design(problem(), design, 3)
    assert len(drawn) == (3 if design is Design.SOBOL else 1)
    assert problem().space.feasible(drawn).all()
    keys = [problem().space.key(config) for config in (problem().space.default_config(), *drawn)]
    assert len(set(keys)) == len(keys)
    run = perform_toy(spec(design=design))
    assert [step.config for step in run.steps[1 : 1 + len(drawn)]] == list(drawn)
    assert [step.source for step in run.steps[1 : 1 + len(drawn)]] == ["design"] * len(drawn)
    assert drawn == first_design(problem(), design, 3)
    assert drawn != first_design(problem(), design, 4)


def test_a_design_around_the_default_is_nearer_to_it_than_sobol_points() -> None:
    def changed(design: Design) -> float:
        default = problem().space.default_config()
        drawn = [config for seed in range(40) for config in first_design(problem(), design, seed)]
        return sum(config[name] != default[name] for config in drawn for name in default) / len(drawn)

    assert changed(Design.AROUND) < 0.75 * changed(Design.SOBOL)


def test_cpu_seconds_of_another_process_count_once_per_call() -> None:
    def peer(task: Task) -> tuple[Suggestion, ...]:
        return tuple(
            msgspec.structs.replace(each, explanation={**each.explanation, PEER_CPU_S: 6.0})
            for each in sobol.suggest(task)
        )

    run = perform_toy(spec(parallelism=3), peer)
    assert [step.cpu_s for step in run.steps[:3]] == [0.0, 3.5, 3.5]  # a tick of this process's, 6 s of the other's
    assert {step.cpu_s for step in run.steps[3:]} == {7.0}


def test_noise_is_only_told_when_asked_for() -> None:
    told = [Recorder(), Recorder()]
    for method, noise in zip(told, (True, False), strict=True):
        perform_toy(spec(noise=noise), method)
    seen = [{observation.noise for observation in method.tasks[-1].history} for method in told]
    assert seen == [{(0.5,), None}, {None}]


def test_a_space_that_ends_ends_the_run() -> None:
    run = perform(spec(), problem(1), sobol.suggest, evaluate, cpu_clock=ticking())
    assert len(run.steps) == 6  # (0, 0), (1, 0), (1, 1), each with both flags
    assert run.error == ""


def broken(fault: str) -> Callable[[Task], tuple[Suggestion, ...]]:
    def method(task: Task) -> tuple[Suggestion, ...]:
        if len(task.history) < 4:
            return sobol.suggest(task)
        if fault == "raises":
            raise ZeroDivisionError("no points")
        configs: dict[str, list[Config]] = {
            "repeats": [task.history[1].config],
            "invalid": [{"a": 1, "b": 2, "c": True}],
            "outside": [{"a": 1, "b": 0}],
            "greedy": [{"a": 9, "b": 0, "c": True}, {"a": 9, "b": 1, "c": True}],
        }
        return tuple(Suggestion(config=config, source="broken") for config in configs[fault])

    return method


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("raises", "ZeroDivisionError: no points"),
        ("repeats", "was there before"),
        ("invalid", "violates `a >= b`"),
        ("outside", "not a configuration of the space"),
        ("greedy", "2 suggestions instead of 1"),
    ],
)
def test_a_method_that_breaks_its_contract_ends_its_run(fault: str, told: str) -> None:
    run = perform_toy(spec(), broken(fault))
    assert told in run.error
    assert len(run.steps) == 4


def test_a_run_comes_back_from_its_file(tmp_path: Path) -> None:
    run = perform_toy(spec(parallelism=2, design=Design.SOBOL))
    write_run(tmp_path, run, "print")
    assert read_run(path_of(tmp_path, run.spec)) == (run, "print")
    assert list(read_runs(tmp_path)) == [run]
    assert finished(tmp_path, run.spec, "print")


def test_what_is_other_or_failed_is_not_finished(tmp_path: Path) -> None:
    run = perform_toy(spec())
    failed = perform_toy(spec(seed=4), broken("raises"))
    for each in (run, failed):
        write_run(tmp_path, each, "print")
    assert not finished(tmp_path, run.spec, "another simulator")
    assert not finished(tmp_path, failed.spec, "print")
    assert not finished(tmp_path, spec(seed=5), "print")
    assert not finished(tmp_path, spec(budget=13), "print")


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    run = perform_toy(spec())
    write_run(tmp_path, run, "print")
    path = path_of(tmp_path, run.spec)
    path.write_bytes(b"\n".join(path.read_bytes().splitlines()[:5]) + b"\n")
    with pytest.raises(PermanentInfraError, match="4 trials instead of 12"):
        read_run(path)
