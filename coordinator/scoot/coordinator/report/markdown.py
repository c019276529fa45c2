"""Results -> a Markdown report (GitHub flavour). Pure.

Everything a user or an engine said goes through `plain`, `code` or `block`, so that it stays text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from scoot.coordinator.report.results import Results
from scoot.coordinator.report.summary import Row, Summary, summarise
from scoot.coordinator.report.text import one_line

_INLINE: Final = re.compile(r"[\\`*{}\[\]<|~!&$]|(?<!\w)_|_(?!\w)")
_SPECIAL: Final = re.compile(rf"{_INLINE.pattern}|^[#>+-]|^\d+(?=[.)])")
"""What Markdown or HTML would interpret: anywhere, underscores at the edge of a word, and block marks at the start."""


def plain(text: str) -> str:
    """Text that stays text: escaped, on one line."""
    return _SPECIAL.sub(lambda found: _escaped(found[0]), one_line(text))


def _cell(text: str) -> str:
    """The same in a table, where no block begins: "0.5 ms" need not be kept from being a list."""
    return _INLINE.sub(lambda found: _escaped(found[0]), one_line(text))


def _escaped(found: str) -> str:
    return f"\\{found}" if not found.isdigit() else f"&#{ord(found[0])};{found[1:]}"


def code(text: str) -> str:
    """A code span that holds `text`, also inside a table."""
    flat = one_line(text)
    if not flat:
        return ""
    fence = "`" * (max((len(run) for run in re.findall(r"`+", flat)), default=0) + 1)
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{pad}{flat}{pad}{fence}".replace("|", "\\|")


def block(text: str) -> str:
    """A fenced code block that `text` cannot end."""
    fence = "`" * max(3, max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
    kept = "".join(c for c in text if c.isprintable() or c == "\n")
    return f"{fence}sh\n{kept}\n{fence}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(header)} |",
        f"|{'|'.join(' --- ' for _ in header)}|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def render_markdown(results: Results) -> str:
    """The report as Markdown; ends in a newline."""
    summary = summarise(results)
    parts = [
        _banner(summary),
        [f"# SCOOT: {plain(summary.title)}", "", plain(summary.status), ""],
        _headline(summary),
        _confirmation(results, summary),
        _trials(summary),
        ["## Caveats", "", *(f"- {plain(caveat.text)}" for caveat in results.caveats), ""] if results.caveats else [],
        _rows("Service", summary.service),
        _rows("Workload", summary.workload),
        _rows("Load", summary.load) if summary.load else [],
        _rows("Provenance", summary.provenance),
    ]
    return "\n".join(line for part in parts for line in part).rstrip("\n") + "\n"


def _banner(summary: Summary) -> list[str]:
    """Before everything else, as large as Markdown can."""
    if summary.banner is None:
        return []
    large, sentence = summary.banner
    return [f"# {plain(large)}", "", f"> **{plain(sentence)}**", ""]


def _headline(summary: Summary) -> list[str]:
    lines = [f"**{plain(summary.verdict)}**", ""]
    if summary.flags:
        lines += [f"Tuned flags: {code(summary.flags)}", ""]
    if summary.command:
        lines += [block(summary.command), ""]
    if summary.promises:
        lines += ["It can promise:", "", *(f"- **{plain(promise)}**" for promise in summary.promises), ""]
    if summary.gains:
        basis = plain(summary.gains_basis)
        lines += [f"Against the default ({basis}):", "", *(f"- {plain(gain)}" for gain in summary.gains), ""]
    return lines


def _confirmation(results: Results, summary: Summary) -> list[str]:
    slo = results.slo
    if slo is None:
        return []
    header = ["objective", "promise (worst)", "median", "per arrival order"]
    rows = [[plain(row.label), plain(row.promise), row.median, row.per_order] for row in summary.slo]
    if slo.paired:
        header += ["default, per order", "best / default"]
        rows = [[*cells, row.default, row.ratio] for cells, row in zip(rows, summary.slo, strict=True)]
    limits = [[plain(row.limit), row.verdict, plain(row.worst), row.per_order] for row in summary.limits]
    return [
        "## SLO",
        "",
        plain(summary.confirmation),
        "",
        *_table(header, rows),
        *(_table(["limit", "", "worst", "per arrival order"], limits) if limits else []),
    ]


def _trials(summary: Summary) -> list[str]:
    limited = any(row.limits for row in summary.trials)
    header = ["trial", "outcome", *map(plain, summary.objectives), *(["limits"] if limited else [])]
    header += map(code, summary.parameters)
    header += ["reason", "root cause", "took", "attempts", "source"]
    rows = [
        [
            f"{row.number} **{row.mark}**" if row.mark else str(row.number),
            row.state,
            *row.values,
            *([plain(row.limits)] if limited else []),
            *map(plain, row.parameters),
            plain(row.reason),
            code(row.cause),
            row.took,
            str(row.attempts),
            plain(row.source),
        ]
        for row in summary.trials
    ]
    return ["## Trials", "", *(_table(header, rows) if rows else ["None yet.", ""])]


def _rows(title: str, rows: Sequence[Row]) -> list[str]:
    return [f"## {title}", "", *_table(["", ""], [[_cell(row.name), _cell(row.text)] for row in rows])]
