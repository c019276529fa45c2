"""scootctl agents and validate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from scoot.cli.options import AS_JSON, OVERRIDES, STUDY_FILE, Connection, connection_options, print_json, run_async
from scoot.cli.resolve import ResolvedStudy, resolve_study
from scoot.cli.text import columns, one_line, scalar
from scoot.wire.spec import Parameter
from scoot.wire.view import Agent


@click.command()
@AS_JSON
@connection_options
@run_async
async def agents(as_json: bool, connection: Connection) -> None:
    """List the agents the coordinator knows: lease, engines, devices in use."""
    async with connection.open() as coordinator:
        known = await coordinator.list_agents()
    if as_json:
        print_json(known)
        return
    rows: list[tuple[str, ...]] = [("AGENT", "LEASE", "HEARD", "DEVICES", "ENGINES", "HOST")]
    rows += [_agent_row(agent) for agent in known]
    click.echo(columns(rows))


def _agent_row(agent: Agent) -> tuple[str, ...]:
    devices = agent.inventory.devices
    kinds = ", ".join(sorted({device.kind for device in devices}))
    engines = ", ".join(f"{e.name} {one_line(e.error) or e.version}" for e in agent.inventory.engines)
    used = f"{len(agent.in_use)}/{len(devices)} {kinds}"
    return (agent.agent_id, agent.lease.value, f"{agent.silent_s:.0f} s ago", used, engines, agent.inventory.hostname)


@click.command()
@STUDY_FILE
@OVERRIDES
@AS_JSON
def validate(study: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check a study file and print the study as resolved, its workload and the size of its space."""
    resolved = resolve_study(study, overrides)
    if as_json:
        print_json(
            {
                "study": resolved.spec,
                "space_size": resolved.space_size,
                "objectives": [
                    {"metric": metric.name, "direction": metric.direction, "unit": metric.unit}
                    for metric in resolved.metrics
                ],
                "outcomes": resolved.outcomes,
            }
        )
        return
    click.echo("\n".join(summary(resolved)))


def summary(resolved: ResolvedStudy) -> list[str]:
    """The resolved study for people, a line each."""
    spec = resolved.spec
    lines = [f"name         {spec.name}"]
    lines.append(
        f"service      {spec.service.engine} with {spec.service.model}{_rest(spec.service, 'engine', 'model')}"
    )
    source = spec.workload.trace or f"profile {spec.workload.profile}"
    lines.append(f"workload     {source}{_rest(spec.workload, 'profile', 'trace', 'arrivals')}")
    lines.append(f"arrivals     {_rest(spec.workload.arrivals).removeprefix(', ')}")
    facts = spec.workload_facts
    if facts is not None:
        lines.append(
            f"requests     {facts.requests}, input p50 {facts.input_p50} max {facts.input_max}, "
            f"output p50 {facts.output_p50} max {facts.output_max} tokens"
        )
        lines += [f"             {note}" for note in facts.notes]
    lines.append(f"space        {resolved.space_size.describe()}")
    lines += [f"             {_parameter(parameter)}" for parameter in spec.parameters]
    lines += [f"constraint   {text}" for text in spec.constraints]
    lines += [f"objective    {metric.direction.value} {metric.heading}" for metric in resolved.metrics]
    lines += [f"outcome      {outcome}" for outcome in resolved.outcomes]
    for name in ("budget", "confirm", "optimizer", "limits"):
        lines.append(f"{name:<12} {_rest(getattr(spec, name)).removeprefix(', ')}")
    return lines


def _rest(struct: msgspec.Struct, *left_out: str) -> str:
    """Every set field but those, as ", name = value"."""
    values: dict[str, Any] = msgspec.to_builtins(struct)
    shown = ((name, value) for name, value in values.items() if name not in left_out and value not in (None, {}, []))
    return "".join(
        f", {name} = {scalar(value) if isinstance(value, bool | int | float | str) else value}" for name, value in shown
    )


def _parameter(parameter: Parameter) -> str:
    if parameter.choices:
        values = "{" + ", ".join(map(scalar, parameter.choices)) + "}"
    elif parameter.low is not None and parameter.high is not None:
        values = f"{parameter.low:.12g} .. {parameter.high:.12g}"
    else:
        values = "{false, true}"
    extra = f" step {parameter.step}" if parameter.step else ""
    extra += f" {parameter.scale.value}" if parameter.scale.value != "linear" else ""
    default = "the engine's own" if parameter.default is None else scalar(parameter.default)
    when = "" if parameter.when is None else f", when {parameter.when}"
    return f"{parameter.name}: {parameter.kind.value} {values}{extra}, default {default}{when}"
