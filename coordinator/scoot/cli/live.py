"""Progress of a study on the screen: a live table on a terminal, one plain line per event elsewhere."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from scoot.cli.progress import Progress, TrialRow, events, progress
from scoot.cli.text import duration, number, one_line, percent, scalar
from scoot.wire.states import TrialState
from scoot.wire.view import StudyDetail

_STYLES = {
    TrialState.SUCCEEDED: "green",
    TrialState.INFEASIBLE: "yellow",
    TrialState.FAILED: "red",
    TrialState.CANCELLED: "dim",
    TrialState.PENDING: "dim",
    TrialState.RUNNING: "cyan",
}
_OTHER_LINES = 12
"""Lines of the terminal kept for everything but the table's rows."""
_NOTE_CHARS = 60


class Display(Protocol):
    """Where a study's progress goes."""

    def update(self, detail: StudyDetail) -> None:
        """Show the study as it is now."""

    def note(self, text: str) -> None:
        """Show one line about something else."""

    def close(self) -> None:
        """Show the last state for good; idempotent."""


def make_display(stream: TextIO | None = None) -> Display:
    """A live table if `stream` (standard output by default) is a terminal, else plain lines."""
    stream = stream or sys.stdout
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        return LiveDisplay(Console(file=stream))
    return PlainDisplay(stream)


class PlainDisplay:
    """One line per event, no control sequences, flushed at once: for pipes and logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._before: StudyDetail | None = None

    def update(self, detail: StudyDetail) -> None:
        """Write what is new."""
        for line in events(self._before, detail):
            self.note(line)
        self._before = detail

    def note(self, text: str) -> None:
        """Write one line."""
        self._stream.write(text + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing is held back."""


class LiveDisplay:
    """A table that renews itself twice a second; notes scroll by above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._detail: StudyDetail | None = None
        self._live: Live | None = None

    def update(self, detail: StudyDetail) -> None:
        """Show `detail` from the next renewal on."""
        said = self._detail.study.notes if self._detail is not None else ()
        for note in detail.study.notes:
            if note not in said:
                self.note(f"note: {one_line(note)}")
        self._detail = detail
        if self._live is None:
            self._live = Live(
                console=self._console, get_renderable=self._render, refresh_per_second=2, transient=True, screen=False
            )
            self._live.start()

    def note(self, text: str) -> None:
        """Print one line above the table."""
        self._console.print(Text(text))

    def close(self) -> None:
        """Replace the live table by the whole of it."""
        if self._live is not None and self._detail is not None:
            self._live.stop()
            self._live = None
            self._console.print(screen(progress(self._detail, _now_s()), rows=len(self._detail.trials)))

    def _render(self) -> RenderableType:
        if self._detail is None:
            return Text("")
        return screen(progress(self._detail, _now_s()), rows=max(3, self._console.height - _OTHER_LINES))


def _now_s() -> float:
    return datetime.now(UTC).timestamp()


def screen(view: Progress, *, rows: int) -> RenderableType:
    """The whole display: header, the last `rows` trials, best so far, time."""
    header = Text(view.title, style="bold")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("trial", "from", "state"):
        table.add_column(column, no_wrap=True)
    names = [figure.metric for figure in view.rows[0].figures] if view.rows else []
    for metric in names:
        table.add_column(Text(metric.heading), justify="right", no_wrap=True)
    table.add_column("differs from the default in", overflow="ellipsis", no_wrap=True)
    for row in view.rows[-rows:]:
        table.add_row(*_cells(row))
    parts: list[RenderableType] = [header, table]
    if len(view.rows) > rows:
        parts.insert(1, Text(f"({len(view.rows) - rows} earlier trials are not shown)", style="dim"))
    if view.best is not None:
        figures = ", ".join(map(str, view.best.figures))
        parts.append(Text(f"best so far: trial {view.best.number}: {figures}", style="bold green"))
    if view.waiting:
        parts.append(Text(view.waiting, style="yellow"))
    eta = "" if not view.eta_s else f", about {duration(view.eta_s)} to go"
    agents = f" on {', '.join(view.agents)}" if view.agents else ""
    parts.append(
        Text(
            f"{view.state.value.lower()}: {view.finished} of {view.budget} trials{agents}, "
            f"{duration(view.elapsed_s)}{eta}"
        )
    )
    return Group(*parts)


def _cells(row: TrialRow) -> list[Text]:
    figures = []
    for figure in row.figures:
        cell = Text("-" if figure.value is None else number(figure.value))
        if figure.change is not None:
            cell.append(f" {percent(figure.change)}", style="green" if figure.better else "red")
        figures.append(cell)
    what = " ".join(f"{name}={scalar(value)}" for name, value in row.changes.items())
    if row.note:
        what = row.note[:_NOTE_CHARS] + ("  " + what if what else "")
    return [
        Text(f"{row.number}{' *' if row.is_best else ''}"),
        Text(row.label),
        Text(row.status, style=_STYLES[row.state]),
        *figures,
        Text(what, style="dim" if row.note else ""),
    ]
