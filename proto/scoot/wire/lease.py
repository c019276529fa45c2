"""Leases between coordinator and agent: who must let go of an engine, and when (design: "Protocol and storage").

All times are monotonic seconds of the side that asks. The holder (agent) stops itself before the grantor (coordinator)
gives its devices away: `self_fence + stop_grace + kill_grace < reassign` is checked when a policy is made.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from scoot.wire.errors import UserError


class LeasePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The lease's times, in seconds. The coordinator owns them and tells each agent in its welcome."""

    heartbeat_s: float = 5.0
    self_fence_s: float = 20.0
    lost_s: float = 30.0
    reassign_s: float = 45.0
    stop_grace_s: float = 15.0
    kill_grace_s: float = 5.0

    def __post_init__(self) -> None:
        if min(self.heartbeat_s, self.stop_grace_s, self.kill_grace_s) <= 0:
            raise UserError("every lease time must be positive", key="lease")
        if not 2 * self.heartbeat_s <= self.self_fence_s < self.lost_s < self.reassign_s:
            raise UserError(
                f"2 x heartbeat ({self.heartbeat_s}) <= self_fence ({self.self_fence_s}) < lost ({self.lost_s}) "
                f"< reassign ({self.reassign_s}) does not hold",
                key="lease",
                hint="one lost heartbeat must not fence an agent, and it must fence itself before it is lost",
            )
        if self.self_fence_s + self.stop_grace_s + self.kill_grace_s >= self.reassign_s:
            raise UserError(
                f"self_fence + stop_grace + kill_grace = {self.self_fence_s + self.stop_grace_s + self.kill_grace_s} s "
                f"is not below reassign = {self.reassign_s} s",
                key="lease.reassign_s",
                hint="raise reassign_s, or two engines could hold one GPU",
            )


class LeaseState(StrEnum):
    """How the coordinator sees an agent's lease."""

    ACTIVE = "ACTIVE"
    SUSPECT = "SUSPECT"
    LOST = "LOST"
    RELEASED = "RELEASED"


def lease_state(policy: LeasePolicy, silent_s: float) -> LeaseState:
    """The lease's state after `silent_s` seconds without a heartbeat; RELEASED means devices may be reassigned."""
    if silent_s >= policy.reassign_s:
        return LeaseState.RELEASED
    if silent_s >= policy.lost_s:
        return LeaseState.LOST
    if silent_s >= 2 * policy.heartbeat_s:
        return LeaseState.SUSPECT
    return LeaseState.ACTIVE


def must_self_fence(policy: LeasePolicy, since_acknowledged_s: float) -> bool:
    """Whether an agent must stop its engines, so long after it sent its last *acknowledged* heartbeat."""
    return since_acknowledged_s >= policy.self_fence_s
