"""vLLM, started as its OpenAI-compatible server from the interpreter of its own environment.

What a study may set is a curated list: flags that change scheduling, memory and parallelism. Left out on purpose is
everything that loads code (trust_remote_code, middleware, plug-ins, *_cls), reads or writes files, opens ports or
reaches a network; a host's administrator can allow more by name.

Effective configuration: what the running engine says first (its engine-configuration log line, the
`vllm:cache_config_info` metric), then what was asked for where vLLM is known to keep it, then defaults resolved once
per installation by `vllm_probe` (`create_engine_config` in the engine's interpreter). The development endpoint
/server_info would say all of it, but comes with endpoints that must not be open under load.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from scoot.agent.core.command import EngineCommand
from scoot.agent.engines import base, vllm_probe
from scoot.agent.engines.base import EngineSettings, LaunchRequest
from scoot.agent.host.process import SpawnError, run_helper
from scoot.benchmark.plan import PromptMode
from scoot.wire import limits
from scoot.wire.assignment import EngineOffer
from scoot.wire.errors import UserError
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config, Scalar
from scoot.wire.topology import TENSOR_PARALLEL_NAMES

PROBE_TIMEOUT_S: Final = 300.0
"""Importing vLLM takes 8 s on a quiet machine, minutes on a cold disk or a loaded host."""

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

ALLOWED_ENV: Final = frozenset(
    {
        "CUDA_DEVICE_ORDER",
        "HF_HUB_OFFLINE",
        "MKL_NUM_THREADS",
        "NCCL_P2P_DISABLE",
        "OMP_NUM_THREADS",
        "PYTORCH_CUDA_ALLOC_CONF",
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
)
_ALWAYS: Final = MappingProxyType(
    {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "NO_COLOR": "1"}
)
"""No download, no telemetry, no colours in the log. A study may name the first two, but only with this value."""

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


class _Probe(msgspec.Struct, frozen=True):
    """What vllm_probe prints."""

    version: str = ""
    device: str = ""
    entry: bool = False
    defaults: dict[str, bool | int | float | str] = {}
    error: str = ""
    notes: str = ""


class VllmAdapter:
    """Adapter for vLLM; see EngineAdapter. `cache_dir` keeps probe results over restarts of the agent."""

    name = "vllm"
    prompt_mode = PromptMode.TOKEN_IDS
    ignore_eos = True
    health_path = "/health"
    info_paths = ("/metrics",)

    def __init__(self, settings: EngineSettings, *, cache_dir: Path | None = None) -> None:
        if not Path(settings.python).is_absolute():
            raise UserError(
                f"{settings.python!r} is not an absolute path",
                key="engines.vllm.python",
                hint="name the interpreter of vLLM's environment, for example /opt/vllm/bin/python",
            )
        self._settings = settings
        self._cache_dir = cache_dir
        self._options = ALLOWED_OPTIONS | set(settings.allow_options)
        self._env = ALLOWED_ENV | set(settings.allow_env)
        self._probed: tuple[str, _Probe] | None = None
        self._probing = asyncio.Lock()

    async def probe(self) -> EngineOffer:
        """The version, after importing vLLM for real; remembered until the installation changes."""
        async with self._probing:
            result = await self._cached_probe()
        if result.error or not result.entry:
            why = result.error or f"has no module {vllm_probe.ENTRY}"
            return EngineOffer(name=self.name, error=f"{self._settings.python}: {why}"[: limits.STRING_CHARS])
        return EngineOffer(name=self.name, version=result.version)

    def command(self, request: LaunchRequest) -> EngineCommand:
        """The server's command line: one replica, loopback only."""
        service = request.service
        if not Path(service.model).is_absolute():
            raise UserError(f"{service.model!r} is not a path", key="service.model", hint="resolve it with models_ok")
        argv = [
            *(self._settings.python, *self._settings.fixed_args, "-m", vllm_probe.ENTRY),
            *("--model", base.check_text(service.model, key="service.model")),
            *("--host", "127.0.0.1", "--port", str(request.port)),
            *("--uvicorn-log-level", "warning", "--disable-uvicorn-access-log"),
        ]
        asked = _asked(request)
        if request.tensor_parallel > 1 or "tensor_parallel_size" in asked:
            argv += ["--tensor-parallel-size", str(request.tensor_parallel)]
        for name in sorted(set(asked) - set(TENSOR_PARALLEL_NAMES)):
            key = f"{'parameters' if name in request.config else 'service.options'}.{name[: base.NAME_CHARS]}"
            argv += self._arguments(name, asked[name], key=key)
        return EngineCommand(argv=tuple(argv), env=self._environment(request))

    def _arguments(self, name: str, value: Scalar, *, key: str) -> tuple[str, ...]:
        base.check_name(name, key=key)
        if name not in self._options:
            raise UserError(
                f"this agent does not let a study set {name!r}",
                key=key,
                hint="the host's administrator can add it to the engine's allow_options",
            )
        choices = _CHOICES.get(name)
        if choices is not None and value not in choices and name not in self._settings.allow_options:
            raise UserError(f"{value!r} is not allowed", key=key, hint=f"one of {', '.join(sorted(choices))}")
        if name in _ONLY_TRUE and value is False:
            return ()
        return base.flag_arguments(name, value, key=key)

    def _environment(self, request: LaunchRequest) -> dict[str, str]:
        for name, value in _ALWAYS.items():
            if request.service.env.get(name, value) != value:
                raise UserError(f"must be {value!r} when set", key=f"service.env.{name}")
        gpus = [device.id for device in request.devices if device.kind != "cpu"]
        return {
            "HOME": request.workdir,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            **base.base_environment(),
            **_ALWAYS,
            **base.study_environment(request.service.env, allowed=self._env, fixed=self._settings.fixed_env),
            "CUDA_VISIBLE_DEVICES": ",".join(gpus),
        }

    def served_model_name(self, request: LaunchRequest) -> str:
        """VLLM serves a model under the path it was given."""
        return request.service.model

    def token_range(self, model: str) -> tuple[int, int]:
        """From the model's config.json."""
        return base.vocabulary_range(model)

    def models_ok(self, model: str, roots: tuple[str, ...]) -> str | Reason:
        """A folder with a config.json inside one of the roots; names on a hub are not downloaded."""
        path = base.model_path(model, roots)
        if path is None or not (path / "config.json").is_file():
            return Reason.MODEL_MISSING
        return str(path)

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
        if self._probed is None or request.tensor_parallel != 1 or any(name in asked for name in _SHAPING):
            return {}
        found: Config = dict(self._probed[1].defaults)
        if "policy" in found:
            found["scheduling_policy"] = found.pop("policy")
        return found

    async def _cached_probe(self) -> _Probe:
        identity = _identity(self._settings)
        if self._probed is not None and self._probed[0] == identity:
            return self._probed[1]
        path = self._cache_dir / f"vllm-probe-{identity}.json" if self._cache_dir is not None and identity else None
        result = _read_cache(path)
        if result is None:
            result = await _run_probe(self._settings)
            if path is not None and not result.error:
                await asyncio.to_thread(_write_cache, path, result)
        self._probed = (identity, result)
        return result


