"""Argument checks of other engines than vLLM: the real helpers over packages that behave like the engines'."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from engine_bench import packages_in

from scoot.agent.engines.base import EngineSettings, LaunchRequest
from scoot.agent.engines.checker import Checker, make_checker
from scoot.wire.assignment import Device
from scoot.wire.catalogue.option import Catalogue, OptionKind
from scoot.wire.catalogue.verdict import Invalid, Ok, RefusalKind, Unknown, Verdict, told
from scoot.wire.errors import UserError
from scoot.wire.spec import Config, Service

TRTLLM = """
import enum
from typing import Any, Literal
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

class Policy(str, enum.Enum):
    GUARANTEED_NO_EVICT = "GUARANTEED_NO_EVICT"
    MAX_UTILIZATION = "MAX_UTILIZATION"

class KvCacheConfig(Strict):
    tokens_per_block: int = 32
    free_gpu_memory_fraction: float | None = Field(None, description="Of what is left.")
    enable_block_reuse: bool = True

    @field_validator("free_gpu_memory_fraction")
    @classmethod
    def a_share(cls, value):
        if value is not None and not 0 <= value <= 1:
            raise ValueError("free_gpu_memory_fraction must be between 0 and 1")
        return value

class SchedulerConfig(Strict):
    capacity_scheduler_policy: Policy = Policy.GUARANTEED_NO_EVICT

class CudaGraphConfig(Strict):
    batch_sizes: list[int] | None = None
    max_batch_size: int = 0

class Tokenizer: ...

class TorchLlmArgs(Strict):
    model: str
    tokenizer: str | Tokenizer | None = None
    tensor_parallel_size: int = 1
    moe_expert_parallel_size: int | None = None
    max_batch_size: int | None = 2048
    max_num_tokens: int | None = 8192
    max_seq_len: int | None = None
    stream_interval: int = 1
    enable_chunked_prefill: bool = False
    allreduce_strategy: Literal["AUTO", "NCCL"] = "AUTO"
    kv_cache_config: KvCacheConfig = KvCacheConfig()
    scheduler_config: SchedulerConfig = SchedulerConfig()
    cuda_graph_config: CudaGraphConfig | None = CudaGraphConfig()

    @model_validator(mode="after")
    def checked(self):
        if self.model == "/broken":
            raise ValueError("no such model")
        if self.stream_interval <= 0:
            raise ValueError(f"stream_interval must be positive, got {self.stream_interval}")
        if self.tensor_parallel_size > 8:
            raise FileNotFoundError("no such host")
        graphs = self.cuda_graph_config
        if graphs.batch_sizes and graphs.max_batch_size:
            raise ValueError("do not set both cuda_graph_config.batch_sizes and cuda_graph_config.max_batch_size")
        graphs.max_batch_size = max(graphs.batch_sizes or [graphs.max_batch_size or 128])
        return self
"""

SGLANG = """
import argparse, dataclasses, itertools, os
chance = itertools.count()

@dataclasses.dataclass
class ServerArgs:
    model_path: str
    device: str = None
    tp_size: int = 1
    page_size: int = 1
    chunked_prefill_size: int = None
    context_length: int = None
    schedule_policy: str = "fcfs"
    disable_radix_cache: bool = False
    random_seed: int = None
    nonce: int = 0
    skip_tokenizer_init: bool = False
    load_format: str = "auto"
    graphs: dict = dataclasses.field(default_factory=dict)
    _chunk_explicitly_set: bool = False

    @staticmethod
    def add_cli_args(parser):
        parser.add_argument("--model-path", "--model", required=True)
        parser.add_argument("--device")
        parser.add_argument("--tp-size", "--tensor-parallel-size", type=int, default=1)
        parser.add_argument("--page-size", type=int, default=1)
        parser.add_argument("--chunked-prefill-size", type=int)
        parser.add_argument("--context-length", type=int)
        policies = {"lpm", "fcfs", "lof"}
        parser.add_argument("--schedule-policy", choices=policies, default="fcfs", help="Who is next. Etc.")
        parser.add_argument("--disable-radix-cache", action="store_true")
        parser.add_argument("--random-seed", type=int)
        parser.add_argument("--skip-tokenizer-init", action="store_true")
        parser.add_argument("--load-format", default="auto")
        parser.add_argument("--old-policy", dest="schedule_policy", choices=["lpm"])  # an old spelling

    @classmethod
    def from_cli_args(cls, args):
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in vars(args).items() if name in names})

    def RESOLVE(self):
        self.nonce = next(chance)
        os.environ["SGLANG_LEFT_BEHIND"] = "1"
        if self.device == "cpu":
            self.disable_radix_cache = True
        self.graphs = {"decode": {"backend": "none" if self.device == "cpu" else "full"}}
        self._chunk_explicitly_set = self.chunked_prefill_size is not None
        if self.chunked_prefill_size is None:
            self.chunked_prefill_size = 2048 if "SGLANG_SMALL" not in os.environ else 512

    def check_server_args(self):
        assert self.tp_size != 3
        assert self.chunked_prefill_size % self.page_size == 0, "chunked_prefill_size must be divisible by page_size"
