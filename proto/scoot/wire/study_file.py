"""Study files: TOML text -> StudySpec, and the checks of a specification that need no search space. Pure.

Limits first (size, depth, counts), then shape (unknown keys, types), then meaning. Every error names file, line, dotted
key and remedy. docs/study-file.md is the users' page of the same keys; a test keeps the two together.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, TypeVar

import msgspec

from scoot.wire import limits
from scoot.wire.client_parameters import MAX_IN_FLIGHT, MOST, USERS, check_client_parameters
from scoot.wire.errors import UserError
from scoot.wire.spec import (
    SPEC_SCHEMA,
    ArrivalProcess,
    Arrivals,
    Objective,
    Parameter,
    SloClass,
    StudySpec,
    Workload,
)

S = TypeVar("S", bound=msgspec.Struct)

Table = dict[str, Any]
"""A TOML table as tomllib gives it."""


class Range(msgspec.Struct, frozen=True):
    """The values a number may take: low..high, inclusive; `above` makes the lower end exclusive."""

    low: float
    high: float
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        return f"{'above' if self.above else 'from'} {self.low:g} to {self.high:g}"


_DAY_S: Final = 86_400.0
_HOUR_S: Final = 3_600.0
"""Times of a request are u32 microseconds on the wire (71 minutes)."""
_INT32: Final = 2**31 - 1
_SEED: Final = Range(0, 2**63 - 1)

RANGES: Final[Mapping[str, Range]] = types.MappingProxyType(
    {
        "service.devices": Range(1, limits.DEVICES_PER_AGENT),
        "service.replicas": Range(1, limits.DEVICES_PER_AGENT),
        "service.max_model_len": Range(1, _INT32),
        "workload.length_scale": Range(0, 1_000, above=True),
        "workload.max_requests": Range(1, limits.REQUESTS),
        "workload.duration_s": Range(0, _DAY_S, above=True),
        "workload.warm_up_s": Range(0, _DAY_S),
        "workload.request_timeout_s": Range(0, _HOUR_S, above=True),
        "workload.drain_s": Range(0, _HOUR_S),
        "workload.seed": _SEED,
        "workload.cool_down_s": Range(0, _DAY_S),
        "workload.arrivals.rate": Range(0, 1_000_000, above=True),
        "workload.arrivals.cv": Range(0, 1_000, above=True),
        "workload.arrivals.users": Range(1, MOST[USERS]),
        "workload.arrivals.time_scale": Range(0, 1_000_000, above=True),
        "workload.arrivals.ramp_s": Range(0, _DAY_S),
        "workload.arrivals.ramp_from": Range(0, 1),
        "workload.arrivals.max_in_flight": Range(1, MOST[MAX_IN_FLIGHT]),
        "budget.trials": Range(1, limits.TRIALS),
        "budget.parallelism": Range(1, limits.PARALLELISM),
        "budget.max_attempts": Range(1, 100),
        "budget.ask_deadline_s": Range(0, _HOUR_S, above=True),
        "budget.min_gain": Range(0, 1),
        "confirm.arrival_orders": Range(0, 20),
        "optimizer.seed": _SEED,
        "limits.start_timeout_s": Range(0, _DAY_S, above=True),
        "limits.stall_timeout_s": Range(0, _DAY_S, above=True),
        "limits.lateness_p99_ms": Range(0, 1_000_000, above=True),
        "limits.client_cpu_share": Range(0, 1, above=True),
        "limits.clock_step_ms": Range(0, 1_000_000, above=True),
        "limits.min_requests": Range(1, limits.REQUESTS),
        "limits.max_failed_share": Range(0, 1),
        "limits.run_queue_share": Range(0, 1),
        "limits.achieved_share": Range(0, 1),
        "limits.merged_share": Range(0, 1),
        "limits.other_cpu_share": Range(0, 1),
    }
)
"""Dotted key -> what it may be, for every number of a study outside its parameters."""

SLO_CLASSES: Final = 16
"""Most SLO classes of a workload."""

_SHARE: Final = Range(0, 1, above=True)
_SHARES_TOLERANCE: Final = 1e-3
"""Three shares of 0.333 are meant to be all."""

_SLO_MS: Final = Range(0, 1_000 * _HOUR_S, above=True)

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_ARRIVAL_KEYS: Final[Mapping[ArrivalProcess, tuple[str, ...]]] = types.MappingProxyType(
    {
        ArrivalProcess.POISSON: ("rate",),
        ArrivalProcess.GAMMA: ("rate", "cv"),
        ArrivalProcess.CONSTANT: ("rate",),
        ArrivalProcess.CLOSED: ("users",),
        ArrivalProcess.TRACE: (),
    }
)
"""Keys each arrival process needs; it takes no others (a trace replay also takes `time_scale`, open ones
`max_in_flight`)."""


def parse_study(text: str, *, path: str, overrides: Sequence[str] = ()) -> StudySpec:
    """A study from the text of a study file.

    Args:
        text: TOML, at most SPEC_BYTES.
        path: named in errors; nothing is opened.
        overrides: "dotted.key=TOML value", applied in order before anything is checked; what is not a TOML value is
            taken as text. Setting `workload.trace` drops `workload.profile` and the other way round.

    Raises:
        UserError: with path, line, key and hint.
    """
    if len(text.encode()) > limits.SPEC_BYTES:
        raise UserError(f"the file is larger than {limits.SPEC_BYTES} bytes", path=path)
    data = _load(text, path)
    for item in overrides:
        _override(data, item)
    try:
        _refuse_odd_values(data, "")
        spec = _study(data)
        check_study(spec)
    except UserError as error:
        raise located(error, text, path=path, overrides=overrides) from error
    return spec


def check_study(spec: StudySpec) -> None:
    """Refuse a study that cannot mean anything, whatever engine and search space it has.

    Raises:
        UserError: with the dotted key, without path and line (see `located`).
    """
    if not _NAME.fullmatch(spec.name):
        raise UserError(
            f"{spec.name!r} is not a name",
            key="name",
            hint="use 1 to 100 letters, digits, '.', '_' and '-', the first a letter or digit",
        )
    if spec.schema != SPEC_SCHEMA:
        raise UserError(f"version {spec.schema} is not known here", key="schema", hint=f"this is version {SPEC_SCHEMA}")
    for key, allowed in RANGES.items():
        value: Any = spec
        for part in key.split("."):
            value = getattr(value, part)
        if value is not None and not (math.isfinite(value) and value in allowed):
            raise UserError(f"{value} is out of range", key=key, hint=f"it must be {allowed}")
    _check_service(spec)
    _check_workload(spec.workload)
    _check_objectives(spec)
    _check_parameters(spec)
    _at_most(spec.constraints, limits.CONSTRAINTS, "constraints")
    _at_most(spec.outcomes, limits.OUTCOMES, "outcomes")
    if not spec.optimizer.method:
        raise UserError("is empty", key="optimizer.method", hint='write "sobol", or leave it out')


def located(error: UserError, text: str, *, path: str, overrides: Sequence[str] = ()) -> UserError:
    """`error` with its path and, where the text has its key (or a table that holds it), the line.

    An error about a key that one of `overrides` set names "--set" instead of the file.
    """
    if any(_covers(item.partition("=")[0].strip(), error.key) for item in overrides):
        return error.at(path="--set")
    lines = key_lines(text)
    parts = re.split(r"\.|(?=\[)", error.key) if error.key else []
    while parts:
        line = lines.get(".".join(parts).replace(".[", "["))
        if line:
            return error.at(path=path, line=line)
        parts.pop()
    return error.at(path=path)


def suggest(word: str, known: Iterable[str]) -> str:
    """A hint: the closest of `known`, else all of them."""
    names = list(known)
    close = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(names)}"


# --- lines -----------------------------------------------------------------------------------------------------------

_KEY = r"(?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')"
_DOTTED: Final = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER: Final = re.compile(rf"\s*(\[\[?)\s*({_DOTTED})\s*\]")
_ASSIGNMENT: Final = re.compile(rf"\s*({_DOTTED})\s*=")
_TOKEN: Final = re.compile(r"\"\"\"|'''|\"(?:\\.|[^\"\\])*\"|'[^']*'|#|[\[{]|[\]}]")


def key_lines(text: str) -> dict[str, int]:
    """Dotted key -> line (from 1) of every table header and every key that starts a line.

    tomllib tells lines for syntax errors only. Keys inside inline tables are not found: their table is.
    """
    found: dict[str, int] = {}
    counts: dict[str, int] = {}
    prefix, closing, depth = "", "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        at = 0
        if not closing and depth == 0:
            if header := _HEADER.match(line):
                prefix = _plain(header[2])
                if header[1] == "[[":
                    counts[prefix] = counts.get(prefix, -1) + 1
                    found.setdefault(prefix, number)
                    prefix = f"{prefix}[{counts[prefix]}]"
                found.setdefault(prefix, number)
                continue
            if assignment := _ASSIGNMENT.match(line):
                found.setdefault(".".join(filter(None, (prefix, _plain(assignment[1])))), number)
                at = assignment.end()
        depth, closing = _scan(line, at, depth, closing)
    return found


def _plain(dotted: str) -> str:
    return ".".join(part.strip("\"'") for part in re.findall(_KEY, dotted))


def _scan(line: str, at: int, depth: int, closing: str) -> tuple[int, str]:
    """Bracket depth and open multi-line quote ("" for none) after `line[at:]`."""
    while True:
        if closing:
            end = line.find(closing, at)
            if end < 0:
                return depth, closing
            at, closing = end + len(closing), ""
        token = _TOKEN.search(line, at)
        if token is None or token[0] == "#":
            return depth, closing
        at = token.end()
        if token[0] in ('"""', "'''"):
            closing = token[0]
        elif token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth = max(0, depth - 1)


