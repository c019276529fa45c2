"""vLLM, started as its OpenAI-compatible server from the interpreter of its own environment.

What a study may set is a curated list: flags that change scheduling, memory and parallelism. Left out on purpose is
everything that loads code (trust_remote_code, middleware, plug-ins, *_cls), reads or writes files, opens ports or
reaches a network; a host's administrator can allow more by name.

Effective configuration: what the running engine says first (its engine-configuration log line, the
`vllm:cache_config_info` metric), then what was asked for where vLLM is known to keep it, then defaults resolved once
per installation by `helpers.vllm_probe` (`create_engine_config` in the engine's interpreter). The development endpoint
/server_info would say all of it, but comes with endpoints that must not be open under load.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from scoot.agent.core.command import EngineCommand
from scoot.agent.engines import base, permits, probing
from scoot.agent.engines.base import EngineSettings, LaunchRequest
from scoot.agent.engines.helpers import vllm_probe
from scoot.agent.engines.inquiry import Inquiry
from scoot.agent.engines.permits import Permits
from scoot.agent.engines.probing import Prober
from scoot.benchmark.plan import PromptMode
from scoot.wire import limits
from scoot.wire.assignment import EngineOffer
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config, Scalar

ALLOWED_OPTIONS: Final = frozenset(
    {
        "all2all_backend",
        "async_scheduling",
        "attention_backend",
        "block_size",
        "cpu_offload_gb",
        "cudagraph_capture_sizes",
        "data_parallel_size",
        "dbo_decode_token_threshold",
        "dbo_prefill_token_threshold",
        "decode_context_parallel_size",
        "disable_cascade_attn",
        "disable_custom_all_reduce",
        "disable_hybrid_kv_cache_manager",
        "disable_log_stats",
        "disable_sliding_window",
        "dp_sync_interval",
        "dtype",
        "enable_chunked_prefill",
        "enable_dbo",
        "enable_eplb",
        "enable_expert_parallel",
        "enable_flashinfer_autotune",
        "enable_prefix_caching",
        "enforce_eager",
        "gpu_memory_utilization",
        "kv_cache_dtype",
        "kv_cache_memory_bytes",
        "kv_offloading_backend",
        "kv_offloading_size",
        "kv_sharing_fast_prefill",
        "linear_backend",
        "load_format",
        "long_prefill_token_threshold",
        "long_prefill_token_threshold_adaptive",
        "mamba_cache_dtype",
        "max_cudagraph_capture_size",
        "max_model_len",
        "max_num_active_seqs",
        "max_num_batched_tokens",
        "max_num_partial_prefills",
        "max_long_partial_prefills",
        "max_num_queued_reqs",
        "max_num_queued_tokens",
        "max_num_scheduled_tokens",
        "max_num_seqs",
        "max_seq_len_to_capture",
        "moe_backend",
        "num_gpu_blocks_override",
        "num_scheduler_steps",
        "numa_bind",
        "optimization_level",
        "performance_mode",
        "pipeline_parallel_size",
        "prefill_schedule_interval",
        "prefix_cache_retention_interval",
        "prefix_caching_hash_algo",
        "prefix_match_unit",
        "quantization",
        "renderer_num_workers",
        "scheduler_delay_factor",
        "scheduler_reserve_full_isl",
        "scheduling_policy",
        "seed",
        "stream_interval",
        "swap_space",
        "tensor_parallel_size",
        "use_v2_block_manager",
        "watermark",
    }
)
"""Flags a study may set, of this and earlier releases; those an installation does not know it refuses by itself."""

ALLOWED_ENV: Final = permits.COMMON_ENV | {
    "VLLM_ATTENTION_BACKEND",
    "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_CPU_NUM_OF_RESERVED_CPU",
    "VLLM_CPU_OMP_THREADS_BIND",
    "VLLM_CPU_SGL_KERNEL",
    "VLLM_ENABLE_V1_MULTIPROCESSING",
    "VLLM_LOGGING_LEVEL",
    "VLLM_NO_USAGE_STATS",
    "VLLM_USE_FLASHINFER_SAMPLER",
    "VLLM_USE_V1",
    "VLLM_V1_OUTPUT_PROC_CHUNK_SIZE",
    "VLLM_WORKER_MULTIPROC_METHOD",
}
_ALWAYS: Final = MappingProxyType({**permits.QUIET, "VLLM_NO_USAGE_STATS": "1"})

_CHOICES: Final = MappingProxyType({"load_format": frozenset({"auto", "safetensors", "dummy"})})
"""Other load formats unpickle or fetch."""

_ONLY_TRUE: Final = frozenset({"disable_log_stats"})
"""Flags without a --no- form: False leaves them out."""

_REPORTED: Final = frozenset(
    {
        "async_scheduling",
        "block_size",
        "disable_custom_all_reduce",
        "enable_chunked_prefill",
        "enable_prefix_caching",
        "gpu_memory_utilization",
        "long_prefill_token_threshold",
        "max_num_batched_tokens",
        "max_num_seqs",
        "prefix_caching_hash_algo",
        "scheduler_reserve_full_isl",
        "stream_interval",
        "tensor_parallel_size",
        "watermark",
    }
)
"""Parameters shown even when a configuration leaves them to the engine."""

_KEPT: Final = _REPORTED - {"async_scheduling", "disable_custom_all_reduce"} | {
    "data_parallel_size",
    "max_num_active_seqs",
    "max_num_scheduled_tokens",
    "performance_mode",
    "pipeline_parallel_size",
    "prefill_schedule_interval",
    "scheduling_policy",
}
"""Parameters that vLLM uses as asked for, or refuses; others may be altered silently on some platforms."""

_FROM_ELSEWHERE: Final = frozenset({"max_num_seqs", "max_num_batched_tokens"})
"""Their defaults depend on each other and on the model's length: see _batch_defaults."""

