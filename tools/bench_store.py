"""Token timings per second into committed segments: encode nothing, keep everything, as the coordinator does.

    python tools/bench_store.py [--folder DIR] [--seconds 3] [--seed 0]

Synthetic batches of about 256 KiB (streams of 20-400 tokens, log-normal gaps) go to SqliteStore.add_segments in groups
of 1, 4 and 8, raw and compressed with zstd level 1. Compression is the agent's work and not part of the time.
The figures hold for one disk: name it with --folder (default: a temporary folder in the current one).
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from hashlib import sha256

import msgspec
import numpy as np
import zstandard

from scoot.coordinator.store.base import Segment
from scoot.coordinator.store.sqlite import SqliteStore
from scoot.wire import columns, limits

_GROUPS = (1, 4, 8)
_VARIETY = 16
"""Different batches; more would only take memory."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """An encoded batch and what is in it."""

    raw: bytes
    n_requests: int
    n_chunks: int


def make_batch(rng: np.random.Generator) -> Sample:
    """A batch of BATCH_TARGET_BYTES or just above, all requests answered, one token per chunk."""
    lengths: list[int] = []
    size = 0
    while size < limits.BATCH_TARGET_BYTES:
        lengths.append(int(rng.integers(20, 401)))
        size = columns.encoded_bytes(len(lengths), sum(lengths), chunk_tokens=False)
    n, chunks = len(lengths), np.array(lengths)
    gaps = rng.lognormal(np.log(25_000), 0.3, int(chunks.sum())).astype(np.uint32)
    starts = np.concatenate([[0], np.cumsum(chunks)[:-1]])
    gaps[starts] = 0
    sent = rng.integers(20, 400, n)
    first = sent + rng.integers(30_000, 900_000, n)
    batch = columns.TimingBatch(
        index=np.arange(n, dtype=np.uint32),
        intended_us=np.cumsum(rng.exponential(100_000, n)).astype(np.uint64),
        sent_us=sent.astype(np.uint32),
        first_us=first.astype(np.uint32),
        end_us=(first + np.add.reduceat(gaps, starts) + 50).astype(np.uint32),
        input_tokens=rng.integers(10, 2000, n).astype(np.uint32),
        output_tokens=chunks.astype(np.uint32),
        wanted_tokens=chunks.astype(np.uint32),
        chunks=chunks.astype(np.uint32),
        run=np.zeros(n, np.uint16),
        http_status=np.full(n, 200, np.uint16),
        replica=rng.integers(0, 2, n).astype(np.uint16),
        phase=np.ones(n, np.uint8),
        status=np.zeros(n, np.uint8),
        gap_us=gaps,
    )
    raw = columns.encode(batch)
    columns.decode(raw)
    return Sample(raw=raw, n_requests=n, n_chunks=len(gaps))


def make_segment(sample: Sample, payload: bytes, encoding: str, number: int) -> Segment:
    """A segment no other equals: the payload ends in its number, which costs 8 bytes and keeps the digests apart."""
    unique = payload + number.to_bytes(8, "little")
    return Segment(
        attempt_id=f"bench/{number // 1000}/1",
        seq=number % 1000,
        sha256=sha256(unique).hexdigest(),
        encoding=encoding,
        raw_bytes=len(sample.raw),
        n_requests=sample.n_requests,
        n_chunks=sample.n_chunks,
        payload=unique,
    )


def measure(
    folder: str, samples: Sequence[tuple[Sample, bytes]], encoding: str, group: int, seconds: float
) -> tuple[float, int]:
    """Tokens per second into a fresh store, and the number of batches kept."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        store = SqliteStore(place)
        spent = 0.0
        tokens = number = 0
        choice = itertools.cycle(samples)
        while spent < seconds:
            segments: list[Segment] = []
            for sample, payload in itertools.islice(choice, group):
                segments.append(make_segment(sample, payload, encoding, number))
                number += 1
                tokens += sample.n_chunks
            begun = time.perf_counter()
            store.add_segments(segments)
            spent += time.perf_counter() - begun
        store.close()
    return tokens / spent, number


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=".")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    samples = [make_batch(rng) for _ in range(_VARIETY)]
    compressor = zstandard.ZstdCompressor(level=1)
    encodings = {
        "raw": [(sample, sample.raw) for sample in samples],
        "zstd": [(sample, compressor.compress(sample.raw)) for sample in samples],
    }
    tokens = sum(sample.n_chunks for sample in samples)
    print(f"{_VARIETY} batches of {np.mean([len(sample.raw) for sample in samples]) / 1024:.0f} KiB, {tokens} tokens")
    for encoding, pairs in encodings.items():
        per_token = sum(len(payload) for _, payload in pairs) / tokens
        alone = 0.0
        for group in _GROUPS:
            rate, batches = measure(options.folder, pairs, encoding, group, options.seconds)
            alone = alone or rate
            print(
                f"{encoding:5} {per_token:5.2f} bytes/token  group {group}: {rate / 1e6:7.1f} million tokens/s  "
                f"n = {batches} batches  x{rate / alone:.2f} of group {_GROUPS[0]}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
