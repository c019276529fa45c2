"""The adapter of `transformers serve` against the real one: a start takes 8 seconds on a quiet machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from engine_bench import launch, started

from scoot.agent.core.classify import classify_start
from scoot.agent.engines.base import EngineAdapter, EngineSettings
from scoot.agent.engines.lister import make_lister
from scoot.agent.engines.registry import make_adapter
from scoot.wire.catalogue.option import Catalogue, OptionKind
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config

PYTHON = os.environ.get("SCOOT_TRANSFORMERS_PYTHON", "")
TOOL = Path(__file__).parents[2] / "tools" / "make_tiny_model.py"

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(not PYTHON, reason="SCOOT_TRANSFORMERS_PYTHON is not set (see `make transformers-serve`)"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    subprocess.run([PYTHON, str(TOOL), "--weights", str(folder)], check=True, timeout=120, capture_output=True)
    return str(folder)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> EngineAdapter:
    return make_adapter(EngineSettings(kind="transformers", python=PYTHON), cache_dir=tmp_path_factory.mktemp("probe"))


async def test_probe_tells_the_version(adapter: EngineAdapter) -> None:
    offer = await adapter.probe()
    assert offer.error == ""
    assert int(offer.version.partition(".")[0]) >= 5


async def test_it_lists_its_options() -> None:
    lister = make_lister(EngineSettings(kind="transformers", python=PYTHON))
    assert lister is not None
    found = await lister.catalogue()
    assert isinstance(found, Catalogue), found
    assert found.by_name["cb_block_size"].kind is OptionKind.INT
    assert found.by_name["continuous_batching"].default is False
    assert "force_model" not in found.by_name


async def test_serves_and_stops_clean(adapter: EngineAdapter, model: str, tmp_path: Path) -> None:
    config: Config = {
        "cb_block_size": 32,
        "cb_num_blocks": 128,
        "cb_max_batch_tokens": 256,
        "attn_implementation": "sdpa",
    }
    request = launch("transformers", model, config, tmp_path, dtype="float32")
    async with started(adapter, request, tmp_path) as (fleet, trouble):
        assert trouble is None, fleet.log_tail(0)
        found = await fleet.effective_config(running=True)
        assert fleet.rss_bytes() > 2**27
    assert found == {
        "continuous_batching": True,
        "cb_block_size": 32,
        "cb_num_blocks": 128,
        "cb_max_batch_tokens": 256,
        "dtype": "float32",
    }


async def test_a_value_it_refuses_comes_back_with_the_cause(adapter: EngineAdapter, model: str, tmp_path: Path) -> None:
    request = launch("transformers", model, {"dtype": "fancy"}, tmp_path)
    async with started(adapter, request, tmp_path) as (fleet, trouble):
        assert trouble is not None
        assert trouble.exit is not None
        text = fleet.log_text(0)
    reason, line = classify_start(trouble.exit, timed_out=False, log_text=text, engine="transformers")
    assert reason is Reason.ENGINE_REJECTED_ARGS
    assert line.startswith("ValueError: Unsupported dtype: 'fancy'")
