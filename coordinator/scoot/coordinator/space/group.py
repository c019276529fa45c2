"""Groups: regions tied together by conditions, whose different configurations are counted and listed.

To a region every parameter has a value always; configurations that differ in inactive parameters alone are one. A group
is what has to be looked at together to tell them apart: regions whose parameters decide which others of the group are
active. Conditional parameters that nothing else depends on (most are) multiply the count where they are active, and are
not enumerated for it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np

from scoot.coordinator.space.condition import INACTIVE, BoolArray, Columns, Condition
from scoot.coordinator.space.encoding import Axis, FloatArray, GridAxis
from scoot.coordinator.space.region import ENUMERABLE, Region, tied

_CHUNK: Final = 65_536
_SAMPLES: Final = 16_384


class Count(NamedTuple):
    """Different configurations of a group: how many, whether counted or estimated, and as what share of all."""

    number: int
    exact: bool
    share: float


@dataclass(frozen=True, eq=False)
class Group:
    """Regions and the conditions of their parameters.

    Points are rows over the axes of all regions, one region after the other; (N, k).

    Attributes:
        regions: at least one.
        conditions: those of their axes, each behind those that it depends on; they mention no other axes.
        facts: columns of shape ().
    """

    regions: tuple[Region, ...]
    conditions: tuple[Condition, ...]
    facts: Columns

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """The axes of all regions, one region after the other."""
        return tuple(axis for region in self.regions for axis in region.axes)

    @cached_property
    def combinations(self) -> int:
        """Different configurations before constraints; estimated where they are too many to be enumerated."""
        raw = _combinations(self.axes)
        if not self.conditions:
            return raw
        free = tuple(Region((axis,), (), self.facts) for axis in self.axes)
        return replace(self, regions=free).size().number

    def size(self) -> Count:
        """Different configurations that satisfy the constraints. Axes without a finite number of values count once."""
        if not self.conditions:
            (region,) = self.regions
            return _size_of(region)
        if self._enumerable:
            weights: Counter[bytes] = Counter()
            for points in self._core_points():
                rows, counts = np.unique(np.packbits(self._active_leaves(points), axis=1), axis=0, return_counts=True)
                weights.update({row.tobytes(): int(n) for row, n in zip(rows, counts, strict=True)})
            count = 0
            for row, n in weights.items():
                active = np.unpackbits(np.frombuffer(row, dtype=np.uint8), count=len(self._leaves))
                count += n * math.prod(_count(axis) for axis, on in zip(self._leaf_axes, active, strict=True) if on)
            return Count(count, exact=True, share=self._share(count))
        return self._estimate()

    def points(self) -> FloatArray | None:
        """Every different feasible configuration as a point; None if that is not finite or too much to enumerate."""
        if not self._enumerable or any(region.grid is None for region in self.regions):
            return None
        rows = np.concatenate([np.empty((0, len(self._core_axes))), *self._core_points()])
        active = self._active_leaves(rows)
        places = {axis.name: place for place, axis in enumerate(self.axes)}
        result = np.full((len(rows), len(self.axes)), INACTIVE)
        result[:, [places[axis.name] for axis in self._core_axes]] = rows
        for leaf, axis in enumerate(self._leaf_axes):
            if isinstance(axis, GridAxis):
                repeats = np.where(active[:, leaf], axis.count, 1)
                first = np.repeat(np.cumsum(repeats) - repeats, repeats)
                index = np.arange(len(first)) - first
                result, active = np.repeat(result, repeats, axis=0), np.repeat(active, repeats, axis=0)
                values = np.where(active[:, leaf], axis.units(np.minimum(index, axis.count - 1)), INACTIVE)
                result[:, places[axis.name]] = values
        return result

    # -- inside --------------------------------------------------------------------------------------------------------

    @cached_property
    def _leaves(self) -> tuple[Condition, ...]:
        """Conditions of parameters that nothing depends on: no constraint, and no other condition."""
        needed = frozenset[str]().union(*(condition.names for condition in self.conditions))
        free = {axis.name for region in self.regions if not region.constraints for axis in region.axes}
        return tuple(c for c in self.conditions if c.name in free and c.name not in needed)

    @cached_property
    def _leaf_axes(self) -> tuple[Axis, ...]:
        """Their axes, in the same order."""
        axes = {axis.name: axis for axis in self.axes}
        return tuple(axes[condition.name] for condition in self._leaves)

    @cached_property
    def _core(self) -> tuple[Region, ...]:
        """The regions of all other parameters."""
        leaves = {condition.name for condition in self._leaves}
        return tuple(region for region in self.regions if region.axes[0].name not in leaves)

    @cached_property
    def _core_axes(self) -> tuple[Axis, ...]:
        return tuple(axis for region in self._core for axis in region.axes)

    @cached_property
    def _core_conditions(self) -> tuple[Condition, ...]:
        return tuple(condition for condition in self.conditions if condition not in self._leaves)

    @cached_property
    def _enumerable(self) -> bool:
        """Whether the points of the core are few enough to be gone through."""
        if any(region.grid is None for region in self._core):
            return False
        return math.prod(len(region.points) for region in self._core) <= ENUMERABLE

    def _core_points(self) -> Iterator[FloatArray]:
        """Points over the core's axes, a piece at a time: one for each different configuration of them.

        What is inactive has the first of its values in the one that is kept, and INACTIVE in the answer.
        """
        if not self._core:  # one parameter, about which facts alone decide
            yield np.empty((1, 0))
            return
        shape = tuple(len(region.points) for region in self._core)
        for start in range(0, math.prod(shape), _CHUNK):
            number = np.arange(start, min(start + _CHUNK, math.prod(shape)), dtype=np.int64)
            places = np.unravel_index(number, shape)
            chosen = [region.points[at] for region, at in zip(self._core, places, strict=True)]
            rows = np.concatenate([r.at(points) for r, points in zip(self._core, chosen, strict=True)], axis=1)
            first = np.concatenate([r.at_first(points) for r, points in zip(self._core, chosen, strict=True)], axis=1)
            kept = np.ones(len(rows), dtype=np.bool_)
            on = self._active(rows, self._core_conditions)
            for condition, active in zip(self._core_conditions, on.T, strict=True):
                place = self._place(condition)
                kept &= active | first[:, place]
                rows[:, place] = np.where(active, rows[:, place], INACTIVE)
            yield rows[kept]

    def _place(self, condition: Condition) -> int:
        """The place of a conditional parameter among the core's axes."""
        return [axis.name for axis in self._core_axes].index(condition.name)

    def _active(self, rows: FloatArray, conditions: Sequence[Condition]) -> BoolArray:
        """(N, len(conditions)): what is active at (N, ...) points over the core's axes."""
        needed = frozenset[str]().union(*(condition.names for condition in conditions))
        columns = {
            **self.facts,
            **{a.name: a.decode(rows[:, place]) for place, a in enumerate(self._core_axes) if a.name in needed},
        }
        found = [condition.active(columns, len(rows)) for condition in conditions]
        return np.stack(found, axis=1) if found else np.empty((len(rows), 0), dtype=np.bool_)

    def _active_leaves(self, rows: FloatArray) -> BoolArray:
        return self._active(rows, self._leaves)

    def _share(self, count: int) -> float:
        return float(Fraction(count, max(1, self.combinations))) if self._constrained else 1.0

    @property
    def _constrained(self) -> bool:
        return any(region.constraints for region in self.regions)

    def _estimate(self) -> Count:
        """From a sample: a configuration is there as often as its inactive parameters have values together."""
        rng = np.random.default_rng(0)
        drawn, raw = [], 1
        for region in self._core:
            raw *= _size_of(region).number
            if region.constraints and region.grid is None:
                drawn.append(region.sampled[1][rng.integers(len(region.sampled[1]), size=_SAMPLES)])
            elif region.constraints:
                drawn.append(region.at(rng.choice(region.points, _SAMPLES)))
            else:
                drawn.append(region.draw(rng, _SAMPLES)[0])
        rows = np.concatenate(drawn, axis=1)
        axes = {axis.name: axis for axis in self.axes}
        patterns = Counter(
            row.tobytes()
            for row in np.concatenate([self._active(rows, self._core_conditions), self._active_leaves(rows)], axis=1)
        )
        weight = Fraction(0)
        conditions = (*self._core_conditions, *self._leaves)
        for row, n in patterns.items():
            term = Fraction(n, _SAMPLES)
            for place, (condition, on) in enumerate(zip(conditions, np.frombuffer(row, dtype=np.bool_), strict=True)):
                leaf = place >= len(self._core_conditions)
                if leaf and on:
                    term *= _count(axes[condition.name])
                elif not leaf and not on:
                    term /= _count(axes[condition.name])
            weight += term
        count = max(1, round(raw * weight))
        return Count(count, exact=False, share=min(1.0, self._share(count)))


