"""What a coordinator and an agent tell each other about attempts and capacity. Values only; no transport."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from scoot.wire.spec import Config, Limits, Service, Workload

CPU: Final = "cpu"
"""The kind of a CPU slot."""

GPU: Final = "gpu"
"""What a service asks for that takes any GPU."""


class _Value(msgspec.Struct, frozen=True, kw_only=True):
    """Base of immutable values."""


class Device(_Value, frozen=True, kw_only=True):
    """One schedulable device: a GPU, or a CPU slot.

    Attributes:
        id: GPU UUID ("GPU-...") or "cpu-0".
        kind: "cpu", or the GPU's product name.
        memory_bytes: total memory, 0 for CPU slots.
    """

    id: str
    kind: str
    memory_bytes: int = 0


def matching(devices: Iterable[Device], wanted: str) -> tuple[Device, ...]:
    """The devices a service accepts as `service.device`: "gpu" is every one that is no CPU slot."""
    return tuple(device for device in devices if device.kind == wanted or (wanted == GPU and device.kind != CPU))


class EngineOffer(_Value, frozen=True, kw_only=True):
    """An engine an agent can run. `version` is "" and `error` set when its probe failed.

    `checks`: its own argument check can be asked about configurations without a start. `lists`: it can be asked for its
    options.
    """

    name: str
    version: str = ""
    error: str = ""
    checks: bool = False
    lists: bool = False


class Inventory(_Value, frozen=True, kw_only=True):
    """What an agent has: devices, engines, model roots, host facts for display."""

    devices: tuple[Device, ...] = ()
    engines: tuple[EngineOffer, ...] = ()
    model_roots: tuple[str, ...] = ()
    hostname: str = ""
    cpus: int = 0
    memory_bytes: int = 0


class Assignment(_Value, frozen=True, kw_only=True):
    """One attempt to execute, complete: an agent needs nothing else but the workload blob.

    Attributes:
        attempt_id: "STUDY/TRIAL/N".
        fence: strictly increasing over all attempts; on every message about this one.
        devices: ids the agent may use, exactly.
        config: the trial's configuration; parameters absent are left to the engine.
        run_seeds: one stress test per seed, in this order, on the one engine.
    """

    attempt_id: str
    fence: int
    service: Service
    devices: tuple[str, ...]
    config: Config
    workload: Workload
    workload_sha256: str
    limits: Limits
    run_seeds: tuple[int, ...]


class Phase(StrEnum):
    """Where a running attempt is (docs/architecture.md, "An attempt")."""

    PREPARE = "PREPARE"
    START = "START"
    READY = "READY"
    WARM_UP = "WARM_UP"
    MEASURE = "MEASURE"
    DRAIN = "DRAIN"
    STOP = "STOP"
    VERIFY_CLEAN = "VERIFY_CLEAN"
    COLLECT = "COLLECT"


class Progress(_Value, frozen=True, kw_only=True):
    """A running attempt's sign of life, for display only."""

    phase: Phase
    run: int = 0
    sent: int = 0
    completed: int = 0
    failed: int = 0
    tokens: int = 0
