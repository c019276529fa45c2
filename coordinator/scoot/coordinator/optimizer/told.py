"""What users of the public API say, in the forms that are convenient to them -> the values that methods work with.

Everything is checked here, and nothing is kept: whatever is refused has changed nothing.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from scoot.coordinator.objective.metric import METRICS, Direction, metric_of
from scoot.coordinator.objective.outcome import Outcome
from scoot.coordinator.space.parameter import default_of
from scoot.coordinator.space.space import Space
from scoot.wire import limits
from scoot.wire.errors import UserError
from scoot.wire.spec import Config, Parameter

Figures: TypeAlias = float | Sequence[float] | Mapping[str, float]
"""One figure, one for each name in order (a list, a tuple, a (m,) array), or by name."""

Goals: TypeAlias = str | Sequence[str | tuple[str, str]] | Mapping[str, str]
"""Objectives: names of SCOOT's metrics, or any names with their directions."""


class Infeasible(msgspec.Struct, frozen=True):
    """A configuration that does not work, and the configuration is to blame.

    Attributes:
        reason: scoot.wire.reasons.Reason ("ENGINE_OOM", ...) or any other text; methods may model each reason by
            itself. "" is unknown.
    """

    reason: str = ""


_DIRECTIONS: Final = {
    "minimise": Direction.MINIMISE,
    "minimize": Direction.MINIMISE,
    "min": Direction.MINIMISE,
    "maximise": Direction.MAXIMISE,
    "maximize": Direction.MAXIMISE,
    "max": Direction.MAXIMISE,
}
_SIGNS: Final = {"<=": Direction.MINIMISE, ">=": Direction.MAXIMISE}
_LIMIT: Final = re.compile(r"\s*(\S+)\s*(<=|>=)\s*(\S+)\s*")
_SHOWN: Final = 5
"""Differences that one error names."""


def read_objectives(goals: Goals) -> tuple[tuple[str, ...], tuple[Direction, ...]]:
    """Names and directions of the objectives, in order.

    Raises:
        UserError: none or more than limits.OBJECTIVES, a name twice, an unknown direction, or a name without direction
            that is no metric of SCOOT.
    """
    pairs: list[tuple[str, str | None]] = []
    if isinstance(goals, str):
        pairs = [(goals, None)]
    elif isinstance(goals, Mapping):
        pairs = list(goals.items())
    else:
        for goal in goals:
            pairs.append((goal, None) if isinstance(goal, str) else (goal[0], goal[1]))
    if not 1 <= len(pairs) <= limits.OBJECTIVES:
        raise UserError(f"1 to {limits.OBJECTIVES} objectives, not {len(pairs)}", key="objectives")
    names = tuple(name for name, _ in pairs)
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{name!r} is there twice", key="objectives", hint="remove one of them")
    return names, tuple(_direction(name, word) for name, word in pairs)


def _direction(name: str, word: str | None) -> Direction:
    if word is None:
        if name not in METRICS:
            try:
                metric_of(name)
            except UserError as error:
                raise UserError(
                    error.message,
                    key="objectives",
                    hint=f'{error.hint}; or say which way is better: {{"{name}": "min"}}',
                ) from None
        return METRICS[name].direction
    direction = _DIRECTIONS.get(str(word).lower())
    if direction is None:
        raise UserError(f"{word!r} is not a direction", key=f"objectives.{name}", hint='"minimise" or "maximise"')
    return direction


def read_outcomes(outcomes: Iterable[Outcome | str]) -> tuple[Outcome, ...]:
    """Limits on outcomes, given as such or as text, "ttft_p95 <= 2000".

    Raises:
        UserError: text that says something else, a limit that is not finite, or a name twice.
    """
    found: list[Outcome] = []
    for place, outcome in enumerate(outcomes):
        key = f"outcomes[{place}]"
        if isinstance(outcome, str):
            match = _LIMIT.fullmatch(outcome)
            limit = _number(match[3]) if match is not None else None
            if match is None or limit is None:
                raise UserError(f"{outcome!r} is not a limit", key=key, hint='for example "ttft_p95 <= 2000"')
            outcome = Outcome(name=match[1], direction=_SIGNS[match[2]], limit=limit)  # noqa: PLW2901 - the same, read
        if not math.isfinite(outcome.limit):
            raise UserError(f"a limit of {outcome.limit} is not finite", key=key)
        if outcome.name in [other.name for other in found]:
            raise UserError(f"{outcome.name!r} is there twice", key=key, hint="remove one of them")
        found.append(outcome)
    return tuple(found)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def read_space(
    space: Space | Sequence[Parameter], constraints: Sequence[str], default: Mapping[str, Any] | None
) -> Space:
    """The search space, with `default` (where it is given) instead of the parameters' own defaults.

    Raises:
        UserError: as Space.build; also where `default` names what is not a parameter, or constraints come beside a
            Space that has its own.
    """
    if isinstance(space, Space):
        if constraints:
            raise UserError("a Space has its own constraints", key="constraints", hint="give them to Space.build")
        parameters: tuple[Parameter, ...] = space.parameters
    else:
        parameters = tuple(space)
    if default is not None:
        given = plain_config(default)
        names = [parameter.name for parameter in parameters]
        for name in given:
            if name not in names:
                raise UserError("is not a parameter", key=f"default.{name}", hint=f"parameters: {', '.join(names)}")
        parameters = tuple(
            msgspec.structs.replace(parameter, default=given.get(parameter.name)) for parameter in parameters
        )
    if not isinstance(space, Space):
        return Space.build(parameters, constraints)
    changed = dataclasses.replace(space, parameters=parameters)
    for parameter, axis in zip(changed.parameters, changed.axes, strict=True):
        default_of(parameter, axis)
    violated = changed.violated(changed.default_config())
    if violated:
        raise UserError(f"the default violates `{violated[0]}`", key="default", hint="trial 0 runs the default")
    return changed


