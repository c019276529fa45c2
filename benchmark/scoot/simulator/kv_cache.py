"""The paged KV cache of a replica: blocks in use, blocks free, and free blocks that still hold a prefix. Pure.

Blocks that nobody can share are only counted. Blocks with a key are shared by reference counting; when nobody uses one
any more it stays, and is evicted when it is the one free for longest (least recently used first, the end of a prompt
before its beginning), as vLLM does. The order of free blocks without a key matters too: they stand between those
with one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Many
from typing import Final

from scoot.simulator.sequence import Sequence

_SLACK: Final = 1024
"""Entries that may be out of date before they are dropped."""


class KvCache:
    """Blocks of `block_size` tokens.

    Attributes:
        blocks: all of them.
        free: blocks that nobody uses, those that hold a prefix included.
        sharing: whether prefixes are looked up.
    """

    def __init__(self, blocks: int, block_size: int, *, sharing: bool) -> None:
        self.blocks = blocks
        self.block_size = block_size
        self.free = blocks
        self.sharing = sharing
        self._users: dict[int, int] = {}
        """Key -> sequences that use its block; 0 for one that is free."""
        self._freed: dict[int, int] = {}
        """Key of a free block -> its stamp in the queue; an entry with another stamp is out of date."""
        self._queue: deque[int | tuple[int, int]] = deque([blocks] if blocks else [])
        """Free blocks, the next to be used first: a number of blocks without a key, or (key, stamp)."""
        self._stamp = 0
        self._fresh = -1
        """The next key that is nobody else's: hashes are far from it."""

    def blocks_for(self, tokens: int) -> int:
        """Blocks that so many tokens take."""
        return -(-tokens // self.block_size)

    def found(self, sequence: Sequence) -> int:
        """How many leading blocks of a sequence are there; one token at least is left to compute."""
        if not self.sharing:
            return 0
        most = (sequence.target - 1) // self.block_size
        hits = 0
        for key in sequence.keys:
            if hits == most or key not in self._users:
                break
            hits += 1
        return hits

    def idle_among(self, keys: Many[int]) -> int:
        """How many of these blocks, which are there, count as free."""
        return sum(not self._users[key] for key in keys)

    def share(self, sequence: Sequence, hits: int) -> None:
        """A sequence without blocks uses the leading ones that were found."""
        for key in sequence.keys[:hits]:
            users = self._users[key]
            if not users:
                self.free -= 1
                del self._freed[key]
            self._users[key] = users + 1
        sequence.held = list(sequence.keys[:hits])
        sequence.blocks = hits

    def take(self, count: int) -> None:
        """So many free blocks, `count` <= `free`, are used from now on; prefixes in them are lost."""
        self.free -= count
        if not self.sharing:
            return
        queue = self._queue
        while count > 0:
            head = queue[0]
            if isinstance(head, int):
                if head > count:
                    queue[0] = head - count
                    return
                count -= head
                queue.popleft()
                continue
            queue.popleft()
            key, stamp = head
            if self._freed.get(key) == stamp:
                del self._freed[key]
                del self._users[key]
                count -= 1

    def publish(self, sequence: Sequence, tokens: int) -> None:
        """The sequence's blocks up to `tokens` can be found by others. A block that is there already stays as it is."""
        keys, held = sequence.keys, sequence.held
        if not self.sharing or sequence.private or len(held) == len(keys):
            return
        for key in keys[len(held) : min(len(keys), tokens // self.block_size)]:
            if key in self._users:
                # Somebody else computed the same at the same time: this copy, and all behind it, is found by nobody.
                sequence.private = True
                return
            self._users[key] = 1
            held.append(key)

    def remember(self, sequence: Sequence) -> None:
        """The sequence will come back: until they are evicted it finds even those of its blocks that nobody shares."""
        if not self.sharing or sequence.private:
            return
        own = sequence.computed // self.block_size - len(sequence.keys)
        if own > 0:
            fresh = range(self._fresh, self._fresh - own, -1)
            self._fresh -= own
            sequence.keys = [*sequence.keys, *fresh]
        self.publish(sequence, sequence.computed)

    def release(self, sequence: Sequence, blocks: int) -> None:
        """A sequence that holds so many blocks gives them back; what those with a key hold stays until evicted."""
        own = blocks - len(sequence.held)
        self.free += own
        if self.sharing:
            self._append(own)
            for key in reversed(sequence.held):
                users = self._users[key] - 1
                self._users[key] = users
                if not users:
                    self.free += 1
                    self._stamp += 1
                    self._freed[key] = self._stamp
                    self._queue.append((key, self._stamp))
            sequence.held = []
            sequence.private = False
            if len(self._queue) > 4 * len(self._freed) + _SLACK:
                self._tidy()
        sequence.blocks = 0

    def _append(self, count: int) -> None:
        if not count:
            return
        queue = self._queue
        if queue and isinstance(queue[-1], int):
            queue[-1] += count
        else:
            queue.append(count)

    def _tidy(self) -> None:
        """Drop entries that are out of date."""
        old, self._queue = self._queue, deque()
        for entry in old:
            if isinstance(entry, int):
                self._append(entry)
            elif self._freed.get(entry[0]) == entry[1]:
                self._queue.append(entry)
