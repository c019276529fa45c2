"""What users may do wrong, or in an order of their own, with whichever method: through the public Optimizer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from scoot.coordinator.optimizer import Infeasible, Observation, Optimizer, Parameter, ParameterKind, Scale
from scoot.coordinator.optimizer.registry import METHODS
from scoot.wire.errors import UserError

pytestmark = pytest.mark.timeout(180)  # a cold import of torch on a busy machine

SPACE = (
    Parameter(name="batch", kind=ParameterKind.INT, low=1, high=64, scale=Scale.LOG, default=8),
    Parameter(name="memory", kind=ParameterKind.FLOAT, low=0.5, high=0.95, default=0.9),
)


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(method: str, **more: Any) -> Optimizer:
    return Optimizer(SPACE, {"latency": "min", "throughput": "max"}, method=method, seed=5, **more)


def figures(config: dict[str, Any]) -> tuple[float, float]:
    return 50 / config["batch"] + config["memory"], math.sqrt(config["batch"]) * config["memory"]


@pytest.mark.parametrize("figure", [float("nan"), float("inf"), -math.inf, np.float64("nan")])
def test_a_figure_that_is_none_is_refused_and_the_search_goes_on(method: str, figure: float) -> None:
    optimizer = make(method)
    first, second = optimizer.ask(2)
    optimizer.tell(first, figures(first.config))
    for result in ((figure, 1.0), (1.0, figure)):
        with pytest.raises(UserError, match="not a finite number"):
            optimizer.tell(second, result)
        with pytest.raises(UserError, match="not all finite"):
            optimizer.tell(second, Observation(values=result))
    assert optimizer.pending == (second.config,)
    assert len(optimizer.ask()) == 1
    optimizer.tell(second, Infeasible("no figure"))


def test_a_history_of_another_space_is_refused_with_the_difference(method: str) -> None:
    other = Observation(number=1, config={"batch": 128, "block": 16}, values=(1.0, 2.0))
    with pytest.raises(UserError) as caught:
        make(method, history=[other])
    for part in ("trial 1", "`block` is not a parameter", "`batch` = 128 is none of 1 to 64", "`memory` has no value"):
        assert part in str(caught.value)


def test_the_order_in_which_trials_are_told_does_not_matter(method: str) -> None:
    straight, reverse = make(method), make(method)
    asked = straight.ask(8)
    assert reverse.ask(8) == asked
    results: list[Any] = [figures(each.config) for each in asked]
    results[3], results[5] = Infeasible("ENGINE_OOM"), None
    for suggestion, result in zip(asked[:7], results, strict=False):
        straight.tell(suggestion, result)
    for suggestion, result in reversed(list(zip(asked[:7], results, strict=False))):
        reverse.tell(suggestion, result)
    shuffled = make(method, history=[straight.history[place] for place in (6, 0, 7, 3, 1, 5, 2, 4)])
    assert shuffled.history == reverse.history == straight.history
    found = straight.ask()
    assert [each.source for each in found] == [method]
    assert reverse.ask() == found
