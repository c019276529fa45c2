"""vLLM 0.32: today's parameters, and what they mean on a GPU. Pure.

Names, defaults and checks were read in vLLM's source of that release (config/scheduler.py, config/cache.py,
config/vllm.py, engine/arg_utils.py, v1/worker/utils.py). Differences: vLLM does not compare max_num_scheduled_tokens
with max_num_batched_tokens, and fails under load where it is larger; here it is refused. Without graphs beyond
`max_cudagraph_capture_size`, compiled kernels are launched one by one.
"""

from __future__ import annotations

from typing import Final

from scoot.simulator.dialect.base import Dialect, Host, Settled, weights_s
from scoot.simulator.dialect.launch import COMPILED_LAYER_S, EAGER_LAYER_S, LaunchCost
from scoot.simulator.dialect.parameters import (
    ParameterInfo,
    checked,
    defaults_of,
    flag,
    ignored,
    integer,
    one_of,
    share,
)
from scoot.simulator.dialect.vllm_words import VllmWording, check_batch, model_length, tensor_parallel
from scoot.simulator.memory import kv_bytes_per_token
from scoot.simulator.settings import Admission, Order, SchedulerSettings, StartFailure
from scoot.simulator.shapes import Gpu, ModelShape
from scoot.wire.spec import Config, ParameterKind

NAME: Final = "vllm-0.32"

_SECTIONS: Final = {
    "tensor_parallel_size": "ParallelConfig",
    "block_size": "CacheConfig",
    "gpu_memory_utilization": "CacheConfig",
    "max_model_len": "ModelConfig",
}
_WORDS: Final = VllmWording(pydantic=True, sections=_SECTIONS)
_GENERIC: Final = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
_BLOCK_MULTIPLE: Final = 16
"""Of FlashAttention, the default attention kernel: nothing checks it before the KV cache is made."""
_GRAPH_MOST: Final = 512
"""Default of the widest captured step, on GPUs before Blackwell."""

_BYTES_MOST: Final = 2**50
_LARGE_GIB: Final = 70
_HUGE_GIB: Final = 160

_IMPORT_S: Final = 15.0
_NCCL_S: Final = 5.0
_COMPILE_S: Final = 15.0
_CAPTURE_S: Final = 0.2
"""Start: imports in three processes, more for several devices, torch.compile from its cache, seconds per captured size.
The first was measured on a CPU (15 s, tiny model, nothing compiled); the others are assumed."""

