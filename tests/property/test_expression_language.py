"""The constraint language against Python's own evaluator, and against nonsense."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.coordinator.space.expression import MAX_DEPTH, parse
from scoot.wire.errors import UserError

NUMBERS = ("a", "b", "c")
FLAGS = ("f", "g")
TEXTS = ("t",)
NAMES = (*NUMBERS, *FLAGS, *TEXTS)

# Pairs (this language, Python): the same words but for `implies`, which Python has no operator for.
Pair = tuple[str, str]


def both(text: str) -> Pair:
    return text, text


def joined(operator: str, left: Pair, right: Pair) -> Pair:
    return tuple(f"({a} {operator} {b})" for a, b in zip(left, right, strict=True))  # type: ignore[return-value]


numbers = st.recursive(
    st.sampled_from(NUMBERS).map(both) | st.integers(0, 40).map(lambda n: both(str(n))) | st.just(both("2.5")),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from("+-*"), inner, inner).map(lambda x: joined(*x)),
        # by a literal: division by zero has its own test
        st.tuples(st.sampled_from(["/", "//", "%"]), inner, st.integers(1, 9).map(lambda n: both(str(n)))).map(
            lambda x: joined(*x)
        ),
        inner.map(lambda x: (f"-{x[0]}", f"-{x[1]}")),
    ),
    max_leaves=6,
)


def chain(parts: tuple[Pair, list[tuple[str, Pair]]]) -> Pair:
    first, rest = parts
    return tuple(  # type: ignore[return-value]
        " ".join([first[side], *(f"{operator} {operand[side]}" for operator, operand in rest)]) for side in (0, 1)
    )


comparisons = st.tuples(
    numbers,
    st.lists(st.tuples(st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), numbers), min_size=1, max_size=3),
).map(chain)
memberships = st.tuples(
    st.sampled_from(["in", "not in"]), numbers, st.lists(st.integers(-5, 20), min_size=1, max_size=4)
).map(lambda x: joined(x[0], x[1], both(f"({', '.join(map(str, x[2]))},)")))
texts = st.sampled_from(["t == 'x'", 't != "y"', "t in ('x', 'z')", "t not in ('',)"]).map(both)


def implied(pair: tuple[Pair, Pair], *, infix: bool) -> Pair:
    (left, python_left), (right, python_right) = pair
    python = f"((not ({python_left})) or ({python_right}))"
    return (f"({left} implies {right})" if infix else f"implies({left}, {right})", python)


# No parentheses around `not`, `and` and `or` but where drawn: precedence is what is being tested.
conditions = st.recursive(
    comparisons
    | memberships
    | texts
    | st.sampled_from(FLAGS).map(both)
    | st.sampled_from([("true", "True"), ("false", "False")]),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["and", "or"]), inner, inner).map(
            lambda x: (f"{x[1][0]} {x[0]} {x[2][0]}", f"{x[1][1]} {x[0]} {x[2][1]}")
        ),
        inner.map(lambda x: (f"not {x[0]}", f"not {x[1]}")),
        inner.map(lambda x: (f"({x[0]})", f"({x[1]})")),
        st.tuples(inner, inner, st.booleans()).map(lambda x: implied((x[0], x[1]), infix=x[2])),
    ),
    max_leaves=6,
)
rows = st.fixed_dictionaries(
    {
        **{name: st.integers(-20, 20) for name in NUMBERS},
        **{name: st.booleans() for name in FLAGS},
        **{name: st.sampled_from(["x", "y", "z", ""]) for name in TEXTS},
    }
)


@settings(max_examples=300, deadline=None)
@given(conditions, st.lists(rows, min_size=1, max_size=5))
def test_agrees_with_python(pair: Pair, table: list[dict[str, Any]]) -> None:
    ours, python = pair
    columns = {name: np.array([row[name] for row in table]) for name in NAMES}
    expected = [bool(eval(python, {"__builtins__": {}}, row)) for row in table]  # noqa: S307 - the oracle, own text
    result = np.broadcast_to(parse(ours, NAMES).evaluate(columns), len(table))
    assert result.tolist() == expected, ours


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([*"ab1.5ft ()[],+-*/%<>=!'\"", " and ", " not ", " in ", " implies ", "\n", "é"]), max_size=20
    ).map("".join)
)
def test_any_text_is_either_parsed_or_refused_with_its_place(text: str) -> None:
    columns = {name: np.zeros(3) for name in NUMBERS} | {name: np.zeros(3, dtype=bool) for name in FLAGS}
    columns |= {name: np.array(["x", "y", "z"]) for name in TEXTS}
    try:
        result = parse(text, NAMES).evaluate(columns)
    except UserError as error:
        assert "at column" in error.message or "empty" in error.message  # noqa: PT017 - either outcome is right
    else:
        assert result.dtype == bool


def test_implies_binds_loosest_and_to_the_right() -> None:
    flags = {"f": np.array([True, True, False, False]), "g": np.array([True, False, True, False])}
    for text, same in [
        ("f implies g implies f", "implies(f, implies(g, f))"),
        ("f or g implies g and f", "implies(f or g, g and f)"),
        ("not f implies g", "implies(not f, g)"),
    ]:
        assert parse(text, FLAGS).evaluate(flags).tolist() == parse(same, FLAGS).evaluate(flags).tolist()


def test_division_by_zero_satisfies_no_comparison_and_warns_nobody() -> None:
    columns = {"a": np.array([0, 4, 5]), "b": np.array([0, 0, 5])}
    assert parse("a % b == 0", NUMBERS).evaluate(columns).tolist() == [False, False, True]
    assert parse("b == 0 or a % b == 0", NUMBERS).evaluate(columns).tolist() == [True, True, True]
    assert parse("a // b >= 0", NUMBERS).evaluate(columns).tolist()[2] is True


def test_facts_are_scalars_and_results_follow_the_columns() -> None:
    expression = parse("a * 2 <= limit", ("a", "limit"))
    assert expression.evaluate({"a": np.array([1, 5]), "limit": np.asarray(4)}).tolist() == [True, False]
    assert expression.names == {"a", "limit"}
    assert expression.literals == (2.0,)


@pytest.mark.parametrize(
    ("text", "problem", "column", "hint"),
    [
        ("a >= max_num_seqz", "unknown name 'max_num_seqz'", 6, "did you mean `max_num_seqs`?"),
        ("a = 3", "unexpected '='", 3, "`==`"),
        ("f && g", "unexpected '&&'", 3, "`and`"),
        ("!f", "unexpected '!'", 1, "`not`"),
        ("a => b", "unexpected '=>'", 3, "`implies`"),
        ("a ** 2 > 1", "'**'", 3, "multiply"),
        ("(a > 3", "expected `)` for the `(` of column 1", 7, ""),
        ("a > 3)", "unexpected ')'", 6, ""),
        ("a in (b, 1)", "literals only", 7, "`==`"),
        ("a in 3", "needs a list", 6, "(16, 32)"),
        ("f + 1 > 2", "`+` needs a number, but here is true or false", 1, ""),
        ("f == 1", "compares true or false with a number", 6, ""),
        ("t < 'x'", "needs numbers", 5, ""),
        ("a and f", "`and` needs true or false, but here is a number", 1, ""),
        ("a + b", "a constraint needs true or false", 1, ""),
        ("t == 'x", "a text that is not closed", 6, ""),
        ("exec('x')", "no function 'exec'", 1, "implies"),
        ("a.real > 1", "unexpected '.'", 2, ""),
        ("a > ", "breaks off", 5, ""),
        ("a > 1e999", "too large", 5, ""),
        ("implies(f)", "takes two", 10, ""),
    ],
)
def test_errors_name_the_place_and_the_remedy(text: str, problem: str, column: int, hint: str) -> None:
    columns: dict[str, Any] = {"a": np.zeros(1), "b": np.zeros(1), "t": np.array(["x"])}
    columns |= {"f": np.array([True]), "g": np.array([True])}
    with pytest.raises(UserError) as caught:
        parse(text, (*NAMES, "max_num_seqs")).evaluate(columns)
    assert problem in caught.value.message
    assert f"at column {column} of" in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "(" * 500 + "a > 1" + ")" * 500,
        "not " * 900 + "f",
        "-" * 900 + "a > 1",
        "+".join(["a"] * 900) + " > 1",
        " implies ".join(["f"] * 300),
        "implies(f, " * 300 + "f" + ")" * 300,
    ],
)
def test_depth_is_limited(text: str) -> None:
    with pytest.raises(UserError, match=f"more than {MAX_DEPTH}"):
        parse(text, NAMES)


def test_length_is_limited_but_wide_constraints_are_fine() -> None:
    with pytest.raises(UserError, match="at most 4096 characters"):
        parse("f or " * 1000 + "f", NAMES)
    wide = parse(" or ".join(f"a == {n}" for n in range(300)), NAMES)
    assert wide.evaluate({"a": np.array([299, 300])}).tolist() == [True, False]
    assert math.isclose(wide.literals[-1], 299)
