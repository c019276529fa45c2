"""Suggestions that the engine's own check keeps from becoming trials, and parameters not worth searching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from study_bench import run, study, trial

from scoot.coordinator.study.events import SuggestedConfig
from scoot.coordinator.study.history import observations
from scoot.coordinator.study.state import Idle, Rejected
from scoot.coordinator.study.vetting import (
    idle_parameters,
    known_resolutions,
    notes,
    probes,
    resolution,
    searched,
    sift,
    spared,
    unresolved,
    without_idle,
)
from scoot.wire.catalogue.verdict import Checked, CheckState
from scoot.wire.reasons import Reason
from scoot.wire.spec import (
    ArrivalProcess,
    Arrivals,
    Objective,
    Parameter,
    ParameterKind,
    Scalar,
    Service,
    StudySpec,
    Workload,
)
from scoot.wire.states import TrialKind, TrialState

INVALID = Checked(state=CheckState.INVALID, reason="too many")
MISSING = Checked(state=CheckState.INVALID, reason="no such option", unknown_option=True)
UNKNOWN = Checked(state=CheckState.UNKNOWN, reason="nobody is there")


SPEC = study().spec


def ok(digest: str, **effective: Scalar) -> Checked:
    return Checked(state=CheckState.OK, digest=digest, effective=effective)


def proposals(*values: int) -> list[SuggestedConfig]:
    return [SuggestedConfig(config={"max_num_seqs": value}, source="sobol") for value in values]


def test_refused_ones_and_doubles_become_no_trials() -> None:
    found = proposals(1, 2, 3, 4, 5)
    verdicts = [ok("a"), INVALID, ok("default"), ok("a"), UNKNOWN]
    sifted = sift(SPEC, found, verdicts, known={"default": 0}, first=4)
    assert [(each.config["max_num_seqs"], each.resolved) for each in sifted.kept] == [(1, "a"), (5, "")]
    assert [(each.config["max_num_seqs"], each.before, each.same_as, each.message) for each in sifted.rejected] == [
        (2, 5, None, "too many"),
        (3, 5, 0, ""),
        (4, 5, 4, ""),
    ]


@given(st.lists(st.sampled_from([INVALID, UNKNOWN, ok("a"), ok("b"), ok("c")]), max_size=8))
def test_every_suggestion_is_kept_or_rejected_and_the_last_time_kept(verdicts: list[Checked]) -> None:
    found = proposals(*range(len(verdicts)))
    sifted = sift(SPEC, found, verdicts, known={"b": 2}, first=3)
    assert len(sifted.kept) + len(sifted.rejected) == len(found)
    digests = [each.resolved for each in sifted.kept if each.resolved]
    assert len(set(digests)) == len(digests)
    assert "b" not in digests
    everything = sift(SPEC, found, verdicts, known={"b": 2}, first=3, take_all=True)
    assert [each.config for each in everything.kept] == [each.config for each in found]


def test_the_clients_part_tells_configurations_apart_that_are_one_to_the_engine() -> None:
    closed = Workload(profile="BOT", arrivals=Arrivals(process=ArrivalProcess.CLOSED, users=8))
    of = msgspec.structs.replace(spec(SEQS, USERS), workload=closed)
    found = [SuggestedConfig(config={"users": value}, source="sobol") for value in (4, 8, 4)]
    known = {resolution(of, {}, ok("a")): 0}
    sifted = sift(of, found, [ok("a")] * 3, known=known, first=1)
    assert [each.config for each in sifted.kept] == [{"users": 4}]
    assert [each.same_as for each in sifted.rejected] == [0, 1]
    assert {name for name, _ in probes(of)} == {"seqs"}


def test_resolutions_are_of_the_first_trial_and_asked_for_where_missing() -> None:
    trials = [
        trial(0),
        trial(1, resolved="a"),
        trial(2, resolved="a"),
        trial(3, kind=TrialKind.CONFIRMATION, confirms=1),
    ]
    assert known_resolutions(trials) == {"a": 1}
    assert [each.number for each in unresolved(trials)] == [0]


def spec(*parameters: Parameter, constraints: Sequence[str] = ()) -> StudySpec:
    return StudySpec(
        name="s",
        service=Service(engine="vllm", model="m", device="cpu"),
        workload=Workload(profile="BOT"),
        parameters=parameters,
        objectives=(Objective(metric="ttft_mean"),),
        constraints=tuple(constraints),
    )


USERS = Parameter(name="users", kind=ParameterKind.INT, low=1, high=64)
SEQS = Parameter(name="seqs", kind=ParameterKind.INT, low=8, high=64)
OVERLAP = Parameter(name="overlap", kind=ParameterKind.BOOL)
GONE = Parameter(name="gone", kind=ParameterKind.ENUM, choices=("a", "b"))
SHARE = Parameter(name="share", kind=ParameterKind.FLOAT, low=0.5, high=0.9)


def test_a_parameter_is_tried_at_its_ends_or_at_some_choices() -> None:
    many = Parameter(name="many", kind=ParameterKind.INT, choices=tuple(range(10)))
    assert probes(spec(SEQS, OVERLAP, GONE, SHARE, many)) == (
        *(("seqs", value) for value in (8, 64)),
        *(("overlap", value) for value in (True, False)),
        *(("gone", value) for value in ("a", "b")),
        *(("share", value) for value in (0.5, 0.9)),
        *(("many", value) for value in (0, 3, 6, 9)),
    )


def tried(**verdicts: list[Checked]) -> dict[tuple[str, Scalar], Checked]:
    values = dict[str, list[Scalar]](seqs=[8, 64], overlap=[True, False], gone=["a", "b"])
    return {
        (name, value): verdict
        for name, found in verdicts.items()
        for value, verdict in zip(values[name], found, strict=True)
    }


def idle(spec_: StudySpec, verdicts: dict[tuple[str, Scalar], Checked], **fields: Any) -> list[str]:
    base = ok("d", seqs=128, overlap=False)
    return [each.name for each in idle_parameters(study(spec=spec_, **fields), base, verdicts)]


def test_what_changes_nothing_or_is_not_there_is_not_searched() -> None:
    verdicts = tried(seqs=[ok("x"), ok("y")], overlap=[ok("d"), ok("d")], gone=[MISSING, MISSING])
    assert idle(spec(SEQS, OVERLAP, GONE), verdicts) == ["overlap", "gone"]
    assert idle(spec(SEQS, OVERLAP, GONE, constraints=["overlap implies seqs < 9"]), verdicts) == ["gone"]
    assert idle(spec(SEQS, OVERLAP, GONE), verdicts, implied=('gone == "a"',)) == ["overlap"]
    conditional = Parameter(name="more", kind=ParameterKind.BOOL, when="overlap")
    assert idle(spec(SEQS, OVERLAP, conditional), verdicts) == ["gone"]
    own = msgspec.structs.replace(OVERLAP, when="seqs > 9")
    assert idle(spec(SEQS, own, GONE), verdicts) == ["gone"]
    assert idle(spec(OVERLAP), tried(overlap=[ok("d"), ok("d")])) == []


def test_refusals_of_values_alone_leave_a_parameter_in_the_search() -> None:
    assert idle(spec(SEQS, GONE), tried(seqs=[INVALID, INVALID], gone=[MISSING, UNKNOWN])) == []


def test_the_search_has_the_engines_constraints_and_no_idle_parameters() -> None:
    whole = spec(SEQS, OVERLAP, constraints=["seqs > 1"])
    of = study(spec=whole, idle=(Idle(name="overlap", why="so"),), implied=("seqs < 60",))
    assert [each.name for each in searched(of).parameters] == ["seqs"]
    assert searched(of).constraints == ("seqs > 1", "seqs < 60")
    assert without_idle(of, {"seqs": 8, "overlap": True}) == {"seqs": 8}
    assert searched(study(spec=whole)) is whole


def test_the_optimizer_hears_of_rejected_suggestions_where_they_came_up() -> None:
    of = study(
        rejected=(
            Rejected(config={"max_num_seqs": 9}, before=1, message="too many"),
            Rejected(config={"max_num_seqs": 7}, before=2, same_as=1),
            Rejected(config={"max_num_seqs": 8}, before=2, same_as=2),
        )
    )
    trials = [
        trial(0, run(50.0)),
        trial(1, run(40.0)),
        trial(2, state=TrialState.RUNNING),
    ]
    told = observations(of, trials)
    assert [each.number for each in told] == [0, 1, 2, 3, 4, 5]
    assert [each.config.get("max_num_seqs") for each in told] == [None, 9, 1, 7, 8, 2]
    assert (told[1].infeasible, told[1].reason) == (True, Reason.ENGINE_REJECTED_ARGS.value)
    assert told[2].values == told[3].values == (40.0,)
    assert told[4].pending
    assert [each.number for each in observations(study(), trials)] == [0, 1, 2]


def test_people_are_told_what_it_spared_them() -> None:
    of = study(
        notes=("parameters.x: was removed",),
        idle=(Idle(name="overlap", why="nothing changes with it on this host"),),
        rejected=(
            Rejected(config={}, before=1, message="seqs above tokens"),
            Rejected(config={}, before=1, same_as=0),
            Rejected(config={}, before=1, same_as=0),
        ),
    )
    assert notes(of) == (
        "parameters.x: was removed",
        "overlap is left out of the search: nothing changes with it on this host",
    )
    assert spared(of) == (
        "1 suggestion(s) refused by the engine's own check cost no trial (the last: seqs above tokens)",
        "2 suggestion(s) that come to the same as an earlier trial were not measured again",
    )
    assert (notes(study()), spared(study())) == ((), ())
