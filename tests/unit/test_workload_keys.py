"""Keys of a workload in a study file: ramps, cool-down, sessions, SLO classes; and their way over the wire."""

from __future__ import annotations

import msgspec
import pytest

from scoot.v1 import study_pb2
from scoot.wire.errors import UserError
from scoot.wire.protobuf import from_message, to_message
from scoot.wire.spec import ArrivalProcess, Arrivals, SloClass, StudySpec, Workload
from scoot.wire.study_file import SLO_CLASSES, parse_study

_STUDY = """\
name = "chat"
objectives = ["ttft_mean"]

[service]
engine = "mock"
model = "tiny"

[workload]
profile = "CHAT_SESSIONS"
arrivals = {process = "poisson", rate = 2, ramp_s = 5, ramp_from = 0.25}
cool_down_s = 7.5
sessions = true

[[workload.slo_classes]]
name = "interactive"
share = 0.8
ttft_ms = 300
tpot_ms = 50

[[workload.slo_classes]]
name = "batch"
share = 0.2
e2e_ms = 60000

[parameters.max_num_seqs]
type = "int"
low = 8
high = 256
"""


def test_the_keys_become_the_workload_and_survive_the_wire() -> None:
    spec = parse_study(_STUDY, path="s.toml")
    assert spec.workload == Workload(
        profile="CHAT_SESSIONS",
        arrivals=Arrivals(rate=2.0, ramp_s=5.0, ramp_from=0.25),
        cool_down_s=7.5,
        sessions=True,
        slo_classes=(
            SloClass(name="interactive", share=0.8, ttft_ms=300.0, tpot_ms=50.0),
            SloClass(name="batch", share=0.2, e2e_ms=60_000.0),
        ),
    )
    sent = to_message(spec, study_pb2.StudySpec()).SerializeToString()
    assert from_message(study_pb2.StudySpec.FromString(sent), StudySpec) == spec
    assert msgspec.json.decode(msgspec.json.encode(spec), type=StudySpec) == spec


def test_a_workload_of_an_older_peer_has_none_of_it() -> None:
    message = to_message(Workload(profile="BOT", arrivals=Arrivals(rate=1.0)), study_pb2.Workload())
    for name in ("cool_down_s", "sessions", "slo_classes"):
        message.ClearField(name)
    message.arrivals.ClearField("ramp_s")
    message.arrivals.ClearField("ramp_from")
    message.arrivals.ClearField("max_in_flight")
    assert from_message(message, Workload) == Workload(profile="BOT", arrivals=Arrivals(rate=1.0))


_BAD = [
    # (fragment to replace, replacement, key, part of the message, fragment that stands on the line)
    ("cool_down_s = 7.5", "cool_down_s = -1", "workload.cool_down_s", "out of range", "cool_down_s"),
    ("ramp_s = 5", "ramp_s = -5", "workload.arrivals.ramp_s", "out of range", "arrivals ="),
    ("ramp_from = 0.25", "ramp_from = 1.5", "workload.arrivals.ramp_from", "out of range", "arrivals ="),
    ("ramp_s = 5, ", "", "workload.arrivals.ramp_from", "without `ramp_s`", "arrivals ="),
    ('"poisson", rate = 2', '"trace"', "workload.arrivals.ramp_s", "takes no `ramp_s`", "arrivals ="),
    ("sessions = true", "sessions = 1", "workload.sessions", "true or false", "sessions = 1"),
    ('name = "batch"', 'name = "interactive"', "workload.slo_classes[1].name", "used twice", 'name = "interactive"'),
    ('name = "batch"', 'name = ""', "workload.slo_classes[1].name", "no name", 'name = ""'),
    ('name = "batch"\n', "", "workload.slo_classes[1]", "'name' is missing", "[[workload.slo_classes]]"),
    ("share = 0.2", "share = 0", "workload.slo_classes[1].share", "out of range", "share = 0\n"),
    ("share = 0.2", "share = 0.1", "workload.slo_classes", "add up to 0.9", "[[workload.slo_classes]]"),
    ("ttft_ms = 300", "ttft_ms = 0", "workload.slo_classes[0].ttft_ms", "out of range", "ttft_ms"),
    ("e2e_ms = 60000", "e2e_ms = -1", "workload.slo_classes[1].e2e_ms", "out of range", "e2e_ms"),
    ("e2e_ms = 60000", "e2e = 6", "workload.slo_classes[1].e2e", "unknown key", "e2e = 6"),
]


@pytest.mark.parametrize(("old", "new", "key", "words", "on"), _BAD, ids=[f"{b[2]}-{b[3]}" for b in _BAD])
def test_mistakes_are_named_with_their_place(old: str, new: str, key: str, words: str, on: str) -> None:
    assert _STUDY.count(old) == 1
    text = _STUDY.replace(old, new)
    with pytest.raises(UserError) as caught:
        parse_study(text, path="s.toml")
    assert (caught.value.path, caught.value.key) == ("s.toml", key)
    assert words in caught.value.message
    lines = [number for number, line in enumerate(text.splitlines(keepends=True), 1) if on in line]
    assert caught.value.line in lines


def test_shares_may_be_rounded_and_a_single_class_needs_none() -> None:
    head, _, rest = _STUDY.partition("[[workload.slo_classes]]")
    tail = rest[rest.index("[parameters") :]
    thirds = "".join(f'[[workload.slo_classes]]\nname = "c{n}"\nshare = 0.333\n' for n in range(3))
    assert len(parse_study(head + thirds + tail, path="s.toml").workload.slo_classes) == 3
    one = '[[workload.slo_classes]]\nname = "all"\nttft_ms = 100\n'
    assert parse_study(head + one + tail, path="s.toml").workload.slo_classes == (SloClass(name="all", ttft_ms=100.0),)
    many = "".join(f'[[workload.slo_classes]]\nname = "c{n}"\nshare = 0.01\n' for n in range(SLO_CLASSES + 1))
    with pytest.raises(UserError, match="too many"):
        parse_study(head + many + tail, path="s.toml")


def test_users_may_ramp() -> None:
    text = _STUDY.replace('process = "poisson", rate = 2', 'process = "closed", users = 8')
    assert parse_study(text, path="s.toml").workload.arrivals == Arrivals(
        process=ArrivalProcess.CLOSED, users=8, ramp_s=5.0, ramp_from=0.25
    )
