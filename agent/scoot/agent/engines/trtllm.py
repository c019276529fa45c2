"""TensorRT-LLM, started as its OpenAI-compatible server (`trtllm-serve serve`) with the PyTorch backend.

Written from the source of releases 1.2 and newer. A few parameters are options of its command line, spelled with
underscores; all others are fields of its configuration, which goes into a file beside the engine. The file is JSON,
which is YAML, too. Names in a study:

* `max_batch_size`, `stream_interval`: options and top-level fields by their own names;
* `kv_cache_config__tokens_per_block`: fields of a part of the configuration, two underscores for each dot;
* `tokens_per_block`, `enable_chunked_context`, ...: short names, and names of earlier releases, that mean one of these.

A prompt longer than max_num_tokens is refused when it comes, not at the start, unless prompts are computed in chunks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from scoot.agent.core.command import EngineCommand
from scoot.agent.engines import base, permits
from scoot.agent.engines.base import EngineSettings, LaunchRequest
from scoot.agent.engines.inquiry import Inquiry
from scoot.agent.engines.package import PackageEngine
from scoot.agent.engines.permits import Permits
from scoot.benchmark.plan import PromptMode
from scoot.wire.errors import UserError
from scoot.wire.spec import Config, Scalar
from scoot.wire.topology import TENSOR_PARALLEL_NAMES

ENTRY: Final = "tensorrt_llm.commands.serve"
CONFIG_FILE: Final = "trtllm-serve.yaml"

_ON_COMMAND_LINE: Final = frozenset(
    {
        "cp_size",
        "enable_chunked_prefill",
        "ep_size",
        "max_batch_size",
        "max_num_tokens",
        "max_seq_len",
        "num_postprocess_workers",
        "pp_size",
    }
)
_FIELDS: Final = MappingProxyType(
    {
        "cp_size": "context_parallel_size",
        "ep_size": "moe_expert_parallel_size",
        "pp_size": "pipeline_parallel_size",
        "tp_size": "tensor_parallel_size",
    }
)
"""Options of the command line whose field in the configuration has another name."""
_OWN: Final = frozenset(_FIELDS.values())

_DOT: Final = "__"

ALIASES: Final = MappingProxyType(
    {
        "batch_scheduler_policy": "scheduler_config__capacity_scheduler_policy",
        "capacity_scheduler_policy": "scheduler_config__capacity_scheduler_policy",
        "context_chunking_policy": "scheduler_config__context_chunking_policy",
        "context_parallel_size": "cp_size",
        "enable_block_reuse": "kv_cache_config__enable_block_reuse",
        "enable_chunked_context": "enable_chunked_prefill",
        "enable_kv_cache_reuse": "kv_cache_config__enable_block_reuse",
        "enable_partial_reuse": "kv_cache_config__enable_partial_reuse",
        "free_gpu_memory_fraction": "kv_cache_config__free_gpu_memory_fraction",
        "host_cache_size": "kv_cache_config__host_cache_size",
        "kv_cache_dtype": "kv_cache_config__dtype",
        "kv_cache_free_gpu_mem_fraction": "kv_cache_config__free_gpu_memory_fraction",
        "kv_cache_free_gpu_memory_fraction": "kv_cache_config__free_gpu_memory_fraction",
        "kv_cache_reuse": "kv_cache_config__enable_block_reuse",
        "moe_expert_parallel_size": "ep_size",
        "pipeline_parallel_size": "pp_size",
        "tokens_per_block": "kv_cache_config__tokens_per_block",
    }
)
"""Short names, and names of release 0.15, which the paper tuned. The share of the memory is in the file only: a part of
the configuration that is in the file replaces what the command line says of it."""

ALLOWED_OPTIONS: Final = (
    _ON_COMMAND_LINE
    | ALIASES.keys()
    | {
        "allreduce_strategy",
        "attention_dp_config__batching_wait_iters",
        "attention_dp_config__enable_balance",
        "attention_dp_config__timeout_iters",
        "attn_backend",
        "batch_wait_max_tokens_ratio",
        "batch_wait_timeout_iters",
        "batch_wait_timeout_ms",
        "cuda_graph_config__batch_sizes",
        "cuda_graph_config__enable_padding",
        "cuda_graph_config__max_batch_size",
        "disable_overlap_scheduler",
        "dtype",
        "enable_attention_dp",
        "enable_autotuner",
        "garbage_collection_gen0_threshold",
        "kv_cache_config__copy_on_partial_reuse",
        "kv_cache_config__dtype",
        "kv_cache_config__enable_block_reuse",
        "kv_cache_config__enable_partial_reuse",
        "kv_cache_config__free_gpu_memory_fraction",
        "kv_cache_config__host_cache_size",
        "kv_cache_config__max_gpu_total_bytes",
        "kv_cache_config__max_tokens",
        "kv_cache_config__onboard_blocks",
        "kv_cache_config__secondary_offload_min_priority",
        "kv_cache_config__tokens_per_block",
        "load_format",
        "moe_config__backend",
        "moe_config__max_num_tokens",
        "sampler_type",
        "scheduler_config__capacity_scheduler_policy",
        "scheduler_config__context_chunking_policy",
        "scheduler_config__enable_prefix_aware_scheduling",
        "scheduler_config__use_python_scheduler",
        "scheduler_config__waiting_queue_policy",
        "stream_interval",
        "torch_compile_config__capture_num_tokens",
        "torch_compile_config__enable_fullgraph",
        "torch_compile_config__enable_inductor",
        "torch_compile_config__enable_piecewise_cuda_graph",
        "torch_compile_config__enable_userbuffers",
        "torch_compile_config__max_num_streams",
    }
)
_CHOICES: Final = MappingProxyType({"load_format": frozenset({"auto", "dummy"})})
_LISTS: Final = frozenset({"cuda_graph_config__batch_sizes", "torch_compile_config__capture_num_tokens"})
"""Lists of whole numbers, written "1,2,4"."""

ALLOWED_ENV: Final = permits.COMMON_ENV | {"TLLM_LOG_LEVEL", "TRTLLM_ENABLE_PDL", "TRTLLM_SERVER_DISABLE_GC"}

_KEPT: Final = frozenset(
    {
        "batch_wait_max_tokens_ratio",
        "batch_wait_timeout_iters",
        "batch_wait_timeout_ms",
        "kv_cache_config__free_gpu_memory_fraction",
        "kv_cache_config__tokens_per_block",
        "num_postprocess_workers",
        "scheduler_config__capacity_scheduler_policy",
        "stream_interval",
    }
)
"""Parameters that are used as asked for, or refused; others may be altered for the model or the GPU."""

_RESOLVED: Final = re.compile(r"\b(max_seq_len|max_num_tokens|max_batch_size)=(\d{1,18})\b")
_RESOLVED_LINE: Final = re.compile(r"^.{0,200}\bmax_seq_len=\d+, max_num_requests=.{1,200}$", re.MULTILINE)
_INTEGERS: Final = re.compile(r"\d{1,9}(?:,\d{1,9}){0,511}")


class TrtllmAdapter(PackageEngine):
    """Adapter for TensorRT-LLM; see EngineAdapter. `cache_dir` keeps probe results over restarts of the agent."""

    name = "trtllm"
    prompt_mode = PromptMode.TOKEN_IDS
    ignore_eos = True
    health_path = "/health"
    info_paths: tuple[str, ...] = ()

    def __init__(self, settings: EngineSettings, *, cache_dir: Path | None = None) -> None:
        allowed = Permits(settings=settings, options=ALLOWED_OPTIONS, env=ALLOWED_ENV, choices=_CHOICES)
        super().__init__(allowed, package="tensorrt_llm", entry=ENTRY, cache_dir=cache_dir)

    def command(self, request: LaunchRequest) -> EngineCommand:
        """The server's command line and its configuration file: one replica, loopback only."""
        model = permits.model_of(request.service)
        if permits.on_cpu(request):
            raise UserError("TensorRT-LLM needs a GPU", key="service.device")
        argv = [
            *(*self._start(), "serve", model, "--host", "127.0.0.1", "--port", str(request.port)),
            *("--backend", "pytorch"),
        ]
        given = permits.asked(request, length="max_seq_len")
        if request.tensor_parallel > 1 or not given.keys().isdisjoint(TENSOR_PARALLEL_NAMES):
            argv += ["--tp_size", str(request.tensor_parallel)]
        in_file: dict[str, Any] = {}
        for name, shown in self._meanings(request, given).items():
            value, key = given[shown], permits.key_of(request, shown)
            if name in _ON_COMMAND_LINE:
                argv += _flag(name, value, key=key)
            else:
                _put(in_file, name, _plain(name, value, key=key), key=key)
        files = {}
        if in_file:
            files[CONFIG_FILE] = msgspec.json.format(msgspec.json.encode(in_file)).decode() + "\n"
            argv += ["--config", str(Path(request.workdir) / CONFIG_FILE)]
        return EngineCommand(argv=tuple(argv), env=self._permits.environment(request), files=files)

    def _meanings(self, request: LaunchRequest, given: Config) -> dict[str, str]:
        """What each name of `given` means -> the name, in order, all of them allowed.

        Where an option and a parameter of the study mean the same, it is the parameter's: it stands for the option.
        """
        out: dict[str, str] = {}
        for shown in permits.flags(given):
            key = permits.key_of(request, shown)
            self._permits.check(shown, given[shown], key=key)
            name = ALIASES.get(shown, shown)
            other = out.get(name)
            if other is not None and (other in request.config) == (shown in request.config):
                raise UserError(f"{other!r} and {shown!r} are one parameter", key=key, hint="set one of them")
            if other is None or shown in request.config:
                out[name] = shown
        return dict(sorted(out.items()))

    def fields(self, request: LaunchRequest) -> dict[str, Any]:
        """A replica's options as fields of its configuration; for its argument check.

        Raises:
            UserError: as `command`.
        """
        given = permits.asked(request, length="max_seq_len")
        found = {
            _FIELDS.get(name, name): _plain(name, given[shown], key=permits.key_of(request, shown))
            for name, shown in self._meanings(request, given).items()
        }
        return {_FIELDS["tp_size"]: request.tensor_parallel, **found}

    def served_model_name(self, request: LaunchRequest) -> str:
        """TensorRT-LLM serves a folder under its last name."""
        return Path(request.service.model).name

    def effective_config(self, log_text: str, request: LaunchRequest, bodies: Mapping[str, str] | None) -> Config:
        """The sizes its log tells, and what was asked for as far as it is kept, by the names the study has."""
        del bodies
        line = _RESOLVED_LINE.search(log_text)
        told: Config = {name: int(number) for name, number in _RESOLVED.findall(line[0])} if line is not None else {}
        out: Config = {"tp_size": request.tensor_parallel, **told}
        out.pop("max_seq_len", None)
        for shown in permits.flags(request.config):
            name = ALIASES.get(shown, shown)
            if name in told:
                out[shown] = told[name]
            elif name in _KEPT:
                out[shown] = request.config[shown]
        return out


