"""SGLang, started as its OpenAI-compatible server from the interpreter of its own environment.

The options are those of release 0.5.23; names of earlier ones are on the list as well, an installation refuses by
itself what it does not know. Left out on purpose is everything that loads code, names a file, opens another port or
reaches another machine. Its switches are there or not: False leaves one out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from scoot.agent.core.command import EngineCommand
from scoot.agent.engines import base, permits
from scoot.agent.engines.base import EngineSettings, LaunchRequest
from scoot.agent.engines.inquiry import Inquiry
from scoot.agent.engines.package import PackageEngine
from scoot.agent.engines.permits import Permits
from scoot.benchmark.plan import PromptMode
from scoot.wire import limits
from scoot.wire.spec import Config

ENTRY: Final = "sglang.launch_server"

ALLOWED_OPTIONS: Final = frozenset(
    {
        "attention_backend",
        "attn_dp_size",
        "batch_notify_size",
        "bf16_gemm_backend",
        "chunked_prefill_size",
        "context_length",
        "cpu_offload_gb",
        "cuda_graph_backend_decode",
        "cuda_graph_backend_prefill",
        "cuda_graph_max_bs",
        "cuda_graph_max_bs_decode",
        "cuda_graph_max_bs_prefill",
        "decode_attention_backend",
        "default_priority_value",
        "detokenizer_worker_num",
        "disable_chunked_prefix_cache",
        "disable_cuda_graph",
        "disable_cuda_graph_padding",
        "disable_custom_all_reduce",
        "disable_decode_cuda_graph",
        "disable_hybrid_swa_memory",
        "disable_overlap_schedule",
        "disable_prefill_cuda_graph",
        "disable_priority_preemption",
        "disable_radix_cache",
        "dp_size",
        "dtype",
        "dynamic_batch_tokenizer_batch_size",
        "dynamic_batch_tokenizer_batch_timeout",
        "enable_dp_attention",
        "enable_dp_lm_head",
        "enable_dynamic_batch_tokenizer",
        "enable_dynamic_chunking",
        "enable_flashinfer_allreduce_fusion",
        "enable_hierarchical_cache",
        "enable_mixed_chunk",
        "enable_prefill_delayer",
        "enable_priority_scheduling",
        "enable_single_batch_overlap",
        "enable_torch_compile",
        "enable_two_batch_overlap",
        "ep_size",
        "flashinfer_allreduce_fusion_backend",
        "fp8_gemm_runner_backend",
        "hicache_host_memory_fraction",
        "hicache_io_backend",
        "hicache_mem_layout",
        "hicache_ratio",
        "hicache_size",
        "hicache_write_policy",
        "kv_cache_dtype",
        "linear_attn_backend",
        "load_balance_method",
        "load_format",
        "mamba_backend",
        "mamba_full_memory_ratio",
        "max_mamba_cache_size",
        "max_prefill_tokens",
        "max_queued_requests",
        "max_running_requests",
        "max_total_tokens",
        "mem_fraction_static",
        "min_free_slots_delay",
        "moe_a2a_backend",
        "moe_dense_tp_size",
        "moe_runner_backend",
        "num_continuous_decode_steps",
        "page_size",
        "pp_async_batch_depth",
        "pp_max_micro_batch_size",
        "pp_size",
        "prefill_attention_backend",
        "prefill_decode_interval",
        "prefill_decode_interval_min_bs",
        "prefill_delayer_max_delay_ms",
        "prefill_delayer_max_delay_passes",
        "prefill_delayer_queue_min_ratio",
        "prefill_delayer_token_usage_low_watermark",
        "prefill_max_requests",
        "priority_scheduling_preemption_threshold",
        "quantization",
        "radix_eviction_policy",
        "random_seed",
        "retraction_policy",
        "sampling_backend",
        "schedule_conservativeness",
        "schedule_low_priority_values_first",
        "schedule_policy",
        "scheduler_recv_interval",
        "sleep_on_idle",
        "stream_interval",
        "swa_full_tokens_ratio",
        "tokenizer_worker_num",
        "torch_compile_max_bs",
        "tp_size",
        "triton_attention_num_kv_splits",
        "watchdog_timeout",
    }
)
_CHOICES: Final = MappingProxyType({"load_format": frozenset({"auto", "safetensors", "dummy"})})
"""Other load formats unpickle or fetch."""

_REPORTED: Final = frozenset(
    {
        "attention_backend",
        "chunked_prefill_size",
        "disable_cuda_graph",
        "disable_overlap_schedule",
        "disable_radix_cache",
        "dp_size",
        "enable_mixed_chunk",
        "max_prefill_tokens",
        "max_queued_requests",
        "max_running_requests",
        "mem_fraction_static",
        "num_continuous_decode_steps",
        "page_size",
        "schedule_conservativeness",
        "schedule_policy",
        "stream_interval",
    }
)
"""Parameters shown even when a configuration leaves them to the engine."""

_DEVICE: Final = "device"

_INFO_PATHS: Final = ("/server_info", "/get_server_info")
"""Today's and the earlier one; an installation has at least one of them."""

