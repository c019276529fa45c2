"""The geometry of the report's one figure: the front (two objectives) or the convergence (one). Pure; SVG user units.

`templates/plot.svg.j2` draws it. Colours and fonts are the page's business: marks only have a kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.report.command import config_text
from scoot.coordinator.report.results import ObjectiveInfo, Results, TrialResult
from scoot.coordinator.report.text import heading, numbers, quantity
from scoot.wire.states import TrialKind

WIDTH: Final = 720
HEIGHT: Final = 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 20, 20, 56
_TICKS: Final = 6
_LOG_RATIO: Final = 30.0
"""An axis whose largest value is so many times its smallest is logarithmic: else a few slow trials hide the rest."""
_LOG_DECADES_WITH_STEPS: Final = 3.0
_PAD: Final = 0.06
_LABEL_HEIGHT: Final = 13.0
_CHAR_WIDTH: Final = 6.8
_TWO: Final = 2


class MarkKind(StrEnum):
    """What a mark stands for; its CSS class."""

    TRIAL = "trial"
    FRONT = "front"
    DEFAULT = "default"
    CHOSEN = "chosen"
    INFEASIBLE = "infeasible"


class _Value(msgspec.Struct, frozen=True, kw_only=True):
    """Base of immutable values."""


class Tick(_Value, frozen=True, kw_only=True):
    """A tick: its position along the axis and its text."""

    at: float
    text: str


class Axis(_Value, frozen=True, kw_only=True):
    """An axis with its label (unit and better direction included)."""

    label: str
    ticks: tuple[Tick, ...]


class Label(_Value, frozen=True, kw_only=True):
    """A mark's text and where it stands."""

    x: float
    y: float
    anchor: str
    text: str


class Mark(_Value, frozen=True, kw_only=True):
    """A trial. `title` is its tool tip and what a screen reader says."""

    x: float
    y: float
    kind: MarkKind
    title: str
    label: Label | None = None


class LegendEntry(_Value, frozen=True, kw_only=True):
    """A kind of mark, or a line ("front-line", "default-line"), and what it means."""

    kind: str
    text: str


class Chart(_Value, frozen=True, kw_only=True):
    """A figure.

    Attributes:
        left, right, top, bottom: edges of the plotting area.
        line: corners of the front or of the best so far, as a step line.
        default_y: height of the horizontal line at the default's value.
        note: what is not drawn.
    """

    title: str
    description: str
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    line: tuple[tuple[float, float], ...]
    default_y: float | None
    legend: tuple[LegendEntry, ...]
    note: str


