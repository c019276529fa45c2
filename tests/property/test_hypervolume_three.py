"""Hypervolume over one to three objectives, against inclusion-exclusion and counting."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.coordinator.objective.hypervolume import hypervolume, hypervolume_2d, hypervolume_3d

coordinate = st.integers(-3, 9)
corner = st.integers(-1, 8)


def by_inclusion_exclusion(points: list[list[int]], reference: list[int]) -> int:
    """Volume of the union of the boxes: those of one point, less those that two have in common, and so on."""
    inside = [point for point in points if all(x < r for x, r in zip(point, reference, strict=True))]
    total = 0
    for size in range(1, len(inside) + 1):
        for chosen in combinations(inside, size):
            sides = [r - max(column) for column, r in zip(zip(*chosen, strict=True), reference, strict=True)]
            total += (-1) ** (size + 1) * int(np.prod(sides))
    return total


@given(st.lists(st.lists(coordinate, min_size=3, max_size=3), max_size=7), st.lists(corner, min_size=3, max_size=3))
def test_three_objectives(points: list[list[int]], reference: list[int]) -> None:
    expected = by_inclusion_exclusion(points, reference)
    assert hypervolume_3d(points, reference) == expected
    assert hypervolume(points, reference) == expected
    assert hypervolume_3d([[x[2], x[0], x[1]] for x in points], [reference[2], *reference[:2]]) == expected


@given(st.lists(st.lists(coordinate, min_size=2, max_size=2), max_size=7), st.lists(corner, min_size=2, max_size=2))
def test_two_objectives(points: list[list[int]], reference: list[int]) -> None:
    assert hypervolume(points, reference) == by_inclusion_exclusion(points, reference)
    raised = [[*point, 0] for point in points]
    assert hypervolume_3d(raised, [*reference, 4]) == 4 * hypervolume_2d(points, reference)


@given(st.lists(st.lists(coordinate, min_size=1, max_size=1), max_size=5), corner)
def test_one_objective(points: list[list[int]], reference: int) -> None:
    assert hypervolume(points, [reference]) == by_inclusion_exclusion(points, [reference])


def test_many_points_agree_with_a_count_of_cells() -> None:
    rng = np.random.default_rng(4)
    points = rng.integers(0, 20, (200, 3))
    cells = np.stack(np.meshgrid(*[np.arange(20)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    dominated = np.zeros(len(cells), dtype=bool)
    for point in points:
        dominated |= (cells >= point).all(axis=1)
    assert hypervolume(points, [20, 20, 20]) == dominated.sum()


@pytest.mark.parametrize("width", [1, 2, 4])
def test_other_numbers_of_objectives_are_refused(width: int) -> None:
    with pytest.raises(ValueError, match="need"):
        hypervolume_3d(np.zeros((2, width)), np.ones(width))
    with pytest.raises(ValueError, match="need"):
        hypervolume(np.zeros((2, width)), np.ones(width + 1))
    with pytest.raises(ValueError, match="need"):
        hypervolume(np.zeros((2, 4)), np.ones(4))
