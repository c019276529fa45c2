"""The paper's method as a whole (SCOOT, section 4 and Algorithm 1): its phases, its contract, and that it searches."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from scoot.coordinator.objective.hypervolume import hypervolume_2d
from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.optimizer import sobol
from scoot.coordinator.optimizer.base import Observation, Problem, Suggestion, Task
from scoot.coordinator.optimizer.registry import load_method
from scoot.coordinator.optimizer.scoot import method, solve, surrogate
from scoot.coordinator.space.space import Space
from scoot.wire.errors import UserError
from scoot.wire.spec import Config, Parameter, ParameterKind, Scale

pytestmark = pytest.mark.timeout(180)  # a cold import of torch on a busy machine

Figures = Callable[[Config], tuple[float, ...] | None]

LESS, MORE = Direction.MINIMISE, Direction.MAXIMISE


def integers(name: str, low: int, high: int, **more: Any) -> Parameter:
    return Parameter(name=name, kind=ParameterKind.INT, low=low, high=high, **more)


USUAL = Space.build(
    [
        integers("seqs", 1, 1024, scale=Scale.LOG, default=64),
        integers("tokens", 64, 8192, step=64, default=2048),
        Parameter(name="share", kind=ParameterKind.FLOAT, low=0.5, high=0.95, default=0.7),
        Parameter(name="policy", kind=ParameterKind.ENUM, choices=("a", "b", "c"), default="a"),
        Parameter(name="chunked", kind=ParameterKind.BOOL, default=False),
        integers("chunk", 1, 64, default=8, when="chunked"),
    ],
    ["tokens >= seqs", "chunked or tokens >= 1024"],
)


@pytest.fixture(autouse=True)
def _short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shorter search than the product's: what is asserted here needs no more."""
    monkeypatch.setattr(solve, "GENERATIONS", 8)
    monkeypatch.setattr(solve, "POPULATION", 40)
    monkeypatch.setattr(surrogate, "ITERATIONS", 25)


def figures(config: Config) -> tuple[float, float] | None:
    """Latency falls with seqs up to 400 and rises with tokens; configurations of much memory crash."""
    seqs, tokens, share = (float(config[name]) for name in ("seqs", "tokens", "share"))
    if share > 0.85 and seqs > 100:
        return None
    one = 1.0 + abs(math.log(seqs / 400)) + 0.2 * (config["policy"] == "b")
    return one, 2.0 + 0.3 * math.log(seqs) + tokens / 8192


def latency(config: Config) -> tuple[float] | None:
    both = figures(config)
    return None if both is None else both[:1]


def observed(number: int, config: Config, measure: Figures) -> Observation:
    values = measure(config)
    return Observation(number=number, config=config, values=values, infeasible=values is None)


def history(space: Space, n: int, measure: Figures, seed: int = 0) -> tuple[Observation, ...]:
    """The default and n - 1 random configurations."""
    rng = np.random.default_rng(seed)
    configs = [space.default_config(), *space.sample(rng, n - 1)]
    return tuple(observed(number, config, measure) for number, config in enumerate(configs))


def ask(
    space: Space,
    told: tuple[Observation, ...],
    n: int = 1,
    directions: tuple[Direction, ...] = (LESS,),
    seed: int = 0,
) -> tuple[Suggestion, ...]:
    problem = Problem(space=space, directions=directions)
    return method.suggest(Task(problem=problem, history=told, n=n, call=max(len(told) - 1, 0), seed=seed))


def check(space: Space, told: tuple[Observation, ...], found: tuple[Suggestion, ...]) -> None:
    """The contract of a Method."""
    keys = [space.key(suggestion.config) for suggestion in found]
    assert None not in keys
    assert len(set(keys)) == len(keys)
    assert not set(keys) & {space.key(observation.config) for observation in told}
    assert not found or space.feasible([suggestion.config for suggestion in found]).all()
    for suggestion in found:
        assert suggestion.source == "scoot"
        assert msgspec.json.decode(msgspec.json.encode(suggestion), type=Suggestion) == suggestion


def designs(found: tuple[Suggestion, ...]) -> list[str]:
    return [suggestion.explanation["design"] for suggestion in found]


# -- phases (section 4.1) ----------------------------------------------------------------------------------------------


def test_d_sobol_points_come_first_and_crashes_do_not_add_to_them() -> None:
    told = [observed(0, USUAL.default_config(), latency)]
    seen = []
    for number in range(1, 9):
        (suggestion,) = ask(USUAL, tuple(told))
        seen.append(suggestion.explanation["design"])
        told.append(Observation(number=number, config=suggestion.config, infeasible=True))
    assert seen[:6] == ["Sobol design"] * 6
    assert "MACE" in seen[6:]
    assert "Sobol design" not in seen[6:]


def test_the_first_design_is_that_of_the_sobol_method() -> None:
    task = Task(problem=Problem(space=USUAL, directions=(LESS,)), history=(), n=5, call=0, seed=3)
    ours, theirs = method.suggest(task), sobol.suggest(task)
    assert [suggestion.config for suggestion in ours] == [suggestion.config for suggestion in theirs]


def test_pending_points_count_as_the_first_design_and_the_rest_of_a_call_is_the_models() -> None:
    told = (
        observed(0, USUAL.default_config(), latency),
        observed(1, USUAL.sample(np.random.default_rng(1), 1)[0], latency),
        Observation(number=2, config=USUAL.sample(np.random.default_rng(2), 1)[0], pending=True),
    )
    found = ask(USUAL, told, 6)
    assert designs(found) == ["Sobol design"] * 4 + ["MACE"] * 2
    check(USUAL, told, found)


def test_nothing_measured_yet_means_sobol_points() -> None:
    found = ask(USUAL, (), 9)
    assert designs(found) == ["Sobol design"] * 6 + ["Sobol fill-up"] * 3
    check(USUAL, (), found)


@pytest.mark.parametrize("directions", [(LESS,), (LESS, LESS)])
def test_all_trials_crashed(directions: tuple[Direction, ...]) -> None:
    told = history(USUAL, 12, lambda _: None)
    found = ask(USUAL, told, 3, directions)
    assert designs(found) == ["Sobol fill-up"] * 3
    check(USUAL, told, found)


# -- contract ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("measure", "directions"), [(latency, (LESS,)), (figures, (LESS, MORE))])
@pytest.mark.parametrize("n", [1, 8])
def test_suggestions_are_valid_new_and_explained(measure: Figures, directions: tuple[Direction, ...], n: int) -> None:
    told = (*history(USUAL, 14, measure), Observation(number=14, config=pending(), pending=True))
    found = ask(USUAL, told, n, directions)
    assert len(found) == n
    check(USUAL, told, found)
    for suggestion in found:
        explanation = suggestion.explanation
        if explanation["design"] == "Sobol fill-up":
            continue
        assert explanation["design"] == ("MACE" if len(directions) == 1 else "EHVI")
        assert set(explanation["predicted"]) == {str(place) for place in range(len(directions))}
        assert all(figure["low"] < figure["mean"] < figure["high"] for figure in explanation["predicted"].values())
        assert explanation["pof_threshold"] <= explanation["pof"] <= 1
        assert 0.25 <= explanation["pof_threshold"] <= 0.75
        assert all(math.isfinite(value) for value in explanation["acquisition"].values())
        assert explanation["expected_gain"] >= 0
    assert designs(found)[0] in {"MACE", "EHVI"}


def pending() -> Config:
    return {"seqs": 300, "tokens": 1024, "share": 0.7, "policy": "a", "chunked": True, "chunk": 8}


def test_without_the_forest_a_crash_is_only_not_repeated() -> None:
    def best_crashes(config: Config) -> tuple[float] | None:
        """The fewer tokens the better, but few crash."""
        return None if float(config["tokens"]) < 2000 else (float(config["tokens"]),)

    told = history(USUAL, 24, best_crashes)
    task = Task(problem=Problem(space=USUAL, directions=(LESS,)), history=told, n=4, call=23, seed=0)
    without = method.suggest(task, forest=False)
    check(USUAL, told, without)
    assert {suggestion.explanation["pof"] for suggestion in without} == {1.0}
    assert [best_crashes(suggestion.config) for suggestion in without] == [None] * 4
    assert all(best_crashes(suggestion.config) for suggestion in method.suggest(task))


def test_predictions_are_in_the_metrics_own_unit_and_sense() -> None:
    told = history(USUAL, 40, lambda config: (1000.0 + float(config["tokens"]), 5e-3 * float(config["share"])))
    for suggestion in ask(USUAL, told, 3, (LESS, MORE)):
        predicted = suggestion.explanation["predicted"]
        assert predicted["0"]["mean"] == pytest.approx(1000 + float(suggestion.config["tokens"]), rel=0.15)
        assert predicted["1"]["mean"] == pytest.approx(5e-3 * float(suggestion.config["share"]), rel=0.15)


PROGRAM = """
import sys, msgspec
from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.optimizer.base import Observation, Problem, Task
from scoot.coordinator.optimizer.registry import load_method
from scoot.coordinator.space.space import Space
from scoot.wire.spec import Parameter
given = msgspec.json.decode(sys.stdin.buffer.read())
space = Space.build(msgspec.convert(given["parameters"], list[Parameter]), given["constraints"])
told = msgspec.convert(given["history"], tuple[Observation, ...])
for m in (1, 2):
    problem = Problem(space=space, directions=(Direction.MINIMISE,) * m)
    cut = tuple(msgspec.structs.replace(o, values=o.values and o.values[:m]) for o in told)
    found = load_method("scoot")(Task(problem=problem, history=cut, n=3, call=11, seed=-4))
    sys.stdout.buffer.write(msgspec.json.encode(found) + b"\\n")
"""


@pytest.mark.timeout(180)  # it imports everything anew
def test_another_process_gives_the_same_bytes_and_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    told = history(USUAL, 12, figures)
    given = {
        "parameters": USUAL.parameters,
        "constraints": [constraint.expression.text for constraint in USUAL.constraints],
        "history": told,
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        input=msgspec.json.encode(given),
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    cut = tuple(msgspec.structs.replace(o, values=o.values and o.values[:1]) for o in told)
    here = [ask(USUAL, cut, 3, (LESS,), seed=-4), ask(USUAL, told, 3, (LESS, LESS), seed=-4)]
    assert done.stdout.splitlines() == [msgspec.json.encode(found) for found in here]


def test_seeds_and_calls_differ_and_global_generators_are_left_alone() -> None:
    import torch

    told = history(USUAL, 12, latency)
    before = repr(np.random.get_state()), torch.get_rng_state().sum().item()  # noqa: NPY002 - the legacy global state
    first = ask(USUAL, told, 4, seed=1)
    assert first == ask(USUAL, told, 4, seed=1)
    assert first != ask(USUAL, told, 4, seed=2)
    assert before == (repr(np.random.get_state()), torch.get_rng_state().sum().item())  # noqa: NPY002 - as above


def test_the_order_in_which_observations_come_does_not_matter() -> None:
    told = history(USUAL, 12, figures)
    assert ask(USUAL, told, 2, (LESS, LESS)) == ask(USUAL, told[::-1], 2, (LESS, LESS))


def test_three_objectives_are_refused() -> None:
    with pytest.raises(UserError, match=r"at most 2 objectives, not 3.*auto"):
        ask(USUAL, (), 1, (LESS, LESS, MORE))


# -- odd histories and spaces ------------------------------------------------------------------------------------------

ODD: dict[str, Figures] = {
    "constant": lambda _: (5.0, 5.0),
    "identical objectives": lambda config: (float(config["tokens"]),) * 2,
    "one feasible point": lambda config: (3.0, 4.0) if config == USUAL.default_config() else None,
    "huge": lambda config: (1e12 * float(config["seqs"]), 1e-12 * float(config["share"])),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("m", [1, 2])
def test_odd_objectives(odd: str, m: int) -> None:
    def measure(config: Config) -> tuple[float, ...] | None:
        values = ODD[odd](config)
        return None if values is None else values[:m]

    told = history(USUAL, 12, measure)
    found = ask(USUAL, told, 2, (LESS,) * m)
    assert len(found) == 2
    check(USUAL, told, found)


def test_a_default_that_is_partly_the_engines_still_sets_the_bar() -> None:
    told = history(USUAL, 10, figures)
    partial = Observation(number=0, config={"seqs": 64}, values=(0.5, 0.5))  # better than all the others
    found = ask(USUAL, (partial, *told[1:]), 2, (LESS, LESS))
    check(USUAL, told[1:], found)
    assert all("expected_gain" not in suggestion.explanation for suggestion in found)  # no hypervolume yet to relate to
    weaker = ask(USUAL, (msgspec.structs.replace(partial, values=(90.0, 90.0)), *told[1:]), 2, (LESS, LESS))
    best = [max(s.explanation["acquisition"]["ehvi"] for s in found if "acquisition" in s.explanation)]
    best += [max(s.explanation["acquisition"]["ehvi"] for s in weaker)]
    assert best[0] < 0.01 * best[1]


def test_a_space_of_one_point() -> None:
    space = Space.build([integers("a", 3, 3)])
    (only,) = ask(space, (), 5)
    assert only.config == {"a": 3}
    assert ask(space, (Observation(number=1, config={"a": 3}, values=(1.0,)),), 5) == ()


def test_a_small_space_is_used_up() -> None:
    space = Space.build([integers("a", 1, 6, default=2), Parameter(name="f", kind=ParameterKind.BOOL, default=True)])
    told = [Observation(number=0, config=space.default_config(), values=(4.0,))]
    while found := ask(space, tuple(told), 2):
        check(space, tuple(told), found)
        told += [
            observed(len(told) + place, suggestion.config, lambda config: (float(config["a"]),))
            for place, suggestion in enumerate(found)
        ]
    assert len(told) == 12


def test_a_space_of_a_million_points() -> None:
    space = Space.build(
        [integers(name, 1, 100, default=50) for name in ("a", "b", "c")], ["a + b <= c + 60", "a != b + 1"]
    )
    told = history(space, 12, lambda config: (abs(float(config["a"]) - 70) + float(config["c"]),))
    found = ask(space, told, 8)
    assert len(found) == 8
    check(space, told, found)


def test_a_space_where_nearly_nothing_keeps_the_constraints() -> None:
    space = Space.build([integers("a", 1, 3000, default=9), integers("b", 1, 3000, default=9)], ["a == b"])
    told = history(space, 8, lambda config: (abs(float(config["a"]) - 700),))
    found = ask(space, told, 4)
    assert len(found) == 4
    check(space, told, found)


# -- search ------------------------------------------------------------------------------------------------------------

HILL = Space.build(
    [integers(name, 0, 40, default=12) for name in ("a", "b")]
    + [Parameter(name="c", kind=ParameterKind.FLOAT, low=0.0, high=1.0, default=0.3)]
)


def hill(config: Config, seed: int) -> tuple[float, float] | None:
    """Both figures are best at places of their own that the seed draws, beside a region that crashes."""
    point = np.array([float(config["a"]) / 40, float(config["b"]) / 40, float(config["c"])])
    if point[0] > 0.8 or (point[1] > 0.5 and point[2] > 0.75):
        return None
    one, other = np.random.default_rng(seed).uniform([0.1, 0.1, 0.1], [0.75, 0.9, 0.7], (2, 3))
    return 1 + 3 * float(((point - one) ** 2).sum()), 1 + 3 * float(((point - other) ** 2).sum())


def searched(name: str, m: int, seed: int) -> list[Observation]:
    """The default and 20 observations."""

    def measure(config: Config) -> tuple[float, ...] | None:
        values = hill(config, seed)
        return None if values is None else values[:m]

    problem = Problem(space=HILL, directions=(LESS,) * m)
    told = [observed(0, HILL.default_config(), measure)]
    while len(told) < 21:
        found = load_method(name)(Task(problem=problem, history=tuple(told), n=1, call=len(told) - 1, seed=seed))
        told += [observed(len(told), suggestion.config, measure) for suggestion in found]
    return told


@pytest.mark.timeout(400)  # six studies; half a minute alone, ten times that on a crowded machine
def test_it_finds_better_figures_than_sobol_points() -> None:
    gaps = {
        name: np.mean([min(o.values[0] for o in searched(name, 1, seed) if o.values) - 1 for seed in range(6)])
        for name in ("scoot", "sobol")
    }
    assert gaps["scoot"] < 0.6 * gaps["sobol"]


@pytest.mark.timeout(400)  # four studies
def test_it_finds_larger_fronts_than_sobol_points() -> None:
    def volume(name: str, seed: int) -> float:
        told = searched(name, 2, seed)
        reference = told[0].values
        assert reference is not None
        return hypervolume_2d([o.values for o in told if o.values], reference)

    found = {name: np.mean([volume(name, seed) for seed in range(4)]) for name in ("scoot", "sobol")}
    assert found["scoot"] > 1.1 * found["sobol"]
