"""The adapter of llama.cpp against real servers: llama-cpp-python's, and llama-server where there is one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import urllib.request
from pathlib import Path

import pytest
from engine_bench import launch, started

from scoot.agent.core.classify import classify_start
from scoot.agent.engines.base import EngineAdapter, EngineSettings
from scoot.agent.engines.checker import make_checker
from scoot.agent.engines.lister import make_lister
from scoot.agent.engines.registry import make_adapter
from scoot.wire.catalogue.option import Catalogue, OptionKind
from scoot.wire.catalogue.verdict import Invalid, Ok, RefusalKind
from scoot.wire.reasons import Reason

PYTHON = os.environ.get("SCOOT_LLAMACPP_PYTHON", "")
SERVER = os.environ.get("SCOOT_LLAMACPP_SERVER", "")
TOOL = Path(__file__).parents[2] / "tools" / "make_tiny_gguf.py"

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not PYTHON, reason="SCOOT_LLAMACPP_PYTHON is not set (see `make llamacpp`)"),
]
with_server = pytest.mark.skipif(not SERVER, reason="SCOOT_LLAMACPP_SERVER does not name a llama-server")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    subprocess.run([PYTHON, str(TOOL), str(path)], check=True, timeout=60, capture_output=True)
    return str(path)


@pytest.fixture
def adapter() -> EngineAdapter:
    return make_adapter(EngineSettings(kind="llamacpp", python=PYTHON))


@pytest.fixture
def native() -> EngineAdapter:
    return make_adapter(EngineSettings(kind="llamacpp", program=SERVER))


async def test_probe_tells_the_version_and_which_server_it_is(adapter: EngineAdapter) -> None:
    offer = await adapter.probe()
    assert offer.error == ""
    assert offer.version.startswith("llama-cpp-python 0.")


async def test_both_servers_list_their_options() -> None:
    for settings, name in (
        (EngineSettings(kind="llamacpp", python=PYTHON), "n_batch"),
        *([(EngineSettings(kind="llamacpp", program=SERVER), "batch_size")] if SERVER else []),
    ):
        lister = make_lister(settings)
        assert lister is not None
        found = await lister.catalogue()
        assert isinstance(found, Catalogue), found
        assert found.by_name[name].kind is OptionKind.INT
        assert len(found.options) > 40


def test_vocabulary_of_a_file_the_gguf_package_wrote(adapter: EngineAdapter, model: str) -> None:
    assert adapter.token_range(model) == (16, 512)


async def test_python_server_serves_and_stops_clean(adapter: EngineAdapter, model: str, tmp_path: Path) -> None:
    config = {"n_batch": 256, "n_threads": 1, "flash_attn": False, "logits_all": False}
    request = launch("llamacpp", model, config, tmp_path, max_model_len=1024)
    async with started(adapter, request, tmp_path) as (fleet, trouble):
        assert trouble is None, fleet.log_tail(0)
        found = await fleet.effective_config(running=True)
        asked = urllib.request.Request(
            f"http://127.0.0.1:{request.port}{adapter.health_path}", headers={"X-Request-Id": "0-7"}
        )
        with await asyncio.to_thread(urllib.request.urlopen, asked, timeout=10) as answer:
            assert answer.status == 200, "the load generator's own request ids are taken"
    assert found == {"n_batch": 256, "n_ubatch": 256, "n_ctx": 1024}


async def test_python_server_that_refuses_a_value_says_which(
    adapter: EngineAdapter, model: str, tmp_path: Path
) -> None:
    request = launch("llamacpp", model, {"n_batch": 0}, tmp_path)
    async with started(adapter, request, tmp_path) as (fleet, trouble):
        assert trouble is not None
        text = fleet.log_text(0)
    reason, line = classify_start(trouble.exit, timed_out=False, log_text=text, engine="llamacpp")
    assert reason is Reason.ENGINE_REJECTED_ARGS
    assert line == "ModelSettings: n_batch: Input should be greater than or equal to 1"


async def test_python_server_is_asked_before_it_is_started(model: str, tmp_path: Path) -> None:
    checker = make_checker(EngineSettings(kind="llamacpp", python=PYTHON))
    assert checker is not None
    try:
        refused = await checker.check(launch("llamacpp", model, {"n_batch": 0}, tmp_path))
        missing = await checker.check(launch("llamacpp", model, {"n_ubatch": 64, "cache_size": "big"}, tmp_path))
        taken = await checker.check(launch("llamacpp", model, {"n_batch": 256}, tmp_path, max_model_len=512))
    finally:
        await checker.aclose()
    assert refused == Invalid(
        "n_batch: Input should be greater than or equal to 1 (given: 0)", RefusalKind.INVALID_VALUE, ("n_batch",)
    )
    assert isinstance(missing, Invalid), missing
    assert missing.options == ("cache_size",)
    assert isinstance(taken, Ok), taken
    assert (taken.effective["n_batch"], taken.effective["n_ctx"]) == (256, 512)


@with_server
async def test_llama_server_serves_and_stops_clean(native: EngineAdapter, model: str, tmp_path: Path) -> None:
    assert (await native.probe()).version.startswith("llama-server ")
    config = {"parallel": 2, "batch_size": 256, "ubatch_size": 128, "flash_attn": False, "cont_batching": True}
    request = launch("llamacpp", model, config, tmp_path, max_model_len=512, cache_prompt=False)
    async with started(native, request, tmp_path) as (fleet, trouble):
        assert trouble is None, fleet.log_tail(0)
        found = await fleet.effective_config(running=True)
    assert found == {
        "parallel": 2,
        "ctx_size": 1024,
        "kv_unified": False,
        "cont_batching": True,
        "flash_attn": False,
        "cache_prompt": False,
    }


@with_server
async def test_llama_server_that_refuses_a_value_says_which(native: EngineAdapter, model: str, tmp_path: Path) -> None:
    request = launch("llamacpp", model, {"split_mode": "sideways"}, tmp_path)
    async with started(native, request, tmp_path) as (fleet, trouble):
        assert trouble is not None
        text = fleet.log_text(0)
    reason, line = classify_start(trouble.exit, timed_out=False, log_text=text, engine="llamacpp")
    assert reason is Reason.ENGINE_REJECTED_ARGS
    assert "--split-mode" in line
