"""Every size and count limit of the protocol, in one place.

Parsing checks these first and meaning second, so that a hostile or broken peer is refused before it costs memory.
Sizes are bytes unless the name says otherwise.
"""

from __future__ import annotations

from typing import Final

MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""Largest gRPC message a coordinator or agent accepts."""

REPLY_BYTES: Final = 64 * 1024 * 1024
"""Largest answer to a user: a study's detail or report with thousands of trials."""

BATCH_BYTES: Final = 1024 * 1024
"""Hard cap of one timing batch, inflated. The agent aims at BATCH_TARGET_BYTES."""

BATCH_TARGET_BYTES: Final = 256 * 1024
"""A load process closes a batch at this size or after BATCH_TARGET_S, whichever comes first."""

BATCH_TARGET_S: Final = 1.0

UPLOAD_CREDITS: Final = 8
"""Batches an agent may have unacknowledged on its Upload stream."""

SPEC_BYTES: Final = 1024 * 1024
"""Largest study file."""

BLOB_BYTES: Final = 256 * 1024 * 1024
"""Largest workload blob (normalised requests, gzip)."""

BLOB_CHUNK_BYTES: Final = 1024 * 1024

STRING_CHARS: Final = 4096
"""Longest name, path, message or enumeration value."""

PARAMETERS: Final = 256
CHECKS: Final = 4096
"""Configurations of one question to an engine's argument check."""

CONSTRAINTS: Final = 256
OBJECTIVES: Final = 3
OUTCOMES: Final = 16
TRIALS: Final = 10_000
PARALLELISM: Final = 256
AGENTS: Final = 1_000
DEVICES_PER_AGENT: Final = 64
REQUESTS: Final = 10_000_000
"""Rows of a trace."""

LOG_TAIL_LINES: Final = 40
LOG_TAIL_CHARS: Final = 16 * 1024
