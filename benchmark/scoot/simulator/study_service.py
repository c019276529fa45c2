"""From a study of the simulated engine, and a configuration, to the service that is simulated. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from scoot.simulator.linear import Profile
from scoot.simulator.service import SimulatedService
from scoot.simulator.serving.target import PREFIX, read_target
from scoot.wire.client_parameters import engine_config
from scoot.wire.spec import Config, Parameter, Service
from scoot.wire.topology import topology


def service_of_study(service: Service, config: Config, *, fitted: Profile | None = None) -> SimulatedService:
    """What an agent would start for a trial with this configuration, as one simulated service.

    Args:
        service: of a study; its engine is the simulated one.
        config: the trial's parameters; the client's among them are left out.
        fitted: what stands in the file that `simulated_profile` names, if it names one.

    Raises:
        UserError: options that the simulator does not have, or a tensor-parallel degree that does not divide the
            devices.
    """
    target = read_target(service.options)
    fixed = {name: value for name, value in service.options.items() if not name.startswith(PREFIX)}
    return SimulatedService(
        engine=target.engine,
        model=service.model,
        gpu=target.gpu,
        devices=topology(service, config).devices,
        link=target.link,
        max_model_len=service.max_model_len,
        parameters={**fixed, **engine_config(config)},
        start_scale=target.start_scale,
        profile=target.profile,
        fitted=fitted,
    )


def profile_of(service: Service) -> str:
    """The file of a user's own timings that a study names; "" for none.

    Raises:
        UserError: options that the simulator does not have.
    """
    return read_target(service.options).profile


def default_of(parameters: Iterable[Parameter]) -> Config:
    """The configuration of trial 0: the defaults that the study names, everything else as the engine has it."""
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not None}
