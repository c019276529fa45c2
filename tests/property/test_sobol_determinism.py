"""Sobol suggestions are a function of spec, seed and history, and keep the contract of a Method."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.coordinator.optimizer import sobol
from scoot.coordinator.optimizer.base import Ask, Observation, Suggestion
from scoot.coordinator.optimizer.problem import task_of
from scoot.coordinator.optimizer.registry import load_method
from scoot.coordinator.space.study_space import space_of
from scoot.wire.errors import LocalProtocolError, UserError
from scoot.wire.spec import Config, Objective, Parameter, ParameterKind, Scale, Service, StudySpec, Workload


def study(*parameters: Parameter, constraints: tuple[str, ...] = (), **service: Any) -> StudySpec:
    return StudySpec(
        name="test",
        service=Service(engine="mock", model="tiny", **service),
        workload=Workload(profile="SQL"),
        parameters=parameters,
        objectives=(Objective(metric="ttft_mean"),),
        constraints=constraints,
    )


def integers(name: str, low: int, high: int, **more: Any) -> Parameter:
    return Parameter(name=name, kind=ParameterKind.INT, low=low, high=high, **more)


USUAL = study(
    integers("max_num_seqs", 1, 1024, scale=Scale.LOG, default=256),
    integers("max_num_batched_tokens", 64, 8192, step=64),
    Parameter(name="block_size", kind=ParameterKind.ENUM, choices=(16, 32, 64)),
    Parameter(name="enable_chunked_prefill", kind=ParameterKind.BOOL),
    integers("tensor_parallel_size", 1, 8, scale=Scale.POW2),
    Parameter(name="gpu_memory_utilization", kind=ParameterKind.FLOAT, low=0.5, high=0.95),
    constraints=("max_num_batched_tokens >= max_num_seqs", "max_num_seqs <= max_model_len"),
    devices=4,
    max_model_len=512,
)


def tiny(width: int, *constraints: str, **more: Any) -> StudySpec:
    return study(integers("a", 1, width, **more), Parameter(name="f", kind=ParameterKind.BOOL), constraints=constraints)


def ask(spec: StudySpec, n: int, configs: list[Config] | None = None, seed: int = 0) -> tuple[Suggestion, ...]:
    history = tuple(Observation(number=k, config=config, pending=True) for k, config in enumerate(configs or [], 1))
    return sobol.suggest(task_of(Ask(spec=spec, history=history, n=n, call=len(history), seed=seed)))


def configs_of(suggestions: tuple[Suggestion, ...]) -> list[Config]:
    return [suggestion.config for suggestion in suggestions]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(-5, 2**40))
def test_batches_do_not_matter(batches: list[int], seed: int) -> None:
    piecewise: list[Config] = []
    for n in batches:
        piecewise += configs_of(ask(USUAL, n, piecewise, seed))
    assert piecewise == configs_of(ask(USUAL, sum(batches), seed=seed))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 60), st.integers(0, 1000))
def test_suggestions_are_new_feasible_and_full(n: int, seed: int) -> None:
    earlier = configs_of(ask(USUAL, 10, seed=seed))
    found = configs_of(ask(USUAL, n, earlier, seed))
    space = space_of(USUAL)
    assert len(found) == n
    assert space.feasible(found).all()
    keys = [space.key(config) for config in earlier + found]
    assert None not in keys
    assert len(set(keys)) == len(keys)
    assert all(4 % int(config["tensor_parallel_size"]) == 0 for config in found)


def test_the_order_of_the_history_and_its_outcomes_do_not_matter_to_sobol() -> None:
    configs = configs_of(ask(USUAL, 6))
    outcomes = (
        Observation(number=3, config=configs[2], values=(1.5,)),
        Observation(number=1, config=configs[0], infeasible=True),
        Observation(number=2, config=configs[1], pending=True),
        Observation(number=0, config={"max_num_seqs": 256}, values=(2.0,)),
    )
    later = sobol.suggest(task_of(Ask(spec=USUAL, history=outcomes, n=3, call=4, seed=0)))
    assert configs_of(later) == configs[3:]


def test_seeds_differ_and_the_global_generator_is_left_alone() -> None:
    before = repr(np.random.get_state())  # noqa: NPY002 - it is the legacy global state that must not move
    assert configs_of(ask(USUAL, 5, seed=1)) != configs_of(ask(USUAL, 5, seed=2))
    assert repr(np.random.get_state()) == before  # noqa: NPY002 - as above


def test_another_process_gives_the_same_bytes() -> None:
    program = (
        "import sys, msgspec\n"
        "from scoot.coordinator.optimizer.base import Ask\n"
        "from scoot.coordinator.optimizer.problem import task_of\n"
        "from scoot.coordinator.optimizer.registry import load_method\n"
        "ask = msgspec.json.decode(sys.stdin.buffer.read(), type=Ask)\n"
        "sys.stdout.buffer.write(msgspec.json.encode(load_method('sobol')(task_of(ask))))\n"
    )
    call = Ask(spec=USUAL, history=(), n=12, call=0, seed=7)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], input=msgspec.json.encode(call), capture_output=True, check=True
    )
    assert done.stderr == b""
    assert done.stdout == msgspec.json.encode(load_method("sobol")(task_of(call)))


@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_small_space_is_used_up_to_the_last_configuration(step: int) -> None:
    spec = tiny(7, "f implies a % 2 == 0")
    everything = space_of(spec).enumerate(1000)
    assert everything is not None
    found: list[Config] = []
    while more := configs_of(ask(spec, step, found)):
        assert len(more) == min(step, len(everything) - len(found))
        found += more
    assert sorted(map(repr, found)) == sorted(map(repr, everything))


def test_one_point_spaces_and_rare_points_are_found() -> None:
    assert configs_of(ask(study(integers("a", 3, 3)), 5)) == [{"a": 3}]
    rare = study(integers("a", 1, 10_000), integers("b", 1, 10_000), constraints=("a == 7777", "b == 2 * a - 6000"))
    assert configs_of(ask(rare, 5)) == [{"a": 7777, "b": 9554}]
    needle = study(integers("a", 1, 10_000), integers("b", 1, 10_000), constraints=("b == a",))
    found = configs_of(ask(needle, 20))
    assert len({str(config) for config in found}) == 20
    assert all(config["a"] == config["b"] for config in found)


def test_a_fully_stated_default_is_never_suggested() -> None:
    spec = study(integers("a", 1, 3, default=2))
    assert sorted(int(config["a"]) for config in configs_of(ask(spec, 9))) == [1, 3]
    partly = tiny(3, default=2)
    assert len(ask(partly, 9)) == 6


def test_the_sequence_covers_better_than_random_points() -> None:
    spec = study(integers("a", 1, 64), integers("b", 1, 64))
    found = configs_of(ask(spec, 64))
    cells = {((int(config["a"]) - 1) // 8, (int(config["b"]) - 1) // 8) for config in found}
    assert len(cells) > 55  # 64 random points meet 41 of 64 cells on average, a net nearly all


def test_explanations_say_where_a_point_comes_from() -> None:
    first, *_ = ask(USUAL, 1)
    assert first.source == "sobol"
    assert first.explanation["design"] == "Sobol sequence"
    assert msgspec.json.decode(msgspec.json.encode(first), type=Suggestion) == first


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(UserError, match=r"unknown optimizer 'sobl'.*did you mean 'sobol'"):
        load_method("sobl")


@pytest.mark.parametrize(
    "fields", [{"values": (float("nan"),)}, {"values": (1.0,), "pending": True}, {"infeasible": True, "pending": True}]
)
def test_contradictory_observations_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        Observation(number=1, config={}, **fields)
