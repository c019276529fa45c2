"""vLLM 0.4.2: the parameters of the paper's Table 1, and what they mean. Pure.

Names, defaults and checks were read in vLLM's source of that release or next to it (engine/arg_utils.py, config.py,
core/block_manager_v2.py, worker/model_runner.py). Two differences. The real engine accepts chunked prefill with prefix
caching and dies of it at the first request that hits the cache, with the text used here; the paper lists the pair as a
known constraint, so it is refused at the start. Its argument check lets numbers below 1 pass that make no sense; here
they are refused.
"""

from __future__ import annotations

from typing import Final

from scoot.simulator.dialect.base import Dialect, Host, Settled, weights_s
from scoot.simulator.dialect.launch import EAGER_LAYER_S, LaunchCost
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
from scoot.simulator.shapes import GIB, ModelShape
from scoot.wire.spec import Config, ParameterKind

NAME: Final = "vllm-0.4.2"

_WORDS: Final = VllmWording(pydantic=False)
_WHOLE_TOKENS: Final = 2048
"""Default max_num_batched_tokens without chunked prefill, unless the model's context is longer."""
_CHUNK_TOKENS: Final = 512
"""Default max_num_batched_tokens with chunked prefill."""
_WATERMARK: Final = 0.01
"""Of its block managers; there is no parameter for it."""
_CAPTURED: Final = 256
"""Widest decode batch for which it captures a graph."""
_V2_STEP_S: Final = 50e-6
_V2_SEQUENCE_S: Final = 5e-6
"""CPU time that the second block manager, then a slower rewrite in Python, adds per step and sequence. Assumed."""

_IMPORT_S: Final = 10.0
_NCCL_S: Final = 5.0
_CAPTURE_S: Final = 12.0
"""Start: imports and profiling, more for several devices, graphs of 35 batch sizes. Assumed."""

PARAMETERS: Final = (
    integer("tensor_parallel_size", "devices of a replica", default=1),
    integer("max_num_seqs", "most sequences computed together", default=256),
    integer(
        "max_num_batched_tokens",
        "most tokens computed in one step",
        otherwise="max(2048, max_model_len); 512 with chunked prefill",
    ),
    ParameterInfo(
        name="block_size",
        kind=ParameterKind.INT,
        choices=(8, 16, 32),
        default=16,
        help="tokens of a block of the KV cache",
    ),
    ParameterInfo(
        name="scheduler_delay_factor",
        kind=ParameterKind.FLOAT,
        low=0,
        default=0.0,
        help="prompts wait for so many times the last prompt's latency, to be computed together",
    ),
    flag("enable_chunked_prefill", "prompts are computed in parts, together with decodes"),
    flag("enable_prefix_caching", "leading blocks of a prompt seen before are not computed again"),
    flag("disable_custom_all_reduce", "NCCL instead of vLLM's own all-reduce kernels"),
    flag("use_v2_block_manager", "the second block manager; it has no prefix caching"),
    share("gpu_memory_utilization", "share of the device's memory it may use", default=0.9),
    integer("max_model_len", "longest input and output, tokens", otherwise="the model's"),
    integer("num_gpu_blocks_override", "blocks of the KV cache, whatever memory there is", otherwise="none"),
    flag("enforce_eager", "no graphs: every kernel is launched by itself"),
    ignored(integer("swap_space", "GiB of host memory for swapped blocks; recomputing is the rule", default=4, low=0)),
    ignored(integer("seed", "of sampling", default=0, low=0)),
    ignored(one_of("dtype", "16 bits", "auto", "half", "float16", "bfloat16", default="auto")),
    ignored(one_of("load_format", "of the weights", "auto", "pt", "safetensors", "dummy", default="auto")),
    flag("disable_log_stats", "no statistics in its log", inert=True),
    flag("disable_log_requests", "no requests in its log", inert=True),
)

CONSTRAINTS: Final = (
    "enable_chunked_prefill or max_num_batched_tokens >= max_model_len",
    "max_num_batched_tokens >= max_num_seqs",
    "not (enable_chunked_prefill and enable_prefix_caching)",
)

NOT_SIMULATED: Final = frozenset(
    {
        "enable_lora",
        "kv_cache_dtype",
        "max_context_len_to_capture",
        "max_parallel_loading_workers",
        "max_seq_len_to_capture",
        "num_lookahead_slots",
        "num_speculative_tokens",
        "pipeline_parallel_size",
        "quantization",
        "speculative_model",
        "tokenizer_pool_size",
        "worker_use_ray",
    }
)


