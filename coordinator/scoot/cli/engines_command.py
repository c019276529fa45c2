"""scootctl engines: which engines the agents have, and the options of one as its installation lists them."""

from __future__ import annotations

from collections.abc import Iterator

import click
import msgspec

from scoot.cli.catalogue_command import show_catalogue
from scoot.cli.client import Coordinator
from scoot.cli.options import AS_JSON, Connection, connection_options, print_json, run_async
from scoot.cli.text import columns, one_line
from scoot.wire.catalogue.shelf import engines as known_engines
from scoot.wire.catalogue.shelf import versions
from scoot.wire.view import Agent


class EngineRow(msgspec.Struct, frozen=True, kw_only=True):
    """An engine of an agent.

    Attributes:
        error: why it cannot be used, "" if it can.
        checks: whether configurations are shown to its own argument check before a start.
        options: where its options are known from: "its installation", "a snapshot", "an overlay", "nowhere".
    """

    agent: str
    lease: str
    engine: str
    version: str
    error: str
    checks: bool
    options: str


@click.command()
@click.argument("engine", default="")
@click.option(
    "--agent", "agent_id", default="", metavar="ID", help="Whose installation. Default: any that is connected."
)
@click.option("--all", "everything", is_flag=True, help="Also options of which nothing but the name is known.")
@AS_JSON
@connection_options
@run_async
async def engines(engine: str, agent_id: str, everything: bool, as_json: bool, connection: Connection) -> None:
    """List the agents' engines; with a name, that engine's options with the defaults they have there."""
    async with connection.open() as coordinator:
        if engine:
            found = await coordinator.get_catalogue(engine, agent_id)
            show_catalogue(found.engine, found, everything=everything, as_json=as_json)
            return
        rows = await engine_rows(coordinator)
    if as_json:
        print_json(rows)
        return
    table: list[tuple[str, ...]] = [("AGENT", "LEASE", "ENGINE", "VERSION", "CHECKED FIRST", "OPTIONS FROM")]
    table += [
        (
            row.agent,
            row.lease,
            row.engine,
            row.version or one_line(row.error),
            "yes" if row.checks else "no",
            row.options,
        )
        for row in rows
    ]
    click.echo(columns(table))


async def engine_rows(coordinator: Coordinator) -> list[EngineRow]:
    """Every engine of every agent."""
    agents = await coordinator.list_agents()
    return [row for agent in agents for row in _rows(agent)]


def _rows(agent: Agent) -> Iterator[EngineRow]:
    for offer in agent.inventory.engines:
        if offer.lists:
            source = "its installation"
        elif offer.version in versions(offer.name):
            source = "a snapshot"
        else:
            source = "an overlay" if offer.name in known_engines() else "nowhere"
        yield EngineRow(
            agent=agent.agent_id,
            lease=agent.lease.value,
            engine=offer.name,
            version=offer.version,
            error=offer.error,
            checks=offer.checks,
            options=source,
        )
