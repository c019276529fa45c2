"""From a parameter as written in a study file to its axis: every rule about one parameter on its own is here."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

from scoot.coordinator.space.encoding import (
    MAX_INTEGER,
    Axis,
    ChoiceAxis,
    IntegerAxis,
    PowerAxis,
    RealAxis,
)
from scoot.coordinator.space.expression import RESERVED
from scoot.wire import limits
from scoot.wire.errors import UserError
from scoot.wire.spec import Parameter, ParameterKind, Scalar, Scale

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_EXACT_INTEGER: Final = 2**53
_KIND_NAMES: Final = {bool: "boolean", int: "integer", float: "float", str: "text"}


def axis_of(parameter: Parameter) -> Axis:
    """The axis of a parameter, everything about it checked, its default included.

    Raises:
        UserError: with key `parameters.NAME.FIELD`.
    """
    check_name(parameter.name)
    axis = _axis(parameter)
    if parameter.default is not None:
        default_of(parameter, axis)
    return axis


def check_name(name: str) -> None:
    """Refuse what cannot be a parameter's name.

    Raises:
        UserError: not an identifier, too long, or a word of the constraint language.
    """
    if not _NAME.fullmatch(name):
        hint = f"write `{name.lstrip('-').replace('-', '_')}`" if "-" in name else "letters, digits and underscores"
        raise UserError(f"{name[:80]!r} is not a parameter name", key="parameters", hint=hint)
    if len(name) > limits.STRING_CHARS:
        raise UserError(f"a parameter's name has {len(name)} characters", key="parameters", hint="it is an engine flag")
    if name in RESERVED:
        raise _error(name, "", f"`{name}` is a word of the constraint language", "it cannot name a parameter")


def default_of(parameter: Parameter, axis: Axis) -> Scalar | None:
    """The stated default in the axis's own type; None if none is stated.

    Raises:
        UserError: of the wrong type, or not a value of the parameter.
    """
    if parameter.default is None:
        return None
    _check_type(parameter, "default", parameter.default)
    value = axis.canonical(parameter.default)
    if value is None:
        raise _error(
            parameter.name,
            "default",
            f"{parameter.default!r} is not one of its values: {axis.describe()}",
            "widen the range, or leave `default` out: the engine then uses its own default in trial 0",
        )
    return value


def _error(name: str, field: str, problem: str, hint: str = "") -> UserError:
    return UserError(problem, key=f"parameters.{name}" + (f".{field}" if field else ""), hint=hint)


def _axis(parameter: Parameter) -> Axis:
    match parameter.kind:
        case ParameterKind.BOOL:
            _refuse(parameter, "low", "high", "step", "scale", "choices")
            return ChoiceAxis(parameter.name, (False, True))
        case ParameterKind.ENUM:
            _refuse(parameter, "low", "high", "step", "scale")
            return ChoiceAxis(parameter.name, _choices(parameter))
        case ParameterKind.INT:
            if parameter.choices:
                _refuse(parameter, "low", "high", "step", "scale")
                return ChoiceAxis(parameter.name, tuple(sorted(_choices(parameter), key=_number)))
            return _integer_axis(parameter)
        case ParameterKind.FLOAT:
            _refuse(parameter, "step", "choices")
            return _real_axis(parameter)


def _refuse(parameter: Parameter, *fields: str) -> None:
    """Refuse keys that mean nothing for this type of parameter."""
    listed = bool(parameter.choices) and "choices" not in fields
    for field in fields:
        given = getattr(parameter, field)
        if given in (None, (), Scale.LINEAR):
            continue
        hint = "remove it"
        if field == "choices":
            hint = "a bool has only true and false" if parameter.kind is ParameterKind.BOOL else 'use type = "enum"'
        elif field == "step" and parameter.kind is ParameterKind.FLOAT:
            hint = 'a float is continuous; use type = "int" or "enum" for steps'
        why = "together with `choices`" if listed and parameter.kind is ParameterKind.INT else f"for {parameter.kind}"
        raise _error(parameter.name, field, f"`{field}` has no meaning {why}", hint)


def _choices(parameter: Parameter) -> tuple[Scalar, ...]:
    """The choices, checked to be different values of one type."""
    choices = parameter.choices
    if not choices:
        raise _error(parameter.name, "choices", "needs at least one choice", 'for example choices = ["a", "b"]')
    kinds: Sequence[type] = sorted({type(choice) for choice in choices}, key=lambda kind: _KIND_NAMES[kind])
    if len(kinds) > 1:
        found = " and ".join(_KIND_NAMES[kind] for kind in kinds)
        hint = "write whole numbers as 1.0" if set(kinds) == {int, float} else "all choices are of one type"
        raise _error(parameter.name, "choices", f"mixes types: {found}", hint)
    for position, choice in enumerate(choices):
        _check_type(parameter, "choices", choice)
        if choice in choices[:position]:
            raise _error(parameter.name, "choices", f"{choice!r} is there twice", "remove one of them")
    return choices


def _check_type(parameter: Parameter, field: str, value: Scalar) -> None:
    """Refuse a value that this type of parameter cannot have."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    match parameter.kind:
        case ParameterKind.INT if not whole:
            hint = f"write {int(value)}" if isinstance(value, float) and value.is_integer() else ""
            raise _error(parameter.name, field, f"{value!r} is not an integer", hint)
        case ParameterKind.FLOAT if not whole and not isinstance(value, float):
            raise _error(parameter.name, field, f"{value!r} is not a number")
        case ParameterKind.BOOL if not isinstance(value, bool):
            raise _error(parameter.name, field, f"{value!r} is not a boolean", "write true or false")
        case _:
            pass
    if isinstance(value, float) and not math.isfinite(value):
        raise _error(parameter.name, field, f"{value!r} is not finite")
    if isinstance(value, int) and abs(value) > _EXACT_INTEGER:
        raise _error(parameter.name, field, f"{value!r} is too large", "integers go up to 2**53")
    if isinstance(value, str):
        if len(value) > limits.STRING_CHARS:
            raise _error(parameter.name, field, f"a text of {len(value)} characters", f"at most {limits.STRING_CHARS}")
        if any(not character.isprintable() for character in value):
            raise _error(parameter.name, field, f"{value[:80]!r} has characters that cannot be printed")