def _asked(request: LaunchRequest) -> Config:
    """Everything asked of the engine: options, the context length, and over them the trial's configuration."""
    asked: Config = dict(request.service.options)
    if request.service.max_model_len is not None:
        asked["max_model_len"] = request.service.max_model_len
    return {**asked, **request.config}


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


def _identity(settings: EngineSettings) -> str:
    """Changes when the interpreter, its packages' folder or vLLM changes; "" when there is no such interpreter."""
    python = Path(settings.python)
    packages = sorted(python.parent.parent.glob("lib/python3*/site-packages"))
    try:
        paths = (python, *packages, *(item / "vllm" for item in packages))
        stamps = [path.stat().st_mtime_ns for path in paths]
    except OSError:
        stamps = []
    if not stamps and not python.exists():
        return ""
    return hashlib.sha256(repr((str(python), stamps, settings.fixed_env)).encode()).hexdigest()[:32]


async def _run_probe(settings: EngineSettings) -> _Probe:
    with tempfile.TemporaryDirectory(prefix="scoot-vllm-") as folder:
        env = {"HOME": folder, **base.base_environment(), **_ALWAYS, **settings.fixed_env}
        try:
            done = await run_helper(
                (settings.python, *settings.fixed_args, vllm_probe.__file__),
                env=env,
                cwd=Path(folder),
                timeout_s=PROBE_TIMEOUT_S,
            )
        except SpawnError as error:
            return _Probe(error=str(error))
    for line in reversed(done.stdout.decode(errors="replace").splitlines()):
        if line.startswith(vllm_probe.MARK):
            try:
                return msgspec.json.decode(line.removeprefix(vllm_probe.MARK), type=_Probe)
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                return _Probe(error=f"the probe answered nonsense: {error}")
    if done.timed_out:
        return _Probe(error=f"the probe did not end within {PROBE_TIMEOUT_S:.0f} s")
    last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return _Probe(error=f"the probe ended with {_exit_text(done.exit)}: {last[:500]}")


def _exit_text(status: Any) -> str:  # noqa: ANN401 - an ExitStatus; named in full it would say nothing more
    return f"signal {status.signal}" if status.signal is not None else f"status {status.code}"


def _read_cache(path: Path | None) -> _Probe | None:
    if path is None:
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Probe)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return None


def _write_cache(path: Path, result: _Probe) -> None:
    draft = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(msgspec.json.encode(result))
        draft.replace(path)
    except OSError:  # only a cache
        draft.unlink(missing_ok=True)