PARAMETERS: Final = (
    integer("tensor_parallel_size", "devices of a replica", default=1),
    integer(
        "max_num_seqs", "most sequences computed together; sizes buffers and graphs", otherwise="256 or 1024, by GPU"
    ),
    integer("max_num_batched_tokens", "most tokens computed in one step", otherwise="2048 to 16384, by GPU"),
    integer("max_num_active_seqs", "most sequences running; at most max_num_seqs", otherwise="max_num_seqs"),
    integer(
        "max_num_scheduled_tokens",
        "most tokens the scheduler puts into a step; at most max_num_batched_tokens",
        otherwise="max_num_batched_tokens",
    ),
    integer("max_num_queued_reqs", "most requests waiting or running; more get HTTP 503", low=0, otherwise="no limit"),
    integer("long_prefill_token_threshold", "most tokens of one prompt in a step; 0 is no limit", default=0, low=0),
    integer("block_size", "tokens of a block of the KV cache; kernels need multiples of 16", default=16),
    flag("enable_chunked_prefill", "prompts are computed in parts, together with decodes", default=True),
    flag("enable_prefix_caching", "leading blocks of a prompt seen before are not computed again", default=True),
    one_of(
        "prefix_caching_hash_algo",
        "hash of the blocks; the xxhash ones need a package that vLLM does not bring",
        *("sha256", "sha256_cbor", "xxhash", "xxhash_cbor"),
        default="sha256",
    ),
    share("gpu_memory_utilization", "share of the device's memory it may use", default=0.92),
    integer(
        "kv_cache_memory_bytes",
        "size of the KV cache of a device, bytes",
        high=_BYTES_MOST,
        otherwise="what the utilization leaves",
    ),
    integer("num_gpu_blocks_override", "blocks of the KV cache, whatever memory there is", otherwise="none"),
    ParameterInfo(
        name="watermark",
        kind=ParameterKind.FLOAT,
        low=0,
        high=1,
        below=True,
        default=0.0,
        help="share of the KV cache that admission leaves free",
    ),
    flag("scheduler_reserve_full_isl", "a request starts only where its whole input fits", default=True),
    flag("async_scheduling", "the next step is planned while this one is computed", default=True),
    integer("stream_interval", "tokens sent together", default=1),
    one_of(
        "performance_mode",
        "throughput doubles both batch defaults",
        *("balanced", "interactivity", "throughput"),
        default="balanced",
    ),
    flag("disable_custom_all_reduce", "NCCL instead of vLLM's own all-reduce kernels"),
    flag("enforce_eager", "no compilation and no graphs: every kernel is launched by itself"),
    integer(
        "max_cudagraph_capture_size",
        "widest step that runs from a graph, tokens",
        otherwise="min(2 x max_num_seqs, 512, max_num_batched_tokens)",
    ),
    integer("max_model_len", "longest input and output, tokens", otherwise="the model's"),
    one_of("scheduling_policy", "order of waiting requests; priority is not simulated", "fcfs", default="fcfs"),
    ignored(integer("seed", "of sampling", default=0, low=0)),
    ignored(one_of("dtype", "16 bits", "auto", "half", "float16", "bfloat16", default="auto")),
    ignored(one_of("load_format", "of the weights", "auto", "safetensors", "dummy", default="auto")),
    flag("disable_log_stats", "no statistics in its log", inert=True),
    flag("enable_log_requests", "requests in its log", inert=True),
)

CONSTRAINTS: Final = (
    "enable_chunked_prefill or max_num_batched_tokens >= max_model_len",
    "max_num_batched_tokens >= max_num_seqs",
    "max_num_active_seqs <= max_num_seqs",
    "long_prefill_token_threshold <= max_model_len",
    "max_num_scheduled_tokens <= max_num_batched_tokens",
)

NOT_SIMULATED: Final = frozenset(
    {
        "all2all_backend",
        "attention_backend",
        "cpu_offload_gb",
        "cudagraph_capture_sizes",
        "data_parallel_size",
        "decode_context_parallel_size",
        "disable_cascade_attn",
        "disable_hybrid_kv_cache_manager",
        "disable_sliding_window",
        "dp_sync_interval",
        "enable_dbo",
        "enable_eplb",
        "enable_expert_parallel",
        "enable_flashinfer_autotune",
        "kv_cache_dtype",
        "kv_offloading_backend",
        "kv_offloading_size",
        "linear_backend",
        "long_prefill_token_threshold_adaptive",
        "max_num_queued_tokens",
        "moe_backend",
        "numa_bind",
        "optimization_level",
        "pipeline_parallel_size",
        "prefill_schedule_interval",
        "prefix_cache_retention_interval",
        "prefix_match_unit",
        "quantization",
        "renderer_num_workers",
        "speculative_config",
    }
)


