"""Self-fencing: an agent that cannot prove its lease stops its engines before its devices are given away. Pure.

The lease runs from the moment the last *acknowledged* heartbeat was sent, by the agent's own clock: the coordinator
received it at that moment or later, so its view of the lease is never the shorter one.
"""

from __future__ import annotations

from typing import Final

import msgspec

from scoot.wire.lease import LeasePolicy, must_self_fence

_SILENCE_SHARE: Final = 0.6
"""Share of the self-fence time after which a silent session is replaced: one chance to get through in time."""


class Guard(msgspec.Struct, frozen=True):
    """What the agent knows of its lease.

    Attributes:
        policy: the coordinator's; None before the first welcome.
        proven_at_s: when the last acknowledged heartbeat (or hello) was sent, monotonic seconds.
        in_flight: heartbeats of this session not yet acknowledged: (seq, sent at), oldest first.
    """

    policy: LeasePolicy | None = None
    proven_at_s: float = 0.0
    in_flight: tuple[tuple[int, float], ...] = ()


def welcomed(guard: Guard, policy: LeasePolicy, hello_sent_at_s: float) -> Guard:
    """A session begins: its hello was answered, so it proves the lease. Heartbeats of older sessions are void."""
    return Guard(policy, max(guard.proven_at_s, hello_sent_at_s))


def heartbeat_sent(guard: Guard, seq: int, now_s: float) -> Guard:
    """A heartbeat left. Those too old to prove anything are forgotten, which bounds the list."""
    horizon = now_s - (guard.policy.self_fence_s if guard.policy else 0.0)
    kept = tuple(entry for entry in guard.in_flight if entry[1] > horizon)
    return msgspec.structs.replace(guard, in_flight=(*kept, (seq, now_s)))


def heartbeat_acknowledged(guard: Guard, seq: int) -> Guard:
    """An acknowledgement came. One for an unknown heartbeat (old session, never sent) proves nothing."""
    sent_at_s = dict(guard.in_flight).get(seq)
    if sent_at_s is None:
        return guard
    later = tuple(entry for entry in guard.in_flight if entry[0] > seq)
    return msgspec.structs.replace(guard, proven_at_s=max(guard.proven_at_s, sent_at_s), in_flight=later)


def is_fenced(guard: Guard, now_s: float) -> bool:
    """Whether every engine has to be stopped now. Never before the first welcome: nothing can run then."""
    return guard.policy is not None and must_self_fence(guard.policy, now_s - guard.proven_at_s)


def fences_at_s(guard: Guard) -> float | None:
    """When the agent fences itself unless a later heartbeat is acknowledged; None before the first welcome."""
    return None if guard.policy is None else guard.proven_at_s + guard.policy.self_fence_s


def session_patience_s(policy: LeasePolicy) -> float:
    """A session that brought nothing for so many seconds is to be replaced by a new connection."""
    return max(2 * policy.heartbeat_s, _SILENCE_SHARE * policy.self_fence_s)
