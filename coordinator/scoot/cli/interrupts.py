"""Ctrl-C, counted: the first asks, the second insists."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import Final, Self

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Counts SIGINT, SIGTERM and SIGHUP while it is entered; outside the main thread it counts nothing.

    Attributes:
        asked: set by the first signal.
        insisted: set by the second.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.insisted = asyncio.Event()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                asyncio.get_running_loop().add_signal_handler(number, self.signal)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                asyncio.get_running_loop().remove_signal_handler(number)

    def signal(self) -> None:
        """Count one."""
        (self.insisted if self.asked.is_set() else self.asked).set()
