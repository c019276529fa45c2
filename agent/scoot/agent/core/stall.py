"""Whether an engine under load hangs or is only slow: how its load advances, and a completion of our own. Pure.

Silence alone does not tell: a long prefill, or an engine that gathers its tokens, brings nothing for a while either,
and one that hangs can go on sending bytes without a token in them. So both are watched: bytes, replica by replica, and
the count of what was achieved. Once nothing has come for half the time that is allowed, a completion is asked for, and
not before: it would take part in what is measured. An engine that answers it is slow. One that does not until the time
is up, hangs.
"""

from __future__ import annotations

from typing import Final

import msgspec

from scoot.benchmark.plan import LoadProgress

_SUSPICIOUS_SHARE: Final = 0.5


class Advance(msgspec.Struct, frozen=True, kw_only=True):
    """How far a load has come, as of its latest sign of life. Times are monotonic seconds of the agent.

    Attributes:
        counts: run, completed requests and tokens: what only an engine that works can raise.
        since_s: when they last rose, or nothing was waited for.
        proven_s: when the engine last answered a completion of ours.
        heard_s: when the sign of life came.
        silent_s, replica: bytes: see LoadProgress.
        waiting: requests outstanding.
    """

    counts: tuple[int, int, int] = (0, 0, 0)
    since_s: float
    proven_s: float
    heard_s: float
    silent_s: float = 0.0
    replica: int = 0
    waiting: int = 0

    @property
    def idle_s(self) -> float:
        """Seconds without progress while something was waited for."""
        return self.heard_s - max(self.since_s, self.proven_s)

    @property
    def mute_s(self) -> float:
        """Seconds without a byte from the replica that has been silent longest."""
        return min(self.silent_s, self.heard_s - self.proven_s)


def begin(now_s: float) -> Advance:
    """Before the first sign of life."""
    return Advance(since_s=now_s, proven_s=now_s, heard_s=now_s)


def heard(advance: Advance, progress: LoadProgress, now_s: float) -> Advance:
    """`advance` after a sign of life."""
    counts = (progress.run, progress.completed, progress.tokens)
    moved = counts != advance.counts or not progress.outstanding
    return Advance(
        counts=counts,
        since_s=now_s if moved else advance.since_s,
        proven_s=advance.proven_s,
        heard_s=now_s,
        silent_s=progress.silent_s if progress.outstanding else 0.0,
        replica=progress.silent_replica,
        waiting=progress.outstanding,
    )


def proven(advance: Advance, now_s: float) -> Advance:
    """`advance` after the engine answered a completion of ours, which was asked for before `now_s`."""
    return msgspec.structs.replace(advance, proven_s=now_s, heard_s=max(now_s, advance.heard_s))


def suspicious(advance: Advance, stall_timeout_s: float) -> bool:
    """Whether to ask for a completion."""
    return max(advance.idle_s, advance.mute_s) >= _SUSPICIOUS_SHARE * stall_timeout_s


def patience_s(stall_timeout_s: float) -> float:
    """How long an engine has to answer it."""
    return (1 - _SUSPICIOUS_SHARE) * stall_timeout_s


def hang(advance: Advance, stall_timeout_s: float, *, timed_out: bool) -> str:
    """What shows that the engine hangs, whose completion was not answered; "" if it does not, or not yet.

    An answer that is an error (not `timed_out`) is no hang while bytes come: the load's own requests fail as well then,
    and are counted.
    """
    if advance.mute_s >= stall_timeout_s:
        return (
            f"no byte from replica {advance.replica} for {advance.mute_s:.1f} s, {advance.waiting} requests outstanding"
        )
    if timed_out and advance.idle_s >= stall_timeout_s:
        return f"no token for {advance.idle_s:.1f} s, {advance.waiting} requests outstanding"
    return ""