def inquiry(settings: EngineSettings) -> Inquiry:
    """How its argument check is asked."""
    adapter = TrtllmAdapter(settings)
    return Inquiry(
        title="TensorRT-LLM",
        helper=("schema_arguments", "TensorRT-LLM", "tensorrt_llm.llmapi:TorchLlmArgs"),
        env=ALLOWED_ENV | set(settings.allow_env),
        asked=adapter.fields,
        aliases=_FIELDS | {name: _FIELDS.get(meant, meant) for name, meant in ALIASES.items() if name not in _OWN},
    )


def _flag(name: str, value: Scalar, *, key: str) -> tuple[str, ...]:
    """An option of the command line; its switches are there or not."""
    if isinstance(value, bool):
        return (f"--{name}",) if value else ()
    return (f"--{name}={base.value_text(value, key=key)}",)


def _plain(name: str, value: Scalar, *, key: str) -> object:
    """A value of the file, as JSON and YAML 1.1 both read it.

    Raises:
        UserError: a text that is unsafe or not plain ASCII, a number that is not finite, or a list that is none.
    """
    if name in _LISTS:
        text = value if isinstance(value, str) else base.value_text(value, key=key)
        if isinstance(value, bool) or not _INTEGERS.fullmatch(text):
            raise UserError(f"{value!r} is not a list of whole numbers", key=key, hint='write it like "1,2,4,8"')
        return [int(item) for item in text.split(",")]
    if isinstance(value, bool):
        return value
    text = base.value_text(value, key=key)
    if isinstance(value, str):
        if not text.isascii():
            raise UserError(f"{value[:80]!r} is not plain ASCII", key=key)
        return value
    # YAML 1.1 takes 1e-05 for a text: a number with an exponent must have a dot.
    return msgspec.Raw(text.replace("e", ".0e").encode() if "e" in text and "." not in text else text.encode())


def _put(tree: dict[str, Any], name: str, value: object, *, key: str) -> None:
    """Put a field into its part of the configuration.

    Raises:
        UserError: the name has an empty part, or one that is a field already.
    """
    *parts, last = name.split(_DOT)
    for part in parts:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise UserError(f"{part!r} is set as a whole, too", key=key)
    if not all((*parts, last)) or last in tree:
        raise UserError(f"{name!r} names no field", key=key, hint="write PART__FIELD")
    tree[last] = value
