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
    for title, several in (("One objective", False), ("Two or three objectives", True)):
        chosen = {
            name
            for name, each in known.items()
            if (len(each.problem.directions) > 1) is several and tunable(each.reference, each.problem)
        }
        part = {
            label: {pair: found for pair, found in each.items() if pair[0] in chosen} for label, each in scores.items()
        }
        pairs = paired(part)
        if pairs:
            lines += [f"## {title}", ""]
            lines += _overall(part, pairs, several=several, against=against)
            lines += ["", *_duels(part, pairs), "", *_services(part, pairs, several=several), ""]
    little = [name for name, each in known.items() if not tunable(each.reference, each.problem)]
    if little:
        lines += [f"Too little to tune, left out of the means: {', '.join(little)}.", ""]
    faults = [f"{run.spec.service} {run.spec.method} seed {run.spec.seed}: {run.error}" for run in runs if run.error]
    if faults:
        lines += ["Runs that ended with an error:", "", *(f"* {fault}" for fault in faults), ""]
    return lines


def _shown(quality: float, several: bool) -> str:
    return f"{quality if several else 1 - quality:.3f}"


def _overall(part: Scores, pairs: Sequence[tuple[str, int]], *, several: bool, against: str) -> list[str]:
    what = "HV share" if several else "regret"
    summaries = {label: summarise([each[pair] for pair in pairs]) for label, each in part.items()}
    budget = min(len(each.quality) for each in summaries.values())
    at = [trials for trials in AT if trials < budget] + [budget]
    target = summaries[against].at(budget) if against in summaries else None
    head = [
        "method",
        "runs",
        *(f"{what} after {trials}" for trials in at),
        "p10" if several else "p90",
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
                *(_shown(each.at(trials), several) for trials in at),
                _shown(each.p10, several),
                _shown(each.worst, several),
                f"{each.wasted:.1f}",
                f"{each.broken:.1f}",
                "-" if first is None else first,
                f"{each.cpu_s:.3f}",
                f"{each.total_s / 3600:.2f}",
            ]
        )
    return rows(head, lines)


def _duels(part: Scores, pairs: Sequence[tuple[str, int]]) -> list[str]:
    """Who beats whom at the end, paired by service and seed."""
    lines = []
    for first, second in combinations(part, 2):
        found = duel(
            [part[first][pair].quality[-1] for pair in pairs], [part[second][pair].quality[-1] for pair in pairs]
        )
        lines.append([first, second, found.wins, found.ties, found.losses, f"{found.p:.2g}"])
    return rows(["method", "against", "wins", "ties", "losses", "p (sign test)"], lines) if lines else []


def _services(part: Scores, pairs: Sequence[tuple[str, int]], *, several: bool) -> list[str]:
    """Mean at the end by service."""
    lines = []
    for name in dict.fromkeys(service for service, _ in pairs):
        own = [pair for pair in pairs if pair[0] == name]
        means = [sum(each[pair].quality[-1] for pair in own) / len(own) for each in part.values()]
        lines.append([name, len(own), *(_shown(mean, several) for mean in means)])
    return rows(["service", "seeds", *part], lines)


def overview(known: Mapping[str, Known], seconds: Mapping[str, float], develop: Sequence[str]) -> list[str]:
    """What there is to tune in each service."""
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
                f"{seconds.get(name, 0.0):.2f}",
            ]
        )
    head = ["service", "for", "parameters", "default", "best", "improvement", "failed", "broke a limit", "s per trial"]
    return rows(head, lines)


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