"""

PACKAGES = {
    "tensorrt_llm/__init__.py": '__version__ = "1.2.1"\nprint("noise")\n',
    "tensorrt_llm/llmapi/__init__.py": TRTLLM,
    "sglang/__init__.py": '__version__ = "0.5.23"\n',
    "sglang/srt/server_args.py": SGLANG.replace("RESOLVE", "resolve_once"),
}


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    return packages_in(tmp_path / "packages", PACKAGES)


@pytest.fixture
async def checker(request: pytest.FixtureRequest, packages: Path) -> AsyncIterator[Checker]:
    settings = EngineSettings(kind=request.param, python=sys.executable, fixed_env={"PYTHONPATH": str(packages)})
    made = make_checker(settings)
    assert made is not None
    yield made
    await made.aclose()


def launch(
    kind: str,
    config: Config,
    *,
    model: str = "/models/m",
    device: str = "cpu",
    degree: int = 1,
    env: Mapping[str, str] | None = None,
) -> LaunchRequest:
    return LaunchRequest(
        service=Service(engine=kind, model=model, device=device, env=dict(env or {})),
        config=config,
        tensor_parallel=degree,
        devices=tuple(Device(id=f"{device}-{number}", kind=device) for number in range(degree)),
        port=0,
        workdir="/w",
    )


async def ask(checker: Checker, config: Config, model: str = "/models/m") -> Verdict:
    """What TensorRT-LLM, which needs a GPU, says."""
    return await checker.check(launch("trtllm", config, model=model, device="NVIDIA H200"))


def refused(verdict: Verdict) -> Invalid:
    assert isinstance(verdict, Invalid), verdict
    return verdict


def accepted(verdict: Verdict) -> dict[str, object]:
    assert isinstance(verdict, Ok), verdict
    return verdict.effective


@pytest.mark.parametrize("checker", ["trtllm"], indirect=True)
async def test_tensorrt_llms_models_are_made_of_the_configuration_file(checker: Checker) -> None:
    async def asked(config: Config, model: str = "/models/m") -> Verdict:
        return await ask(checker, config, model)

    resolved = accepted(await asked({"tokens_per_block": 64, "max_batch_size": 32, "ep_size": 1}))
    assert resolved["kv_cache_config__tokens_per_block"] == resolved["tokens_per_block"] == 64
    assert (resolved["max_batch_size"], resolved["moe_expert_parallel_size"]) == (32, 1)
    assert resolved["cuda_graph_config__max_batch_size"] == 128, "what the engine makes of it, not what was asked"
    assert resolved["scheduler_config__capacity_scheduler_policy"] == "GUARANTEED_NO_EVICT"
    assert "model" not in resolved
    sized = accepted(await asked({"cuda_graph_config__batch_sizes": "1,2,4"}))
    assert (sized["cuda_graph_config__batch_sizes"], sized["cuda_graph_config__max_batch_size"]) == ([1, 2, 4], 4)

    wrong = refused(await asked({"stream_interval": 0}))
    assert (wrong.kind, wrong.options) == (RefusalKind.CONSTRAINT, ("stream_interval",))
    wrong = refused(await asked({"free_gpu_memory_fraction": 1.5}))
    assert "kv_cache_config__free_gpu_memory_fraction" in wrong.options
    wrong = refused(await asked({"capacity_scheduler_policy": "LIFO"}))
    assert (wrong.kind, wrong.options) == (
        RefusalKind.INVALID_VALUE,
        ("scheduler_config__capacity_scheduler_policy",),
    )
    wrong = refused(await asked({"cuda_graph_config__batch_sizes": "1,2", "cuda_graph_config__max_batch_size": 8}))
    assert wrong.kind is RefusalKind.CONSTRAINT
    wrong = refused(await asked({"attn_backend": "TRTLLM"}))
    assert wrong.kind is RefusalKind.UNKNOWN_OPTION
    assert "TensorRT-LLM 1.2.1 has no" in wrong.reason

    assert isinstance(await asked({"stream_interval": 0}, "/broken"), Unknown), "the model is refused by itself"
    with pytest.raises(UserError, match="trust_remote_code"):
        await asked({"trust_remote_code": True})


@pytest.mark.parametrize("checker", ["trtllm"], indirect=True)
async def test_two_names_of_a_parameter_come_to_the_same(checker: Checker) -> None:
    names = ("tokens_per_block", "kv_cache_config__tokens_per_block")
    one, two = [told(await ask(checker, {name: 64}), names) for name in names]
    assert one == two
    assert one.effective == dict.fromkeys(names, 64)
    assert told(await ask(checker, {}), names).digest != one.digest
    assert told(await ask(checker, {names[0]: 32}), names).digest == (told(await ask(checker, {}), names).digest)


@pytest.mark.parametrize("checker", ["trtllm"], indirect=True)
async def test_its_catalogue_has_the_adapters_names_and_resolved_defaults(checker: Checker) -> None:
    found = await checker.catalogue()
    assert isinstance(found, Catalogue), found
    assert (found.engine, found.version) == ("trtllm", "1.2.1")
    block = found.by_name["kv_cache_config__tokens_per_block"]
    assert (block.kind, block.default, block.effective) == (OptionKind.INT, 32, 32)
    assert "tokens_per_block" in block.aliases
    assert found.by_name["cuda_graph_config__max_batch_size"].effective == 128
    assert found.by_alias["tp_size"].name == "tensor_parallel_size"
    assert found.by_alias["enable_chunked_context"].name == "enable_chunked_prefill"
    assert "model" not in found.by_name


@pytest.mark.parametrize("late", [True, False])
async def test_sglangs_arguments_are_parsed_resolved_and_checked(packages: Path, *, late: bool) -> None:
    if not late:  # earlier releases resolve when they are made
        (packages / "sglang/srt/server_args.py").write_text(SGLANG.replace("RESOLVE", "__post_init__"))
    settings = EngineSettings(
        kind="sglang", python=sys.executable, fixed_env={"PYTHONPATH": str(packages)}, allow_env=("SGLANG_SMALL",)
    )
    checker = make_checker(settings)
    assert checker is not None

    async def asked(config: Config, **env: str) -> Verdict:
        return await checker.check(launch("sglang", config, env=env))

    try:
        resolved = accepted(await asked({"page_size": 16, "schedule_policy": "lpm"}))
        assert (resolved["page_size"], resolved["schedule_policy"], resolved["tp_size"]) == (16, "lpm", 1)
        assert (resolved["chunked_prefill_size"], resolved["device"]) == (2048, "cpu")
        assert resolved["disable_radix_cache"] is True, "decided by the platform"
        assert resolved["graphs.decode.backend"] == "none"
        assert resolved.keys().isdisjoint({"model_path", "nonce", "random_seed", "_chunk_explicitly_set"})
        wrong = refused(await asked({"page_size": 64, "chunked_prefill_size": 100}))
        assert (wrong.kind, set(wrong.options)) == (RefusalKind.CONSTRAINT, {"page_size", "chunked_prefill_size"})
        wrong = refused(await asked({"page_size": 0}))
        assert wrong.kind is RefusalKind.CONSTRAINT
        assert wrong.reason.startswith("ZeroDivisionError")
        wrong = refused(await checker.check(launch("sglang", {}, degree=3)))
        assert wrong.reason == "AssertionError: assert self.tp_size != 3", "the check itself says nothing"
        wrong = refused(await asked({"schedule_policy": "lifo"}))
        assert (wrong.kind, wrong.options) == (RefusalKind.INVALID_VALUE, ("schedule_policy",))
        wrong = refused(await asked({"stream_interval": 2}))
        assert wrong.kind is RefusalKind.UNKNOWN_OPTION
        assert isinstance(await asked({"model_path": "/etc"}), Unknown), "no such question is put"
        assert accepted(await asked({}, SGLANG_SMALL="1"))["chunked_prefill_size"] == 512
        found = await checker.catalogue()
        assert isinstance(found, Catalogue), found
        policy = found.by_name["schedule_policy"]
        assert (policy.choices, policy.default, policy.help) == (("fcfs", "lof", "lpm"), "fcfs", "Who is next.")
        assert found.by_name["chunked_prefill_size"].effective == 2048
    finally:
        await checker.aclose()
