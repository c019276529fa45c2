"""Tables of a comparison, in Markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Final

import msgspec

from scoot.coordinator.optimizer.base import Problem
from scoot.experiments.run import Run
from scoot.experiments.scores import Reference, Score, duel, improvement, paired, reaches, score, summarise, tunable

AT: Final = (10, 20, 30)
"""Numbers of trials that tables show."""

Scores = Mapping[str, Mapping[tuple[str, int], Score]]
"""Label of a method -> (service, seed) -> score."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a service: its problem is no value, so this is not to be written down."""

    problem: Problem
    reference: Reference


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What can be compared: services of one kind, and of them what every method did.

    Attributes:
        title: of its tables.
        several: whether services have several objectives: quality is a share of the hypervolume, else 1 - regret.
        scores: label -> (service, seed) -> score, of services with something to tune; a label has at least one.
        pairs: the (service, seed) pairs that every label has, in order; perhaps none.
        absent: labels of the comparison without any of these services.
    """

    title: str
    several: bool
    scores: Scores
    pairs: tuple[tuple[str, int], ...]
    absent: tuple[str, ...]

    @property
    def what(self) -> str:
        """What tables and plots show of a quality."""
        return "HV share" if self.several else "regret"

    def shown(self, quality: float) -> float:
        """A quality as tables and plots show it."""
        return quality if self.several else 1 - quality

    def notes(self) -> list[str]:
        """What is left out, so that methods are compared on equal terms; nothing where nothing is."""
        lines = []
        every = set().union(*self.scores.values())
        lacking = {label: len(every) - len(each) for label, each in self.scores.items() if len(each) < len(every)}
        if lacking:
            missing = ", ".join(f"{count} of {label}" for label, count in lacking.items())
            compared = f"the {len(self.pairs)} of {len(every)} pairs of service and seed that every method has"
            lines += [f"Compared on {compared}; missing: {missing}.", ""]
        if self.absent:
            lines += [f"Did not run on these services: {', '.join(self.absent)}.", ""]
        return lines


def parts_of(scores: Scores, known: Mapping[str, Known]) -> list[Part]:
    """One part per number of objectives, if there is something to compare.

    Args:
        scores: of all runs, see scores_of.
        known: of every service that they mention.
    """
    found = []
    for title, several in (("One objective", False), ("Two or three objectives", True)):
        chosen = {
            name
            for name, each in known.items()
            if (len(each.problem.directions) > 1) is several and tunable(each.reference, each.problem)
        }
        kept = {label: {pair: one for pair, one in each.items() if pair[0] in chosen} for label, each in scores.items()}
        here = {label: each for label, each in kept.items() if each}
        if here:
            absent = tuple(label for label in kept if label not in here)
            found.append(Part(title=title, several=several, scores=here, pairs=paired(here), absent=absent))
    return found


def rows(head: Sequence[str], lines: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table."""
    text = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*text, *(f"| {' | '.join(map(str, line))} |" for line in lines)]


