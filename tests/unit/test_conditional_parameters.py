"""Conditional parameters: what is refused and how, trial 0, study files, and what people see."""

from __future__ import annotations

import numpy as np
import pytest

from scoot.coordinator.optimizer import sobol
from scoot.coordinator.optimizer.base import Ask, Observation
from scoot.coordinator.optimizer.problem import task_of
from scoot.coordinator.solver.call import suggest
from scoot.coordinator.space.condition import INACTIVE
from scoot.coordinator.space.space import Space
from scoot.coordinator.space.study_space import space_of
from scoot.v1 import study_pb2
from scoot.wire.errors import UserError
from scoot.wire.protobuf import from_message, to_message
from scoot.wire.spec import Config, Parameter, ParameterKind, Scale, StudySpec
from scoot.wire.study_file import parse_study

FILE = """
name = "chat"
objectives = ["ttft_mean"]
constraints = ["long_prefill_token_threshold <= max_num_batched_tokens"]

[service]
engine = "mock"
model = "tiny"
max_model_len = 4096

[workload]
profile = "BOT"
arrivals = {rate = 5}

[parameters.enable_chunked_prefill]
type = "bool"

[parameters.long_prefill_token_threshold]
type = "int"
low = 64
high = 8192
scale = "pow2"
when = "enable_chunked_prefill and max_model_len > 2048"

[parameters.max_num_batched_tokens]
type = "int"
choices = [512, 2048, 8192]

[parameters.max_long_partial_prefills]
type = "int"
low = 1
high = 3
when = "long_prefill_token_threshold >= 128"
"""


def study(text: str = FILE) -> StudySpec:
    return parse_study(text, path="s.toml")


def flag(name: str, when: str | None = None, *, default: bool | None = None) -> Parameter:
    return Parameter(name=name, kind=ParameterKind.BOOL, when=when, default=default)


def number(name: str, when: str | None = None, *, default: int | None = None) -> Parameter:
    return Parameter(name=name, kind=ParameterKind.INT, low=1, high=4, when=when, default=default)


def test_a_study_file_s_conditions_shape_the_space() -> None:
    space = space_of(study())
    # off: 3 budgets; on: thresholds 64..8192 that fit, 64 alone without partial prefills
    fitting = {512: (64, 128, 256, 512), 2048: (64, 128, 256, 512, 1024, 2048), 8192: tuple(2**k for k in range(6, 14))}
    on = sum(1 + 3 * (len(thresholds) - 1) for thresholds in fitting.values())
    assert (space.size().count, space.size().exact) == (3 + on, True)
    everything = space.enumerate(1000)
    assert everything is not None
    assert {"enable_chunked_prefill": False, "max_num_batched_tokens": 512} in everything
    assert [c for c in everything if not c["enable_chunked_prefill"] and len(c) > 2] == []
    short = study(FILE.replace("max_model_len = 4096", "max_model_len = 1024"))
    assert space_of(short).size().count == 6


def test_the_protocol_carries_the_condition() -> None:
    spec = study()
    assert from_message(to_message(spec, study_pb2.StudySpec()), StudySpec) == spec
    assert [parameter.when for parameter in spec.parameters].count(None) == 2


