"""The tables and figures of the SCOOT paper as presets over `compare`, and how each is shown. Pure.

Numbers are the paper's. They are to be reproduced in kind: services, engines and GPUs are simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec
import numpy as np

from scoot.coordinator.objective.best import best_trial
from scoot.coordinator.objective.pareto import minimise
from scoot.coordinator.optimizer.base import Problem
from scoot.experiments.fronts import shares_of
from scoot.experiments.run import Run
from scoot.experiments.scores import keeps, relative
from scoot.experiments.table import Known, labels, rows, values_text

Render = Callable[[Sequence[Run], Mapping[str, Known]], list[str]]
"""From finished runs, and what is known of their services, to lines of Markdown."""


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """One table or figure of the paper.

    Attributes:
        title: what it shows.
        services: as for the command line.
        methods: of the paper's, ours among them.
        parallelisms: trials at once.
        render: how runs are shown.
    """

    title: str
    services: str
    methods: tuple[str, ...]
    parallelisms: tuple[int, ...] = (1,)
    render: Render


def chosen(run: Run, problem: Problem) -> int | None:
    """The trial that a study would recommend: the best value, or the largest single-point hypervolume (section 5.1).

    None where nothing keeps every limit.
    """
    values = [
        (step.number, step.trial.values)
        for step in run.steps
        if step.trial.values is not None and keeps(step.trial, problem.outcomes)
    ]
    first = run.steps[0].trial
    reference = first.values if keeps(first, problem.outcomes) else None
    return best_trial(values, reference, problem.directions)


def gains(run: Run, problem: Problem) -> tuple[float, ...] | None:
    """Relative improvement of each objective by the recommended trial: 0.2 is a fifth better than the default.

    None where there is no default to be better than, or nothing to recommend.
    """
    first = run.steps[0].trial
    number = chosen(run, problem)
    if number is None or first.values is None or not keeps(first, problem.outcomes):
        return None
    return relative(run.steps[number].trial.values or (), first.values, problem.directions)


def improvements(runs: Sequence[Run], known: Mapping[str, Known]) -> list[str]:
    """SLO improvement over the default, per service and method: mean over seeds (Figures 6 to 11, 14)."""
    by_label = labels(runs)
    lines: list[Sequence[object]] = []
    for name, each in known.items():
        shown = []
        for group in by_label.values():
            own = [run for run in group if run.spec.service == name]
            found = [gain for run in own if (gain := gains(run, each.problem)) is not None]
            missing = "default fails" if own else "-"
            shown.append(" / ".join(f"{100 * mean:.1f} %" for mean in np.mean(found, axis=0)) if found else missing)
        lines.append([name, *shown])
    return rows(["service", *by_label], lines)


def speed(runs: Sequence[Run], known: Mapping[str, Known]) -> list[str]:
    """Quality and virtual hours by parallelism (Figure 12)."""
    lines: list[Sequence[object]] = []
    for label, group in labels(runs).items():
        found = [gain for run in group if (gain := gains(run, known[run.spec.service].problem)) is not None]
        means = [float(np.mean(gain)) for gain in found]
        hours = [run.total_s / 3600 for run in group]
        mean = f"{100 * np.mean(means):.1f} %" if means else "-"
        lines.append([label, len(group), mean, f"{np.mean(hours):.2f}", f"{np.max(hours):.2f}"])
    return rows(["method", "runs", "mean improvement", "virtual hours", "longest"], lines)


def joint_fronts(runs: Sequence[Run], known: Mapping[str, Known]) -> list[str]:
    """Who found the points of the front of all methods together, and how wide each one's part is (Figures 15, 16)."""
    lines = [
        [each.service, each.label, f"{100 * each.points:.0f} %", f"{100 * each.width:.0f} %"]
        for each in shares_of(runs, known)
    ]
    return rows(["service", "method", "of the joint front", "width of its part"], lines)


def recommended(runs: Sequence[Run], known: Mapping[str, Known]) -> list[str]:
    """Objective values of what is recommended: the default's, each method's mean and deviation (Table 4)."""
    by_label = labels(runs)
    lines: list[Sequence[object]] = []
    for name, each in known.items():
        shown = []
        for group in by_label.values():
            values = [
                run.steps[number].trial.values
                for run in group
                if run.spec.service == name and (number := chosen(run, each.problem)) is not None
            ]
            if not values:
                shown.append("none keeps the limits")
                continue
            array = np.array(values)
            means, spread = array.mean(axis=0), array.std(axis=0)
            shown.append(" / ".join(f"{m:.3g} ± {s:.2g}" for m, s in zip(means, spread, strict=True)))
        best = values_text(each.reference.front[0]) if len(each.reference.front) == 1 else ""
        lines.append([name, values_text(each.reference.default), *shown, best])
    return rows(["service", "default", *by_label, "near-optimal"], lines)


def conflict(each: Known, points: Sequence[tuple[float, ...]]) -> Sequence[object]:
    """One line of Figure 13: the best configuration for one objective is bad for the other.

    Args:
        each: a service of two objectives.
        points: values of configurations that run; at least one.
    """
    array = np.array(points)
    turned = minimise(array, each.problem.directions)
    first, second = (int(np.argmin(turned[:, objective])) for objective in (0, 1))
    return (each.reference.service, values_text(tuple(array[first])), values_text(tuple(array[second])))


PRESETS: Final = MappingProxyType(
    {
        "6-11": Preset(
            title="SLO improvement over the default (Figures 6 to 11)",
            services="paper",
            methods=("auto", "scoot", "vbo", "ga", "rd"),
            render=improvements,
        ),
        "12": Preset(
            title="Parallel suggestion: quality and total time (Figure 12)",
            services="SQL-4a100-13b,BOT-4a100-13b,CLS-4a100-13b,REC-4a100-13b",
            methods=("auto", "scoot"),
            parallelisms=(1, 2, 4, 8),
            render=speed,
        ),
        "14": Preset(
            title="Random-forest feasibility left out (Figure 14)",
            services="BOT-2a100-7b,BOT-2a100-13b,BOT-4a100-7b,BOT-4a100-13b,"
            "CLS-2a100-7b,CLS-2a100-13b,CLS-4a100-7b,CLS-4a100-13b",
            methods=("scoot", "scoot-without-forest", "auto", "auto-without-works"),
            render=improvements,
        ),
        "15-16": Preset(
            title="Joint Pareto sets of BOT and SQL on 4 A10 (Figures 15 and 16)",
            services="BOT-4a10-7b,BOT-4a10-13b,SQL-4a10-7b,SQL-4a10-13b",
            methods=("auto", "scoot", "vbo", "ga", "rd"),
            render=joint_fronts,
        ),
        "table4": Preset(
            title="Story-writing services, client concurrency tuned (Table 4)",
            services="story",
            methods=("auto", "scoot", "vbo"),
            render=recommended,
        ),
    }
)
"""Presets by the paper's number. Figures 2 and 13 need no method: see the command."""

FIGURE_2: Final = ("SQL-2a100-13b", "BOT-2a100-13b", "BOT-2a10-13b", "BOT-4a10-13b", "BOT-4a10-7b")
"""Services A to E of the paper's Table 2."""

FIGURE_13: Final = ("BOT-2a10-13b", "BOT-4a10-13b", "BOT-2a100-13b", "BOT-4a100-13b")
