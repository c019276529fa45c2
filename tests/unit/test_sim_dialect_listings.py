"""What the engine generations tell of their parameters."""

from __future__ import annotations

import pytest

from scoot.simulator.dialect.parameters import MOST, ParameterInfo, integer, share
from scoot.simulator.dialect.registry import DIALECTS, dialect_named, known_constraints, parameters_of
from scoot.simulator.service import SimulatedService, resolve
from scoot.wire.errors import UserError
from scoot.wire.spec import ParameterKind


@pytest.mark.parametrize("engine", DIALECTS)
def test_every_parameter_is_described(engine: str) -> None:
    names = [info.name for info in parameters_of(engine)]
    assert len(names) == len(set(names))
    assert not set(names) & dialect_named(engine).not_simulated
    service = SimulatedService(engine=engine, model="llama2-13b", gpu="a100", devices=2)
    effective = resolve(service)[0].effective
    for info in parameters_of(engine):
        assert info.help
        assert info.domain
        assert info.default is not None or info.otherwise, info.name
        assert info.default is None or effective[info.name] == info.default
    assert set(effective) <= set(names)


def test_the_paper_s_parameters_are_all_there() -> None:
    table_1 = {
        *("tensor_parallel_size", "max_num_seqs", "max_num_batched_tokens", "block_size", "scheduler_delay_factor"),
        *("enable_chunked_prefill", "enable_prefix_caching", "disable_custom_all_reduce", "use_v2_block_manager"),
    }
    assert table_1 <= {info.name for info in parameters_of("vllm-0.4.2")}
    assert known_constraints("vllm-0.4.2")
    with pytest.raises(UserError, match="no engine"):
        parameters_of("sglang")


def test_domains_in_words() -> None:
    assert integer("n", "x").domain == "from 1"
    assert share("s", "x", default=0.5).domain == "above 0 to 1"
    power = ParameterInfo(name="p", kind=ParameterKind.INT, low=1, high=MOST, power_of_two=True, help="x")
    assert power.domain == "a power of two from 1"
    assert ParameterInfo(name="f", kind=ParameterKind.FLOAT, help="x").domain == "a number"
    assert ParameterInfo(name="b", kind=ParameterKind.BOOL, help="x").domain == "true or false"
