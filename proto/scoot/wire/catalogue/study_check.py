"""A study's engine options against what is known of the engine. Pure.

Two sources: the catalogue (one version's own parser: what exists, which values it takes) and the overlay (what people
know: ranges, risks, names that are gone). Either may be missing; what needs it is then not checked.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

import msgspec

from scoot.wire.catalogue.option import Catalogue, EngineOption, OptionKind
from scoot.wire.catalogue.overlay import ChangeKind, Effect, Enforced, Overlay, Rule, Tuning
from scoot.wire.client_parameters import CLIENT_PARAMETERS
from scoot.wire.spec import Parameter, ParameterKind, Scalar, Scale, StudySpec

_CLOSE: Final = 0.6

_FITTING: Final = {
    ParameterKind.BOOL: {OptionKind.BOOL},
    ParameterKind.INT: {OptionKind.INT, OptionKind.FLOAT},
    ParameterKind.FLOAT: {OptionKind.FLOAT},
}
"""Kinds of option a kind of parameter can be passed to; texts take anything, enumerations are judged by value."""


class Level(StrEnum):
    """ERROR: the engine would refuse it. WARNING: it may not be what was meant. NOTE: worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was found.

    Attributes:
        level: see Level.
        key: where in the study file, "parameters.max_num_seqs.high".
        message: what is wrong.
        remedy: what to do, "" if nothing needs to be done.
    """

    level: Level
    key: str
    message: str
    remedy: str = ""


def check_options(spec: StudySpec, catalogue: Catalogue | None, overlay: Overlay | None) -> tuple[Finding, ...]:
    """Everything to say of a study's parameters and fixed options, errors first, else in the file's order."""
    found: list[Finding] = []
    for parameter in spec.parameters:
        if parameter.name in CLIENT_PARAMETERS:
            continue  # not the engine's
        key = f"parameters.{parameter.name}"
        option, findings = _existing(parameter.name, key, catalogue, overlay)
        found += findings
        if option is not None:
            found += _parameter(parameter, key, option)
        if not any(item.level is Level.ERROR for item in findings):
            found += _tuned(parameter, key, parameter.name if option is None else option.name, overlay)
    for name, value in spec.service.options.items():
        key = f"service.options.{name}"
        option, findings = _existing(name, key, catalogue, overlay)
        found += findings
        if option is not None:
            found += _value(value, key, option)
    if overlay is not None:
        found += (
            Finding(level=Level.NOTE, key="constraints", message=_unstated(rule), remedy=f'add "{rule.rule}"')
            for rule, _ in unstated_rules(spec, overlay)
        )
    order = list(Level)
    return tuple(sorted(found, key=lambda item: order.index(item.level)))


def _existing(
    name: str, key: str, catalogue: Catalogue | None, overlay: Overlay | None
) -> tuple[EngineOption | None, list[Finding]]:
    """The option of a name, and what is to be said when there is none."""
    if catalogue is not None and name in catalogue.by_name:
        return catalogue.by_name[name], []
    if catalogue is not None and name in catalogue.by_alias:
        option = catalogue.by_alias[name]
        message = f"is another name of {option.name}"
        return option, [Finding(level=Level.WARNING, key=key, message=message, remedy=f"write {option.name}")]
    change = None if overlay is None else overlay.changes.get(name)
    if change is not None:
        # Without a catalogue the version is not known, and an early one may still have it.
        level = Level.WARNING if catalogue is None else Level.ERROR
        if change.kind is ChangeKind.RENAMED:
            remedy = f"write {change.to}"
        else:
            remedy = f"the nearest is {' or '.join(change.nearest)}" if change.nearest else "remove it"
        return None, [Finding(level=level, key=key, message=f"was {change.describe()}", remedy=remedy)]
    if catalogue is not None:
        message = f"{catalogue.engine} {catalogue.version} has no such option"
        return None, [
            Finding(level=Level.ERROR, key=key, message=message, remedy=_spelling(name, list(catalogue.by_name)))
        ]
    if overlay is not None and name not in overlay.options:
        message = f"nothing is known of this option of {overlay.engine}"
        return None, [
            Finding(level=Level.NOTE, key=key, message=message, remedy=_spelling(name, list(overlay.options)))
        ]
    return None, []


def _spelling(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=_CLOSE)
    return f"did you mean {close[0]!r}?" if close else ""


def _parameter(parameter: Parameter, key: str, option: EngineOption) -> Iterator[Finding]:
    """A parameter's type and values against what the engine takes."""
    fitting = _FITTING.get(parameter.kind)
    if fitting is not None and option.kind is not OptionKind.TEXT and option.kind not in fitting:
        message = f"is tuned as {parameter.kind.value}, and is {_kind(option)} to the engine"
        yield Finding(level=Level.ERROR, key=f"{key}.type", message=message, remedy=f"write type = {_type(option)}")
        return
    values: list[tuple[str, Scalar]] = [(f"{key}.choices[{i}]", item) for i, item in enumerate(parameter.choices)]
    for field in ("low", "high", "default"):
        value = getattr(parameter, field)
        if value is not None:
            whole = isinstance(value, float) and parameter.kind is ParameterKind.INT and value.is_integer()
            values.append((f"{key}.{field}", int(value) if whole else value))
    for place, value in values:
        yield from _value(value, place, option)