_SHAPING: Final = ("performance_mode", "pipeline_parallel_size", "data_parallel_size")
"""Options under which the defaults of the reference model do not hold."""

_CONFIG_LINE: Final = re.compile(r"Initializing a \S+ LLM engine \([^)]*\) with config: (.*)")
_CHUNKED_LINE: Final = re.compile(r"Chunked prefill is enabled with max_num_batched_tokens=(\d+)")
_CACHE_METRIC: Final = re.compile(r"^vllm:cache_config_info\{(.*)\} ", re.MULTILINE)
_NUMBER: Final = re.compile(r"-?\d{1,18}(?:\.\d{1,18})?(?:e[-+]?\d{1,2})?")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class VllmAdapter:
    """Adapter for vLLM; see EngineAdapter. `cache_dir` keeps probe results over restarts of the agent."""

    name = "vllm"
    prompt_mode = PromptMode.TOKEN_IDS
    ignore_eos = True
    health_path = "/health"
    info_paths = ("/metrics",)

    def __init__(self, settings: EngineSettings, *, cache_dir: Path | None = None) -> None:
        permits.require_absolute(
            settings.python,
            key="engines.vllm.python",
            example="name the interpreter of vLLM's environment, for example /opt/vllm/bin/python",
        )
        self._settings = settings
        self._permits = Permits(
            settings=settings, options=ALLOWED_OPTIONS, env=ALLOWED_ENV, always=_ALWAYS, choices=_CHOICES
        )
        self._prober = Prober(
            settings,
            base.helper_command(settings, "vllm_probe"),
            watched=("vllm",),
            env=_ALWAYS,
            cache_dir=cache_dir,
        )

    async def probe(self) -> EngineOffer:
        """The version, after importing vLLM for real; remembered until the installation changes."""
        result = await self._prober.probe()
        return probing.offer_of(self.name, self._settings.python, result, entry=" or ".join(vllm_probe.ENTRIES))

    def command(self, request: LaunchRequest) -> EngineCommand:
        """The server's command line: one replica, loopback only."""
        argv = [
            *self._start(permits.model_of(request.service)),
            *("--host", "127.0.0.1", "--port", str(request.port)),
            *("--uvicorn-log-level", "warning", "--disable-uvicorn-access-log"),
        ]
        asked = _asked(request)
        if request.tensor_parallel > 1 or "tensor_parallel_size" in asked:
            argv += ["--tensor-parallel-size", str(request.tensor_parallel)]
        for name in permits.flags(asked):
            key = permits.key_of(request, name)
            self._permits.check(name, asked[name], key=key)
            if not (name in _ONLY_TRUE and asked[name] is False):
                argv += base.flag_arguments(name, asked[name], key=key)
        return EngineCommand(argv=tuple(argv), env=self._permits.environment(request))

    def _start(self, model: str) -> tuple[str, ...]:
        """The beginning of its command line: the module that the installation was found to have."""
        known = self._prober.known
        module = known.module if known is not None and known.module else vllm_probe.ENTRIES[0]
        served = ("serve", model) if module == vllm_probe.SERVE else ("--model", model)
        return (self._settings.python, *self._settings.fixed_args, "-m", module, *served)

    def served_model_name(self, request: LaunchRequest) -> str:
        """VLLM serves a model under the path it was given."""
        return request.service.model

    def token_range(self, model: str) -> tuple[int, int]:
        """From the model's config.json."""
        return base.vocabulary_range(model)

    def models_ok(self, model: str, roots: tuple[str, ...]) -> str | Reason:
        """A folder with a config.json inside one of the roots; names on a hub are not downloaded."""
        return base.model_folder(model, roots)

    def effective_config(self, log_text: str, request: LaunchRequest, bodies: Mapping[str, str] | None) -> Config:
        """See the module's docstring for what is believed, in which order."""
        asked = _asked(request)
        told = {**_from_log(log_text), **_from_metrics((bodies or {}).get("/metrics", ""))}
        out: Config = {"tensor_parallel_size": request.tensor_parallel}
        defaults = self._defaults(request, asked)
        for name in sorted(_REPORTED | set(request.config)):
            if name in told:
                out[name] = told[name]
            elif name in asked:
                if name in _KEPT:
                    out[name] = asked[name]
            elif name in defaults and name not in _FROM_ELSEWHERE:
                out[name] = defaults[name]
        return {**_batch_defaults(defaults, {**asked, **out}, told.get("max_model_len")), **out}

    def _defaults(self, request: LaunchRequest, asked: Config) -> Config:
        """Defaults of the installation, where they hold: degree 1, and nothing that shapes batches otherwise."""
        if self._prober.known is None or request.tensor_parallel != 1 or any(name in asked for name in _SHAPING):
            return {}
        found: Config = dict(self._prober.known.defaults)
        if "policy" in found:
            found["scheduling_policy"] = found.pop("policy")
        return found


