"""Laws of the engine generations: known constraints are the argument check, and what settles makes sense."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.coordinator.space.expression import parse
from scoot.simulator.dialect.parameters import ParameterInfo
from scoot.simulator.dialect.registry import DIALECTS, known_constraints, parameters_of
from scoot.simulator.memory import MemoryPlan
from scoot.simulator.service import SimulatedService, resolve
from scoot.simulator.settings import LoadMemory, Resolved, StartFailure
from scoot.simulator.shapes import GPUS, MODELS
from scoot.wire.errors import UserError
from scoot.wire.spec import Config, ParameterKind, Scalar

LENGTH = 4096
"""Of the model these laws are tried on."""


SPECIAL: dict[str, st.SearchStrategy[Scalar]] = {
    "tensor_parallel_size": st.sampled_from([1, 2, 4, 8]),
    "tp_size": st.sampled_from([1, 2, 4, 8]),
    "max_model_len": st.integers(1, LENGTH),
    "max_seq_len": st.integers(1, LENGTH),
    "block_size": st.sampled_from([16, 24, 32, 48]),
    "tokens_per_block": st.sampled_from([1, 2, 16, 128]),
}
"""Parameters whose values are refused for what the model or the host is."""


class NoTime:
    def gpu_s(self, decodes: int, decode_context: int, prefills: Sequence[tuple[int, int]]) -> float:
        return 0.0

    def cpu_s(self, sequences: int) -> float:
        return 0.0


def roomy(model: object, gpu: object, tensor_parallel: int, **asked: Any) -> MemoryPlan:
    load = LoadMemory(free_bytes=1.0, fixed_bytes=0.0, token_bytes=0.0, sequence_bytes=0.0)
    return MemoryPlan(blocks=LENGTH, load=load, weights_bytes=0.0, activation_bytes=0.0, kv_bytes=0.0)


def start(engine: str, parameters: Config, *, gpu: str = "a100", model: str = "llama2-13b") -> Resolved:
    service = SimulatedService(engine=engine, model=model, gpu=gpu, devices=8, parameters=parameters)
    return resolve(service, memory=roomy, step_time=lambda *_, **__: NoTime())[0]


def values(info: ParameterInfo) -> st.SearchStrategy[Scalar]:
    """Values of a parameter's own domain, small ones often, so that constraints between parameters matter."""
    if info.choices:
        return st.sampled_from(info.choices)
    if info.name in SPECIAL:
        return SPECIAL[info.name]
    if info.kind is ParameterKind.BOOL:
        return st.booleans()
    if info.kind is ParameterKind.FLOAT:
        high = 5.0 if info.high is None else info.high
        return st.floats(info.low or 0.0, high, exclude_min=info.above, exclude_max=info.below)
    return st.integers(int(info.low or 0), 64) | st.integers(int(info.low or 0), 2 * LENGTH)


def configurations(engine: str, *always: str) -> st.SearchStrategy[Config]:
    """Any of its parameters, those of `always` in all of them."""
    infos = {info.name: values(info) for info in parameters_of(engine)}
    return st.fixed_dictionaries(
        {name: infos[name] for name in always},
        optional={name: strategy for name, strategy in infos.items() if name not in always},
    )


CONSTRAINED = {
    "vllm-0.4.2": ("max_num_batched_tokens", "max_num_seqs", "enable_chunked_prefill", "enable_prefix_caching"),
    "vllm-0.32": (
        *("max_num_batched_tokens", "max_num_seqs", "enable_chunked_prefill", "max_num_active_seqs"),
        *("max_num_scheduled_tokens", "long_prefill_token_threshold"),
    ),
    "trtllm-1.2": ("max_num_tokens", "max_batch_size"),
}


@pytest.mark.parametrize("engine", DIALECTS)
@given(data=st.data())
def test_known_constraints_are_the_argument_check(engine: str, data: st.DataObject) -> None:
    config = data.draw(configurations(engine, *CONSTRAINED[engine]))
    facts: Config = {"max_model_len": LENGTH, **config}
    allowed = all(
        bool(parse(text, facts.keys()).evaluate({name: np.asarray(value) for name, value in facts.items()}))
        for text in known_constraints(engine)
    )
    try:
        start(engine, config)
        refused = False
    except StartFailure as failure:
        # The space of the strategies holds no other reason to refuse arguments; hidden constraints are not arguments.
        refused = failure.kind == "arguments"
    assert refused is not allowed


@pytest.mark.parametrize("engine", DIALECTS)
@given(data=st.data())
def test_what_settles_makes_sense_and_settles_again(engine: str, data: st.DataObject) -> None:
    config = data.draw(configurations(engine))
    gpu, model = data.draw(st.sampled_from(sorted(GPUS))), data.draw(st.sampled_from(["llama2-13b", "llama2-7b"]))
    try:
        resolved = start(engine, config, gpu=gpu, model=model)
    except StartFailure:
        return
    scheduler = resolved.scheduler
    assert 1 <= scheduler.max_running <= scheduler.token_budget
    assert 1 <= scheduler.max_model_len <= MODELS[model].max_model_len
    if not scheduler.chunked and not scheduler.reject_long_prompts and "max_num_scheduled_tokens" not in config:
        assert scheduler.token_budget >= scheduler.max_model_len
    assert scheduler.block_size >= 1
    assert 0.0 <= scheduler.watermark < 1.0
    assert 0.0 < resolved.start_s < 600.0
    assert all(line.isprintable() for line in resolved.log)
    if not resolved.effective.get("enforce_eager"):  # without graphs the widest one, 0, is nothing to ask for
        again = start(engine, resolved.effective, gpu=gpu, model=model)
        assert again.effective == resolved.effective
        assert again.scheduler == scheduler


@pytest.mark.parametrize("engine", DIALECTS)
@given(
    config=st.dictionaries(
        st.sampled_from(["max_num_seqs", "block_size", "enforce_eager", "watermark", "tp_size", "x", "max_num_tokens"])
        | st.text(max_size=8),
        st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        max_size=4,
    )
)
def test_nonsense_is_refused_with_a_reason(engine: str, config: dict[str, Any]) -> None:
    failure = refusal(engine, config)
    if failure is not None:
        assert all(failure.lines)
        assert failure.kind in {"arguments", "engine"}
        assert failure.exit_code in {1, 2}


def refusal(engine: str, config: dict[str, Any]) -> StartFailure | None:
    try:
        start(engine, config)
    except StartFailure as failure:
        return failure
    except UserError as error:
        return None if error.key else pytest.fail(f"{error} names no key")
    return None
