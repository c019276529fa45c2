"""A submitted study's options: what is refused, what is said, which constraints hold besides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from scoot.coordinator.study.options import Advice, advise
from scoot.wire.catalogue.option import Catalogue, EngineOption, OptionKind, Source
from scoot.wire.errors import UserError
from scoot.wire.spec import Objective, Parameter, ParameterKind, Service, StudySpec, Workload

SEQS = Parameter(name="max_num_seqs", kind=ParameterKind.INT, low=16, high=256)
TOKENS = Parameter(name="max_num_batched_tokens", kind=ParameterKind.INT, low=512, high=8192)
BLOCKS = Parameter(name="block_size", kind=ParameterKind.INT, choices=(16, 32))
DELAY = Parameter(name="scheduler_delay_factor", kind=ParameterKind.FLOAT, low=0.0, high=1.0)
DTYPE = Parameter(name="kv_cache_dtype", kind=ParameterKind.ENUM, choices=("auto", "fp8"))
TYPO = Parameter(name="max_num_seq", kind=ParameterKind.INT, low=16, high=256)

LIVE = Catalogue(
    engine="vllm",
    version="9.9",
    device="cpu",
    source=Source.LIVE,
    options=tuple(EngineOption(name=each.name, kind=OptionKind.INT) for each in (BLOCKS, TOKENS, SEQS)),
)


def spec(*parameters: Parameter, constraints: Sequence[str] = (), engine: str = "vllm", **fields: Any) -> StudySpec:
    return StudySpec(
        name="s",
        service=Service(engine=engine, model="m", device="cpu"),
        workload=Workload(profile="BOT"),
        parameters=parameters,
        objectives=(Objective(metric="ttft_mean"),),
        constraints=tuple(constraints),
        **fields,
    )


def test_an_option_that_is_gone_is_refused_with_what_came_after_it() -> None:
    for live, version in ((LIVE, ""), (None, "0.32.0")):
        with pytest.raises(UserError) as refused:
            advise(spec(DELAY, TYPO, SEQS), live, version)
        assert refused.value.key == "parameters.scheduler_delay_factor"
        assert "was removed" in refused.value.message
        assert "max_num_active_seqs" in refused.value.hint
        assert "parameters.max_num_seq: " in refused.value.hint
        assert "'max_num_seqs'" in refused.value.hint


def test_where_the_release_is_not_known_it_is_only_said() -> None:
    advice = advise(spec(DELAY), None, "")
    assert any(note.startswith("parameters.scheduler_delay_factor: was removed") for note in advice.notes)


def test_what_changes_answers_is_said() -> None:
    advice = advise(spec(DTYPE), None, "0.32.0")
    assert any("changes what the model answers" in note for note in advice.notes)


def test_what_the_engine_enforces_holds_in_the_search() -> None:
    both = spec(SEQS, TOKENS, BLOCKS)
    advice = advise(both, LIVE, "")
    assert advice.implied == ("max_num_batched_tokens >= max_num_seqs", "block_size % 32 == 0")
    assert any("`block_size % 32 == 0` holds in this search" in note for note in advice.notes)
    stated = spec(SEQS, TOKENS, constraints=["max_num_seqs <= max_num_batched_tokens"])
    assert advise(stated, LIVE, "").implied == ()
    assert advise(spec(SEQS, TOKENS, engine_constraints=False), LIVE, "").implied == ()


def test_a_rule_that_leaves_no_room_is_only_said() -> None:
    advice = advise(spec(Parameter(name="block_size", kind=ParameterKind.INT, choices=(16,))), LIVE, "")
    assert advice.implied == ()
    assert any("enforces `block_size % 32 == 0`, but" in note for note in advice.notes)


def test_of_an_engine_that_nobody_knows_there_is_nothing_to_say() -> None:
    assert advise(spec(SEQS, engine="mine"), None, "1") == Advice()
