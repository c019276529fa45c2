"""When two configurations are the same to an engine, and which options change nothing."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.wire.catalogue.verdict import Invalid, Ok, RefusalKind, Unknown, Verdict, inert, same_effective

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


BASE: dict[str, object] = {"overlap": False, "seqs": 128, "tokens": 2048}


def test_what_changes_nothing_is_inert() -> None:
    variants: dict[str, list[tuple[object, dict[str, object]]]] = {
        "ignored": [("x", BASE), ("y", BASE)],
        "overlap": [(True, BASE), (False, BASE)],
        "seqs": [(128, BASE), (64, {**BASE, "seqs": 64})],
        "default_only": [(None, BASE)],
        "sometimes": [(1, BASE), (2, {**BASE, "tokens": 4096})],
        "untried": [],
    }
    assert inert(BASE, variants) == {"ignored", "overlap"}


@given(st.dictionaries(st.sampled_from(["x", "y"]), st.lists(st.tuples(values, effective), max_size=3)), effective)
def test_an_inert_option_never_changed_anything(
    variants: dict[str, list[tuple[object, dict[str, object]]]], base: dict[str, object]
) -> None:
    for name in inert(base, variants):
        assert variants[name]
        assert all(same_effective(base, made) for _, made in variants[name])


@pytest.mark.parametrize(
    "verdict",
    [Ok({"a": 1}), Invalid("no", RefusalKind.CONSTRAINT, ("a", "b")), Unknown("it died")],
)
def test_verdicts_can_be_written_down(verdict: Verdict) -> None:
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict
