"""Conditional parameters: random conditions and constraints against brute force, and laws that hold for every space."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.optimizer import sobol
from scoot.coordinator.optimizer.base import Observation, Problem, Task
from scoot.coordinator.space.condition import INACTIVE
from scoot.coordinator.space.space import Space
from scoot.wire.errors import UserError
from scoot.wire.spec import Config, Parameter, ParameterKind, Scale

FEW = settings(max_examples=50, deadline=None)

VALUES: dict[str, tuple[Any, ...]] = {
    "a": tuple(range(5)),
    "b": (1, 2, 4),
    "f": (False, True),
    "mode": ("x", "y", "z"),
    "deep": (10, 20, 30),
    "far": (False, True),
}
NAMES = tuple(VALUES)

Rule = Callable[[dict[str, Any]], bool]
"""Looks at active parameters only: a missing one is a KeyError, which makes a condition false and a constraint true."""

CONDITIONS: dict[str, dict[str, Rule]] = {
    "b": {"f": lambda c: bool(c["f"]), "a > 1": lambda c: c["a"] > 1},
    "mode": {"b >= 2": lambda c: c["b"] >= 2, "not f": lambda c: not c["f"]},
    "deep": {"mode == 'x' or a == 4": lambda c: (c["mode"] == "x") | (c["a"] == 4), "devices > 1": lambda c: False},
    "far": {"deep < 30": lambda c: c["deep"] < 30, "a == 0 and f": lambda c: (c["a"] == 0) & bool(c["f"])},
}
CONSTRAINTS: dict[str, Rule] = {
    "a >= b": lambda c: c["a"] >= c["b"],
    "f implies mode != 'x'": lambda c: (not c["f"]) | (c["mode"] != "x"),
    "deep > 10 or far": lambda c: (c["deep"] > 10) | bool(c["far"]),
    "b == 4": lambda c: c["b"] == 4,
    "a + deep <= 22": lambda c: c["a"] + c["deep"] <= 22,
    "not far": lambda c: not c["far"],
    "a != 2": lambda c: c["a"] != 2,
}


def holds(rule: Rule, config: dict[str, Any], *, missing: bool) -> bool:
    try:
        return bool(rule(config))
    except KeyError:
        return missing


def brute(chosen: dict[str, str], constraints: list[str]) -> list[Config]:
    """Every different configuration, from the definition: conditions one after the other, then the constraints."""
    found: dict[tuple[Any, ...], Config] = {}
    for row in product(*VALUES.values()):
        config: Config = {}
        for name, value in zip(NAMES, row, strict=True):
            if name not in chosen or holds(
                CONDITIONS[name][chosen[name]], config | dict(_always(row, chosen)), missing=False
            ):
                config[name] = value
        if all(holds(CONSTRAINTS[text], config, missing=True) for text in constraints):
            found[tuple(config.get(name) for name in NAMES)] = config
    return list(found.values())


def _always(row: tuple[Any, ...], chosen: dict[str, str]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in zip(NAMES, row, strict=True) if name not in chosen]


def parameter(name: str, when: str | None) -> Parameter:
    values = VALUES[name]
    if values == (False, True):
        return Parameter(name=name, kind=ParameterKind.BOOL, when=when)
    kind = ParameterKind.ENUM if isinstance(values[0], str) else ParameterKind.INT
    return Parameter(name=name, kind=kind, choices=values, when=when)


def build(chosen: dict[str, str], constraints: list[str], order: tuple[str, ...] = NAMES) -> Space:
    return Space.build([parameter(name, chosen.get(name)) for name in order], constraints, {"devices": 1})


chosen_conditions = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from(sorted(texts)) for name, texts in CONDITIONS.items()}
)
chosen_constraints = st.lists(st.sampled_from(sorted(CONSTRAINTS)), unique=True, max_size=3)


@FEW
@given(chosen_conditions, chosen_constraints, st.permutations(NAMES), st.integers(0, 2**32))
def test_feasible_sets_agree_with_brute_force(
    chosen: dict[str, str], constraints: list[str], order: list[str], seed: int
) -> None:
    expected = brute(chosen, constraints)
    if not expected:
        with pytest.raises(UserError, match="the search space is empty"):
            build(chosen, constraints)
        return
    space = build(chosen, constraints, tuple(order))
    size = space.size()
    assert (size.count, size.exact, size.total) == (len(expected), True, len(brute(chosen, [])))
    assert math.isclose(size.share, size.count / size.total)
    listed = space.enumerate(10_000)
    assert listed is not None
    assert len(listed) == len(expected)
    allowed = {space.key(config) for config in expected}
    assert None not in allowed
    assert {space.key(config) for config in listed} == allowed
    assert space.enumerate(len(expected) - 1) is None

    rng = np.random.default_rng(seed)
    assert {space.key(config) for config in space.sample(rng, 40)} <= allowed
    units = rng.random((30, len(NAMES)))
    anything = space.decode(units)
    feasible = [space.key(config) in allowed for config in anything]
    assert space.feasible_points(units).tolist() == feasible
    assert space.feasible(anything).tolist() == feasible
    assert [space.violated(config) == () for config in anything] == feasible

    moved = space.project_points(units)
    assert (moved == space.canonical_points(moved)).all()
    assert (moved == space.project_points(moved)).all()
    assert (moved == space.project_points(units)).all()
    for good, before, after in zip(feasible, anything, space.decode(moved), strict=True):
        assert space.key(after) in allowed
        if good:
            assert after == before
    for config, after in zip(anything, space.project(anything), strict=True):
        if space.key(config) not in allowed:
            point = space.encode([config])[0]
            # what becomes active comes from INACTIVE, which may be on the edge of two cells
            slack = sum((0.5 / len(VALUES[name])) ** 2 for name in after.keys() - config.keys())
            assert distances(space, point, [after])[0] <= min(distances(space, point, expected)) + slack + 1e-9


def distances(space: Space, point: np.ndarray[Any, Any], configs: list[Config]) -> list[float]:
    """From a point to configurations, over the parameters active in them."""
    active = np.array([[name in config for name in space.names] for config in configs])
    return [float(d) for d in (((space.encode(configs) - point) ** 2) * active).sum(axis=1)]


@FEW
@given(chosen_conditions, st.integers(0, 2**32))
def test_one_configuration_is_one_point_and_one_key(chosen: dict[str, str], seed: int) -> None:
    space = build(chosen, [])
    units = np.random.default_rng(seed).random((60, len(NAMES)))
    configs = space.decode(units)
    encoded = space.encode(configs)
    assert space.decode(encoded) == configs
    assert (space.encode(space.decode(encoded)) == encoded).all()
    keys = [space.key(config) for config in configs]
    points = [tuple(point) for point in encoded]
    assert len(set(keys)) == len(set(points)) == len(set(zip(keys, points, strict=True)))
    for config, key, point in zip(configs, keys, points, strict=True):
        assert key is not None
        assert space.config_of(key) == config
        for name, value, coordinate in zip(space.names, key, point, strict=True):
            assert (value is None) == (name not in config)
            assert value is not None or coordinate == INACTIVE
            if value is None:
                assert space.key({**config, name: VALUES[name][0]}) is None
            else:
                assert space.key({other: v for other, v in config.items() if other != name}) is None


LARGE = (
    Parameter(name="seqs", kind=ParameterKind.INT, low=1, high=50_000, scale=Scale.LOG),
    Parameter(name="chunked", kind=ParameterKind.BOOL),
    Parameter(name="threshold", kind=ParameterKind.INT, low=1, high=50_000, when="chunked"),
    Parameter(name="share", kind=ParameterKind.FLOAT, low=0.1, high=0.9, when="threshold > 25000"),
    Parameter(name="tokens", kind=ParameterKind.INT, low=1, high=50_000),
)


@pytest.mark.parametrize(
    "constraints",
    [
        ("threshold >= seqs",),
        ("threshold == 4 * seqs", "tokens >= seqs"),
        ("share > 0.5", "threshold % 1000 == 7"),
        ("chunked", "share + threshold / 50000 <= 1"),
    ],
)
def test_large_spaces_are_sampled_and_projected_feasibly(constraints: tuple[str, ...]) -> None:
    space = Space.build(LARGE, constraints)
    rng = np.random.default_rng(3)
    for config in [*space.sample(rng, 30), *space.project(space.decode(rng.random((30, 5))))]:
        assert space.violated(config) == ()
        assert space.key(config) is not None
        assert ("threshold" in config) == config["chunked"]
        assert ("share" in config) == (int(config.get("threshold", 0)) > 25_000)


def test_estimates_count_what_is_inactive_once() -> None:
    size = Space.build(LARGE, ["threshold >= seqs"]).size()
    pairs = 50_000 * 50_001 // 2
    assert not size.exact
    assert abs(size.count / (50_000 * (pairs + 50_000)) - 1) < 0.05
    free = Space.build(LARGE[:3]).size()
    assert (free.count, free.exact) == (50_000 * 50_001, True)


def leaf(when: str, count: int = 100) -> Parameter:
    return Parameter(name="leaf", kind=ParameterKind.INT, low=1, high=count, when=when)


def integers(name: str, high: int, **more: Any) -> Parameter:
    return Parameter(name=name, kind=ParameterKind.INT, low=1, high=high, **more)


ESTIMATED: dict[str, tuple[list[Parameter], list[str], int]] = {
    "in a region that is not enumerable": (
        [*LARGE[:3], leaf("threshold > 25000")],
        ["threshold >= seqs"],
        50_000 + sum(range(1, 25_001)) + 100 * sum(range(25_001, 50_001)),
    ),
    "on a logarithmic scale without constraints": (
        [integers("a", 10**7, scale=Scale.LOG), leaf("a > 5000000")],
        [],
        5_000_000 + 100 * 5_000_000,
    ),
    "over two regions that are": (
        [integers("a", 500), integers("b", 500), integers("c", 1000), leaf("a + c > 1000")],
        ["a >= b"],
        sum(a * (1000 - a + 100 * a) for a in range(1, 501)),
    ),
}


@pytest.mark.parametrize("case", ESTIMATED)
def test_estimates_weigh_what_is_active_where_it_is(case: str) -> None:
    parameters, constraints, count = ESTIMATED[case]
    size = Space.build(parameters, constraints).size()
    assert not size.exact
    assert abs(size.count / count - 1) < 0.04


@settings(max_examples=20, deadline=None)
@given(chosen_conditions, chosen_constraints, st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_sobol_exhausts_a_space_and_repeats_nothing(
    chosen: dict[str, str], constraints: list[str], batches: list[int]
) -> None:
    expected = brute(chosen, constraints)
    if not expected:
        return
    space = build(chosen, constraints)

    def ask(n: int, history: list[Config]) -> list[Config]:
        known = tuple(Observation(number=k, config=config, pending=True) for k, config in enumerate(history))
        task = Task(problem=Problem(space=space, directions=(Direction.MINIMISE,)), history=known, n=n, call=0, seed=1)
        return [suggestion.config for suggestion in sobol.suggest(task)]

    history: list[Config] = []
    for n in batches:
        history += ask(n, history)
    assert history == ask(sum(batches), [])
    history += ask(len(expected) + 5, history)
    assert len(history) == len(expected)
    assert {space.key(config) for config in history} == {space.key(config) for config in expected}