def _kind(option: EngineOption) -> str:
    return "true or false" if option.kind is OptionKind.BOOL else f"of kind {option.kind.value}"


def _type(option: EngineOption) -> str:
    kinds = {OptionKind.BOOL: '"bool"', OptionKind.INT: '"int"', OptionKind.FLOAT: '"float"'}
    return kinds.get(option.kind, '"enum" with `choices`')


def _value(value: Scalar, key: str, option: EngineOption) -> Iterator[Finding]:
    """One value against what the engine takes."""
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    if option.choices and option.kind is not OptionKind.LIST:
        if value not in option.choices or isinstance(value, bool) != any(isinstance(c, bool) for c in option.choices):
            known = ", ".join(map(str, option.choices))
            yield Finding(
                level=Level.ERROR, key=key, message=f"the engine does not take {shown}", remedy=f"one of: {known}"
            )
        return
    match option.kind:
        case OptionKind.BOOL:
            fits = isinstance(value, bool)
        case OptionKind.INT:
            fits = (isinstance(value, int) and not isinstance(value, bool)) or _is_count(value)
        case OptionKind.FLOAT:
            fits = isinstance(value, int | float) and not isinstance(value, bool)
        case _:
            fits = True
    if not fits:
        yield Finding(level=Level.ERROR, key=key, message=f"{shown} is not {_kind(option)}", remedy="")
    elif isinstance(value, int | float) and not isinstance(value, bool) and not option.allows(value):
        message = f"{shown} is outside of the engine's limits"
        yield Finding(level=Level.ERROR, key=key, message=message, remedy=f"it must be {option.limits()}")


_COUNT: Final = re.compile(r"\d+(\.\d+)?[kKmMgGtT]?|auto")


def _is_count(value: Scalar) -> bool:
    """A count as some engines read them: "8k", "auto"."""
    return isinstance(value, str) and _COUNT.fullmatch(value) is not None


def _tuned(parameter: Parameter, key: str, name: str, overlay: Overlay | None) -> Iterator[Finding]:
    """What is known of tuning the option called `name`."""
    if overlay is None or name in overlay.changes:
        return
    tuning = overlay.options.get(name)
    if tuning is None:
        message = "nothing is known of what it does to outputs and of its range"
        yield Finding(level=Level.NOTE, key=key, message=message)
        return
    because = f": {tuning.note}" if tuning.note else ""
    if tuning.effect is Effect.OUTPUTS:
        message = f"changes what the model answers{because}"
        yield Finding(level=Level.WARNING, key=key, message=message, remedy="fix it in [service.options] instead")
    elif tuning.effect is Effect.NUMERICS:
        message = f"selects other kernels or another order of sums; answers may move{because}"
        yield Finding(level=Level.WARNING, key=key, message=message, remedy="compare the winner's answers")
    if tuning.only:
        yield Finding(level=Level.NOTE, key=key, message=f"does something only with {tuning.only}")
    yield from _range(parameter, key, tuning)


