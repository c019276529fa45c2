"""What an optimizer sees of a configuration of a simulated service. Pure, but for the loads it keeps to spare time.

The same service, configuration and arrival order give bit-equal results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from scoot.coordinator.objective.metric import objective_errors, objective_values
from scoot.coordinator.objective.outcome import outcome_figures, outcomes_of
from scoot.experiments.services import TuningService, engine_of, objectives_of, rows_of, workload_of
from scoot.simulator.load import Load
from scoot.simulator.trial import Trial, simulate
from scoot.wire.errors import UserError
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config, Workload

ARRIVALS: Final = 1
"""The seed of the arrival order of every trial, as in a study: all configurations meet the same requests."""

_LOADS_KEPT: Final = 6

_ENDLESS: Final = "workload.arrivals"
"""Key of the simulator's error about a load that does not end."""


class Evaluated(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration's trial.

    Attributes:
        values: one figure per objective, in the metric's own unit; None where the trial failed.
        outcomes: one per limit of the service; None where it failed, () without limits.
        noise: standard error of each of `values`; None where it failed, or one of them is not known.
        reason: a scoot.wire.reasons.Reason; "" where it succeeded.
        message: its root cause in one line.
        simulated_s: seconds that the trial would have taken, start included.
    """

    values: tuple[float, ...] | None = None
    outcomes: tuple[float, ...] | None = None
    noise: tuple[float, ...] | None = None
    reason: str = ""
    message: str = ""
    simulated_s: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether there are no values."""
        return self.values is None


Evaluate = Callable[[Config], Evaluated]
"""From a configuration of a service to its trial."""


class Evaluator:
    """Trials of one service.

    Args:
        service: which.
        arrivals: seed of the arrival order.
    """

    def __init__(self, service: TuningService, *, arrivals: int = ARRIVALS) -> None:
        self.service = service
        self.arrivals = arrivals
        self._loads: dict[Workload, Load] = {}

    def __call__(self, config: Config) -> Evaluated:
        """The trial of a full configuration.

        Users whose every request is refused at once ask again at once, without end: such a configuration has failed.

        Raises:
            UserError: the service makes no sense.
        """
        service = self.service
        load = self._load(workload_of(service, config))
        try:
            trial = simulate(
                engine_of(service, config), load.workload, (), seed=self.arrivals, limits=service.limits, load=load
            )
        except UserError as error:
            if error.key != _ENDLESS or load.workload.arrivals.users is None:
                raise
            return Evaluated(reason=Reason.ENGINE_REQUESTS_FAILED.value, message=str(error))
        return evaluated(service, trial)

    def _load(self, workload: Workload) -> Load:
        load = self._loads.get(workload)
        if load is None:
            if len(self._loads) >= _LOADS_KEPT:
                self._loads.pop(next(iter(self._loads)))
            load = self._loads[workload] = Load(workload, rows_of(self.service, workload), seed=self.arrivals)
        return load


def evaluated(service: TuningService, trial: Trial) -> Evaluated:
    """What a trial says about the objectives and outcomes of its service, as the coordinator would say it."""
    metrics = trial.metrics
    if trial.reason is not None or metrics is None:
        reason = "" if trial.reason is None else trial.reason.value
        return Evaluated(reason=reason, message=trial.message, simulated_s=trial.simulated_s)
    objectives = objectives_of(service)
    values = objective_values(objectives, metrics)
    figures = outcome_figures(outcomes_of(service.outcomes), metrics)
    outcomes = tuple(figure for figure in figures if figure is not None)
    if values is None or len(outcomes) < len(figures):
        message = "no request gave the metrics that are wanted"
        return Evaluated(reason=Reason.TOO_FEW_REQUESTS.value, message=message, simulated_s=trial.simulated_s)
    noise = objective_errors(objectives, metrics)
    return Evaluated(values=values, outcomes=outcomes, noise=noise, simulated_s=trial.simulated_s)
