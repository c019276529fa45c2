"""Regions: the parts of a space that constraints tie together, each enumerated, sampled and searched on its own.

Parameters that share a constraint, directly or through others, are in one region; a parameter that no constraint
mentions is one by itself. The feasible space is the product of the regions' feasible sets, so that a space of 10**20
configurations is often counted exactly by enumerating a few thousand.

Where parameters are conditional, a constraint on them also mentions what their conditions do; so here every parameter
has a value always, and scoot.coordinator.space.group counts what differs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

from scoot.coordinator.space.condition import BoolArray, Columns, Condition
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
_TOLERANCE: Final = 1e-9
_SHORT: Final = 8
_TOGETHER: Final = 64


@dataclass(frozen=True)
class Constraint:
    """A known constraint.

    Attributes:
        key: what it is blamed by: "constraints[2]", or "service.devices" for a built-in one.
        expression: what has to hold.
        guards: all hold where every parameter it mentions is active; elsewhere it is not applied.
    """

    key: str
    expression: Expression
    guards: tuple[Expression, ...] = ()

    @cached_property
    def names(self) -> frozenset[str]:
        """Parameters and facts that it depends on."""
        return self.expression.names.union(*(guard.names for guard in self.guards))

    @cached_property
    def literals(self) -> frozenset[float]:
        """The numbers that it mentions."""
        return frozenset(self.expression.literals).union(*(guard.literals for guard in self.guards))

    def holds(self, columns: Columns) -> BoolArray:
        """Whether each configuration satisfies it. `columns`: (N,) or () values for every one of `names`."""
        result = self.expression.evaluate(columns)
        for guard in self.guards:
            result = result | ~guard.evaluate(columns)
        return result


@dataclass(frozen=True, eq=False)
class Region:
    """Parameters tied together by constraints.

    Points are rows of the unit cube over the region's own axes, (N, k).

    Attributes:
        axes: k of them.
        constraints: all that mention any of them; they mention no others.
        facts: columns of shape ().
        conditions: of those axes that have one. Without constraints there are none.
    """

    axes: tuple[Axis, ...]
    constraints: tuple[Constraint, ...]
    facts: Columns
    conditions: tuple[Condition, ...] = ()

    # -- points --------------------------------------------------------------------------------------------------------

    def decode(self, units: FloatArray) -> dict[str, Column]:
        """(N, k) points -> k columns of N values."""
        return {axis.name: axis.decode(units[:, place]) for place, axis in enumerate(self.axes)}

    def satisfied(self, columns: Columns, size: int) -> BoolArray:
        """(N,): which configurations satisfy every constraint."""
        result = np.ones(size, dtype=np.bool_)
        for constraint in self.constraints:
            result &= constraint.holds({**self.facts, **columns})
        return result

    def feasible(self, units: FloatArray) -> BoolArray:
        """(N,): which points are feasible."""
        return self.satisfied(self.decode(units), len(units))

    # -- enumeration ---------------------------------------------------------------------------------------------------

    @cached_property
    def _own(self) -> tuple[tuple[Constraint, ...], ...]:
        """Per axis, the constraints that mention no other."""
        return tuple(
            tuple(c for c in self.constraints if c.names - self.facts.keys() == {axis.name}) for axis in self.axes
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
                index = index[np.broadcast_to(constraint.holds(columns), index.shape)]
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

    def at_first(self, number: npt.NDArray[np.integer]) -> BoolArray:
        """(N, k): where grid points have the first allowed value of an axis. Raises as `at`."""
        return np.stack([place == 0 for place in np.unravel_index(number, self._shape)], axis=1)

    # -- sampling ------------------------------------------------------------------------------------------------------

    @cached_property
    def sampled(self) -> tuple[float, FloatArray]:
        """Share of the region's values that is feasible, and feasible points among those drawn to find it.

        Grid values are drawn uniformly whatever their scale, so that share times grid size estimates the count. If the
        draw finds nothing, a search does: then the share is 0 and there is one point. (0, empty) if that fails too.
        """
        units, allowed = self.draw(np.random.default_rng(0), SAMPLES)
        good = self.feasible(units)
        if good.any():
            return allowed * float(good.mean()), units[good][:_KNOWN]
        for repair in (self._repaired_one, self._repaired_two):
            for row in units[:_REPAIRS]:
                found = repair(row)
                if found is not None:
                    return 0.0, found[None, :]
        return 0.0, units[:0]

    def draw(self, rng: np.random.Generator, size: int) -> tuple[FloatArray, float]:
        """Points over what each axis's own constraints allow, feasible or not, and the share of all values this is.

        Grid values are drawn uniformly, whatever their scale.
        """
        units = rng.random((size, len(self.axes)))
        allowed = 1.0
        for place, (axis, domain) in enumerate(zip(self.axes, self._domains, strict=True)):
            if isinstance(axis, GridAxis):
                if domain is None:
                    index = rng.integers(axis.count, size=size)
                else:
                    index = rng.choice(domain, size)
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

        The nearest one (Euclidean, in the unit cube, coordinates of parameters that are inactive there left out) for an
        enumerable region. Otherwise the nearest that differs in one parameter, else in two, else the nearest known
        feasible point moved towards it one parameter at a time.
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

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        """Allowed values of each axis."""
        return tuple(len(domain) for _, domain in self._enumerable())

    @cached_property
    def _feasible_grid(self) -> BoolArray:
        """The whole grid, true where it is feasible."""
        flat = np.zeros(math.prod(self._shape), dtype=np.bool_)
        flat[self.points] = True
        return flat.reshape(self._shape)

    @cached_property
    def _active_grids(self) -> dict[int, BoolArray]:
        """For the place of each conditional axis the whole grid, true where it is active."""
        if not self.conditions:
            return {}
        parts: list[list[BoolArray]] = [[] for _ in self.conditions]
        for _, units in self._chunks():
            columns = {**self.facts, **self.decode(units)}
            for part, condition in zip(parts, self.conditions, strict=True):
                part.append(condition.active(columns, len(units)))
        places = {axis.name: place for place, axis in enumerate(self.axes)}
        return {
            places[condition.name]: np.concatenate(part).reshape(self._shape)
            for part, condition in zip(parts, self.conditions, strict=True)
        }

    def _nearest(self, point: FloatArray) -> FloatArray:
        """The feasible grid point nearest to `point`; the answer is the same every time where several are.

        A feasible point that differs from the nearest cell in one parameter or two bounds the distance. Then the short
        axes' values are gone through from the nearest combination on, and for each only the box of the long axes is
        looked at in which something nearer can lie.
        """
        grid = self._enumerable()
        apart = [(axis.units(domain) - point[place]) ** 2 for place, (axis, domain) in enumerate(grid)]
        long, least = self._long, [float(apart[place].min()) for place in self._long]
        least = [0.0 if place in self._active_grids else part for place, part in zip(long, least, strict=True)]
        combined = sum(np.ix_(*(apart[place] for place in self._short)), np.zeros([1] * len(self._short)))
        bound, nearest, found = self._bound(apart), np.zeros(len(grid), dtype=np.int64), math.inf
        for number in np.argsort(combined, axis=None, kind="stable").tolist():
            spent = float(combined.flat[number])
            left = min(bound, found) + _TOLERANCE - spent
            if sum(least) > left:
                break
            chosen = np.unravel_index(number, combined.shape)
            box = [
                np.flatnonzero(apart[place] + (sum(least) - part) <= left)
                if place not in self._active_grids
                else np.arange(len(apart[place]))
                for place, part in zip(long, least, strict=True)
            ]
            where: list[IntArray] = [np.zeros(0, dtype=np.int64)] * len(grid)
            for place, index in zip([*self._short, *long], [*(np.atleast_1d(at) for at in chosen), *box], strict=True):
                where[place] = index
            inside = np.ix_(*where)
            distance = np.zeros([len(index) for index in where])
            for place in long:
                term = apart[place][inside[place]]
                distance += term * self._active_grids[place][inside] if place in self._active_grids else term
            distance[~self._feasible_grid[inside]] = np.inf
            first = np.unravel_index(int(np.argmin(distance)), distance.shape)
            if spent + distance[first] < found:
                found = spent + float(distance[first])
                nearest = np.array([index[at] for index, at in zip(where, first, strict=True)])
        return np.array([axis.units(domain[[at]])[0] for (axis, domain), at in zip(grid, nearest, strict=True)])

    @cached_property
    def _short(self) -> tuple[int, ...]:
        """Places of unconditional axes with few values, and few together."""
        chosen: list[int] = []
        together = 1
        for count, place in sorted((count, place) for place, count in enumerate(self._shape)):
            if place not in self._active_grids and count <= _SHORT and together * count <= _TOGETHER:
                chosen.append(place)
                together *= count
        return tuple(sorted(chosen))

    @cached_property
    def _long(self) -> tuple[int, ...]:
        """Places of all others."""
        return tuple(place for place in range(len(self._shape)) if place not in self._short)

    def _bound(self, apart: Sequence[FloatArray]) -> float:
        """The square of a distance within which there is a feasible grid point; infinite if none is found at once.

        Args:
            apart: for each axis the squared distance of each of its values.
        """
        start = [int(np.argmin(table)) for table in apart]
        here = sum(float(table[at]) for table, at in zip(apart, start, strict=True))
        best = math.inf
        for size in (1, 2):
            for moved in combinations(range(len(apart)), size):
                where = tuple(slice(None) if place in moved else at for place, at in enumerate(start))
                feasible = self._feasible_grid[where]
                rest = here - sum(float(apart[place][start[place]]) for place in moved)
                tables = np.ix_(*(apart[place] for place in moved))
                found = np.where(feasible, sum(tables, np.zeros(feasible.shape)), np.inf).min()
                best = min(best, rest + float(found))
            if best < math.inf:
                break
        return best

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
        mentioned = {number for constraint in self.constraints for number in constraint.literals}
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
            culprits = self.conflict([self.draw(np.random.default_rng(0), SAMPLES)[0]])
            raise _empty(self._with_own(culprits), self.axes, f"all {SAMPLES:,} sampled combinations")

    def _with_own(self, culprits: Sequence[Constraint]) -> tuple[Constraint, ...]:
        """Add the constraints on single parameters that left so little for the culprits to exclude."""
        names = frozenset[str]().union(*(constraint.names for constraint in culprits))
        own = [c for axis, cs in zip(self.axes, self._own, strict=True) if axis.name in names for c in cs]
        return tuple(c for c in self.constraints if c in culprits or c in own)

    def conflict(self, pieces: Iterable[FloatArray]) -> tuple[Constraint, ...]:
        """The fewest constraints of which every point violates at least one (up to 3; beyond, a minimal set)."""
        patterns: set[bytes] = set()
        for units in pieces:
            columns = {**self.facts, **self.decode(units)}
            violated = np.stack([~np.broadcast_to(c.holds(columns), len(units)) for c in self.constraints], axis=1)
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
    names = frozenset[str]().union(*(constraint.names for constraint in culprits))
    ranges = "; ".join(f"{axis.name}: {axis.describe()}" for axis in axes if axis.name in names)
    texts = " and ".join(f"`{constraint.expression.text}`" for constraint in culprits)
    rule = "this constraint excludes" if len(culprits) == 1 else "these constraints together exclude"
    return UserError(
        f"the search space is empty: {rule} {tried}: {texts}",
        key=", ".join(constraint.key for constraint in culprits),
        hint=f"loosen {'it' if len(culprits) == 1 else 'one of them'} or widen the ranges ({ranges})",
    )


def tied(names: Sequence[str], links: Iterable[Collection[str]]) -> list[frozenset[str]]:
    """Names that share a link, directly or through others, put together; in order of the first of each."""
    owner = {name: name for name in names}

    def root(name: str) -> str:
        while owner[name] != name:
            name = owner[name]
        return name

    for link in links:
        known = sorted(owner.keys() & link)
        for other in known[1:]:
            owner[root(other)] = root(known[0])
    members: dict[str, set[str]] = {}
    for name in names:
        members.setdefault(root(name), set()).add(name)
    return [frozenset(group) for group in members.values()]


def regions_of(
    axes: Sequence[Axis], constraints: Sequence[Constraint], facts: Columns, conditions: Sequence[Condition] = ()
) -> tuple[Region, ...]:
    """The regions of a space, in order of their first axis. Constraints must mention at least one axis each."""
    found = []
    for names in tied([axis.name for axis in axes], [constraint.names for constraint in constraints]):
        own = tuple(constraint for constraint in constraints if constraint.names & names)
        inside = tuple(condition for condition in conditions if own and condition.name in names)
        found.append(Region(tuple(axis for axis in axes if axis.name in names), own, facts, inside))
    return tuple(found)
