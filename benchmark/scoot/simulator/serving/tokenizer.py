"""Tokens of engines without a model: ids of a text, and texts of answers. Pure."""

from __future__ import annotations

import re
import zlib
from typing import Final

_PIECE: Final = re.compile(r"\s*\S{1,6}|\s+")
_WORDS: Final = ("the", "of", "and", "to", "in", "it", "is", "that", "was", "for", "on", "with", "as", "at", "by")

VOCABULARY: Final = 32_000
"""Token ids are below this where nothing else is said."""


def tokenize(text: str, vocabulary: int = VOCABULARY) -> list[int]:
    """Token ids of a text: up to six characters of a word, with the space before them. The same text, the same ids."""
    return [zlib.crc32(piece.encode("utf-8", "surrogatepass")) % vocabulary for piece in _PIECE.findall(text)]


def text_at(position: int) -> str:
    """Text of the output token at `position`, >= 0."""
    return f" {_WORDS[position * 7 % len(_WORDS)]}"
