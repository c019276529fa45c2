"""What the adapters of transformers serve, SGLang, TensorRT-LLM and llama.cpp start, and what they read back."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scoot.agent.engines import llamacpp_launch, trtllm
from scoot.agent.engines.base import EngineSettings, LaunchRequest
from scoot.agent.engines.llamacpp import LlamaCppAdapter, read_version
from scoot.agent.engines.registry import make_adapter
from scoot.agent.engines.sglang import SglangAdapter
from scoot.agent.engines.transformers import TransformersAdapter
from scoot.agent.engines.trtllm import TrtllmAdapter
from scoot.agent.host.process import ExitStatus, HelperResult
from scoot.benchmark.plan import PromptMode
from scoot.cli.agent_file import agent_toml
from scoot.wire.assignment import Device
from scoot.wire.errors import UserError
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config, Scalar, Service, StudySpec, Workload

PYTHON = "/opt/engine/bin/python"
CPU = (Device(id="cpu-0", kind="cpu"),)
GPU = (Device(id="GPU-a", kind="NVIDIA H200"),)
TWO = (*GPU, Device(id="GPU-b", kind="NVIDIA H200"))

TRANSFORMERS = TransformersAdapter(EngineSettings(kind="transformers", python=PYTHON))
SGLANG = SglangAdapter(EngineSettings(kind="sglang", python=PYTHON))
TRTLLM = TrtllmAdapter(EngineSettings(kind="trtllm", python=PYTHON))
LLAMA = LlamaCppAdapter(EngineSettings(kind="llamacpp", program="/opt/llama-server", fixed_args=("--offline",)))
LLAMA_PYTHON = LlamaCppAdapter(EngineSettings(kind="llamacpp", python=PYTHON))


def request(
    config: Config | None = None,
    *,
    devices: tuple[Device, ...] = GPU,
    model: str = "/models/tiny",
    max_model_len: int | None = None,
    **options: Scalar,
) -> LaunchRequest:
    return LaunchRequest(
        service=Service(engine="x", model=model, options=options, max_model_len=max_model_len),
        config=config or {},
        tensor_parallel=len(devices),
        devices=devices,
        port=8123,
        workdir="/runs/engine-0",
    )


# transformers serve


def test_transformers_command() -> None:
    command = TRANSFORMERS.command(
        request(
            {"cb_block_size": 32, "cb_max_memory_percent": 0.5, "compile": False},
            devices=CPU,
            max_model_len=512,
            dtype="bfloat16",
            cb_use_cuda_graph=True,
        )
    )
    assert command.argv == (
        *(PYTHON, "-m", "transformers.cli.transformers", "serve", "/models/tiny", "--host", "127.0.0.1"),
        *("--port", "8123", "--device", "cpu", "--cb-block-size=32", "--cb-max-memory-percent=0.5"),
        *("--cb-use-cuda-graph", "--no-compile", "--continuous-batching", "--dtype=bfloat16"),
    )
    assert command.env["HF_HUB_DISABLE_UPDATE_CHECK"] == "1"
    assert command.files == {}
    assert TRANSFORMERS.prompt_mode is PromptMode.TEXT
    assert TRANSFORMERS.ignore_eos is False
    argv = TRANSFORMERS.command(request(continuous_batching=False)).argv
    assert "--no-continuous-batching" in argv
    assert argv[argv.index("--device") + 1] == "cuda:0"


def test_transformers_cannot_spread_a_model_or_take_a_revision() -> None:
    with pytest.raises(UserError, match="2 devices"):
        TRANSFORMERS.command(request(devices=TWO))
    with pytest.raises(UserError, match="revision"):
        TRANSFORMERS.command(request(model="/models/tiny@main"))


@pytest.mark.parametrize("value", ["kernels-community/flash-attn2", "ggml-org/ggml-attn", True])
def test_transformers_downloads_no_attention(value: Scalar) -> None:
    with pytest.raises(UserError, match="not allowed"):
        TRANSFORMERS.command(request({"attn_implementation": value}))


def test_transformers_tells_whether_batching_is_continuous() -> None:
    asked = request({"cb_num_blocks": 64, "attn_implementation": "eager"}, dtype="float16")
    line = "[transformers] [Request received] Model: /models/tiny@main, CB: {}\n"
    kept = {"continuous_batching": True, "cb_num_blocks": 64, "dtype": "float16"}
    assert TRANSFORMERS.effective_config("x\n" + line.format(True), asked, {}) == kept
    assert TRANSFORMERS.effective_config("", asked, None) == kept
    fallen = TRANSFORMERS.effective_config(line.format(False), asked, {})
    assert fallen == {"continuous_batching": False, "dtype": "float16"}
    assert TRANSFORMERS.effective_config("", request(continuous_batching=False), {})["continuous_batching"] is False


# SGLang


def test_sglang_command() -> None:
    command = SGLANG.command(
        request(
            {"chunked_prefill_size": -1, "disable_radix_cache": True, "enable_mixed_chunk": False, "tp_size": 2},
            devices=TWO,
            max_model_len=4096,
            mem_fraction_static=0.8,
        )
    )
    assert command.argv == (
        *(PYTHON, "-m", "sglang.launch_server", "--model-path", "/models/tiny", "--host", "127.0.0.1"),
        *("--port", "8123", "--log-level-http", "warning", "--tp-size", "2", "--chunked-prefill-size=-1"),
        *("--context-length=4096", "--disable-radix-cache", "--mem-fraction-static=0.8"),
    )
    assert command.env["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert "SGLANG_USE_CPU_ENGINE" not in command.env
    on_cpu = SGLANG.command(request(devices=CPU))
    assert on_cpu.argv[-2:] == ("--device", "cpu")
    assert on_cpu.env["SGLANG_USE_CPU_ENGINE"] == "1"


def test_sglang_tells_its_arguments() -> None:
    asked = request({"hicache_ratio": 2.5, "dtype": "auto"}, devices=TWO)
    today = {
        "page_size": 1,
        "max_running_requests": 2048,
        "hicache_ratio": 2.0,
        "attention_backend": None,
        "schedule_policy": "fcfs",
        "tp_size": 7,
        "internal_states": [{"page_size": 9}],
    }
    found = SGLANG.effective_config("", asked, {"/server_info": msgspec.json.encode(today).decode()})
    assert found == {
        "tp_size": 2,
        "page_size": 1,
        "max_running_requests": 2048,
        "hicache_ratio": 2.0,
        "schedule_policy": "fcfs",
    }
    earlier = SGLANG.effective_config("", asked, {"/server_info": "Not Found", "/get_server_info": '{"page_size": 16}'})
    assert earlier == {"tp_size": 2, "page_size": 16}


# TensorRT-LLM


def trtllm_file(config: Config, **options: Scalar) -> dict[str, Any]:
    asked = request(config)
    service = msgspec.structs.replace(asked.service, options=options)
    files = TRTLLM.command(msgspec.structs.replace(asked, service=service)).files
    assert set(files) <= {trtllm.CONFIG_FILE}
    found: dict[str, Any] = msgspec.json.decode(files.get(trtllm.CONFIG_FILE, "{}"))
    return found


def test_trtllm_command_and_file() -> None:
    asked = request(
        {
            "max_batch_size": 64,
            "tokens_per_block": 32,
            "capacity_scheduler_policy": "MAX_UTILIZATION",
            "enable_chunked_context": True,
            "kv_cache_free_gpu_mem_fraction": 0.85,
            "cuda_graph_config__batch_sizes": "1,2,4",
            "tensor_parallel_size": 2,
        },
        devices=TWO,
        max_model_len=2048,
        stream_interval=2,
        disable_overlap_scheduler=False,
    )
    command = TRTLLM.command(asked)
    assert command.argv == (
        *(PYTHON, "-m", "tensorrt_llm.commands.serve", "serve", "/models/tiny", "--host", "127.0.0.1"),
        *("--port", "8123", "--backend", "pytorch", "--tp_size", "2", "--enable_chunked_prefill"),
        *("--max_batch_size=64", "--max_seq_len=2048", "--config", "/runs/engine-0/trtllm-serve.yaml"),
    )
    assert msgspec.json.decode(command.files["trtllm-serve.yaml"]) == {
        "cuda_graph_config": {"batch_sizes": [1, 2, 4]},
        "disable_overlap_scheduler": False,
        "kv_cache_config": {"free_gpu_memory_fraction": 0.85, "tokens_per_block": 32},
        "scheduler_config": {"capacity_scheduler_policy": "MAX_UTILIZATION"},
        "stream_interval": 2,
    }
    assert TRTLLM.served_model_name(asked) == "tiny"


def test_trtllm_needs_no_file_without_fields() -> None:
    command = TRTLLM.command(request({"max_num_tokens": 8192, "enable_chunked_prefill": False}))
    assert command.files == {}
    assert command.argv[-1] == "--max_num_tokens=8192"
    assert "--config" not in command.argv


@pytest.mark.parametrize(
    ("value", "written"),
    [(1e-05, "1.0e-05"), (1e22, "1.0e+22"), (1.5e-07, "1.5e-07"), (0.9, "0.9"), (3, "3"), (2.0, "2.0"), (True, "true")],
)
def test_trtllm_numbers_are_numbers_in_yaml_too(value: Scalar, written: str) -> None:
    files = TRTLLM.command(request({"batch_wait_timeout_ms": value})).files
    assert f'"batch_wait_timeout_ms": {written}\n' in files[trtllm.CONFIG_FILE]
    assert msgspec.json.decode(files[trtllm.CONFIG_FILE]) == {"batch_wait_timeout_ms": value}


def test_trtllm_every_alias_means_an_option() -> None:
    assert set(trtllm.ALIASES.values()) <= trtllm.ALLOWED_OPTIONS
    assert not trtllm.ALIASES.keys() & set(trtllm.ALIASES.values())


def test_trtllm_names_of_one_parameter() -> None:
    with pytest.raises(UserError, match="one parameter") as caught:
        trtllm_file({"tokens_per_block": 32, "kv_cache_config__tokens_per_block": 64})
    assert caught.value.key == "parameters.tokens_per_block"
    with pytest.raises(UserError, match="one parameter"):
        trtllm_file({}, tokens_per_block=32, kv_cache_config__tokens_per_block=64)
    for config, options in (
        ({"tokens_per_block": 32}, {"kv_cache_config__tokens_per_block": 64}),
        ({"kv_cache_config__tokens_per_block": 32}, {"tokens_per_block": 64}),
    ):
        found = trtllm_file(dict[str, Scalar](config), **dict[str, Scalar](options))
        assert found == {"kv_cache_config": {"tokens_per_block": 32}}


@pytest.mark.parametrize("value", ["", "1,", "1;2", "1 2", "[1]", 1.5, True, "x", "-1"])
def test_trtllm_lists_that_are_none(value: Scalar) -> None:
    with pytest.raises(UserError):
        trtllm_file({"cuda_graph_config__batch_sizes": value})


@pytest.mark.parametrize("name", ["kv_cache_config__", "kv_cache_config____dtype", "a__b__", "stream_interval__x"])
def test_trtllm_fields_that_are_none(name: str) -> None:
    adapter = make_adapter(EngineSettings(kind="trtllm", python=PYTHON, allow_options=(name,)))
    with pytest.raises(UserError):
        adapter.command(request({name: 1, "stream_interval": 1}))


def test_trtllm_effective_sizes_are_its_logs() -> None:
    asked = request({"max_num_tokens": 9999, "tokens_per_block": 64, "enable_block_reuse": True})
    log = (
        "[01/20/2026-10:00:00] [TRT-LLM] [I] max_seq_len=8192, max_num_requests=64, max_num_tokens=8192, "
        "max_batch_size=64\n"
    )
    found = TRTLLM.effective_config("begin\n" + log, asked, {})
    assert found == {"tp_size": 1, "max_num_tokens": 8192, "max_batch_size": 64, "tokens_per_block": 64}
    assert TRTLLM.effective_config("", asked, None) == {"tp_size": 1, "tokens_per_block": 64}


# llama.cpp


def test_llama_server_command() -> None:
    command = LLAMA.command(
        request(
            {"parallel": 8, "batch_size": 1024, "cont_batching": False, "flash_attn": True},
            max_model_len=2048,
            model="/models/a.gguf",
            cache_reuse=256,
            cpu_moe=False,
        )
    )
    assert command.argv == (
        *("/opt/llama-server", "--offline", "--model", "/models/a.gguf", "--host", "127.0.0.1", "--port", "8123"),
        *("--batch-size", "1024", "--cache-reuse", "256", "--no-cont-batching", "--ctx-size", "16384"),
        *("--flash-attn", "on", "--n-gpu-layers", "999", "--parallel", "8"),
    )
    assert (LLAMA.prompt_mode, LLAMA.health_path) == (PromptMode.TOKEN_IDS, "/health")
    assert LLAMA.info_paths == ("/props",)


@pytest.mark.parametrize(
    ("config", "size"),
    [({}, "4096"), ({"parallel": -1}, "4096"), ({"parallel": 1}, "1024"), ({"ctx_size": 77, "parallel": 2}, "77")],
)
def test_llama_server_has_the_context_for_every_slot(config: Config, size: str) -> None:
    argv = LLAMA.command(request(config, devices=CPU, max_model_len=1024)).argv
    assert argv[argv.index("--ctx-size") + 1] == size
    assert "--n-gpu-layers" not in argv


def test_llama_cpp_python_command() -> None:
    asked = request({"n_batch": 256, "flash_attn": False}, devices=CPU, max_model_len=1024, model="/models/a.gguf")
    command = LLAMA_PYTHON.command(asked)
    assert command.argv == (
        *(PYTHON, llamacpp_launch.__file__, "--interrupt_requests", "false", "--model", "/models/a.gguf"),
        *("--host", "127.0.0.1", "--port", "8123", "--flash_attn=false", "--n_batch=256", "--n_ctx=1024"),
    )
    assert (command.env["HOST"], command.env["PORT"]) == ("127.0.0.1", "8123")
    assert "--n_gpu_layers=-1" in LLAMA_PYTHON.command(request()).argv
    assert (LLAMA_PYTHON.prompt_mode, LLAMA_PYTHON.health_path) == (PromptMode.TEXT, "/v1/models")
    assert LLAMA_PYTHON.info_paths == ()
    assert (LLAMA.ignore_eos, LLAMA_PYTHON.ignore_eos) == (True, False)


def test_llama_cpp_listens_on_loopback_whatever_its_environment_says() -> None:
    fixed = EngineSettings(kind="llamacpp", python=PYTHON, fixed_env={"HOST": "0.0.0.0", "PORT": "1"})  # noqa: S104
    env = make_adapter(fixed).command(request()).env
    assert (env["HOST"], env["PORT"]) == ("127.0.0.1", "8123")


def test_llama_cpp_spreads_a_model_over_gpus_only() -> None:
    assert "split-mode" not in " ".join(LLAMA.command(request(devices=TWO)).argv)
    two_slots = (*CPU, Device(id="cpu-1", kind="cpu"))
    for adapter in (LLAMA, LLAMA_PYTHON):
        with pytest.raises(UserError, match="GPUs only"):
            adapter.command(request(devices=two_slots))


def test_llama_cpp_tells_its_sizes() -> None:
    log = (
        "llama_context: n_seq_max             = 1\nllama_context: n_ctx                 = 2048\n"
        "llama_context: n_batch               = 256\nllama_context: n_ubatch              = 128\n"
        "llama_context: n_ctx                 = 9\n"
    )
    assert LLAMA_PYTHON.effective_config(log, request(), None) == {"n_ctx": 2048, "n_batch": 256, "n_ubatch": 128}


def test_llama_server_tells_its_slots() -> None:
    line = "0.00.031.421 I srv    load_model: initializing, n_slots = 2, n_ctx_slot = 512, kv_unified = '{}'\n"
    asked = request({"cont_batching": False, "batch_size": 64}, threads=2)
    kept = {"cont_batching": False, "threads": 2}
    sizes = {"parallel": 2, "kv_unified": False, "ctx_size": 1024}
    assert LLAMA.effective_config(line.format("false"), asked, None) == {**kept, **sizes}
    unified = LLAMA.effective_config(line.format("true"), asked, {"/props": '{"total_slots": 4}'})
    assert unified == {**kept, "parallel": 4, "kv_unified": True, "ctx_size": 512}
    assert LLAMA.effective_config("", asked, {"/props": "{"}) == kept


def test_llama_cpp_serves_files_of_its_own_form_only(tmp_path: Path) -> None:
    for name in ("a.gguf", "weights.bin"):
        (tmp_path / name).write_bytes(b"GGUF")
    assert LLAMA.models_ok("a.gguf", (str(tmp_path),)) == str(tmp_path / "a.gguf")
    assert LLAMA.models_ok("weights.bin", (str(tmp_path),)) is Reason.MODEL_MISSING


def done(stdout: bytes = b"", stderr: bytes = b"", code: int = 0) -> HelperResult:
    return HelperResult(exit=ExitStatus(code=code), stdout=stdout, stderr=stderr, timed_out=False)


def test_versions_of_llama_server() -> None:
    today = read_version(done(stderr=b"version: 0.5.0 (build 11434, commit abc)\nbuilt with cc for x86_64\n"))
    assert (today.version, today.entry, today.error) == ("0.5.0 (build 11434, commit abc)", True, "")
    assert read_version(done(stdout=b"noise\nversion: 6500 (abcdef)\r\n")).version == "6500 (abcdef)"
    assert "status 1" in read_version(done(stderr=b"version: 1\nerror: invalid argument", code=1)).error
    assert read_version(done(stdout=b"hello")).error != ""


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: EngineSettings(kind="llamacpp", program="/a", python="/b"), "two servers"),
        (lambda: EngineSettings(kind="vllm", program="/a", python="/b"), "no program"),
        (lambda: EngineSettings(kind="triton"), "no adapter"),
    ],
)
def test_settings_that_make_no_sense(make: Callable[[], EngineSettings], match: str) -> None:
    with pytest.raises(UserError, match=match):
        make_adapter(make())


def test_an_embedded_agent_is_told_of_a_program_as_one() -> None:
    spec = StudySpec(
        name="x",
        service=Service(engine="llamacpp", model="/m/a.gguf", device="cpu"),
        workload=Workload(profile="SQL"),
        parameters=(),
        objectives=(),
    )

    def engine(path: str) -> dict[str, Any]:
        text = agent_toml(
            spec, agent_id="a", data_dir=Path("/d"), coordinator="c:1", engines={"llamacpp": path}, slots=1
        )
        table: dict[str, Any] = tomllib.loads(text)["engines"]["llamacpp"]
        return table

    assert engine("/opt/llama.cpp/llama-server")["program"] == "/opt/llama.cpp/llama-server"
    assert "python" not in engine("/opt/llama.cpp/llama-server")
    assert engine(PYTHON)["python"] == PYTHON
