"""The adapter of SGLang against the real one on torch's CPU build: a start takes 40 s and more."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from engine_bench import launch, started

from scoot.agent.core.classify import classify_start
from scoot.agent.engines.base import EngineAdapter, EngineSettings
from scoot.agent.engines.checker import Checker, make_checker
from scoot.agent.engines.registry import make_adapter
from scoot.agent.engines.sglang import ALLOWED_OPTIONS
from scoot.wire.catalogue import shelf
from scoot.wire.catalogue.option import Catalogue, without_host
from scoot.wire.catalogue.verdict import Invalid, Ok, RefusalKind
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config

PYTHON = os.environ.get("SCOOT_SGLANG_PYTHON", "")
TOOL = Path(__file__).parents[2] / "tools" / "make_tiny_model.py"

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(not PYTHON, reason="SCOOT_SGLANG_PYTHON is not set (see `make sglang`)"),
]

SMALL: Config = {"load_format": "dummy", "max_total_tokens": 8192}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    subprocess.run([PYTHON, str(TOOL), str(folder)], check=True, timeout=120, capture_output=True)
    return str(folder)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> EngineAdapter:
    return make_adapter(EngineSettings(kind="sglang", python=PYTHON), cache_dir=tmp_path_factory.mktemp("probe"))


@pytest.fixture
async def checker() -> AsyncIterator[Checker]:
    made = make_checker(EngineSettings(kind="sglang", python=PYTHON))
    assert made is not None
    yield made
    await made.aclose()


async def test_probe_tells_the_version(adapter: EngineAdapter) -> None:
    offer = await adapter.probe()
    assert (offer.error, offer.version) == ("", "0.5.23")


async def test_it_is_asked_before_it_is_started(checker: Checker, model: str, tmp_path: Path) -> None:
    live = await checker.catalogue()
    assert isinstance(live, Catalogue), live
    snapshot = shelf.snapshot_of("sglang", live.version)
    assert snapshot is not None
    assert [(item.name, item.kind, item.choices) for item in without_host(live).options] == [
        (item.name, item.kind, item.choices) for item in snapshot.options
    ]
    assert ALLOWED_OPTIONS - live.by_name.keys() == {"cuda_graph_max_bs"}, "of earlier releases"

    cases: tuple[tuple[Config, RefusalKind, str], ...] = (
        ({"page_size": 16, "chunked_prefill_size": 100}, RefusalKind.CONSTRAINT, "page_size"),
        ({"schedule_conservativeness": -1.0}, RefusalKind.CONSTRAINT, "schedule_conservativeness"),
        ({"enable_priority_scheduling": True, "schedule_policy": "lpm"}, RefusalKind.CONSTRAINT, "schedule_policy"),
        ({"schedule_policy": "lifo"}, RefusalKind.INVALID_VALUE, "schedule_policy"),
        ({"cuda_graph_max_bs": 8}, RefusalKind.UNKNOWN_OPTION, "cuda_graph_max_bs"),
    )
    for config, kind, mentioned in cases:
        refused = await checker.check(launch("sglang", model, {**SMALL, **config}, tmp_path))
        assert isinstance(refused, Invalid), (config, refused)
        assert (refused.kind, mentioned in refused.options) == (kind, True), refused
    accepted = await checker.check(launch("sglang", model, {**SMALL, "page_size": 16}, tmp_path, max_model_len=512))
    assert isinstance(accepted, Ok), accepted
    assert (accepted.effective["page_size"], accepted.effective["context_length"]) == (16, 512)
    assert accepted.effective["attention_backend"] == "torch_native", "decided by the platform"


async def test_serves_and_stops_clean(adapter: EngineAdapter, model: str, tmp_path: Path) -> None:
    config: Config = {"max_running_requests": 8, "chunked_prefill_size": 256, "schedule_policy": "lpm"}
    request = launch("sglang", model, {**SMALL, **config}, tmp_path, max_model_len=512)
    async with started(adapter, request, tmp_path) as (fleet, trouble):
        assert trouble is None, fleet.log_tail(0)
        found = await fleet.effective_config(running=True)
        assert fleet.rss_bytes() > 2**29
    assert found.items() >= {**config, "tp_size": 1, "attention_backend": "torch_native", "page_size": 1}.items()


async def test_what_only_a_start_finds_comes_back_with_its_cause(
    adapter: EngineAdapter, checker: Checker, model: str, tmp_path: Path
) -> None:
    request = launch("sglang", model, {**SMALL, "attention_backend": "triton"}, tmp_path, max_model_len=512)
    assert isinstance(await checker.check(request), Ok)
    async with started(adapter, request, tmp_path) as (fleet, trouble):
        assert trouble is not None
        assert trouble.exit is not None
        text = fleet.log_text(0)
    reason, line = classify_start(trouble.exit, timed_out=False, log_text=text, engine="sglang")
    assert reason is Reason.ENGINE_EXITED_ON_START
    assert "active drivers" in line
