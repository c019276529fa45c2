"""How an engine shares out the memory of its devices: KV blocks, room under load, and why it does not start. Pure.

All devices of a replica hold the same, so everything is of one device. In the order in which a real engine takes it:

* the CUDA context, which engines do not count as theirs;
* weights, sharded over the devices, embedding and head included;
* NCCL, cuBLAS and other memory that is not PyTorch's;
* a profile run: one dummy step of `token_budget` tokens and `max_running` sequences, whose peak is kept free;
* KV blocks, from what is then left of the share the engine may use;
* CUDA graphs. vLLM 0.32 subtracts an estimate of them before it sizes the KV cache; vLLM 0.4 and TensorRT-LLM capture
  them afterwards, out of the share that was to stay free.

Under load a step holds the activations of its tokens and the logits of its sequences, and PyTorch's allocator cannot
use all it has reserved, because no two steps have the same shape. What the profile run kept free, and the share beyond
the engine's, must be enough for that. So the default share is safe; a large token budget, or many sequences with a
large vocabulary, together with a large share, start well and die under load (vLLM's issues 21410 at 0.98 and 9290 at
0.941).

Where the figures come from is said next to them; "assumed" where no log or source was found.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import msgspec

from scoot.simulator.settings import LoadMemory, StartFailure
from scoot.simulator.shapes import GIB, Gpu, ModelShape

_MIB: Final = 1024**2
_ELEMENT_BYTES: Final = 2
"""Weights, activations and KV cache are 16 bits."""

CONTEXT_BYTES: Final = 0.45e9
"""CUDA context with loaded kernels. 0.4-0.5 GB on data-centre GPUs as nvidia-smi shows an idle PyTorch process."""
OTHER_BYTES: Final = 0.16 * GIB
"""Not PyTorch's, one device: vLLM logged `non_torch_memory takes 0.16GiB` (gateway-api-inference-extension 550)."""
COLLECTIVE_BYTES: Final = 0.17 * GIB
"""The same with NCCL: 0.28-0.39 GiB altogether were logged with two devices (vLLM 15039, 14452, 11251)."""
_FIXED_BYTES: Final = 121 * _MIB
"""Reserved by PyTorch and unallocated: the least that logs of engines out of memory show (vLLM 10637: 121 MiB; 488 and
612 MiB in 13152 and 9290)."""

_HIDDEN_COPIES: Final = 3
"""Hidden states alive at the peak of a layer: residual, input, and what the all-reduce or the projection writes."""