# --- shape -----------------------------------------------------------------------------------------------------------


def _load(text: str, path: str) -> Table:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, line = str(error), 0
        if at := re.search(r" \(at line (\d+), column \d+\)$", message):
            message, line = message[: at.start()], int(at[1])
        raise UserError(f"not valid TOML: {message}", path=path, line=line) from error
    except RecursionError as error:
        raise UserError("nested too deeply", path=path) from error


def _override(data: Table, item: str) -> None:
    """Apply one "key=value" to `data`."""
    dotted, equals, raw = item.partition("=")
    parts = [part.strip() for part in dotted.split(".")]
    if not equals or not all(parts):
        raise UserError(f"{item!r} is not an override", path="--set", hint="write dotted.key=value, budget.trials=5")
    try:
        value: object = tomllib.loads(f"value = {raw}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = raw
    if parts[:-1] == ["service", "env"] and not isinstance(value, str):
        value = raw  # variables are texts, whatever they look like
    table = data
    for part in parts[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UserError("is not a table", path="--set", key=".".join(parts[:-1]), hint=f"set {part} itself")
        table = inner
    table[parts[-1]] = value
    rival = {"workload.trace": "profile", "workload.profile": "trace"}.get(".".join(parts))
    if rival:
        table.pop(rival, None)


def _covers(overridden: str, key: str) -> bool:
    return key == overridden or key.startswith((overridden + ".", overridden + "["))


def _refuse_odd_values(value: object, key: str) -> None:
    """NaN, infinities, integers beyond 64 bits, long strings and control characters have no meaning anywhere."""
    if isinstance(value, dict):
        for name, item in value.items():
            inner = f"{key}.{name}" if key else name
            _refuse_odd_values(name, inner)
            _refuse_odd_values(item, inner)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_odd_values(item, f"{key}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{value} is not a number to work with", key=key, hint="write a finite number")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise UserError("the integer does not fit into 64 bits", key=key)
    elif isinstance(value, str):
        if len(value) > limits.STRING_CHARS:
            raise UserError(f"the text is longer than {limits.STRING_CHARS} characters", key=key)
        if not value.isprintable():
            raise UserError("the text has control characters", key=key, hint="remove them")


def _study(data: Table) -> StudySpec:
    """The file's friendly layout made into the struct's: tables of parameters and lists of names into structs."""
    data = dict(data)
    if "workload_facts" in data:
        raise UserError("is filled in by scootctl", key="workload_facts", hint="remove it")
    parameters = data.get("parameters")
    if parameters is not None:
        if not isinstance(parameters, dict):
            raise UserError(
                "expected a table for each parameter", key="parameters", hint="write [parameters.max_num_seqs]"
            )
        _at_most(parameters, limits.PARAMETERS, "parameters")
        data["parameters"] = tuple(_parameter(name, table) for name, table in parameters.items())
    objectives = data.get("objectives")
    if isinstance(objectives, list):
        _at_most(objectives, limits.OBJECTIVES, "objectives")
        data["objectives"] = tuple(_objective(item, f"objectives[{index}]") for index, item in enumerate(objectives))
    return _build(StudySpec, data, "")


def _parameter(name: str, table: object) -> Parameter:
    key = f"parameters.{name}"
    if not isinstance(table, dict):
        raise UserError(f"expected a table, not {_shown(table)}", key=key, hint=f"write [{key}] with a type")
    if "name" in table:
        raise UserError("the table's own name is the parameter's name", key=f"{key}.name", hint="remove it")
    if not _IDENTIFIER.fullmatch(name):
        snake = re.sub(r"\W", "_", name.lstrip("-"))
        raise UserError(f"{name!r} is not a parameter name", key=key, hint=f"write it in snake case: {snake!r}")
    return _build(Parameter, {"name": name, **table}, key, hidden=("name",))


def _objective(item: object, key: str) -> Objective:
    if isinstance(item, str):
        return Objective(metric=item)
    if not isinstance(item, dict):
        raise UserError(f"expected the name of a metric, not {_shown(item)}", key=key, hint='write "ttft_mean"')
    return _build(Objective, item, key)


def _build(cls: type[S], data: Table, key: str, *, hidden: tuple[str, ...] = ("workload_facts",)) -> S:
    """A `cls` from a table whose values are TOML's or already built."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(cls)}
    known = [name for name in fields if name not in hidden]
    values: dict[str, Any] = {}
    for name, item in data.items():
        inner = f"{key}.{name}" if key else name
        if name not in fields:
            raise UserError("unknown key", key=inner, hint=suggest(name, known))
        values[fields[name].name] = _value(item, fields[name].type, inner)
    for name, field in fields.items():
        if field.required and field.name not in values:
            kind = "table" if _is_struct(field.type) else "key"
            where = f"[{key}]" if key else "the file"
            raise UserError(f"the {kind} {name!r} is missing", key=key, hint=f"add it to {where}")
    return cls(**values)


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _value(item: object, kind: Any, key: str) -> object:  # noqa: ANN401 - a type expression of a struct's field
    """`item` as the field type `kind`."""
    if _is_struct(kind):
        if isinstance(item, kind):
            return item
        if not isinstance(item, dict):
            raise UserError(f"expected a table, not {_shown(item)}", key=key)
        return _build(kind, item, key)
    if typing.get_origin(kind) is dict:
        if not isinstance(item, dict):
            raise UserError(f"expected a table, not {_shown(item)}", key=key)
        inner = typing.get_args(kind)[1]
        return {name: _value(value, inner, f"{key}.{name}") for name, value in item.items()}
    if typing.get_origin(kind) is tuple and isinstance(item, list | tuple):
        inner = typing.get_args(kind)[0]
        return tuple(_value(value, inner, f"{key}[{index}]") for index, value in enumerate(item))
    try:
        return msgspec.convert(item, kind)
    except msgspec.ValidationError as error:
        if isinstance(kind, type) and issubclass(kind, Enum) and isinstance(item, str):
            words = [str(member.value) for member in kind]
            raise UserError(f"unknown value {_shown(item)}", key=key, hint=suggest(item, words)) from error
        raise UserError(f"expected {_expected(kind)}, not {_shown(item)}", key=key) from error


_WORDS: Final[Mapping[object, str]] = types.MappingProxyType(
    {str: "a text in quotes", int: "an integer", float: "a number", bool: "true or false", type(None): ""}
)


def _expected(kind: Any) -> str:  # noqa: ANN401 - a type expression of a struct's field
    """A type in words."""
    origin = typing.get_origin(kind)
    if origin is tuple:
        return "a list"
    if origin in (typing.Union, types.UnionType):
        words = [_expected(option) for option in typing.get_args(kind)]
        if "an integer" in words and "a number" in words:
            words.remove("an integer")
        return " or ".join(word for word in words if word)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "one of " + ", ".join(f'"{member.value}"' for member in kind)
    return _WORDS.get(kind, str(kind))


_SHOWN_CHARS: Final = 60


def _shown(item: object) -> str:
    """A value as an error shows it: short, with TOML's word for its type."""
    if isinstance(item, dict):
        return "a table"
    if isinstance(item, list | tuple):
        return "a list"
    if isinstance(item, bool):
        return str(item).lower()
    text = repr(item) if isinstance(item, str | int | float) else f"{type(item).__name__} {item}"
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."


# --- meaning ---------------------------------------------------------------------------------------------------------


def _at_most(items: Sequence[object] | Mapping[str, object], count: int, key: str) -> None:
    if len(items) > count:
        raise UserError(f"{len(items)} are too many", key=key, hint=f"at most {count}")


def _check_service(spec: StudySpec) -> None:
    service = spec.service
    for name in ("engine", "model", "device"):
        if not getattr(service, name).strip():
            raise UserError(
                "is empty", key=f"service.{name}", hint="name one, or leave the key out if it has a default"
            )
    if service.devices is not None and service.replicas != 1:
        raise UserError(
            "`devices` and `replicas` exclude each other", key="service.replicas", hint="leave out one of them"
        )
    for name in service.options:
        if not _IDENTIFIER.fullmatch(name):
            raise UserError(
                f"{name!r} is not a flag in snake case", key=f"service.options.{name}", hint="as max_num_seqs"
            )
    for name in service.env:
        if not _IDENTIFIER.fullmatch(name):
            raise UserError(f"{name!r} is not an environment variable's name", key=f"service.env.{name}")


def _check_workload(workload: Workload) -> None:
    if (workload.profile is None) == (workload.trace is None):
        what = (
            "neither `profile` nor `trace` is set" if workload.profile is None else "`profile` and `trace` are both set"
        )
        raise UserError(what, key="workload", hint="set exactly one of them")
    for name in ("profile", "trace", "format"):
        if getattr(workload, name) == "":
            raise UserError("is empty", key=f"workload.{name}", hint="name one or remove the key")
    _check_arrivals(workload.arrivals)
    _check_slo_classes(workload.slo_classes)


def _check_arrivals(arrivals: Arrivals) -> None:
    needed = _ARRIVAL_KEYS[arrivals.process]
    for name in ("rate", "cv", "users"):
        key = f"workload.arrivals.{name}"
        given = getattr(arrivals, name) is not None
        if name in needed and not given:
            raise UserError(f"process {arrivals.process.value!r} needs `{name}`", key=key, hint=_EXAMPLE[name])
        if given and name not in needed:
            raise UserError(f"process {arrivals.process.value!r} takes no `{name}`", key=key, hint="remove it")
    if arrivals.process is not ArrivalProcess.TRACE and arrivals.time_scale != Arrivals().time_scale:
        raise UserError(
            f"process {arrivals.process.value!r} takes no `time_scale`",
            key="workload.arrivals.time_scale",
            hint='it is for process = "trace"',
        )
    if arrivals.process is ArrivalProcess.TRACE and arrivals.ramp_s:
        raise UserError(
            "process 'trace' takes no `ramp_s`",
            key="workload.arrivals.ramp_s",
            hint="a replay has the trace's own times",
        )
    if arrivals.process is ArrivalProcess.CLOSED and arrivals.max_in_flight is not None:
        raise UserError(
            "process 'closed' takes no `max_in_flight`",
            key="workload.arrivals.max_in_flight",
            hint="its users are the limit: one request each",
        )
    if arrivals.ramp_from and not arrivals.ramp_s:
        raise UserError(
            "is set without `ramp_s`", key="workload.arrivals.ramp_from", hint="set ramp_s to the length of the ramp"
        )


def _check_slo_classes(classes: Sequence[SloClass]) -> None:
    _at_most(classes, SLO_CLASSES, "workload.slo_classes")
    names: set[str] = set()
    for index, slo_class in enumerate(classes):
        key = f"workload.slo_classes[{index}]"
        if not _NAME.fullmatch(slo_class.name) or slo_class.name in names:
            raise UserError(
                f"{slo_class.name!r} is no name or used twice",
                key=f"{key}.name",
                hint="use 1 to 100 letters, digits, '.', '_' and '-', the first a letter or digit",
            )
        names.add(slo_class.name)
        for name, allowed in (("share", _SHARE), ("ttft_ms", _SLO_MS), ("tpot_ms", _SLO_MS), ("e2e_ms", _SLO_MS)):
            value = getattr(slo_class, name)
            if value is not None and not (math.isfinite(value) and value in allowed):
                raise UserError(f"{value} is out of range", key=f"{key}.{name}", hint=f"it must be {allowed}")
    total = sum(slo_class.share for slo_class in classes)
    if classes and abs(total - 1.0) > _SHARES_TOLERANCE:
        raise UserError(
            f"the shares add up to {total:g}, not 1",
            key="workload.slo_classes",
            hint="share is the part of all requests: 0.8 and 0.2, for example",
        )


_EXAMPLE: Final[Mapping[str, str]] = types.MappingProxyType(
    {
        "rate": "requests per second, for example rate = 5.0",
        "cv": "coefficient of variation of the gaps, for example cv = 2.0",
        "users": "users of the closed loop, for example users = 16",
    }
)


def _check_objectives(spec: StudySpec) -> None:
    names = [objective.metric for objective in spec.objectives]
    if not names:
        raise UserError("is empty", key="objectives", hint='name one to three metrics: ["ttft_mean", "tpot_mean"]')
    _at_most(names, limits.OBJECTIVES, "objectives")
    for index, name in enumerate(names):
        if not name:
            raise UserError("is empty", key=f"objectives[{index}]", hint="name a metric")
        if name in names[:index]:
            raise UserError(f"{name!r} is named twice", key=f"objectives[{index}]", hint="remove one")


def _check_parameters(spec: StudySpec) -> None:
    """Names only: scoot.coordinator.space checks domains, defaults and constraints when it builds the space."""
    if not spec.parameters:
        raise UserError("is empty: there is nothing to tune", key="parameters", hint="add [parameters.NAME] tables")
    _at_most(spec.parameters, limits.PARAMETERS, "parameters")
    seen: set[str] = set()
    for parameter in spec.parameters:
        key = f"parameters.{parameter.name}"
        if not _IDENTIFIER.fullmatch(parameter.name) or parameter.name in seen:
            raise UserError(f"{parameter.name!r} is no name or used twice", key=key)
        seen.add(parameter.name)
        if parameter.name in spec.service.options:
            raise UserError("is tuned and also fixed in [service.options]", key=key, hint="remove one of the two")
    check_client_parameters(spec)
