"""A look at SQLite's write-ahead log before it is trusted. Pure.

SQLite checks every frame of the log, and at the first bad one it takes the rest for the torn tail of a crash and drops
it silently. That is right for a torn tail and wrong for a flipped bit further up, with acknowledged transactions behind
it. `scan` counts the commits that the log claims to hold; compared with what SQLite recovered, it tells the two apart:
every commit is synced before the next begins, so at most the last one can be torn.
Formats: https://www.sqlite.org/fileformat2.html#the_write_ahead_log and https://www.sqlite.org/walformat.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import Enum
from typing import Final

import msgspec

_HEADER: Final = struct.Struct(">8I")
_FRAME: Final = struct.Struct(">6I")
_INDEX_FRAMES: Final = struct.Struct("=I")
_MAGIC: Final = (0x377F0682, 0x377F0683)


class WalScan(msgspec.Struct, frozen=True, kw_only=True):
    """What a log claims.

    Attributes:
        commits: numbers (from 1) of the frames that end a transaction of the log's current generation.
        header_damaged: the header does not match its checksum although frames follow it.
    """

    commits: tuple[int, ...] = ()
    header_damaged: bool = False


class WalVerdict(Enum):
    """What the difference between claim and recovery means."""

    SOUND = "sound"
    TORN = "torn"
    DAMAGED = "damaged"


def scan(data: bytes, page_bytes: int) -> WalScan:
    """Read the log `data` of a database with pages of `page_bytes`."""
    if len(data) < _HEADER.size + _FRAME.size + page_bytes:
        return WalScan()
    magic, _, page, _, salt1, salt2, sum1, sum2 = _HEADER.unpack_from(data)
    if magic not in _MAGIC or page != page_bytes or _header_sums(data, big_endian=bool(magic & 1)) != (sum1, sum2):
        return WalScan(header_damaged=True)
    commits = tuple(
        number
        for number, (_, database_pages, *salts, _, _) in enumerate(_frames(data, page_bytes), 1)
        # A leftover of an earlier generation differs in both salts, a flipped bit changes one of them.
        if database_pages and (salts[0] == salt1 or salts[1] == salt2)
    )
    return WalScan(commits=commits)


def recovered_frames(index: bytes) -> int:
    """Valid frames of the log according to SQLite's index of it (the -shm file, in native byte order)."""
    return int(_INDEX_FRAMES.unpack_from(index, 16)[0])


def judge(found: WalScan, recovered: int) -> WalVerdict:
    """Compare the claim with the number of frames SQLite recovered."""
    if found.header_damaged:
        return WalVerdict.DAMAGED
    lost = sum(1 for commit in found.commits if commit > recovered)
    return (WalVerdict.SOUND, WalVerdict.TORN)[lost] if lost < 2 else WalVerdict.DAMAGED  # noqa: PLR2004  # see above


def _frames(data: bytes, page_bytes: int) -> Iterator[tuple[int, ...]]:
    step = _FRAME.size + page_bytes
    for at in range(_HEADER.size, len(data) - step + 1, step):
        yield _FRAME.unpack_from(data, at)


def _header_sums(data: bytes, *, big_endian: bool) -> tuple[int, int]:
    """The running checksum over the header's first 24 bytes."""
    words = struct.unpack_from(f"{'>' if big_endian else '<'}6I", data)
    first = second = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFF_FFFF
        second = (second + odd + first) & 0xFFFF_FFFF
    return first, second
