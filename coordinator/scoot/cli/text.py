"""Values as people read them: numbers, durations, parameters, columns. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scoot.wire.spec import Scalar

_DIGITS = 4


def number(value: float) -> str:
    """Four significant digits, never in exponent form between 0.001 and 10 million."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 1e-3 <= abs(value) < 1e7:  # noqa: PLR2004 - the bounds the docstring names
        return f"{value:.3e}"
    decimals = max(0, _DIGITS - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(change: float) -> str:
    """A relative change: "-12.3 %", "+1870 %"."""
    return f"{100 * change:+.0f} %" if abs(change) >= 10 else f"{100 * change:+.1f} %"  # noqa: PLR2004 - tenfold


def scalar(value: Scalar) -> str:
    """A parameter's value as study files write it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


_MINUTE_S = 60
_HOUR_S = 3600


def duration(seconds: float) -> str:
    """Seconds for people: "42 s", "3 min 05 s", "2 h 10 min"."""
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S:02d} s"
    return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S:02d} min"


def one_line(text: str) -> str:
    """The text's first line that says something, without control characters: it may come from an engine's log."""
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return "".join(char if char.isprintable() else " " for char in first)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns, two spaces between them; the last column is not padded."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
