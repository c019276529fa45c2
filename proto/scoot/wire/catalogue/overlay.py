"""What people know of an engine's options and its parser does not say: which matter, in which range, at what risk.

One TOML file for each engine, `overlays/ENGINE.toml`:

    [options.max_num_seqs]          an option worth knowing: see Tuning
    [changes.scheduler_delay_factor] an option that is gone or has another name: see Change
    [[rules]]                       what has to hold between options: see Rule
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, TypeVar

import msgspec

from scoot.wire.errors import UserError
from scoot.wire.spec import Scalar, Scale
from scoot.wire.study_file import located

S = TypeVar("S", bound=msgspec.Struct)


class Effect(StrEnum):
    """What an option can do to the tokens a model answers with.

    PRESERVING: the same tokens, but for the noise of floating point when other requests share a batch. NUMERICS: other
    kernels or another order of summation, so that near-ties may fall the other way. OUTPUTS: another precision, another
    model, or other limits on what is answered: never tuned unless a user asks for it.
    """

    PRESERVING = "output-preserving"
    NUMERICS = "numerics-may-move"
    OUTPUTS = "changes-outputs"


class Restart(StrEnum):
    """What a change of the option takes: a new start of the engine, or nothing."""

    RESTART = "restart"
    LIVE = "live"


class Tuning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an option is tuned.

    Attributes:
        effect: key `class` in the file; see Effect.
        low, high: inclusive range worth searching; None for options without one.
        step: values are multiples of it.
        scale: how the range is spread; see scoot.wire.spec.Scale.
        choices: the values worth trying, where there is no range.
        restart: see Restart.
        tune: part of a space by default. Never true for options that change outputs.
        only: where it does anything, in words ("tensor_parallel_size > 1"); "" everywhere.
        note: one sentence.
    """

    effect: Effect = msgspec.field(name="class")
    low: int | float | None = None
    high: int | float | None = None
    step: int | None = None
    scale: Scale = Scale.LINEAR
    choices: tuple[Scalar, ...] = ()
    restart: Restart = Restart.RESTART
    tune: bool = False
    only: str = ""
    note: str = ""

    def range(self) -> str:
        """The values worth trying, for people: "16 .. 1024 pow2", "{16, 32}", "" if it is not said."""
        if self.choices:
            return (
                "{"
                + ", ".join(str(item).lower() if isinstance(item, bool) else str(item) for item in self.choices)
                + "}"
            )
        if self.low is None or self.high is None:
            return ""
        scale = "" if self.scale is Scale.LINEAR else f" {self.scale.value}"
        return f"{self.low:g} .. {self.high:g}{scale}" + ("" if self.step is None else f" step {self.step}")


class ChangeKind(StrEnum):
    """What became of an option."""

    REMOVED = "removed"
    RENAMED = "renamed"


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An option of earlier versions.

    Attributes:
        kind: key `change` in the file.
        by: a version that no longer has it, the earliest that is known for sure; "" unknown.
        to: its name now, of a renamed one.
        nearest: options of today that come closest to a removed one.
        note: one sentence.
    """

    kind: ChangeKind = msgspec.field(name="change")
    by: str = ""
    to: str = ""
    nearest: tuple[str, ...] = ()
    note: str = ""

    def describe(self) -> str:
        """What became of it and what to use now."""
        by = f" (gone in {self.by})" if self.by else ""
        if self.kind is ChangeKind.RENAMED:
            return f"renamed to {self.to}{by}"
        near = f"; nearest: {', '.join(self.nearest)}" if self.nearest else ""
        note = f"; {self.note}" if self.note else ""
        return f"removed{by}{near}{note}"


class Enforced(StrEnum):
    """Who notices that a rule is broken: the argument checks, the start, a request, or nobody, who makes it fit."""

    PARSER = "parser"
    START = "start"
    REQUEST = "request"
    NOBODY = "nobody"


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A known constraint.

    Attributes:
        rule: in the language of a study's `constraints`.
        enforced: see Enforced; what only the start notices costs a start each time.
        devices: kinds of device it holds on, "gpu" or "cpu"; () all.
        note: why.
    """

    rule: str
    enforced: Enforced = Enforced.PARSER
    devices: tuple[str, ...] = ()
    note: str = ""