def _number(value: Scalar) -> float:
    """A number that is known to be one."""
    return float(value)


def _range(parameter: Parameter) -> tuple[float, float]:
    """Both bounds, finite and in order."""
    example = f"for example low = {1 if parameter.kind is ParameterKind.INT else 0.5}, high = ..."
    bounds: list[float] = []
    for field, bound in (("low", parameter.low), ("high", parameter.high)):
        if bound is None:
            raise _error(parameter.name, field, "is missing", f"{parameter.kind} needs `low` and `high`, {example}")
        if not math.isfinite(bound):
            raise _error(parameter.name, field, f"{bound!r} is not finite")
        bounds.append(float(bound))
    low, high = bounds
    if low > high:
        raise _error(parameter.name, "low", f"{low:g} is above high = {high:g}", "exchange them")
    if parameter.scale is not Scale.LINEAR and low <= 0:
        hint = "low must be above 0" + ("" if parameter.kind is ParameterKind.FLOAT else ", at least 1")
        raise _error(parameter.name, "low", f'{low:g} has no place on scale = "{parameter.scale}"', hint)
    return low, high


def _integer_axis(parameter: Parameter) -> Axis:
    low, high = _range(parameter)
    for field, bound in (("low", low), ("high", high)):
        if not bound.is_integer():
            raise _error(parameter.name, field, f"{bound!r} is not an integer", 'use type = "float" or a whole number')
        if abs(bound) > MAX_INTEGER:
            raise _error(parameter.name, field, f"{bound:g} is too large", f"at most {MAX_INTEGER}")
    first, last = int(low), int(high)
    if parameter.scale is Scale.POW2:
        if parameter.step is not None:
            raise _error(parameter.name, "step", '`step` has no meaning with scale = "pow2"', "remove it")
        exponents = (first - 1).bit_length(), last.bit_length() - 1
        if exponents[0] > exponents[1]:
            raise _error(parameter.name, "low", f"there is no power of two from {first} to {last}", "widen the range")
        return PowerAxis(parameter.name, *exponents)
    step = 1 if parameter.step is None else parameter.step
    if not 1 <= step <= MAX_INTEGER:
        raise _error(parameter.name, "step", f"{step} is not a step", f"1 to {MAX_INTEGER}")
    first, last = -(-first // step), last // step
    if first > last:
        raise _error(
            parameter.name, "step", f"there is no multiple of {step} from {low:g} to {high:g}", "widen the range"
        )
    return IntegerAxis(parameter.name, first, last, step, parameter.scale is Scale.LOG)


def _real_axis(parameter: Parameter) -> Axis:
    if parameter.scale is Scale.POW2:
        raise _error(parameter.name, "scale", 'scale = "pow2" is for integers', 'use scale = "log", or type = "enum"')
    low, high = _range(parameter)
    if not math.isfinite(high - low):
        raise _error(parameter.name, "high", "the range is too wide", "narrow it")
    smallest = high * 1e-4 if parameter.scale is Scale.LOG else 1000 * math.ulp(max(abs(low), abs(high)))
    if 0 < high - low < smallest:
        raise _error(parameter.name, "high", "the range is too narrow to be told apart", "set high = low, or widen it")
    return RealAxis(parameter.name, low, high, parameter.scale is Scale.LOG)
