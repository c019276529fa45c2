"""One request inside a replica. Pure."""

from __future__ import annotations

from collections.abc import Sequence as Many
from enum import IntEnum


class State(IntEnum):
    """Where a sequence is."""

    WAITING = 0
    PREFILLING = 1
    DECODING = 2
    DONE = 3


class Sequence:
    """A prompt, and the tokens generated from it. Replicas change it; everybody else reads.

    Attributes:
        number: for the caller's use.
        prompt_tokens, output_tokens: lengths, at least 1.
        arrived_ns: when it came into the queue.
        keys: one for each of the prompt's leading blocks that others may share (see prefix.py); empty for none.
        state: see State.
        generated: tokens so far; while it decodes, those it had when it began to.
        preemptions: how often it had to be computed again.
    """

    __slots__ = (
        "arrived_ns",
        "blocks",
        "computed",
        "decodes_from",
        "generated",
        "held",
        "keys",
        "number",
        "output_tokens",
        "preemptions",
        "private",
        "prompt_tokens",
        "reserved",
        "state",
        "target",
        "times",
    )

    def __init__(
        self,
        number: int,
        prompt_tokens: int,
        output_tokens: int,
        *,
        arrived_ns: int,
        keys: Many[int] | None = None,
    ) -> None:
        self.number = number
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.arrived_ns = arrived_ns
        self.keys: Many[int] = keys or ()
        self.state = State.WAITING
        self.generated = 0
        self.preemptions = 0

        # What only its replica and its cache use.
        self.target = prompt_tokens
        """Tokens to be in the KV cache before the next one can be generated."""
        self.computed = 0
        """Tokens in the KV cache; while it decodes, those it had when it began to."""
        self.blocks = 0
        """Blocks it holds, shared ones included; while it decodes, those it had when it began to."""
        self.held: list[int] = []
        """Keys of its leading blocks that are known to the cache."""
        self.private = False
        """Its further blocks are copies that the cache does not know."""
        self.reserved = 0
        """Blocks that admission set aside for all it may ever need."""
        self.decodes_from = 0
        """The replica's decode step it was ready for."""
        self.times: list[int | tuple[int, int]] = []
        """Recorded: when a prompt was complete, ns; or the decode steps [from, to) that brought a token each."""

    @property
    def done(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state is State.DONE
