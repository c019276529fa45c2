"""How many devices and replicas a configuration needs. Pure; coordinator, agent and scootctl must agree on it."""

from __future__ import annotations

from typing import Final

import msgspec

from scoot.wire.errors import UserError
from scoot.wire.spec import Config, Service

TENSOR_PARALLEL_NAMES: Final = ("tensor_parallel_size", "tp_size")
"""Names of the tensor-parallel degree, over all engines."""


class Topology(msgspec.Struct, frozen=True):
    """Devices a trial occupies, the degree of each replica, and the replicas behind the router."""

    devices: int
    tensor_parallel: int
    replicas: int


def topology(service: Service, config: Config) -> Topology:
    """The topology of `config` (SCOOT section 5.1: degree t on g devices runs g/t replicas).

    Raises:
        UserError: the degree is not a positive integer or does not divide `service.devices`.
    """
    degree: object = 1
    for name in TENSOR_PARALLEL_NAMES:
        degree = config.get(name, service.options.get(name, degree))
    if not isinstance(degree, int) or isinstance(degree, bool) or degree < 1:
        raise UserError(f"tensor-parallel degree {degree!r} is not a positive integer", key="tensor_parallel_size")
    if service.devices is None:
        return Topology(degree * service.replicas, degree, service.replicas)
    if service.devices % degree:
        raise UserError(
            f"tensor-parallel degree {degree} does not divide service.devices = {service.devices}",
            key="tensor_parallel_size",
            hint="add the constraint `devices % tensor_parallel_size == 0`",
        )
    return Topology(service.devices, degree, service.devices // degree)
