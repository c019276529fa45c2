"""Fake GPUs behave as the driver does, and a host without NVML simply has none."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from scoot.agent.host.gpu import GpuReading, GpuSource, NvmlGpus, busy, fault, memory_used, released
from scoot.agent.host.gpu_fake import FakeGpus


def test_devices_are_distinct_and_typed() -> None:
    source: GpuSource = FakeGpus(3, kind="NVIDIA L4", memory_bytes=24 * 10**9)
    devices = source.devices()
    assert len({device.id for device in devices}) == 3
    assert {(device.kind, device.memory_bytes) for device in devices} == {("NVIDIA L4", 24 * 10**9)}
    assert "3" in source.detail


def test_memory_comes_back_or_leaks() -> None:
    host = FakeGpus(1)
    uuid = host.devices()[0].id
    before = host.read(uuid)
    host.hold(uuid, 42, 80 * 10**9)
    assert memory_used(host, uuid) == before.used_bytes + 80 * 10**9
    assert "42" in busy(host.read(uuid))
    assert busy(host.read(uuid), ours=frozenset({42})) == ""
    assert not released(before, host.read(uuid))
    host.release(uuid, 42)
    assert released(before, host.read(uuid))
    host.release(uuid, 42, leak_bytes=10**9)
    assert not released(before, host.read(uuid))
    assert busy(host.read(uuid)) == "", "a leak shows no process"


def test_lost_gpu() -> None:
    host = FakeGpus(2)
    uuid = host.devices()[0].id
    host.lose(uuid)
    assert [device.id for device in host.devices()] != [uuid]
    assert len(host.devices()) == 1
    assert host.read(uuid).lost
    assert host.read("GPU-unknown").lost
    assert not released(GpuReading(), host.read(uuid))
    assert "driver" in busy(host.read(uuid))


def test_a_fault_is_what_rose_between_two_readings() -> None:
    host = FakeGpus(1)
    uuid = host.devices()[0].id
    host.corrupt(uuid, 3)
    host.report(uuid, 48)
    before = host.read(uuid)
    assert fault(before, before) == "", "old errors are no news"
    host.report(uuid, 31)
    assert fault(before, host.read(uuid)) == "", "an illegal address is the engine's doing"
    host.corrupt(uuid, 2)
    assert "2 uncorrected" in fault(before, host.read(uuid))
    assert fault(host.read(uuid), before) == "", "a reset GPU counts from the beginning"
    host.report(uuid, 79)
    assert "Xid 79" in fault(before, host.read(uuid))
    host.gpus[uuid].ecc_errors = None
    host.lose(uuid)
    assert "lost" in fault(before, host.read(uuid))
    assert fault(GpuReading(), GpuReading(ecc_errors=5)) == "", "where ECC was not counted before, nothing rose"


def test_absent_library_means_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    host = NvmlGpus()
    assert host.devices() == ()
    assert "not installed" in host.detail
    assert host.read("GPU-x").lost
    host.close()


class FakeNvml(SimpleNamespace):
    """The few NVML calls the agent makes, as a module."""

    class NVMLError(Exception):
        pass

    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    nvmlEventTypeXidCriticalError = 8  # noqa: N815 - NVML's name

    def __init__(self, *, broken: str = "") -> None:
        super().__init__()
        self.broken = broken
        self.closed = 0
        self.freed = 0
        self.listened: list[int] = []
        self.events: list[tuple[int, int, int]] = []

    def nvmlEventSetCreate(self) -> object:  # noqa: N802 - NVML's name
        self._fail("events")
        return self.events

    def nvmlDeviceRegisterEvents(self, handle: int, kinds: int, events: object) -> None:  # noqa: N802 - NVML's name
        if handle == 0:
            self._fail("register")
        assert (kinds, events) == (8, self.events)
        self.listened.append(handle)

    def nvmlEventSetWait_v2(self, events: object, timeout_ms: int) -> Any:  # noqa: N802 - NVML's name
        assert (events, timeout_ms) == (self.events, 0)
        if not self.events:
            raise self.NVMLError("timeout")
        device, kind, data = self.events.pop(0)
        return SimpleNamespace(device=device, eventType=kind, eventData=data)

    def nvmlEventSetFree(self, events: object) -> None:  # noqa: N802 - NVML's name
        self.freed += 1
        self._fail("free")

    def nvmlDeviceGetTotalEccErrors(self, handle: int, kind: int, counter: int) -> int:  # noqa: N802 - NVML's name
        self._fail("ecc")
        assert (kind, counter) == (1, 0)
        return 40 + handle

    def _fail(self, name: str) -> None:
        if self.broken == name:
            raise self.NVMLError(name)

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's name
        self._fail("init")

    def nvmlShutdown(self) -> None:  # noqa: N802 - NVML's name
        self.closed += 1
        self._fail("shutdown")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 - NVML's name
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802 - NVML's name
        if index == 1:
            self._fail("second")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802 - NVML's name
        self._fail("uuid")
        return int(uuid[-1])

    def nvmlDeviceGetUUID(self, handle: int) -> str | bytes:  # noqa: N802 - NVML's name
        if handle not in (0, 1):
            raise self.NVMLError("no such handle")
        return b"GPU-0" if handle == 0 else "GPU-1"

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802 - NVML's name
        return "NVIDIA H200"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802 - NVML's name
        return SimpleNamespace(total=141, used=7 + handle)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:  # noqa: N802 - NVML's name
        return [SimpleNamespace(pid=9, usedGpuMemory=5)]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: int) -> list[Any]:  # noqa: N802 - NVML's name
        return [SimpleNamespace(pid=8, usedGpuMemory=None)]


def test_driver_answers_become_values(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    host = NvmlGpus()
    assert [(device.id, device.kind, device.memory_bytes) for device in host.devices()] == [
        ("GPU-0", "NVIDIA H200", 141),
        ("GPU-1", "NVIDIA H200", 141),
    ]
    reading = host.read("GPU-1")
    assert reading.used_bytes == 8
    assert [(item.pid, item.used_bytes) for item in reading.processes] == [(8, 0), (9, 5)]
    host.close()
    assert nvml.closed == 1


@pytest.mark.parametrize(("broken", "found"), [("init", 0), ("second", 1)])
def test_driver_trouble_is_told_not_raised(monkeypatch: pytest.MonkeyPatch, broken: str, found: int) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(broken=broken))
    host = NvmlGpus()
    assert len(host.devices()) == found
    assert broken in host.detail


def test_dead_gpu_and_failing_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(broken="uuid"))
    host = NvmlGpus()
    assert host.read("GPU-0").lost
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(broken="shutdown"))
    other = NvmlGpus()
    assert len(other.devices()) == 2
    other.close()
    assert "shut down" in other.detail


def test_errors_and_xids_are_told_with_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    host = NvmlGpus()
    before = host.read("GPU-1")
    assert (before.ecc_errors, before.xids, nvml.listened) == (41, 0, [0, 1])
    # An application's own, another kind of event, one of a GPU that has gone, one of the other GPU, and two.
    nvml.events += [(1, 8, 13), (1, 1, 48), (7, 8, 79), (0, 8, 95), (1, 8, 48), (1, 8, 63)]
    after = host.read("GPU-1")
    assert (after.xids, after.last_xid) == (2, 63)
    assert host.read("GPU-1") == after, "a reading takes nothing away"
    assert host.read("GPU-0").last_xid == 95, "whoever reads first hears of all"
    host.close()
    assert (nvml.freed, nvml.closed) == (1, 1)


@pytest.mark.parametrize(("broken", "heard"), [("events", 0), ("register", 1), ("free", 1), ("ecc", 1)])
def test_a_driver_that_tells_of_no_faults_is_fine(monkeypatch: pytest.MonkeyPatch, broken: str, heard: int) -> None:
    nvml = FakeNvml(broken=broken)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    host = NvmlGpus()
    assert host.read("GPU-1").used_bytes == 8
    nvml.events.append((1, 8, 79))
    reading = host.read("GPU-1")
    assert (reading.xids, reading.lost) == (heard, False)
    assert (reading.ecc_errors is None) == (broken == "ecc")
    host.close()
    assert nvml.closed == 1
