"""What every method of the registry keeps, whatever it is: a method joins by being registered."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.optimizer.base import Ask, Observation, Outcome, Problem, Suggestion, Task
from scoot.coordinator.optimizer.problem import task_of
from scoot.coordinator.optimizer.registry import METHODS, MOST_OBJECTIVES, load_method
from scoot.coordinator.space.space import Space
from scoot.wire import limits
from scoot.wire.errors import UserError
from scoot.wire.spec import Config, Objective, Optimizer, Parameter, ParameterKind, Scale, Service, StudySpec, Workload

pytestmark = pytest.mark.timeout(180)  # a cold import of torch on a busy machine, before anything is asked

ONE = (Direction.MINIMISE,)
TWO = (Direction.MINIMISE, Direction.MAXIMISE)
THREE = (Direction.MINIMISE, Direction.MAXIMISE, Direction.MINIMISE)
DEFAULTS = {"seqs": 256, "tokens": 2048, "block": "32", "chunked": False, "power": 4, "share": 0.9}


def integers(name: str, low: int, high: int, **more: object) -> Parameter:
    return msgspec.structs.replace(Parameter(name=name, kind=ParameterKind.INT, low=low, high=high), **more)


def parameters(**defaults: object) -> tuple[Parameter, ...]:
    plain = (
        integers("seqs", 1, 1024, scale=Scale.LOG),
        integers("tokens", 64, 8192, step=64),
        Parameter(name="block", kind=ParameterKind.ENUM, choices=("16", "32", "64")),
        Parameter(name="chunked", kind=ParameterKind.BOOL),
        integers("power", 1, 16, scale=Scale.POW2),
        Parameter(name="share", kind=ParameterKind.FLOAT, low=0.5, high=0.95),
    )
    return tuple(msgspec.structs.replace(each, default=defaults.get(each.name)) for each in plain)


RULES = ("tokens >= seqs", "chunked or tokens >= 1024", "block != '64' or power <= 8")
USUAL = Space.build(parameters(**DEFAULTS), RULES)
PARTIAL = Space.build(parameters(seqs=256, tokens=2048), RULES)
MILLION = Space.build([integers(name, 1, 10, default=5) for name in "abcdef"], ("a + b + c + d + e + f <= 30",))
"""A grid of 10^6 in one piece, the largest that is enumerated."""


def small(count: int, *rules: str, **more: object) -> Space:
    return Space.build((integers("a", 1, count, **more), integers("b", 1, 2)), rules)


def figures(space: Space, config: Config, directions: tuple[Direction, ...]) -> tuple[float, ...]:
    """Something smooth per objective, of very different sizes."""
    point = space.encode([config])[0]
    bends = [float(((point - place) ** 2).sum()) for place in (0.3, 0.7, 0.5)]
    plain = (10.0 * np.exp(3.0 * bends[0]), 2.0 - bends[1], 1e-3 * (1.0 + bends[2]))
    return tuple(float(figure) for figure in plain[: len(directions)])


def crashes(space: Space, config: Config) -> bool:
    point = space.encode([config])[0]
    return bool(point[0] + point[-1] > 1.3)


def history_of(space: Space, directions: tuple[Direction, ...], size: int, seed: int = 0) -> tuple[Observation, ...]:
    """The default, then random configurations; some of them crash."""
    rng = np.random.default_rng(seed)
    found = []
    configs = [config for config in (space.default_config(),) if space.key(config) is not None]
    for number, config in enumerate((configs + space.sample(rng, size))[:size]):
        if number and crashes(space, config):
            found.append(Observation(number=number, config=config, infeasible=True, reason="OUT_OF_MEMORY"))
        else:
            found.append(Observation(number=number, config=config, values=figures(space, config, directions)))
    return tuple(found)


def task(
    space: Space,
    directions: tuple[Direction, ...],
    history: tuple[Observation, ...] = (),
    n: int = 1,
    seed: int = 0,
    outcomes: tuple[Outcome, ...] = (),
) -> Task:
    problem = Problem(space=space, directions=directions, outcomes=outcomes)
    return Task(problem=problem, history=history, n=n, call=len(history), seed=seed)


def ask(name: str, wanted: Task) -> list[Config]:
    """What the method says, after a look at everything that always holds."""
    suggestions = load_method(name)(wanted)
    space = wanted.problem.space
    assert len(suggestions) <= wanted.n
    configs = [suggestion.config for suggestion in suggestions]
    known = [space.key(observation.config) for observation in wanted.history]
    keys = [space.key(config) for config in configs]
    assert None not in keys
    assert len(set(keys)) == len(keys)
    assert not set(keys) & set(known)
    if configs:
        assert space.feasible(configs).all()
        assert space.decode(space.encode(configs)) == configs
        assert [list(map(type, config.values())) for config in space.decode(space.encode(configs))] == [
            list(map(type, config.values())) for config in configs
        ]
    for suggestion in suggestions:
        assert suggestion.source
        assert msgspec.json.decode(msgspec.json.encode(suggestion), type=Suggestion) == suggestion
        check_explanation(suggestion, wanted)
    return configs


def check_explanation(suggestion: Suggestion, wanted: Task) -> None:
    said = suggestion.explanation
    assert isinstance(said.get("design", ""), str)
    assert 0 <= said.get("pof", 0.5) <= 1
    for place, predicted in said.get("predicted", {}).items():
        assert 0 <= int(place) < len(wanted.problem.directions)
        assert predicted["low"] <= predicted["mean"] <= predicted["high"]
    assert all(np.isfinite(value) for value in said.get("acquisition", {}).values())


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _silence(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Warnings are errors already; nothing may be printed either."""
    yield
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("directions", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("size", [0, 1, 3, 25])
def test_suggestions_are_new_valid_and_as_many_as_asked(
    method: str, directions: tuple[Direction, ...], size: int
) -> None:
    history = history_of(USUAL, directions, size)
    assert len(ask(method, task(USUAL, directions, history))) == 1
    assert len(ask(method, task(USUAL, directions, history, n=4))) == 4


def test_three_objectives_are_taken_or_refused(method: str) -> None:
    wanted = task(USUAL, THREE, history_of(USUAL, THREE, 16), n=2)
    if MOST_OBJECTIVES.get(method, limits.OBJECTIVES) == limits.OBJECTIVES:
        assert len(ask(method, wanted)) == 2
    else:
        with pytest.raises(UserError) as caught:
            load_method(method)(wanted)
        assert caught.value.hint


@pytest.mark.parametrize("directions", [ONE, TWO], ids=["one", "two"])
def test_the_same_question_has_the_same_answer(method: str, directions: tuple[Direction, ...]) -> None:
    wanted = task(USUAL, directions, history_of(USUAL, directions, 20), n=2, seed=-3)
    generators = repr(np.random.get_state()), random.getstate()  # noqa: NPY002 - the global state that must not move
    first = msgspec.json.encode(load_method(method)(wanted))
    assert (repr(np.random.get_state()), random.getstate()) == generators  # noqa: NPY002 - as above
    np.random.seed(7)  # noqa: NPY002 - nor be looked at
    other = replace(wanted, history=history_of(USUAL, directions, 9, seed=5))
    load_method(method)(other)  # what was asked in between leaves nothing behind
    assert msgspec.json.encode(load_method(method)(wanted)) == first


def test_torchs_global_generator_stays_where_it_is(method: str) -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_rng_state()
    ask(method, task(USUAL, ONE, history_of(USUAL, ONE, 20)))
    assert bool((torch.get_rng_state() == before).all())


def test_seeds_differ(method: str) -> None:
    found = {str(ask(method, task(USUAL, ONE, history_of(USUAL, ONE, size), n=2, seed=seed)))
             for seed in (0, 1, 2, 2**40, -1) for size in (1,)}  # fmt: skip
    assert len(found) > 1


PROGRAM = """
import sys, msgspec
from scoot.coordinator.optimizer.base import Ask
from scoot.coordinator.optimizer.problem import task_of
from scoot.coordinator.optimizer.registry import load_method
for ask in msgspec.json.decode(sys.stdin.buffer.read(), type=list[Ask]):
    found = load_method(ask.spec.optimizer.method)(task_of(ask))
    sys.stdout.buffer.write(msgspec.json.encode(found) + b"\\n")
"""


def test_another_process_says_the_same_and_prints_nothing(method: str) -> None:
    asks = []
    for metrics in (("ttft_mean",), ("ttft_mean", "request_throughput")):
        spec = StudySpec(
            name="test",
            service=Service(engine="mock", model="tiny"),
            workload=Workload(profile="SQL"),
            parameters=parameters(**DEFAULTS),
            objectives=tuple(Objective(metric=metric) for metric in metrics),
            constraints=RULES,
            optimizer=Optimizer(method=method),
        )
        history = history_of(USUAL, TWO[: len(metrics)], 20)
        asks.append(Ask(spec=spec, history=history, n=2, call=20, seed=11))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=msgspec.json.encode(asks), capture_output=True, check=True
    )
    assert done.stderr == b""
    here = [msgspec.json.encode(load_method(method)(task_of(ask))) for ask in asks]
    assert done.stdout.splitlines() == here


