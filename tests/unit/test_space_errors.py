"""Every mistake in a search space is refused with its key and, where there is one, the remedy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scoot.coordinator.space.space import Space
from scoot.coordinator.space.study_space import space_of
from scoot.wire import limits
from scoot.wire.errors import UserError
from scoot.wire.spec import Objective, Parameter, ParameterKind, Scale, Service, StudySpec, Workload

INT, FLOAT, BOOL, ENUM = ParameterKind.INT, ParameterKind.FLOAT, ParameterKind.BOOL, ParameterKind.ENUM


def parameter(kind: ParameterKind = INT, name: str = "p", **fields: Any) -> Parameter:
    return Parameter(name=name, kind=kind, **fields)


def refusal(*parameters: Parameter, constraints: tuple[str, ...] = (), **more: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        Space.build(parameters, constraints, **more)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "fields", "key", "problem", "hint"),
    [
        (INT, {"low": 8, "high": 4}, "p.low", "8 is above high = 4", "exchange"),
        (INT, {"low": 8}, "p.high", "is missing", "`low` and `high`"),
        (FLOAT, {"high": 1}, "p.low", "is missing", "`low` and `high`"),
        (INT, {"low": 1.5, "high": 4}, "p.low", "1.5 is not an integer", "float"),
        (INT, {"low": 1, "high": float("inf")}, "p.high", "not finite", ""),
        (INT, {"low": 1, "high": 2.0**41}, "p.high", "too large", "at most"),
        (FLOAT, {"low": 0, "high": 1, "scale": Scale.LOG}, "p.low", 'no place on scale = "log"', "above 0"),
        (INT, {"low": 0, "high": 8, "scale": Scale.POW2}, "p.low", 'no place on scale = "pow2"', "at least 1"),
        (INT, {"low": 5, "high": 7, "scale": Scale.POW2}, "p.low", "no power of two from 5 to 7", "widen"),
        (INT, {"low": 1, "high": 8, "scale": Scale.POW2, "step": 2}, "p.step", "no meaning", "remove"),
        (FLOAT, {"low": 1, "high": 8, "scale": Scale.POW2}, "p.scale", "for integers", "log"),
        (INT, {"low": 5, "high": 7, "step": 4}, "p.step", "no multiple of 4 from 5 to 7", "widen"),
        (INT, {"low": 5, "high": 7, "step": 0}, "p.step", "0 is not a step", ""),
        (FLOAT, {"low": 0, "high": 1, "step": 1}, "p.step", "no meaning", "continuous"),
        (FLOAT, {"low": 1, "high": 1 + 1e-14}, "p.high", "too narrow", "widen"),
        (FLOAT, {"low": -1e308, "high": 1e308}, "p.high", "too wide", ""),
        (FLOAT, {"choices": (0.5, 0.9)}, "p.choices", "no meaning for float", "enum"),
        (ENUM, {}, "p.choices", "at least one choice", ""),
        (ENUM, {"choices": ("a", "b", "a")}, "p.choices", "'a' is there twice", "remove"),
        (ENUM, {"choices": ("a", 1)}, "p.choices", "mixes types: integer and text", ""),
        (ENUM, {"choices": (1, 0.5)}, "p.choices", "mixes types", "1.0"),
        (ENUM, {"choices": (1, True)}, "p.choices", "mixes types: boolean and integer", ""),
        (ENUM, {"choices": (float("nan"), 1.0)}, "p.choices", "not finite", ""),
        (ENUM, {"choices": ("a\0",)}, "p.choices", "cannot be printed", ""),
        (ENUM, {"choices": (2**60, 1)}, "p.choices", "too large", ""),
        (ENUM, {"choices": ("a",), "low": 1}, "p.low", "no meaning for enum", "remove"),
        (INT, {"choices": (1, 2), "high": 4}, "p.high", "together with `choices`", "remove"),
        (INT, {"choices": ("a", "b")}, "p.choices", "'a' is not an integer", ""),
        (INT, {"choices": (1.0, 2.0)}, "p.choices", "1.0 is not an integer", "write 1"),
        (BOOL, {"low": 0, "high": 1}, "p.low", "no meaning for bool", "remove"),
        (BOOL, {"choices": (True,)}, "p.choices", "no meaning for bool", "true and false"),
        (INT, {"low": 1, "high": 9, "default": 10}, "p.default", "10 is not one of its values: 1 to 9", "leave"),
        (INT, {"low": 8, "high": 64, "step": 8, "default": 9}, "p.default", "8 to 64 in steps of 8", "leave"),
        (INT, {"low": 1, "high": 64, "scale": Scale.POW2, "default": 24}, "p.default", "powers of two", "leave"),
        (INT, {"low": 1, "high": 9, "default": True}, "p.default", "True is not an integer", ""),
        (INT, {"low": 1, "high": 9, "default": 4.0}, "p.default", "4.0 is not an integer", "write 4"),
        (FLOAT, {"low": 0.5, "high": 0.9, "default": 1}, "p.default", "1 is not one of its values", "widen"),
        (FLOAT, {"low": 0.5, "high": 0.9, "default": "auto"}, "p.default", "'auto' is not a number", ""),
        (BOOL, {"default": 1}, "p.default", "1 is not a boolean", "true or false"),
        (ENUM, {"choices": ("a", "b"), "default": "c"}, "p.default", "'c' is not one of its values", "leave"),
    ],
)
def test_a_parameter_is_refused(kind: ParameterKind, fields: dict[str, Any], key: str, problem: str, hint: str) -> None:
    error = refusal(parameter(kind, **fields))
    assert error.key == f"parameters.{key}"
    assert problem in error.message
    assert hint in error.hint


@pytest.mark.parametrize(
    ("name", "problem", "hint"),
    [
        ("max-num-seqs", "not a parameter name", "write `max_num_seqs`"),
        ("--max-num-seqs", "not a parameter name", "write `max_num_seqs`"),
        ("", "not a parameter name", "letters"),
        ("8bit", "not a parameter name", "letters"),
        ("größe", "not a parameter name", "letters"),
        ("implies", "a word of the constraint language", ""),
        ("x" * 5000, "5000 characters", ""),
    ],
)
def test_a_name_is_refused(name: str, problem: str, hint: str) -> None:
    error = refusal(parameter(name=name, low=1, high=2))
    assert problem in error.message
    assert hint in error.hint
    assert len(str(error)) < 500


def test_a_space_is_refused_as_a_whole() -> None:
    p = parameter(low=1, high=2)
    assert refusal().key == "parameters"
    assert "at least one parameter" in refusal().message
    assert str(refusal(p, p)) == "parameters.p: is there twice (give each parameter once)"
    many = [parameter(name=f"p{i}", low=1, high=2) for i in range(limits.PARAMETERS + 1)]
    assert "over the limit of 256" in refusal(*many).message
    assert "over the limit of 256" in refusal(p, constraints=("p > 0",) * 257).message
    fixed = refusal(p, facts={"p": 3})
    assert (fixed.key, fixed.message) == ("parameters.p", "is fixed already: p = 3")


@pytest.mark.parametrize(
    ("constraints", "key", "problem", "hint"),
    [
        (("a > 0", "a >= max_num_seqz"), "constraints[1]", "unknown name 'max_num_seqz', at column 6", "max_num_seqs"),
        (("a >",), "constraints[0]", "breaks off", ""),
        (("mode > 3",), "constraints[0]", "compares a text with a number", ""),
        (("a + 1",), "constraints[0]", "needs true or false", ""),
        (("limit < 0",), "constraints[0]", "never holds with limit = 4", "no parameter"),
        (("a > 0", "a > 9"), "constraints[1]", "this constraint excludes all 8 values: `a > 9`", "a: 1 to 8"),
        (
            ("a >= b", "b > 0", "b > a"),
            "constraints[0], constraints[1], constraints[2]",
            "these constraints together exclude all 64",
            "loosen one",
        ),
        (("a > b", "b > max_num_seqs", "max_num_seqs >= a"), "constraints[0], constraints[1], constraints[2]", "", ""),
        (("big1 > big2", "big1 < big2"), "constraints[0], constraints[1]", "all 65,536 sampled", "big1: 1 to 1000000"),
        (("a > 4", "a < 3"), "constraints[0], constraints[1]", "together exclude all 8 values", ""),
        (("mode == 'x' implies a > 8", "mode == 'x'"), "constraints[0], constraints[1]", "empty", ""),
    ],
)
def test_constraints_are_refused(constraints: tuple[str, ...], key: str, problem: str, hint: str) -> None:
    names = ("a", "b", "max_num_seqs")
    parameters = [parameter(name=name, low=1, high=8) for name in names]
    parameters.append(parameter(ENUM, "mode", choices=("x", "y")))
    parameters += [parameter(name=name, low=1, high=1_000_000) for name in ("big1", "big2")]
    error = refusal(*parameters, constraints=constraints, facts={"limit": 4})
    assert error.key == key
    assert problem in error.message
    assert hint in error.hint


def test_the_smallest_conflict_is_named() -> None:
    parameters = [parameter(name=name, low=1, high=6) for name in "abcd"]
    noise = ("a + c >= 3", "b + d <= 11", "a * d < 36")
    error = refusal(*parameters, constraints=(*noise, "a > b", *noise, "b > a + 1"))
    assert error.key == "constraints[3], constraints[7]"
    assert "`a > b` and `b > a + 1`" in error.message


def test_defaults_have_to_satisfy_the_constraints_they_are_stated_for() -> None:
    a, b = parameter(name="a", low=1, high=8, default=2), parameter(name="b", low=1, high=8, default=4)
    error = refusal(a, b, constraints=("a > 0", "a >= b"))
    assert error.key == "constraints[1]"
    assert "violates `a >= b` (a = 2, b = 4)" in error.message
    without = parameter(name="b", low=1, high=8)
    assert Space.build([a, without], ["a >= b"]).default_config() == {"a": 2}


def test_configurations_of_another_space_are_refused() -> None:
    space = Space.build([parameter(low=1, high=8), parameter(ENUM, "mode", choices=("x", "y"))])
    with pytest.raises(UserError, match=r"parameters\.mode: .*no value"):
        space.encode([{"p": 1}])
    with pytest.raises(UserError, match=r"parameters\.mode: 'z' is none of \"x\", \"y\""):
        space.encode([{"p": 1, "mode": "z"}])
    with pytest.raises(UserError, match=r"parameters\.p: True is not a number"):
        space.encode([{"p": True, "mode": "x"}])
    assert space.key({"p": 9, "mode": "x"}) is None
    assert space.key({"p": 8, "mode": "x"}) == (8, "x")
    assert space.decode(space.encode([{"p": 99, "mode": "x"}])) == [{"p": 8, "mode": "x"}]
    with pytest.raises(ValueError, match=r"shape \(1, 3\)"):
        space.decode(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="NaN"):
        space.decode(np.full((1, 2), np.nan))


def study(*parameters: Parameter, constraints: tuple[str, ...] = (), **service: Any) -> StudySpec:
    return StudySpec(
        name="s",
        service=Service(engine="mock", model="m", **service),
        workload=Workload(profile="SQL"),
        parameters=parameters,
        objectives=(Objective(metric="ttft_mean"),),
        constraints=constraints,
    )


DEGREE = parameter(name="tensor_parallel_size", low=1, high=8)


def test_the_degree_has_to_divide_the_devices() -> None:
    listed = space_of(study(DEGREE, devices=6)).enumerate(100)
    assert listed is not None
    assert [config["tensor_parallel_size"] for config in listed] == [1, 2, 3, 6]
    assert space_of(study(DEGREE)).size().count == 8
    seven = parameter(name="tensor_parallel_size", choices=(4, 7))
    with pytest.raises(UserError, match=r"service\.devices: the search space is empty.*devices % tensor_parallel_size"):
        space_of(study(seven, devices=6))
    zero = parameter(name="tensor_parallel_size", low=0, high=2)
    with pytest.raises(UserError, match=r"parameters\.tensor_parallel_size: a degree of parallelism of 0"):
        space_of(study(zero, devices=6))
    with pytest.raises(UserError, match="does not divide"):
        space_of(study(parameter(low=1, high=2), devices=6, options={"tensor_parallel_size": 4}))
    copies = parameter(name="data_parallel_size", low=1, high=3)
    both = space_of(study(DEGREE, copies, devices=6, options={"pipeline_parallel_size": 2})).enumerate(100)
    assert both is not None
    assert {(config["tensor_parallel_size"], config["data_parallel_size"]) for config in both} == {
        *((1, 1), (1, 3), (3, 1)),
    }
    stated = parameter(name="tensor_parallel_size", low=1, high=8, default=4)
    with pytest.raises(UserError, match=r"service\.devices: the default configuration violates"):
        space_of(study(stated, devices=6))


def test_constraints_may_mention_what_the_service_fixes() -> None:
    p = parameter(low=1, high=8)
    spec = study(
        p,
        constraints=("p <= max_model_len // 1024", "chunked or p > 2"),
        max_model_len=4096,
        options={"chunked": False},
    )
    assert space_of(spec).size().count == 2
    assert space_of(study(p, constraints=("p % replicas == 0",), replicas=2)).size().count == 4
    assert space_of(study(p, constraints=("p <= devices",), devices=3)).size().count == 3
    with pytest.raises(UserError, match=r"constraints\[0\].*known only when service\.max_model_len is set"):
        space_of(study(p, constraints=("p <= max_model_len",)))
    with pytest.raises(UserError, match=r"parameters\.p: is fixed already"):
        space_of(study(p, options={"p": 3}))


def test_size_is_described() -> None:
    spec = study(parameter(low=1, high=8), parameter(FLOAT, "share", low=0.5, high=0.9), constraints=("p > 6",))
    text = space_of(spec).size().describe()
    assert text == "2 configurations, 25 % of 8 before constraints, times the continuous share"
