"""A simulated service: which engine with which parameters serves which model on which GPUs. Pure.

`read_service` (scoot.simulator.service_file) reads one from a file; `resolve` makes of it what a scheduler works with.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from scoot.simulator.dialect.base import Dialect, Host, Settled
from scoot.simulator.dialect.launch import launched
from scoot.simulator.dialect.registry import dialect_named
from scoot.simulator.linear import Profile
from scoot.simulator.memory import MemoryPlan, plan_memory
from scoot.simulator.overheads import NONE
from scoot.simulator.routing import routing_named
from scoot.simulator.settings import Resolved, StepTime
from scoot.simulator.shapes import DEGREES, LINKS, gpu_named, model_named
from scoot.simulator.step_time import step_time_of
from scoot.wire import limits
from scoot.wire.errors import UserError
from scoot.wire.spec import Config
from scoot.wire.study_file import suggest

_MOST_SCALE: Final = 1000.0
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


class SimulatedService(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is simulated.

    Attributes:
        engine: generation and version: "vllm-0.4.2", "vllm-0.32" or "trtllm-1.2".
        model, gpu: names that scoot.simulator.shapes knows.
        devices: GPUs; at tensor-parallel degree t they are devices / t replicas.
        link: how they talk, "nvlink" or "pcie"; "" is what is usual for the GPU.
        routing: how replicas are chosen, "least-outstanding" or "round-robin".
        max_model_len: longest input and output, tokens; None leaves it to the parameters, and these to the model.
        parameters: the engine's own, in snake case.
        start_scale: times the time a real start takes, 0..1000.
        profile: file of step times fitted to a user's own timings; "" is none.
        fitted: what stands in that file (see scoot.simulator.service_file).
    """

    engine: str = "vllm-0.32"
    model: str
    gpu: str
    devices: int = 1
    link: str = ""
    routing: str = "least-outstanding"
    max_model_len: int | None = None
    parameters: Config = {}
    start_scale: float = 1.0
    profile: str = ""
    fitted: Profile | None = None


def check_service(service: SimulatedService) -> Dialect:
    """The dialect of a service that names only what there is.

    What its engine does not accept is not looked at: that is a StartFailure, a result.

    Raises:
        UserError: with the key.
    """
    dialect = dialect_named(service.engine)
    model_named(service.model)
    gpu_named(service.gpu)
    routing_named(service.routing)
    if service.link and service.link not in LINKS:
        raise UserError(f"there is no link {service.link[:80]!r}", key="link", hint=suggest(service.link, LINKS))
    if not 1 <= service.devices <= limits.DEVICES_PER_AGENT:
        hint = f"it must be from 1 to {limits.DEVICES_PER_AGENT}"
        raise UserError(f"{service.devices} is out of range", key="devices", hint=hint)
    if not 0 <= service.start_scale <= _MOST_SCALE:
        raise UserError(f"{service.start_scale:g} is out of range", key="start_scale", hint="it must be from 0 to 1000")
    if service.max_model_len is not None and service.max_model_len < 1:
        raise UserError(f"{service.max_model_len} is no length", key="max_model_len", hint="it must be at least 1")
    if len(service.parameters) > limits.PARAMETERS:
        raise UserError(
            f"{len(service.parameters)} are too many", key="parameters", hint=f"at most {limits.PARAMETERS}"
        )
    for name, value in service.parameters.items():
        _check_parameter(dialect, name, value)
    return dialect


def _check_parameter(dialect: Dialect, name: str, value: object) -> None:
    key = f"parameters.{name[:80]}"
    if not _NAME.fullmatch(name):
        snake = re.sub(r"\W", "_", name.lstrip("-"))[:80]
        raise UserError("is not a parameter's name", key=key, hint=f"write it in snake case: {snake!r}")
    if isinstance(value, str) and (len(value) > limits.STRING_CHARS or not value.isprintable()):
        raise UserError("the text is too long or has control characters", key=key)
    if name in dialect.not_simulated:
        raise UserError(
            f"{dialect.name} has this parameter, and the simulator does not simulate it", key=key, hint="remove it"
        )


