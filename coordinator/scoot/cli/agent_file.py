"""The configuration of an embedded agent: what the study needs, and no more. Looks whether paths exist, writes none."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from scoot.simulator.serving.target import ENGINE_NAME, read_target
from scoot.simulator.shapes import model_named
from scoot.wire import limits
from scoot.wire.errors import UserError
from scoot.wire.spec import Config, Service, StudySpec
from scoot.wire.topology import degree_names, topology

OWN_ENGINES: Final = frozenset({"mock", ENGINE_NAME})
"""Engines that are part of SCOOT: they run in this environment, and need neither weights nor memory."""

_PROGRAMS: Final = frozenset({"llama-server"})
"""Executables that are an engine themselves, and no interpreter of one."""

_RESERVE_GIB: Final = 2.0
_OWN_RESERVE_GIB: Final = 0.25
"""Host memory left free; SCOOT's own engines need next to nothing."""


def engines_of(spec: StudySpec, given: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Engine name -> absolute interpreter (or the engine's own program), for the study's engine.

    Args:
        spec: the study.
        given: "NAME=PYTHON", as --engine says it.
        environment: SCOOT_VLLM_PYTHON and the like are looked up in it.

    Raises:
        UserError: no interpreter is known for the engine, or it cannot be executed.
    """
    engines: dict[str, str] = {}
    for item in given:
        name, equals, python = item.partition("=")
        if not equals or not name or not python:
            raise UserError(f"{item!r} is not NAME=PYTHON", key="--engine", hint="--engine vllm=/opt/vllm/bin/python")
        engines[name] = python
    wanted = spec.service.engine
    variable = f"SCOOT_{wanted.upper().replace('-', '_')}_PYTHON"
    python = engines.get(wanted) or environment.get(variable) or (sys.executable if wanted in OWN_ENGINES else "")
    if not python:
        raise UserError(
            f"no interpreter is known for the engine {wanted!r}",
            key="service.engine",
            hint=f"give --engine {wanted}=/path/to/its/python, or set {variable}",
        )
    # Not resolved: a virtual environment's python is a link, and following it would leave the environment.
    python = str(Path(python).expanduser().absolute())
    if not os.access(python, os.X_OK):
        raise UserError("is not an executable", path=python, key=f"--engine {wanted}", hint="name a Python interpreter")
    return {wanted: python}


def check_model(service: Service) -> None:
    """Refuse a model that is not on this machine; SCOOT's own engines need none, and the simulator must know its shape.

    Raises:
        UserError: there is no such folder, or the simulator knows no such model.
    """
    if service.engine == ENGINE_NAME:
        model_named(service.model, key="service.model")
        read_target(service.options)
    elif service.engine not in OWN_ENGINES and not Path(service.model).exists():
        raise UserError(
            f"there is no model {service.model}",
            key="service.model",
            hint="name a folder on this machine; one that begins with ./ or ../ is relative to the study file",
        )


def slots_of(spec: StudySpec) -> int | None:
    """CPU slots the study can use at once: devices of its largest trial x parallelism; None for a study on GPUs."""
    service = spec.service
    if service.device != "cpu":
        return None
    largest = topology(service, {}).devices
    if service.devices is None:
        names = {name for names in degree_names(service, {}) for name in names}
        most: Config = {}
        for parameter in spec.parameters:
            degrees = [v for v in (*parameter.choices, parameter.high) if isinstance(v, int | float)]
            if parameter.name in names:
                most[parameter.name] = int(max(degrees, default=1))
        largest = max(largest, topology(service, most).devices)
    return min(limits.DEVICES_PER_AGENT, largest * spec.budget.parallelism)


def agent_toml(
    spec: StudySpec,
    *,
    agent_id: str,
    data_dir: Path,
    coordinator: str,
    engines: Mapping[str, str],
    slots: int | None,
    allow: Sequence[str] = (),
) -> str:
    """The text of agent.toml. `allow` names flags and variables beyond the engine adapter's own list."""
    model = Path(spec.service.model)
    root = model.parent if model.is_absolute() else Path.cwd()
    only_own = OWN_ENGINES.issuperset(engines)
    lines = [
        "# Written by `scootctl tune`; rewritten whenever it starts.",
        "[agent]",
        f"id = {_text(agent_id)}",
        f"data_dir = {_text(str(data_dir))}",
        f"coordinator = {_text(coordinator)}",
        f"model_roots = [{_text(str(root))}]",
        f"reserve_memory_gib = {_OWN_RESERVE_GIB if only_own else _RESERVE_GIB}",
    ]
    if slots is not None:
        lines.append(f"cpu_slots = {slots}")
    names = ", ".join(map(_text, allow))
    for name, python in sorted(engines.items()):
        lines += [
            "",
            f"[engines.{_text(name)}]",
            f"kind = {_text(name)}",
            f"{'program' if Path(python).name in _PROGRAMS else 'python'} = {_text(python)}",
            f"allow_options = [{names}]",
            f"allow_env = [{names}]",
        ]
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    """A TOML basic string. JSON's are a subset of it, but for the delete character, which no path here has."""
    return json.dumps(value)
