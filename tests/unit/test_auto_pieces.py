"""The pieces of method="auto" against independent checks."""

from __future__ import annotations

from dataclasses import fields
from functools import cache

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.optimizer.auto import method, surrogate
from scoot.coordinator.optimizer.auto.candidates import (
    PATIENCE,
    Value,
    candidates,
    distance,
    niches,
    untried,
    with_value,
)
from scoot.coordinator.optimizer.auto.design import POINTS, centre_of, design
from scoot.coordinator.optimizer.auto.features import Features
from scoot.coordinator.optimizer.auto.history import History, Scale
from scoot.coordinator.optimizer.auto.method import suggest
from scoot.coordinator.optimizer.auto.parts import Parts
from scoot.coordinator.optimizer.auto.surrogate import Surrogate
from scoot.coordinator.optimizer.auto.warp import Warp
from scoot.coordinator.optimizer.base import Observation, Outcome, Problem, Suggestion, Task
from scoot.coordinator.space.space import Space
from scoot.wire.spec import Config, Parameter, ParameterKind
from scoot.wire.spec import Scale as ScaleKind

SPACE = Space.build(
    [
        Parameter(name="a", kind=ParameterKind.INT, low=1, high=64, default=32),
        Parameter(name="b", kind=ParameterKind.BOOL, default=False),
        Parameter(name="c", kind=ParameterKind.ENUM, choices=("x", "y", "z"), default="x"),
        Parameter(name="f", kind=ParameterKind.FLOAT, low=0.0, high=1.0, default=0.5),
    ],
    ("a >= 4 or b",),
)
WARP = Warp(SPACE)


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def task(observations: list[Observation], n: int = 1, outcomes: tuple[Outcome, ...] = (), objectives: int = 1) -> Task:
    problem = Problem(space=SPACE, directions=(Direction.MINIMISE,) * objectives, outcomes=outcomes)
    return Task(problem=problem, history=tuple(observations), n=n, call=len(observations), seed=3)


def observed(configs: list[Config], *figures: float) -> list[Observation]:
    return [Observation(number=k, config=c, values=(v,)) for k, (c, v) in enumerate(zip(configs, figures, strict=True))]


def test_the_gradient_of_the_fit_is_that_of_its_loss() -> None:
    x, z = rng().random((12, 3)), rng().standard_normal(12)
    apart = np.abs(x[:, None, :] - x[None, :, :])
    theta = np.array([-0.5, 0.3, 0.1, 0.2, -3.0, 0.4])
    rest = (apart, z, np.full(12, 0.01), np.zeros(6), np.ones(6))
    _, gradient = surrogate._posterior(theta, *rest)
    for at in range(6):
        step = np.eye(6)[at] * 1e-6
        slope = (surrogate._posterior(theta + step, *rest)[0] - surrogate._posterior(theta - step, *rest)[0]) / 2e-6
        assert gradient[at] == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_the_loss_is_the_likelihood() -> None:
    x, z = rng().random((6, 2)), rng().standard_normal(6)
    apart = np.abs(x[:, None, :] - x[None, :, :])
    theta = np.array([-0.2, 0.4, 0.3, -2.0, 0.7])
    value, _ = surrogate._posterior(theta, apart, z, np.zeros(6), theta, np.ones(5))
    lengths, share = np.exp(theta[:2]), 1 / (1 + np.exp(-0.7))
    together = surrogate._matern(np.sqrt(((apart / lengths) ** 2).sum(axis=2)))
    alone = surrogate._matern(apart / lengths * np.sqrt(2)).mean(axis=2)
    covariance = np.exp(0.3) * (share * alone + (1 - share) * together)
    assert surrogate._kernel(x, x, lengths, share) * np.exp(0.3) == pytest.approx(covariance)
    covariance += np.eye(6) * (np.exp(-2.0) + 1e-8)
    expected = -multivariate_normal(np.zeros(6), covariance).logpdf(z) - 3 * np.log(2 * np.pi)
    assert value == pytest.approx(expected, rel=1e-9)


