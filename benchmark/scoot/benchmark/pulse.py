"""Which replica has been silent, and for how long: from what was sent to it and what it brought. Pure."""

from __future__ import annotations

from collections import Counter


class Pulse:
    """Signs of life of every replica, in microseconds of the run's clock."""

    def __init__(self) -> None:
        self._outstanding: Counter[int] = Counter()
        self._alive_us: dict[int, int] = {}

    def sent(self, replica: int, at_us: int) -> None:
        """A request went to a replica. The first after a pause begins its silence anew."""
        if not self._outstanding[replica]:
            self.read(replica, at_us)
        self._outstanding[replica] += 1

    def read(self, replica: int, at_us: int) -> None:
        """A replica brought something."""
        self._alive_us[replica] = max(at_us, self._alive_us.get(replica, 0))

    def ended(self, replica: int) -> None:
        """A request that was sent has ended; by its deadline too, so that is no sign of life."""
        self._outstanding[replica] -= 1

    def silent(self, now_us: int) -> tuple[int, int]:
        """The replica that has been silent longest of those that are waited for, and how long; (0, 0) without."""
        waited_for = [replica for replica, count in self._outstanding.items() if count]
        silences = [(max(0, now_us - self._alive_us[replica]), -replica) for replica in waited_for]
        silent_us, replica = max(silences, default=(0, 0))
        return -replica, silent_us