def plain_config(config: Mapping[str, Any]) -> Config:
    """A configuration in plain Python values (NumPy's scalars included).

    Raises:
        UserError: not a mapping, or a value that is none of bool, int, float and str.
    """
    if not isinstance(config, Mapping):
        raise UserError(f"expected a configuration or a Suggestion, not {type(config).__name__}", key="config")
    plain: Config = {}
    for name, value in config.items():
        item = value.item() if hasattr(value, "item") else value
        if not isinstance(item, bool | int | float | str):
            raise UserError(f"{value!r} is not a value", key=f"config.{name}", hint="a bool, a number or a text")
        plain[name] = item
    return plain


def read_config(space: Space, config: Mapping[str, Any]) -> Config:
    """A configuration of the space in the space's own order and types, or its default, which may leave parameters out.

    Raises:
        UserError: it is neither, with what differs, or it violates a known constraint.
    """
    plain = plain_config(config)
    key = space.key(plain)
    if key is None:
        if _is_default(space, plain):
            return space.default_config()
        raise UserError(
            f"not a configuration of the space: {difference(space, plain)}",
            key="config",
            hint="every active parameter has a value of its own range or choices",
        )
    violated = space.violated(plain)
    if violated:
        raise UserError(f"violates `{violated[0]}`: {plain}", key="config", hint="the space excludes it already")
    return space.config_of(key)


def _is_default(space: Space, config: Config) -> bool:
    """Whether it is the default, stated in full or not, in whatever types that mean the same."""
    default = space.default_config()
    axes = {axis.name: axis for axis in space.axes}
    return config.keys() == default.keys() and all(
        axes[name].canonical(value) == default[name] for name, value in config.items()
    )


def difference(space: Space, config: Config) -> str:
    """How a configuration that is not of the space differs from those that are."""
    parts = [f"`{name}` is not a parameter" for name in config if name not in space.names]
    conditional = [condition.name for condition in space.conditions]
    for axis in space.axes:
        if axis.name not in config:
            if axis.name not in conditional:
                parts.append(f"`{axis.name}` has no value")
        elif axis.canonical(config[axis.name]) is None:
            parts.append(f"`{axis.name}` = {config[axis.name]!r} is none of {axis.describe()}")
    if not parts:
        named = ", ".join(f"`{name}`" for name in conditional)
        return f"{named} must have values exactly where active, not as in {config}"
    more = len(parts) - _SHOWN
    return "; ".join(parts[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def read_figures(what: str, figures: object, names: Sequence[str]) -> tuple[float, ...]:
    """Finite figures, one for each name.

    Args:
        what: "values", "noise" or "outcomes", for errors.
        figures: see Figures.
        names: of the objectives or outcomes.

    Raises:
        UserError: another number of figures, other names, or one that is not a finite number.
    """
    expected = f"one figure for each of {', '.join(names)}" if names else "none: there are no limited outcomes"
    if isinstance(figures, Mapping):
        if figures.keys() != set(names):
            missing = [name for name in names if name not in figures]
            extra = [str(name) for name in figures if name not in names]
            told = "; ".join(
                f"{label} {', '.join(which)}" for label, which in (("missing:", missing), ("unknown:", extra)) if which
            )
            raise UserError(f"other names than expected ({told})", key=what, hint=expected)
        listed: list[Any] = [figures[name] for name in names]
    elif isinstance(figures, str):
        raise UserError(f"{figures!r} is not a number", key=what, hint=expected)
    else:
        listed = [figures]
        if isinstance(figures, Iterable) and getattr(figures, "ndim", True):  # a () array is one figure
            listed = list(figures)
    if len(listed) != len(names):
        raise UserError(f"{len(listed)} figures instead of {len(names)}", key=what, hint=expected)
    found: list[float] = []
    for name, figure in zip(names, listed, strict=True):
        plain = figure.item() if hasattr(figure, "item") else figure
        if isinstance(plain, bool) or not isinstance(plain, int | float) or not math.isfinite(plain):
            hint = "what cannot be measured has no figure: tell Infeasible(reason), or None if nobody is to blame"
            raise UserError(f"{figure!r} is not a finite number", key=f"{what}.{name}", hint=hint)
        found.append(float(plain))
    return tuple(found)


def read_noise(figures: object, names: Sequence[str]) -> tuple[float, ...]:
    """Standard errors, at least 0. Raises as read_figures; also below 0."""
    found = read_figures("noise", figures, names)
    for name, figure in zip(names, found, strict=True):
        if figure < 0:
            raise UserError(f"{figure} is below 0", key=f"noise.{name}", hint="the standard error of the value")
    return found
