"""How long a step takes: its layers, both ends of the model, and the CPU. Pure but for the package's own data file.

A step is layers x (dense(tokens) + attention of prompts + attention of running sequences + 2 all-reduces), embedding,
logits of the sequences that get a token, and the CPU apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from scoot.simulator.all_reduce import AllReduce, all_reduce
from scoot.simulator.attention import DecodeAttention, PrefillAttention, decode_attention, prefill_attention
from scoot.simulator.calibration import Calibration, load
from scoot.simulator.dense import Dense, dense, embedding_us, head_us, logits_bytes, roofline_for
from scoot.simulator.linear import LinearModel
from scoot.simulator.overheads import NONE, Overheads, overheads
from scoot.simulator.settings import StepTime
from scoot.simulator.shapes import DEGREES, Gpu, ModelShape
from scoot.wire.errors import UserError

_KEPT: Final = 65_536
"""Token counts whose time is kept."""
_DEFAULT: Final = "vllm-0.32"
_REDUCES: Final = 2
_VALUE_BYTES: Final = 2
_S_PER_US: Final = 1e-6


class LayeredStepTime:
    """Step times put together from those of their parts. It keeps what it computed, so one may be shared.

    Attributes:
        lines: where its figures are from.
    """

    __slots__ = (
        "_cpu",
        "_decode",
        "_dense",
        "_ends",
        "_gpu",
        "_layers",
        "_layers_s",
        "_model",
        "_prefill",
        "_reduce",
        "_roof",
        "_sequences",
        "_tokens",
        "lines",
    )

    def __init__(
        self,
        model: ModelShape,
        gpu: Gpu,
        degree: int,
        *,
        calibration: Calibration,
        reduce: AllReduce,
        cpu: Overheads,
        tables: bool = True,
        ends: bool = True,
    ) -> None:
        """Step times of a model on `degree` devices.

        Args:
            model, gpu, degree: whose.
            calibration: figures.
            reduce: all-reduce of the group.
            cpu: overheads.
            tables: False to use rooflines for layers where there is a table as well.
            ends: False to leave out embedding and logits, as other simulators do.
        """
        roof, origin = roofline_for(calibration, gpu)
        self._model, self._gpu, self._roof = model, gpu, roof
        self._dense: Dense = dense(calibration, model, gpu, degree, tables=tables)
        self._prefill: PrefillAttention = prefill_attention(calibration, model, gpu, degree)
        self._decode: DecodeAttention = decode_attention(calibration, model, gpu, degree)
        self._reduce = reduce
        self._cpu = cpu
        self._layers = degree, model.layers
        self._layers_s = model.layers * _S_PER_US
        self._ends = ends
        self._tokens: dict[int, float] = {}
        self._sequences: dict[int, float] = {0: 0.0}
        self.lines = (
            *self._dense.lines,
            *self._prefill.lines,
            *self._decode.lines,
            *reduce.lines,
            f"embedding and logits: roofline, {origin}",
            *cpu.lines,
        )

    def gpu_s(self, decodes: int, decode_context: int, prefills: Sequence[tuple[int, int]]) -> float:
        """Time on the device, as settings.StepTime has it; 0 for a step that computes nothing."""
        tokens = decodes
        attention_us = 0.0
        if prefills:
            for chunk, _ in prefills:
                tokens += chunk
            attention_us = self._prefill.us(prefills)
        if decodes:
            attention_us += self._decode.us(decodes, decode_context)
        rest_s = self._tokens.get(tokens)
        if rest_s is None:
            rest_s = self._of_tokens(tokens)
        sequences = decodes + len(prefills)
        head_s = self._sequences.get(sequences)
        if head_s is None:
            head_s = self._of_sequences(sequences)
        return rest_s + head_s + attention_us * self._layers_s

    def cpu_s(self, sequences: int) -> float:
        """Time of the CPU, as settings.StepTime has it."""
        return self._cpu.base_s + self._cpu.per_sequence_s * sequences

    def _of_tokens(self, tokens: int) -> float:
        """Seconds of all layers without attention, and of the embedding."""
        if tokens < 1:
            return 0.0
        model = self._model
        reduce_us = self._reduce.us(tokens * model.hidden * _VALUE_BYTES)
        us = model.layers * (self._dense.us(tokens) + _REDUCES * reduce_us)
        if self._ends:
            us += embedding_us(self._roof, self._gpu, model, tokens) + reduce_us
        if len(self._tokens) < _KEPT:
            self._tokens[tokens] = us * _S_PER_US
        return us * _S_PER_US

    def _of_sequences(self, sequences: int) -> float:
        """Seconds of the logits; gathering them is half of what reducing them would be."""
        us = 0.0
        if self._ends:
            us = head_us(self._roof, self._gpu, self._model, self._layers[0], sequences)
            us += self._reduce.us(logits_bytes(self._model, sequences)) / 2
        if len(self._sequences) < _KEPT:
            self._sequences[sequences] = us * _S_PER_US
        return us * _S_PER_US


class LinearStepTime:
    """Step times of a linear model, fitted to a user's own timings.

    Where those were of whole steps the CPU is in them; else that of an engine generation comes on top.
    """

    __slots__ = ("_cpu", "gpu_s", "lines")

    def __init__(self, linear: LinearModel, cpu: Overheads) -> None:
        """Step times of `linear` and `cpu`."""
        self.gpu_s = linear.gpu_s
        self._cpu = cpu
        self.lines = ("whole step: linear model fitted to the user's own timings", *cpu.lines)

    def cpu_s(self, sequences: int) -> float:
        """Time of the CPU, as settings.StepTime has it."""
        return self._cpu.base_s + self._cpu.per_sequence_s * sequences


def step_time_of(
    model: ModelShape,
    gpu: Gpu,
    tensor_parallel: int,
    *,
    link: str,
    custom_all_reduce: bool = True,
    overheads: str = _DEFAULT,
    linear: LinearModel | None = None,
) -> StepTime:
    """Step times of a service's replica. Calls with the same arguments share what they computed.

    Args:
        model, gpu: whose.
        tensor_parallel: devices of a replica: 1, 2, 4 or 8, and a divisor of the model's heads.
        link: between them, "nvlink" or "pcie"; of no matter with one device.
        custom_all_reduce: with vLLM's own all-reduce where it applies; NCCL's otherwise.
        overheads: CPU profile: "vllm-0.4.2", "vllm-0.32", "trtllm-1.2" or "none".
        linear: a model to take the time on the device from, instead of the tables.

    Raises:
        UserError: a degree, link, profile or GPU that there are no figures for.
    """
    if linear is not None:
        _check(model, tensor_parallel)
        cpu = _overheads(overheads, tensor_parallel)
        return LinearStepTime(linear, cpu if linear.covers == "gpu" else _overheads(NONE, tensor_parallel))
    return _layered(model, gpu, tensor_parallel, link, custom_all_reduce, overheads)


def provenance(model: ModelShape, gpu: Gpu, tensor_parallel: int, link: str) -> tuple[str, ...]:
    """Where the step times of a service are from: what was measured, what derived and how, a line each.

    Raises: as `step_time_of`.
    """
    return _layered(model, gpu, tensor_parallel, link, True, _DEFAULT).lines


@lru_cache(maxsize=64)
def _layered(model: ModelShape, gpu: Gpu, degree: int, link: str, custom: bool, profile: str) -> LayeredStepTime:
    _check(model, degree)
    calibration = load()
    reduce = all_reduce(calibration, gpu, degree, link=link, custom=custom)
    cpu = _overheads(profile, degree)
    return LayeredStepTime(model, gpu, degree, calibration=calibration, reduce=reduce, cpu=cpu)


def _overheads(profile: str, degree: int) -> Overheads:
    return overheads(load(), profile, degree)


def _check(model: ModelShape, degree: int) -> None:
    key, hint = "tensor_parallel_size", f"it is one of {', '.join(map(str, DEGREES))}"
    if degree not in DEGREES:
        raise UserError(f"the simulator has no times for {degree} devices", key=key, hint=hint)
    kv_fits = model.kv_heads % degree == 0 or degree % model.kv_heads == 0
    if model.heads % degree or not kv_fits:
        raise UserError(
            f"{degree} devices cannot share {model.heads} heads and {model.kv_heads} kv heads of {model.name}",
            key=key,
            hint="use a divisor of both",
        )
