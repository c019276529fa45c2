"""What the coordinator has to do about an event. Values; shells perform them after the commit.

Every effect is idempotent by id and can be derived again from committed state (`machine.resume`), so that a crash
between commit and effect loses nothing.
"""

from __future__ import annotations

import msgspec


class RequestSuggestions(msgspec.Struct, frozen=True, kw_only=True):
    """Ask the optimizer for `n` configurations; the answer is `Suggested(call=call)`."""

    study_id: str
    call: int
    n: int


class SendAssign(msgspec.Struct, frozen=True, kw_only=True):
    """Offer an attempt to its agent, if the agent has a session; otherwise its next hello brings it up again."""

    agent_id: str
    attempt_id: str


class SendCancel(msgspec.Struct, frozen=True, kw_only=True):
    """Tell an agent to stop an attempt."""

    agent_id: str
    attempt_id: str
    fence: int


class AcknowledgeOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Tell an agent that an outcome is durable or void."""

    agent_id: str
    attempt_id: str
    fence: int


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """Compute the metrics of an attempt; the answer is `Measured`."""

    attempt_id: str
    fence: int


Effect = RequestSuggestions | SendAssign | SendCancel | AcknowledgeOutcome | Measure
