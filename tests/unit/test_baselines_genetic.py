"""RD and GA: where their points come from, and that the population follows from the history."""

from __future__ import annotations

import msgspec
import numpy as np

from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.optimizer import sobol
from scoot.coordinator.optimizer.base import Observation, Problem, Suggestion, Task
from scoot.coordinator.optimizer.baselines import genetic, sampling
from scoot.coordinator.optimizer.baselines.genetic import POPULATION
from scoot.coordinator.optimizer.baselines.proposals import Proposals
from scoot.coordinator.space.space import Space
from scoot.wire.spec import Config, Parameter, ParameterKind, Scale

SPACE = Space.build(
    [
        Parameter(name="a", kind=ParameterKind.INT, low=1, high=500),
        Parameter(name="p", kind=ParameterKind.INT, low=1, high=64, scale=Scale.POW2),
        Parameter(name="c", kind=ParameterKind.ENUM, choices=("x", "y", "z")),
        Parameter(name="f", kind=ParameterKind.BOOL),
        Parameter(name="r", kind=ParameterKind.FLOAT, low=0.0, high=1.0),
    ],
    ["a >= 4 * p"],
)
LOW = (Direction.MINIMISE,)
PAIR = (Direction.MINIMISE, Direction.MAXIMISE)


def task(history: tuple[Observation, ...], n: int = 1, directions: tuple[Direction, ...] = LOW, seed: int = 0) -> Task:
    problem = Problem(space=SPACE, directions=directions)
    return Task(problem=problem, history=history, n=n, call=len(history), seed=seed)


def cost(config: Config) -> float:
    point = SPACE.encode([config])[0]
    return float(((point - 0.6) ** 2).sum())


def observed(configs: list[Config], first: int = 0) -> tuple[Observation, ...]:
    return tuple(
        Observation(number=k, config=config, values=(cost(config),)) for k, config in enumerate(configs, first)
    )


def designs(suggestions: tuple[Suggestion, ...]) -> list[str]:
    return [suggestion.explanation["design"] for suggestion in suggestions]


def test_rd_is_sobol_under_the_papers_name() -> None:
    mine, theirs = sampling.suggest(task((), n=7)), sobol.suggest(task((), n=7))
    assert [point.config for point in mine] == [point.config for point in theirs]
    assert {point.source for point in mine} == {"rd"}


def test_proposals_know_history_default_and_each_other() -> None:
    config = SPACE.sample(np.random.default_rng(0), 3)
    proposals = Proposals(task(observed(config[:1]), n=2), "test")
    assert not proposals.add(config[0], {})
    assert not proposals.add({"a": 1}, {})
    assert proposals.add(config[1], {})
    assert not proposals.add(config[1], {})
    assert proposals.add_sobol(5, "why") == 1
    assert not proposals.add(config[2], {})
    assert proposals.found[0].config == config[1]
    assert proposals.found[1].explanation["design"] == "why"


def test_the_first_population_is_ten_trials_the_default_included() -> None:
    default = observed(SPACE.sample(np.random.default_rng(1), 1))
    first = genetic.suggest(task(default, n=POPULATION - 1))
    assert designs(first) == ["first population (Sobol)"] * 9
    history = default + observed([point.config for point in first], 1)
    assert designs(genetic.suggest(task(history, n=3))) == ["GA offspring"] * 3


def test_pending_trials_are_no_parents() -> None:
    waiting = tuple(msgspec.structs.replace(each, values=None, pending=True) for each in observed(
        SPACE.sample(np.random.default_rng(1), 20)))  # fmt: skip
    assert designs(genetic.suggest(task(waiting, n=2))) == ["Sobol fill-up"] * 2


def test_only_the_best_ten_have_offspring() -> None:
    """Twenty more that are worse than all of them change nothing."""
    everyone = sorted(SPACE.sample(np.random.default_rng(2), 40), key=cost)
    best = observed(everyone[:POPULATION])
    worse = observed(everyone[20:], POPULATION)
    same = msgspec.structs.replace
    short = genetic.suggest(task((*best, *(same(each, values=None, pending=True) for each in worse)), n=4))
    long = genetic.suggest(task((*best, *worse), n=4))
    assert [point.config for point in long] == [point.config for point in short]


def test_failures_have_no_offspring_while_ten_others_work() -> None:
    everyone = sorted(SPACE.sample(np.random.default_rng(2), 40), key=cost)
    good = observed(everyone[20:30])
    bad = observed(everyone[:10], POPULATION)  # they would be the best
    crashed = tuple(msgspec.structs.replace(each, values=None, infeasible=True) for each in bad)
    pending = tuple(msgspec.structs.replace(each, values=None, pending=True) for each in bad)
    punished = [point.config for point in genetic.suggest(task((*good, *crashed), n=4))]
    assert punished == [point.config for point in genetic.suggest(task((*good, *pending), n=4))]
    assert punished != [point.config for point in genetic.suggest(task((*good, *bad), n=4))]


def test_offspring_mix_their_parents_and_keep_the_constraints() -> None:
    """Parents that agree on a choice have children that mostly do; every value stays within its parameter."""
    parents = [dict(config, c="y", f=True) for config in SPACE.sample(np.random.default_rng(3), 30)]
    children = [point.config for point in genetic.suggest(task(observed(parents), n=40))]
    assert len(children) == 40
    assert SPACE.feasible(children).all()
    assert sum(child["c"] == "y" for child in children) > 28
    assert sum(child["f"] is True for child in children) > 28
    assert len({child["c"] for child in children}) > 1, "mutation reaches other choices"


def run(directions: tuple[Direction, ...], budget: int, seed: int) -> list[Config]:
    history: tuple[Observation, ...] = ()
    while len(history) < budget:
        (point,) = genetic.suggest(task(history, directions=directions, seed=seed))
        point_cost = cost(point.config)
        values = (point_cost, -abs(point_cost - 0.2))[: len(directions)]
        history += (Observation(number=len(history), config=point.config, values=values),)
    return [observation.config for observation in history]


def test_it_gets_better_than_random_search() -> None:
    ours, theirs = [], []
    for seed in range(4):
        ours.append(min(map(cost, run(LOW, 80, seed))))
        theirs.append(min(cost(point.config) for point in sobol.suggest(task((), n=80, seed=seed))))
    assert np.mean(ours) < np.mean(theirs)


def test_two_objectives_breed_by_dominance() -> None:
    configs = run(PAIR, 40, seed=1)
    early, late = (
        np.mean([cost(config) for config in configs[:10]]),
        np.mean([cost(config) for config in configs[-10:]]),
    )
    assert late < early
    history = observed(configs)
    pair = tuple(msgspec.structs.replace(each, values=(1.0, 2.0)) for each in history)
    assert designs(genetic.suggest(task(pair, directions=PAIR))) == ["NSGA-II offspring"]