def test_the_surrogate_predicts_and_knows_what_it_does_not_know() -> None:
    x = rng().random((40, 2))
    model = Surrogate.fit(x, np.sin(4 * x[:, 0]) + 10)
    inside = rng().random((20, 2))
    mean, deviation = model.predict(inside)
    assert np.abs(mean - np.sin(4 * inside[:, 0]) - 10).max() < 0.1
    _, far = model.predict(inside + 5)
    assert far.min() > 3 * deviation.max()
    assert model.lengths[1] > 3 * model.lengths[0], "the second feature does nothing"


def test_known_noise_is_believed() -> None:
    x = np.array([[0.1], [0.1], [0.9], [0.9]])
    y = np.array([0.0, 4.0, 1.0, 1.2])
    trusting = Surrogate.fit(x, y, np.array([0.01, 2.0, 0.01, 0.01]))
    assert trusting.predict(np.array([[0.1]]))[0][0] < 0.5


def test_pending_points_are_believed_and_move_nothing_else() -> None:
    x = rng().random((8, 2))
    model = Surrogate.fit(x, rng().standard_normal(8))
    queue = np.array([[2.0, 2.0]])
    believing = model.believing(queue)
    assert believing.predict(x)[0] == pytest.approx(model.predict(x)[0], abs=1e-6)
    assert believing.predict(queue)[1][0] < 0.3 * model.predict(queue)[1][0]
    assert model.believing(np.empty((0, 2))) is model


@pytest.mark.parametrize("figures", [[1.0, 250.0], [-3.0, -0.5], [-2.0, 5.0], [0.0, 0.0]])
def test_figures_come_back_from_the_model(figures: list[float]) -> None:
    scale = Scale.of(np.array(figures))
    modelled = scale.model(np.array(figures))
    assert (np.diff(modelled) >= 0).all() == (np.diff(figures) >= 0).all()
    assert scale.figure(modelled) == pytest.approx(figures)
    step = 1e-6 * max(1.0, abs(figures[0]))
    if figures[0]:
        slope = (scale.model(np.array([figures[0] + step])) - scale.model(np.array([figures[0]]))) / step
        assert scale.model_noise(np.array(figures[:1]), np.array([1.0])) == pytest.approx(abs(slope), rel=1e-3)


def test_features_tell_texts_apart_equally() -> None:
    features = Features(SPACE, WARP)
    configs: list[Config] = [{"a": 8, "b": False, "c": c, "f": 0.5} for c in "xyz"]
    x = features.of(SPACE.encode([*configs, {**configs[0], "b": True}]))
    assert x.shape == (4, features.count) == (4, 6)
    assert [float(np.linalg.norm(x[0] - x[k])) for k in (1, 2, 3)] == pytest.approx([1.0, 1.0, 1.0])


