"""What an engine's argument check raised, as an answer. Runs in the engine's interpreter: the standard library only."""

from __future__ import annotations

import re
import traceback

from scoot.agent.engines.helpers.plain import is_plain, line

_BAD_VALUES = re.compile(
    r"greater_than|less_than|literal_error|_type$|_parsing$|enum|finite_number|multiple_of|too_(long|short)"
)
"""Types of pydantic's errors that are about one value alone."""

_UNKNOWN = "extra_forbidden"

_CAUSES = (
    *(ValueError, TypeError, AssertionError, NotImplementedError, ArithmeticError),
    *(KeyError, AttributeError, ImportError),
)
"""What engines raise about a configuration. Others (no memory, no file) are about the host."""


class UsageError(Exception):
    """The argument parser refuses a command line."""


def concerns_configuration(error: BaseException) -> bool:
    """Whether an error is of the kinds raised about a configuration."""
    return isinstance(error, (*_CAUSES, UsageError))


def kind_and_reason(error: BaseException) -> tuple[str, str]:
    """What kind of refusal an error is (scoot.wire.catalogue.verdict.RefusalKind), and its message in one line."""
    if isinstance(error, UsageError):
        return "invalid_value", line(str(error))
    errors = getattr(error, "errors", None)
    if callable(errors) and type(error).__name__ == "ValidationError":
        for item in errors():
            where = ".".join(str(part) for part in item.get("loc", ()))
            message = str(item.get("msg", "")).removeprefix("Value error, ").removeprefix("Assertion failed, ")
            kind = str(item.get("type", ""))
            alone = bool(where) and _BAD_VALUES.search(kind)
            given = f" (given: {item.get('input')!r})" if alone and is_plain(item.get("input")) else ""
            text = f"{where}: {message}{given}" if where and where not in message else f"{message}{given}"
            return ("unknown_option" if kind == _UNKNOWN else "invalid_value" if alone else "constraint"), line(text)
    if isinstance(error, (ValueError, AssertionError, NotImplementedError)) and str(error):
        return "constraint", line(str(error))
    if isinstance(error, (AssertionError, ArithmeticError)):
        return "constraint", line(": ".join(filter(None, (type(error).__name__, str(error), _source(error)))))
    return "other", line(f"{type(error).__name__}: {error}")


def _source(error: BaseException) -> str:
    """The line of the engine's source that raised it: all there is to say where a check says nothing."""
    frames = traceback.extract_tb(error.__traceback__)
    return (frames[-1].line or "") if frames else ""


def located(error: BaseException) -> set[str]:
    """Names of fields at which pydantic saw an error, those of a part as PART__FIELD, too."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return set()
    paths = [[part for part in item.get("loc", ()) if isinstance(part, str)] for item in errors()]
    return {part for path in paths for part in path} | {"__".join(path) for path in paths}


def mentions(text: str, name: str) -> bool:
    """Whether a message names an option: as max_num_seqs, --max-num-seqs or "max num seqs"."""
    return re.search(rf"(?<![\w-])(--)?{name.replace('_', '[-_ ]')}(?![\w-])", text, re.IGNORECASE) is not None
