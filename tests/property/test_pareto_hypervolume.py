"""Dominance and hypervolume against slow, obvious definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.coordinator.objective.hypervolume import hypervolume_2d, single_point_hypervolume
from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.objective.pareto import minimise, pareto_front

coordinates = st.integers(0, 6).map(float)


def tables(columns: int) -> st.SearchStrategy[list[list[float]]]:
    return st.lists(st.lists(coordinates, min_size=columns, max_size=columns), max_size=12)


points = st.integers(1, 3).flatmap(tables)


def dominates(one: list[float], other: list[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


@settings(deadline=None)
@given(points)
def test_the_front_is_what_nothing_dominates(rows: list[list[float]]) -> None:
    mask = pareto_front(np.array(rows))
    assert mask.tolist() == [not any(dominates(other, row) for other in rows) for row in rows]


@settings(deadline=None)
@given(points, st.randoms(use_true_random=False))
def test_the_front_does_not_depend_on_the_order(rows: list[list[float]], random: np.random.Generator) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    front = sorted(itertools.compress(rows, pareto_front(np.array(rows))))
    assert front == sorted(itertools.compress(shuffled, pareto_front(np.array(shuffled))))


def test_points_without_a_value_are_never_on_the_front() -> None:
    assert pareto_front([[np.nan, 0.0], [1.0, 1.0], [2.0, np.inf]]).tolist() == [False, True, False]


@settings(deadline=None)
@given(tables(2), st.integers(0, 7), st.integers(0, 7))
def test_hypervolume_of_two_objectives_counts_the_unit_squares(rows: list[list[float]], right: int, top: int) -> None:
    squares = sum(any(row[0] <= x and row[1] <= y for row in rows) for x in range(right) for y in range(top))
    assert hypervolume_2d(np.array(rows), (right, top)) == squares


@settings(deadline=None)
@given(st.lists(coordinates, min_size=1, max_size=3), st.integers(0, 7))
def test_single_point_hypervolume_is_the_area_of_its_box(point: list[float], corner: int) -> None:
    cells = itertools.product(range(corner), repeat=len(point))
    count = sum(all(p <= c for p, c in zip(point, cell, strict=True)) for cell in cells)
    assert single_point_hypervolume(point, [corner] * len(point)) == count


def test_minimise_turns_what_is_maximised() -> None:
    directions = (Direction.MAXIMISE, Direction.MINIMISE)
    assert minimise([[3.0, 2.0]], directions).tolist() == [[-3.0, 2.0]]
    assert minimise([], directions).shape == (0, 2)
    with pytest.raises(ValueError, match="1 values per point for 2 objectives"):
        minimise([[1.0]], directions)


def test_hypervolume_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(N, 2\)"):
        hypervolume_2d([[1.0, 2.0, 3.0]], (4.0, 4.0))