def resolve(
    service: SimulatedService,
    *,
    memory: Callable[..., MemoryPlan] = plan_memory,
    step_time: Callable[..., StepTime] = step_time_of,
) -> tuple[Resolved, int]:
    """What one replica is, and how many there are.

    Args:
        service: see there.
        memory, step_time: as plan_memory and step_time_of, for tests.

    Raises:
        StartFailure: the engine does not start with these parameters.
        UserError: the service makes no sense, or has a tensor-parallel degree there are no times for.
    """
    dialect = check_service(service)
    model, gpu = model_named(service.model), gpu_named(service.gpu)
    host = Host(
        model=model,
        gpu=gpu,
        devices=service.devices,
        max_model_len=service.max_model_len,
        parameters=service.parameters,
    )
    settled = dialect.settle(host)
    degree = settled.tensor_parallel
    if degree not in DEGREES:
        known = ", ".join(map(str, DEGREES))
        raise UserError(
            f"the simulator has no times for tensor-parallel degree {degree}",
            key="parameters.tensor_parallel_size",
            hint=f"it knows {known}",
        )
    plan = memory(
        model,
        gpu,
        degree,
        style=dialect.name,
        utilization=settled.utilization,
        token_budget=settled.token_budget,
        max_running=settled.max_running,
        max_model_len=settled.scheduler.max_model_len,
        block_size=settled.scheduler.block_size,
        blocks_override=settled.blocks_override,
    )
    link = service.link or gpu.link
    fitted = _fitted(service, degree, link)
    whole = fitted is not None and fitted.linear.covers == "step"
    times = step_time(
        model,
        gpu,
        degree,
        link=link,
        custom_all_reduce=settled.custom_all_reduce,
        overheads=NONE if whole else dialect.name,
        linear=None if fitted is None else fitted.linear,
    )
    if not whole:  # measured steps are launched already
        times = launched(times, settled.launch)
    resolved = _resolved(dialect, host, settled, plan, times)
    start_s = service.start_scale * resolved.start_s
    return msgspec.structs.replace(resolved, start_s=start_s), service.devices // degree


def _fitted(service: SimulatedService, degree: int, link: str) -> Profile | None:
    """The user's own step times, if there are some.

    Raises:
        UserError: they are of something else.
    """
    fitted = service.fitted
    if fitted is None:
        if service.profile:
            raise UserError("the profile was not read", key="profile", hint="use read_service, or with_profile")
        return None
    try:
        fitted.check(model_named(service.model).name, gpu_named(service.gpu).name, degree, link)
    except UserError as error:
        raise error.at(path=service.profile) from error
    return fitted


def _resolved(dialect: Dialect, host: Host, settled: Settled, plan: MemoryPlan, times: StepTime) -> Resolved:
    scheduler = settled.scheduler
    kept = plan.blocks * scheduler.block_size
    scheduler = msgspec.structs.replace(
        scheduler,
        blocks=plan.blocks,
        # TensorRT-LLM serves with a cache that holds less, and refuses what is longer; vLLM does not start.
        max_model_len=min(scheduler.max_model_len, kept),
    )
    replicas = host.devices // settled.tensor_parallel
    first = (
        f"scoot.simulator: {dialect.name}, SIMULATED: {host.model.name}, {replicas} x {settled.tensor_parallel} "
        f"{host.gpu.name}"
    )
    return Resolved(
        engine=dialect.name,
        scheduler=scheduler,
        memory=plan.load,
        step_time=times,
        tensor_parallel=settled.tensor_parallel,
        effective=settled.effective,
        start_s=settled.start_s,
        stream_interval=settled.stream_interval,
        request_limit=settled.request_limit,
        log=(first, *settled.log, *dialect.memory_log(settled, host, plan.blocks)),
    )
