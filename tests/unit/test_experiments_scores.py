"""Scores against cases by hand, and the tables made of them."""

from __future__ import annotations

import msgspec
import pytest

from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.optimizer.base import Outcome, Problem
from scoot.coordinator.space.space import Space
from scoot.experiments.evaluation import Evaluated
from scoot.experiments.figures import chosen, gains, improvements, joint_fronts, recommended, speed
from scoot.experiments.run import Run, RunSpec, Step
from scoot.experiments.scores import (
    Reference,
    duel,
    improvement,
    keeps,
    paired,
    reaches,
    reference_of,
    score,
    summarise,
    tunable,
)
from scoot.experiments.table import Known, comparison, labels, overview
from scoot.wire.spec import Parameter, ParameterKind

LESS, MORE = Direction.MINIMISE, Direction.MAXIMISE


def problem(*directions: Direction, outcomes: tuple[Outcome, ...] = ()) -> Problem:
    space = Space.build((Parameter(name="a", kind=ParameterKind.INT, low=0, high=9, default=0),))
    return Problem(space=space, directions=directions, outcomes=outcomes)


def run_of(values: list[tuple[float, ...] | None], *, method: str = "m", seed: int = 0, budget: int = 0) -> Run:
    steps = tuple(
        Step(
            number=number,
            config={"a": number},
            trial=Evaluated(values=each, reason="" if each else "ENGINE_OOM", simulated_s=10.0, outcomes=()),
            source="default" if number == 0 else "m",
            asked_s=10.0 * number,
            ended_s=10.0 * number + 10,
            cpu_s=float(number),
        )
        for number, each in enumerate(values)
    )
    return Run(spec=RunSpec(service="toy", method=method, seed=seed, budget=budget or len(values)), steps=steps)


def reference(anchor: tuple[float, ...] | None, *front: tuple[float, ...]) -> Reference:
    return Reference(service="toy", tried=9, failed=2, broken=0, default=anchor, anchor=anchor, front=front)


def test_quality_is_one_minus_regret_of_one_objective() -> None:
    run = run_of([(100.0,), (90.0,), None, (120.0,), (60.0,)])
    found = score(run, problem(LESS), reference((100.0,), (50.0,)))
    assert found.quality == pytest.approx((0.0, 0.2, 0.2, 0.2, 0.8))
    assert (found.wasted, found.broken, found.total_s) == (1, 0, 50.0)
    assert found.cpu_s == (1.0, 2.0, 3.0, 4.0)


def test_quality_of_what_is_maximised() -> None:
    run = run_of([(10.0,), (5.0,), (14.0,)])
    assert score(run, problem(MORE), reference((10.0,), (18.0,))).quality == pytest.approx((0.0, 0.0, 0.5))


def test_quality_of_two_objectives_is_the_share_of_the_hypervolume() -> None:
    run = run_of([(10.0, 10.0), (5.0, 12.0), (5.0, 5.0), (9.0, 1.0)])
    known = reference((10.0, 10.0), (0.0, 5.0), (5.0, 0.0))
    assert score(run, problem(LESS, LESS), known).quality == pytest.approx((0.0, 0.0, 25 / 75, 29 / 75))


def test_logarithmic_quality_is_of_ratios() -> None:
    known = reference((10_000.0,), (1.0,))
    run = run_of([(10_000.0,), (100.0,), (10.0,)])
    assert score(run, problem(LESS), known, logarithmic=True).quality == pytest.approx((0.0, 0.5, 0.75))
    assert score(run, problem(LESS), known).quality[1] > 0.98
    rates = run_of([(1.0,), (10.0,)])
    assert score(rates, problem(MORE), reference((1.0,), (100.0,)), logarithmic=True).quality == pytest.approx((0, 0.5))


def test_a_run_that_ended_early_keeps_what_it_had() -> None:
    run = run_of([(100.0,), (75.0,)], budget=4)
    assert score(run, problem(LESS), reference((100.0,), (50.0,))).quality == pytest.approx((0, 0.5, 0.5, 0.5))


