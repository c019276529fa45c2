"""Axes: how the values of one parameter lie on the unit interval.

A grid axis cuts the interval into one cell per value, equally wide on its scale, and a value is encoded as the middle
of its cell; so a uniform point is a uniform value, and decoding what was encoded gives the value back exactly. A real
axis is continuous but for its last digits: values are rounded to DIGITS significant decimals (of the range if linear,
of the value if logarithmic), far coarser than the arithmetic's error, which makes it exact both ways too.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scoot.coordinator.space.expression import Column
from scoot.wire.spec import Scalar

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MAX_INTEGER: Final = 2**40
"""Largest magnitude of an integer bound: beyond it, cells would be narrower than the arithmetic's error."""

DIGITS: Final = 6
"""Significant decimals of a real value."""


@dataclass(frozen=True, slots=True)
class Axis(ABC):
    """One parameter's values.

    Attributes:
        name: the parameter.
    """

    name: str

    @property
    @abstractmethod
    def count(self) -> int | None:
        """Number of values, None for a real axis."""

    @abstractmethod
    def decode(self, units: FloatArray) -> Column:
        """(N,) points of [0, 1] -> (N,) values."""

    @abstractmethod
    def encode(self, values: Sequence[Scalar] | Column) -> FloatArray:
        """(N,) values -> (N,) points of [0, 1]; a number that is not a value counts as the nearest one.

        Raises:
            ValueError: a value of another type, or one that is none of the choices.
        """

    @abstractmethod
    def canonical(self, value: Scalar) -> Scalar | None:
        """The value in the axis's own type, rounded as `decode` does; None if it is not a value of this axis."""

    @abstractmethod
    def describe(self) -> str:
        """Its values, for an error or a table: "16, 32, 64" or "0.5 to 0.95"."""


@dataclass(frozen=True, slots=True)
class GridAxis(Axis, ABC):
    """An axis with finitely many values, indexed from 0."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of values."""

    @abstractmethod
    def values(self, index: IntArray) -> Column:
        """(N,) indices -> (N,) values."""

    @abstractmethod
    def index(self, values: Sequence[Scalar] | Column) -> IntArray:
        """(N,) values -> (N,) indices of the nearest values. Raises as `encode`."""

    def units(self, index: IntArray) -> FloatArray:
        """(N,) indices -> (N,) middles of their cells."""
        middles: FloatArray = (index + 0.5) / self.count
        return middles

    def cells(self, units: FloatArray) -> IntArray:
        """(N,) points -> (N,) indices of the cells they lie in."""
        return np.minimum(np.asarray(units * self.count, dtype=np.int64), self.count - 1)

    def decode(self, units: FloatArray) -> Column:
        """See Axis."""
        return self.values(self.cells(np.clip(units, 0.0, 1.0)))

    def encode(self, values: Sequence[Scalar] | Column) -> FloatArray:
        """See Axis."""
        return self.units(self.index(values))

    def canonical(self, value: Scalar) -> Scalar | None:
        """See Axis."""
        try:
            nearest: Scalar = self.values(self.index([value]))[0].item()
        except ValueError:
            return None
        return nearest if nearest == value else None


@dataclass(frozen=True, slots=True)
class ChoiceAxis(GridAxis):
    """Listed values of one type, equally likely, in this order."""

    choices: tuple[Scalar, ...]

    @property
    def count(self) -> int:
        """See Axis."""
        return len(self.choices)

    def values(self, index: IntArray) -> Column:
        """See GridAxis."""
        return np.asarray(self.choices)[index]

    def index(self, values: Sequence[Scalar] | Column) -> IntArray:
        """See GridAxis."""
        places = {(type(choice), choice): place for place, choice in enumerate(self.choices)}
        plain = _plain(values)
        found = [places.get((type(value), value), -1) for value in plain]
        if -1 in found:
            raise ValueError(f"{plain[found.index(-1)]!r} is none of {self.describe()}")
        return np.asarray(found, dtype=np.int64)

    def describe(self) -> str:
        """See Axis."""
        shown = ", ".join(_toml(choice) for choice in self.choices[:8])
        return shown if self.count <= 8 else f"{shown}, ... ({self.count} choices)"  # noqa: PLR2004 - fits a line


