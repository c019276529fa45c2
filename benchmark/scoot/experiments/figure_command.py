"""The tables and figures of the SCOOT paper on the command line. IO."""

from __future__ import annotations

from pathlib import Path

import click

from scoot.experiments import catalogue, table
from scoot.experiments.compare import Place, Plan, compare, site, specs_of
from scoot.experiments.figures import FIGURE_2, FIGURE_13, PRESETS, conflict
from scoot.experiments.landscape import carried
from scoot.experiments.options import cache_of, names_of, tell, with_cache, with_place, with_runs, with_services
from scoot.experiments.reference import best_known, known_of
from scoot.experiments.run import Design
from scoot.experiments.run_file import read_runs
from scoot.experiments.services import TuningService
from scoot.wire.spec import Config


@click.command("figure")
@click.argument("number", type=click.Choice(list(PRESETS)))
@click.option("--methods", metavar="NAMES", help="Others than the paper's.")
@with_services(None)
@with_runs
@with_place
def figure_command(  # noqa: PLR0917 - click passes each by its name
    number: str,
    methods: str | None,
    services: str | None,
    seeds: int,
    budget: int,
    design: str,
    noise: bool,
    out: str,
    cache: str | None,
    jobs: int,
    backend: str,
) -> None:
    """A table or figure of the paper: its services and methods compared, and shown as the paper shows them."""
    preset = PRESETS[number]
    plan = Plan(
        services=catalogue.select(services or preset.services),
        methods=names_of(methods) if methods else preset.methods,
        seeds=seeds,
        budget=budget,
        parallelisms=preset.parallelisms,
        design=Design(design),
        noise=noise,
    )
    place = Place(out=Path(out), cache=cache_of(cache), jobs=jobs, backend=backend)
    compare(plan, place, tell=tell)
    wanted = set(specs_of(plan))
    runs = tuple(run for run in read_runs(place.out) if run.spec in wanted)
    known = known_of(str(place.cache), dict.fromkeys(run.spec.service for run in runs))
    click.echo("\n".join([f"## {preset.title}", "", *preset.render(runs, known)]))


@click.command("transfer")
@with_services(",".join(FIGURE_2))
@with_cache
def transfer_command(services: str, cache: str | None) -> None:
    """Figure 2: the best known configuration of each service on the others. Run `reference` first."""
    folder = str(cache_of(cache))
    chosen = catalogue.select(services)
    lines = []
    for source in chosen:
        config = best_known(folder, source.name)
        lines.append([source.name, *("-" if config is None else _on(folder, config, target) for target in chosen)])
    defaults = [table.values_text(site(folder, each.name)[1](catalogue.default_of(each)).values) for each in chosen]
    lines.append(["default", *defaults])
    click.echo("\n".join(table.rows(["best of, on", *(service.name for service in chosen)], lines)))


@click.command("conflict")
@with_services(",".join(FIGURE_13))
@with_cache
def conflict_command(services: str, cache: str | None) -> None:
    """Figure 13: what is best for TTFT is bad for TPOT. Run `reference` first."""
    folder = str(cache_of(cache))
    lines = []
    for name, each in known_of(folder, (service.name for service in catalogue.select(services))).items():
        found = site(folder, name)[1].everything()
        lines.append(conflict(each, [one.trial.values for one in found if one.trial.values is not None]))
    click.echo("\n".join(table.rows(["service", "best for the first", "best for the second"], lines)))


def _on(folder: str, config: Config, target: TuningService) -> str:
    """Objective values of another service's configuration, as near to it as this one's space allows."""
    _, memo = site(folder, target.name)
    return table.values_text(memo(carried(config, target, folder)).values)
