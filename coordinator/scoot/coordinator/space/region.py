"""Regions: the parts of a space that constraints tie together, each enumerated, sampled and searched on its own.

Parameters that share a constraint, directly or through others, are in one region; a parameter that no constraint
mentions is one by itself. The feasible space is the product of the regions' feasible sets, so that a space of 10**20
configurations is often counted exactly by enumerating a few thousand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

from scoot.coordinator.space.encoding import Axis, FloatArray, GridAxis, IntArray
from scoot.coordinator.space.expression import Column, Expression
from scoot.wire.errors import UserError

ENUMERABLE: Final = 1_000_000
"""Regions up to so many grid points are enumerated; larger ones are sampled."""

SAMPLES: Final = 65_536
"""Points drawn to estimate the feasible share of a region that is not enumerated."""

_CHUNK: Final = 65_536
_ROUNDS: Final = 16
_SCAN: Final = 131_072
_REAL_SCAN: Final = 1025
_PAIR_SCAN: Final = 65
_PAIRS: Final = 36
_REPAIRS: Final = 16
_KNOWN: Final = 4096
_EXHAUSTIVE: Final = 3

BoolArray = npt.NDArray[np.bool_]
Columns = Mapping[str, Column]


@dataclass(frozen=True, slots=True)
class Constraint:
    """A known constraint and the key it is blamed by: "constraints[2]", or "service.devices" for a built-in one."""

    key: str
    expression: Expression


@dataclass(frozen=True, eq=False)
class Region:
    """Parameters tied together by constraints.

    Points are rows of the unit cube over the region's own axes, (N, k).

    Attributes:
        axes: k of them.
        constraints: all that mention any of them; they mention no others.
        facts: columns of shape ().
    """

    axes: tuple[Axis, ...]
    constraints: tuple[Constraint, ...]
    facts: Columns

    # -- points --------------------------------------------------------------------------------------------------------

    def decode(self, units: FloatArray) -> dict[str, Column]:
        """(N, k) points -> k columns of N values."""
        return {axis.name: axis.decode(units[:, place]) for place, axis in enumerate(self.axes)}

    def satisfied(self, columns: Columns, size: int) -> BoolArray:
        """(N,): which configurations satisfy every constraint."""
        result = np.ones(size, dtype=np.bool_)
        for constraint in self.constraints:
            result &= constraint.expression.evaluate({**self.facts, **columns})
        return result

    def feasible(self, units: FloatArray) -> BoolArray:
        """(N,): which points are feasible."""
        return self.satisfied(self.decode(units), len(units))

    # -- enumeration ---------------------------------------------------------------------------------------------------

    @cached_property
    def _own(self) -> tuple[tuple[Constraint, ...], ...]:
        """Per axis, the constraints that mention no other."""
        return tuple(
            tuple(c for c in self.constraints if c.expression.names - self.facts.keys() == {axis.name})
            for axis in self.axes
        )

    @cached_property
    def _domains(self) -> tuple[IntArray | None, ...]:
        """Per axis, the indices that its own constraints allow; None for an axis that is real or too long to be listed.

        It makes regions smaller before they are multiplied out: `a == 7` leaves one value of a.
        """
        found: list[IntArray | None] = []
        for axis, own in zip(self.axes, self._own, strict=True):
            if not isinstance(axis, GridAxis) or axis.count > ENUMERABLE:
                found.append(None)
                continue
            index = np.arange(axis.count, dtype=np.int64)
            columns = {**self.facts, axis.name: axis.values(index)}
            for constraint in own:
                index = index[np.broadcast_to(constraint.expression.evaluate(columns), index.shape)]
                columns[axis.name] = axis.values(index)
            found.append(index)
        return tuple(found)

    @cached_property
    def grid(self) -> tuple[tuple[GridAxis, IntArray], ...] | None:
        """The axes with their allowed indices if the region is small enough to be enumerated, else None."""
        pairs = tuple(
            (axis, domain)
            for axis, domain in zip(self.axes, self._domains, strict=True)
            if isinstance(axis, GridAxis) and domain is not None
        )
        small = len(pairs) == len(self.axes) and math.prod(len(domain) for _, domain in pairs) <= ENUMERABLE
        return pairs if small else None

    @cached_property
    def points(self) -> npt.NDArray[np.uint32]:
        """Numbers of the feasible grid points. Raises ValueError if the region is not enumerable."""
        found = [number[self.feasible(units)] for number, units in self._chunks()]
        return np.concatenate([np.empty(0, dtype=np.int64), *found]).astype(np.uint32)

    def _enumerable(self) -> tuple[tuple[GridAxis, IntArray], ...]:
        if self.grid is None:
            raise ValueError(f"{', '.join(axis.name for axis in self.axes)}: too large to be enumerated")
        return self.grid

    def _chunks(self) -> Iterator[tuple[IntArray, FloatArray]]:
        """Numbers and points of the whole grid, a piece at a time."""
        total = math.prod(len(domain) for _, domain in self._enumerable())
        for start in range(0, total, _CHUNK):
            number = np.arange(start, min(start + _CHUNK, total), dtype=np.int64)
            yield number, self.at(number)

    def at(self, number: npt.NDArray[np.integer]) -> FloatArray:
        """Points of grid point numbers, (N,) -> (N, k). Raises ValueError if the region is not enumerable."""
        grid = self._enumerable()
        places = np.unravel_index(number, tuple(len(domain) for _, domain in grid))
        return np.stack([axis.units(domain[at]) for (axis, domain), at in zip(grid, places, strict=True)], axis=1)

    # -- sampling ------------------------------------------------------------------------------------------------------

    @cached_property
    def sampled(self) -> tuple[float, FloatArray]:
        """Share of the region's values that is feasible, and feasible points among those drawn to find it.

        Grid values are drawn uniformly whatever their scale, so that share times grid size estimates the count. If the
        draw finds nothing, a search does: then the share is 0 and there is one point. (0, empty) if that fails too.
        """
        units, allowed = self._draw(np.random.default_rng(0))
        good = self.feasible(units)
        if good.any():
            return allowed * float(good.mean()), units[good][:_KNOWN]
        for repair in (self._repaired_one, self._repaired_two):
            for row in units[:_REPAIRS]:
                found = repair(row)
                if found is not None:
                    return 0.0, found[None, :]
        return 0.0, units[:0]

    def _draw(self, rng: np.random.Generator) -> tuple[FloatArray, float]:
        """SAMPLES points over what each axis's own constraints allow, and the share of all values that this is."""
        units = rng.random((SAMPLES, len(self.axes)))
        allowed = 1.0
        for place, (axis, domain) in enumerate(zip(self.axes, self._domains, strict=True)):
            if isinstance(axis, GridAxis):
                if domain is None:
                    index = rng.integers(axis.count, size=SAMPLES)
                else:
                    index = rng.choice(domain, SAMPLES)
                    allowed *= len(domain) / axis.count
                units[:, place] = axis.units(index)
        return units, allowed

    def sample(self, rng: np.random.Generator, size: int) -> FloatArray:
        """`size` feasible points: uniform over the unit cube given that they are feasible, as far as that is cheap.

        Where fewer than about one point in `_ROUNDS` is feasible, the rest is drawn from the enumerated points, or, for
        a region that is not enumerable, found by moving random points to feasible ones near them.
        """
        kept: list[FloatArray] = []
        missing = size
        for _ in range(_ROUNDS):
            units = rng.random((max(missing, 16), len(self.axes)))
            good = units if not self.constraints else units[self.feasible(units)]
            kept.append(good[:missing])
            missing -= len(kept[-1])
            if missing == 0:
                break
        if missing:
            if self.grid is not None:
                kept.append(self.at(rng.choice(self.points, missing)))
            else:
                kept.append(self.project(rng.random((missing, len(self.axes)))))
        # the order in which they were found says how rare they are; mixing it keeps every prefix a fair sample
        mixed: FloatArray = rng.permutation(np.concatenate(kept))
        return mixed

    # -- projection ----------------------------------------------------------------------------------------------------

    def project(self, units: FloatArray) -> FloatArray:
        """Each point if it is feasible, else a feasible one near it.

        The nearest one (Euclidean, in the unit cube) for an enumerable region. Otherwise the nearest that differs in
        one parameter, else in two, else the nearest known feasible point moved towards it one parameter at a time.
        """
        result = np.array(units, dtype=np.float64)
        for row in np.flatnonzero(~self.feasible(units)):
            if self.grid is not None:
                result[row] = self._nearest(units[row])
                continue
            found = self._repaired_one(units[row])
            if found is None:
                found = self._repaired_two(units[row])
            result[row] = self._approach(units[row]) if found is None else found
        return result

    def _nearest(self, point: FloatArray) -> FloatArray:
        """The feasible grid point nearest to `point`."""
        grid = self._enumerable()
        shape = tuple(len(domain) for _, domain in grid)
        apart = [(axis.units(domain) - point[place]) ** 2 for place, (axis, domain) in enumerate(grid)]
        best, least = 0, math.inf
        for start in range(0, len(self.points), _CHUNK):
            number = self.points[start : start + _CHUNK]
            places = np.unravel_index(number, shape)
            distance = np.sum([table[at] for table, at in zip(apart, places, strict=True)], axis=0)
            first = int(np.argmin(distance))
            if distance[first] < least:
                best, least = int(number[first]), float(distance[first])
        nearest: FloatArray = self.at(np.asarray([best]))[0]
        return nearest

    def _repaired_one(self, point: FloatArray) -> FloatArray | None:
        """The nearest feasible point that differs from `point` in one parameter; None if none does."""
        moved = [self._closest(point, self._moved(point, (place,), _SCAN)) for place in range(len(self.axes))]
        found = [candidate for candidate in moved if candidate is not None]
        return self._closest(point, np.stack(found)) if found else None

    def _repaired_two(self, point: FloatArray) -> FloatArray | None:
        """A near feasible point that differs from `point` in two parameters; None if none of those tried does."""
        for pair in list(combinations(range(len(self.axes)), 2))[:_PAIRS]:
            found = self._closest(point, self._moved(point, pair, _PAIR_SCAN))
            if found is not None:
                return found
        return None

    def _moved(self, point: FloatArray, places: tuple[int, ...], limit: int) -> FloatArray:
        """Copies of `point` with the axes of `places` set to every combination of their candidates."""
        mesh = np.meshgrid(*(self._candidates(place, limit) for place in places), indexing="ij")
        moved = np.repeat(point[None, :], mesh[0].size, axis=0)
        for place, values in zip(places, mesh, strict=True):
            moved[:, place] = values.ravel()
        return moved

    def _candidates(self, place: int, limit: int) -> FloatArray:
        """Points of one axis worth trying: all, or `limit` of them evenly, and the numbers the constraints mention."""
        axis, domain = self.axes[place], self._domains[place]
        if isinstance(axis, GridAxis):
            count = axis.count if domain is None else len(domain)
            spread = np.unique(np.linspace(0, count - 1, min(limit, count)).astype(np.int64))
            units = axis.units(spread if domain is None else domain[spread])
        else:
            units = np.linspace(0.0, 1.0, min(limit, _REAL_SCAN))
        mentioned = {number for constraint in self.constraints for number in constraint.expression.literals}
        extra = [number for number in sorted(mentioned) if axis.canonical(_whole(number)) is not None]
        return np.concatenate([units, axis.encode(extra)]) if extra else units

    def _closest(self, point: FloatArray, candidates: FloatArray) -> FloatArray | None:
        good = candidates[self.feasible(candidates)]
        if len(good) == 0:
            return None
        nearest: FloatArray = good[int(np.argmin(((good - point) ** 2).sum(axis=1)))]
        return nearest

    def _approach(self, point: FloatArray) -> FloatArray:
        """From the nearest known feasible point towards `point`, one parameter at a time, never leaving feasibility."""
        known = self.sampled[1]
        current: FloatArray = known[int(np.argmin(((known - point) ** 2).sum(axis=1)))].copy()
        for place in np.argsort(-np.abs(current - point)):
            moved = current.copy()
            moved[place] = point[place]
            if self.feasible(moved[None, :])[0]:
                current = moved
        return current

    # -- emptiness -----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Make sure that there is a feasible configuration.

        Raises:
            UserError: naming the fewest constraints that cannot hold together.
        """
        if not self.constraints:
            return
        for axis, own, domain in zip(self.axes, self._own, self._domains, strict=True):
            if isinstance(axis, GridAxis) and domain is not None and len(domain) == 0:
                units = axis.units(np.arange(axis.count, dtype=np.int64))[:, None]
                alone = Region((axis,), own, self.facts)
                raise _empty(alone.conflict([units]), (axis,), f"all {axis.count:,} values")
        if self.grid is not None:
            if len(self.points) == 0:
                total = math.prod(len(domain) for _, domain in self.grid)
                culprits = self.conflict(units for _, units in self._chunks())
                raise _empty(self._with_own(culprits), self.axes, f"all {total:,} combinations")
        elif len(self.sampled[1]) == 0:
            culprits = self.conflict([self._draw(np.random.default_rng(0))[0]])
            raise _empty(self._with_own(culprits), self.axes, f"all {SAMPLES:,} sampled combinations")

    def _with_own(self, culprits: Sequence[Constraint]) -> tuple[Constraint, ...]:
        """Add the constraints on single parameters that left so little for the culprits to exclude."""
        names = frozenset[str]().union(*(constraint.expression.names for constraint in culprits))
        own = [c for axis, cs in zip(self.axes, self._own, strict=True) if axis.name in names for c in cs]
        return tuple(c for c in self.constraints if c in culprits or c in own)

    def conflict(self, pieces: Iterable[FloatArray]) -> tuple[Constraint, ...]:
        """The fewest constraints of which every point violates at least one (up to 3; beyond, a minimal set)."""
        patterns: set[bytes] = set()
        for units in pieces:
            columns = {**self.facts, **self.decode(units)}
            violated = np.stack(
                [~np.broadcast_to(c.expression.evaluate(columns), len(units)) for c in self.constraints], axis=1
            )
            patterns.update(row.tobytes() for row in np.unique(np.packbits(violated, axis=1), axis=0))
        rows = np.stack([np.frombuffer(pattern, dtype=np.uint8) for pattern in sorted(patterns)])
        table = np.unpackbits(rows, axis=1, count=len(self.constraints)).astype(np.bool_)
        everyone = range(len(self.constraints))
        for size in range(1, _EXHAUSTIVE + 1):
            for chosen in combinations(everyone, size):
                if table[:, chosen].any(axis=1).all():
                    return tuple(self.constraints[place] for place in chosen)
        needed = list(everyone)
        for place in everyone:
            fewer = [other for other in needed if other != place]
            if table[:, fewer].any(axis=1).all():
                needed = fewer
        return tuple(self.constraints[place] for place in needed)


def _whole(number: float) -> int | float:
    """Integers as such, so that they can be values of an integer axis."""
    return int(number) if number.is_integer() else number


def _empty(culprits: Sequence[Constraint], axes: Sequence[Axis], tried: str) -> UserError:
    names = frozenset[str]().union(*(constraint.expression.names for constraint in culprits))
    ranges = "; ".join(f"{axis.name}: {axis.describe()}" for axis in axes if axis.name in names)
    texts = " and ".join(f"`{constraint.expression.text}`" for constraint in culprits)
    rule = "this constraint excludes" if len(culprits) == 1 else "these constraints together exclude"
    return UserError(
        f"the search space is empty: {rule} {tried}: {texts}",
        key=", ".join(constraint.key for constraint in culprits),
        hint=f"loosen {'it' if len(culprits) == 1 else 'one of them'} or widen the ranges ({ranges})",
    )


def regions_of(axes: Sequence[Axis], constraints: Sequence[Constraint], facts: Columns) -> tuple[Region, ...]:
    """The regions of a space, in order of their first axis. Constraints must mention at least one axis each."""
    owner = {axis.name: axis.name for axis in axes}

    def root(name: str) -> str:
        while owner[name] != name:
            name = owner[name]
        return name

    for constraint in constraints:
        first, *others = sorted(constraint.expression.names & owner.keys())
        for other in others:
            owner[root(other)] = root(first)
    members: dict[str, list[Axis]] = {}
    for axis in axes:
        members.setdefault(root(axis.name), []).append(axis)
    tied: dict[str, list[Constraint]] = {name: [] for name in members}
    for constraint in constraints:
        tied[root(next(iter(constraint.expression.names & owner.keys())))].append(constraint)
    return tuple(Region(tuple(group), tuple(tied[name]), facts) for name, group in members.items())