@pytest.mark.parametrize(
    ("parameters", "key", "message"),
    [
        ((flag("a", "a"),), "parameters.a.when", "conditions go round in a circle: a needs itself"),
        (
            (flag("a", "c"), flag("b", "a"), flag("c", "b")),
            "parameters.a.when",
            "conditions go round in a circle: a needs c needs b needs a",
        ),
        ((flag("a"), flag("b", "aa")), "parameters.b.when", "unknown name 'aa', at column 1 of `aa`"),
        ((number("a"), flag("b", "a")), "parameters.b.when", "a condition needs true or false, but here is a number"),
        ((flag("a"), flag("b", "a > 1")), "parameters.b.when", "`>` compares true or false with a number"),
        ((flag("a"), flag("b", " ")), "parameters.b.when", "a condition is empty"),
        ((flag("a"), number("b", "a", default=2)), "parameters.b.default", "depends on a, which the engine decides"),
    ],
)
def test_what_is_refused(parameters: tuple[Parameter, ...], key: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Space.build(parameters)
    assert caught.value.key == key
    assert message in str(caught.value)
    assert caught.value.hint or "column" in str(caught.value)


def test_an_error_in_a_condition_names_its_line() -> None:
    text = FILE.replace('when = "long_prefill_token_threshold >= 128"', 'when = "long_prefill_token >= 128"')
    with pytest.raises(UserError, match="did you mean `long_prefill_token_threshold`"):
        space_of(study(text))


def test_constraints_that_leave_nothing_are_told_from_those_that_switch_a_parameter_off() -> None:
    space = Space.build([flag("a"), number("b", "a")], ["b > 4"])
    assert space.enumerate(10) == [{"a": False}]
    with pytest.raises(UserError, match="the search space is empty") as caught:
        Space.build([flag("a"), number("b", "a")], ["b > 4", "a"])
    assert caught.value.key == "constraints[0], constraints[1]"
    assert "b: 1 to 4" in caught.value.hint


def test_trial_0_has_the_defaults_that_count() -> None:
    on = [number("b", "a", default=3), flag("a", default=True), number("c", "b > 3 or not a", default=1)]
    assert Space.build(on).default_config() == {"b": 3, "a": True}
    assert Space.build([number("b", "a", default=3), flag("a", default=False)]).default_config() == {"a": False}
    # what is inactive for another reason need not be known
    off = [flag("z"), flag("a", default=False), number("b", "a and z", default=3), number("c", "b > 1", default=1)]
    with pytest.raises(UserError, match="depends on z"):
        Space.build(off)
    chain = [flag("z"), flag("a", default=False), number("b", "a"), number("c", "b > 1", default=1)]
    assert Space.build(chain).default_config() == {"a": False}
    with pytest.raises(UserError, match="the default configuration violates `b < 3`"):
        Space.build(on, ["b < 3"])
    assert Space.build([number("b", "a", default=3), flag("a", default=False)], ["b < 3"]).default_config() == {
        "a": False
    }


def test_inactive_values_are_ignored_when_encoded_and_no_part_of_a_key() -> None:
    space = Space.build([flag("a"), number("b", "a")])
    off: Config = {"a": False}
    assert space.encode([off, {"a": False, "b": 2}]).tolist() == [[0.25, INACTIVE], [0.25, INACTIVE]]
    assert space.key(off) == (False, None)
    assert space.key({"a": False, "b": 2}) is None
    assert space.key({"a": True}) is None
    assert space.config_of((False, None)) == off
    assert space.canonical_points(np.array([[0.1, 0.9], [0.9, 0.9]])).tolist() == [[0.1, INACTIVE], [0.9, 0.9]]
    with pytest.raises(UserError, match="no value") as caught:
        space.encode([off, {"a": True}])
    assert caught.value.key == "parameters.b"


def test_a_partial_configuration_is_completed() -> None:
    space = Space.build([flag("a", default=False), number("b", "a"), number("c", "not a", default=4), number("d")])
    assert space.complete({}) == {"a": False, "c": 4, "d": 3}
    assert space.complete({"a": True, "d": 1}) == {"a": True, "b": 3, "d": 1}
    assert space.complete({"c": 2, "b": 1}) == {"a": False, "c": 2, "d": 3}
    assert space.key(space.complete(space.default_config())) is not None
    with pytest.raises(UserError, match="is not a number"):
        space.complete({"d": "x"})


def test_one_configuration_is_left_where_conditions_decide_everything() -> None:
    space = Space.build([number("b", "devices > 1")], facts={"devices": 1})
    assert (space.size().count, space.enumerate(1), space.key({})) == (1, [{}], (None,))
    assert space.sample(np.random.default_rng(0), 2) == [{}, {}]


def test_a_real_parameter_may_be_conditional() -> None:
    share = Parameter(name="share", kind=ParameterKind.FLOAT, low=0.5, high=0.95, when="a")
    space = Space.build([flag("a"), share], ["share <= 0.9"])
    assert space.enumerate(100) is None
    assert space.size().continuous == ("share",)
    found = space.project_points(np.random.default_rng(0).random((50, 2)))
    assert space.feasible_points(found).all()
    assert (found[found[:, 0] < 0.5, 1] == INACTIVE).all()


def test_suggestions_leave_out_what_is_inactive_and_pass_the_contract() -> None:
    spec = study()
    history = [Observation(number=0, config={}, values=(1.0,))]
    for _ in range(12):
        (suggestion,) = suggest("sobol", Ask(spec=spec, history=tuple(history), n=1, call=len(history), seed=0), {})
        history.append(Observation(number=len(history), config=suggestion.config, values=(1.0,)))
    off = [each.config for each in history if each.config.get("enable_chunked_prefill") is False]
    assert off
    assert all(config.keys() == {"enable_chunked_prefill", "max_num_batched_tokens"} for config in off)
    rest = sobol.suggest(task_of(Ask(spec=spec, history=tuple(history), n=1000, call=99, seed=0)))
    assert len(rest) + 12 == space_of(spec).size().count


def test_large_regions_with_conditions_are_estimated_reproducibly() -> None:
    wide = Parameter(name="w", kind=ParameterKind.INT, low=1, high=10**6, scale=Scale.LOG)
    text = [flag("a"), wide, Parameter(name="v", kind=ParameterKind.INT, low=1, high=10**6, when="a")]
    sizes = {Space.build(text, ["v <= w"]).size().describe() for _ in range(2)}
    assert len(sizes) == 1
    size = Space.build(text, ["v <= w"]).size()
    assert abs(size.count / (10**6 + 10**6 * (10**6 + 1) // 2) - 1) < 0.05
