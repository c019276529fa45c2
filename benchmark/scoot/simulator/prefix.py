"""Keys of a prompt's blocks: equal where, and only where, everything up to the block's end is equal. Pure.

Keys are hashes of integers, which Python computes alike in every process.
"""

from __future__ import annotations

from collections.abc import Sequence

from scoot.benchmark.ask import NO_SESSION
from scoot.benchmark.trace_row import TraceRow

_BLOCKS = 0
_SESSION = 1


def keys_of_tokens(tokens: Sequence[int], block_size: int) -> list[int]:
    """One key per whole block of a prompt.

    Args:
        tokens: ids of the prompt.
        block_size: tokens of a block, at least 1.
    """
    keys: list[int] = []
    chain = 0
    for end in range(block_size, len(tokens) + 1, block_size):
        chain = hash((chain, *tokens[end - block_size : end]))
        keys.append(chain)
    return keys


def keys_of_row(row: TraceRow, *, session: int, run_seed: int, block_size: int) -> list[int]:
    """Keys of the leading blocks that other requests of the same run may share, without making the prompt's tokens.

    They share what scoot.benchmark.prompt lets them share: leading blocks of the trace, and within a session all of
    the shorter prompt. Blocks that are this request's own have no key. Empty where nothing is shared, and for a row
    without a length.

    Args:
        row: of the workload.
        session: its session in the run's schedule, or NO_SESSION.
        run_seed: prompts of different runs share nothing.
        block_size: tokens of a block of the KV cache.
    """
    length = row.input_tokens or 0
    size = row.block_tokens
    from_blocks = min(length, len(row.blocks) * size)
    shared = from_blocks if session == NO_SESSION else length
    keys: list[int] = []
    chain = hash(run_seed)
    for end in range(block_size, shared + 1, block_size):
        start = end - block_size
        parts: list[int] = []
        while start < min(end, from_blocks):
            # A token is its block's id and its place in it, however long the blocks of a row are.
            block, place = divmod(start, size)
            upto = min(end, from_blocks, (block + 1) * size)
            parts += [_BLOCKS, row.blocks[block], place, upto - start]
            start = upto
        if start < end:
            parts += [_SESSION, session, start]
        chain = hash((chain, *parts))
        keys.append(chain)
    return keys