class _Scale:
    """Values of one axis -> positions, with ticks. Logarithmic where the values span a lot and are positive."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, clamp: bool = True) -> None:
        """`clamp`: an axis of values that are not negative does not begin below 0."""
        low, high = min(values), max(values)
        self.is_log = low > 0 and high / low >= _LOG_RATIO
        if self.is_log:
            low, high = math.log10(low), math.log10(high)
        margin = (high - low) * _PAD or abs(high) * _PAD or 1.0
        self._low, self._high = low - margin, high + margin
        if clamp and not self.is_log and low >= 0:
            self._low = max(self._low, 0.0)
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        """Position of a value."""
        at = math.log10(value) if self.is_log else value
        share = (at - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 1)

    def ticks(self, *, whole: bool = False) -> tuple[Tick, ...]:
        """Ticks at round values inside the axis; `whole`: integers only."""
        values = log_ticks(self._low, self._high) if self.is_log else linear_ticks(self._low, self._high, whole=whole)
        return tuple(Tick(at=self(value), text=_tick_text(value)) for value in values)


def linear_ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Up to about seven multiples of 1, 2 or 5 times a power of ten in [low, high]."""
    raw = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw * (1 - 1e-9))
    step = max(step, 1.0) if whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten in [10**low, 10**high]; only the powers where there are many of them."""
    factors = (1.0,) if high - low > _LOG_DECADES_WITH_STEPS else (1.0, 2.0, 5.0)
    values = [factor * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for factor in factors]
    return [float(f"{value:.12g}") for value in values if low <= math.log10(value) <= high]


def _tick_text(value: float) -> str:
    return f"{value:,.10g}"


def make_chart(results: Results) -> Chart | None:
    """The figure of a study; None while there is nothing to draw."""
    search = [trial for trial in results.trials if trial.kind is not TrialKind.CONFIRMATION]
    if not any(trial.values is not None for trial in search):
        return None
    if len(results.objectives) >= _TWO:
        return _front_chart(results, search)
    return _convergence_chart(results, search)


def _axis_label(objective: ObjectiveInfo) -> str:
    better = "lower" if objective.direction is Direction.MINIMISE else "higher"
    return f"{heading(objective)}, {better} is better"


def _kind(results: Results, trial: TrialResult, front: set[int]) -> MarkKind:
    if results.best is not None and trial.number == results.best.trial:
        return MarkKind.CHOSEN
    if trial.number == 0:
        return MarkKind.DEFAULT
    return MarkKind.FRONT if trial.number in front else MarkKind.TRIAL


def _mark_title(results: Results, trial: TrialResult) -> str:
    named = "default" if trial.number == 0 else config_text(trial.config)
    values = ", ".join(
        f"{objective.label} {quantity(value, objective.unit)}"
        for objective, value in zip(results.objectives, trial.values or (), strict=False)
    )
    return f"Trial {trial.number}: {values}. {named}"


def _front_chart(results: Results, search: Sequence[TrialResult]) -> Chart:
    """Every trial by its first two objectives, and the line of the front."""
    across, up = results.objectives[:_TWO]
    points = {trial.number: trial.values for trial in search if trial.values is not None}
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    x = _Scale([values[0] for values in points.values()], _LEFT, right)
    y = _Scale([values[1] for values in points.values()], bottom, _TOP)
    front = {member.trial for member in results.front}
    marks = [
        Mark(
            x=x(trial.values[0]),
            y=y(trial.values[1]),
            kind=_kind(results, trial, front),
            title=_mark_title(results, trial),
        )
        for trial in search
        if trial.values is not None
    ]
    corners = _stairs([(x(member.values[0]), y(member.values[1])) for member in results.front])
    drawn = len(results.objectives) == _TWO
    failing = _without_values(search)
    kinds = {mark.kind for mark in marks}
    return Chart(
        title=f"{up.label} against {across.label}",
        description=f"{len(points)} trials with a result. On the Pareto front: trials {numbers(sorted(front))}.",
        width=WIDTH,
        height=HEIGHT,
        left=_LEFT,
        right=right,
        top=_TOP,
        bottom=bottom,
        x=Axis(label=_axis_label(across), ticks=x.ticks()),
        y=Axis(label=_axis_label(up), ticks=y.ticks()),
        marks=_labelled(marks, list(points), front | {0}, right),
        line=corners if drawn else (),
        default_y=None,
        legend=(*_mark_legend(kinds), *((LegendEntry(kind="front-line", text="Pareto front"),) if drawn else ())),
        note=failing,
    )


def _without_values(search: Sequence[TrialResult]) -> str:
    ended = [t.number for t in search if t.values is None and t.state.is_terminal]
    return f"Not drawn, because without a result: trials {numbers(ended)}." if ended else ""


def _mark_legend(kinds: set[MarkKind]) -> tuple[LegendEntry, ...]:
    texts = {
        MarkKind.CHOSEN: "chosen",
        MarkKind.FRONT: "on the front",
        MarkKind.DEFAULT: "default configuration",
        MarkKind.TRIAL: "trial",
        MarkKind.INFEASIBLE: "without a result",
    }
    return tuple(LegendEntry(kind=kind.value, text=text) for kind, text in texts.items() if kind in kinds)


def _stairs(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """A step line through points: what lies behind it is dominated."""
    corners: list[tuple[float, float]] = []
    for at, height in points:
        if corners and corners[-1][1] != height:
            corners.append((at, corners[-1][1]))
        corners.append((at, height))
    return tuple(corners)


def _convergence_chart(results: Results, search: Sequence[TrialResult]) -> Chart:
    """Value by trial number, the best so far, and the default's value as a line."""
    objective = results.objectives[0]
    ended = [trial for trial in search if trial.state.is_terminal]
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    x = _Scale([0.0, float(max(trial.number for trial in ended) or 1)], _LEFT, right, clamp=False)
    y = _Scale([trial.values[0] for trial in ended if trial.values is not None], bottom - 16, _TOP)
    marks = []
    best: list[tuple[float, float]] = []
    better: Callable[[float, float], float] = min if objective.direction is Direction.MINIMISE else max
    so_far: float | None = None
    keeping = [trial for trial in ended if trial.values is not None and trial.kept is not False]
    for trial in ended:
        at = x(float(trial.number))
        if trial.values is None:
            why = trial.reason or trial.state
            title = f"Trial {trial.number}: {why}. {config_text(trial.config)}"
            marks.append(Mark(x=at, y=float(bottom - 8), kind=MarkKind.INFEASIBLE, title=title))
        else:
            value = trial.values[0]
            if trial in keeping or not keeping:  # what breaks a limit leads nothing that keeps it
                so_far = value if so_far is None else better(so_far, value)
            marks.append(Mark(x=at, y=y(value), kind=_kind(results, trial, set()), title=_mark_title(results, trial)))
        if so_far is not None:
            best.append((at, y(so_far)))
    kinds = {mark.kind for mark in marks}
    legend = [*_mark_legend(kinds), LegendEntry(kind="front-line", text="best so far")]
    if results.default is not None:
        legend.append(
            LegendEntry(kind="default-line", text=f"default ({quantity(results.default[0], objective.unit)})")
        )
    shown, has = (results.best.trial, results.best.values[0]) if results.best is not None else (0, so_far)
    return Chart(
        title=f"{objective.label} by trial",
        description=f"{len(ended)} trials have ended; the best, trial {shown}, has "
        f"{quantity(has, objective.unit)}. Trials without a result are crosses at the lower edge.",
        width=WIDTH,
        height=HEIGHT,
        left=_LEFT,
        right=right,
        top=_TOP,
        bottom=bottom,
        x=Axis(label="trial, in order of suggestion", ticks=x.ticks(whole=True)),
        y=Axis(label=_axis_label(objective), ticks=y.ticks()),
        marks=_labelled(marks, [trial.number for trial in ended], {shown}, right),
        line=_stairs(best),
        default_y=None if results.default is None else y(results.default[0]),
        legend=tuple(legend),
        note="",
    )


