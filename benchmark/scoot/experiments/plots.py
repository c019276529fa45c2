"""Plots of a page as SVG, by matplotlib. The same numbers give the same bytes. IO: matplotlib reads its fonts."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, assert_never

import msgspec

from scoot.experiments.series import (
    Conflict,
    Conflicts,
    Curves,
    Degrees,
    Gains,
    Panel,
    Plot,
    Shares,
    Spread,
    Transfer,
    alone,
    heading,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Okabe and Ito's, which the colour-blind tell apart; grey in place of a yellow that white swallows."""

_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES: Final = ("-", "--", ":", "-.")
_WIDTH: Final = 7.2
_ROW: Final = 0.09
"""Inches of a line in a plot of services."""

_BAR: Final = 7.0
"""Points that a bar is thick."""

_FEWEST, _MOST = 3, 5
"""Ticks of a logarithmic axis."""

_QUALITY: Final = MappingProxyType({False: "regret (1: default, 0: near-optimal)", True: "share of the hypervolume"})

_SETTINGS: Final[dict[Any, Any]] = {
    "svg.hashsalt": "scoot",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # matplotlib's own: layouts are the same everywhere
    "font.size": 8.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "text.parse_math": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.0,
}


_GEOMETRY: Final = re.compile(rb'\b(?:d|x|y|transform)="[^"]*"')
_NUMBER: Final = re.compile(rb"-?\d+\.\d{3,}")


class Style(msgspec.Struct, frozen=True, kw_only=True):
    """How one method is drawn, on all plots of a page."""

    colour: str
    marker: str
    dash: str


