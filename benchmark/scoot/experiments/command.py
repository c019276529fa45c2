"""The command line of the experiments: comparisons, references, services. IO."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import click

from scoot.benchmark.standalone.command import ErrorGroup
from scoot.experiments import catalogue, table
from scoot.experiments.compare import Place, Plan, compare, over, site
from scoot.experiments.evaluation import Evaluator
from scoot.experiments.figure_command import conflict_command, figure_command, transfer_command
from scoot.experiments.options import cache_of, names_of, tell, with_cache, with_place, with_runs, with_services
from scoot.experiments.page_command import page_command
from scoot.experiments.reference import RANDOM, known_of, sample, search
from scoot.experiments.run import Design
from scoot.experiments.run_file import read_runs
from scoot.experiments.scores import reference_of
from scoot.experiments.services import TuningService
from scoot.wire.errors import UserError
from scoot.wire.spec import Config


@click.group(cls=ErrorGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """Compares optimizers on simulated services in virtual time. Nothing here is a measurement of hardware."""


@cli.command("compare")
@click.option("--methods", required=True, metavar="NAMES", help="With commas: scoot,rd,ga,vbo,auto.")
@click.option("--parallelism", default="1", show_default=True, metavar="N,...", help="Trials at once.")
@with_services()
@with_runs
@with_place
def compare_command(  # noqa: PLR0917 - click passes each by its name
    methods: str,
    parallelism: str,
    services: str,
    seeds: int,
    budget: int,
    design: str,
    noise: bool,
    out: str,
    cache: str | None,
    jobs: int,
    backend: str,
) -> None:
    """Run methods on services, several seeds each, and show who was better."""
    plan = Plan(
        services=catalogue.select(services),
        methods=names_of(methods),
        seeds=seeds,
        budget=budget,
        parallelisms=_degrees(parallelism),
        design=Design(design),
        noise=noise,
    )
    place = Place(out=Path(out), cache=cache_of(cache), jobs=jobs, backend=backend)
    compare(plan, place, tell=tell)
    _print_table(place, against="scoot" if "scoot" in plan.methods else plan.methods[0])


@cli.command("table")
@click.argument("folder")
@click.option("--against", default="scoot", show_default=True, metavar="METHOD", help="Whose quality is to be reached.")
@click.option("--log", "logarithmic", is_flag=True, help="Score ratios: logarithms of the objectives.")
@with_cache
def table_command(folder: str, against: str, logarithmic: bool, cache: str | None) -> None:
    """The tables of finished runs, in Markdown."""
    _print_table(Place(out=Path(folder), cache=cache_of(cache)), against=against, logarithmic=logarithmic)


@cli.command("reference")
@click.option("--points", type=click.IntRange(1), default=600, show_default=True, metavar="N", help="Sobol points.")
@click.option("--rounds", type=click.IntRange(0), default=10, show_default=True, metavar="N", help="Of 64 trials.")
@with_services()
@with_place
def reference_command(points: int, rounds: int, services: str, cache: str | None, jobs: int, backend: str) -> None:
    """Search services thoroughly, so that regret and hypervolume have something to be measured by."""
    for line in _searched(services, cache_of(cache), points, rounds, jobs, backend):
        tell(line)


@cli.command("services")
@click.option("--random", type=click.IntRange(1), default=RANDOM, show_default=True, metavar="N", help="Sobol points.")
@with_services("all")
@with_place
def services_command(services: str, random: int, cache: str | None, jobs: int, backend: str) -> None:
    """Which services there are, and what is to be gained in each: default and best of some Sobol points."""
    folder = cache_of(cache)
    for line in _searched(services, folder, random, 0, jobs, backend):
        tell(line)
    known: dict[str, table.Known] = {}
    seconds: dict[str, float] = {}
    for service in catalogue.select(services):
        problem, memo = site(str(folder), service.name)
        drawn = sample(problem, random)
        trials = [memo(config) for config in drawn]
        default = memo(catalogue.default_of(service))
        found = reference_of(service.name, problem, [default, *trials], default=default, random=trials)
        known[service.name] = table.Known(problem=problem, reference=found)
        seconds[service.name] = _seconds(service, drawn[:8])
    click.echo("\n".join(table.overview(known, seconds, catalogue.development())))


cli.add_command(figure_command)
cli.add_command(transfer_command)
cli.add_command(conflict_command)
cli.add_command(page_command)


def _searched(services: str, folder: Path, points: int, rounds: int, jobs: int, backend: str) -> Iterable[str]:
    """Lines about services as they are searched."""
    place = Place(out=folder, cache=folder, jobs=jobs, backend=backend)
    chosen = catalogue.select(services)
    return over(place, partial(search, points=points, rounds=rounds), [(str(folder), each.name) for each in chosen])


def _degrees(text: str) -> tuple[int, ...]:
    degrees = names_of(text)
    if not degrees or not all(degree.isdecimal() and int(degree) > 0 for degree in degrees):
        raise UserError(f"{text!r} is not a list of numbers", key="--parallelism", hint='for example "1,2,4,8"')
    return tuple(map(int, degrees))


def _seconds(service: TuningService, configs: Sequence[Config]) -> float:
    """CPU seconds of a trial, on average."""
    evaluator = Evaluator(service)
    began = time.process_time()
    for config in configs:
        evaluator(config)
    return (time.process_time() - began) / len(configs)


def _print_table(place: Place, *, against: str, logarithmic: bool = False) -> None:
    runs = tuple(read_runs(place.out))
    if not runs:
        raise UserError("there are no runs", path=str(place.out), hint="`compare` makes them")
    known = known_of(str(place.cache), dict.fromkeys(run.spec.service for run in runs))
    click.echo("\n".join(table.comparison(runs, known, against=against, logarithmic=logarithmic)))
