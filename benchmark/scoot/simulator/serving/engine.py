"""A replica in real time: its steps end when the clock says so, and what they bring goes out at once.

Steps follow one another by their own lengths and not by when somebody woke up: each begins where the one before ended,
so a late wake-up delays the tokens of one step and slows nothing down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from scoot.benchmark.clock import Alarm, monotonic_ns
from scoot.simulator.prefix import keys_of_tokens
from scoot.simulator.replica import EngineDied, Replica, Step
from scoot.simulator.sequence import Sequence
from scoot.simulator.serving.connection import ServerConnection
from scoot.simulator.serving.length import natural_tokens
from scoot.simulator.serving.question import Question
from scoot.simulator.serving.stream import Stream
from scoot.simulator.settings import Resolved

_TRIES: Final = 3
"""Plans in a row without a step, while there is something to do, before the engine counts as stuck."""


class RealTimeEngine:
    """Runs one replica.

    Args:
        resolved: what kind of engine.
        on_death: told why, when it runs out of memory under load; nothing is computed any more then.

    Attributes:
        replica: what is run; read only.
        steps, tokens, prompt_tokens: computed, sent and received so far.
        late_sum_ns, late_max_ns: how long after a step's end its tokens were dealt with, over all steps.
    """

    def __init__(self, resolved: Resolved, on_death: Callable[[EngineDied], None]) -> None:
        self.replica = Replica(resolved)
        self.steps = 0
        self.tokens = 0
        self.prompt_tokens = 0
        self.late_sum_ns = 0
        self.late_max_ns = 0
        self._resolved = resolved
        self._on_death = on_death
        self._streams: dict[int, Stream] = {}
        self._counts: dict[int, int] = {}
        self._step: Step | None = None
        self._dead = False
        self._alarm: Alarm | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take part in a loop."""
        self._alarm = Alarm(self._on_ring)
        loop.add_reader(self._alarm.fd, self._alarm.on_ring)

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Compute nothing any more."""
        self._dead = True
        if self._alarm is not None:
            loop.remove_reader(self._alarm.fd)
            self._alarm.close()

    @property
    def full(self) -> bool:
        """Whether one more request is over the engine's limit."""
        limit = self._resolved.request_limit
        return limit is not None and self.replica.outstanding >= limit

    def ask(self, connection: ServerConnection, question: Question) -> None:
        """Queue a question, which the replica must not refuse; its answer goes to `connection`."""
        scheduler = self._resolved.scheduler
        length = question.max_tokens
        if not question.ignore_eos:
            length = min(length, max(question.min_tokens, natural_tokens(question.prompt), 1))
        keys = keys_of_tokens(question.prompt, scheduler.block_size) if scheduler.prefix_caching else None
        now_ns = monotonic_ns()
        sequence = Sequence(question.number, len(question.prompt), length, arrived_ns=now_ns, keys=keys)
        stream = Stream(connection, question, sequence, self._resolved.stream_interval, self._cancel)
        connection.stream = stream
        self._streams[sequence.number] = stream
        self._counts[sequence.number] = 0
        self.prompt_tokens += sequence.prompt_tokens
        stream.open()
        self.replica.add(sequence)
        if self._step is None:
            self._begin(now_ns)

    def _cancel(self, stream: Stream) -> None:
        if self._streams.pop(stream.sequence.number, None) is not None:
            del self._counts[stream.sequence.number]
            self.replica.abort(stream.sequence)

    def _on_ring(self) -> None:
        """Steps have ended, or may have. Only as many as had by now: clients must be heard in between."""
        now_ns = monotonic_ns()
        while self._step is not None and self._step.ends_ns <= now_ns:
            step = self._step
            self._deliver(step)
            self.replica.end(step)
            self._note(monotonic_ns() - step.ends_ns)
            self._begin(step.ends_ns)

    def _deliver(self, step: Step) -> None:
        """Send the tokens of a step."""
        for sequence in (*step.firsts, *self.replica.decoded()):
            number = sequence.number
            stream = self._streams.get(number)
            if stream is None:
                continue
            self.tokens += 1
            count = self._counts[number] = self._counts[number] + 1
            if stream.on_token(count):
                del self._streams[number], self._counts[number]

    def _note(self, late_ns: int) -> None:
        self.steps += 1
        self.late_sum_ns += late_ns
        self.late_max_ns = max(self.late_max_ns, late_ns)

    def _begin(self, at_ns: int) -> None:
        """Plan the next step, from `at_ns` on or from when something comes after it, and wait for its end."""
        self._step = None
        if self._dead or self._alarm is None:
            return
        try:
            for _ in range(_TRIES):
                self._step = self.replica.begin(at_ns)
                if self._step is not None or self.replica.idle:
                    break
                # What is there came after the step's end, or was put back to make room.
                at_ns = max(at_ns, next(iter(self._streams.values())).sequence.arrived_ns)
            else:
                self._die(EngineDied("RuntimeError: the scheduler has requests and plans nothing"))
        except EngineDied as died:
            self._die(died)
        if self._step is not None:
            self._alarm.set(self._step.ends_ns)

    def _die(self, died: EngineDied) -> None:
        self._dead = True
        self._on_death(died)
