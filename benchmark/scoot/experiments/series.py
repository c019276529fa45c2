"""What the plots of a page show: numbers of finished runs, compared on equal terms. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from scoot.coordinator.objective.metric import METRICS
from scoot.experiments.figures import gains
from scoot.experiments.fronts import Share
from scoot.experiments.run import Run
from scoot.experiments.scores import Duel, Score, duel
from scoot.experiments.services import TuningService
from scoot.experiments.table import Known, Part, labels

_DEGREE: Final = re.compile(r"p\d+")

_Scores = Mapping[tuple[str, int], Score]
"""(service, seed) -> score."""


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """A line with a band around it.

    Attributes:
        label: of the method.
        mean: after 1, 2, ... trials.
        error: standard error of each mean, over (service, seed) pairs; 0 where there is one pair only.
    """

    label: str
    mean: tuple[float, ...]
    error: tuple[float, ...]


class Curves(msgspec.Struct, frozen=True, kw_only=True):
    """Regret or share of the hypervolume by number of trials.

    Attributes:
        several: it is the hypervolume's share, as in Part.
        pairs: how many (service, seed) pairs each mean is of.
        curves: one per method.
    """

    several: bool
    pairs: int
    curves: tuple[Curve, ...]


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A method's improvements on one service, over seeds: shares of the default's value, 0.2 is a fifth better."""

    label: str
    mean: float
    low: float
    high: float


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """Improvements of one metric.

    Attributes:
        metric: its name.
        rows: service -> one spread per method that ran on it.
    """

    metric: str
    rows: dict[str, tuple[Spread, ...]]


class Gains(msgspec.Struct, frozen=True, kw_only=True):
    """SLO improvements over the default of services of one stratum, the paper's Figures 6 to 11."""

    panels: tuple[Panel, ...]


class Degree(msgspec.Struct, frozen=True, kw_only=True):
    """A method with so many trials at once.

    Attributes:
        method: its label without the parallelism.
        at_once: trials.
        mean, error: regret or share of the hypervolume at the end, and its standard error over pairs.
        hours: mean virtual time of a run.
    """

    method: str
    at_once: int
    mean: float
    error: float
    hours: float


class Degrees(msgspec.Struct, frozen=True, kw_only=True):
    """Quality and time against trials at once, the paper's Figure 12.

    Attributes:
        several: it is the hypervolume's share, as in Part.
        degrees: by method, then by trials at once.
    """

    several: bool
    degrees: tuple[Degree, ...]


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """Who found the joint fronts, the paper's Figures 15 and 16."""

    shares: tuple[Share, ...]


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """The best configuration of each service on the others, the paper's Figure 2.

    Attributes:
        services: names, in the order of rows and columns.
        gains: [row, column]: improvement over the column's default of what is best for the row's service, in the mean
            over objectives, 0.2 is a fifth better; None where it fails, or nothing is known.
    """

    services: tuple[str, ...]
    gains: tuple[tuple[float | None, ...], ...]


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """Two objectives that are at odds on one service, the paper's Figure 13.

    Attributes:
        service: its name.
        metrics: the names of both.
        drawn: values of configurations at random that run.
        front: near-optimal values, in the order of the first objective.
        default: the default's values; None where it does not run.
    """

    service: str
    metrics: tuple[str, str]
    drawn: tuple[tuple[float, ...], ...]
    front: tuple[tuple[float, ...], ...]
    default: tuple[float, ...] | None


class Conflicts(msgspec.Struct, frozen=True, kw_only=True):
    """One panel per service."""

    conflicts: tuple[Conflict, ...]


Plot = Curves | Gains | Degrees | Shares | Transfer | Conflicts
"""Whatever can be drawn."""


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """A method against another, paired by service and seed.

    Attributes:
        label, rival: who against whom.
        seeds: seed -> over the services.
        total: over all of them.
    """

    label: str
    rival: str
    seeds: dict[int, Duel]
    total: Duel


def heading(metric: str) -> str:
    """A metric's name with its unit, where it is known."""
    return METRICS[metric].heading if metric in METRICS else metric


def alone(label: str) -> str:
    """A method's label without how many trials run at once."""
    return " ".join(word for word in label.split(" ") if not _DEGREE.fullmatch(word))


