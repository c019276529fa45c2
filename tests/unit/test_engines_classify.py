"""How other engines than vLLM say what is wrong: logs of real starts, and lines from the source of the others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scoot.agent.core.classify import classify_load, classify_start
from scoot.agent.host.process import ExitStatus
from scoot.wire.reasons import Reason

GOLDEN = Path(__file__).parents[1] / "golden" / "engine_logs"

CATALOGUE = [
    ("transformers_5.19_unknown_flag", Reason.ENGINE_REJECTED_ARGS, "No such option '--frobnicate'."),
    ("transformers_5.19_bad_type", Reason.ENGINE_REJECTED_ARGS, "Invalid value for '--cb-block-size': 'many' is not"),
    (
        "transformers_5.19_bad_attention",
        Reason.ENGINE_REJECTED_ARGS,
        "ValueError: Unsupported attention implementation: 'turbo'",
    ),
    ("transformers_5.19_no_model", Reason.MODEL_MISSING, "OSError: Repo id must be in the form"),
    ("transformers_5.19_port_in_use", Reason.PORT_TAKEN, "ERROR: [Errno 98] error while attempting to bind"),
    ("llama_cpp_python_0.3.36_unknown_flag", Reason.ENGINE_REJECTED_ARGS, "unrecognized arguments: --frobnicate=1"),
    ("llama_cpp_python_0.3.36_bad_type", Reason.ENGINE_REJECTED_ARGS, "argument --n_batch: invalid int value: 'many'"),
    (
        "llama_cpp_python_0.3.36_bad_value",
        Reason.ENGINE_REJECTED_ARGS,
        "ModelSettings: n_batch: Input should be greater than or equal to 1",
    ),
    ("llama_cpp_python_0.3.36_no_model", Reason.MODEL_MISSING, "ValueError: Model path does not exist: /models/absent"),
    ("llama_cpp_python_0.3.36_not_gguf", Reason.MODEL_MISSING, "gguf_init_from_reader: invalid magic characters"),
    ("llama_cpp_python_0.3.36_kv_too_large", Reason.ENGINE_OOM, "ggml_backend_cpu_buffer_type_alloc_buffer: failed to"),
    ("llama_cpp_python_0.3.36_port_in_use", Reason.PORT_TAKEN, "ERROR: [Errno 98] error while attempting to bind"),
    ("llama_server_0.5_unknown_flag", Reason.ENGINE_REJECTED_ARGS, "error: invalid argument: --frobnicate"),
    (
        "llama_server_0.5_bad_choice",
        Reason.ENGINE_REJECTED_ARGS,
        'error while handling argument "--split-mode": invalid value',
    ),
    ("llama_server_0.5_no_model", Reason.MODEL_MISSING, "gguf_init_from_file: failed to open GGUF file"),
    ("llama_server_0.5_not_gguf", Reason.MODEL_MISSING, "gguf_init_from_reader: invalid magic characters"),
    ("llama_server_0.5_kv_too_large", Reason.ENGINE_OOM, "ggml_backend_cpu_buffer_type_alloc_buffer: failed to alloc"),
    ("llama_server_0.5_port_in_use", Reason.PORT_TAKEN, "srv start: couldn't bind HTTP server socket"),
    ("sglang_0.5.23_unknown_flag", Reason.ENGINE_REJECTED_ARGS, "unrecognized arguments: --frobnicate=1"),
    ("sglang_0.5.23_bad_choice", Reason.ENGINE_REJECTED_ARGS, "argument --schedule-policy: invalid choice: 'lifo'"),
    ("sglang_0.5.23_bad_type", Reason.ENGINE_REJECTED_ARGS, "argument --chunked-prefill-size: invalid int value"),
    (
        "sglang_0.5.23_chunk_and_page",
        Reason.ENGINE_REJECTED_ARGS,
        "AssertionError: chunked_prefill_size must be divisible by page_size",
    ),
    ("sglang_0.5.23_no_model", Reason.MODEL_MISSING, "OSError: Repo id must be in the form"),
    ("sglang_0.5.23_port_in_use", Reason.PORT_TAKEN, "ERROR: [Errno 98] error while attempting to bind"),
    ("sglang_0.5.23_no_memory_for_cache", Reason.ENGINE_OOM, "ValueError: Loaded weights leave no GPU memory for the"),
    ("sglang_0.5.23_no_gpu_driver", Reason.ENGINE_EXITED_ON_START, "RuntimeError: 0 active drivers"),
]
UNDER_LOAD = "sglang_0.5.23_scheduler_killed"


def test_every_golden_log_is_used() -> None:
    there = {path.stem for path in GOLDEN.glob("*.log") if not path.stem.startswith("vllm_")}
    assert there == {UNDER_LOAD, *(name for name, *_ in CATALOGUE)}


@pytest.mark.parametrize(("name", "reason", "line"), CATALOGUE)
def test_catalogue_of_real_failures(name: str, reason: Reason, line: str) -> None:
    text = (GOLDEN / f"{name}.log").read_text()
    found = classify_start(ExitStatus(code=1), timed_out=False, log_text=text, engine="it")
    assert found[0] is reason, found
    assert found[1].startswith(line)


SGLANG_OOM = """\
[2026-01-20 10:00:00 TP0] Load weight end. avail mem=2.00 GB
[2026-01-20 10:00:01 TP0] Scheduler hit an exception: Traceback (most recent call last):
  File "/opt/sglang/lib/python3.11/site-packages/sglang/srt/managers/scheduler.py", line 3000, in run_scheduler_process
    scheduler = Scheduler(server_args)
RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current value: mem_fraction_static=0.1

[2026-01-20 10:00:01] SIGQUIT received. signum=None, frame=None. It usually means one child failed.
"""
SGLANG_FAILED = SGLANG_OOM.replace(
    "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current value: "
    "mem_fraction_static=0.1",
    "ValueError: Unknown attention backend: turbo",
)
TRTLLM_FIELD = """\
[TensorRT-LLM] TensorRT LLM version: 1.2.0
Traceback (most recent call last):
  File "/opt/trtllm/lib/python3.12/site-packages/tensorrt_llm/llmapi/llm.py", line 100, in __init__
pydantic_core._pydantic_core.ValidationError: 1 validation error for TorchLlmArgs
kv_cache_config.tokens_per_block
  Input should be a valid integer, unable to parse string as an integer [type=int_parsing, input_value='x']
    For further information visit https://errors.pydantic.dev/2.11/v/int_parsing
"""
TRTLLM_SENTENCE = """\
pydantic_core._pydantic_core.ValidationError: 2 validation errors for TorchLlmArgs
  Value error, stream_interval must be positive, got 0 [type=value_error, input_value=
"""
LLAMA_CUDA = """\
alloc_buffer: allocating 90000.00 MiB on device 0: cudaMalloc failed: out of memory
llama_model_load: error loading model: unable to allocate CUDA0 buffer
"""


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        (
            SGLANG_OOM,
            Reason.ENGINE_OOM,
            "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
        ),
        (
            "usage: sglang serve [-h]\nsglang serve: error: argument --schedule-policy: invalid choice: 'lifo'\n",
            Reason.ENGINE_REJECTED_ARGS,
            "argument --schedule-policy: invalid choice: 'lifo'",
        ),
        (
            "RuntimeError: Rank 0 scheduler died during initialization (exit code: -9). If exit code is -9 (SIGKILL)",
            Reason.ENGINE_OOM,
            "RuntimeError: Rank 0 scheduler died",
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory.\nRuntimeError: Rank 0 scheduler died during initialization",
            Reason.ENGINE_OOM,
            "torch.OutOfMemoryError",
        ),
        (
            TRTLLM_FIELD,
            Reason.ENGINE_REJECTED_ARGS,
            "TorchLlmArgs: kv_cache_config.tokens_per_block: Input should be a valid integer, unable",
        ),
        (
            TRTLLM_SENTENCE,
            Reason.ENGINE_REJECTED_ARGS,
            "TorchLlmArgs: stream_interval must be positive, got 0",
        ),
        (
            "Usage: trtllm-serve serve [OPTIONS] MODEL\nError: No such option: --max_batch\n",
            Reason.ENGINE_REJECTED_ARGS,
            "No such option: --max_batch",
        ),
        (
            "RuntimeError: Executor creation failed due to insufficient GPU memory.",
            Reason.ENGINE_OOM,
            "RuntimeError: Executor creation failed",
        ),
        (
            "RuntimeError: Failed to bind socket to 127.0.0.1:8000: [Errno 98] Address already in use",
            Reason.PORT_TAKEN,
            "RuntimeError: Failed to bind",
        ),
        (
            LLAMA_CUDA,
            Reason.ENGINE_OOM,
            "alloc_buffer: allocating 90000.00 MiB on device 0",
        ),
        (
            "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
            Reason.ENGINE_OOM,
            "llama_model_load: error loading model",
        ),
        ("error: invalid argument: --frobnicate", Reason.ENGINE_REJECTED_ARGS, "error: invalid argument: --frobnicate"),
        (
            'error while handling argument "--split-mode": invalid value\n\nusage:\n-sm, --split-mode',
            Reason.ENGINE_REJECTED_ARGS,
            'error while handling argument "--split-mode": invalid value',
        ),
        (
            "srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080",
            Reason.PORT_TAKEN,
            "srv start: couldn't bind",
        ),
        ("/opt/x/bin/python: No module named sglang", Reason.ENGINE_MISSING, "/opt/x/bin/python: No module"),
        ("ModuleNotFoundError: No module named 'sglang'", Reason.ENGINE_MISSING, "ModuleNotFoundError"),
    ],
)
def test_lines_of_engines_not_run_here(text: str, reason: Reason, line: str) -> None:
    found = classify_start(ExitStatus(code=1), timed_out=False, log_text=f"begin\n{text}\n", engine="it")
    assert found[0] is reason, found
    assert found[1].startswith(line)


def test_sglangs_scheduler_killed_under_load() -> None:
    text = (GOLDEN / f"{UNDER_LOAD}.log").read_text()
    itself = ExitStatus(signal=9)  # its server ends itself with SIGKILL, five seconds later
    found = classify_load(itself, hung=False, failed_share=1.0, log_text=text, engine="sglang")
    assert found[0] is Reason.ENGINE_CRASHED_UNDER_LOAD
    assert re.match(r"Subprocess scheduler_0 \(pid=\d+\) crashed with exit code -9", found[1])


def test_what_comes_after_the_argument_check_is_no_refusal_of_arguments() -> None:
    early = (GOLDEN / "sglang_0.5.23_chunk_and_page.log").read_text()
    for text, reason in (
        (early, Reason.ENGINE_REJECTED_ARGS),
        (f"[2026-11-22 09:26:13] server_args={{}}\n{early}", Reason.ENGINE_EXITED_ON_START),
        (f"{early}\nTraceback (most recent call last):\nValueError: else\n", Reason.ENGINE_EXITED_ON_START),
    ):
        assert classify_start(ExitStatus(code=1), timed_out=False, log_text=text, engine="it")[0] is reason


def test_an_engine_that_kills_itself_was_not_short_of_memory() -> None:
    killed = ExitStatus(signal=9)
    reason, line = classify_start(killed, timed_out=False, log_text=SGLANG_FAILED, engine="sglang")
    assert (reason, line) == (Reason.ENGINE_EXITED_ON_START, "ValueError: Unknown attention backend: turbo")
    reason, line = classify_load(killed, hung=False, failed_share=1.0, log_text=SGLANG_FAILED, engine="sglang")
    assert reason is Reason.ENGINE_CRASHED_UNDER_LOAD
    assert "turbo" in line
    assert classify_start(killed, timed_out=False, log_text=SGLANG_OOM, engine="sglang")[0] is Reason.ENGINE_OOM
    begun = classify_start(killed, timed_out=False, log_text="begin", engine="sglang", oom_kills=1)
    assert begun[0] is Reason.ENGINE_OOM
