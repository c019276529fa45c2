"""The page of results: Markdown about finished runs, and which plots go with it. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from scoot.experiments import table
from scoot.experiments.catalogue import SERVICES, development
from scoot.experiments.figures import improvements, joint_fronts, recommended, speed
from scoot.experiments.fronts import shares_of
from scoot.experiments.recipe import recipes_of, services_text
from scoot.experiments.run import Run
from scoot.experiments.series import (
    Conflicts,
    Plot,
    Shares,
    Transfer,
    common_runs,
    curves_of,
    degrees_of,
    gains_of,
    rivals_of,
    tallies_of,
)
from scoot.experiments.table import Known, Part

PROGRAM: Final = ("python", "-m", "scoot.experiments")


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Finished runs that belong together.

    Attributes:
        title: of its section.
        folder: what the page calls the folder of the runs.
        runs: at least one; their services are in the catalogue.
        known: of every service that they mention.
        stale: how many of them are of another version of their service or of the simulator.
    """

    title: str
    folder: str
    runs: tuple[Run, ...]
    known: dict[str, Known]
    stale: int = 0


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A page.

    Attributes:
        text: Markdown.
        plots: name -> what it shows; the text links to "FOLDER/NAME.svg".
    """

    text: str
    plots: dict[str, Plot]


class Book:
    """Collects a page's lines and plots.

    Args:
        folder: of the plots, as the page is to link to it.
    """

    def __init__(self, folder: str) -> None:
        self.lines: list[str] = []
        self.plots: dict[str, Plot] = {}
        self._folder = folder

    def say(self, *lines: str) -> None:
        """A paragraph, a table, a heading."""
        self.lines += [*lines, ""]

    def show(self, name: str, plot: Plot, what: str) -> None:
        """A plot; `what` it shows, for those who cannot see it."""
        self.plots[name] = plot
        self.say(f"![{what}]({self._folder}/{name}.svg)")


def page_of(
    comparisons: Sequence[Comparison],
    *,
    command: Sequence[str],
    folder: str,
    against: str = "scoot",
    transfer: Transfer | None = None,
    conflicts: Conflicts | None = None,
) -> Page:
    """The page of some comparisons.

    Args:
        comparisons: with distinct titles.
        command: arguments of `python -m scoot.experiments` that make this page.
        folder: of the plots, as the page is to link to it.
        against: the method that the others are compared with, where it ran.
        transfer, conflicts: figures that need no method.
    """
    book = Book(folder)
    book.say("# Optimizers compared")
    book.say(
        "Simulated services in virtual time: nothing here is a measurement of hardware. What the words mean is in "
        "`docs/experiments.md`. This page is made, and not written, by"
    )
    book.say("```", shlex.join((*PROGRAM, *command)), "```")
    for comparison in comparisons:
        _comparison(book, comparison, against)
    if transfer is not None:
        _transfer(book, transfer)
    if conflicts is not None:
        _conflicts(book, conflicts)
    _services(book, comparisons)
    return Page(text="\n".join(book.lines).rstrip("\n") + "\n", plots=book.plots)


def slug(title: str) -> str:
    """A title as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _comparison(book: Book, comparison: Comparison, against: str) -> None:
    runs, known, name = comparison.runs, comparison.known, slug(comparison.title)
    book.say(f"## {comparison.title}")
    _what_ran(book, comparison)
    scores = table.scores_of(runs, known)
    parts = table.parts_of(scores, known)
    for line in table.comparison(runs, known, against=_target(runs, against)):
        book.lines.append(f"#{line}" if line.startswith("## ") else line)
    compared = [part for part in parts if part.pairs]
    if compared:
        book.say("### By number of trials")
        book.say("Lines are means over pairs of service and seed, bands a standard error to each side.")
    for part in compared:
        kind = "hypervolume" if part.several else "regret"
        book.show(f"{name}-{kind}", curves_of(part), f"{part.title}: {part.what} by number of trials")
    common = common_runs(runs)
    _gains(book, name, common, known)
    if len({run.spec.parallelism for run in runs}) > 1:
        _parallelism(book, name, runs, known, compared)
    else:
        _fronts(book, name, common, known)
    story = {service: each for service, each in known.items() if SERVICES[service].group == "story"}
    if story:
        book.say("### Story-writing services")
        book.say(*recommended([run for run in common if run.spec.service in story], story))
    _tallies(book, runs, compared, against)


def _what_ran(book: Book, comparison: Comparison) -> None:
    runs = comparison.runs
    services = list(dict.fromkeys(run.spec.service for run in runs))
    develop = set(development())
    book.say(
        f"* {len(runs)} runs: {_counted({run.spec.method for run in runs}, 'method')}, "
        f"{_counted(set(services), 'service')}, seeds {_span({run.spec.seed for run in runs})}, "
        f"{_span({run.spec.budget for run in runs})} trials each, "
        f"{_span({run.spec.parallelism for run in runs})} at once, "
        f"first design: {', '.join(sorted({run.spec.design.value for run in runs}))}.",
        f"* For judging: {_names(services, [each for each in services if each not in develop])}.",
        f"* For developing: {_names(services, [each for each in services if each in develop])}.",
        *(
            [f"* {comparison.stale} runs are of another version of their service or of the simulator: run them again."]
            if comparison.stale
            else []
        ),
    )
    recipes = recipes_of(runs, comparison.folder)
    book.say("```", *(shlex.join((*PROGRAM, *recipe.command)) for recipe in recipes), "```")
    for recipe in recipes:
        if recipe.missing:
            lacking = ", ".join(f"{count} of {method}" for method, count in recipe.missing.items())
            book.say(f"Of the runs that this makes, {lacking} are not here.")