def common_runs(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Those with which every method that ran on their service can be compared: with a seed that all of these have."""
    seeds: dict[str, dict[str, set[int]]] = {}
    for label, group in labels(runs).items():
        for run in group:
            seeds.setdefault(run.spec.service, {}).setdefault(label, set()).add(run.spec.seed)
    common = {service: set.intersection(*found.values()) for service, found in seeds.items()}
    return tuple(run for run in runs if run.spec.seed in common[run.spec.service])


def curves_of(part: Part) -> Curves:
    """Regret or share of the hypervolume by trials, up to the least budget. The part has pairs."""
    found = []
    for label, each in part.scores.items():
        qualities = [each[pair].quality for pair in part.pairs]
        means, errors = _mean_and_error(np.array(qualities))
        found.append(Curve(label=label, mean=tuple(map(part.shown, means.tolist())), error=tuple(errors.tolist())))
    least = min(len(curve.mean) for curve in found)
    cut = (Curve(label=each.label, mean=each.mean[:least], error=each.error[:least]) for each in found)
    return Curves(several=part.several, pairs=len(part.pairs), curves=tuple(cut))


def gains_of(
    runs: Sequence[Run], known: Mapping[str, Known], services: Mapping[str, TuningService]
) -> dict[str, Gains]:
    """Improvements over the default by stratum; services whose default fails are left out.

    Args:
        runs: finished ones, comparable: see common_runs.
        known: of every service that they mention.
        services: definitions of these.
    """
    spreads: dict[tuple[str, str, str], list[Spread]] = {}
    by_label = labels(runs)
    ordered = [name for name in services if name in known]
    for name in ordered:
        for label, group in by_label.items():
            own = [gain for run in group if run.spec.service == name and (gain := gains(run, known[name].problem))]
            for metric, values in zip(services[name].objectives, zip(*own, strict=True), strict=False):
                spread = Spread(label=label, mean=float(np.mean(values)), low=min(values), high=max(values))
                spreads.setdefault((services[name].stratum, metric, name), []).append(spread)
    panels: dict[tuple[str, str], dict[str, tuple[Spread, ...]]] = {}
    for (stratum, metric, name), row in spreads.items():
        panels.setdefault((stratum, metric), {})[name] = tuple(row)
    return {
        stratum: Gains(
            panels=tuple(Panel(metric=metric, rows=panels[s, metric]) for s, metric in panels if s == stratum)
        )
        for stratum in dict.fromkeys(stratum for stratum, _ in panels)
    }


def degrees_of(part: Part, runs: Sequence[Run]) -> Degrees:
    """Quality and time by trials at once.

    Args:
        part: of these runs; it has pairs.
        runs: all of the comparison, of several parallelisms.
    """
    found = []
    for label, group in labels(runs).items():
        if label in part.scores:
            scores = [part.scores[label][pair] for pair in part.pairs]
            mean, error = _mean_and_error(np.array([each.quality[-1] for each in scores]))
            hours = float(np.mean([each.total_s for each in scores])) / 3600
            found.append(
                Degree(
                    method=alone(label),
                    at_once=group[0].spec.parallelism,
                    mean=part.shown(float(mean)),
                    error=float(error),
                    hours=hours,
                )
            )
    return Degrees(several=part.several, degrees=tuple(sorted(found, key=lambda each: (each.method, each.at_once))))


def rivals_of(runs: Sequence[Run], against: str) -> dict[str, str]:
    """Label -> label of the method `against` that differs from it in the method only; others have none."""
    specs = {label: group[0].spec for label, group in labels(runs).items()}
    found = {}
    for label, spec in specs.items():
        same = msgspec.structs.replace(spec, method=against)
        for rival, other in specs.items():
            alike = msgspec.structs.replace(other, service=spec.service, seed=spec.seed)
            if rival != label and alike == same:
                found[label] = rival
    return found


def tallies_of(part: Part, rivals: Mapping[str, str]) -> tuple[Tally, ...]:
    """Each method against its rival, of those that the part has."""
    found = []
    for label, rival in rivals.items():
        if label in part.scores and rival in part.scores:
            ours, theirs = part.scores[label], part.scores[rival]
            seeds = {
                seed: _duel_on([pair for pair in part.pairs if pair[1] == seed], ours, theirs)
                for seed in sorted({seed for _, seed in part.pairs})
            }
            found.append(Tally(label=label, rival=rival, seeds=seeds, total=_duel_on(part.pairs, ours, theirs)))
    return tuple(found)


def _duel_on(pairs: Sequence[tuple[str, int]], ours: _Scores, theirs: _Scores) -> Duel:
    return duel([ours[pair].quality[-1] for pair in pairs], [theirs[pair].quality[-1] for pair in pairs])


def _mean_and_error(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Over the first axis, which is not empty."""
    count = values.shape[0]
    error = values.std(axis=0, ddof=1) / np.sqrt(count) if count > 1 else np.zeros_like(values[0])
    return values.mean(axis=0), error