def settle(host: Host) -> Settled:
    """What the parameters mean. See Dialect."""
    given = checked(host.parameters, PARAMETERS, _WORDS)
    values: Config = {**defaults_of(PARAMETERS), **given}
    length = model_length(host, given, _WORDS)
    degree = tensor_parallel(host, given, _WORDS)
    chunked = bool(values["enable_chunked_prefill"])
    caching = bool(values["enable_prefix_caching"])
    tokens = int(given.get("max_num_batched_tokens", _CHUNK_TOKENS if chunked else max(_WHOLE_TOKENS, length)))
    seqs = int(values["max_num_seqs"])
    check_batch(tokens, seqs, length, chunked=chunked, words=_WORDS)
    if chunked and caching:
        raise StartFailure(
            "RuntimeError: chunked prefill cannot be used with prefix caching now.", exit_code=1, kind="arguments"
        )
    if values["use_v2_block_manager"] and caching:
        raise StartFailure("AssertionError: Prefix caching not yet supported")
    values.update(max_model_len=length, max_num_batched_tokens=tokens, tensor_parallel_size=degree)
    override = given.get("num_gpu_blocks_override")
    return Settled(
        scheduler=SchedulerSettings(
            order=Order.DECODE_FIRST if chunked else Order.PREFILL_FIRST,
            admission=Admission.FULL_INPUT,
            chunked=chunked,
            token_budget=tokens,
            max_running=seqs,
            max_model_len=length,
            block_size=int(values["block_size"]),
            blocks=0,
            watermark=_WATERMARK,
            prefix_caching=caching,
            prefix_at_once=False,
            budget_counts_cached=True,
            delay_factor=float(values["scheduler_delay_factor"]),
        ),
        tensor_parallel=degree,
        utilization=float(values["gpu_memory_utilization"]),
        token_budget=tokens,
        max_running=seqs,
        blocks_override=None if override is None else int(override),
        custom_all_reduce=not values["disable_custom_all_reduce"],
        launch=_launch(host.model, values),
        effective=dict(sorted(values.items())),
        start_s=_start_s(host.model, degree, eager=bool(values["enforce_eager"])),
        log=_log(host, values),
    )


def _launch(model: ModelShape, values: Config) -> LaunchCost:
    second = bool(values["use_v2_block_manager"])
    return LaunchCost(
        eager_s=EAGER_LAYER_S * model.layers,
        captured=0 if values["enforce_eager"] else _CAPTURED,
        decodes_only=True,
        step_s=_V2_STEP_S if second else 0.0,
        sequence_s=_V2_SEQUENCE_S if second else 0.0,
    )


def _start_s(model: ModelShape, degree: int, *, eager: bool) -> float:
    several_s = _NCCL_S if degree > 1 else 0.0
    return _IMPORT_S + several_s + weights_s(model, degree) + (0.0 if eager else _CAPTURE_S)


def _log(host: Host, values: Config) -> tuple[str, ...]:
    lines = ["Chunked prefill is enabled (EXPERIMENTAL)."] if values["enable_chunked_prefill"] else []
    told = ("disable_custom_all_reduce", "enforce_eager", "seed")
    shown = ", ".join(f"{name}={values[name]}" for name in told)
    lines.append(
        f"Initializing an LLM engine (v{NAME.removeprefix('vllm-')}) with config: model={host.model.name!r}, "
        f"dtype=torch.float16, max_seq_len={values['max_model_len']}, "
        f"tensor_parallel_size={values['tensor_parallel_size']}, {shown})"
    )
    return tuple(lines)


def memory_log(settled: Settled, host: Host, blocks: int) -> tuple[str, ...]:
    """The size of its KV cache, in its own words."""
    block_bytes = kv_bytes_per_token(host.model, settled.tensor_parallel) * settled.scheduler.block_size
    swapped = int(settled.effective["swap_space"]) * GIB // block_bytes
    return (f"# GPU blocks: {blocks}, # CPU blocks: {swapped}",)


DIALECT: Final = Dialect(
    name=NAME,
    parameters=PARAMETERS,
    constraints=CONSTRAINTS,
    not_simulated=NOT_SIMULATED,
    settle=settle,
    memory_log=memory_log,
)