def labels(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by method, and by design, parallelism and budget where there are several."""
    several = [
        len({getattr(run.spec, field) for run in runs}) > 1 for field in ("design", "parallelism", "budget", "noise")
    ]
    found: dict[str, list[Run]] = {}
    for run in runs:
        spec = run.spec
        parts = [
            spec.method,
            str(spec.design) if several[0] else "",
            f"p{spec.parallelism}" if several[1] else "",
            f"b{spec.budget}" if several[2] else "",
            "exact" if several[3] and not spec.noise else "",
        ]
        found.setdefault(" ".join(filter(None, parts)), []).append(run)
    return found


def scores_of(
    runs: Sequence[Run], known: Mapping[str, Known], *, logarithmic: bool = False
) -> dict[str, dict[tuple[str, int], Score]]:
    """Scores of runs by label; services on which nothing runs are left out."""
    return {
        label: {
            (run.spec.service, run.spec.seed): score(
                run,
                known[run.spec.service].problem,
                known[run.spec.service].reference,
                logarithmic=logarithmic,
            )
            for run in group
            if known[run.spec.service].reference.anchor is not None
        }
        for label, group in labels(runs).items()
    }


def comparison(
    runs: Sequence[Run], known: Mapping[str, Known], *, against: str, logarithmic: bool = False
) -> list[str]:
    """Every table of a comparison.

    Args:
        runs: finished ones.
        known: of every service that they mention.
        against: the method whose last quality the others are to reach.
        logarithmic: see scoot.experiments.scores.
    """
    scores = scores_of(runs, known, logarithmic=logarithmic)
    lines: list[str] = []
    for part in parts_of(scores, known):
        lines += [f"## {part.title}", "", *part.notes()]
        if part.pairs:
            lines += [*_overall(part, against=against), "", *_duels(part), "", *_services(part), ""]
    little = [name for name, each in known.items() if not tunable(each.reference, each.problem)]
    if little:
        lines += [f"Too little to tune, left out of the means: {', '.join(little)}.", ""]
    faults = [f"{run.spec.service} {run.spec.method} seed {run.spec.seed}: {run.error}" for run in runs if run.error]
    if faults:
        lines += ["Runs that ended with an error:", "", *(f"* {fault}" for fault in faults), ""]
    return lines


def _shown(quality: float, part: Part) -> str:
    return f"{part.shown(quality):.3f}"


def _overall(part: Part, *, against: str) -> list[str]:
    summaries = {label: summarise([each[pair] for pair in part.pairs]) for label, each in part.scores.items()}
    budget = min(len(each.quality) for each in summaries.values())
    at = [trials for trials in AT if trials < budget] + [budget]
    target = summaries[against].at(budget) if against in summaries else None
    head = [
        "method",
        "runs",
        *(f"{part.what} after {trials}" for trials in at),
        "p10" if part.several else "p90",
        "worst",
        "wasted",
        "broke a limit",
        f"trials to reach {against}",
        "CPU s per suggestion",
        "virtual hours",
    ]
    lines = []
    order = sorted(summaries, key=lambda label: -summaries[label].at(budget))
    for label in order:
        each = summaries[label]
        first = None if target is None else reaches(each, target)
        lines.append(
            [
                label,
                each.runs,
                *(_shown(each.at(trials), part) for trials in at),
                _shown(each.p10, part),
                _shown(each.worst, part),
                f"{each.wasted:.1f}",
                f"{each.broken:.1f}",
                "-" if first is None else first,
                f"{each.cpu_s:.3f}",
                f"{each.total_s / 3600:.2f}",
            ]
        )
    return rows(head, lines)


def _duels(part: Part) -> list[str]:
    """Who beats whom at the end, paired by service and seed."""
    lines = []
    for (first, ours), (second, theirs) in combinations(part.scores.items(), 2):
        found = duel([ours[pair].quality[-1] for pair in part.pairs], [theirs[pair].quality[-1] for pair in part.pairs])
        lines.append([first, second, found.wins, found.ties, found.losses, f"{found.p:.2g}"])
    return rows(["method", "against", "wins", "ties", "losses", "p (sign test)"], lines) if lines else []


def _services(part: Part) -> list[str]:
    """Mean at the end by service."""
    lines = []
    for name in dict.fromkeys(service for service, _ in part.pairs):
        own = [pair for pair in part.pairs if pair[0] == name]
        means = [sum(each[pair].quality[-1] for pair in own) / len(own) for each in part.scores.values()]
        lines.append([name, len(own), *(_shown(mean, part) for mean in means)])
    return rows(["service", "seeds", *part.scores], lines)


def overview(known: Mapping[str, Known], seconds: Mapping[str, float], develop: Sequence[str]) -> list[str]:
    """What there is to tune in each service.

    Args:
        known: of each.
        seconds: CPU seconds of a trial; without any, there is no such column.
        develop: services that are for development.
    """
    lines = []
    for name, each in known.items():
        found = each.reference
        lines.append(
            [
                name,
                "development" if name in develop else "judging",
                len(each.problem.space.axes),
                values_text(found.default),
                _front_text(found),
                f"{100 * improvement(found, each.problem):.0f} %",
                f"{100 * found.failed / max(1, found.tried):.0f} %",
                f"{100 * found.broken / max(1, found.tried):.0f} %",
                *([f"{seconds.get(name, 0.0):.2f}"] if seconds else []),
            ]
        )
    head = ["service", "for", "parameters", "default", "best", "improvement", "failed", "broke a limit"]
    return rows([*head, "s per trial"] if seconds else head, lines)


def values_text(values: Sequence[float] | None) -> str:
    """Objective values for humans."""
    return "fails" if values is None else " / ".join(f"{value:,.4g}" for value in values)


def _front_text(reference: Reference) -> str:
    """The best value, or the ends of the front."""
    if not reference.front:
        return "nothing runs"
    ordered = sorted(reference.front)
    if len(ordered) == 1:
        return values_text(ordered[0])
    return f"{values_text(ordered[0])} to {values_text(ordered[-1])}"