@dataclass(frozen=True, slots=True)
class IntegerAxis(GridAxis):
    """Integers first * step, (first + 1) * step, ..., last * step.

    On a logarithmic scale (first >= 1) the cell of k reaches from k - 1/2 to k + 1/2, so that its width is its share of
    the logarithm.
    """

    first: int
    last: int
    step: int
    log: bool

    @property
    def count(self) -> int:
        """See Axis."""
        return self.last - self.first + 1

    def values(self, index: IntArray) -> Column:
        """See GridAxis."""
        return (index + self.first) * self.step

    def index(self, values: Sequence[Scalar] | Column) -> IntArray:
        """See GridAxis."""
        numbers = _numbers(values)
        nearest = np.clip(np.rint(numbers / self.step), self.first, self.last)
        return np.asarray(nearest, dtype=np.int64) - self.first

    def units(self, index: IntArray) -> FloatArray:
        """See GridAxis."""
        if not self.log:
            return GridAxis.units(self, index)
        low, span = self._log_range()
        positions: FloatArray = (np.log(index + self.first) - low) / span
        return positions

    def cells(self, units: FloatArray) -> IntArray:
        """See GridAxis."""
        if not self.log:
            return GridAxis.cells(self, units)
        low, span = self._log_range()
        nearest = np.clip(np.rint(np.exp(low + units * span)), self.first, self.last)
        return np.asarray(nearest, dtype=np.int64) - self.first

    def _log_range(self) -> tuple[float, float]:
        low = math.log(self.first - 0.5)
        return low, math.log(self.last + 0.5) - low

    def canonical(self, value: Scalar) -> Scalar | None:
        """See Axis."""
        if isinstance(value, bool) or not isinstance(value, int):
            return None
        quotient, rest = divmod(value, self.step)
        return value if rest == 0 and self.first <= quotient <= self.last else None

    def describe(self) -> str:
        """See Axis."""
        steps = f" in steps of {self.step}" if self.step > 1 else ""
        return f"{self.first * self.step} to {self.last * self.step}{steps}"


@dataclass(frozen=True, slots=True)
class PowerAxis(GridAxis):
    """Powers of two, 2**first to 2**last, equally likely."""

    first: int
    last: int

    @property
    def count(self) -> int:
        """See Axis."""
        return self.last - self.first + 1

    def values(self, index: IntArray) -> Column:
        """See GridAxis."""
        return np.left_shift(np.int64(1), index + self.first)

    def index(self, values: Sequence[Scalar] | Column) -> IntArray:
        """See GridAxis."""
        exponents = np.rint(np.log2(np.maximum(_numbers(values), 1.0)))
        return np.asarray(np.clip(exponents, self.first, self.last), dtype=np.int64) - self.first

    def canonical(self, value: Scalar) -> Scalar | None:
        """See Axis."""
        if isinstance(value, bool) or not isinstance(value, int):
            return None
        return GridAxis.canonical(self, value)

    def describe(self) -> str:
        """See Axis."""
        return f"powers of two, {2**self.first} to {2**self.last}"


@dataclass(frozen=True, slots=True)
class RealAxis(Axis):
    """Real numbers from low to high (both included), uniform on the scale, rounded to DIGITS significant decimals."""

    low: float
    high: float
    log: bool

    @property
    def count(self) -> None:
        """See Axis."""
        return None

    def decode(self, units: FloatArray) -> Column:
        """See Axis."""
        points = np.clip(units, 0.0, 1.0)
        if self.log:
            low = math.log(self.low)
            return self._rounded(np.exp(low + points * (math.log(self.high) - low)))
        return self._rounded(self.low + points * (self.high - self.low))

    def encode(self, values: Sequence[Scalar] | Column) -> FloatArray:
        """See Axis."""
        numbers = np.clip(_numbers(values), self.low, self.high)
        if self.low == self.high:
            return np.full(numbers.shape, 0.5)
        if self.log:
            low = math.log(self.low)
            points = (np.log(numbers) - low) / (math.log(self.high) - low)
        else:
            points = (numbers - self.low) / (self.high - self.low)
        return np.clip(points, 0.0, 1.0)

    def canonical(self, value: Scalar) -> Scalar | None:
        """See Axis."""
        if isinstance(value, bool | str) or not self.low <= value <= self.high:
            return None
        rounded: float = self._rounded(np.asarray([value], dtype=np.float64))[0].item()
        return rounded

    def describe(self) -> str:
        """See Axis."""
        return f"{self.low!r} to {self.high!r}"

    def _rounded(self, values: FloatArray) -> FloatArray:
        """Rounded through decimal text, so that 0.9 stays 0.9; clipped, as a bound may have more digits."""
        if self.low == self.high:
            return np.full(values.shape, self.low)
        if self.log:
            decimal = [float(f"{value:.{DIGITS - 1}e}") for value in values.tolist()]
        else:
            places = linear_places(self.low, self.high)
            decimal = [round(value, places) for value in values.tolist()]
        return np.clip(np.asarray(decimal, dtype=np.float64), self.low, self.high)


def linear_places(low: float, high: float) -> int:
    """Decimal places of a linear real axis: DIGITS digits of the range, fewer where the arithmetic is not as exact."""
    wanted = DIGITS - 1 - math.floor(math.log10(high - low))
    exact = -math.ceil(math.log10(16 * math.ulp(max(abs(low), abs(high)))))
    return min(wanted, exact)


def _plain(values: Sequence[Scalar] | Column) -> list[Any]:
    """Values as plain Python objects."""
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _numbers(values: Sequence[Scalar] | Column) -> FloatArray:
    """Numbers as floats.

    Raises:
        ValueError: a boolean, a text, or not finite.
    """
    if not isinstance(values, np.ndarray):
        strange = next((value for value in values if isinstance(value, bool | str)), None)
        if strange is not None:
            raise ValueError(f"{strange!r} is not a number")
    numbers = np.asarray(values, dtype=np.float64)
    if not bool(np.isfinite(numbers).all()):
        raise ValueError("a value is not finite")
    return numbers


def _toml(value: Scalar) -> str:
    """The value as a study file writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)
