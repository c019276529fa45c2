"""systemd's notification protocol: one datagram to the socket in NOTIFY_SOCKET, spoken by the daemon's own loop."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

_MICRO: Final = 1e-6


class Notifier:
    """Tells the service manager how the daemon is; without one, nothing happens.

    Attributes:
        watchdog_s: the manager wants `WATCHDOG=1` at least this often, seconds; None if it does not.
    """

    def __init__(self, environ: Mapping[str, str], *, pid: int | None = None) -> None:
        """`environ` as given to this process; `pid` is this process's own by default."""
        self._address = environ.get("NOTIFY_SOCKET", "")
        period = environ.get("WATCHDOG_USEC", "")
        meant_for = environ.get("WATCHDOG_PID", "")
        ours = not meant_for or meant_for == str(os.getpid() if pid is None else pid)
        wanted = bool(self._address) and ours and period.isascii() and period.isdigit() and int(period) > 0
        self.watchdog_s: float | None = int(period) * _MICRO if wanted else None

    def tell(self, *lines: str) -> None:
        """Send state lines such as "READY=1". A manager that does not listen is no reason to fail."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
            try:
                sender.sendto("\n".join(lines).encode(), address)
            except OSError:
                return
