"""Whatever is asked and told in whatever order: nothing twice, nothing lost, and the history is the whole state."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.coordinator.optimizer import Infeasible, Observation, Optimizer, Parameter, ParameterKind, Scale, Space
from scoot.wire.errors import UserError
from scoot.wire.spec import Config

SPACE = Space.build(
    (
        Parameter(name="seqs", kind=ParameterKind.INT, low=1, high=1024, scale=Scale.LOG, default=256),
        Parameter(name="tokens", kind=ParameterKind.INT, low=64, high=8192, step=64, default=2048),
        Parameter(name="block", kind=ParameterKind.ENUM, choices=(16, 32, 64), default=16),
        Parameter(name="chunked", kind=ParameterKind.BOOL, default=False),
        Parameter(name="partial", kind=ParameterKind.INT, low=1, high=4, when="chunked", default=1),
        Parameter(name="memory", kind=ParameterKind.FLOAT, low=0.5, high=0.95, default=0.9),
    ),
    ["tokens >= seqs", "block != 64 or memory < 0.8"],
)
GOALS = {"latency": "minimise", "throughput": "maximise"}
LIMITS = ("ttft_p95 <= 2000",)

finite = st.floats(allow_nan=False, allow_infinity=False)
results = st.one_of(
    st.tuples(finite, finite),
    st.builds(Infeasible, st.sampled_from(["", "ENGINE_OOM"])),
    st.none(),
    st.builds(lambda a, b, c: Observation(values=(a, b), noise=(abs(c), 0.0), outcomes=(c,)), finite, finite, finite),
)
mistakes = st.sampled_from([(float("nan"), 1.0), (1.0,), (1.0, float("inf")), {"latency": 1.0}, "1, 2"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(1, 4), st.none()),
        st.tuples(st.just("tell"), st.integers(0, 10**6), results),
        st.tuples(st.just("own"), st.integers(0, 10**6), results),
        st.tuples(st.just("again"), st.integers(0, 10**6), results),
        st.tuples(st.just("wrong"), st.integers(0, 10**6), mistakes),
    ),
    max_size=14,
)


def make(history: Any = (), seed: int = 0) -> Optimizer:
    return Optimizer(SPACE, GOALS, outcomes=LIMITS, history=history, seed=seed, method="sobol")


def stored(optimizer: Optimizer) -> tuple[Observation, ...]:
    return msgspec.json.decode(msgspec.json.encode(optimizer.history), type=tuple[Observation, ...])


def take(optimizer: Optimizer, kind: str, number: int, result: Any) -> None:
    """One step of a session."""
    pending = optimizer.pending
    over = [record.config for record in optimizer.history if not record.pending]
    before = optimizer.history
    if kind == "ask":
        found = optimizer.ask(number)
        assert len(found) == number
        assert optimizer.pending == (*pending, *(s.config for s in found)) or optimizer.history[0].pending
    elif kind == "tell" and pending:
        config = pending[number % len(pending)]
        optimizer.tell(config, result)
        assert len(optimizer.history) == len(before)
        assert config not in optimizer.pending
    elif kind == "own":
        config = SPACE.sample(np.random.default_rng(number), 1)[0]
        known = [record.config for record in before]
        if config not in known:
            optimizer.tell(config, result)
            assert [record.config for record in optimizer.history if record.config not in known] == [config]
    elif kind == "again" and over:
        with pytest.raises(UserError):
            optimizer.tell(over[number % len(over)], result)
        assert optimizer.history == before
    elif kind == "wrong":
        with pytest.raises(UserError):
            optimizer.tell(pending[number % len(pending)] if pending else SPACE.default_config(), result)
        assert optimizer.history == before


@settings(max_examples=60, deadline=None)
@given(steps, st.integers(-(2**40), 2**40))
def test_a_session_keeps_its_laws(session: list[tuple[str, int, Any]], seed: int) -> None:
    optimizer = make(seed=seed)
    for step in session:
        take(optimizer, *step)
    history = optimizer.history
    numbers = [record.number for record in history]
    assert numbers == sorted(set(numbers))
    keys = [SPACE.key(record.config) for record in history]
    assert None not in keys
    assert len(set(keys)) == len(keys)
    assert not history or bool(SPACE.feasible([record.config for record in history]).all())
    again = make(stored(optimizer), seed)
    assert again.history == history
    assert again.best == optimizer.best
    assert again.ask(3) == optimizer.ask(3)
    assert again.history == optimizer.history


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.randoms(use_true_random=False), st.data())
def test_the_order_of_telling_does_not_matter(n: int, rng: Any, data: st.DataObject) -> None:
    one, other = make(), make()
    asked = one.ask(n)
    assert other.ask(n) == asked
    pairs = [(suggestion, data.draw(results)) for suggestion in asked]
    for suggestion, result in pairs:
        one.tell(suggestion, result)
    rng.shuffle(pairs)
    for suggestion, result in pairs:
        other.tell(suggestion.config, result)
    assert one.history == other.history
    assert one.ask(4) == other.ask(4)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*SPACE.names, "other"]),
        st.one_of(st.booleans(), st.integers(-5, 9000), st.floats(), st.text(max_size=3), st.none()),
    )
)
def test_whatever_is_told_is_of_the_space_or_refused(config: dict[str, Any]) -> None:
    optimizer = make()
    try:
        optimizer.tell(config, (1.0, 2.0))
    except UserError:
        assert optimizer.history == ()
    else:
        told: Config = optimizer.history[0].config
        assert SPACE.key(told) is not None
        assert SPACE.violated(told) == ()
