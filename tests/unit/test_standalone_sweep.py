"""What a sweep makes of its options; its runs are tested where there is a server."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scoot.benchmark.standalone.options import RunOptions, Span
from scoot.benchmark.standalone.planning import arrivals_of, checked
from scoot.benchmark.standalone.sweep import SweepOptions, _in_words, _most_users, _with_load, check_sweep
from scoot.wire.errors import UserError
from scoot.wire.spec import ArrivalProcess, SloClass

BASE = RunOptions(urls=("http://h:1",), input_tokens=Span(4, 4), output_tokens=Span(4, 4), rate=1.0)


def sweep(**changes: Any) -> SweepOptions:
    """A sweep over three rates, changed."""
    return msgspec.structs.replace(SweepOptions(base=BASE, rates=(1.0, 2.0, 3.0)), **changes)


def test_a_good_sweep() -> None:
    check_sweep(sweep())
    check_sweep(sweep(rates=None))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"goodput_share": 0.0}, "--goodput-share"),
        ({"goodput_share": 1.1}, "--goodput-share"),
        ({"goodput_share": float("nan")}, "--goodput-share"),
        ({"points": 0}, "--points"),
        ({"users": 0}, "--users"),
        ({"rates": (1.0, 1.0000001)}, "--rates"),
        ({"base": msgspec.structs.replace(BASE, arrivals=ArrivalProcess.TRACE)}, "--arrivals"),
        ({"base": msgspec.structs.replace(BASE, arrivals=ArrivalProcess.CLOSED)}, "--arrivals"),
    ],
)
def test_sweeps_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError) as caught:
        check_sweep(sweep(**changes))
    assert caught.value.key == key


def test_a_rate_keeps_the_arrivals() -> None:
    base = msgspec.structs.replace(BASE, cv=2.0)
    arrivals = arrivals_of(checked(_with_load(base, rate=7.0, users=None)))
    assert (arrivals.process, arrivals.rate, arrivals.cv) == (ArrivalProcess.GAMMA, 7.0, 2.0)


def test_users_replace_them() -> None:
    base = msgspec.structs.replace(BASE, cv=2.0, arrivals=ArrivalProcess.GAMMA)
    options = checked(_with_load(base, rate=None, users=1))
    arrivals = arrivals_of(options)
    assert (arrivals.process, arrivals.rate, arrivals.users) == (ArrivalProcess.CLOSED, None, 1)
    assert options.limits.min_requests == 1


def test_a_limit_of_those_in_flight_is_of_the_rates_and_bounds_the_many() -> None:
    base = msgspec.structs.replace(BASE, max_in_flight=4)
    assert arrivals_of(checked(_with_load(base, rate=7.0, users=None))).max_in_flight == 4
    assert arrivals_of(checked(_with_load(base, rate=None, users=4))).max_in_flight is None
    assert [_most_users(sweep(base=base, users=users)) for users in (3, 4, 256)] == [3, 4, 4]
    assert _most_users(sweep()) == 256


def test_objectives_in_words() -> None:
    assert _in_words(SloClass(name="a", ttft_ms=500.0, e2e_ms=1.5)) == "a: TTFT <= 500 ms, E2E <= 1.5 ms"
    assert _in_words(SloClass(name="a")) == "a"
