"""Laws of SCOOT's pure parts: the threshold, the acquisition functions, the pruned cube."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scoot.coordinator.optimizer.improvement import expected_hypervolume_improvement
from scoot.coordinator.optimizer.scoot import mace
from scoot.coordinator.optimizer.scoot.features import Features
from scoot.coordinator.optimizer.scoot.solve import Pruned
from scoot.coordinator.optimizer.scoot.threshold import threshold
from scoot.coordinator.space.space import Space
from scoot.wire.spec import Parameter, ParameterKind, Scale

verdicts = st.lists(st.booleans(), max_size=120)
figures = st.floats(-5, 5)
widths = st.floats(0.01, 5)

SPACE = Space.build(
    [
        Parameter(name="seqs", kind=ParameterKind.INT, low=1, high=1024, scale=Scale.LOG),
        Parameter(name="tokens", kind=ParameterKind.INT, low=64, high=8192, step=64),
        Parameter(name="share", kind=ParameterKind.FLOAT, low=0.5, high=0.95),
        Parameter(name="policy", kind=ParameterKind.ENUM, choices=("fcfs", "priority", "other")),
        Parameter(name="chunked", kind=ParameterKind.BOOL),
        Parameter(name="chunk", kind=ParameterKind.INT, low=1, high=9, when="chunked"),
    ],
    ["tokens >= 8 * seqs", "chunked or tokens >= 2048", "chunk < 7 or policy != 'other'"],
)
POOL = SPACE.encode(SPACE.sample(np.random.default_rng(0), 64))


@given(verdicts)
def test_the_threshold_keeps_its_bounds_and_moves_by_one_step(history: list[bool]) -> None:
    levels = [threshold(history[:end]) for end in range(len(history) + 1)]
    assert levels[0] == 0.5
    assert all(0.25 <= level <= 0.75 for level in levels)
    for (before, after), good in zip(pairwise(levels), history, strict=True):
        if good:
            assert after in (before, round(before - 0.05, 2))
        else:
            assert after >= max(before, 0.5)
            assert after in (round(before + 0.05, 2), 0.5, 0.75)


@given(verdicts, st.integers(1, 30))
def test_the_threshold_forgets_what_came_before_enough_failures(history: list[bool], more: int) -> None:
    end = [False] * 6 + [True] * more
    assert threshold(history + end) == threshold(end)


@given(figures, figures, widths, widths, figures)
def test_a_wider_or_higher_distribution_promises_more(
    low: float, high: float, narrow: float, wide: float, best: float
) -> None:
    low, high = sorted((low, high))
    narrow, wide = sorted((narrow, wide))
    assume(high - low > 1e-6)

    def ei(mean: float, deviation: float) -> float:
        return float(mace.expected_improvement(np.array([mean]), np.array([deviation]), best)[0])

    assert ei(low, narrow) <= ei(high, narrow)
    assert ei(high, narrow) > ei(low, narrow) or high < best - 20 * narrow
    assert ei(low, narrow) <= ei(low, wide) + 1e-12


@given(st.lists(st.tuples(figures, figures), max_size=6), st.tuples(figures, figures), widths)
def test_ehvi_shrinks_with_every_observation_and_knows_no_order(
    points: list[tuple[float, float]], mean: tuple[float, float], width: float
) -> None:
    reference = np.array([1.0, 1.0])

    def value(front: list[tuple[float, float]]) -> float:
        array = np.asarray(front, dtype=np.float64).reshape(-1, 2)
        found = expected_hypervolume_improvement(np.array([mean]), np.full((1, 2), width), array, reference)
        return float(found[0])

    values = [value(points[:end]) for end in range(len(points) + 1)]
    assert all(after <= before + 1e-9 for before, after in pairwise(values))
    assert value(points[::-1] + points) <= values[-1] + 1e-9
    assert abs(value(points[::-1]) - values[-1]) < 1e-9


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_pruned_points_keep_the_known_constraints_and_stay_where_they_may(seed: int) -> None:
    units = np.random.default_rng(seed).uniform(-0.1, 1.1, (40, 6))
    found = Pruned(SPACE, POOL).inside(units)
    assert SPACE.feasible_points(found).all()
    assert SPACE.feasible(SPACE.decode(found)).all()
    fine = SPACE.feasible_points(np.clip(units, 0, 1))
    kept = [config for config, good in zip(SPACE.decode(np.clip(units, 0, 1)), fine, strict=True) if good]
    assert [SPACE.decode(found)[place] for place in np.flatnonzero(fine)] == kept
    assert np.array_equal(Pruned(SPACE, POOL).inside(found), found)
    assert np.allclose(SPACE.encode(SPACE.decode(found)), found, atol=1e-5)  # equal configurations, equal points


@given(st.integers(0, 2**32))
def test_features_are_the_cube_but_for_choices_without_order(seed: int) -> None:
    units = np.random.default_rng(seed).random((10, 6))
    features = Features(SPACE)
    found = features.of(units)
    assert found.shape == (10, 8)
    assert np.array_equal(found[:, :3], units[:, :3])
    assert np.array_equal(found[:, 3:6].sum(axis=1), np.ones(10))
    assert [row.tolist().index(1.0) for row in found[:, 3:6]] == [
        ("fcfs", "priority", "other").index(str(config["policy"])) for config in SPACE.decode(units)
    ]
    assert features.warped == [0, 1, 2, 7]  # neither the flag nor the columns of the policy
