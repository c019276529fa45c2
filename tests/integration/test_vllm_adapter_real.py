"""The vLLM adapter against a real vLLM: few starts, as each takes 10 to 30 seconds."""

from __future__ import annotations

import asyncio
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from scoot.agent.core.classify import classify_start
from scoot.agent.engines.base import EngineAdapter, EngineSettings, LaunchRequest
from scoot.agent.engines.registry import make_adapter
from scoot.agent.host import cgroup, logs
from scoot.agent.host.ports import free_port, port_is_free
from scoot.agent.host.process import EngineProcess, spawn_engine
from scoot.wire.assignment import Device
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config, Service

PYTHON = os.environ.get("SCOOT_VLLM_PYTHON", "")
TOOL = Path(__file__).parents[2] / "tools" / "make_tiny_model.py"
START_S = 240.0

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not PYTHON, reason="SCOOT_VLLM_PYTHON is not set: no real vLLM here (see `make vllm`)"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    subprocess.run([PYTHON, str(TOOL), str(folder)], check=True, timeout=120)
    return str(folder)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> EngineAdapter:
    return make_adapter(EngineSettings(kind="vllm", python=PYTHON), cache_dir=tmp_path_factory.mktemp("probe"))


def request(model: str, config: Config, folder: Path) -> LaunchRequest:
    service = Service(
        engine="vllm",
        model=model,
        device="cpu",
        max_model_len=2048,
        options={"load_format": "dummy", "enforce_eager": True},
        env={"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"},
    )
    return LaunchRequest(
        service=service,
        config=config,
        tensor_parallel=1,
        devices=(Device(id="cpu-0", kind="cpu"),),
        port=free_port(),
        workdir=str(folder),
    )


async def launch(adapter: EngineAdapter, asked: LaunchRequest, folder: Path) -> EngineProcess:
    return await spawn_engine(
        adapter.command(asked),
        log_path=folder / "engine.log",
        cwd=folder,
        state_dir=folder,
        attempt_id="test/0/0",
        port=asked.port,
        cgroups=cgroup.probe(),
    )


def get(port: int, path: str) -> str | None:
    """Body of a GET on loopback, None while nothing answers with 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return None


def state_files(folder: Path) -> list[Path]:
    return list(folder.glob("*.engine.json"))


async def healthy(engine: EngineProcess, port: int, path: str) -> bool:
    """Wait until it is ready or has ended."""
    async with asyncio.timeout(START_S):
        while await asyncio.to_thread(get, port, path) is None:
            done, _ = await asyncio.wait([engine.exited], timeout=0.3)
            if done:
                return False
    return True


async def test_probe_tells_the_version(adapter: EngineAdapter) -> None:
    offer = await adapter.probe()
    assert offer.error == ""
    assert offer.version[0].isdigit()
    assert await adapter.probe() == offer


async def test_hidden_constraint_comes_back_with_its_root_cause(
    adapter: EngineAdapter, model: str, tmp_path: Path
) -> None:
    asked = request(model, {"block_size": 16}, tmp_path)
    engine = await launch(adapter, asked, tmp_path)
    try:
        assert not await healthy(engine, asked.port, adapter.health_path)
    finally:
        report = await engine.stop(15.0, 5.0)
    assert report.clean
    reason, line = classify_start(
        report.exit, timed_out=False, log_text=logs.read_text(tmp_path / "engine.log"), engine="vllm"
    )
    assert reason is Reason.ENGINE_EXITED_ON_START
    assert "No common block size for 16" in line
    assert not state_files(tmp_path)


async def test_effective_configuration_and_a_clean_stop(adapter: EngineAdapter, model: str, tmp_path: Path) -> None:
    await adapter.probe()
    asked = request(model, {"block_size": 32, "max_num_seqs": 64}, tmp_path)
    engine = await launch(adapter, asked, tmp_path)
    try:
        assert await healthy(engine, asked.port, adapter.health_path), logs.read_tail(tmp_path / "engine.log")
        bodies = {path: get(asked.port, path) or "" for path in adapter.info_paths}
        head = logs.read_head(tmp_path / "engine.log")
        found = adapter.effective_config(head, asked, bodies)
        rss_bytes = engine.rss_bytes()
        members = engine.members()
    finally:
        report = await engine.stop(15.0, 5.0)
    assert found["block_size"] == 32
    assert found["max_num_seqs"] == 64
    assert found["max_num_batched_tokens"] == 2048
    assert found["enable_chunked_prefill"] is True
    assert found["enable_prefix_caching"] is True
    assert len(members) >= 2, "the API server and its engine core"
    assert rss_bytes > 2**30
    assert report.clean
    assert engine.survivors() == ()
    assert port_is_free(asked.port)
    low, high = adapter.token_range(model)
    assert 0 < low < high <= 4096
