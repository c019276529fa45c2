"""The mock engine through its adapter and the process layer: as a real engine is run, and as real ones fail."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

import pytest

from scoot.agent.core.classify import classify_start
from scoot.agent.engines.base import EngineSettings, LaunchRequest
from scoot.agent.engines.registry import make_adapter
from scoot.agent.host import logs
from scoot.agent.host.ports import free_port, port_is_free
from scoot.agent.host.process import EngineProcess, spawn_engine
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config, Scalar, Service

ADAPTER = make_adapter(EngineSettings(kind="mock"))
DEADLINE_S = 40.0


def asked(config: Config, options: dict[str, Scalar], folder: Path) -> LaunchRequest:
    return LaunchRequest(
        service=Service(engine="mock", model="tiny", options=options),
        config=config,
        tensor_parallel=1,
        devices=(),
        port=free_port(),
        workdir=str(folder),
    )


async def launch(request: LaunchRequest, folder: Path) -> EngineProcess:
    return await spawn_engine(
        ADAPTER.command(request), log_path=folder / "engine.log", cwd=folder, state_dir=folder, port=request.port
    )


def get(port: int, path: str) -> str | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


async def test_effective_configuration_and_a_clean_stop(tmp_path: Path) -> None:
    request = asked({"max_num_seqs": 8, "enable_prefix_caching": False}, {"mock_double_fork_child": True}, tmp_path)
    engine = await launch(request, tmp_path)
    try:
        async with asyncio.timeout(DEADLINE_S):
            while get(request.port, ADAPTER.health_path) is None:
                done, _ = await asyncio.wait([engine.exited], timeout=0.1)
                assert not done, logs.read_tail(tmp_path / "engine.log")
        bodies = {path: get(request.port, path) or "" for path in ADAPTER.info_paths}
    finally:
        report = await engine.stop(5.0, 5.0)
    found = ADAPTER.effective_config("", request, bodies)
    assert found["max_num_seqs"] == 8
    assert found["enable_prefix_caching"] is False
    assert found["block_size"] == 16
    assert "port" not in found
    assert report.clean
    assert port_is_free(request.port)


@pytest.mark.parametrize(
    ("config", "options", "reason", "line"),
    [
        ({"frobnicate": 1}, {}, Reason.ENGINE_REJECTED_ARGS, "unrecognized arguments: --frobnicate=1"),
        ({"max_num_seqs": "many"}, {}, Reason.ENGINE_REJECTED_ARGS, ""),
        (
            {"block_size": 8},
            {"mock_exit_on_start": True, "mock_exit_message": "ValueError: No common block size for 8"},
            Reason.ENGINE_EXITED_ON_START,
            "ValueError: No common block size for 8",
        ),
    ],
)
async def test_failed_starts_are_classified(
    config: Config, options: dict[str, Scalar], reason: Reason, line: str, tmp_path: Path
) -> None:
    engine = await launch(asked(config, options, tmp_path), tmp_path)
    try:
        await asyncio.wait({engine.exited}, timeout=DEADLINE_S)
    finally:
        report = await engine.stop(5.0, 5.0)
    text = logs.read_text(tmp_path / "engine.log")
    found, told = classify_start(report.exit, timed_out=False, log_text=text, engine="mock")
    assert found is reason, text
    assert told.startswith(line)