def _range(parameter: Parameter, key: str, tuning: Tuning) -> Iterator[Finding]:
    """A parameter's values against those worth trying."""
    numbers = [item for item in parameter.choices if isinstance(item, int | float) and not isinstance(item, bool)]
    ends = [item for item in (parameter.low, parameter.high) if item is not None]
    tried: list[float] = [*numbers, *ends]
    if tuning.low is not None and tuning.high is not None:
        low, high = tuning.low, tuning.high
        outside = [item for item in tried if not low <= item <= high]
        if outside:
            shown = ", ".join(f"{item:g}" for item in outside)
            message = f"{shown}: outside of the range known to be worth searching, {tuning.range()}"
            yield Finding(level=Level.NOTE, key=key, message=message)
        yield from _multiples(parameter, key, tuning, numbers)
    elif tuning.choices and parameter.choices:
        other = [str(item) for item in parameter.choices if item not in tuning.choices]
        if other:
            message = f"{', '.join(other)}: not among the values known to be worth trying, {tuning.range()}"
            yield Finding(level=Level.NOTE, key=key, message=message)


def _multiples(parameter: Parameter, key: str, tuning: Tuning, numbers: list[int | float]) -> Iterator[Finding]:
    """Values that are not multiples of what the engine works with."""
    step = tuning.step
    if step is None:
        return
    odd = [f"{item:g}" for item in numbers if item % step]
    ranged = not numbers and parameter.low is not None
    if parameter.scale is Scale.POW2:
        ranged = ranged and (parameter.low or 0) < step
    elif parameter.step is not None:
        ranged = ranged and bool(parameter.step % step)
    if not odd and not ranged:
        return
    because = f"; {tuning.note}" if tuning.note else ""
    message = f"{', '.join(odd) or 'some values of the range'}: not a multiple of {step}{because}"
    by_step = f"begin at {step}" if parameter.scale is Scale.POW2 else f"add step = {step}"
    yield Finding(level=Level.WARNING, key=key, message=message, remedy="leave them out" if odd else by_step)


_NAME: Final = re.compile(r'"[^"]*"|\'[^\']*\'|\d[\w.]*|([A-Za-z_]\w*)')
_WORDS: Final = frozenset({"and", "or", "not", "in", "implies", "true", "false"})


def names_of(rule: str) -> frozenset[str]:
    """The names an expression of the constraint language mentions."""
    return frozenset(match[1] for match in _NAME.finditer(rule) if match[1]) - _WORDS


def unstated_rules(spec: StudySpec, overlay: Overlay) -> Iterator[tuple[Rule, frozenset[str]]]:
    """Known constraints between tuned parameters that the study does not state, and the names they mention."""
    device = "cpu" if spec.service.device == "cpu" else "gpu"
    tuned = {parameter.name for parameter in spec.parameters}
    facts = {*spec.service.options} | ({"max_model_len"} if spec.service.max_model_len is not None else set())
    stated = {_squeezed(item) for item in spec.constraints}
    about = [names_of(item) for item in spec.constraints]
    for rule in overlay.rules:
        names = names_of(rule.rule)
        if rule.devices and device not in rule.devices:
            continue
        if not names & tuned or not names <= tuned | facts or _squeezed(rule.rule) in stated:
            continue
        if any(names == other for other in about):
            continue  # said in other words, or in a stricter form
        yield rule, names


def _unstated(rule: Rule) -> str:
    cost = {
        Enforced.PARSER: "the engine refuses at once what breaks",
        Enforced.START: "the engine dies at its start of what breaks",
        Enforced.REQUEST: "requests fail under what breaks",
        Enforced.NOBODY: "the engine silently makes something else of what breaks",
    }[rule.enforced]
    return f"{cost} `{rule.rule}`{f': {rule.note}' if rule.note else ''}"


def _squeezed(text: str) -> str:
    return "".join(text.split())
