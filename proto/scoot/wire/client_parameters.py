"""Parameters that belong to the client in front of the engine, and not to the engine. Pure.

`users` is how many clients a closed loop has, `max_in_flight` how many requests an open loop has outstanding at the
engine at most: client concurrency and request admission, which are tuned together with the engine's own flags (SCOOT
appendix A.6). A study names them among its parameters like any flag; no engine ever sees them. Coordinator, agent and
simulator must agree on which they are.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import msgspec

from scoot.wire.errors import UserError
from scoot.wire.spec import ArrivalProcess, Config, Parameter, ParameterKind, StudySpec, Workload

USERS: Final = "users"
MAX_IN_FLIGHT: Final = "max_in_flight"
CLIENT_PARAMETERS: Final = (USERS, MAX_IN_FLIGHT)
"""Each is also the key of [workload.arrivals] that it stands for; no engine's option of such a name can be tuned."""

MOST: Final = MappingProxyType({USERS: 100_000, MAX_IN_FLIGHT: 100_000})
"""Their largest values; the smallest is 1."""


def engine_config(config: Config) -> Config:
    """The part of a configuration that the engine gets."""
    return {name: value for name, value in config.items() if name not in CLIENT_PARAMETERS}


def client_config(workload: Workload) -> Config:
    """The client's parameters as a workload has them: those that are set."""
    found = {name: getattr(workload.arrivals, name) for name in CLIENT_PARAMETERS}
    return {name: value for name, value in found.items() if value is not None}


def workload_of(workload: Workload, config: Config) -> Workload:
    """The load of a configuration: `workload` itself where no client's parameter is in it.

    Raises:
        UserError: a value that is no count, or a parameter that the arrival process does not have.
    """
    changes = {name: config[name] for name in CLIENT_PARAMETERS if name in config}
    for name, value in changes.items():
        key = f"parameters.{name}"
        _check_process(workload, name, key)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST[name]:
            raise UserError(f"{value!r} is no number of {_WHAT[name]}", key=key, hint=f"from 1 to {MOST[name]}")
    if not changes:
        return workload
    return msgspec.structs.replace(workload, arrivals=msgspec.structs.replace(workload.arrivals, **changes))


def largest_load(spec: StudySpec) -> Workload:
    """A study's workload with the most users that any configuration has: those that its requests have to do for."""
    users = next((parameter for parameter in spec.parameters if parameter.name == USERS), None)
    if users is None:
        return spec.workload
    values = (spec.workload.arrivals.users, users.high, users.default, *users.choices)
    most = max(int(value) for value in values if isinstance(value, int | float))
    return workload_of(spec.workload, {USERS: most})


def check_client_parameters(spec: StudySpec) -> None:
    """Refuse client's parameters that mean nothing to a study's load, or could be taken for the engine's.

    Raises:
        UserError: with the key and what to do.
    """
    for name in CLIENT_PARAMETERS:
        if name in spec.service.options:
            raise UserError(
                "is a parameter of the client, not an option of the engine",
                key=f"service.options.{name}",
                hint=f"set workload.arrivals.{name}",
            )
    for parameter in spec.parameters:
        if parameter.name in CLIENT_PARAMETERS:
            _check_process(spec.workload, parameter.name, f"parameters.{parameter.name}")
            _check_values(parameter)


_WHAT: Final = MappingProxyType({USERS: "users", MAX_IN_FLIGHT: "requests in flight"})


def _check_process(workload: Workload, name: str, key: str) -> None:
    """`users` is of a closed loop, `max_in_flight` of an open one."""
    process = workload.arrivals.process
    if (process is ArrivalProcess.CLOSED) != (name == USERS):
        other = next(each for each in CLIENT_PARAMETERS if each != name)
        want = 'workload.arrivals.process = "closed"' if name == USERS else "an open process, poisson for example"
        raise UserError(f"process {process.value!r} has no `{name}`", key=key, hint=f"tune `{other}`, or set {want}")


def _check_values(parameter: Parameter) -> None:
    """Whole numbers from 1 on. That low and high make a range is the search space's business."""
    key, most = f"parameters.{parameter.name}", MOST[parameter.name]
    if parameter.kind is not ParameterKind.INT:
        raise UserError(f"counts {_WHAT[parameter.name]}", key=f"{key}.type", hint='write type = "int"')
    values = [(f"{key}.{name}", getattr(parameter, name)) for name in ("low", "high", "default")]
    values += [(f"{key}.choices[{index}]", value) for index, value in enumerate(parameter.choices)]
    for where, value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and not 1 <= value <= most:
            raise UserError(f"{value:g} is out of range", key=where, hint=f"it must be from 1 to {most:g}")
