"""A run's progress on the screen: a live view on a terminal, a plain line now and then elsewhere. IO."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Protocol, TextIO

from scoot.benchmark.standalone.view import View, clock, line, number

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

_PLAIN_EVERY_S: Final = 5.0


class Display(Protocol):
    """Where a run's progress goes."""

    def update(self, view: View) -> None:
        """Show it."""

    def note(self, text: str) -> None:
        """Show one line about something else."""

    def close(self) -> None:
        """Take the view away; idempotent."""


def make_display(stream: TextIO, title: str, *, quiet: bool) -> Display:
    """Nothing if `quiet`, a live view if `stream` is a terminal, else plain lines. Loads rich where it is needed."""
    if quiet:
        return NoDisplay()
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        return LiveDisplay(stream, title)
    return PlainDisplay(stream, title)


class NoDisplay:
    """Shows nothing."""

    def update(self, view: View) -> None:
        """See Display."""

    def note(self, text: str) -> None:
        """See Display."""

    def close(self) -> None:
        """See Display."""


class PlainDisplay:
    """A line at every new phase and every few seconds, without control sequences: for pipes and logs."""

    def __init__(self, stream: TextIO, title: str) -> None:
        self._stream = stream
        self._shown: tuple[int, str] | None = None
        self._due_s = 0.0
        self.note(title)

    def update(self, view: View) -> None:
        """Write a line if one is due."""
        phase = (view.run, view.phase)
        if phase == self._shown and view.elapsed_s < self._due_s:
            return
        self._shown = phase
        self._due_s = view.elapsed_s + _PLAIN_EVERY_S
        self.note(line(view))

    def note(self, text: str) -> None:
        """Write one line."""
        self._stream.write(text + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing is held back."""


class LiveDisplay:
    """A small table, renewed with every line of progress; notes scroll by above it."""

    def __init__(self, stream: TextIO, title: str) -> None:
        from rich.console import Console

        self._console = Console(file=stream)
        self._title = title
        self._live: Live | None = None

    def update(self, view: View) -> None:
        """Show it in place of what was shown before."""
        if self._live is None:
            from rich.live import Live

            # No thread of its own: one that forks must have none.
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(screen(self._title, view), refresh=True)

    def note(self, text: str) -> None:
        """Print one line above the view."""
        self._console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Take it away."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def screen(title: str, view: View) -> RenderableType:
    """The whole view."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    progress = view.progress
    total = view.elapsed_s + view.remaining_s
    run = f"  run {view.run} of {view.runs}" if view.runs > 1 else ""
    head = Table.grid(padding=(0, 1))
    head.add_row(
        Text(f"{view.phase}{run}", style="bold cyan"),
        ProgressBar(total=max(total, 1e-3), completed=min(view.elapsed_s, total), width=30),
        Text(f"{clock(view.elapsed_s)} of {clock(total)}, {clock(view.remaining_s)} left"),
    )
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    failed = Text(str(progress.failed), style="bold red" if progress.failed else "")
    outstanding = Text(str(progress.outstanding))
    if view.silent:
        outstanding.append(f"  nothing came for {progress.silent_s:.0f} s", style="bold yellow")
    table.add_row(Text("offered", style="dim"), view.offered, Text("TTFT", style="dim"), _ms(progress.ttft_ms))
    table.add_row(
        Text("sent", style="dim"), f"{number(view.rate)} req/s", Text("ITL", style="dim"), _ms(progress.itl_ms)
    )
    table.add_row(
        Text("completed", style="dim"),
        f"{progress.completed} of {progress.sent}, {number(view.completion_rate)} req/s",
        Text("late", style="dim"),
        _ms(progress.lateness_ms),
    )
    table.add_row(
        Text("failed", style="dim"), failed, Text("output", style="dim"), f"{number(view.token_rate)} tokens/s"
    )
    table.add_row(Text("outstanding", style="dim"), outstanding)
    return Group(Text(title, style="bold"), head, table, Text("Ctrl-C stops and summarises", style="dim"))


def _ms(value: float | None) -> str:
    return f"{number(value)} ms" if value is not None else "-"
