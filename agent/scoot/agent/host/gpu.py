"""GPUs through NVML. No library, no driver or no GPU: no GPUs, and a sentence that says why.

`GpuSource` is what the agent works with; `NvmlGpus` asks the driver, scoot.agent.host.gpu_fake invents them.
"""

from __future__ import annotations

import contextlib
import threading
from types import ModuleType
from typing import Final, Protocol

import msgspec

from scoot.wire.assignment import Device

RELEASED_BYTES: Final = 256 * 1024 * 1024
"""A GPU's memory counts as given back when no more than so much beyond the reading before the engine is in use."""


APPLICATION_XIDS: Final = frozenset({13, 31, 43, 45, 68, 109})
"""Xids that an application causes by itself, as by an illegal address or by being killed; the GPU is well. The list is
that of NVIDIA's device plugin for Kubernetes (internal/rm/health.go)."""

_EVENTS_AT_ONCE: Final = 1000


class GpuProcess(msgspec.Struct, frozen=True, kw_only=True):
    """A process that holds memory of a GPU; `used_bytes` is 0 where the driver does not tell."""

    pid: int
    used_bytes: int = 0


class GpuReading(msgspec.Struct, frozen=True, kw_only=True):
    """What a GPU holds now, and what went wrong with it so far.

    Attributes:
        used_bytes, processes: memory in use, and by whom.
        lost: the driver no longer answers for it (Xid 79, fallen off the bus).
        ecc_errors: uncorrected memory errors since the driver was loaded; None where it does not count them.
        xids: Xid events since this agent began to listen, those of APPLICATION_XIDS left out; 0 where it cannot.
        last_xid: the latest of them, 0 without.
    """

    used_bytes: int = 0
    processes: tuple[GpuProcess, ...] = ()
    lost: bool = False
    ecc_errors: int | None = None
    xids: int = 0
    last_xid: int = 0


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
        self._xids: _XidBook | None = None
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
        xids, last_xid = self._xids.of(uuid) if self._xids is not None else (0, 0)
        held = {int(item.pid): int(item.usedGpuMemory or 0) for item in running}
        return GpuReading(
            used_bytes=used,
            processes=tuple(GpuProcess(pid=pid, used_bytes=held[pid]) for pid in sorted(held)),
            ecc_errors=_ecc_errors(nvml, handle),
            xids=xids,
            last_xid=last_xid,
        )

    def close(self) -> None:
        """Let go of the driver."""
        with self._lock:
            nvml, self._nvml = self._nvml, None
            xids, self._xids = self._xids, None
            self._tried = False
        if xids is not None:
            xids.close()
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
            self._xids = _XidBook(pynvml)
            return self._nvml


class _XidBook:
    """Xid events of every GPU since it was opened. Drivers and GPUs that tell of none leave it empty."""

    def __init__(self, nvml: ModuleType) -> None:
        self._nvml = nvml
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[int, int]] = {}
        self._events: object | None = None
        try:
            self._events = nvml.nvmlEventSetCreate()
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError:
            return
        for index in range(count):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, self._events)
            except nvml.NVMLError:  # this one tells of none; the others may
                continue

    def of(self, uuid: str) -> tuple[int, int]:
        """How many there were of a GPU, and the latest; (0, 0) without."""
        with self._lock:
            self._take_events()
            return self._seen.get(uuid, (0, 0))

    def close(self) -> None:
        """Listen no more."""
        with self._lock:
            events, self._events = self._events, None
            if events is not None:
                with contextlib.suppress(self._nvml.NVMLError):
                    self._nvml.nvmlEventSetFree(events)

    def _take_events(self) -> None:
        nvml = self._nvml
        for _ in range(_EVENTS_AT_ONCE if self._events is not None else 0):
            try:
                event = nvml.nvmlEventSetWait_v2(self._events, 0)
            except nvml.NVMLError:  # a timeout: there are no more
                return
            try:
                uuid = _text(nvml.nvmlDeviceGetUUID(event.device))
            except nvml.NVMLError:  # a GPU that has gone; it reads as lost
                continue
            xid = int(event.eventData)
            if event.eventType == nvml.nvmlEventTypeXidCriticalError and xid not in APPLICATION_XIDS:
                self._seen[uuid] = (self._seen.get(uuid, (0, 0))[0] + 1, xid)


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


def fault(before: GpuReading, after: GpuReading) -> str:
    """What went wrong with a GPU between two readings that no configuration can be blamed for; "" if nothing. Pure."""
    if after.lost:
        return "is lost: the driver does not answer for it"
    if after.xids > before.xids:
        return f"had a fault: Xid {after.last_xid}"
    if before.ecc_errors is not None and after.ecc_errors is not None and after.ecc_errors > before.ecc_errors:
        return f"had {after.ecc_errors - before.ecc_errors} uncorrected memory error(s) (ECC)"
    return ""


def _ecc_errors(nvml: ModuleType, handle: object) -> int | None:
    try:
        return int(
            nvml.nvmlDeviceGetTotalEccErrors(handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)
        )
    except nvml.NVMLError:  # ECC is off, or this GPU has none
        return None


def _text(value: str | bytes) -> str:
    """NVML bindings before 11.5 return bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
