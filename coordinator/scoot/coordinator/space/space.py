"""The search space of a study: its parameters, its known constraints, and what can be done with both.

A configuration is a dict of plain Python values; a point is a row of the unit cube, one coordinate per parameter in the
order of the study file. Nothing here keeps state or draws numbers of its own: a generator is always given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from scoot.coordinator.space.encoding import Axis, FloatArray, GridAxis
from scoot.coordinator.space.expression import Column, parse
from scoot.coordinator.space.parameter import axis_of, default_of
from scoot.coordinator.space.region import BoolArray, Columns, Constraint, Region, regions_of
from scoot.wire import limits
from scoot.wire.errors import UserError
from scoot.wire.spec import Config, Parameter, Scalar

Key = tuple[Scalar, ...]
"""Identity of a full configuration: its values in order."""


class SpaceSize(msgspec.Struct, frozen=True, kw_only=True):
    """How many configurations satisfy the known constraints.

    Attributes:
        count: combinations of the parameters that have finitely many values, continuous ones left out of the count.
        exact: counted; otherwise estimated from a sample of each region too large to be enumerated.
        total: combinations before constraints.
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
        regions: see scoot.coordinator.space.region.
    """

    parameters: tuple[Parameter, ...]
    axes: tuple[Axis, ...]
    constraints: tuple[Constraint, ...]
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
            UserError: the first thing that is wrong, with its key: `parameters.NAME.low`, `constraints[2]`.
        """
        known_facts = dict(facts or {})
        axes = _axes(parameters, known_facts)
        columns = {name: np.asarray(value) for name, value in known_facts.items()}
        names = (*(axis.name for axis in axes), *known_facts)
        parsed = [
            _constraint(key, text, names, hints or {}, axes, columns)
            for key, text in _texts(constraints, built_in or {})
        ]
        tied = tuple(constraint for constraint in parsed if not constraint.expression.names <= known_facts.keys())
        for constraint in parsed:
            if constraint not in tied:
                _check_constant(constraint, columns)
        space = cls(tuple(parameters), axes, tied, regions_of(axes, tied, columns), columns)
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
        """Trial 0: the parameters whose default is stated. The engine decides about the others."""
        found: Config = {}
        for parameter, axis in zip(self.parameters, self.axes, strict=True):
            value = default_of(parameter, axis)
            if value is not None:
                found[axis.name] = value
        return found

    def key(self, config: Config) -> Key | None:
        """A configuration's identity, for finding duplicates; None if it is not a full configuration of this space."""
        if config.keys() != set(self.names):
            return None
        values = [axis.canonical(config[axis.name]) for axis in self.axes]
        return None if None in values else tuple(value for value in values if value is not None)

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
        columns = [axis.decode(points[:, place]).tolist() for place, axis in enumerate(self.axes)]
        names = self.names
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def encode(self, configs: Sequence[Config]) -> FloatArray:
        """N full configurations -> (N, d) points. `decode(encode(configs)) == configs` for configurations of the space.

        A number off the grid or out of range is encoded as the nearest value.

        Raises:
            UserError: a parameter is missing, or a value is of the wrong type or none of the choices.
        """
        result = np.empty((len(configs), len(self.axes)))
        for place, axis in enumerate(self.axes):
            try:
                result[:, place] = axis.encode([config[axis.name] for config in configs])
            except KeyError:
                raise UserError("a configuration has no value for it", key=f"parameters.{axis.name}") from None
            except ValueError as error:
                raise UserError(str(error), key=f"parameters.{axis.name}") from error
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
        """Texts of the constraints a configuration violates; those over parameters it does not state are left out."""
        return tuple(constraint.expression.text for constraint in self._violated(config))

    def size(self) -> SpaceSize:
        """Size after constraints: exact for regions up to ENUMERABLE grid points, else estimated."""
        count, total, share, exact = 1, 1, 1.0, True
        for region in self.regions:
            combinations = math.prod(axis.count for axis in region.axes if isinstance(axis, GridAxis))
            total *= combinations
            if not region.constraints:
                count *= combinations
            elif region.grid is not None:
                count *= len(region.points)
                share *= len(region.points) / combinations
            else:
                exact = False
                found = region.sampled[0]
                share *= found
                count *= max(1, round(combinations * found))
        continuous = tuple(axis.name for axis in self.axes if axis.count is None)
        return SpaceSize(count=count, exact=exact, total=total, share=share, continuous=continuous)

    # -- feasible configurations ---------------------------------------------------------------------------------------

    def sample(self, rng: np.random.Generator, size: int) -> list[Config]:
        """`size` random configurations that satisfy the constraints; repetitions are possible."""
        result = np.empty((size, len(self.axes)))
        for region, places in self._placed():
            result[:, places] = region.sample(rng, size)
        return self.decode(result)

    def project(self, configs: Sequence[Config]) -> list[Config]:
        """Each configuration if it satisfies the constraints, else one near it that does. Raises as `encode`."""
        return self.decode(self.project_points(self.encode(configs)))

    def project_points(self, units: FloatArray) -> FloatArray:
        """The same for (N, d) points."""
        result = np.array(units, dtype=np.float64)
        for region, places in self._placed():
            if region.constraints:
                result[:, places] = region.project(result[:, places])
        return result

    def enumerate(self, limit: int) -> list[Config] | None:
        """Every configuration that satisfies the constraints, or None if that is not finite or above `limit`.

        Also None where an axis or region is too large to be enumerated itself (region.ENUMERABLE).
        """
        size = self.size()
        if size.count > limit or any(region.grid is None for region in self.regions):
            return None
        result = np.empty((size.count, len(self.axes)))
        repeat, block = 1, size.count
        for region, places in self._placed():
            points = region.at(region.points)
            block //= len(points)
            result[:, places] = np.tile(np.repeat(points, block, axis=0), (repeat, 1))
            repeat *= len(points)
        return self.decode(result)

    # -- inside --------------------------------------------------------------------------------------------------------

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
            if constraint.expression.names <= columns.keys() and not bool(constraint.expression.evaluate(columns))
        ]

    def _check_default(self) -> None:
        """Refuse stated defaults that violate the study's own constraints."""
        default = self.default_config()
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
    key: str, text: str, names: Sequence[str], hints: Mapping[str, str], axes: Sequence[Axis], facts: Columns
) -> Constraint:
    """A constraint, parsed, and its types checked on empty columns."""
    try:
        expression = parse(text, names, hints=hints)
        nothing = {axis.name: axis.decode(np.empty(0)) for axis in axes if axis.name in expression.names}
        expression.evaluate({**facts, **nothing})
    except UserError as error:
        raise error.at(key=key) from None
    return Constraint(key, expression)


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