class Style(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine generation shares out memory.

    Attributes:
        free_fraction: `utilization` is a share of what is free after the profile run, not of the device.
        profile_logit_bytes: of the sampler at its peak in the profile run, for each sequence and vocabulary entry.
        load_logit_bytes: the same under load, with plain sampling.
        fragmentation: share of the activations that the allocator cannot use again for the next step.
        graph_sizes: batch sizes up to this are captured, in steps of 8.
        graph_bytes: of one captured graph, for each layer.
        graphs_counted: the KV cache is sized with the graphs in mind.
        strict_start: refuses to start if the share it may use is not free at that moment.
        warms_sampler: samples for `max_running` dummy sequences before it is ready.
        oom_class: PyTorch's name of the error; it changed with release 2.5.
    """

    free_fraction: bool = False
    profile_logit_bytes: float
    load_logit_bytes: float
    fragmentation: float
    graph_sizes: int
    graph_bytes: float
    graphs_counted: bool
    strict_start: bool = False
    warms_sampler: bool = False
    oom_class: str = "torch.OutOfMemoryError"


STYLES: Final = MappingProxyType(
    {
        # Logits: Llama-3-8B at 256 sequences had an activation peak of 1.26 GiB with one device and with two (vLLM pull
        # request 10511), so it is the sampler's: 41 bytes an entry (16-bit logits, their sort with indices, two float32
        # distributions). Plain sampling needs 14. Graphs: its log warned of 1-3 GiB; later releases of that generation
        # logged 0.1-0.2 GiB for small models; 0.4 MB is assumed between. Fragmentation: assumed, at the upper end of
        # the 5-20 % that logs of out-of-memory errors show; PyTorch 2.3 had no expandable segments by default.
        "vllm-0.4.2": Style(
            profile_logit_bytes=41.0,
            load_logit_bytes=14.0,
            fragmentation=0.20,
            graph_sizes=256,
            graph_bytes=0.4e6,
            graphs_counted=False,
            oom_class="torch.cuda.OutOfMemoryError",
        ),
        # Logits: 16-bit, float32, probabilities and noise. Graphs: twice captured, up to 512 tokens; 0.26-0.58 GiB were
        # logged as estimates in 2026 (vLLM 30515, gpustack/runner 251), which 0.1 MB meets for 32 to 64 layers.
        "vllm-0.32": Style(
            profile_logit_bytes=16.0,
            load_logit_bytes=16.0,
            fragmentation=0.15,
            graph_sizes=512,
            graph_bytes=0.1e6,
            graphs_counted=True,
            strict_start=True,
            warms_sampler=True,
        ),
        # Its sampler keeps float32 logits, and probabilities in the profile run. Assumed, as is all but the meaning of
        # the fraction.
        "trtllm-1.2": Style(
            free_fraction=True,
            profile_logit_bytes=8.0,
            load_logit_bytes=4.0,
            fragmentation=0.10,
            graph_sizes=128,
            graph_bytes=0.1e6,
            graphs_counted=False,
        ),
    }
)
"""Generations there is a plan for."""


class MemoryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What one device of a replica holds once the engine is ready.

    Attributes:
        blocks: of the KV cache of the replica, as the engine logs them (vLLM 0.32 never uses one of them).
        load: what is left for steps, and what they need.
        weights_bytes, activation_bytes, kv_bytes: of one device; activation is the profile run's peak.
    """

    blocks: int
    load: LoadMemory
    weights_bytes: float
    activation_bytes: float
    kv_bytes: float


def kv_bytes_per_token(model: ModelShape, tensor_parallel: int) -> int:
    """Of keys and values of one token on one device, which has at least one KV head."""
    heads = max(1, -(-model.kv_heads // tensor_parallel))
    return 2 * _ELEMENT_BYTES * model.layers * heads * model.head_dim


def activation_bytes_per_token(model: ModelShape, tensor_parallel: int) -> float:
    """At the peak of a layer: hidden states are whole on every device, the rest of the widest phase is sharded.

    That phase is the gated feed-forward network (its two projections and their product) in all models known, or the
    projections of attention where they are wider.
    """
    attention = model.head_dim * (2 * model.heads + 2 * model.kv_heads)
    return _ELEMENT_BYTES * (_HIDDEN_COPIES * model.hidden + max(3 * model.ffn, attention) / tensor_parallel)


def plan_memory(
    model: ModelShape,
    gpu: Gpu,
    tensor_parallel: int,
    *,
    style: str,
    utilization: float,
    token_budget: int,
    max_running: int,
    max_model_len: int,
    block_size: int,
    blocks_override: int | None = None,
) -> MemoryPlan:
    """Share out a device's memory as an engine of a generation does when it starts.

    Args:
        style: one of STYLES.
        utilization: share of the device (vLLM's gpu_memory_utilization), or of what is free after the profile run
            (TensorRT-LLM's kv_cache_free_gpu_memory_fraction); in (0, 1].
        token_budget: most tokens of a step, >= 1.
        max_running: most sequences of a step, >= 1; the profile run has as many, or one for each of its tokens.
        max_model_len: longest sequence, tokens; the KV cache must hold one (TensorRT-LLM starts with less, and refuses
            requests that are too long).
        block_size: tokens of a KV block.
        blocks_override: KV blocks instead of what fits (vLLM's num_gpu_blocks_override).

    Raises:
        StartFailure: kind "memory", with what the engine would log.
    """
    kind = STYLES[style]
    usable = gpu.usable_gib * GIB
    weights = model.parameters * _ELEMENT_BYTES / tensor_parallel
    other = OTHER_BYTES + (COLLECTIVE_BYTES if tensor_parallel > 1 else 0.0)
    graphs = _graph_bytes(model, kind, max_running)
    sequences = min(max_running, token_budget)
    token = activation_bytes_per_token(model, tensor_parallel)
    activation = max(token * token_budget, kind.profile_logit_bytes * model.vocab * sequences)

    allowed = utilization * usable
    if kind.strict_start and allowed > usable - CONTEXT_BYTES:
        raise _failure(
            f"ValueError: Free memory on device cuda:0 ({_gib(usable - CONTEXT_BYTES)}/{_gib(usable)} GiB) on startup "
            f"is less than desired GPU memory utilization ({utilization}, {_gib(allowed)} GiB). Decrease GPU memory "
            f"utilization or reduce GPU memory used by other processes."
        )
    free = usable - CONTEXT_BYTES - other - weights
    if free < 0:
        widest = 2 * _ELEMENT_BYTES * model.hidden * model.ffn / tensor_parallel
        raise _out_of_memory(gpu, widest, widest + free, style=style)
    if free < activation:
        raise _out_of_memory(gpu, activation / 2, free - activation / 2, style=style)

    if kind.free_fraction:
        room = utilization * (free - activation)
    else:
        room = allowed - other - weights - activation - (graphs if kind.graphs_counted else 0.0)
    block_bytes = block_size * kv_bytes_per_token(model, tensor_parallel)
    blocks = max(0, int(room // block_bytes)) if blocks_override is None else blocks_override
    _check_cache(style, blocks, block_bytes, block_size, max_model_len)

    kv = float(blocks * block_bytes)
    load = LoadMemory(
        free_bytes=free - kv - graphs,
        fixed_bytes=float(_FIXED_BYTES),
        token_bytes=(1.0 + kind.fragmentation) * token,
        sequence_bytes=(1.0 + kind.fragmentation) * kind.load_logit_bytes * model.vocab,
    )
    if load.short_by(1, 1) > 0:
        # The KV cache (blocks_override) or the capture of the graphs found too little.
        asked = kv / model.layers if free < kv else max(2.0 * _MIB, graphs / model.layers)
        raise _out_of_memory(gpu, asked, free - kv if free >= kv else asked / 2, style=style)
    if kind.warms_sampler and kind.load_logit_bytes * model.vocab * sequences > load.free_bytes:
        raise _failure(
            f"RuntimeError: CUDA out of memory occurred when warming up sampler with {sequences} dummy requests. "
            f"Please try lowering `max_num_seqs` or `gpu_memory_utilization` when initializing the engine."
        )
    return MemoryPlan(blocks=blocks, load=load, weights_bytes=weights, activation_bytes=activation, kv_bytes=kv)


def out_of_memory_line(gpu: Gpu, asked_bytes: float, free_bytes: float, *, style: str) -> str:
    """What PyTorch logs when a step (or a start) asks for more than there is."""
    usable = gpu.usable_gib * GIB
    return (
        f"{STYLES[style].oom_class}: CUDA out of memory. Tried to allocate {_amount(asked_bytes)}. GPU 0 has a total "
        f"capacity of {_amount(usable)} of which {_amount(free_bytes)} is free. Including non-PyTorch memory, this "
        f"process has {_amount(usable - free_bytes)} memory in use."
    )


def _out_of_memory(gpu: Gpu, asked_bytes: float, free_bytes: float, *, style: str) -> StartFailure:
    """The start that asked for so much; what was free is less than that, however it was computed."""
    return _failure(out_of_memory_line(gpu, asked_bytes, max(0.0, min(free_bytes, 0.9 * asked_bytes)), style=style))


def _graph_bytes(model: ModelShape, kind: Style, max_running: int) -> float:
    """Of all captured graphs: sizes 1, 2, 4, then every 8 up to 256, every 16 beyond; vLLM 0.32 captures them twice."""
    largest = min(2 * max_running if kind.graphs_counted else max_running, kind.graph_sizes)
    captured = _captured(largest)
    if kind.graphs_counted:
        captured += _captured(min(max_running, kind.graph_sizes))
    return captured * model.layers * kind.graph_bytes


def _captured(largest: int) -> int:
    small = sum(1 for size in (1, 2, 4) if size <= largest)
    return small + min(largest, 256) // 8 + max(0, largest - 256) // 16


def _check_cache(style: str, blocks: int, block_bytes: int, block_size: int, max_model_len: int) -> None:
    """Whether a generation starts with so many KV blocks.

    TensorRT-LLM clamps its longest sequence to the cache, and gives up only without any block.

    Raises:
        StartFailure: in that generation's words.
    """
    tokens = blocks * block_size
    if style == "trtllm-1.2":
        if blocks <= 0:
            raise _failure("AssertionError: Impossible to fit in any sequence in kvCache")
        return
    new = style == "vllm-0.32"
    more = "See https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details."
    if blocks <= 0:
        on_cpu = f" (this flag also controls CPU memory reservation on the CPU backend, despite its name). {more}"
        raise _failure(
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
            f"initializing the engine{on_cpu if new else '.'}"
        )
    if tokens >= max_model_len:
        return
    if not new:
        raise _failure(
            f"ValueError: The model's max seq len ({max_model_len}) is larger than the maximum number of tokens that "
            f"can be stored in KV cache ({tokens}). Try increasing `gpu_memory_utilization` or decreasing "
            f"`max_model_len` when initializing the engine."
        )
    needed_bytes = -(-max_model_len // block_size) * block_bytes
    raise _failure(
        f"ValueError: To serve at least one request with the model's max seq len ({max_model_len}), "
        f"({_gib(needed_bytes)} GiB KV cache is needed, which is larger than the available KV cache memory "
        f"({_gib(blocks * block_bytes)} GiB). Based on the available memory, the estimated maximum model length is "
        f"{tokens}. Try increasing `gpu_memory_utilization` (which also controls CPU memory on the CPU backend) or "
        f"decreasing `max_model_len` when initializing the engine. {more}"
    )


def _failure(line: str) -> StartFailure:
    return StartFailure(line, kind="memory")


def _gib(size_bytes: float) -> str:
    """As vLLM writes it."""
    return f"{round(size_bytes / GIB, 2)}"


def _amount(size_bytes: float) -> str:
    """As PyTorch writes it."""
    return f"{size_bytes / GIB:.2f} GiB" if size_bytes >= GIB else f"{size_bytes / _MIB:.2f} MiB"