def test_quality_counts_trials_as_they_end() -> None:
    run = run_of([(100.0,), (60.0,), (80.0,)])
    late = (run.steps[0], msgspec.structs.replace(run.steps[1], ended_s=99.0), run.steps[2])
    found = score(Run(spec=run.spec, steps=late), problem(LESS), reference((100.0,), (50.0,)))
    assert found.quality == pytest.approx((0.0, 0.4, 0.8))


def test_what_breaks_a_limit_counts_for_nothing() -> None:
    bounded = problem(LESS, outcomes=(Outcome(name="ttft_p95", direction=LESS, limit=5.0),))
    kept = Evaluated(values=(8.0,), outcomes=(5.0,))
    broke = Evaluated(values=(1.0,), outcomes=(5.1,))
    assert [keeps(each, bounded.outcomes) for each in (kept, broke, Evaluated(reason="ENGINE_OOM"))] == [
        True,
        False,
        False,
    ]
    default = Evaluated(values=(10.0,), outcomes=(1.0,))
    known = reference_of("toy", bounded, [default, kept, broke], default=default, random=[])
    assert (known.front, known.anchor, known.broken, known.failed) == (((8.0,),), (10.0,), 1, 0)


def test_a_default_that_fails_is_replaced_by_the_median_of_what_was_drawn() -> None:
    trials = [Evaluated(values=(each,), outcomes=()) for each in (1.0, 2.0, 6.0)] + [Evaluated(reason="ENGINE_OOM")]
    known = reference_of("toy", problem(LESS), trials, default=trials[-1], random=trials)
    assert (known.default, known.anchor, known.front, known.failed) == (None, (2.0,), ((1.0,),), 1)
    nothing = reference_of("toy", problem(LESS), trials[-1:], default=trials[-1], random=trials[-1:])
    assert nothing.anchor is None
    assert not tunable(nothing, problem(LESS))
    with pytest.raises(ValueError, match="no configuration of toy runs"):
        score(run_of([None]), problem(LESS), nothing)


def test_the_front_is_what_nothing_dominates() -> None:
    trials = [Evaluated(values=each, outcomes=()) for each in ((1.0, 9.0), (2.0, 12.0), (3.0, 8.0), (1.0, 9.0))]
    known = reference_of("toy", problem(LESS, MORE), trials, default=trials[2], random=[])
    assert known.front == ((1.0, 9.0), (2.0, 12.0))


def test_what_there_is_to_tune() -> None:
    assert improvement(reference((100.0,), (80.0,)), problem(LESS)) == pytest.approx(0.2)
    assert improvement(reference((10.0, 10.0), (9.0, 6.0)), problem(LESS, LESS)) == pytest.approx(0.2)
    assert tunable(reference((100.0,), (94.0,)), problem(LESS))
    assert not tunable(reference((100.0,), (96.0,)), problem(LESS))


def test_duels_leave_ties_out_of_the_sign_test() -> None:
    found = duel([1.0, 1.0, 1.0, 1.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0, 0.5, 1.0])
    assert (found.wins, found.ties, found.losses) == (4, 1, 1)
    assert found.p == pytest.approx(2 * (5 + 1) / 32)
    assert duel([1.0], [1.0]).p == 1.0


def test_summaries() -> None:
    known = reference((100.0,), (50.0,))
    found = summarise(
        [
            score(run_of([(100.0,), (75.0,), (50.0,)]), problem(LESS), known),
            score(run_of([(100.0,), None, (90.0,)]), problem(LESS), known),
        ]
    )
    assert found.quality == pytest.approx((0.0, 0.25, 0.6))
    assert (found.runs, found.wasted, found.cpu_s) == (2, 0.5, 1.5)
    assert found.worst == pytest.approx(0.2)
    assert found.p10 == pytest.approx(0.28)
    assert (reaches(found, 0.2), reaches(found, 0.6), reaches(found, 0.7)) == (2, 3, None)
    assert found.at(30) == found.at(3)


