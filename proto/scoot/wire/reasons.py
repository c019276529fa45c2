"""Why an attempt did not end as a plain success, and who is to blame (docs/architecture.md, "Blame").

Only CONFIG teaches the feasibility model; HOST and HARNESS are retried; USER ends the trial.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Blame(StrEnum):
    """Who has to change for the outcome to change."""

    CONFIG = "CONFIG"
    HOST = "HOST"
    HARNESS = "HARNESS"
    USER = "USER"


class Reason(StrEnum):
    """What went wrong, in terms a serving engineer can act on."""

    ENGINE_REJECTED_ARGS = "ENGINE_REJECTED_ARGS"
    ENGINE_EXITED_ON_START = "ENGINE_EXITED_ON_START"
    ENGINE_OOM = "ENGINE_OOM"
    ENGINE_START_TIMEOUT = "ENGINE_START_TIMEOUT"
    ENGINE_HUNG_UNDER_LOAD = "ENGINE_HUNG_UNDER_LOAD"
    ENGINE_CRASHED_UNDER_LOAD = "ENGINE_CRASHED_UNDER_LOAD"
    ENGINE_REQUESTS_FAILED = "ENGINE_REQUESTS_FAILED"
    GPU_BUSY = "GPU_BUSY"
    GPU_MEMORY_NOT_RELEASED = "GPU_MEMORY_NOT_RELEASED"
    GPU_FAULT = "GPU_FAULT"
    PORT_TAKEN = "PORT_TAKEN"
    DISK_FULL = "DISK_FULL"
    HOST_REBOOTED = "HOST_REBOOTED"
    HOST_LOST = "HOST_LOST"
    HOST_MEMORY_SHORT = "HOST_MEMORY_SHORT"
    MODEL_MISSING = "MODEL_MISSING"
    ENGINE_MISSING = "ENGINE_MISSING"
    SELF_FENCED = "SELF_FENCED"
    LOAD_LATE = "LOAD_LATE"
    CLOCK_STEPPED = "CLOCK_STEPPED"
    CLIENT_SATURATED = "CLIENT_SATURATED"
    CLIENT_CRASHED = "CLIENT_CRASHED"
    TOO_FEW_REQUESTS = "TOO_FEW_REQUESTS"
    HOST_NOISY = "HOST_NOISY"
    UPLOAD_CORRUPT = "UPLOAD_CORRUPT"
    SPEC_INVALID = "SPEC_INVALID"
    CANCELLED_BY_USER = "CANCELLED_BY_USER"


_BLAME: Final = MappingProxyType(
    {
        Reason.ENGINE_REJECTED_ARGS: Blame.CONFIG,
        Reason.ENGINE_EXITED_ON_START: Blame.CONFIG,
        Reason.ENGINE_OOM: Blame.CONFIG,
        Reason.ENGINE_START_TIMEOUT: Blame.CONFIG,
        Reason.ENGINE_HUNG_UNDER_LOAD: Blame.CONFIG,
        Reason.ENGINE_CRASHED_UNDER_LOAD: Blame.CONFIG,
        Reason.ENGINE_REQUESTS_FAILED: Blame.CONFIG,
        Reason.GPU_BUSY: Blame.HOST,
        Reason.GPU_MEMORY_NOT_RELEASED: Blame.HOST,
        Reason.GPU_FAULT: Blame.HOST,
        Reason.PORT_TAKEN: Blame.HOST,
        Reason.DISK_FULL: Blame.HOST,
        Reason.HOST_REBOOTED: Blame.HOST,
        Reason.HOST_LOST: Blame.HOST,
        Reason.HOST_MEMORY_SHORT: Blame.HOST,
        Reason.MODEL_MISSING: Blame.HOST,
        Reason.ENGINE_MISSING: Blame.HOST,
        Reason.SELF_FENCED: Blame.HOST,
        Reason.LOAD_LATE: Blame.HARNESS,
        Reason.CLOCK_STEPPED: Blame.HARNESS,
        Reason.CLIENT_SATURATED: Blame.HARNESS,
        Reason.CLIENT_CRASHED: Blame.HARNESS,
        Reason.TOO_FEW_REQUESTS: Blame.HARNESS,
        Reason.HOST_NOISY: Blame.HARNESS,
        Reason.UPLOAD_CORRUPT: Blame.HARNESS,
        Reason.SPEC_INVALID: Blame.USER,
        Reason.CANCELLED_BY_USER: Blame.USER,
    }
)


def blame_of(reason: Reason) -> Blame:
    """The party to blame for `reason`. Total: every reason has exactly one."""
    return _BLAME[reason]
