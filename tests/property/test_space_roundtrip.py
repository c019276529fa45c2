"""Spaces of every kind of parameter: encoding, sampling, projection and counting, on random ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.coordinator.space.parameter import axis_of
from scoot.coordinator.space.space import Space
from scoot.wire.errors import UserError
from scoot.wire.spec import Parameter, ParameterKind, Scalar, Scale

FEW = settings(max_examples=60, deadline=None)


def integers(name: str, low: int, high: int, **more: Any) -> Parameter:
    return Parameter(name=name, kind=ParameterKind.INT, low=low, high=high, **more)


def flag(name: str) -> Parameter:
    return Parameter(name=name, kind=ParameterKind.BOOL)


@st.composite
def parameters(draw: st.DrawFn, name: str) -> Parameter:
    kind = draw(st.sampled_from(ParameterKind))
    match kind:
        case ParameterKind.ENUM:
            texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=6)
            numbers = st.floats(-1e6, 1e6).map(lambda x: x + 0.0)
            pool: st.SearchStrategy[Any] = draw(
                st.sampled_from([texts, st.integers(-(2**53), 2**53), numbers, st.booleans()])
            )
            choices: list[Any] = draw(st.lists(pool, min_size=1, max_size=5, unique=True))
            return Parameter(name=name, kind=kind, choices=tuple(choices))
        case ParameterKind.INT:
            shape = draw(st.sampled_from(["choices", *Scale]))
            if shape == "choices":
                numbers_ = draw(st.lists(st.integers(-(2**53), 2**53), min_size=1, max_size=6, unique=True))
                return Parameter(name=name, kind=kind, choices=tuple(numbers_))
            lowest = 1 if shape is not Scale.LINEAR else -(2**40)
            low, high = sorted(draw(st.lists(st.integers(lowest, 2**40), min_size=2, max_size=2)))
            step = None if shape is Scale.POW2 else draw(st.none() | st.integers(1, 100))
            return integers(name, low, high, scale=Scale(shape), step=step)
        case ParameterKind.FLOAT:
            scale = draw(st.sampled_from([Scale.LINEAR, Scale.LOG]))
            lowest_ = 1e-300 if scale is Scale.LOG else -1e300
            low_, high_ = sorted(draw(st.lists(st.floats(lowest_, 1e300), min_size=2, max_size=2)))
            if draw(st.booleans()):  # a range far from 0, where the arithmetic is coarse against it
                high_ = low_ + abs(low_) * 10.0 ** -draw(st.integers(1, 14))
            return Parameter(name=name, kind=kind, low=low_, high=high_, scale=scale)
        case _:
            return flag(name)


def build(*given_parameters: Parameter, constraints: tuple[str, ...] = ()) -> Space | None:
    """A space, or None where the drawn range holds no value (no multiple, no power of two, too narrow)."""
    try:
        return Space.build(given_parameters, constraints)
    except UserError as error:
        if not any(word in str(error) for word in ("no multiple", "no power", "too narrow", "too wide")):
            raise
        return None


@FEW
@given(parameters("p"), parameters("q"), st.integers(0, 2**32))
def test_decoded_configurations_come_back_exactly(p: Parameter, q: Parameter, seed: int) -> None:
    space = build(p, q)
    if space is None:
        return
    units = np.random.default_rng(seed).random((50, 2))
    units[:2] = [[0.0, 0.0], [1.0, 1.0]]
    configs = space.decode(units)
    encoded = space.encode(configs)
    assert ((encoded >= 0) & (encoded <= 1)).all()
    again = space.decode(encoded)
    assert again == configs
    assert [list(map(type, c.values())) for c in again] == [list(map(type, c.values())) for c in configs]
    assert all(type(value) in {bool, int, float, str} for config in configs for value in config.values())
    assert all(space.key(config) == tuple(config.values()) for config in configs)


@FEW
@given(parameters("p"), st.integers(0, 2**32))
def test_every_value_lies_in_the_range_that_was_asked_for(p: Parameter, seed: int) -> None:
    space = build(p)
    if space is None:
        return
    units = np.random.default_rng(seed).random((100, 1))
    units[:2] = [[0.0], [1.0]]
    values: list[Any] = [config["p"] for config in space.decode(units)]
    if p.choices:
        assert set(values) <= set(p.choices)
    elif p.low is not None:
        assert p.high is not None
        assert all(p.low <= value <= p.high for value in values)
        assert all(value % (p.step or 1) == 0 for value in values if isinstance(value, int))
        if p.scale is Scale.POW2:
            assert all(value & (value - 1) == 0 for value in values)
    else:
        assert set(values) <= {False, True}


@FEW
@given(st.integers(1, 500), st.integers(0, 300), st.sampled_from([Scale.LINEAR, Scale.LOG, Scale.POW2]))
def test_every_value_of_a_grid_is_reached_and_cells_follow_the_scale(low: int, width: int, scale: Scale) -> None:
    space = build(integers("p", low, low + width, scale=scale))
    if space is None:
        return
    wanted = [v for v in range(low, low + width + 1) if scale is not Scale.POW2 or v & (v - 1) == 0]
    encoded = space.encode([{"p": value} for value in wanted])[:, 0]
    assert (np.diff(encoded) > 0).all()
    assert [config["p"] for config in space.decode(encoded[:, None])] == wanted
    assert space.size().count == len(wanted)


@FEW
@given(st.integers(-50, 300), st.integers(0, 60), st.integers(1, 9), st.sampled_from(Scale))
def test_a_number_that_is_no_value_counts_as_the_nearest_one(low: int, width: int, step: int, scale: Scale) -> None:
    """On its own scale for powers of two, which are as far from their half as from their double."""
    low = low if scale is Scale.LINEAR else max(1, low)
    step_ = None if scale is Scale.POW2 else step
    space = build(integers("p", low, low + width, scale=scale, step=step_))
    if space is None:
        return
    values = [int(config["p"]) for config in space.enumerate(1000) or ()]

    def apart(value: float, number: float) -> float:
        if scale is Scale.POW2:
            return abs(math.log2(value) - math.log2(max(number, 1.0)))
        return abs(value - number)

    for number in np.linspace(low - width / 2 - 1, low + 1.5 * width + 1, 61).tolist():
        (found,) = space.decode(space.encode([{"p": number}]))
        assert apart(float(found["p"]), number) <= min(apart(value, number) for value in values) + 1e-9


@FEW
@given(st.floats(-100, 100), st.floats(0.1, 50), st.booleans(), st.floats(-1e4, 1e4))
def test_a_real_number_out_of_range_counts_as_the_bound(low: float, width: float, log: bool, number: float) -> None:
    low = abs(low) + 0.01 if log else low
    scale = Scale.LOG if log else Scale.LINEAR
    space = Space.build([Parameter(name="p", kind=ParameterKind.FLOAT, low=low, high=low + width, scale=scale)])
    (found,) = space.decode(space.encode([{"p": number}]))
    assert math.isclose(float(found["p"]), min(max(number, low), low + width), rel_tol=1e-5, abs_tol=1e-5 * width)


@FEW
@given(st.integers(1, 40), st.integers(0, 30), st.sampled_from(Scale))
def test_cells_are_as_wide_as_their_values_share_of_the_scale(low: int, width: int, scale: Scale) -> None:
    """Equally wide; on a logarithmic scale that of k reaches from k - 1/2 to k + 1/2."""
    space = build(integers("p", low, low + width, scale=scale))
    if space is None:
        return
    values = [int(config["p"]) for config in space.enumerate(1000) or ()]
    drawn = [config["p"] for config in space.decode(((np.arange(20_000) + 0.5) / 20_000)[:, None])]
    whole = math.log((values[-1] + 0.5) / (values[0] - 0.5))
    for value in values:
        wanted = math.log((value + 0.5) / (value - 0.5)) / whole if scale is Scale.LOG else 1 / len(values)
        assert abs(drawn.count(value) / 20_000 - wanted) <= 1e-4


def test_a_logarithmic_scale_gives_every_octave_the_same_share() -> None:
    axis = axis_of(integers("p", 1, 1023, scale=Scale.LOG))
    values = axis.decode((np.arange(100_000) + 0.5) / 100_000)
    shares = [float(((values >= 2**k) & (values < 2 ** (k + 1))).mean()) for k in range(3, 10)]
    assert max(shares) - min(shares) < 0.01


NUMBERS = {
    "linear": integers("p", 0, 4),
    "log": integers("p", 1, 4, scale=Scale.LOG),
    "pow2": integers("p", 1, 4, scale=Scale.POW2),
    "real": Parameter(name="p", kind=ParameterKind.FLOAT, low=0.0, high=4.0),
    "choices": Parameter(name="p", kind=ParameterKind.INT, choices=(4, 1, 2)),
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [True, "1", math.nan, math.inf])
def test_what_is_no_number_is_no_value(name: str, value: Scalar) -> None:
    space = Space.build([NUMBERS[name]])
    assert space.key({"p": 1}) == (1,)
    assert space.key({"p": value}) is None
    with pytest.raises(UserError) as caught:
        space.encode([{"p": value}])
    assert caught.value.key == "parameters.p"
    if name != "real":
        assert space.key({"p": 1.0}) is None


def test_listed_integers_lie_in_their_own_order() -> None:
    space = Space.build([NUMBERS["choices"]])
    assert [config["p"] for config in space.decode(np.linspace(0.1, 0.9, 3)[:, None])] == [1, 2, 4]


def test_real_values_have_no_more_digits_than_people_read() -> None:
    units = np.random.default_rng(0).random((500, 2))
    linear = Parameter(name="p", kind=ParameterKind.FLOAT, low=0.5, high=0.95)
    log = Parameter(name="q", kind=ParameterKind.FLOAT, low=1e-3, high=10.0, scale=Scale.LOG)
    for config in Space.build([linear, log]).decode(units):
        assert config["p"] == round(float(config["p"]), 6)
        assert config["q"] == float(f"{config['q']:.5e}")


def test_users_decimals_stay_as_they_were_written() -> None:
    space = Space.build([Parameter(name="p", kind=ParameterKind.FLOAT, low=0.5, high=0.95, default=0.9)])
    assert space.default_config() == {"p": 0.9}
    assert space.decode(space.encode([{"p": 0.9}])) == [{"p": 0.9}]


SMALL = (
    integers("a", 0, 6),
    integers("b", 1, 5),
    Parameter(name="mode", kind=ParameterKind.ENUM, choices=("x", "y", "z")),
    flag("f"),
    integers("free", 1, 4),
)
NAMES = ("a", "b", "mode", "f", "free")
CONSTRAINTS: dict[str, Any] = {
    "a >= b": lambda a, b, mode, f: a >= b,
    "f implies mode != 'x'": lambda a, b, mode, f: not f or mode != "x",
    "a % b == 0": lambda a, b, mode, f: a % b == 0,
    "mode in ('x', 'y') or a == 3": lambda a, b, mode, f: mode in "xy" or a == 3,
    "not (f and b > 2)": lambda a, b, mode, f: not (f and b > 2),
    "a + b > 12": lambda a, b, mode, f: a + b > 12,
    "f == (mode == 'z')": lambda a, b, mode, f: f == (mode == "z"),
}


def brute(constraints: list[str]) -> list[dict[str, Scalar]]:
    grid: Iterator[tuple[Any, ...]] = product(range(7), range(1, 6), "xyz", (False, True), range(1, 5))
    return [
        dict(zip(NAMES, (*row, free), strict=True))
        for *row, free in grid
        if all(CONSTRAINTS[text](*row) for text in constraints)
    ]


@FEW
@given(st.lists(st.sampled_from(sorted(CONSTRAINTS)), unique=True, max_size=4), st.integers(0, 2**32))
def test_feasible_sets_agree_with_brute_force(constraints: list[str], seed: int) -> None:
    expected = brute(constraints)
    if not expected:
        with pytest.raises(UserError, match="the search space is empty"):
            Space.build(SMALL, constraints)
        return
    space = Space.build(SMALL, constraints)
    size = space.size()
    assert (size.count, size.exact, size.total) == (len(expected), True, 7 * 5 * 3 * 2 * 4)
    assert math.isclose(size.share, len(expected) / size.total)
    listed = space.enumerate(10_000)
    assert listed is not None
    assert sorted(map(repr, listed)) == sorted(map(repr, expected))
    rng = np.random.default_rng(seed)
    allowed = {tuple(config.values()) for config in expected}
    assert all(tuple(config.values()) in allowed for config in space.sample(rng, 40))
    anything = space.decode(rng.random((20, 5)))
    assert space.feasible(anything).tolist() == [tuple(config.values()) in allowed for config in anything]
    for config, moved in zip(anything, space.project(anything), strict=True):
        assert tuple(moved.values()) in allowed
        if tuple(config.values()) in allowed:
            assert moved == config
        here = space.encode([config])[0]
        least = float(((space.encode(expected) - here) ** 2).sum(axis=1).min())
        assert float(((space.encode([moved])[0] - here) ** 2).sum()) <= least + 1e-12


LARGE = (integers("seqs", 1, 100_000), integers("tokens", 1, 100_000), flag("f"))
FLOATS = (
    Parameter(name="share", kind=ParameterKind.FLOAT, low=0.1, high=0.9),
    Parameter(name="rate", kind=ParameterKind.FLOAT, low=1e-3, high=10, scale=Scale.LOG),
)


@pytest.mark.parametrize(
    "constraints",
    [
        ("tokens >= seqs",),
        ("tokens == 4 * seqs", "f implies seqs > 20000"),
        ("seqs == 977", "f"),
        ("share == 0.5",),
        ("share == 0.37", "rate <= 1"),
        ("share + rate <= 1", "f implies share > 0.8"),
        ("tokens == 20 * seqs + 7", "seqs % 1000 == 77"),
    ],
)
def test_large_regions_are_sampled_and_projected_feasibly(constraints: tuple[str, ...]) -> None:
    space = Space.build((*LARGE, *FLOATS), constraints)
    rng = np.random.default_rng(1)
    drawn = space.sample(rng, 30)
    assert space.feasible(drawn).all()
    anything = space.decode(rng.random((30, 5)))
    moved = space.project(anything)
    assert space.feasible(moved).all()
    assert [new for new, old in zip(moved, anything, strict=True) if space.violated(old) == ()] == [
        old for old in anything if space.violated(old) == ()
    ]
    assert 1 <= space.size().count <= 2 * 100_000**2


def test_an_estimated_size_is_near_the_true_one() -> None:
    size = Space.build(LARGE, ["tokens >= seqs"]).size()
    assert abs(size.count / (100_000 * 100_001) - 1) < 0.02
    assert not size.exact
    assert size.describe().startswith("about 1")


def test_an_estimate_counts_what_single_parameters_exclude() -> None:
    size = Space.build(LARGE, ["seqs % 4 == 0", "tokens >= seqs"]).size()
    assert not size.exact
    assert abs(size.count / (100_000 * 100_001 / 4) - 1) < 0.03
    assert abs(size.share / 0.125 - 1) < 0.03


def test_a_large_region_is_repaired_by_the_smallest_step_of_one_parameter() -> None:
    space = Space.build(LARGE, ["seqs >= 4 * tokens"])
    (moved,) = space.project([{"seqs": 75_000, "tokens": 20_000, "f": True}])
    assert moved == {"seqs": 75_000, "tokens": 18_750, "f": True}


def test_what_no_two_parameters_can_repair_stays_as_near_as_what_is_known() -> None:
    """Three have to be small at once, which one draw in ten thousand is; the fourth may stay as it is."""
    space = Space.build([integers(name, 1, 100_000) for name in "abcd"], ["a + b + c <= 8000", "a + d >= 0"])
    (region,) = space.regions
    known = region.sampled[1]
    units = 0.2 + 0.8 * np.random.default_rng(2).random((20, 4))
    moved = space.project_points(units)
    assert space.feasible_points(moved).all()
    assert (moved[:, 3] == units[:, 3]).all()
    nearest = ((units[:, None, :] - known[None, :, :]) ** 2).sum(axis=2).min(axis=1)
    assert (((units - moved) ** 2).sum(axis=1) <= nearest).all()


def test_constraints_on_single_parameters_make_large_regions_countable() -> None:
    size = Space.build(LARGE, ["seqs == 977", "tokens >= seqs", "tokens < 1000"]).size()
    assert (size.count, size.exact) == (2 * 23, True)


def test_regions_make_huge_spaces_countable() -> None:
    many = tuple(integers(f"p{i}", 1, 100) for i in range(20))
    size = Space.build(many, [f"p{i} >= p{i + 1}" for i in range(0, 20, 2)]).size()
    assert size.exact
    assert size.count == 5050**10


def test_rare_samples_are_spread_too_and_in_no_order() -> None:
    """One point in a hundred is feasible: some are found by drawing, the rest are chosen among what there is."""
    space = Space.build([integers("a", 1, 100, scale=Scale.LOG), integers("b", 1, 100)], ["a == b"])
    drawn = np.array([config["a"] for config in space.sample(np.random.default_rng(0), 4000)], dtype=np.float64)
    assert len(np.unique(drawn)) == 100
    assert np.unique(drawn, return_counts=True)[1].max() < 600
    assert abs(np.corrcoef(np.arange(len(drawn)), drawn)[0, 1]) < 0.05


def test_samples_are_spread_over_the_feasible_part() -> None:
    space = Space.build(SMALL, ["a >= b"])
    drawn = space.sample(np.random.default_rng(0), 4000)
    counts = np.unique([f"{c['a']}{c['b']}" for c in drawn], return_counts=True)[1]
    assert len(counts) == 20  # pairs with a >= b
    assert counts.max() < 2 * counts.min()
