"""One request as its sender sees it: sent, and ended by the transport. Sans-IO, pure.

What the answer says is the parser's business (scoot.benchmark.answer), in another process; here only its end is looked
for, and as cheaply as can be done exactly. Times are microseconds since the start of the run.
"""

from __future__ import annotations

from typing import Final

from scoot.benchmark.ask import Ask
from scoot.benchmark.http1 import CHUNKED_END, Http1Error, ResponseParser
from scoot.wire.columns import RequestStatus

HTTP_OK: Final = 200

_PENDING_MAX: Final = 32
"""Reads that are kept unparsed at most: some 10 kB per stream."""


class Exchange:
    """The state of one request on its connection. Once ended, nothing changes any more.

    Attributes:
        ask: what was asked.
        index: its position in the run's schedule.
        replica: index of the target it went to; 0 until it is admitted.
        deadline_us: when it counts as failed.
        admitted_us: when it was due to be sent, which is its intended start where it did not have to wait; None until
            then.
        sent_us: when it was handed to the kernel, None until then.
        end_us: last byte of the answer, or when the transport failed; None until ended.
        status: how the transport ended: OK, a whole HTTP response of any status; None until ended.
        message: what went wrong, for humans.
    """

    __slots__ = (
        "_chunked",
        "_parser",
        "_pending",
        "admitted_us",
        "ask",
        "deadline_us",
        "end_us",
        "index",
        "message",
        "replica",
        "sent_us",
        "status",
    )

    def __init__(self, ask: Ask, *, deadline_us: int) -> None:
        self.ask = ask
        self.index = ask.index
        self.replica = 0
        self.deadline_us = deadline_us
        self.admitted_us: int | None = None
        self.sent_us: int | None = None
        self.end_us: int | None = None
        self.status: RequestStatus | None = None
        self.message = ""
        self._parser = ResponseParser()
        self._pending: list[bytes] = []
        self._chunked = False

    @property
    def ended(self) -> bool:
        """Whether it has a status."""
        return self.status is not None

    @property
    def reusable(self) -> bool:
        """Whether its connection can carry another request."""
        return self._parser.keep_alive

    @property
    def http_status(self) -> int:
        """0 if no answer came."""
        return self._parser.status

    @property
    def succeeded(self) -> bool:
        """Whether a whole answer with status 200 came; its body may still tell of an error."""
        return self.status is RequestStatus.OK and self.http_status == HTTP_OK

    def goes_on(self, data: bytes) -> bool:
        """Take in bytes received; False if they may end the answer: then `settle`.

        A chunked answer ends with an empty line. A read that does not is kept unparsed: a token's never does.
        """
        pending = self._pending
        pending.append(data)
        return (
            self._chunked and data[-4:] != CHUNKED_END and len(data) > len(CHUNKED_END) and len(pending) < _PENDING_MAX
        )

    def settle(self, stamp_us: int) -> None:
        """Find out whether what was taken in ends the answer. `stamp_us`: when the last of it was received."""
        data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        self._pending.clear()
        try:
            self._parser.feed(data)
        except Http1Error as error:
            self.end(stamp_us, RequestStatus.MALFORMED, str(error))
        if self._parser.complete:
            self.end(stamp_us, RequestStatus.OK)
        self._chunked = self._parser.chunked

    def closed(self, stamp_us: int, *, reset: bool, cut: bool = False) -> None:
        """The server closed the connection, or reset it; `cut`: closed where TLS had not said that it ends."""
        if self._pending:
            self.settle(stamp_us)
        if self.status is not None:
            return
        if self._parser.eof() and not reset and not cut:
            self.end(stamp_us, RequestStatus.OK)
        elif reset:
            self.end(stamp_us, RequestStatus.RESET, "the connection was reset")
        else:
            self.end(stamp_us, RequestStatus.CLOSED_EARLY, "the connection was closed before the answer was whole")

    def end(self, at_us: int, status: RequestStatus, message: str = "") -> None:
        """It ended. The first end counts."""
        if self.status is None:
            self.end_us = at_us
            self.status = status
            self.message = message