class Overlay(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of an engine.

    Attributes:
        engine: adapter name.
        about: versions it was written for, and from what.
        options, changes: by option name.
        rules: in the file's order.
    """

    engine: str
    about: str
    options: Mapping[str, Tuning]
    changes: Mapping[str, Change]
    rules: tuple[Rule, ...]


_TOP: Final = ("engine", "about", "options", "changes", "rules")


def parse_overlay(text: str, *, path: str) -> Overlay:
    """An overlay from the text of its file.

    Raises:
        UserError: with path, line, key and hint.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"not valid TOML: {error}", path=path) from error
    try:
        overlay = _overlay(data)
        _check(overlay)
    except UserError as error:
        raise located(error, text, path=path) from error
    return overlay


def _overlay(data: Mapping[str, Any]) -> Overlay:
    for name in data:
        if name not in _TOP:
            raise UserError("unknown key", key=name, hint=f"known are: {', '.join(_TOP)}")
    for name in ("engine", "about"):
        if not isinstance(data.get(name), str) or not data[name]:
            raise UserError("is missing or no text", key=name, hint=f'write {name} = "..." at the top')
    rules = data.get("rules", [])
    if not isinstance(rules, list):
        raise UserError("is no list of tables", key="rules", hint="write [[rules]]")
    return Overlay(
        engine=data["engine"],
        about=data["about"],
        options={name: _table(item, Tuning, f"options.{name}") for name, item in _tables(data, "options")},
        changes={name: _table(item, Change, f"changes.{name}") for name, item in _tables(data, "changes")},
        rules=tuple(_table(item, Rule, f"rules[{index}]") for index, item in enumerate(rules)),
    )


def _tables(data: Mapping[str, Any], key: str) -> list[tuple[str, object]]:
    tables = data.get(key, {})
    if not isinstance(tables, dict):
        raise UserError("is no table of tables", key=key, hint=f"write [{key}.NAME]")
    return list(tables.items())


def _table(item: object, cls: type[S], key: str) -> S:
    """A `cls` from a table; an error names the key inside it."""
    try:
        return msgspec.convert(item, cls)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at ")
        inner = where.strip("`").removeprefix("$")
        known = ", ".join(field.encode_name for field in msgspec.structs.fields(cls))
        raise UserError(message, key=f"{key}{inner}", hint=f"known keys are: {known}") from error


def _check(overlay: Overlay) -> None:
    """What types do not say.

    Raises:
        UserError: with the key.
    """
    for name, tuning in overlay.options.items():
        if name in overlay.changes:
            raise UserError("is also in [changes]", key=f"options.{name}", hint="an option is there or gone")
        _check_tuning(tuning, f"options.{name}")
    for name, change in overlay.changes.items():
        key = f"changes.{name}"
        if (change.kind is ChangeKind.RENAMED) != bool(change.to):
            raise UserError("has no new name, or one it cannot have", key=key, hint='`to` goes with "renamed"')
        for other in filter(None, (change.to, *change.nearest)):
            if other in overlay.changes:
                raise UserError(f"points to {other!r}, which is gone as well", key=key, hint="name one of today")


def _check_tuning(tuning: Tuning, key: str) -> None:
    if tuning.tune and tuning.effect is Effect.OUTPUTS:
        raise UserError("would be tuned by default", key=f"{key}.tune", hint="what changes outputs never is")
    low, high = tuning.low, tuning.high
    if (low is None) != (high is None):
        raise UserError("has one end only", key=key, hint="give both `low` and `high`, or neither")
    if low is None or high is None:
        if tuning.scale is not Scale.LINEAR or tuning.step is not None:
            raise UserError("has a scale or a step, but no range", key=key, hint="add `low` and `high`")
        return
    if low > high:
        raise UserError(f"{low:g} is above {high:g}", key=f"{key}.low", hint="swap the two")
    if tuning.choices:
        raise UserError("has a range and `choices`", key=f"{key}.choices", hint="remove one of the two")
    if tuning.scale is not Scale.LINEAR and low <= 0:
        raise UserError("does not begin above 0", key=f"{key}.low", hint=f"scale {tuning.scale.value} needs it")