_ANSWER: Final = msgspec.json.Decoder(dict[str, object])


class SglangAdapter(PackageEngine):
    """Adapter for SGLang; see EngineAdapter. `cache_dir` keeps probe results over restarts of the agent."""

    name = "sglang"
    prompt_mode = PromptMode.TOKEN_IDS
    ignore_eos = True
    health_path = "/health"
    info_paths = _INFO_PATHS

    def __init__(self, settings: EngineSettings, *, cache_dir: Path | None = None) -> None:
        allowed = Permits(settings=settings, options=ALLOWED_OPTIONS, choices=_CHOICES)
        super().__init__(allowed, package="sglang", entry=ENTRY, cache_dir=cache_dir)

    def command(self, request: LaunchRequest) -> EngineCommand:
        """The server's command line: one replica, loopback only."""
        argv = [
            *(*self._start(), "--model-path", permits.model_of(request.service)),
            *("--host", "127.0.0.1", "--port", str(request.port), "--log-level-http", "warning"),
        ]
        if permits.on_cpu(request):
            argv += ["--device", "cpu"]
        asked = permits.asked(request, length="context_length")
        if request.tensor_parallel > 1 or "tp_size" in asked:
            argv += ["--tp-size", str(request.tensor_parallel)]
        for name in permits.flags(asked):
            key = permits.key_of(request, name)
            self._permits.check(name, asked[name], key=key)
            if asked[name] is not False:
                argv += base.flag_arguments(name, asked[name], key=key)
        on_cpu = {"SGLANG_USE_CPU_ENGINE": "1"} if permits.on_cpu(request) else {}
        return EngineCommand(argv=tuple(argv), env=on_cpu | self._permits.environment(request))

    def effective_config(self, log_text: str, request: LaunchRequest, bodies: Mapping[str, str] | None) -> Config:
        """The server's arguments as it resolved them, from its own answer; without one nothing but the degree."""
        del log_text
        out: Config = {"tp_size": request.tensor_parallel}
        told: dict[str, object] = {}
        for path in reversed(_INFO_PATHS):
            told |= _told((bodies or {}).get(path, ""))
        for name in sorted((_REPORTED | request.config.keys()) - out.keys()):
            value = told.get(name)
            if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
                out[name] = value
            elif isinstance(value, str):
                out[name] = value[: limits.STRING_CHARS]
        return out


def inquiry(settings: EngineSettings) -> Inquiry:
    """How its argument check is asked."""
    return Inquiry(
        title="SGLang",
        helper=("sglang_arguments",),
        options=ALLOWED_OPTIONS | set(settings.allow_options) | {_DEVICE},
        env=permits.COMMON_ENV | set(settings.allow_env),
        asked=_shown,
    )


def _shown(request: LaunchRequest) -> Config:
    """A replica's options as its command line has them."""
    asked = permits.with_degree(permits.asked(request, length="context_length"), "tp_size", request)
    return {**asked, _DEVICE: "cpu"} if permits.on_cpu(request) else asked


def _told(body: str) -> dict[str, object]:
    try:
        return _ANSWER.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return {}