def settle(host: Host) -> Settled:
    """What the parameters mean. See Dialect."""
    given = checked(host.parameters, PARAMETERS, _WORDS)
    values: Config = {**defaults_of(PARAMETERS), **given}
    values["max_model_len"] = model_length(host, given, _WORDS)
    values["tensor_parallel_size"] = tensor_parallel(host, given, _WORDS)
    values["max_num_batched_tokens"], values["max_num_seqs"] = _batch(host.gpu, given, values)
    _check(values)
    values.setdefault("max_num_active_seqs", values["max_num_seqs"])
    values.setdefault("max_num_scheduled_tokens", values["max_num_batched_tokens"])
    values["max_cudagraph_capture_size"] = _captured(values)
    _check_hidden(values)
    limit = given.get("max_num_queued_reqs")
    degree = int(values["tensor_parallel_size"])
    return Settled(
        scheduler=_scheduler(values),
        tensor_parallel=degree,
        utilization=float(values["gpu_memory_utilization"]),
        token_budget=int(values["max_num_batched_tokens"]),
        max_running=int(values["max_num_seqs"]),
        blocks_override=_blocks(host.model, degree, values),
        custom_all_reduce=not values["disable_custom_all_reduce"],
        launch=LaunchCost(
            eager_s=(EAGER_LAYER_S if values["enforce_eager"] else COMPILED_LAYER_S) * host.model.layers,
            captured=int(values["max_cudagraph_capture_size"]),
        ),
        effective=dict(sorted(values.items())),
        start_s=_start_s(host.model, values),
        stream_interval=int(values["stream_interval"]),
        request_limit=None if limit is None else int(limit),
        log=_log(host, values),
    )


def batch_defaults(gpu: Gpu) -> tuple[int, int]:
    """Defaults of (max_num_batched_tokens, max_num_seqs) of its OpenAI server on a GPU."""
    if gpu.usable_gib >= _HUGE_GIB:
        return 16384, 1024
    if gpu.usable_gib >= _LARGE_GIB and "a100" not in gpu.name:
        return 8192, 1024
    return 2048, 256


def _batch(gpu: Gpu, given: Config, values: Config) -> tuple[int, int]:
    """max_num_batched_tokens and max_num_seqs, where left out by vLLM's rule."""
    tokens, seqs = batch_defaults(gpu)
    times = 2 if values["performance_mode"] == "throughput" else 1
    length = int(values["max_model_len"])
    seqs = int(given.get("max_num_seqs", times * seqs))
    if "max_num_batched_tokens" in given:
        tokens = int(given["max_num_batched_tokens"])
    else:
        tokens *= times
        if not values["enable_chunked_prefill"]:
            tokens = max(length, tokens)
        tokens = min(seqs * length, tokens)
    return tokens, seqs if "max_num_seqs" in given else min(seqs, tokens)


def _check(values: Config) -> None:
    """Its argument checks, in their order."""
    tokens, seqs = int(values["max_num_batched_tokens"]), int(values["max_num_seqs"])
    length = int(values["max_model_len"])
    check_batch(tokens, seqs, length, chunked=bool(values["enable_chunked_prefill"]), words=_WORDS)
    active = int(values.get("max_num_active_seqs", seqs))
    if active > seqs:
        raise _WORDS.refused(f"max_num_active_seqs ({active}) cannot be greater than max_num_seqs ({seqs}).")
    threshold = int(values["long_prefill_token_threshold"])
    if threshold > length:
        raise _WORDS.refused(
            f"long_prefill_token_threshold ({threshold}) cannot be greater than the max_model_len ({length})."
        )
    scheduled = int(values.get("max_num_scheduled_tokens", tokens))
    if scheduled > tokens:
        raise _WORDS.refused(
            f"max_num_scheduled_tokens ({scheduled}) cannot be greater than max_num_batched_tokens ({tokens})."
        )


def _check_hidden(values: Config) -> None:
    """What its argument check accepts and its start does not survive."""
    algorithm = str(values["prefix_caching_hash_algo"])
    if values["enable_prefix_caching"] and algorithm.startswith("xxhash"):
        raise StartFailure(
            "ModuleNotFoundError: xxhash is required for the 'xxhash' prefix caching hash algorithms. Install it via "
            "`pip install xxhash`.",
            _GENERIC,
        )
    if int(values["block_size"]) % _BLOCK_MULTIPLE:
        raise StartFailure(
            f"ValueError: No common block size for {values['block_size']} "
            f"(FLASH_ATTN: [MultipleOf({_BLOCK_MULTIPLE})]).",
            _GENERIC,
        )