def test_only_pairs_that_every_method_has_are_compared() -> None:
    known = reference((100.0,), (50.0,))
    found = score(run_of([(100.0,)]), problem(LESS), known)
    assert paired({"x": {("a", 0): found, ("a", 1): found}, "y": {("a", 1): found, ("b", 1): found}}) == (("a", 1),)
    assert paired({}) == ()


def both(directions: Problem, known: Reference, *runs: Run) -> tuple[tuple[Run, ...], dict[str, Known]]:
    return runs, {"toy": Known(problem=directions, reference=known)}


def test_the_tables_of_a_comparison() -> None:
    runs, known = both(
        problem(LESS),
        reference((100.0,), (50.0,)),
        run_of([(100.0,), (60.0,)], method="good"),
        run_of([(100.0,), None], method="bad"),
    )
    text = "\n".join(comparison(runs, known, against="bad"))
    assert "| good | 1 | 0.200 | 0.200 | 0.200 | 0.0 | 0.0 | 1 |" in text
    assert "| bad | 1 | 1.000 | 1.000 | 1.000 | 1.0 | 0.0 | 1 |" in text
    assert text.index("| good |") < text.index("| bad |")
    assert "| good | bad | 1 | 0 | 0 | 1 |" in text
    assert "| toy | 1 | 0.200 | 1.000 |" in text


def test_services_without_room_and_methods_that_failed_are_named() -> None:
    run = run_of([(100.0,), (99.0,)])
    runs, known = both(
        problem(LESS), reference((100.0,), (98.0,)), Run(spec=run.spec, steps=run.steps, error="it gave up")
    )
    text = "\n".join(comparison(runs, known, against="m"))
    assert "Too little to tune, left out of the means: toy." in text
    assert "* toy m seed 0: it gave up" in text


def test_labels_tell_apart_what_differs() -> None:
    runs = [run_of([(1.0,)]), run_of([(1.0,)], seed=1)]
    assert list(labels(runs)) == ["m"]
    wide = Run(spec=RunSpec(service="toy", method="m", seed=0, budget=1, parallelism=8), steps=runs[0].steps)
    assert list(labels([*runs, wide])) == ["m p1", "m p8"]


def test_the_overview_of_services() -> None:
    _, known = both(problem(LESS), reference((100.0,), (80.0,)))
    assert (
        overview(known, {"toy": 0.5}, ["toy"])[-1] == "| toy | development | 1 | 100 | 80 | 20 % | 22 % | 0 % | 0.50 |"
    )


def test_what_would_be_recommended() -> None:
    two = problem(LESS, LESS)
    run = run_of([(10.0, 10.0), (1.0, 11.0), (9.0, 2.0), (4.0, 4.0), None])
    assert chosen(run, two) == 3
    assert gains(run, two) == pytest.approx((0.6, 0.6))
    assert gains(run_of([(10.0,), (12.0,)]), problem(MORE)) == pytest.approx((0.2,))
    assert gains(run_of([None, (12.0,)]), problem(MORE)) is None
    assert chosen(run_of([None, None]), two) is None


def test_figures_of_the_paper() -> None:
    two = problem(LESS, LESS)
    runs, known = both(
        two,
        reference((10.0, 10.0), (4.0, 4.0)),
        run_of([(10.0, 10.0), (5.0, 5.0), (2.0, 20.0)], method="x"),
        run_of([(10.0, 10.0), (4.0, 6.0), (8.0, 8.0)], method="y"),
    )
    assert improvements(runs, known)[-1] == "| toy | 50.0 % / 50.0 % | 60.0 % / 40.0 % |"
    assert speed(runs, known)[2:] == ["| x | 1 | 50.0 % | 0.01 | 0.01 |", "| y | 1 | 50.0 % | 0.01 | 0.01 |"]
    assert recommended(runs, known)[-1] == "| toy | 10 / 10 | 5 ± 0 / 5 ± 0 | 4 ± 0 / 6 ± 0 | 4 / 4 |"
    # The joint front is (2, 20), (4, 6) and (5, 5): two points and all of the width are x's.
    assert joint_fronts(runs, known)[2:] == ["| toy | x | 67 % | 100 % |", "| toy | y | 33 % | 0 % |"]