def styles_of(labels: Sequence[str]) -> dict[str, Style]:
    """Styles of a page's labels: colours tell methods apart, dashes what is beside the method's name.

    Args:
        labels: each once or several times; their order decides.
    """
    every = list(dict.fromkeys((*labels, *map(alone, labels))))
    methods = list(dict.fromkeys(label.partition(" ")[0] for label in every))
    kinds = list(dict.fromkeys(kind for label in every if (kind := label.partition(" ")[2])))
    found = {}
    for label in every:
        method, _, kind = label.partition(" ")
        place = methods.index(method)
        turn = kinds.index(kind) if kind else 0
        found[label] = Style(
            colour=_COLOURS[place % len(_COLOURS)],
            marker=_MARKERS[(place + turn) % len(_MARKERS)],
            dash=_DASHES[(place // len(_COLOURS) + turn) % len(_DASHES)],
        )
    return found


def svg(plot: Plot, styles: dict[str, Style]) -> bytes:
    """A plot as an SVG document whose texts are texts.

    Args:
        plot: what to draw.
        styles: of every label in it, and of these without their parallelism: see styles_of.
    """
    import matplotlib as mpl

    with mpl.rc_context(_SETTINGS):
        figure = _draw(plot, styles)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    short = _GEOMETRY.sub(lambda found: _NUMBER.sub(_rounded, found[0]), out.getvalue())
    return b"".join(line.strip() + b"\n" for line in short.splitlines())


def _rounded(number: re.Match[bytes]) -> bytes:
    """Hundredths of a point are enough, and half as long."""
    return f"{float(number[0]):.2f}".encode()


def _figure(
    height: float, rows: int = 1, columns: int = 1, *, sharey: bool = False, heights: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure and its axes, row by row.

    Args:
        height: of all, in inches.
        rows, columns: how many axes.
        sharey: whether those of a row have one axis.
        heights: of the rows, in any unit; None where all are as high.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey, height_ratios=heights)
    return figure, list(axes.ravel())


def _legend(figure: Figure, axes: Axes) -> None:
    """Above the plots: one line of it as far as it goes."""
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    if len(unique) > 1:
        figure.legend(unique.values(), unique, loc="outside upper center", ncols=min(6, len(unique)))


def _draw(plot: Plot, styles: dict[str, Style]) -> Figure:
    match plot:
        case Curves():
            return _curves_figure(plot, styles)
        case Gains():
            return _gains_figure(plot, styles)
        case Degrees():
            return _degrees_figure(plot, styles)
        case Shares():
            return _shares_figure(plot, styles)
        case Transfer():
            return _transfer_figure(plot)
        case Conflicts():
            return _conflicts_figure(plot)
        case _:
            assert_never(plot)


def _curves_figure(plot: Curves, styles: dict[str, Style]) -> Figure:
    figure, (axes,) = _figure(3.4)
    alpha = min(0.15, 0.6 / len(plot.curves))  # many bands on top of each other hide the lines
    for curve in plot.curves:
        style = styles[curve.label]
        trials = range(1, len(curve.mean) + 1)
        low = [mean - error for mean, error in zip(curve.mean, curve.error, strict=True)]
        high = [mean + error for mean, error in zip(curve.mean, curve.error, strict=True)]
        axes.fill_between(trials, low, high, color=style.colour, alpha=alpha, linewidth=0)
        axes.plot(
            trials,
            curve.mean,
            color=style.colour,
            linestyle=style.dash,
            marker=style.marker,
            markevery=max(1, len(curve.mean) // 8),
            label=curve.label,
        )
    axes.set_xlabel("trials, the default's included")
    axes.set_ylabel(_QUALITY[plot.several])
    axes.set_ylim(0, max(1.0, *(max(curve.mean) for curve in plot.curves)) + 0.03)
    axes.set_xlim(1, max(2, *(len(curve.mean) for curve in plot.curves)))
    _legend(figure, axes)
    return figure


def _gains_figure(plot: Gains, styles: dict[str, Style]) -> Figure:
    most = max(len(spreads) for panel in plot.panels for spreads in panel.rows.values())
    heights = [len(panel.rows) * (most + 2) * _ROW for panel in plot.panels]
    figure, axes = _figure(sum(heights) + 0.55 * len(heights) + 0.4, rows=len(heights), heights=heights)
    for panel, one in zip(plot.panels, axes, strict=True):
        _gains(one, panel, most, styles)
    _legend(figure, max(axes, key=lambda one: len(one.get_legend_handles_labels()[1])))
    return figure


def _gains(axes: Axes, panel: Panel, most: int, styles: dict[str, Style]) -> None:
    """One row per service, in it one line per method."""
    drawn: dict[str, list[tuple[float, Spread]]] = {}
    for row, spreads in enumerate(panel.rows.values()):
        if row % 2:
            axes.axhspan(row - 0.5, row + 0.5, color="#f4f4f4", linewidth=0)
        for place, spread in enumerate(spreads):
            y = row + (place - (len(spreads) - 1) / 2) / (most + 1)
            drawn.setdefault(spread.label, []).append((y, spread))
    for label, found in drawn.items():
        style = styles[label]
        heights = [y for y, _ in found]
        ends = [x for _, each in found for x in (100 * each.low, 100 * each.high, math.nan)]  # one path with gaps
        axes.plot(ends, [y for y in heights for _ in range(3)], color=style.colour, linewidth=0.9)
        means = [100 * each.mean for _, each in found]
        axes.plot(means, heights, color=style.colour, marker=style.marker, linestyle="", label=label)
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.set_yticks(range(len(panel.rows)), list(panel.rows))
    axes.set_ylim(len(panel.rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"improvement of {panel.metric} over the default [%]")


def _degrees_figure(plot: Degrees, styles: dict[str, Style]) -> Figure:
    figure, (left, right) = _figure(3.0, columns=2)
    for method in dict.fromkeys(each.method for each in plot.degrees):
        style = styles[method]
        own = [each for each in plot.degrees if each.method == method]
        at_once = [each.at_once for each in own]
        common: dict[str, Any] = {
            "color": style.colour,
            "marker": style.marker,
            "linestyle": style.dash,
            "label": method,
        }
        left.errorbar(at_once, [each.mean for each in own], yerr=[each.error for each in own], capsize=2.5, **common)
        right.plot(at_once, [each.hours for each in own], **common)
    ticks = sorted({each.at_once for each in plot.degrees})
    for axes, label in ((left, _QUALITY[plot.several]), (right, "virtual hours of a run")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, list(map(str, ticks)))
        axes.minorticks_off()
        axes.set_xlabel("trials at once")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
    _legend(figure, right)
    return figure


def _shares_figure(plot: Shares, styles: dict[str, Style]) -> Figure:
    services = list(dict.fromkeys(each.service for each in plot.shares))
    labels = list(dict.fromkeys(each.label for each in plot.shares))
    height = len(services) * (len(labels) + 1) * 1.2 * _BAR / 72 + 1.0
    figure, axes = _figure(height, columns=2, sharey=True)
    for label in labels:
        own = [each for each in plot.shares if each.label == label]
        lane = (labels.index(label) - (len(labels) - 1) / 2) / (len(labels) + 1)
        heights = [services.index(each.service) + lane for each in own for _ in range(3)]
        for one, found in zip(axes, ([each.points for each in own], [each.width for each in own]), strict=True):
            bars = [x for share in found for x in (0.0, 100 * share, math.nan)]  # one path with gaps
            one.plot(bars, heights, color=styles[label].colour, linewidth=_BAR, solid_capstyle="butt", label=label)
    axes[0].set_yticks(range(len(services)), services)
    axes[0].set_ylim(len(services) - 0.5, -0.5)
    for one, what in zip(axes, ("of its points", "of its width"), strict=True):
        one.tick_params(axis="y", length=0)
        one.grid(visible=False, axis="y")
        one.set_xlim(0, 100)
        one.set_xlabel(f"share of the joint front, {what} [%]")
    _legend(figure, axes[0])
    return figure


def _transfer_figure(plot: Transfer) -> Figure:
    size = len(plot.services)
    figure, (axes,) = _figure(0.55 * size + 1.3)
    percent = [[math.nan if gain is None else 100 * gain for gain in row] for row in plot.gains]
    mesh = axes.pcolormesh(percent, cmap="PuOr", vmin=-100, vmax=100, edgecolors="white", linewidth=1.0)
    for row, column in ((row, column) for row in range(size) for column in range(size)):
        value = percent[row][column]
        text = "fails" if math.isnan(value) else f"{value:,.0f}"
        dark = not math.isnan(value) and abs(value) > 60  # noqa: PLR2004 - where black is no longer read on the colour
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color="white" if dark else "black")
    axes.set_xticks([column + 0.5 for column in range(size)], plot.services)
    axes.set_yticks([row + 0.5 for row in range(size)], plot.services)
    axes.set_ylim(size, 0)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set_xlabel("on")
    axes.set_ylabel("best configuration of")
    figure.colorbar(mesh, ax=axes, extend="both", label="improvement over the default [%]")
    return figure


def _conflicts_figure(plot: Conflicts) -> Figure:
    columns = min(2, len(plot.conflicts))
    rows = math.ceil(len(plot.conflicts) / columns)
    figure, axes = _figure(2.5 * rows + 0.4, rows=rows, columns=columns)
    for conflict, one in zip(plot.conflicts, axes, strict=False):
        _conflict(one, conflict)
    for one in axes[len(plot.conflicts) :]:
        one.set_axis_off()
    _legend(figure, axes[0])
    return figure


def _conflict(axes: Axes, conflict: Conflict) -> None:
    axes.plot(*_columns(conflict.drawn), color="#999999", marker=".", linestyle="", label="at random")
    axes.plot(*_columns(conflict.front), color=_COLOURS[0], drawstyle="steps-post", label="near-optimal")
    if conflict.default is not None:
        axes.plot(*_columns([conflict.default]), color=_COLOURS[1], marker="X", linestyle="", label="default", ms=7)
    _logarithmic(axes)
    axes.set_title(conflict.service)
    axes.set_xlabel(heading(conflict.metrics[0]))
    axes.set_ylabel(heading(conflict.metrics[1]))


def _logarithmic(axes: Axes) -> None:
    """Both axes, with few ticks and plain numbers at them."""
    for set_scale, set_ticks, limits in (
        (axes.set_xscale, axes.set_xticks, axes.get_xlim),
        (axes.set_yscale, axes.set_yticks, axes.get_ylim),
    ):
        set_scale("log")
        low, high = limits()
        ticks = log_ticks(low, high)
        set_ticks(ticks, [f"{tick:,.6g}" for tick in ticks])
    axes.minorticks_off()


def log_ticks(low: float, high: float) -> list[float]:
    """Two to five ticks of a logarithmic axis: 1, 2, 5, 10, ..., or decades, or round numbers, as the range is wide.

    Args:
        low, high: ends of the axis; 0 < low < high.
    """
    from matplotlib.ticker import MaxNLocator

    decades = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    inside = [step * decade for decade in decades for step in (1, 2, 5) if low <= step * decade <= high]
    if len(inside) < _FEWEST:
        inside = [tick for tick in map(float, MaxNLocator(_MOST - 2).tick_values(low, high)) if low <= tick <= high]
    if len(inside) > _MOST:
        inside = [decade for decade in decades if low <= decade <= high]
    return inside[:: math.ceil(len(inside) / _MOST)]


def _columns(points: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    return [point[0] for point in points], [point[1] for point in points]
