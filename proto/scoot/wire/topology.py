"""How many devices and replicas a configuration needs. Pure; coordinator, agent and scootctl must agree on it.

A replica is one engine process as it is started. Its devices are the product of its degrees of parallelism: tensor,
pipeline and context parallelism lay one model over devices, data parallelism has the engine run copies of it by itself.
"""

from __future__ import annotations

from typing import Final

import msgspec

from scoot.wire.errors import UserError
from scoot.wire.spec import Config, Service

TENSOR_PARALLEL_NAMES: Final = ("tensor_parallel_size", "tp_size")
"""Names of the tensor-parallel degree, over all engines."""

DEGREES: Final[tuple[tuple[str, ...], ...]] = (
    TENSOR_PARALLEL_NAMES,
    ("pipeline_parallel_size", "pp_size"),
    ("data_parallel_size", "dp_size"),
    ("prefill_context_parallel_size", "context_parallel_size", "cp_size"),
)
"""Names of the degrees that multiply a replica's devices; what shares a group (experts, decode context) does not."""

_SHARED: Final = "enable_dp_attention"
"""SGLang's data parallelism of attention, which divides the tensor-parallel group instead of multiplying it."""


class Topology(msgspec.Struct, frozen=True):
    """Devices a trial occupies, the tensor-parallel degree of each replica, and the replicas behind the router."""

    devices: int
    tensor_parallel: int
    replicas: int

    @property
    def per_replica(self) -> int:
        """Devices of one replica."""
        return self.devices // self.replicas


def degree_names(service: Service, config: Config) -> tuple[tuple[str, ...], ...]:
    """The degrees that multiply the devices of this service's replicas."""
    shared = config.get(_SHARED, service.options.get(_SHARED, False))
    return tuple(names for names in DEGREES if not (shared is True and "dp_size" in names))


def topology(service: Service, config: Config) -> Topology:
    """The topology of `config` (SCOOT section 5.1: degree t on g devices runs g/t replicas).

    Raises:
        UserError: a degree is not a positive integer, or their product does not divide `service.devices`.
    """
    tensor_parallel = _degree(service, config, TENSOR_PARALLEL_NAMES)
    each = 1
    for names in degree_names(service, config):
        each *= _degree(service, config, names)
    if service.devices is None:
        return Topology(each * service.replicas, tensor_parallel, service.replicas)
    if service.devices % each:
        what = f"tensor-parallel degree {each}" if each == tensor_parallel else f"{each} devices of a replica"
        raise UserError(
            f"{what} does not divide service.devices = {service.devices}",
            key="tensor_parallel_size",
            hint="add the constraint `devices % tensor_parallel_size == 0`",
        )
    return Topology(service.devices, tensor_parallel, service.devices // each)


def _degree(service: Service, config: Config, names: tuple[str, ...]) -> int:
    degree: object = 1
    name = names[0]
    for each in names:
        for given in (service.options, config):
            if each in given:
                degree, name = given[each], each
    if not isinstance(degree, int) or isinstance(degree, bool) or degree < 1:
        what = "tensor-parallel degree" if names is TENSOR_PARALLEL_NAMES else name
        raise UserError(f"{what} {degree!r} is not a positive integer", key=name)
    return degree
