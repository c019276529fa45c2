"""GPUs through NVML. No library, no driver or no GPU: no GPUs, and a sentence that says why.

`GpuSource` is what the agent works with; `NvmlGpus` asks the driver, scoot.agent.host.gpu_fake invents them.
"""

from __future__ import annotations

import threading
from types import ModuleType
from typing import Final, Protocol

import msgspec

from scoot.wire.assignment import Device

RELEASED_BYTES: Final = 256 * 1024 * 1024
"""A GPU's memory counts as given back when no more than so much beyond the reading before the engine is in use."""


class GpuProcess(msgspec.Struct, frozen=True, kw_only=True):
    """A process that holds memory of a GPU; `used_bytes` is 0 where the driver does not tell."""

    pid: int
    used_bytes: int = 0


class GpuReading(msgspec.Struct, frozen=True, kw_only=True):
    """What a GPU holds now; `lost` when the driver no longer answers for it (Xid, fallen off the bus)."""

    used_bytes: int = 0
    processes: tuple[GpuProcess, ...] = ()
    lost: bool = False


class GpuSource(Protocol):
    """Where GPUs come from."""

    @property
    def detail(self) -> str:
        """One sentence: how many there are, or why there are none."""
        ...

    def devices(self) -> tuple[Device, ...]:
        """All GPUs by UUID, in the driver's order; () where there are none. Never raises."""
        ...

    def read(self, uuid: str) -> GpuReading:
        """What a GPU holds now; an unknown UUID or a dead GPU reads as lost. Never raises."""
        ...

    def close(self) -> None:
        """Let go of the driver."""
        ...


class NvmlGpus:
    """GPUs of this host. NVML is loaded and initialised at the first question, and once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nvml: ModuleType | None = None
        self._tried = False
        self._detail = "GPUs were not looked for yet"

    @property
    def detail(self) -> str:
        """One sentence: how many there are, or why there are none."""
        return self._detail

    def devices(self) -> tuple[Device, ...]:
        """All GPUs by UUID, in the driver's order; () where there are none."""
        nvml = self._load()
        if nvml is None:
            return ()
        found: list[Device] = []
        try:
            for index in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                found.append(
                    Device(
                        id=_text(nvml.nvmlDeviceGetUUID(handle)),
                        kind=_text(nvml.nvmlDeviceGetName(handle)),
                        memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
                    )
                )
        except nvml.NVMLError as error:
            self._detail = f"NVML failed while listing GPUs: {error}"
            return tuple(found)
        self._detail = f"{len(found)} GPU(s) found through NVML"
        return tuple(found)

    def read(self, uuid: str) -> GpuReading:
        """What a GPU holds now; an unknown UUID or a dead GPU reads as lost."""
        nvml = self._load()
        if nvml is None:
            return GpuReading(lost=True)
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            used = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
            running = [
                *nvml.nvmlDeviceGetComputeRunningProcesses(handle),
                *nvml.nvmlDeviceGetGraphicsRunningProcesses(handle),
            ]
        except nvml.NVMLError:
            return GpuReading(lost=True)
        held = {int(item.pid): int(item.usedGpuMemory or 0) for item in running}
        return GpuReading(
            used_bytes=used,
            processes=tuple(GpuProcess(pid=pid, used_bytes=held[pid]) for pid in sorted(held)),
        )

    def close(self) -> None:
        """Let go of the driver."""
        with self._lock:
            nvml, self._nvml = self._nvml, None
            self._tried = False
        if nvml is not None:
            try:
                nvml.nvmlShutdown()
            except nvml.NVMLError as error:
                self._detail = f"NVML did not shut down: {error}"

    def _load(self) -> ModuleType | None:
        with self._lock:
            if self._tried:
                return self._nvml
            self._tried = True
            try:
                import pynvml
            except ImportError:
                self._detail = "no GPUs: nvidia-ml-py is not installed"
                return None
            try:
                pynvml.nvmlInit()
            except pynvml.NVMLError as error:
                self._detail = f"no GPUs: {error}"
                return None
            self._nvml = pynvml
            return self._nvml


def memory_used(source: GpuSource, uuid: str) -> int:
    """Bytes of a GPU in use now, 0 when it is lost."""
    return source.read(uuid).used_bytes


def busy(reading: GpuReading, *, ours: frozenset[int] = frozenset()) -> str:
    """Why a GPU must not be used now: "" if it may. `ours` are pids that are allowed on it. Pure."""
    if reading.lost:
        return "the driver does not answer for this GPU"
    foreign = [item.pid for item in reading.processes if item.pid not in ours]
    if foreign:
        return f"other processes are on this GPU: {', '.join(map(str, foreign[:8]))}"
    return ""


def released(before: GpuReading, after: GpuReading, *, slack_bytes: int = RELEASED_BYTES) -> bool:
    """Whether a GPU's memory is back: not lost, and no more in use than before, but for `slack_bytes`. Pure."""
    return not after.lost and after.used_bytes <= before.used_bytes + slack_bytes


def _text(value: str | bytes) -> str:
    """NVML bindings before 11.5 return bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