@pytest.mark.parametrize("directions", [ONE, TWO], ids=["one", "two"])
def test_four_at_once_or_one_after_the_other(method: str, directions: tuple[Direction, ...]) -> None:
    history = history_of(USUAL, directions, 18)
    assert len(ask(method, task(USUAL, directions, history, n=4))) == 4
    for _ in range(4):  # each is pending when the next one is asked for
        (config,) = ask(method, task(USUAL, directions, history))
        history += (Observation(number=len(history), config=config, pending=True),)


@pytest.mark.parametrize("directions", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("size", [2, 24])
def test_when_everything_crashed_something_new_is_tried(
    method: str, directions: tuple[Direction, ...], size: int
) -> None:
    configs = [USUAL.default_config(), *USUAL.sample(np.random.default_rng(0), size)]
    history = tuple(Observation(number=k, config=config, infeasible=True) for k, config in enumerate(configs))
    assert len(ask(method, task(USUAL, directions, history, n=3))) == 3


def test_when_only_the_default_works(method: str) -> None:
    configs = USUAL.sample(np.random.default_rng(0), 15)
    history = (
        Observation(number=0, config=USUAL.default_config(), values=(5.0, 1.0)),
        *(Observation(number=k, config=config, infeasible=True) for k, config in enumerate(configs, 1)),
    )
    assert len(ask(method, task(USUAL, TWO, history, n=2))) == 2


SMALL = small(6, "a % 2 == b % 2")
NESTED = Space.build(
    (
        Parameter(name="f", kind=ParameterKind.BOOL),
        integers("a", 1, 3, when="f"),
        integers("b", 1, 2, when="a >= 2", scale=Scale.POW2),
    ),
    ("a + b < 5",),
)


@pytest.mark.parametrize(("space", "count"), [(SMALL, 6), (NESTED, 5)], ids=["plain", "conditional"])
@pytest.mark.parametrize("directions", [ONE, TWO], ids=["one", "two"])
def test_a_space_is_used_up_to_its_last_configuration(
    method: str, directions: tuple[Direction, ...], space: Space, count: int
) -> None:
    history: tuple[Observation, ...] = ()
    while found := ask(method, task(space, directions, history, n=2)):
        for config in found:
            history += (Observation(number=len(history), config=config, values=figures(space, config, directions)),)
    assert len(history) == space.size().count == count


@pytest.mark.parametrize("directions", [ONE, TWO], ids=["one", "two"])
def test_a_million_configurations(method: str, directions: tuple[Direction, ...]) -> None:
    assert MILLION.size().exact
    assert MILLION.size().total == 10**6
    assert len(ask(method, task(MILLION, directions, history_of(MILLION, directions, 14), n=2))) == 2


def test_a_space_of_one_configuration(method: str) -> None:
    single = Space.build((integers("a", 3, 3),), ())
    assert ask(method, task(single, ONE, n=5)) == [{"a": 3}]
    tried = (Observation(number=0, config={"a": 3}, values=(1.0,)),)
    assert ask(method, task(single, ONE, tried)) == []


def test_one_feasible_configuration_in_a_large_space(method: str) -> None:
    space = Space.build((integers("a", 1, 10_000), integers("b", 1, 10_000)), ("a == 7777", "b == 2 * a - 6000"))
    assert ask(method, task(space, TWO, n=5)) == [{"a": 7777, "b": 9554}]
    tried = (Observation(number=0, config={"a": 7777, "b": 9554}, values=(1.0, 2.0)),)
    assert ask(method, task(space, TWO, tried, n=5)) == []


def test_rare_configurations_of_a_space_too_large_to_be_counted(method: str) -> None:
    space = Space.build((integers("a", 1, 10_000), integers("b", 1, 10_000)), ("b == a",))
    configs: list[Config] = [{"a": 50 * k, "b": 50 * k} for k in range(1, 13)]
    history = tuple(
        Observation(number=k, config=config, values=figures(space, config, ONE)) for k, config in enumerate(configs)
    )
    assert len(ask(method, task(space, ONE, history, n=2))) == 2


@pytest.mark.parametrize("value", [0.0, 7.5, -1e-12, 1e12])
def test_objectives_that_never_change(method: str, value: float) -> None:
    history = tuple(
        msgspec.structs.replace(each, values=each.values and (value,)) for each in history_of(USUAL, ONE, 16)
    )
    assert len(ask(method, task(USUAL, ONE, history, n=2))) == 2


def test_two_objectives_that_are_the_same(method: str) -> None:
    history = tuple(
        msgspec.structs.replace(each, values=each.values and each.values * 2) for each in history_of(USUAL, ONE, 18)
    )
    assert len(ask(method, task(USUAL, (Direction.MINIMISE,) * 2, history, n=2))) == 2


def test_figures_of_any_size(method: str) -> None:
    sizes = [1e-300, 1e300, -1e300, 5.0, 0.0, 1e12, -3.0]
    configs = [USUAL.default_config(), *USUAL.sample(np.random.default_rng(1), 13)]
    history = tuple(
        Observation(number=k, config=config, values=(sizes[k % 7], sizes[(3 * k + 1) % 7]))
        for k, config in enumerate(configs)
    )
    assert len(ask(method, task(USUAL, TWO, history))) == 1


@pytest.mark.parametrize(("finished", "directions"), [(0, ONE), (20, ONE), (20, TWO)], ids=["none", "one", "two"])
def test_three_hundred_pending(method: str, finished: int, directions: tuple[Direction, ...]) -> None:
    done = history_of(USUAL, directions, finished)
    keys = {USUAL.key(each.config) for each in done}
    waiting = [config for config in USUAL.sample(np.random.default_rng(9), 300) if USUAL.key(config) not in keys]
    history = done + tuple(
        Observation(number=len(done) + k, config=config, pending=True) for k, config in enumerate(waiting)
    )
    assert len(ask(method, task(USUAL, directions, history))) == 1


def test_as_many_at_once_as_a_study_may_have(method: str) -> None:
    assert len(ask(method, task(USUAL, ONE, history_of(USUAL, ONE, 12), n=limits.PARALLELISM))) == limits.PARALLELISM


def test_a_history_that_others_proposed(method: str) -> None:
    """Numbers with holes, repeated configurations, and trials that ended with neither a value nor blame."""
    first, second = history_of(USUAL, TWO, 12, seed=1), history_of(USUAL, TWO, 12, seed=2)
    again = tuple(msgspec.structs.replace(each, number=each.number + 40) for each in first[:4])
    nothing = Observation(number=60, config=USUAL.sample(np.random.default_rng(4), 1)[0])
    later = tuple(msgspec.structs.replace(each, number=each.number + 20) for each in second)
    assert len(ask(method, task(USUAL, TWO, (*first, *later, *again, nothing), n=2))) == 2


@pytest.mark.parametrize("directions", [ONE, TWO], ids=["one", "two"])
def test_a_default_of_which_only_a_part_is_stated(method: str, directions: tuple[Direction, ...]) -> None:
    default = Observation(number=0, config=PARTIAL.default_config(), values=(60.0, 0.5)[: len(directions)])
    rest = history_of(PARTIAL, directions, 16)[1:]
    assert PARTIAL.key(default.config) is None
    assert len(ask(method, task(PARTIAL, directions, (default,), n=2))) == 2
    assert len(ask(method, task(PARTIAL, directions, (default, *rest), n=2))) == 2
    crashed = Observation(number=0, config=PARTIAL.default_config(), infeasible=True)
    assert len(ask(method, task(PARTIAL, directions, (crashed, *rest)))) == 1


ELSEWHERE: dict[str, Config] = {
    "beyond the range": {**USUAL.default_config(), "seqs": 4096},
    "off the grid": {**USUAL.default_config(), "tokens": 2000},
    "no choice": {**USUAL.default_config(), "block": "8"},
    "another type": {**USUAL.default_config(), "power": "four", "chunked": 1},
    "against a constraint": {**USUAL.default_config(), "tokens": 192},
}


@pytest.mark.parametrize(("where", "crashed"), [*((where, False) for where in ELSEWHERE), ("no choice", True)])
def test_a_default_that_lies_outside_of_the_space(method: str, where: str, crashed: bool) -> None:
    """What an engine made of the values that the default leaves to it may be anything."""
    space = Space.build(parameters(), RULES)
    default = Observation(number=0, config=ELSEWHERE[where], values=None if crashed else (60.0,), infeasible=crashed)
    assert len(ask(method, task(space, ONE, (default, *history_of(space, ONE, 9)[1:])))) == 1


@pytest.mark.parametrize("directions", [ONE, TWO], ids=["one", "two"])
def test_parameters_that_are_inactive_are_in_no_configuration(method: str, directions: tuple[Direction, ...]) -> None:
    plain = [each for each in parameters(**DEFAULTS) if each.name != "block"]
    block = Parameter(name="block", kind=ParameterKind.ENUM, choices=("16", "32", "64"), default="32", when="chunked")
    depth = integers("depth", 1, 512, scale=Scale.LOG, when="block != '16' and power <= 8")
    space = Space.build([*plain, block, depth], ("tokens >= seqs", "depth <= seqs"))
    history = [*history_of(space, directions, 20)]
    history += [
        Observation(number=k, config=config, pending=True)
        for k, config in enumerate(space.sample(np.random.default_rng(8), 3), len(history))
    ]
    assert len({tuple(each.config) for each in history}) == 3
    found = ask(method, task(space, directions, tuple(history), n=8))
    assert len(found) == 8
    for config in found:
        assert ("block" in config) == bool(config["chunked"])
        assert ("depth" in config) == (config.get("block", "16") != "16" and int(config["power"]) <= 8)


def test_outcomes_and_noise_are_no_stumbling_block(method: str) -> None:
    limits = (Outcome(name="ttft_p95", direction=Direction.MINIMISE, limit=20.0),)
    history = tuple(
        each if each.values is None else msgspec.structs.replace(
            each, outcomes=(each.values[0],) if each.number % 3 else None, noise=(0.1,) if each.number % 2 else None)
        for each in history_of(USUAL, ONE, 16)
    )  # fmt: skip
    assert len(ask(method, task(USUAL, ONE, history, n=2, outcomes=limits))) == 2
