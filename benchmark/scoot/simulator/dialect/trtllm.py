"""TensorRT-LLM 1.2, PyTorch backend: the paper's Table 3 with today's names, and what they mean. Pure.

Names and defaults are those of `trtllm-serve` and of its YAML configuration. Three things are assumed: that tokens
found in the cache still count against max_num_tokens (they are found only after scheduling), that MAX_UTILIZATION
admits a prompt where blocks for all of it are free, and that max_num_tokens below max_batch_size is refused (the real
engine takes it; it makes no sense).
"""

from __future__ import annotations

from typing import Final

import msgspec

from scoot.simulator.dialect.base import Dialect, Host, Settled, weights_s
from scoot.simulator.dialect.launch import LaunchCost
from scoot.simulator.dialect.parameters import (
    ParameterInfo,
    checked,
    defaults_of,
    flag,
    ignored,
    integer,
    one_of,
    pydantic_failure,
    range_broken,
)
from scoot.simulator.settings import Admission, Chunking, Order, SchedulerSettings, StartFailure
from scoot.wire.spec import Config, ParameterKind, Scalar

NAME: Final = "trtllm-1.2"

_SECTION: Final = "TorchLlmArgs"
_IMPORT_S: Final = 25.0
_NCCL_S: Final = 5.0
_CAPTURE_S: Final = 15.0
"""Start: imports and profiling, more for several devices, graphs. Assumed."""

_RENAMED: Final = {
    "batch_scheduler_policy": "capacity_scheduler_policy",
    "enable_chunked_context": "enable_chunked_prefill",
    "enable_kv_cache_reuse": "enable_block_reuse",
    "kv_cache_free_gpu_mem_fraction": "kv_cache_free_gpu_memory_fraction",
    "kv_cache_reuse": "enable_block_reuse",
    "max_beam_width": "",
    "paged_kv_cache": "",
    "use_paged_context_fmha": "",
}
"""Names of release 0.15, which the paper tuned, and today's; "" is none."""

PARAMETERS: Final = (
    msgspec.structs.replace(integer("tp_size", "devices of a replica", default=1), aliases=("tensor_parallel_size",)),
    integer("max_batch_size", "most sequences computed together", default=2048),
    integer("max_num_tokens", "most tokens computed in one step", default=8192),
    integer("max_seq_len", "longest input and output, tokens", otherwise="the model's"),
    ParameterInfo(
        name="tokens_per_block",
        kind=ParameterKind.INT,
        low=1,
        high=4096,
        power_of_two=True,
        default=32,
        help="tokens of a block of the KV cache",
    ),
    flag("enable_chunked_prefill", "prompts are computed in parts; without, one above max_num_tokens is rejected"),
    flag("enable_block_reuse", "leading blocks of a prompt seen before are not computed again", default=True),
    one_of(
        "capacity_scheduler_policy",
        "whether a sequence starts only where it can finish",
        *("GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH"),
        default="GUARANTEED_NO_EVICT",
    ),
    one_of(
        "context_chunking_policy",
        "how prompts share a step",
        *("FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS"),
        default=None,
        otherwise="FIRST_COME_FIRST_SERVED, where prompts are chunked",
    ),
    ParameterInfo(
        name="kv_cache_free_gpu_memory_fraction",
        kind=ParameterKind.FLOAT,
        low=0,
        high=1,
        above=True,
        below=True,
        default=0.9,
        aliases=("free_gpu_memory_fraction",),
        help="share of the memory left after weights and activations that the KV cache gets",
    ),
    flag("disable_overlap_scheduler", "the next step is not planned while this one is computed"),
    integer("stream_interval", "tokens sent together", default=1),
    ignored(one_of("backend", "how the model runs", "pytorch", default="pytorch")),
)

CONSTRAINTS: Final = ("max_num_tokens >= max_batch_size",)

NOT_SIMULATED: Final = frozenset(
    {
        "attn_backend",
        "batch_wait_max_tokens_ratio",
        "batch_wait_timeout_iters",
        "batch_wait_timeout_ms",
        "cp_size",
        "cuda_graph_config",
        "enable_attention_dp",
        "ep_size",
        "host_cache_size",
        "kv_cache_dtype",
        "max_tokens",
        "num_postprocess_workers",
        "pp_size",
        "torch_compile_config",
    }
)

_ADMISSION: Final = {
    "GUARANTEED_NO_EVICT": Admission.NO_EVICT,
    "MAX_UTILIZATION": Admission.FULL_INPUT,
    "STATIC_BATCH": Admission.STATIC_BATCH,
}
_CHUNKING: Final = {"FIRST_COME_FIRST_SERVED": Chunking.FCFS, "EQUAL_PROGRESS": Chunking.EQUAL}


