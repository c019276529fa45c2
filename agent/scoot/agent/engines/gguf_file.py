"""The vocabulary of a GGUF file, from its metadata. The file is hostile input: every size is checked before it is used.

The format is that of github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. The package
`gguf` would read it, too, but brings four more packages to every agent, and makes an object of each of the vocabulary's
strings.
"""

from __future__ import annotations

import itertools
import struct
from pathlib import Path
from typing import BinaryIO, Final

from scoot.agent.engines.base import RESERVED_TOKENS
from scoot.wire.errors import UserError

MAGIC: Final = b"GGUF"
SUFFIX: Final = ".gguf"

_VERSIONS: Final = (2, 3)
_KEYS_MAX: Final = 100_000
_NAME_BYTES: Final = 65_535
_ITEMS_MAX: Final = 4_194_304
"""No vocabulary and no merge table is larger."""

_SIZES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by GGUF's number of its type."""
_STRING: Final = 8
_ARRAY: Final = 9
_INT32: Final = 5
_TOKENS: Final = "tokenizer.ggml.tokens"
_TYPES: Final = "tokenizer.ggml.token_type"
_UNFIT: Final = frozenset({2, 3, 5})
"""Types of tokens that do not belong in a prompt: unknown, control, unused."""
_FEWEST: Final = 16


class _Unreadable(Exception):
    """The file is not what it should be."""


def vocabulary_range(path: Path) -> tuple[int, int]:
    """Token ids that are safe in a prompt, low inclusive, high exclusive.

    The longest run of tokens that are neither unknown nor control nor unused, without the 16 lowest ids.

    Raises:
        UserError: the file cannot be read, is not GGUF, or has no usable vocabulary.
    """
    try:
        with path.open("rb") as file:
            size, types = _vocabulary(file, path.stat().st_size)
    except (OSError, _Unreadable) as error:
        raise UserError(f"its vocabulary cannot be read: {error}", path=str(path), key="service.model") from error
    fit = [number >= RESERVED_TOKENS and types[number] not in _UNFIT for number in range(size)]
    low = high = at = 0
    for good, run in itertools.groupby(fit):
        length = len(list(run))
        if good and length > high - low:
            low, high = at, at + length
        at += length
    if high - low < _FEWEST:
        raise UserError(f"only {high - low} of its {size} tokens can be used", path=str(path), key="service.model")
    return low, high


def _vocabulary(file: BinaryIO, size_bytes: int) -> tuple[int, tuple[int, ...]]:
    """(number of tokens, type of each)."""
    reader = _Reader(file, size_bytes)
    size: int | None = None
    types: tuple[int, ...] | None = None
    for _ in range(_keys(reader)):
        key = reader.name()
        kind = reader.number("<I")
        if key == _TOKENS:
            size = reader.array(kind, wanted=_STRING)
            reader.skip_items(_STRING, size)
        elif key == _TYPES:
            length = reader.array(kind, wanted=_INT32)
            types = struct.unpack(f"<{length}i", reader.take(4 * length))
        else:
            reader.skip(kind)
        if size is not None and types is not None:
            break
    if size is None:
        raise _Unreadable(f"it has no {_TOKENS}")
    if types is None:
        return size, (1,) * size
    if len(types) != size:
        raise _Unreadable(f"{size} tokens, and the types of {len(types)}")
    return size, types


def _keys(reader: _Reader) -> int:
    """How many keys follow the file's head."""
    if reader.take(len(MAGIC)) != MAGIC:
        raise _Unreadable("it is not a GGUF file")
    version = reader.number("<I")
    if version not in _VERSIONS:
        raise _Unreadable(f"GGUF version {version} is none of {_VERSIONS}")
    reader.number("<Q")  # tensors
    count = reader.number("<Q")
    if count > _KEYS_MAX:
        raise _Unreadable(f"{count} keys")
    return count


class _Reader:
    """Values of a file in their order."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._left = size_bytes

    def take(self, count: int) -> bytes:
        self._spend(count)
        data = self._file.read(count)
        if len(data) != count:
            raise _Unreadable("it is cut off")
        return data

    def number(self, layout: str) -> int:
        return int(struct.unpack(layout, self.take(struct.calcsize(layout)))[0])

    def name(self) -> str:
        length = self.number("<Q")
        if length > _NAME_BYTES:
            raise _Unreadable(f"a name of {length} bytes")
        return self.take(length).decode(errors="replace")

    def array(self, kind: int, *, wanted: int) -> int:
        """The length of an array of `wanted`, which begins here."""
        if kind != _ARRAY or self.number("<I") != wanted:
            raise _Unreadable("its vocabulary has an unknown form")
        length = self.number("<Q")
        if length > _ITEMS_MAX:
            raise _Unreadable(f"an array of {length}")
        return length

    def skip(self, kind: int) -> None:
        """Pass over a value."""
        if kind != _ARRAY:
            self.skip_items(kind, 1)
            return
        inner = self.number("<I")
        length = self.number("<Q")
        if length > _ITEMS_MAX:
            raise _Unreadable(f"an array of {length}")
        self.skip_items(inner, length)

    def skip_items(self, kind: int, count: int) -> None:
        """Pass over `count` values that are no arrays."""
        if kind == _STRING:
            for _ in range(count):
                self._pass(self.number("<Q"))
        elif kind in _SIZES:
            self._pass(_SIZES[kind] * count)
        else:
            raise _Unreadable(f"a value of unknown type {kind}")

    def _pass(self, count: int) -> None:
        self._spend(count)
        self._file.seek(count, 1)

    def _spend(self, count: int) -> None:
        if count > self._left:
            raise _Unreadable("it is cut off")
        self._left -= count
