"""VBO: the forest's mean and spread, and what becomes of them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.objective.pareto import FloatArray
from scoot.coordinator.optimizer.base import Observation, Problem, Suggestion, Task
from scoot.coordinator.optimizer.baselines.forest import TREES, Forest
from scoot.coordinator.optimizer.baselines.vanilla import KAPPA, suggest
from scoot.coordinator.space.space import Space
from scoot.wire.errors import UserError
from scoot.wire.spec import Config, Parameter, ParameterKind

SPACE = Space.build(
    [
        Parameter(name="a", kind=ParameterKind.INT, low=0, high=99),
        Parameter(name="b", kind=ParameterKind.FLOAT, low=0.0, high=1.0),
    ],
    ["a != 50"],
)
LOW, HIGH = Direction.MINIMISE, Direction.MAXIMISE


def told(*directions: Direction, history: tuple[Observation, ...], n: int = 1) -> tuple[Suggestion, ...]:
    problem = Problem(space=SPACE, directions=directions)
    return suggest(Task(problem=problem, history=history, n=n, call=len(history), seed=3))


def curve(config: Config) -> float:
    return (float(config["a"]) - 30.0) ** 2 + 100.0 * float(config["b"])


def around(size: int, sign: float = 1.0) -> tuple[Observation, ...]:
    configs = SPACE.sample(np.random.default_rng(5), size)
    return tuple(
        Observation(number=k, config=config, values=(sign * curve(config),)) for k, config in enumerate(configs)
    )


# -- forest ------------------------------------------------------------------------------------------------------------


def test_the_forest_is_the_mean_and_spread_of_its_trees() -> None:
    sklearn = pytest.importorskip("sklearn.ensemble")
    rng = np.random.default_rng(0)
    units, figures, asked = rng.random((40, 3)), rng.random((40, 2)), rng.random((17, 3))
    mean, deviation = Forest(units, figures, seed=9).predict(asked)
    for place in (0, 1):
        model = sklearn.RandomForestRegressor(TREES, random_state=9).fit(units, figures[:, place])
        trees = np.stack([tree.predict(asked) for tree in model.estimators_])
        assert mean[:, place] == pytest.approx(model.predict(asked))
        assert deviation[:, place] == pytest.approx(trees.std(axis=0))


def test_what_is_believed_is_learnt_as_it_was_expected() -> None:
    rng = np.random.default_rng(0)
    forest = Forest(rng.random((20, 2)), rng.random((20, 1)), seed=1)
    asked = rng.random((3, 2))
    believing = forest.believing(asked)
    assert np.array_equal(believing.units[20:], asked)
    assert np.array_equal(believing.figures[20:], forest.predict(asked)[0])
    assert believing.predict(asked)[1].mean() < forest.predict(asked)[1].mean()
    assert forest.believing(asked[:0]) is forest


# -- suggestions -------------------------------------------------------------------------------------------------------


def test_the_first_d_points_are_a_sobol_design_whatever_the_default_is() -> None:
    default = Observation(number=0, config={"a": 1, "b": 0.5}, values=(1.0,))
    first = told(LOW, history=(default,), n=2)
    assert [point.explanation["design"] for point in first] == ["first design (Sobol)"] * 2
    shared = tuple(Observation(number=k, config=point.config, values=(2.0 + k,)) for k, point in enumerate(first, 1))
    (after,) = told(LOW, history=(default, *shared))
    assert after.explanation["design"] == "UCB"
    assert {point.source for point in (*first, after)} == {"vbo"}


def test_it_finds_the_valley_and_says_why() -> None:
    history = around(40)
    (point,) = told(LOW, history=history)
    assert curve(point.config) < np.median([curve(observation.config) for observation in history])
    predicted = point.explanation["predicted"]["0"]
    deviation = (predicted["high"] - predicted["low"]) / (2 * 1.6448536)
    assert point.explanation["acquisition"]["ucb"] == pytest.approx(KAPPA * deviation - predicted["mean"])
    assert predicted["low"] <= predicted["mean"] <= predicted["high"]


def test_it_closes_in_on_the_optimum() -> None:
    history = around(12)
    while len(history) < 32:
        (point,) = told(LOW, history=history)
        history += (Observation(number=len(history), config=point.config, values=(curve(point.config),)),)
    found = [curve(observation.config) for observation in history]
    assert np.median(found[-10:]) < np.median(found[:12]) / 5
    assert min(found[12:]) < min(found[:12])


def test_more_is_better_where_the_metric_says_so() -> None:
    (down,) = told(LOW, history=around(40))
    (up,) = told(HIGH, history=around(40, sign=-1.0))
    assert up.config == down.config
    turned = up.explanation["predicted"]["0"]
    plain = down.explanation["predicted"]["0"]
    assert [turned["mean"], turned["low"], turned["high"]] == [-plain["mean"], -plain["high"], -plain["low"]]


def test_crashes_keep_it_away() -> None:
    """The valley of the objective crashes: a method that learnt the values alone would go there."""
    history = tuple(
        Observation(number=each.number, config=each.config, infeasible=True) if float(each.config["a"]) < 55 else each
        for each in around(60)
    )
    found = told(LOW, history=history, n=4)
    assert sum(float(point.config["a"]) >= 50 for point in found) >= 3


def test_pending_trials_turn_it_elsewhere() -> None:
    history = around(40)
    (first,) = told(LOW, history=history)
    waiting = Observation(number=40, config=first.config, pending=True)
    (second,) = told(LOW, history=(*history, waiting))
    assert second.config != first.config


def test_many_at_once_share_forests_and_few_have_one_each(monkeypatch: pytest.MonkeyPatch) -> None:
    grown: list[int] = []
    real = Forest.__init__

    def counted(self: Forest, units: FloatArray, figures: FloatArray, seed: int) -> None:
        grown.append(len(units))
        real(self, units, figures, seed)

    monkeypatch.setattr(Forest, "__init__", counted)
    history = around(20)
    assert len(told(LOW, history=history, n=4)) == 4
    assert grown == [20, 21, 22, 23]
    grown.clear()
    assert len(told(LOW, history=history, n=70)) == 70
    assert grown == [20, *range(23, 90, 3)]  # three from each, so that there are no more than 32


def test_two_objectives_are_worth_their_hypervolume() -> None:
    history = tuple(
        Observation(number=k, config=config, values=(float(config["a"]), float(config["a"]) * 2 + float(config["b"])))
        for k, config in enumerate(SPACE.sample(np.random.default_rng(2), 30))
    )
    (point,) = told(LOW, HIGH, history=history)
    assert point.explanation["design"] == "EHVI"
    assert point.explanation["acquisition"]["ehvi"] > 0
    assert set(point.explanation["predicted"]) == {"0", "1"}
    assert msgspec.json.decode(msgspec.json.encode(point.explanation)) == point.explanation


def test_three_objectives_are_refused() -> None:
    with pytest.raises(UserError, match="takes at most 2 objectives, not 3"):
        told(LOW, LOW, HIGH, history=())