def _scheduler(values: Config) -> SchedulerSettings:
    budget = int(values["max_num_scheduled_tokens"])
    return SchedulerSettings(
        order=Order.DECODE_FIRST,
        admission=Admission.FULL_INPUT if values["scheduler_reserve_full_isl"] else Admission.NEXT_CHUNK,
        chunked=bool(values["enable_chunked_prefill"]),
        token_budget=budget,
        # A smaller budget lets no more than that many decode in a step, whatever is running.
        max_running=min(int(values["max_num_active_seqs"]), budget),
        max_model_len=int(values["max_model_len"]),
        block_size=int(values["block_size"]),
        blocks=0,
        watermark=float(values["watermark"]),
        prefix_caching=bool(values["enable_prefix_caching"]),
        long_prefill_threshold=int(values["long_prefill_token_threshold"]),
        async_scheduling=bool(values["async_scheduling"]),
    )


def _captured(values: Config) -> int:
    """Widest step that is captured: the largest of the sizes vLLM makes a list of."""
    if values["enforce_eager"]:
        return 0
    tokens = int(values["max_num_batched_tokens"])
    most = int(values.get("max_cudagraph_capture_size", min(2 * int(values["max_num_seqs"]), _GRAPH_MOST)))
    return tokens if tokens <= most else max(size for size in _SIZES if size <= most)


_SIZES: Final = (1, 2, 4, *range(8, 256, 8), *range(256, 65536, 16))
"""Steps that vLLM captures, tokens: up to the widest one."""


def _blocks(model: ModelShape, degree: int, values: Config) -> int | None:
    """Blocks that are asked for, if they are."""
    if "num_gpu_blocks_override" in values:
        return int(values["num_gpu_blocks_override"])
    if "kv_cache_memory_bytes" in values:
        block_bytes = kv_bytes_per_token(model, degree) * int(values["block_size"])
        return int(values["kv_cache_memory_bytes"]) // block_bytes
    return None


def _start_s(model: ModelShape, values: Config) -> float:
    degree = int(values["tensor_parallel_size"])
    start_s = _IMPORT_S + weights_s(model, degree) + (_NCCL_S if degree > 1 else 0.0)
    if values["enforce_eager"]:
        return start_s
    graphs = sum(1 for size in _SIZES if size <= int(values["max_cudagraph_capture_size"]))
    return start_s + _COMPILE_S + _CAPTURE_S * graphs


def _log(host: Host, values: Config) -> tuple[str, ...]:
    lines = [
        f"Using max model len {values['max_model_len']}",
    ]
    if values["enable_chunked_prefill"]:
        lines.append(f"Chunked prefill is enabled with max_num_batched_tokens={values['max_num_batched_tokens']}.")
    else:
        lines.append(
            "This model does not officially support disabling chunked prefill. Disabling this manually may cause the "
            "engine to crash or produce incorrect outputs."
        )
    if values["async_scheduling"]:
        lines.append("Asynchronous scheduling is enabled.")
    told = ("tensor_parallel_size", "disable_custom_all_reduce", "enforce_eager", "seed", "enable_prefix_caching")
    shown = ", ".join(f"{name}={values[name]}" for name in (*told, "enable_chunked_prefill"))
    lines.append(
        f"Initializing a V1 LLM engine (v{NAME.removeprefix('vllm-')}.0) with config: model={host.model.name!r}, "
        f"dtype=torch.bfloat16, max_seq_len={values['max_model_len']}, {shown}"
    )
    return tuple(lines)


def memory_log(settled: Settled, host: Host, blocks: int) -> tuple[str, ...]:
    """The size of its KV cache, in its own words."""
    del host
    tokens, length = blocks * settled.scheduler.block_size, settled.scheduler.max_model_len
    held = f"Maximum concurrency for {length:,} tokens per request: {tokens / length:.2f}x"
    return (f"GPU KV cache size: {tokens:,} tokens, {held}",)


DIALECT: Final = Dialect(
    name=NAME,
    parameters=PARAMETERS,
    constraints=CONSTRAINTS,
    not_simulated=NOT_SIMULATED,
    settle=settle,
    memory_log=memory_log,
)