def _gains(book: Book, name: str, common: Sequence[Run], known: Mapping[str, Known]) -> None:
    found = gains_of(common, known, SERVICES)
    book.say("### Improvement over the default")
    book.say(
        "Of what is recommended at the end, in the mean over seeds that all methods have; lines in the plots go from "
        "the worst to the best seed."
    )
    for stratum, each in found.items():
        book.show(f"{name}-gain-{slug(stratum)}", each, f"{stratum}: improvement of the SLO by service and method")
    book.say(*improvements(common, known))


def _parallelism(
    book: Book, name: str, runs: Sequence[Run], known: Mapping[str, Known], compared: Sequence[Part]
) -> None:
    book.say("### Trials at once")
    for part in compared:
        kind = "hypervolume" if part.several else "regret"
        plot = degrees_of(part, runs)
        book.show(f"{name}-parallel-{kind}", plot, f"{part.title}: {part.what} and time by trials at once")
    book.say(*speed(runs, known))


def _fronts(book: Book, name: str, common: Sequence[Run], known: Mapping[str, Known]) -> None:
    """Joint Pareto fronts, where several methods ran on services with two objectives or more."""
    several = {service: each for service, each in known.items() if len(each.problem.directions) > 1}
    runs = [run for run in common if run.spec.service in several]
    shares = shares_of(runs, several)
    if len({share.label for share in shares}) < 2:  # noqa: PLR2004 - a front is joint from two on
        return
    book.say("### Joint Pareto fronts")
    book.say("Whose the points of the front of all methods together are; what several found counts for each of them.")
    book.show(f"{name}-fronts", Shares(shares=shares), "Shares of the joint Pareto front by service and method")
    book.say(*joint_fronts(runs, several))


def _tallies(book: Book, runs: Sequence[Run], compared: Sequence[Part], against: str) -> None:
    rivals = rivals_of(runs, against)
    lines: list[list[object]] = []
    seeds: list[int] = sorted({seed for part in compared for _, seed in part.pairs})
    for part in compared:
        for tally in tallies_of(part, rivals):
            cells = [tally.seeds.get(seed) for seed in seeds]
            lines.append(
                [
                    part.title.lower(),
                    tally.label,
                    tally.rival,
                    *("" if cell is None else f"{cell.wins}-{cell.ties}-{cell.losses}" for cell in cells),
                    f"{tally.total.wins}-{tally.total.ties}-{tally.total.losses}",
                ]
            )
    if lines:
        book.say("### Wins, ties and losses by seed")
        book.say("On the same services and seeds, at the end.")
        book.say(*table.rows(["services with", "method", "against", *(f"seed {seed}" for seed in seeds), "all"], lines))


def _transfer(book: Book, transfer: Transfer) -> None:
    book.say("## Best configuration of one service on another (Figure 2)")
    book.say("Improvement over the default in percent, in the mean over objectives.")
    book.show("transfer", transfer, "Best configurations of services on the others")
    lines = [
        [name, *("fails" if gain is None else f"{100 * gain:,.0f}" for gain in row)]
        for name, row in zip(transfer.services, transfer.gains, strict=True)
    ]
    book.say(*table.rows(["best of, on", *transfer.services], lines))


def _conflicts(book: Book, conflicts: Conflicts) -> None:
    book.say("## What is best for one objective is bad for the other (Figure 13)")
    book.show("conflict", conflicts, "Both objectives: the default, random configurations, and the near-optimal front")
    lines = [
        [
            each.service,
            *map(table.values_text, (each.default, *((each.front[0], each.front[-1]) if each.front else ()))),
        ]
        for each in conflicts.conflicts
    ]
    book.say(*table.rows(["service", "default", "best for the first", "best for the second"], lines))


def _services(book: Book, comparisons: Sequence[Comparison]) -> None:
    found = {name: each for comparison in comparisons for name, each in comparison.known.items()}
    known = {name: found[name] for name in SERVICES if name in found}
    tried = sum(each.reference.tried for each in known.values())
    book.say("## The services")
    book.say(
        f"Near-optimal is what is best among all of the {tried:,} configurations that are known, from the runs and from"
    )
    book.say("```", shlex.join((*PROGRAM, "reference", "--services", services_text(known))), "```")
    book.say(*table.overview(known, {}, development()))


def _target(runs: Sequence[Run], against: str) -> str:
    """The label that the tables compare with: the method's, or the first of its labels, or its name."""
    found = table.labels(runs)
    return next((label for label, group in found.items() if group[0].spec.method == against), against)


def _names(every: Sequence[str], chosen: Sequence[str]) -> str:
    if not chosen:
        return "none"
    return "all" if len(chosen) == len(every) else ", ".join(chosen)


def _counted(things: set[str], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _span(numbers: set[int]) -> str:
    """Numbers for humans: "0 to 9", "30", "1, 2, 4, 8"."""
    ordered = sorted(numbers)
    if len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1)):  # noqa: PLR2004 - two are named
        return f"{ordered[0]} to {ordered[-1]}"
    return ", ".join(map(str, ordered))
