"""A request to be sent, ready to be written to a socket. Values only."""

from __future__ import annotations

from typing import Final

import msgspec

from scoot.wire.columns import RequestPhase

NO_SESSION: Final = -1
"""Session of a request on its own."""


class Ask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A request to be sent.

    Attributes:
        index: position in the run's schedule.
        intended_us: intended start. For a session's second and later turns it is not known before: see `think_us`.
        phase: window of the intended start.
        input_tokens: as the workload knows it; the server's own count replaces it.
        wanted_tokens: output tokens asked for.
        exact: whether the server was told to generate exactly so many.
        body: everything after the Host header: rest of the head, and the body.
        slo_class: index into the workload's SLO classes; 0 where there are none.
        session: turns of one session follow one another; NO_SESSION for a request on its own.
        think_us: pause between the end of the session's turn before and this one's intended start; 0 for the first.
    """

    index: int
    intended_us: int
    phase: RequestPhase
    input_tokens: int
    wanted_tokens: int
    exact: bool
    body: bytes
    slo_class: int = 0
    session: int = NO_SESSION
    think_us: int = 0

    def at(self, intended_us: int, phase: RequestPhase) -> Ask:
        """The same request with another intended start."""
        return msgspec.structs.replace(self, intended_us=intended_us, phase=phase)