def test_the_design_moves_each_parameter_in_half_of_its_points() -> None:
    centre = centre_of(SPACE, {})
    assert SPACE.decode(centre[None, :])[0] == SPACE.default_config()
    points = SPACE.encode(list(design(WARP, centre, [1])))[:POINTS]
    moved = np.abs(points - centre) > 1e-9
    assert moved[:, 1].sum() == POINTS // 2, "a boolean that is moved is turned"
    assert (moved.sum(axis=0) <= POINTS // 2).all()
    assert moved.any(axis=1).all()


def test_a_default_outside_of_the_space_is_taken_for_the_nearest_point() -> None:
    parameters = [
        Parameter(name="block_size", kind=ParameterKind.INT, choices=(16, 32)),
        Parameter(name="c", kind=ParameterKind.ENUM, choices=("x", "y")),
        Parameter(name="a", kind=ParameterKind.INT, low=1, high=8),
        Parameter(name="b", kind=ParameterKind.BOOL),
    ]
    space = Space.build(parameters)
    default: Config = {"block_size": 128, "c": "other", "a": 4096, "b": 1, "unknown": 3}
    centre = space.decode(centre_of(space, default)[None, :])[0]
    assert (centre["block_size"], centre["a"]) == (32, 8)
    problem = Problem(space=space, directions=(Direction.MINIMISE,))
    history = (Observation(number=0, config=default, values=(1.0,)),)
    assert len(suggest(Task(problem=problem, history=history, n=6, call=0, seed=0))) == 6


def test_candidates_are_valid_and_partly_around_the_best() -> None:
    leader = SPACE.encode([{"a": 60, "b": True, "c": "z", "f": 0.9}])
    other = SPACE.encode([{"a": 5, "b": False, "c": "x", "f": 0.1}])
    points = candidates(WARP, leader, other, rng())
    configs = SPACE.decode(points)
    assert len(configs) > 500
    assert SPACE.feasible(configs).all()
    assert (SPACE.encode(configs) == points).all()
    assert len({SPACE.key(config) for config in configs}) == len(configs)
    near = (np.abs(points - leader) > 1e-9).sum(axis=1) <= 3
    assert near.mean() > 0.3
    mixed = ((np.abs(points - leader) < 1e-9) | (np.abs(points - other) < 1e-9)).all(axis=1)
    assert mixed.sum() == 2**4, "all mixtures"


def test_the_best_with_each_value_are_looked_around_too() -> None:
    configs: list[Config] = [
        {"a": 8, "b": True, "c": "x", "f": 0.1},
        {"a": 9, "b": True, "c": "x", "f": 0.2},
        {"a": 9, "b": True, "c": "y", "f": 0.3},
        {"a": 9, "b": False, "c": "x", "f": 0.4},
    ]
    assert SPACE.decode(niches(SPACE, SPACE.encode(configs))) == [configs[0], configs[3], configs[2]]


@pytest.mark.parametrize(
    ("low", "high", "warped"), [(1, 64, True), (8, 64, False), (0, 64, True), (0, 3, False), (-5, 64, False)]
)
def test_numbers_that_span_a_decade_are_warped(low: int, high: int, warped: bool) -> None:
    space = Space.build([Parameter(name="a", kind=ParameterKind.INT, low=low, high=high)])
    points = space.encode([{"a": a} for a in range(low, high + 1)])
    there = Warp(space).to(points)
    assert (np.diff(there[:, 0]) > 0).all()
    assert (there >= 0).all()
    assert (there <= 1).all()
    assert space.decode(Warp(space).back(there)) == space.decode(points)
    assert Warp(space, identity=True).to(points) == pytest.approx(points)
    middle = space.decode(Warp(space).back(np.array([[0.5]])))[0]["a"]
    assert (float(middle) < (low + high) / 4) == warped


def test_a_logarithmic_axis_and_a_real_one_from_0_are_left_as_they_are() -> None:
    parameters = [
        Parameter(name="l", kind=ParameterKind.INT, low=1, high=64, scale=ScaleKind.LOG),
        Parameter(name="z", kind=ParameterKind.FLOAT, low=0.0, high=2.0),
        Parameter(name="r", kind=ParameterKind.FLOAT, low=0.01, high=2.0),
    ]
    points = np.full((1, 3), 0.4)
    moved = Warp(Space.build(parameters)).to(points) != points
    assert moved.tolist() == [[False, False, True]]


def test_the_model_is_fitted_to_the_best_half_and_some_of_the_rest() -> None:
    z = rng().standard_normal(100)
    rows = surrogate._spread_out(z, 20)
    assert len(set(rows.tolist())) == 20
    assert set(np.argsort(z)[:10].tolist()) < set(rows.tolist())
    assert int(np.argmax(z)) in rows
    assert surrogate._spread_out(z, 100).tolist() == list(range(100))


@cache
def run_with(parts: Parts) -> list[Config]:
    """A short run: "b0" works with small "f" only."""
    parameters = [
        Parameter(name="a", kind=ParameterKind.INT, low=1, high=4096, default=32),
        *[Parameter(name=f"b{k}", kind=ParameterKind.BOOL, default=False) for k in range(3)],
        Parameter(name="f", kind=ParameterKind.FLOAT, low=0.0, high=1.0, default=0.5),
    ]
    problem = Problem(space=Space.build(parameters), directions=(Direction.MINIMISE,))
    history: list[Observation] = [Observation(number=0, config=problem.space.default_config(), values=(9.0,))]
    for number in range(1, 13):
        state = Task(problem=problem, history=tuple(history), n=1, call=number, seed=2)
        config = suggest(state, parts=parts)[0].config
        figure = 1.0 + abs(np.log(float(config["a"]) / 300)) + 3 * float(config["f"]) + (50 if config["b1"] else 0)
        reason = "start" if config["b0"] and float(config["f"]) > 0.05 else "oom" if float(config["a"]) > 250 else ""
        values = None if reason else (figure,)
        history.append(Observation(number=number, config=config, values=values, infeasible=bool(reason), reason=reason))
    return [observation.config for observation in history]


@pytest.mark.parametrize("part", [field.name for field in fields(Parts)])
def test_each_part_can_be_left_out_and_does_something(part: str) -> None:
    assert run_with(Parts(**{part: False})) != run_with(Parts())


@pytest.mark.parametrize("known", [0, 1])
def test_many_at_once_before_anything_is_known_are_spread_around_the_default(known: int) -> None:
    start = [Observation(number=0, config=SPACE.default_config(), values=(9.0,) if known else None, pending=not known)]
    found = suggest(task(start, n=12))
    assert len({SPACE.key(s.config) for s in found}) == 12
    assert {s.explanation["design"] for s in found} == {"around the default"}
    places = SPACE.encode([s.config for s in found])
    assert (places[:, 0].max() - places[:, 0].min()) > 0.5, "not all in one corner"
    assert len(suggest(task(start, n=40))) == 40


def test_far_from_the_nearest_good_point_is_by_how_much_was_moved() -> None:
    good: Config = {"a": 32, "b": False, "c": "x", "f": 0.5}
    points = SPACE.encode([good, {**good, "f": 0.8}, {**good, "b": True, "c": "z"}, {**good, "f": 0.2, "b": True}])
    assert distance(WARP, points, points[:1]).tolist() == pytest.approx([0.0, 0.5, 1.0, 1.0])
    assert distance(WARP, points, points[[0, 3]]).tolist() == pytest.approx([0.0, 0.5, 1.0, 0.0])


def test_values_never_seen_to_work_are_found() -> None:
    configs: list[Config] = [{"a": 8, "b": False, "c": "x", "f": 0.1}, {"a": 9, "b": False, "c": "y", "f": 0.2}]
    working, nothing = SPACE.encode(configs), np.empty((0, 4))
    assert untried(SPACE, working, nothing) == Value(1, 1, 0), "b = true"
    failed = SPACE.encode([{**configs[0], "b": True}])
    assert untried(SPACE, working, failed) == Value(2, 2, 0), 'c = "z" was tried less'
    assert untried(SPACE, np.vstack([working, SPACE.encode([{**configs[0], "c": "z"}])]), failed) == Value(1, 1, 1)
    given_up = np.repeat(SPACE.encode([{**configs[0], "b": True, "c": "z"}]), PATIENCE, axis=0)
    assert untried(SPACE, working, given_up) is None


def test_numbers_never_seen_to_work_are_tried_next_to_those_that_work() -> None:
    degrees = Parameter(name="n", kind=ParameterKind.INT, low=1, high=8, scale=ScaleKind.POW2)
    space = Space.build([degrees])
    eight, four, two = (space.encode([{"n": n}]) for n in (8, 4, 2))
    assert untried(space, eight, np.empty((0, 1))) == Value(0, 2, 0)
    assert untried(space, eight, four) == Value(0, 2, 1), "not 2 or 1"
    assert untried(space, eight, np.vstack([four] * PATIENCE)) is None
    assert untried(space, np.vstack([eight, four]), two) == Value(0, 1, 1)


def test_a_value_is_tried_with_as_little_else_changed_as_the_constraints_allow() -> None:
    best: Config = {"a": 2, "b": True, "c": "x", "f": 0.5}
    leader = SPACE.encode([best])[0]
    assert SPACE.decode(with_value(WARP, leader, Value(2, 1, 0), set(), rng())) == [{**best, "c": "y"}]
    # Without `b`, `a` must be at least 4.
    turned = SPACE.decode(with_value(WARP, leader, Value(1, 0, 0), set(), rng()))
    assert len(turned) > 1
    assert all(each["b"] is False and float(each["a"]) >= 4 for each in turned)
    assert all((each["c"], each["f"]) == ("x", 0.5) for each in turned)
    taken = {SPACE.key({**best, "c": "y"}) or ()}
    others = SPACE.decode(with_value(WARP, leader, Value(2, 1, 0), taken, rng()))
    assert others
    assert all(sum(each[name] != best[name] for name in best) == 2 for each in others)


def test_each_second_suggestion_gives_a_flag_another_chance() -> None:
    default = SPACE.default_config()
    history = observed([{**default, "a": a, "c": "xyz"[a % 3]} for a in range(20, 30)], *np.linspace(5, 6, 10))
    crashed = Observation(number=10, config={**default, "b": True}, infeasible=True)
    tried = [suggestion.config["b"] for suggestion in suggest(task([*history, crashed], n=6))]
    assert tried == [False, True, False, True, False, False], "the 12th and the 14th trial"


def test_doubt_moves_the_choice_and_not_the_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    default = SPACE.default_config()
    flags: list[Config] = [{**default, "b": k % 2 == 0, "c": "xyz"[k % 3], "a": 10 + 3 * k} for k in range(15)]
    state = task(observed(flags, *np.linspace(5, 6, 15)))
    sure = suggest(state, parts=Parts(doubt=False))[0]
    monkeypatch.setattr(method, "_DOUBT", 1000.0)
    doubting = suggest(state)[0]
    assert of_gain(sure)
    assert of_gain(doubting)
    assert doubting.config != sure.config
    assert 0 < doubting.explanation["expected_gain"] < 0.5, "relative to the best: a thousand deviations are far more"


def of_gain(suggestion: Suggestion) -> bool:
    return bool(suggestion.explanation["design"] == "expected gain")


def test_a_limit_that_is_broken_is_worth_more_than_an_objective() -> None:
    limit = Outcome(name="ttft_p95", direction=Direction.MINIMISE, limit=100.0)
    grid: list[Config] = [
        {"a": 1 if a == 4 and b else a, "b": b, "c": c, "f": f}
        for a in (4, 16, 32, 48, 64)
        for b, c, f in ((False, "x", 0.1), (True, "y", 0.9), (False, "z", 0.5), (True, "x", 0.6), (False, "y", 0.3))
    ]
    history = [
        # Small values of `a` are good and break the limit.
        Observation(number=k, config=c, values=(float(c["a"]),), outcomes=(400.0 - 8 * float(c["a"]),))
        for k, c in enumerate(grid)
    ]
    bound = [float(s.config["a"]) for s in suggest(task(history, n=2, outcomes=(limit,))) if of_gain(s)]
    free = [float(s.config["a"]) for s in suggest(task(history, n=2)) if of_gain(s)]
    assert len(bound) == len(free) == 2
    assert min(bound) > 30
    assert min(free) < 16
    kept = History.of(task(history, outcomes=(limit,))).kept
    assert [c["a"] for c, ok in zip(grid, kept, strict=True) if ok] == [48] * 5 + [64] * 5


def test_forecasts_are_in_the_objectives_own_sense() -> None:
    default = SPACE.default_config()
    configs: list[Config] = [{**default, "a": a} for a in range(10, 60, 5)]
    problem = Problem(space=SPACE, directions=(Direction.MAXIMISE,))
    history = tuple(Observation(number=k, config=c, values=(100.0 + k,)) for k, c in enumerate(configs))
    suggestions = suggest(Task(problem=problem, history=history, n=2, call=9, seed=0))
    found = next(suggestion.explanation for suggestion in suggestions if of_gain(suggestion))
    forecast = found["predicted"]["0"]
    assert 50 < forecast["low"] <= forecast["mean"] <= forecast["high"] < 200
    assert 0 <= found["expected_gain"] < 1


def test_a_value_that_crashed_with_the_best_is_tried_with_the_default() -> None:
    default = SPACE.default_config()
    best: Config = {"a": 60, "b": False, "c": "z", "f": 0.9}
    history = observed([default, {**default, "c": "y"}, best, {**best, "f": 0.8}], 9.0, 8.0, 5.0, 6.0)
    crashed = Observation(number=4, config={**best, "b": True}, infeasible=True)
    fifth = Observation(number=5, config={**best, "f": 0.7}, values=(5.5,))
    found = suggest(task([*history, crashed, fifth]))[0]
    assert found.explanation["design"] == "a value never seen to work"
    assert found.config == {**default, "b": True}
