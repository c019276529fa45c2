"""What senders and the conductor tell each other, as msgpack over a socket pair. Values only.

Times are microseconds since the start of the run unless they say otherwise.
"""

from __future__ import annotations

import msgspec

from scoot.benchmark.ask import Ask


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of everything that is sent."""


class Begun(_Message, frozen=True, array_like=True, gc=False):
    """A request was sent, or could not be (then `sent_us` is None). Fields as in Ask.

    `admitted_us` is when it was let in; None for never, so that it was not sent either.
    """

    index: int
    intended_us: int
    phase: int
    input_tokens: int
    wanted_tokens: int
    exact: bool
    slo_class: int
    replica: int
    sent_us: int | None
    admitted_us: int | None

    @staticmethod
    def of(ask: Ask, replica: int, sent_us: int | None, admitted_us: int | None) -> Begun:
        """The message about `ask`."""
        return Begun(
            ask.index,
            ask.intended_us,
            int(ask.phase),
            ask.input_tokens,
            ask.wanted_tokens,
            ask.exact,
            ask.slo_class,
            replica,
            sent_us,
            admitted_us,
        )


class Ended(_Message, frozen=True, array_like=True, gc=False):
    """The transport of a request ended; `status` is a RequestStatus, OK for a whole response of any HTTP status."""

    index: int
    end_us: int
    status: int
    message: str


class SenderState(_Message, frozen=True, array_like=True, gc=False):
    """Where a sender is.

    Attributes:
        phase: value of scoot.wire.assignment.Phase.
        outstanding: requests begun and not ended.
    """

    phase: str
    outstanding: int


class SenderAudit(_Message, frozen=True, array_like=True, gc=False):
    """What a sender observed of itself in one run; see LoadAudit."""

    cpu_share: float
    run_queue_s: float
    clock_step_ms: float
    dropped: int
    connections: int
    backlog_bytes: int
    priority: str
    pinned: int | None
    wall_s: float


Read = tuple[int, int, bytes, bytes]
"""Index of the request, monotonic time of reading in ns, the kernel's stamp as it gave it (struct timespec, empty
without), and bytes of the HTTP response."""


class Frame(_Message, frozen=True, array_like=True, gc=False):
    """What happened since the last one, in this order: begins, reads, ends.

    Attributes:
        made_ns: monotonic time it was made.
        offset_ns: wall minus monotonic clock, for the kernel's stamps.
        patience_ns: how long reads were left to gather.
        reads: see Read.
        audit: set in the run's last frame.
    """

    made_ns: int
    offset_ns: int
    patience_ns: int
    begun: list[Begun]
    reads: list[Read]
    ended: list[Ended]
    state: SenderState
    audit: SenderAudit | None = None


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """A sender's requests of a run are made and its connections open."""

    run: int


class Trouble(msgspec.Struct, frozen=True, tag="trouble"):
    """A sender cannot go on: exit code of the load process, and why in one line."""

    code: int
    message: str


class Traffic(msgspec.Struct, frozen=True, tag="traffic"):
    """A frame."""

    frame: Frame


FromSender = Ready | Trouble | Traffic


class Go(msgspec.Struct, frozen=True, tag="go"):
    """Start the run: its time zero, monotonic ns."""

    zero_ns: int


class Abandon(msgspec.Struct, frozen=True, tag="abandon"):
    """End these requests: their verdicts are decided. `failed` had ended already, as it seemed well."""

    indices: list[int]
    failed: int


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Cancel what is outstanding and end."""


ToSender = Go | Abandon | Stop
