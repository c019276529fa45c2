"""What the vLLM adapter starts, refuses and reads back."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.agent.engines.base import EngineAdapter, EngineSettings, LaunchRequest
from scoot.agent.engines.probing import Probe
from scoot.agent.engines.registry import make_adapter
from scoot.agent.engines.vllm import ALLOWED_OPTIONS, VllmAdapter
from scoot.wire.assignment import Device
from scoot.wire.errors import UserError
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config, Scalar, Service

GOLDEN = Path(__file__).parents[1] / "golden" / "engine_logs"
PYTHON = "/opt/vllm/bin/python"
SETTINGS = EngineSettings(kind="vllm", python=PYTHON, allow_options=("scheduler_cls",), allow_env=("NCCL_DEBUG",))
METRICS = (
    'vllm:cache_config_info{block_size="128",cache_dtype="auto",enable_prefix_caching="True",engine="0",'
    'gpu_memory_utilization="0.92",num_cpu_blocks="None",prefix_caching_hash_algo="sha256"} 1.0\n'
)


def request(
    config: Config | None = None,
    *,
    options: dict[str, Scalar] | None = None,
    env: dict[str, str] | None = None,
    model: str = "/models/tiny",
    tensor_parallel: int = 1,
    devices: tuple[Device, ...] = (Device(id="cpu-0", kind="cpu"),),
    max_model_len: int | None = None,
) -> LaunchRequest:
    service = Service(engine="vllm", model=model, options=options or {}, env=env or {}, max_model_len=max_model_len)
    return LaunchRequest(
        service=service,
        config=config or {},
        tensor_parallel=tensor_parallel,
        devices=devices,
        port=8123,
        workdir="/var/lib/scoot/attempt",
    )


@pytest.fixture
def adapter() -> EngineAdapter:
    return make_adapter(SETTINGS)


def test_command_line(adapter: EngineAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    command = adapter.command(
        request(
            {"max_num_seqs": 64, "enable_prefix_caching": False, "gpu_memory_utilization": 0.9},
            options={"enforce_eager": True, "load_format": "dummy", "max_num_seqs": 8, "disable_log_stats": False},
            env={"VLLM_CPU_KVCACHE_SPACE": "1"},
            max_model_len=2048,
        )
    )
    assert command.argv == (
        *(PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", "/models/tiny", "--host", "127.0.0.1"),
        *("--port", "8123", "--uvicorn-log-level", "warning", "--disable-uvicorn-access-log"),
        *("--no-enable-prefix-caching", "--enforce-eager", "--gpu-memory-utilization=0.9", "--load-format=dummy"),
        *("--max-model-len=2048", "--max-num-seqs=64"),
    )
    assert command.env["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert command.env["HF_HUB_OFFLINE"] == "1"
    assert command.env["CUDA_VISIBLE_DEVICES"] == ""
    assert "planted" not in command.env.values()
    assert "PYTHONPATH" not in command.env


def test_gpus_are_named_by_uuid_and_degree_is_the_replicas(adapter: EngineAdapter) -> None:
    gpus = tuple(Device(id=f"GPU-{name}", kind="NVIDIA H200") for name in "ab")
    command = adapter.command(request({"tensor_parallel_size": 2}, tensor_parallel=2, devices=gpus))
    assert command.env["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    place = command.argv.index("--tensor-parallel-size")
    assert command.argv[place + 1] == "2"
    assert sum("tensor-parallel" in item for item in command.argv) == 1


@pytest.mark.parametrize(
    "name",
    [
        *(
            "trust_remote_code",
            "middleware",
            "tool_parser_plugin",
            "logits_processors",
            "worker_cls",
            "api_key",
            "host",
        ),
        *("port", "ssl_keyfile", "download_dir", "model", "tokenizer", "chat_template", "allowed_local_media_path"),
        *("hf_token", "log_config_file", "kv_transfer_config", "speculative_config", "lora_modules", "config"),
        *(
            "Max_num_seqs",
            "max-num-seqs",
            "--max_num_seqs",
            "max_num_seqs=1",
            "",
            "a b",
            "é",
            "x" * 65,
            "max_num_seqs\n",
        ),
    ],
)
def test_names_that_are_refused(adapter: EngineAdapter, name: str) -> None:
    asked: Config = {name: "1"}
    nothing: Config = {}
    for config, options in ((asked, nothing), (nothing, asked)):
        with pytest.raises(UserError) as caught:
            adapter.command(request(config, options=options))
        assert caught.value.key.startswith("parameters." if config else "service.options.")


def test_administrator_can_allow_more(adapter: EngineAdapter) -> None:
    command = adapter.command(request({"scheduler_cls": "scoot.slo.Plugin"}, env={"NCCL_DEBUG": "INFO"}))
    assert "--scheduler-cls=scoot.slo.Plugin" in command.argv
    assert command.env["NCCL_DEBUG"] == "INFO"


@pytest.mark.parametrize(
    "value", ["-x", "--trust-remote-code", "a\x00b", "a\nb", "x" * 5000, float("nan"), float("inf")]
)
def test_values_that_are_refused(adapter: EngineAdapter, value: Scalar) -> None:
    with pytest.raises(UserError):
        adapter.command(request({"dtype": value}))


@pytest.mark.parametrize("value", ["runai_streamer", "tensorizer", "pt", "", True])
def test_load_formats_that_run_code_are_refused(adapter: EngineAdapter, value: Scalar) -> None:
    with pytest.raises(UserError, match="not allowed"):
        adapter.command(request(options={"load_format": value}))


@pytest.mark.parametrize(
    "env",
    [
        *({"LD_PRELOAD": "/x.so"}, {"PYTHONPATH": "/x"}, {"VLLM_PLUGINS": "x"}, {"VLLM_SERVER_DEV_MODE": "1"}),
        *({"HF_HUB_OFFLINE": "0"}, {"OMP_NUM_THREADS": "1\n2"}, {"CUDA_VISIBLE_DEVICES": "0"}, {"": "x"}),
    ],
)
def test_variables_that_are_refused(adapter: EngineAdapter, env: dict[str, str]) -> None:
    with pytest.raises(UserError) as caught:
        adapter.command(request(env=env))
    assert caught.value.key.startswith("service.env.")


def test_fixed_variables_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    settings = EngineSettings(
        kind="vllm", python=PYTHON, fixed_env={"OMP_NUM_THREADS": "2"}, fixed_args=("-X", "faulthandler")
    )
    command = make_adapter(settings).command(request(env={"OMP_NUM_THREADS": "64"}))
    assert command.env["OMP_NUM_THREADS"] == "2"
    assert command.env["HOME"] == "/var/lib/scoot/attempt"
    assert command.argv[:4] == (PYTHON, "-X", "faulthandler", "-m")


@given(
    st.dictionaries(
        st.one_of(st.sampled_from(sorted(ALLOWED_OPTIONS)), st.text(max_size=20)),
        st.one_of(st.booleans(), st.integers(), st.floats(), st.text(max_size=30)),
        max_size=4,
    )
)
def test_no_configuration_smuggles_a_flag(config: Config) -> None:
    adapter = make_adapter(SETTINGS)
    try:
        argv = adapter.command(request(config)).argv
    except UserError:
        return
    allowed = ALLOWED_OPTIONS | {"scheduler_cls"}
    tail = argv[argv.index("--disable-uvicorn-access-log") + 1 :]
    if "--tensor-parallel-size" in tail:
        place = tail.index("--tensor-parallel-size")
        tail = tail[:place] + tail[place + 2 :]
    for item in tail:
        flag = item.partition("=")[0].removeprefix("--").replace("-", "_")
        assert flag in allowed or flag.removeprefix("no_") in allowed
        assert "\x00" not in item
        assert "\n" not in item


def test_relative_models_and_interpreters_are_refused(adapter: EngineAdapter) -> None:
    with pytest.raises(UserError, match="not a path"):
        adapter.command(request(model="meta-llama/Llama-3.1-8B"))
    with pytest.raises(UserError, match="absolute"):
        make_adapter(EngineSettings(kind="vllm", python="python3"))
    with pytest.raises(UserError, match="no adapter"):
        make_adapter(EngineSettings(kind="triton"))
    with pytest.raises(UserError, match="name"):
        make_adapter(EngineSettings(kind="vllm", python=PYTHON, allow_options=("--x",)))


def test_models_stay_inside_their_roots(adapter: EngineAdapter, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "good", root / "empty", outside):
        folder.mkdir(parents=True)
    (root / "good" / "config.json").write_text("{}")
    (outside / "config.json").write_text("{}")
    (root / "link").symlink_to(outside)
    roots = (str(tmp_path / "absent"), str(root))
    assert adapter.models_ok("good", roots) == str(root / "good")
    assert adapter.models_ok(str(root / "good"), roots) == str(root / "good")
    for model in ("empty", "link", "../outside", str(outside), "absent", "", "good\x00", "x" * 5000):
        assert adapter.models_ok(model, roots) is Reason.MODEL_MISSING
    assert adapter.models_ok("good", ()) is Reason.MODEL_MISSING


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"vocab_size": 32000, "bos_token_id": 1, "eos_token_id": 2}, (16, 32000)),
        ({"vocab_size": 128256, "eos_token_id": [128001, 128009], "pad_token_id": None}, (16, 128001)),
        ({"text_config": {"vocab_size": 4096}}, (16, 4096)),
    ],
)
def test_token_range(
    adapter: EngineAdapter, tmp_path: Path, config: dict[str, object], expected: tuple[int, int]
) -> None:
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(config))
    assert adapter.token_range(str(tmp_path)) == expected


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"vocab_size": 8}', b'{"vocab_size": "x"}'])
def test_token_range_of_a_broken_model(adapter: EngineAdapter, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        adapter.token_range(str(tmp_path))
    assert caught.value.path == str(tmp_path / "config.json")


def probed() -> VllmAdapter:
    adapter = VllmAdapter(SETTINGS)
    adapter._prober.known = Probe(
        version="0.32.0",
        entry=True,
        defaults={"max_num_seqs": 128, "max_num_batched_tokens": 2048, "block_size": 128, "stream_interval": 1},
    )
    return adapter


def test_effective_defaults_of_a_real_start() -> None:
    log = (GOLDEN / "vllm_0.32_ready_defaults.log").read_text()
    found = probed().effective_config(log, request(), {"/metrics": METRICS})
    assert found == {
        "block_size": 128,
        "disable_custom_all_reduce": True,
        "enable_chunked_prefill": True,
        "enable_prefix_caching": True,
        "gpu_memory_utilization": 0.92,
        "max_num_batched_tokens": 2048,
        "max_num_seqs": 128,
        "prefix_caching_hash_algo": "sha256",
        "stream_interval": 1,
        "tensor_parallel_size": 1,
    }


def test_effective_values_of_what_was_asked() -> None:
    log = (GOLDEN / "vllm_0.32_ready.log").read_text()
    asked: Config = {"block_size": 32, "max_num_seqs": 64, "async_scheduling": True}
    found = probed().effective_config(log, request(asked), None)
    assert found["block_size"] == 32
    assert found["max_num_seqs"] == 64
    assert "async_scheduling" not in found, "asked for is not applied: CPU builds turn it off silently"


@pytest.mark.parametrize(
    ("config", "tokens", "seqs"),
    [
        ({"max_num_batched_tokens": 64}, 64, 64),
        ({"max_num_seqs": 4096}, 2048, 4096),
        ({"enable_chunked_prefill": False, "max_num_seqs": 1}, 2048, 1),
    ],
)
def test_batch_defaults_follow_vllms_rule(config: Config, tokens: int, seqs: int) -> None:
    log = "INFO [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: x=1, max_seq_len=2048, y=2"
    found = probed().effective_config(log, request(config), None)
    assert (found["max_num_batched_tokens"], found["max_num_seqs"]) == (tokens, seqs)


def test_unknown_defaults_are_absent_rather_than_guessed() -> None:
    found = probed().effective_config("", request({"performance_mode": "throughput"}), {})
    assert found == {"performance_mode": "throughput", "tensor_parallel_size": 1}
    assert VllmAdapter(SETTINGS).effective_config("", request(tensor_parallel=4), None) == {"tensor_parallel_size": 4}


@given(st.text(), st.text())
def test_reading_back_never_raises(log: str, metrics: str) -> None:
    text = f"Initializing a V1 LLM engine (v1) with config: block_size={log}, max_num_seqs=8,{log}"
    bodies = {"/metrics": f"vllm:cache_config_info{{block_size={metrics},{metrics}}} 1.0"}
    found = probed().effective_config(text, request({"max_num_batched_tokens": "many"}), bodies)
    assert found["tensor_parallel_size"] == 1


async def test_probe_of_a_missing_interpreter() -> None:
    offer = await make_adapter(EngineSettings(kind="vllm", python="/nonexistent/python")).probe()
    assert offer.version == ""
    assert "/nonexistent/python" in offer.error


async def test_probe_of_an_interpreter_without_vllm(tmp_path: Path) -> None:
    settings = EngineSettings(kind="vllm", python=sys.executable, fixed_args=("-I", "-S"))
    offer = await make_adapter(settings, cache_dir=tmp_path).probe()
    assert "No module named 'vllm'" in offer.error
    assert not list(tmp_path.iterdir()), "a failure is asked again"  # noqa: ASYNC240 - one look


async def test_probe_is_remembered_until_the_installation_changes(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    count = tmp_path / "count"

    def install(version: str) -> None:
        python.parent.mkdir(exist_ok=True)
        python.unlink(missing_ok=True)
        python.write_text(
            f"#!/bin/sh\necho x >> {count}\necho noise\n"
            f"""echo 'SCOOT-PROBE {{"version": "{version}", "entry": true, "defaults": {{"max_num_seqs": 7}}}}'\n"""
        )
        python.chmod(0o755)

    install("1.0")
    settings = EngineSettings(kind="vllm", python=str(python))
    for _ in range(2):
        adapter = make_adapter(settings, cache_dir=tmp_path / "cache")
        assert (await adapter.probe()).version == "1.0"
        assert (await adapter.probe()).version == "1.0"
    assert count.read_text() == "x\n"
    install("2.0")
    assert (await adapter.probe()).version == "2.0"


async def test_a_release_without_the_servers_module_is_started_by_its_command(tmp_path: Path) -> None:
    for name, text in (
        ("__init__.py", '__version__ = "99.0"\n'),
        ("platforms.py", "class P:\n    device_type = 'cpu'\ncurrent_platform = P()\n"),
        ("entrypoints/cli/main.py", ""),
    ):
        path = tmp_path / "vllm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    settings = EngineSettings(kind="vllm", python=sys.executable, fixed_env={"PYTHONPATH": str(tmp_path)})
    adapter = make_adapter(settings)
    assert adapter.command(request({})).argv[2] == "vllm.entrypoints.openai.api_server", "before it was looked at"
    assert (await adapter.probe()).version == "99.0"
    assert adapter.command(request({})).argv[1:5] == ("-m", "vllm.entrypoints.cli.main", "serve", "/models/tiny")
    (tmp_path / "vllm" / "entrypoints" / "cli" / "main.py").unlink()
    offer = await make_adapter(settings).probe()
    assert "api_server or vllm.entrypoints.cli.main" in offer.error


@pytest.mark.parametrize(
    ("script", "why"),
    [("exit 3", "status 3"), ("echo 'SCOOT-PROBE {'", "nonsense"), ('echo \'SCOOT-PROBE {"version": "1"}\'', "module")],
)
async def test_probes_that_go_wrong(tmp_path: Path, script: str, why: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    offer = await make_adapter(EngineSettings(kind="vllm", python=str(python))).probe()
    assert why in offer.error
    assert offer.version == ""
