"""What a dialect is: an engine generation's parameters, and what they make of a model on a GPU. Pure.

A dialect settles everything that needs no knowledge of memory and speed; `scoot.simulator.service` puts these in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from scoot.simulator.dialect.launch import LaunchCost
from scoot.simulator.dialect.parameters import ParameterInfo
from scoot.simulator.settings import SchedulerSettings
from scoot.simulator.shapes import Gpu, ModelShape
from scoot.wire.spec import Config

LOAD_BYTES_PER_S: Final = 1.75e9
"""Weights read into one device, bytes per second: files in the page cache, one loader per device. Assumed."""


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is started with.

    Attributes:
        model, gpu: see there.
        devices: GPUs there are for all replicas.
        max_model_len: longest input and output asked for outside the parameters, tokens; None leaves it to them.
        parameters: as given.
    """

    model: ModelShape
    gpu: Gpu
    devices: int
    max_model_len: int | None
    parameters: Config


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What the parameters mean.

    Attributes:
        scheduler: with no blocks yet.
        tensor_parallel: devices of a replica.
        utilization: share of the memory it may use, in the generation's own sense.
        token_budget, max_running: what memory is planned for; the scheduler may use less.
        blocks_override: blocks of the KV cache, whatever memory there is.
        custom_all_reduce: its own all-reduce kernels are on.
        launch: what the host adds to the steps.
        effective: every parameter with its final value; those without one are left out.
        start_s: seconds from its start until it serves.
        stream_interval, request_limit: as in Resolved.
        log: lines before memory is planned.
    """

    scheduler: SchedulerSettings
    tensor_parallel: int
    utilization: float
    token_budget: int
    max_running: int
    blocks_override: int | None = None
    custom_all_reduce: bool = True
    launch: LaunchCost
    effective: Config
    start_s: float
    stream_interval: int = 1
    request_limit: int | None = None
    log: tuple[str, ...] = ()


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """An engine generation.

    Attributes:
        name: generation and version; names its memory style and its CPU overheads, too.
        parameters: all it knows, by name.
        constraints: known constraints over them and `max_model_len`, in the coordinator's expression language.
        not_simulated: parameters that the engine has and the simulation does not: setting them is a user's error.
        settle: from what it is started with to what that means. Raises StartFailure.
        memory_log: lines it says once its KV cache is made, from (settled, host, blocks).
    """

    name: str
    parameters: tuple[ParameterInfo, ...]
    constraints: tuple[str, ...]
    not_simulated: frozenset[str]
    settle: Callable[[Host], Settled]
    memory_log: Callable[[Settled, Host, int], tuple[str, ...]]


def weights_s(model: ModelShape, tensor_parallel: int) -> float:
    """Seconds to load the weights, in 16 bits, all devices at once."""
    return 2 * model.parameters / tensor_parallel / LOAD_BYTES_PER_S
