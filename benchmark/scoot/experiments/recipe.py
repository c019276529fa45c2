"""The commands that make runs again. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product
from typing import Final

import msgspec

from scoot.experiments.catalogue import SERVICES, select
from scoot.experiments.run import Design, Run, RunSpec
from scoot.wire.errors import UserError

_HALVES: Final = ("judging", "development")


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """One command that makes runs.

    Attributes:
        command: the arguments of `python -m scoot.experiments`.
        runs: how many of its runs there are.
        missing: method -> how many of its runs there are not; methods that lack none are left out.
    """

    command: tuple[str, ...]
    runs: int
    missing: dict[str, int]


def recipes_of(runs: Sequence[Run], folder: str) -> list[Recipe]:
    """The commands that make these runs, one per budget, design and whether methods know the noise.

    Args:
        runs: at least one.
        folder: what --out says.
    """
    groups: dict[tuple[int, Design, bool], list[RunSpec]] = {}
    for run in runs:
        groups.setdefault((run.spec.budget, run.spec.design, run.spec.noise), []).append(run.spec)
    return [_recipe(specs, folder) for specs in groups.values()]


def _recipe(specs: Sequence[RunSpec], folder: str) -> Recipe:
    first = specs[0]
    methods = tuple(dict.fromkeys(spec.method for spec in specs))
    services = {spec.service for spec in specs}
    seeds = max(spec.seed for spec in specs) + 1
    degrees = sorted({spec.parallelism for spec in specs})
    command = ["compare", "--methods", ",".join(methods), "--services", services_text(services)]
    command += ["--seeds", str(seeds), "--budget", str(first.budget)]
    if degrees != [1]:
        command += ["--parallelism", ",".join(map(str, degrees))]
    if first.design is not Design.OWN:
        command += ["--design", first.design.value]
    if not first.noise:
        command += ["--exact"]
    there = {(spec.method, spec.service, spec.seed, spec.parallelism) for spec in specs}
    wanted = product(methods, sorted(services), range(seeds), degrees)
    missing = Counter(one[0] for one in wanted if one not in there)
    return Recipe(command=(*command, "--out", folder), runs=len(there), missing=dict(missing))


def services_text(names: Iterable[str]) -> str:
    """What --services would say to choose these: words for many at once where they do, else the names in order."""
    wanted = frozenset(names)
    groups = dict.fromkeys(word for each in SERVICES.values() for word in (each.group, each.stratum))
    for words in ("all", *_HALVES, *groups, *("&".join(pair) for pair in product(_HALVES, groups))):
        if wanted == _chosen(words):
            return words
    return ",".join([name for name in SERVICES if name in wanted] + sorted(wanted - set(SERVICES)))


@cache
def _chosen(words: str) -> frozenset[str]:
    """Names of the services that the command line calls so; none where no service is all of it."""
    try:
        return frozenset(service.name for service in select(words))
    except UserError:
        return frozenset()
