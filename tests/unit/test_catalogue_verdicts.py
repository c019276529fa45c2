"""When two configurations are the same to an engine, and which options change nothing."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.wire.catalogue.verdict import (
    Checked,
    CheckState,
    Invalid,
    Ok,
    RefusalKind,
    Unknown,
    Verdict,
    inert,
    same_effective,
    told,
)
from scoot.wire.spec import Scalar

plain = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.sampled_from(["a", "b"])
values = plain | st.lists(plain, max_size=2)
effective = st.dictionaries(st.sampled_from(["p", "q", "r"]), values, max_size=3)


@given(effective, effective, effective)
def test_sameness_is_an_equivalence(one: dict[str, object], two: dict[str, object], three: dict[str, object]) -> None:
    assert same_effective(one, dict(one))
    assert same_effective(one, two) == same_effective(two, one)
    if same_effective(one, two) and same_effective(two, three):
        assert same_effective(one, three)


@given(effective, st.sampled_from(["p", "q", "r"]), values)
def test_one_other_value_is_another_configuration(one: dict[str, object], name: str, value: object) -> None:
    two = {**one, name: value}
    if name not in one:
        assert not same_effective(one, two)
    else:
        assert same_effective(one, two) == same_effective({name: one[name]}, {name: value})


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        (True, 1, False),
        (1, 1.0, True),
        ([1, True], [1, 1], False),
        ([1, 2], (1, 2), True),
        (None, 0, False),
        ("1", 1, False),
        ([1], [1, 1], False),
    ],
)
def test_kinds_of_values(one: object, two: object, same: bool) -> None:
    assert same_effective({"a": one}, {"a": two}) is same


def checked(**effective: object) -> Checked:
    return told(Ok(effective), effective)


BASE = checked(overlap=False, seqs=128, tokens=2048)


def test_what_changes_nothing_is_inert() -> None:
    variants: dict[str, list[tuple[Scalar, Checked]]] = {
        "ignored": [("x", BASE), ("y", BASE)],
        "overlap": [(True, BASE), (False, BASE)],
        "seqs": [(128, BASE), (64, checked(overlap=False, seqs=64, tokens=2048))],
        "tokens": [(2048, BASE)],
        "sometimes": [(1, BASE), (2, checked(overlap=False, seqs=128, tokens=4096))],
        "refused": [(1, BASE), (2, told(Invalid("no", RefusalKind.CONSTRAINT), ()))],
        "untold": [(1, BASE), (2, told(Unknown("it died"), ()))],
        "untried": [],
    }
    assert inert(BASE, variants) == {"ignored", "overlap"}
    assert inert(told(Unknown("it died"), ()), {"untold": [(1, told(Unknown("it died"), ()))]}) == frozenset()


@given(
    st.dictionaries(st.sampled_from(["x", "y"]), st.lists(st.tuples(st.integers(0, 2), effective), max_size=3)),
    effective,
)
def test_an_inert_option_never_changed_anything(
    made: dict[str, list[tuple[Scalar, dict[str, object]]]], base: dict[str, object]
) -> None:
    variants = {name: [(value, checked(**each)) for value, each in tried] for name, tried in made.items()}
    for name in inert(checked(**base), variants):
        assert made[name]
        assert all(same_effective(base, each) for _, each in made[name])


def test_only_plain_values_that_were_asked_for_are_told() -> None:
    verdict = Ok({"seqs": 8, "sizes": [1, 2], "unset": None, "other": 1})
    assert told(verdict, ("seqs", "sizes", "unset", "gone")).effective == {"seqs": 8}
    refused = told(Invalid("no such", RefusalKind.UNKNOWN_OPTION, ("x",)), ())
    assert (refused.state, refused.reason, refused.unknown_option) == (CheckState.INVALID, "no such", True)


@pytest.mark.parametrize(
    "verdict",
    [Ok({"a": 1}), Invalid("no", RefusalKind.CONSTRAINT, ("a", "b")), Unknown("it died")],
)
def test_verdicts_can_be_written_down(verdict: Verdict) -> None:
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict
