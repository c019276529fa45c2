"""How long an answer is that may end where it likes. Pure."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence
from math import exp
from statistics import NormalDist
from typing import Final

_MEDIAN_TOKENS: Final = 150.0
_SPREAD: Final = 1.0
"""Standard deviation of the length's logarithm: chats lie around it."""

_NORMAL: Final = NormalDist()


def natural_tokens(prompt: Sequence[int]) -> int:
    """Tokens after which the answer to a prompt ends by itself, at least 1: the same for the same prompt.

    Over prompts they are log-normal with a median of 150 tokens.
    """
    number = zlib.crc32(array("Q", [token & 0xFFFF_FFFF for token in prompt]).tobytes())
    z = _NORMAL.inv_cdf((number + 0.5) / 2**32)
    return max(1, round(_MEDIAN_TOKENS * exp(_SPREAD * z)))