def groups_of(regions: Sequence[Region], conditions: Sequence[Condition], facts: Columns) -> tuple[Group, ...]:
    """The groups of a space, in order of their first region."""
    names = [region.axes[0].name for region in regions]
    owner = {axis.name: region.axes[0].name for region in regions for axis in region.axes}
    links = [{owner[name] for name in (c.names | {c.name}) & owner.keys()} for c in conditions]
    found = []
    for together in tied(names, links):
        members = tuple(region for region in regions if region.axes[0].name in together)
        inside = {axis.name for region in members for axis in region.axes}
        found.append(Group(members, tuple(c for c in conditions if c.name in inside), facts))
    return tuple(found)


def _count(axis: Axis) -> int:
    """Values of an axis; a real one counts once."""
    return 1 if axis.count is None else axis.count


def _combinations(axes: Sequence[Axis]) -> int:
    return math.prod(_count(axis) for axis in axes)


def _size_of(region: Region) -> Count:
    """Configurations of one region in which everything is always active."""
    raw = _combinations(region.axes)
    if not region.constraints:
        return Count(raw, exact=True, share=1.0)
    if region.grid is not None:
        return Count(len(region.points), exact=True, share=float(Fraction(len(region.points), raw)))
    share = region.sampled[0]
    return Count(max(1, round(raw * Fraction(share))), exact=False, share=share)
