"""Which devices this agent has, which attempt holds them, and which it no longer trusts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from scoot.agent.core.run import Ending, Unclean, refusal
from scoot.wire.assignment import Device
from scoot.wire.reasons import Reason


class Holdings(msgspec.Struct, frozen=True):
    """The agent's devices.

    Attributes:
        devices: all of them, in the order of the inventory.
        held: device id -> attempt that uses it.
        quarantined: device id -> what every attempt that wants it is refused with, until the agent restarts.
    """

    devices: tuple[Device, ...]
    held: Mapping[str, str] = {}
    quarantined: Mapping[str, Ending] = {}


def refuse(holdings: Holdings, attempt_id: str, wanted: Sequence[str]) -> Ending | None:
    """Why `attempt_id` cannot have exactly the devices `wanted`; None if it can."""
    if not wanted or len(set(wanted)) != len(wanted):
        return refusal(Reason.SPEC_INVALID, f"devices {list(wanted)} are empty or named twice")
    known = {device.id for device in holdings.devices}
    for device in wanted:
        if device not in known:
            return refusal(Reason.GPU_BUSY, f"device {device!r} is not one of this agent's: {sorted(known)}")
        if device in holdings.quarantined:
            return holdings.quarantined[device]
        holder = holdings.held.get(device, attempt_id)
        if holder != attempt_id:
            return refusal(Reason.GPU_BUSY, f"device {device} is in use by attempt {holder}")
    return None


def hold(holdings: Holdings, attempt_id: str, wanted: Sequence[str]) -> Holdings:
    """`holdings` with the devices held; call it where `refuse` found nothing."""
    return msgspec.structs.replace(holdings, held={**holdings.held, **dict.fromkeys(wanted, attempt_id)})


def release(holdings: Holdings, attempt_id: str) -> Holdings:
    """`holdings` without anything held by the attempt."""
    kept = {device: holder for device, holder in holdings.held.items() if holder != attempt_id}
    return msgspec.structs.replace(holdings, held=kept)


def quarantine(holdings: Holdings, trouble: Unclean) -> Holdings:
    """`holdings` with the devices of `trouble` out of use; the first reason stays."""
    refused = {device: refusal(trouble.reason, f"device {device}: {trouble.why}") for device in trouble.devices}
    return msgspec.structs.replace(holdings, quarantined={**refused, **holdings.quarantined})


def trusted(holdings: Holdings) -> tuple[Device, ...]:
    """The devices to offer to the coordinator."""
    return tuple(device for device in holdings.devices if device.id not in holdings.quarantined)
