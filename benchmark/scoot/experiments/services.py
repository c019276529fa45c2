"""What a simulated service of the experiments is, and the optimisation problem it poses. Pure.

The services themselves are in `catalogue`.
"""

from __future__ import annotations

from typing import Final

import msgspec

from scoot.benchmark.profiles import Profile, draw
from scoot.benchmark.trace_row import TraceRow
from scoot.benchmark.workload import profile_rows, resolve
from scoot.coordinator.objective.metric import directions_of
from scoot.coordinator.objective.outcome import outcomes_of
from scoot.coordinator.optimizer.base import Problem
from scoot.coordinator.space.space import Space
from scoot.simulator.service import SimulatedService
from scoot.wire import client_parameters
from scoot.wire.spec import Config, Limits, Objective, Parameter, Workload

_DIVIDES: Final = "devices % {} == 0"


class TuningService(msgspec.Struct, frozen=True, kw_only=True):
    """A service to be tuned.

    Attributes:
        name: unique, "BOT-2a10-7b".
        group: which part of the catalogue it belongs to, "paper", "today" or "story".
        stratum: services of one stratum are split between development and judging together.
        engine: generation, model, GPUs, and parameters that are not tuned.
        workload: arrivals and windows; the client's parameters (wire.client_parameters) replace what they stand for.
        profile: requests of its own; None where `workload` names a built-in profile.
        parameters: what is tuned, each with the engine's default.
        constraints: known ones.
        objectives: names of one to three metrics.
        outcomes: limits to be kept, "ttft_p95 <= 2000".
        limits: when a trial has failed.
    """

    name: str
    group: str
    stratum: str
    engine: SimulatedService
    workload: Workload
    profile: Profile | None = None
    parameters: tuple[Parameter, ...]
    constraints: tuple[str, ...]
    objectives: tuple[str, ...]
    outcomes: tuple[str, ...] = ()
    limits: Limits = Limits()

    @property
    def parallel_name(self) -> str:
        """The parameter that is the tensor-parallel degree."""
        return next(each.name for each in self.parameters if each.name in {"tensor_parallel_size", "tp_size"})


def objectives_of(service: TuningService) -> tuple[Objective, ...]:
    """Its objectives, as in a study."""
    return tuple(Objective(metric=name) for name in service.objectives)


def problem_of(service: TuningService) -> Problem:
    """What an optimizer is asked to solve.

    Raises:
        UserError: the service's space or metrics are wrong.
    """
    facts: dict[str, bool | int | float | str] = {"devices": service.engine.devices}
    if service.engine.max_model_len is not None:
        facts["max_model_len"] = service.engine.max_model_len
    return Problem(
        space=Space.build(
            service.parameters,
            service.constraints,
            facts,
            built_in={"service.devices": _DIVIDES.format(service.parallel_name)},
        ),
        directions=directions_of(objectives_of(service)),
        outcomes=outcomes_of(service.outcomes),
    )


def engine_of(service: TuningService, config: Config) -> SimulatedService:
    """The engine with a configuration."""
    tuned = client_parameters.engine_config(config)
    return msgspec.structs.replace(service.engine, parameters={**service.engine.parameters, **tuned})


def workload_of(service: TuningService, config: Config) -> Workload:
    """The load of a configuration: everybody's the same, but for what of the client is tuned."""
    return client_parameters.workload_of(service.workload, config)


def rows_of(service: TuningService, workload: Workload) -> tuple[TraceRow, ...]:
    """The requests of a load."""
    rows = profile_rows(workload) if service.profile is None else draw(service.profile, _ROWS, workload.seed)
    return resolve(workload, max_model_len=service.engine.max_model_len, rows=rows).rows


_ROWS: Final = 4000
"""Requests drawn from a profile of the experiments' own."""