def _asked(request: LaunchRequest) -> Config:
    return permits.asked(request, length="max_model_len")


def inquiry(settings: EngineSettings) -> Inquiry:
    """How its argument check is asked."""
    return Inquiry(
        title="vLLM",
        helper=("vllm_arguments",),
        options=ALLOWED_OPTIONS | set(settings.allow_options),
        env=ALLOWED_ENV | set(settings.allow_env),
        asked=lambda request: permits.with_degree(_asked(request), "tensor_parallel_size", request),
    )


def _scalar(text: str) -> Scalar | None:
    """A value as Python prints it; None for anything but a plain, finite one."""
    if text in ("True", "False"):
        return text == "True"
    if text == "None" or not text:
        return None
    if _NUMBER.fullmatch(text) is None:
        return text[: limits.STRING_CHARS]
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _from_log(text: str) -> Config:
    """Parameters named in the engine's own lines of its start."""
    told: Config = {}
    line = _CONFIG_LINE.search(text)
    if line is not None:
        for name in sorted(_REPORTED | {"max_seq_len"}):
            found = re.search(rf"(?:^|[ ,]){name}=([^,\s]+)(?:,|$)", line[1])
            value = _scalar(found[1]) if found is not None else None
            if value is not None:
                told["max_model_len" if name == "max_seq_len" else name] = value
    chunked = _CHUNKED_LINE.search(text)
    if chunked is not None:
        told["max_num_batched_tokens"] = int(chunked[1][:18])
    return told


def _from_metrics(text: str) -> Config:
    """Cache parameters of the running engine: the labels of vllm:cache_config_info."""
    found = _CACHE_METRIC.search(text)
    told: Config = {}
    for name, raw in _LABEL.findall(found[1]) if found is not None else ():
        value = _scalar(raw)
        if name in _REPORTED and value is not None:
            told[name] = value
    return told


def _batch_defaults(defaults: Config, asked: Config, max_model_len: Scalar | None) -> Config:
    """max_num_seqs and max_num_batched_tokens where left to vLLM, by its rule (`_set_default_max_num_seqs_...`)."""
    tokens, seqs, length = (defaults.get("max_num_batched_tokens"), defaults.get("max_num_seqs"), max_model_len)
    if not (isinstance(tokens, int) and isinstance(seqs, int) and isinstance(length, int)):
        return {}
    asked_tokens, asked_seqs = asked.get("max_num_batched_tokens"), asked.get("max_num_seqs", seqs)
    if isinstance(asked_tokens, int):
        tokens = asked_tokens
    elif isinstance(asked_seqs, int):
        if asked.get("enable_chunked_prefill") is False:
            tokens = max(tokens, length)
        tokens = min(asked_seqs * length, tokens)
    return {"max_num_batched_tokens": tokens, "max_num_seqs": min(seqs, tokens)}
