"""The oracle over a real vLLM: an import, no engine is started."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_bench import launch

from scoot.agent.engines.base import EngineSettings
from scoot.agent.engines.checker import make_checker
from scoot.agent.engines.oracle import Oracle
from scoot.wire.catalogue import shelf
from scoot.wire.catalogue.option import Catalogue, OptionKind, without_host
from scoot.wire.catalogue.verdict import Invalid, Ok, RefusalKind, Unknown, Verdict, same_effective
from scoot.wire.spec import Config

TOOL = Path(__file__).parents[2] / "tools" / "make_tiny_model.py"
PYTHON = os.environ.get("SCOOT_VLLM_PYTHON", "")

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not PYTHON, reason="SCOOT_VLLM_PYTHON is not set: no real vLLM here (see `make vllm`)"),
]


class Asked:
    """One oracle for all tests of the module, on a loop of its own: its import takes 10 s and more."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self.runner = runner
        self.oracle = Oracle(EngineSettings(kind="vllm", python=PYTHON))

    def check(self, config: Config, model: str = "") -> Verdict:
        return self.runner.run(self.oracle.check(config, model=model))


@pytest.fixture(scope="module")
def oracle() -> Iterator[Asked]:
    with asyncio.Runner() as runner:
        asked = Asked(runner)
        yield asked
        runner.run(asked.oracle.aclose())


def made_of(oracle: Asked, config: Config) -> dict[str, object]:
    verdict = oracle.check(config)
    assert isinstance(verdict, Ok), verdict
    return verdict.effective


def test_its_catalogue_is_the_snapshot_of_its_version(oracle: Asked) -> None:
    live = oracle.runner.run(oracle.oracle.catalogue())
    assert isinstance(live, Catalogue), live
    assert live.by_name["max_num_seqs"].kind is OptionKind.INT
    if live.version not in shelf.versions("vllm"):
        pytest.skip(f"there is no snapshot of {live.version}")
    snapshot = shelf.snapshot_of("vllm", live.version)
    assert snapshot is not None
    assert [(item.name, item.kind, item.choices, item.aliases) for item in without_host(live).options] == [
        (item.name, item.kind, item.choices, item.aliases) for item in snapshot.options
    ], "made by the same helper; if vLLM's build is another, see tools/catalogue_snapshot.py"


@pytest.mark.parametrize(
    ("config", "kind", "mentioned"),
    [
        ({"max_num_seqs": 64, "max_num_batched_tokens": 32}, RefusalKind.CONSTRAINT, "max_num_batched_tokens"),
        ({"enable_chunked_prefill": False, "max_num_batched_tokens": 512}, RefusalKind.CONSTRAINT, "max_model_len"),
        ({"tensor_parallel_size": 3}, RefusalKind.CONSTRAINT, "tensor_parallel_size"),
        ({"block_size": 0}, RefusalKind.INVALID_VALUE, "block_size"),
        ({"max_num_seqs": 4.5}, RefusalKind.INVALID_VALUE, "max_num_seqs"),
        ({"performance_mode": "frugal"}, RefusalKind.INVALID_VALUE, "performance_mode"),
        ({"scheduler_delay_factor": 0.5}, RefusalKind.UNKNOWN_OPTION, "scheduler_delay_factor"),
    ],
)
def test_what_it_refuses(oracle: Asked, config: Config, kind: RefusalKind, mentioned: str) -> None:
    verdict = oracle.check(config)
    assert isinstance(verdict, Invalid), verdict
    assert verdict.kind is kind
    assert mentioned in verdict.options
    assert "\n" not in verdict.reason
    assert "Value error" not in verdict.reason


def test_what_it_makes_of_options(oracle: Asked) -> None:
    base = made_of(oracle, {})
    assert (base["max_num_seqs"], base["enable_prefix_caching"], base["block_size"]) == (128, True, 128)
    assert same_effective(base, made_of(oracle, {"block_size": 128, "max_num_seqs": 128}))
    throughput = made_of(oracle, {"performance_mode": "throughput"})
    assert throughput["max_num_seqs"] == 256
    assert not same_effective(base, throughput)
    inert = oracle.runner.run(
        oracle.oracle.inert({"async_scheduling": [True, False], "enable_dbo": [True], "max_num_seqs": [64]})
    )
    assert inert == {"async_scheduling", "enable_dbo"}, "vLLM's CPU backend turns both off"


def test_fifty_other_questions_change_no_answer(oracle: Asked) -> None:
    asked: list[Config] = [
        {},
        {"max_num_seqs": 16, "max_num_batched_tokens": 512},
        {"max_num_seqs": 64, "max_num_batched_tokens": 32},
        {"optimization_level": 0, "tensor_parallel_size": 2},
    ]
    before = [oracle.check(config) for config in asked]
    for number in range(50):
        oracle.check(
            {
                "max_num_seqs": 8 + number,
                "tensor_parallel_size": (1, 2, 4, 3)[number % 4],
                "optimization_level": number % 4,
                "enforce_eager": bool(number % 2),
                "block_size": 32 * (number % 3),
                "kv_cache_dtype": ("auto", "fp8")[number % 2],
                "max_cudagraph_capture_size": 64,
            }
        )
    assert [oracle.check(config) for config in asked] == before
    assert oracle.oracle.starts == 1


def test_a_model_that_cannot_be_read_is_nobodys_configuration(oracle: Asked) -> None:
    verdict = oracle.check({"max_num_seqs": 64}, model="/nonexistent/model")
    assert isinstance(verdict, Unknown)
    assert "without any option" in verdict.why


async def test_a_replica_is_checked_as_it_would_be_started(tmp_path: Path) -> None:
    model = tmp_path / "tiny"
    subprocess.run([PYTHON, TOOL, model], check=True, capture_output=True)  # noqa: ASYNC221 - nothing else runs here
    checker = make_checker(EngineSettings(kind="vllm", python=PYTHON))
    assert checker is not None
    verdicts = []
    try:
        for config in ({"max_num_seqs": 64, "max_num_batched_tokens": 32}, {"max_num_seqs": 64}):
            request = launch(
                "vllm", str(model), config, tmp_path, max_model_len=512, enforce_eager=True, load_format="dummy"
            )
            verdicts.append(await checker.check(request))
    finally:
        await checker.aclose()
    refused, accepted = verdicts
    assert isinstance(refused, Invalid), refused
    assert refused.kind is RefusalKind.CONSTRAINT
    assert {"max_num_batched_tokens", "max_num_seqs"} <= set(refused.options)
    assert isinstance(accepted, Ok), accepted
    assert (accepted.effective["max_num_seqs"], accepted.effective["enforce_eager"]) == (64, True)
