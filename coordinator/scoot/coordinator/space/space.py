"""The search space of a study: its parameters, its known constraints, and what can be done with both.

A configuration is a dict of plain Python values; a point is a row of the unit cube, one coordinate per parameter in the
order of the study file. Parameters that are inactive (scoot.coordinator.space.condition) are in no configuration; in a
point their coordinate says nothing, and it is INACTIVE in every point that comes from here. Nothing here keeps state or
draws numbers of its own: a generator is always given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np

from scoot.coordinator.space.condition import INACTIVE, BoolArray, Columns, Condition, conditions_of, guards_of
from scoot.coordinator.space.encoding import Axis, FloatArray
from scoot.coordinator.space.expression import Column, parse
from scoot.coordinator.space.group import Group, groups_of
from scoot.coordinator.space.parameter import axis_of, default_of
from scoot.coordinator.space.region import Constraint, Region, regions_of
from scoot.wire import limits
from scoot.wire.errors import UserError
from scoot.wire.spec import Config, Parameter, Scalar

Key = tuple[Scalar | None, ...]
"""Identity of a full configuration: its values in order, None for a parameter that is inactive in it."""


class SpaceSize(msgspec.Struct, frozen=True, kw_only=True):
    """How many configurations satisfy the known constraints.

    Attributes:
        count: combinations of the parameters that have finitely many values, continuous ones left out of the count;
            combinations that differ in inactive parameters alone are one.
        exact: counted; otherwise estimated from a sample of each region too large to be enumerated.
        total: combinations before constraints, estimated where conditional parameters make them too many to count.
        share: feasible share of all combinations, continuous parameters included; 0 to 1.
        continuous: names of the float parameters.
    """

    count: int
    exact: bool
    total: int
    share: float
    continuous: tuple[str, ...]

    def describe(self) -> str:
        """For humans: "1,024 configurations (12.5 % of 8,192)"."""
        number = f"{self.count:,}" if self.count < 10**9 else f"{float(min(self.count, 10**300)):.3g}"
        noun = "configuration" + ("" if self.count == 1 else "s")
        text = f"{number} {noun}" if self.exact else f"about {number} {noun} (estimated)"
        if 0 < self.share < 1:  # 0: none of the sample, so too small to be told
            total = f"{self.total:,}" if self.total < 10**9 else f"{float(min(self.total, 10**300)):.3g}"
            text += f", {100 * self.share:.3g} % of {total} before constraints"
        if self.continuous:
            text += f", times the continuous {', '.join(self.continuous)}"
        return text


@dataclass(frozen=True, eq=False)
class Space:
    """A search space. Made by `Space.build`, which checks everything; all other calls are cheap and pure.

    Attributes:
        parameters: d of them, in the study file's order.
        axes: their values, in the same order.
        constraints: parsed, those over facts alone left out.
        conditions: of the conditional parameters, each behind those that it depends on.
        regions: see scoot.coordinator.space.region.
    """

    parameters: tuple[Parameter, ...]
    axes: tuple[Axis, ...]
    constraints: tuple[Constraint, ...]
    conditions: tuple[Condition, ...]
    regions: tuple[Region, ...]
    _facts: Columns

    @classmethod
    def build(
        cls,
        parameters: Sequence[Parameter],
        constraints: Sequence[str] = (),
        facts: Mapping[str, Scalar] | None = None,
        *,
        built_in: Mapping[str, str] | None = None,
        hints: Mapping[str, str] | None = None,
    ) -> Space:
        """A space, with everything about it checked.

        Args:
            parameters: 1 to limits.PARAMETERS.
            constraints: known constraints (scoot.coordinator.space.expression), over parameters and facts.
            facts: constants of the study that constraints may mention.
            built_in: further constraints, by the key of the study file that implies them.
            hints: what to tell when a constraint mentions a name that is missing.

        Raises:
            UserError: the first thing that is wrong, with its key: `parameters.NAME.low`, `parameters.NAME.when`,
                `constraints[2]`.
        """
        known_facts = dict(facts or {})
        axes = _axes(parameters, known_facts)
        columns = {name: np.asarray(value) for name, value in known_facts.items()}
        names = (*(axis.name for axis in axes), *known_facts)
        conditions = conditions_of(parameters, axes, columns, hints or {})
        parsed = [
            _constraint(key, text, names, hints or {}, axes, columns, conditions)
            for key, text in _texts(constraints, built_in or {})
        ]
        tied = tuple(constraint for constraint in parsed if not constraint.names <= known_facts.keys())
        for constraint in parsed:
            if constraint not in tied:
                _check_constant(constraint, columns)
        regions = regions_of(axes, tied, columns, conditions)
        space = cls(tuple(parameters), axes, tied, conditions, regions, columns)
        for region in space.regions:
            region.check()
        space._check_default()
        return space

    # -- parameters ----------------------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in order."""
        return tuple(axis.name for axis in self.axes)

    def default_config(self) -> Config:
        """Trial 0: the parameters whose default is stated and that are active then. The engine decides about others."""
        stated = {a.name: default_of(p, a) for p, a in zip(self.parameters, self.axes, strict=True)}
        found: Config = {}
        columns = dict(self._facts)
        for place, condition in self._order:
            name = self.axes[place].name
            value = stated[name]
            if value is not None and (condition is None or condition.decided(columns)):
                found[name] = value
                columns[name] = np.asarray(value)
        return {name: found[name] for name in self.names if name in found}

    def complete(self, config: Config) -> Config:
        """A full configuration: the values of `config`, for parameters it lacks the stated default or the middle.

        Feasible or not. Inactive parameters are left out, whatever `config` says of them. It stands in for trial 0,
        whose missing values the engine knows and nobody else.

        Raises:
            UserError: as `encode`.
        """
        middle = {a.name: a.decode(np.array([INACTIVE]))[0].item() for a in self.axes}
        stated = {p.name: default_of(p, a) for p, a in zip(self.parameters, self.axes, strict=True)}
        known = {name: value for name, value in stated.items() if value is not None}
        return self.decode(self.encode([{**middle, **known, **config}]))[0]

    def key(self, config: Config) -> Key | None:
        """A configuration's identity, for finding duplicates; None if it is not a full configuration of this space.

        Full is one that has every active parameter and no inactive one.
        """
        values: list[Scalar | None] = [None] * len(self.axes)
        columns = dict(self._facts)
        for place, condition in self._order:
            axis = self.axes[place]
            if condition is None or condition.decided(columns):
                value = axis.canonical(config[axis.name]) if axis.name in config else None
                if value is None:
                    return None
                values[place] = value
                if axis.name in self._deciding:
                    columns[axis.name] = np.asarray(value)
        return tuple(values) if len(config) == sum(value is not None for value in values) else None

    def config_of(self, key: Key) -> Config:
        """The configuration that `key` identifies."""
        return {name: value for name, value in zip(self.names, key, strict=True) if value is not None}

    # -- encoding ------------------------------------------------------------------------------------------------------

    def decode(self, units: FloatArray) -> list[Config]:
        """(N, d) points of the unit cube -> N configurations, whether feasible or not.

        Raises:
            ValueError: another shape, or NaN.
        """
        points = np.asarray(units, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != len(self.axes):  # noqa: PLR2004 - rows and columns
            raise ValueError(f"points have shape {points.shape}, not (N, {len(self.axes)})")
        if bool(np.isnan(points).any()):
            raise ValueError("a point has a coordinate that is NaN")
        columns = {axis.name: axis.decode(points[:, place]) for place, axis in enumerate(self.axes)}
        names = self.names
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        configs = [dict(zip(names, row, strict=True)) for row in rows]
        for condition in self.conditions:
            for row in np.flatnonzero(~condition.active({**self._facts, **columns}, len(points))).tolist():
                del configs[row][condition.name]
        return configs

    def encode(self, configs: Sequence[Config]) -> FloatArray:
        """N full configurations -> (N, d) points. `decode(encode(configs)) == configs` for configurations of the space.

        A number off the grid or out of range is encoded as the nearest value. The coordinate of an inactive parameter
        is INACTIVE, whether the configuration has a value for it or not.

        Raises:
            UserError: an active parameter is missing, or a value is of the wrong type or none of the choices.
        """
        result = np.full((len(configs), len(self.axes)), INACTIVE)
        columns = dict(self._facts)
        for place, condition in self._order:
            axis = self.axes[place]
            rows: Sequence[int] = range(len(configs))
            if condition is not None:
                rows = np.flatnonzero(condition.active(columns, len(configs))).tolist()
            try:
                result[rows, place] = axis.encode([configs[row][axis.name] for row in rows])
            except KeyError:
                raise UserError("a configuration has no value for it", key=f"parameters.{axis.name}") from None
            except ValueError as error:
                raise UserError(str(error), key=f"parameters.{axis.name}") from error
            if axis.name in self._deciding:
                columns[axis.name] = axis.decode(result[:, place])
        return result

    def canonical_points(self, units: FloatArray) -> FloatArray:
        """(N, d) points with the coordinates of inactive parameters set to INACTIVE, everything else as it is.

        Points of one configuration may still differ within their cells; `encode` gives the middles.
        """
        result = np.array(units, dtype=np.float64)
        if not self.conditions:
            return result
        columns = {
            **self._facts,
            **{a.name: a.decode(result[:, place]) for place, a in enumerate(self.axes) if a.name in self._deciding},
        }
        places = {name: place for place, name in enumerate(self.names)}
        for condition in self.conditions:
            result[~condition.active(columns, len(result)), places[condition.name]] = INACTIVE
        return result

    # -- feasibility ---------------------------------------------------------------------------------------------------

    def feasible(self, configs: Sequence[Config]) -> BoolArray:
        """(N,): which full configurations satisfy every known constraint. Raises as `encode`."""
        return self.feasible_points(self.encode(configs))

    def feasible_points(self, units: FloatArray) -> BoolArray:
        """(N,): which of the (N, d) points do."""
        result = np.ones(len(units), dtype=np.bool_)
        for region, places in self._placed():
            if region.constraints:
                result &= region.feasible(units[:, places])
        return result

    def violated(self, config: Config) -> tuple[str, ...]:
        """Texts of the constraints a configuration violates; those over parameters that it lacks are left out."""
        return tuple(constraint.expression.text for constraint in self._violated(config))

    def size(self) -> SpaceSize:
        """Size after constraints: exact for regions up to ENUMERABLE grid points, else estimated."""
        sizes = [group.size() for group in self._groups]
        return SpaceSize(
            count=math.prod(size.number for size in sizes),
            exact=all(size.exact for size in sizes),
            total=math.prod(group.combinations for group in self._groups),
            share=math.prod(size.share for size in sizes),
            continuous=tuple(axis.name for axis in self.axes if axis.count is None),
        )

    # -- feasible configurations ---------------------------------------------------------------------------------------

    def sample(self, rng: np.random.Generator, size: int) -> list[Config]:
        """`size` random configurations that satisfy the constraints; repetitions are possible.

        Uniform over the feasible part of the unit cube: a flag that others depend on is as often false as true, however
        many configurations there are with each.
        """
        result = np.empty((size, len(self.axes)))
        for region, places in self._placed():
            result[:, places] = region.sample(rng, size)
        return self.decode(result)

    def project(self, configs: Sequence[Config]) -> list[Config]:
        """Each configuration if it satisfies the constraints, else one near it that does. Raises as `encode`."""
        return self.decode(self.project_points(self.encode(configs)))

    def project_points(self, units: FloatArray) -> FloatArray:
        """The same for (N, d) points; deterministic, and always feasible.

        The nearest feasible point (Euclidean, over the parameters that are active in it) for every region that is
        enumerable; near it otherwise (scoot.coordinator.space.region). Feasible points keep their coordinates, but for
        those of inactive parameters, which become INACTIVE.
        """
        result = np.array(units, dtype=np.float64)
        for region, places in self._placed():
            if region.constraints:
                result[:, places] = region.project(result[:, places])
        return self.canonical_points(result)

    def enumerate(self, limit: int) -> list[Config] | None:
        """Every configuration that satisfies the constraints, or None if that is not finite or above `limit`.

        Also None where an axis or region is too large to be enumerated itself (region.ENUMERABLE).
        """
        size = self.size()
        if size.count > limit:
            return None
        listed = [group.points() for group in self._groups]
        result = np.empty((size.count, len(self.axes)))
        places = {name: place for place, name in enumerate(self.names)}
        repeat, block = 1, size.count
        for group, points in zip(self._groups, listed, strict=True):
            if points is None:
                return None
            block //= len(points)
            columns = [places[axis.name] for axis in group.axes]
            result[:, columns] = np.tile(np.repeat(points, block, axis=0), (repeat, 1))
            repeat *= len(points)
        return self.decode(result)

    # -- inside --------------------------------------------------------------------------------------------------------

    @cached_property
    def _groups(self) -> tuple[Group, ...]:
        return groups_of(self.regions, self.conditions, self._facts)

    @cached_property
    def _order(self) -> tuple[tuple[int, Condition | None], ...]:
        """Places of the axes with their conditions, each behind those that decide about it."""
        places = {name: place for place, name in enumerate(self.names)}
        conditional = {condition.name for condition in self.conditions}
        always = [(place, None) for name, place in places.items() if name not in conditional]
        return (*always, *((places[condition.name], condition) for condition in self.conditions))

    @cached_property
    def _deciding(self) -> frozenset[str]:
        """What conditions mention."""
        return frozenset[str]().union(*(condition.names for condition in self.conditions))

    def _placed(self) -> Iterator[tuple[Region, list[int]]]:
        """Regions with the places of their axes."""
        places = {axis.name: place for place, axis in enumerate(self.axes)}
        for region in self.regions:
            yield region, [places[axis.name] for axis in region.axes]

    def _violated(self, config: Config) -> list[Constraint]:
        columns: dict[str, Column] = {**self._facts, **{name: np.asarray(value) for name, value in config.items()}}
        return [
            constraint
            for constraint in self.constraints
            if constraint.names <= columns.keys() and not bool(constraint.holds(columns))
        ]

    def _check_default(self) -> None:
        """Refuse stated defaults that violate the study's own constraints, or that may or may not count."""
        default = self.default_config()
        columns = {**self._facts, **{name: np.asarray(value) for name, value in default.items()}}
        stated_of = {parameter.name for parameter in self.parameters if parameter.default is not None}
        for condition in self.conditions:
            if condition.name in stated_of and condition.decided(columns) is None:
                missing = ", ".join(sorted(condition.names - columns.keys()))
                raise UserError(
                    f"whether it counts in trial 0 is not known: `{condition.own.text}` depends on {missing}, which "
                    "the engine decides there",
                    key=f"parameters.{condition.name}.default",
                    hint=f"state a default for {missing}, or none here",
                )
        for constraint in self._violated(default):
            stated = ", ".join(f"{name} = {default[name]!r}" for name in default if name in constraint.expression.names)
            raise UserError(
                f"the default configuration violates `{constraint.expression.text}` ({stated})",
                key=constraint.key,
                hint="correct the defaults or the constraint: trial 0 runs the defaults",
            )


def _axes(parameters: Sequence[Parameter], facts: Mapping[str, Scalar]) -> tuple[Axis, ...]:
    if not parameters:
        raise UserError("a study needs at least one parameter", key="parameters", hint="there is nothing to tune")
    if len(parameters) > limits.PARAMETERS:
        raise UserError(f"{len(parameters)} parameters are over the limit of {limits.PARAMETERS}", key="parameters")
    axes: dict[str, Axis] = {}
    for parameter in parameters:
        axis = axis_of(parameter)
        if axis.name in axes:
            raise UserError("is there twice", key=f"parameters.{axis.name}", hint="give each parameter once")
        if axis.name in facts:
            raise UserError(
                f"is fixed already: {axis.name} = {facts[axis.name]!r}",
                key=f"parameters.{axis.name}",
                hint="either fix it under [service] or tune it, not both",
            )
        axes[axis.name] = axis
    return tuple(axes.values())


def _texts(constraints: Sequence[str], built_in: Mapping[str, str]) -> list[tuple[str, str]]:
    if len(constraints) > limits.CONSTRAINTS:
        raise UserError(f"{len(constraints)} constraints are over the limit of {limits.CONSTRAINTS}", key="constraints")
    own = [(f"constraints[{place}]", text) for place, text in enumerate(constraints)]
    return [*own, *built_in.items()]


def _constraint(
    key: str,
    text: str,
    names: Sequence[str],
    hints: Mapping[str, str],
    axes: Sequence[Axis],
    facts: Columns,
    conditions: Sequence[Condition],
) -> Constraint:
    """A constraint, parsed, and its types checked on empty columns."""
    try:
        expression = parse(text, names, hints=hints)
        nothing = {axis.name: axis.decode(np.empty(0)) for axis in axes if axis.name in expression.names}
        expression.evaluate({**facts, **nothing})
    except UserError as error:
        raise error.at(key=key) from None
    return Constraint(key, expression, guards_of(expression.names, conditions))


def _check_constant(constraint: Constraint, facts: Columns) -> None:
    """Refuse a constraint over facts alone that does not hold: it excludes everything."""
    expression = constraint.expression
    if bool(expression.evaluate(facts)):
        return
    stated = ", ".join(f"{name} = {facts[name].item()!r}" for name in sorted(expression.names))
    raise UserError(
        f"the search space is empty: `{expression.text}` never holds" + (f" with {stated}" if stated else ""),
        key=constraint.key,
        hint="it mentions no parameter",
    )
