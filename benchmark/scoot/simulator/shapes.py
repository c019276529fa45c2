"""Shapes of models and figures of GPUs that the simulator knows. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from types import MappingProxyType
from typing import Final

import msgspec

from scoot.wire.errors import UserError

GIB: Final = 1024**3


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """A dense decoder, as its config.json has it.

    Attributes:
        name: as the simulator's users write it.
        layers, hidden, ffn, heads, kv_heads, head_dim, vocab: sizes.
        max_model_len: longest context it was made for, tokens.
        tied: input and output embeddings are one matrix.
    """

    name: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int = 128
    vocab: int
    max_model_len: int
    tied: bool = False

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer: q, k, v and output projections, and a gated feed-forward network."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.ffn

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.layers * self.layer_parameters + (1 if self.tied else 2) * self.vocab * self.hidden

    @property
    def kv_bytes_per_token(self) -> int:
        """Of keys and values of one token in 16 bits, over all layers and all devices."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU's figures, from its vendor's data sheet.

    Attributes:
        name: as the simulator's users write it.
        tflops: dense 16-bit matrix multiplication, 10^12 operations per second.
        gb_per_s: memory bandwidth, 10^9 bytes per second.
        usable_gib: memory that a process can get.
        link: how it usually talks to its neighbours, "nvlink" or "pcie".
    """

    name: str
    tflops: float
    gb_per_s: float
    usable_gib: float
    link: str


MODELS: Final = MappingProxyType(
    {
        shape.name: shape
        for shape in (
            ModelShape(
                name="llama2-7b",
                layers=32,
                hidden=4096,
                ffn=11008,
                heads=32,
                kv_heads=32,
                vocab=32000,
                max_model_len=4096,
            ),
            ModelShape(
                name="llama2-13b",
                layers=40,
                hidden=5120,
                ffn=13824,
                heads=40,
                kv_heads=40,
                vocab=32000,
                max_model_len=4096,
            ),
            ModelShape(
                name="llama2-70b",
                layers=80,
                hidden=8192,
                ffn=28672,
                heads=64,
                kv_heads=8,
                vocab=32000,
                max_model_len=4096,
            ),
            ModelShape(
                name="llama3-8b",
                layers=32,
                hidden=4096,
                ffn=14336,
                heads=32,
                kv_heads=8,
                vocab=128256,
                max_model_len=8192,
            ),
            ModelShape(
                name="llama3-70b",
                layers=80,
                hidden=8192,
                ffn=28672,
                heads=64,
                kv_heads=8,
                vocab=128256,
                max_model_len=8192,
            ),
            ModelShape(
                name="qwen3-8b",
                layers=36,
                hidden=4096,
                ffn=12288,
                heads=32,
                kv_heads=8,
                vocab=151936,
                max_model_len=40960,
            ),
            ModelShape(
                name="qwen3-14b",
                layers=40,
                hidden=5120,
                ffn=17408,
                heads=40,
                kv_heads=8,
                vocab=151936,
                max_model_len=40960,
            ),
            ModelShape(
                name="qwen3-32b",
                layers=64,
                hidden=5120,
                ffn=25600,
                heads=64,
                kv_heads=8,
                vocab=151936,
                max_model_len=40960,
            ),
            ModelShape(
                name="qwen-72b",
                layers=80,
                hidden=8192,
                ffn=24576,
                heads=64,
                kv_heads=64,
                vocab=152064,
                max_model_len=32768,
            ),
            ModelShape(
                name="codellama-34b",
                layers=48,
                hidden=8192,
                ffn=22016,
                heads=64,
                kv_heads=8,
                vocab=32000,
                max_model_len=16384,
            ),
        )
    }
)

GPUS: Final = MappingProxyType(
    {
        gpu.name: gpu
        for gpu in (
            Gpu(name="a10", tflops=125.0, gb_per_s=600.0, usable_gib=22.3, link="pcie"),
            Gpu(name="a40", tflops=149.7, gb_per_s=696.0, usable_gib=44.4, link="pcie"),
            Gpu(name="a100", tflops=312.0, gb_per_s=2039.0, usable_gib=79.2, link="nvlink"),
            Gpu(name="h100", tflops=989.4, gb_per_s=3352.0, usable_gib=79.1, link="nvlink"),
            Gpu(name="h200", tflops=989.4, gb_per_s=4800.0, usable_gib=139.8, link="nvlink"),
            Gpu(name="l40s", tflops=362.0, gb_per_s=864.0, usable_gib=44.4, link="pcie"),
        )
    }
)

LINKS: Final = ("nvlink", "pcie")
DEGREES: Final = (1, 2, 4, 8)
"""Tensor-parallel degrees there are times for."""


def model_named(name: str, *, key: str = "model") -> ModelShape:
    """The shape of a model.

    Raises:
        UserError: the simulator does not know it.
    """
    return MODELS[_known(name, MODELS, "model", key)]


def gpu_named(name: str, *, key: str = "gpu") -> Gpu:
    """The figures of a GPU.

    Raises:
        UserError: the simulator does not know it.
    """
    return GPUS[_known(name, GPUS, "GPU", key)]


def _known(name: str, names: Iterable[str], what: str, key: str) -> str:
    names = sorted(names)
    folded = name.strip().lower()
    if folded in names:
        return folded
    near = difflib.get_close_matches(folded, names, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(names)}"
    raise UserError(f"the simulator has no {what} {name[:80]!r}", key=key, hint=hint)