def _labelled(marks: Sequence[Mark], trials: Sequence[int], wanted: set[int], right: float) -> tuple[Mark, ...]:
    """Marks, those of the `wanted` trials with their number at a place where it covers nothing, if there is one.

    Less telling marks come first, so that the chosen one is drawn on top.
    """
    boxes = [(mark.x - 5, mark.y - 5, mark.x + 5, mark.y + 5) for mark in marks]
    out = []
    for mark, trial in zip(marks, trials, strict=True):
        label = None
        if trial in wanted:
            label = _place(mark, "default" if trial == 0 else str(trial), boxes, right)
        if label is not None:
            boxes.append(_box(label))
            mark = msgspec.structs.replace(mark, label=label)  # noqa: PLW2901 - the same mark, with its text
        out.append(mark)
    order = list(MarkKind)
    rank = {MarkKind.CHOSEN: len(order)}
    return tuple(sorted(out, key=lambda mark: rank.get(mark.kind, order.index(mark.kind))))


def _box(label: Label) -> tuple[float, float, float, float]:
    width = len(label.text) * _CHAR_WIDTH
    left = {"start": label.x, "middle": label.x - width / 2, "end": label.x - width}[label.anchor]
    return (left, label.y - _LABEL_HEIGHT + 3, left + width, label.y + 3)


def _place(mark: Mark, text: str, boxes: Sequence[tuple[float, float, float, float]], right: float) -> Label | None:
    """The first place around a mark where its label meets nothing and stays inside."""
    for dx, dy, anchor in (
        (9, -6, "start"),
        (-9, -6, "end"),
        (0, -11, "middle"),
        (9, 14, "start"),
        (-9, 14, "end"),
        (0, 20, "middle"),
        (10, 4, "start"),
        (-10, 4, "end"),
    ):
        label = Label(x=round(mark.x + dx, 1), y=round(mark.y + dy, 1), anchor=anchor, text=text)
        box = _box(label)
        inside = box[0] > _LEFT and box[2] < right and box[1] > 0 and box[3] < HEIGHT - _BOTTOM
        if inside and not any(_overlap(box, other) for other in boxes):
            return label
    return None


def _overlap(one: tuple[float, float, float, float], two: tuple[float, float, float, float]) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]
