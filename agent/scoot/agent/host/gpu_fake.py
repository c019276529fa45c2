"""GPUs that are not there, for tests, demonstrations and agents without hardware; the interface is gpu.NvmlGpus's.

A fake GPU holds what it is told to: processes with memory, memory that stays after its process, or it is lost.
"""

from __future__ import annotations

from typing import Final

import msgspec

from scoot.agent.host.gpu import APPLICATION_XIDS, GpuProcess, GpuReading
from scoot.wire.assignment import Device

_H200_BYTES: Final = 141 * 10**9
_DRIVER_BYTES: Final = 512 * 1024**2


class FakeGpu(msgspec.Struct, kw_only=True):
    """The state of one fake GPU.

    Attributes:
        device: its inventory entry.
        held: pid -> bytes.
        leaked_bytes: in use, and no process to be seen for it.
        lost: the driver no longer answers.
        ecc_errors, xids, last_xid: as in GpuReading.
    """

    device: Device
    held: dict[int, int] = {}
    leaked_bytes: int = 0
    lost: bool = False
    ecc_errors: int | None = 0
    xids: int = 0
    last_xid: int = 0


class FakeGpus:
    """A host with fake GPUs."""

    def __init__(self, count: int, *, kind: str = "NVIDIA H200", memory_bytes: int = _H200_BYTES) -> None:
        self.gpus = {
            uuid: FakeGpu(device=Device(id=uuid, kind=kind, memory_bytes=memory_bytes))
            for uuid in (f"GPU-00000000-0000-0000-0000-{index:012d}" for index in range(count))
        }

    @property
    def detail(self) -> str:
        """One sentence."""
        return f"{len(self.gpus)} fake GPU(s)"

    def devices(self) -> tuple[Device, ...]:
        """All GPUs; lost ones are no longer listed, as with the driver."""
        return tuple(gpu.device for gpu in self.gpus.values() if not gpu.lost)

    def read(self, uuid: str) -> GpuReading:
        """What a GPU holds now."""
        gpu = self.gpus.get(uuid)
        if gpu is None or gpu.lost:
            return GpuReading(lost=True)
        return GpuReading(
            used_bytes=_DRIVER_BYTES + gpu.leaked_bytes + sum(gpu.held.values()),
            processes=tuple(GpuProcess(pid=pid, used_bytes=gpu.held[pid]) for pid in sorted(gpu.held)),
            ecc_errors=gpu.ecc_errors,
            xids=gpu.xids,
            last_xid=gpu.last_xid,
        )

    def close(self) -> None:
        """Nothing to let go of."""

    def hold(self, uuid: str, pid: int, used_bytes: int) -> None:
        """A process takes memory of a GPU."""
        self.gpus[uuid].held[pid] = used_bytes

    def release(self, uuid: str, pid: int, *, leak_bytes: int = 0) -> None:
        """A process goes; `leak_bytes` of its memory stay in use."""
        gpu = self.gpus[uuid]
        gpu.held.pop(pid, None)
        gpu.leaked_bytes += leak_bytes

    def corrupt(self, uuid: str, errors: int = 1) -> None:
        """Memory errors that ECC cannot correct."""
        gpu = self.gpus[uuid]
        gpu.ecc_errors = (gpu.ecc_errors or 0) + errors

    def report(self, uuid: str, xid: int) -> None:
        """The driver reports an Xid."""
        gpu = self.gpus[uuid]
        gpu.xids += xid not in APPLICATION_XIDS
        gpu.last_xid = xid if xid not in APPLICATION_XIDS else gpu.last_xid

    def lose(self, uuid: str) -> None:
        """The GPU falls off the bus."""
        self.gpus[uuid].lost = True