class _TrtllmWording:
    """The words of its command line (click) and of its configuration (pydantic)."""

    def unknown(self, given: Config) -> StartFailure:
        """As click refuses an option, with today's name of one of release 0.15."""
        name = next(iter(given))
        today = _RENAMED.get(name)
        if today:
            hint = f" TensorRT-LLM 1.2 calls it {today}."
        elif today == "":
            hint = f" TensorRT-LLM 1.2 has no {name}: the KV cache is always paged, and there is nothing to choose."
        else:
            hint = ""
        return StartFailure(f"Error: No such option: --{name}.{hint}", exit_code=2, kind="arguments")

    def mistyped(self, info: ParameterInfo, value: Scalar) -> StartFailure:
        """As pydantic refuses it."""
        words = {ParameterKind.INT: "integer", ParameterKind.FLOAT: "number", ParameterKind.BOOL: "boolean"}
        return self._invalid(info.name, f"Input should be a valid {words.get(info.kind, 'string')}", value)

    def not_among(self, info: ParameterInfo, value: Scalar) -> StartFailure:
        """As pydantic refuses it."""
        choices = " or ".join(repr(choice) for choice in info.choices)
        return self._invalid(info.name, f"Input should be {choices}", value)

    def out_of_range(self, info: ParameterInfo, value: float) -> StartFailure:
        """As pydantic refuses it."""
        return self._invalid(info.name, f"Input should be {range_broken(info, value)}", value)

    def twice(self, info: ParameterInfo) -> StartFailure:
        """Given under its name and under an alias."""
        names = ", ".join((info.name, *info.aliases))
        return StartFailure(f"ValueError: {names} are one parameter: set one of them.", kind="arguments")

    def refused(self, sentence: str) -> StartFailure:
        """A check over several parameters that does not hold."""
        return pydantic_failure(_SECTION, f"Value error, {sentence} [type=value_error]")

    def _invalid(self, name: str, sentence: str, value: Scalar) -> StartFailure:
        return pydantic_failure(_SECTION, f"{name}: {sentence} [type=value_error, input_value={value!r}]")


_WORDS: Final = _TrtllmWording()


def settle(host: Host) -> Settled:
    """What the parameters mean. See Dialect."""
    given = checked(host.parameters, PARAMETERS, _WORDS)
    values: Config = {**defaults_of(PARAMETERS), **given}
    values["max_seq_len"] = length = _length(host, given)
    degree = _degree(host, int(values["tp_size"]))
    tokens, seqs = int(values["max_num_tokens"]), int(values["max_batch_size"])
    if tokens < seqs:
        raise _WORDS.refused(f"max_num_tokens ({tokens}) must be greater than or equal to max_batch_size ({seqs}).")
    chunked = bool(values["enable_chunked_prefill"])
    policy = "FIRST_COME_FIRST_SERVED"
    if chunked:
        values["context_chunking_policy"] = policy = str(values.get("context_chunking_policy", policy))
    else:  # it means nothing then
        values.pop("context_chunking_policy", None)
    return Settled(
        scheduler=SchedulerSettings(
            order=Order.DECODE_FIRST,
            admission=_ADMISSION[str(values["capacity_scheduler_policy"])],
            chunking=_CHUNKING[policy],
            chunked=chunked,
            token_budget=tokens,
            max_running=seqs,
            max_model_len=length,
            block_size=int(values["tokens_per_block"]),
            blocks=0,
            prefix_caching=bool(values["enable_block_reuse"]),
            prefix_at_once=False,
            budget_counts_cached=True,
            async_scheduling=not values["disable_overlap_scheduler"],
            reject_long_prompts=not chunked,
        ),
        tensor_parallel=degree,
        utilization=float(values["kv_cache_free_gpu_memory_fraction"]),
        token_budget=tokens,
        max_running=seqs,
        launch=LaunchCost(),
        effective=dict(sorted(values.items())),
        start_s=_IMPORT_S + _CAPTURE_S + weights_s(host.model, degree) + (_NCCL_S if degree > 1 else 0.0),
        stream_interval=int(values["stream_interval"]),
        log=(
            f"[TRT-LLM] [I] TensorRT LLM version: {NAME.removeprefix('trtllm-')}",
            "[TRT-LLM] [I] Using LLM with PyTorch backend",
            f"[TRT-LLM] [I] {host.model.name}: tp_size={degree}, max_seq_len={length}",
            f"[TRT-LLM] [I] max_batch_size={seqs}, max_num_tokens={tokens}",
        ),
    )


def _length(host: Host, given: Config) -> int:
    asked = given.get("max_seq_len", host.max_model_len)
    length = host.model.max_model_len if asked is None else int(asked)
    if length > host.model.max_model_len:
        raise _WORDS.refused(
            f"max_seq_len ({length}) is greater than max_position_embeddings ({host.model.max_model_len}) of the model."
        )
    return length


def _degree(host: Host, degree: int) -> int:
    if degree > host.devices:
        raise _WORDS.refused(f"tp_size ({degree}) is larger than the number of GPUs ({host.devices}).")
    if host.devices % degree:
        raise _WORDS.refused(f"tp_size ({degree}) does not divide the service's {host.devices} GPUs.")
    if host.model.heads % degree:
        raise _WORDS.refused(f"num_attention_heads ({host.model.heads}) must be divisible by tp_size ({degree}).")
    return degree


def memory_log(settled: Settled, host: Host, blocks: int) -> tuple[str, ...]:
    """The size of its KV cache, much in its own words."""
    del host
    tokens = blocks * settled.scheduler.block_size
    return (f"[TRT-LLM] [I] Max KV cache blocks per replica: {blocks}, tokens: {tokens}",)


DIALECT: Final = Dialect(
    name=NAME,
    parameters=PARAMETERS,
    constraints=CONSTRAINTS,
    not_simulated=NOT_SIMULATED,
    settle=settle,
    memory_log=memory_log,
)
