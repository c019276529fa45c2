"""Server-sent events as bytes come in (WHATWG HTML, section 9.2). Sans-IO, pure.

Lines end with LF, CRLF or CR, in any mixture. An event that the end of the stream cuts off is never reported.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from scoot.wire.errors import RemoteProtocolError

EVENT_BYTES: Final = 1024 * 1024
"""Longest line, and most data of one event."""

_EOL: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"


class Event(msgspec.Struct, frozen=True, gc=False):
    """A dispatched event: its data (lines joined by LF), its type ("" is "message"), and the last id seen."""

    data: bytes
    event: bytes = b""
    id: bytes = b""


class SseError(RemoteProtocolError):
    """The stream is over a limit. Stop reading it; `events` are those that the last bytes fed completed before."""

    def __init__(self, message: str, *, events: tuple[Event, ...] = ()) -> None:
        super().__init__(message)
        self.events = events


class EventParser:
    """One event stream."""

    __slots__ = ("_data", "_data_bytes", "_event", "_first", "_id", "_partial", "_skip_lf")

    def __init__(self) -> None:
        self._partial = b""
        self._skip_lf = False
        self._first = True
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._event = b""
        self._id = b""

    @property
    def between_events(self) -> bool:
        """Whether the next byte is the first of an event's first line."""
        return not (self._partial or self._skip_lf or self._data or self._event)

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes.

        Raises:
            SseError: a line or an event is longer than EVENT_BYTES.
        """
        if self._skip_lf and data:
            data = data.removeprefix(b"\n")
            self._skip_lf = False
        if not data:
            return []
        # A CR ends its line at once; should the LF of a CRLF follow in the next bytes, it is skipped.
        self._skip_lf = data.endswith(b"\r")
        text = self._partial + data
        lines = _EOL.split(text) if b"\r" in text else text.split(b"\n")
        self._partial = lines.pop()
        events: list[Event] = []
        for line in lines:
            self._on_line(line, events)
        if len(self._partial) > EVENT_BYTES:
            raise SseError(f"a line is longer than {EVENT_BYTES} bytes", events=tuple(events))
        return events

    def _on_line(self, line: bytes, events: list[Event]) -> None:
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                events.append(Event(b"\n".join(self._data), self._event, self._id))
                self._data = []
                self._data_bytes = 0
            self._event = b""
            return
        if len(line) > EVENT_BYTES:
            raise SseError(f"a line is longer than {EVENT_BYTES} bytes", events=tuple(events))
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + 1
            if self._data_bytes > EVENT_BYTES:
                raise SseError(f"an event is longer than {EVENT_BYTES} bytes", events=tuple(events))
        elif field == b"event":
            self._event = value
        elif field == b"id" and b"\0" not in value:
            self._id = value
