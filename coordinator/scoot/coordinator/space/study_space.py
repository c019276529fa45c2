"""The search space of a study as a whole: its parameters and constraints, with what its service implies."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import msgspec

from scoot.coordinator.space.space import Space
from scoot.wire.errors import UserError
from scoot.wire.spec import Scalar, Service, StudySpec
from scoot.wire.topology import degree_names, topology

_MISSING_FACTS: Final = MappingProxyType(
    {
        "max_model_len": "it is known only when service.max_model_len is set",
        "devices": "it is known only when service.devices is set",
        "replicas": "it follows from service.devices and the tensor-parallel degree here",
    }
)


def space_of(spec: StudySpec) -> Space:
    """The search space of a study, everything about it checked.

    Facts that constraints may mention: `devices` if service.devices is set, else `replicas`; `max_model_len` if set;
    and every fixed engine flag of service.options. If `devices` is set, the devices of a replica have to divide it: a
    built-in constraint (SCOOT section 5.1: at tensor-parallel degree t devices / t replicas run side by side).

    Raises:
        UserError: as `Space.build`; also when the fixed degree does not fit, or a flag is both fixed and tuned.
    """
    service = spec.service
    built_in: dict[str, str] = {}
    tuned = {parameter.name for parameter in spec.parameters}
    degrees = [name for names in degree_names(service, {}) for name in names if name in tuned]
    for parameter in spec.parameters:
        smallest = min(parameter.choices or (parameter.low,), key=_order) if parameter.name in degrees else 1
        if isinstance(smallest, int | float) and smallest < 1:
            raise UserError(
                f"a degree of parallelism of {smallest:g}", key=f"parameters.{parameter.name}", hint="it is at least 1"
            )
    if not degrees:
        topology(service, {})
    elif service.devices is not None:
        fixed = topology(msgspec.structs.replace(service, devices=None, replicas=1), {}).devices
        each = " * ".join((*degrees, *([str(fixed)] if fixed > 1 else [])))
        built_in["service.devices"] = f"devices % ({each}) == 0" if " " in each else f"devices % {each} == 0"
    return Space.build(spec.parameters, spec.constraints, _facts(service), built_in=built_in, hints=_MISSING_FACTS)


def _facts(service: Service) -> dict[str, Scalar]:
    """What constraints may mention beside parameters."""
    facts = dict(service.options)
    if service.devices is None:
        facts["replicas"] = service.replicas
    else:
        facts["devices"] = service.devices
    if service.max_model_len is not None:
        facts["max_model_len"] = service.max_model_len
    return facts


def _order(value: Scalar | None) -> float:
    """Order of bounds that may not be numbers; what is not is refused later, by `Space.build`."""
    return float(value) if isinstance(value, int | float) else 1.0
