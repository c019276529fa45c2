"""What goes wrong on GPUs. There was none to record logs on: these are written in the form of vLLM 0.32's, with the
sentences of its source, torch's and the CUDA runtime's; a recorded one should take the place of each.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from scoot.agent.core.classify import classify_load, classify_start
from scoot.agent.host.process import ExitStatus
from scoot.wire.reasons import Blame, Reason, blame_of

GOLDEN = Path(__file__).parents[1] / "golden" / "engine_logs"

AT_START = [
    (
        "oom_loading_weights",
        Reason.ENGINE_OOM,
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB",
    ),
    ("no_memory_for_cache", Reason.ENGINE_OOM, "ValueError: No available memory for the cache blocks."),
    (
        "memory_in_use",
        Reason.ENGINE_OOM,
        "ValueError: Free memory on device cuda:0 (40.1/139.8 GiB) on startup is less",
    ),
    ("oom_at_graph_capture", Reason.ENGINE_OOM, "RuntimeError: CUDA error: out of memory"),
    ("oom_warming_up_sampler", Reason.ENGINE_OOM, "RuntimeError: CUDA out of memory occurred when warming up sampler"),
    ("nccl_at_start", Reason.ENGINE_EXITED_ON_START, "RuntimeError: NCCL error: unhandled cuda error"),
    ("gpu_held_by_another", Reason.GPU_BUSY, "torch.AcceleratorError: CUDA error: CUDA-capable device(s) is/are busy"),
    ("driver_too_old", Reason.ENGINE_MISSING, "RuntimeError: The NVIDIA driver on your system is too old"),
]
UNDER_LOAD = [
    ("oom_under_load", Reason.ENGINE_OOM, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 50.00 MiB"),
    (
        "illegal_access_under_load",
        Reason.ENGINE_CRASHED_UNDER_LOAD,
        "RuntimeError: CUDA error: an illegal memory access",
    ),
    ("ecc_under_load", Reason.GPU_FAULT, "RuntimeError: CUDA error: uncorrectable ECC error encountered"),
]


def golden(name: str) -> str:
    return (GOLDEN / f"vllm_gpu_{name}.log").read_text()


def test_every_log_is_used() -> None:
    there = {path.stem.removeprefix("vllm_gpu_") for path in GOLDEN.glob("vllm_gpu_*.log")}
    assert there == {name for name, *_ in (*AT_START, *UNDER_LOAD)}


@pytest.mark.parametrize(("name", "reason", "line"), AT_START)
def test_at_start(name: str, reason: Reason, line: str) -> None:
    found = classify_start(ExitStatus(code=1), timed_out=False, log_text=golden(name), engine="vllm")
    assert found[0] is reason, found
    assert found[1].startswith(line)


@pytest.mark.parametrize(("name", "reason", "line"), UNDER_LOAD)
def test_under_load(name: str, reason: Reason, line: str) -> None:
    for status in (ExitStatus(code=0), None):
        found = classify_load(status, hung=False, failed_share=1.0, log_text=golden(name), engine="vllm")
        assert found[0] is reason, found
        assert found[1].startswith(line)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("RuntimeError: CUDA error: all CUDA-capable devices are busy or unavailable", Reason.GPU_BUSY),
        ("RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment", Reason.GPU_BUSY),
        ("RuntimeError: CUDA error: system not yet initialized", Reason.GPU_BUSY),
        ("RuntimeError: CUDA error: uncorrectable NVLink error detected during the execution", Reason.GPU_FAULT),
        ("RuntimeError: Unable to determine the device handle for GPU0000:3B:00.0: GPU is lost.", Reason.GPU_FAULT),
        ("RuntimeError: CUDA error: no CUDA-capable device is detected", Reason.ENGINE_MISSING),
        ("RuntimeError: No CUDA GPUs are available", Reason.ENGINE_MISSING),
        ("RuntimeError: Found no NVIDIA driver on your system.", Reason.ENGINE_MISSING),
        (
            "RuntimeError: CUDA error: CUDA driver version is insufficient for CUDA runtime version",
            Reason.ENGINE_MISSING,
        ),
    ],
)
def test_the_host_is_to_blame_for_its_gpus(line: str, reason: Reason) -> None:
    found = classify_start(ExitStatus(code=1), timed_out=False, log_text=f"begin\n{line}\n", engine="vllm")
    assert found == (reason, line)
    assert blame_of(found[0]) is Blame.HOST


def test_a_disk_that_fills_under_load_is_the_hosts() -> None:
    text = "OSError: [Errno 28] No space left on device"
    found = classify_load(ExitStatus(code=1), hung=False, failed_share=1.0, log_text=text, engine="vllm")
    assert found == (Reason.DISK_FULL, text)


def test_a_request_about_a_missing_model_under_load_is_no_missing_model() -> None:
    """Words that mean something at a start only."""
    text = "OSError: No such model: other\nRuntimeError: No CUDA GPUs are available"
    found = classify_load(None, hung=False, failed_share=0.5, log_text=text, engine="vllm")
    assert found[0] is Reason.ENGINE_REQUESTS_FAILED
