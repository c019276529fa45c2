"""Any sequence of operations leaves the memory store and the SQLite store in the same state, across reopenings."""

from __future__ import annotations

import tempfile
from hashlib import sha256
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scoot.coordinator.store.base import Change, Segment, Snapshot, Store
from scoot.coordinator.store.memory import MemoryStore
from scoot.coordinator.store.sqlite import SqliteStore
from scoot.coordinator.study.state import AttemptState
from scoot.wire.errors import ScootError
from scoot.wire.states import StudyState, TrialState

SAMPLE = msgspec.json.decode((Path(__file__).parents[1] / "golden" / "store" / "v1.json").read_bytes(), type=Snapshot)
replace = msgspec.structs.replace

scalars = st.one_of(
    st.booleans(), st.integers(-(2**62), 2**62), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5)
)
ids = st.sampled_from(["a", "b", "c"])
studies = st.builds(
    lambda study_id, state, text, revision: replace(
        SAMPLE.studies[0], study_id=study_id, state=state, message=text, revision=revision
    ),
    ids,
    st.sampled_from(StudyState),
    st.text(max_size=8),
    st.integers(0, 2**40),
)
trials = st.builds(
    lambda study_id, number, state, config, started: replace(
        SAMPLE.trials[0], study_id=study_id, number=number, state=state, config=config, started_at_s=started
    ),
    ids,
    st.integers(0, 3),
    st.sampled_from(TrialState),
    st.dictionaries(st.text(max_size=4), scalars, max_size=3),
    st.floats(),
)
attempts = st.builds(
    lambda study_id, number, fence, state: replace(
        SAMPLE.attempts[0], attempt_id=f"{study_id}/{number}/1", study_id=study_id, fence=fence, state=state
    ),
    ids,
    st.integers(0, 3),
    st.integers(1, 2**50),
    st.sampled_from(AttemptState),
)
agents = st.builds(
    lambda agent_id, cordoned: replace(SAMPLE.agents[0], agent_id=agent_id, cordoned=cordoned), ids, st.text(max_size=4)
)
changes = st.builds(
    Change,
    studies=st.lists(studies, max_size=2).map(tuple),
    trials=st.lists(trials, max_size=3).map(tuple),
    attempts=st.lists(attempts, max_size=2).map(tuple),
    agents=st.lists(agents, max_size=2).map(tuple),
    journal=st.lists(st.binary(max_size=10), max_size=3).map(tuple),
    next_fence=st.none() | st.integers(1, 2**60),
)


def make_segment(attempt_id: str, seq: int, payload: bytes, lie: bool) -> Segment:
    digest = sha256(payload + b"!" * lie).hexdigest()
    return Segment(
        attempt_id=attempt_id,
        seq=seq,
        sha256=digest,
        encoding="raw",
        raw_bytes=len(payload),
        n_requests=1,
        n_chunks=2,
        payload=payload,
    )


segments = st.lists(
    st.builds(make_segment, ids, st.integers(0, 2), st.binary(max_size=3), st.integers(0, 9).map(lambda n: n == 0)),
    max_size=4,
)
REOPEN = "reopen"
steps = st.lists(st.one_of(changes, segments, st.just(REOPEN)), min_size=1, max_size=8)


def outcome(store: Store, step: Change | list[Segment]) -> object:
    """The class and text of the error that a step raised, None if it did not."""
    try:
        if isinstance(step, Change):
            store.commit(step)
        else:
            store.add_segments(step)
    except ScootError as exc:
        return type(exc), str(exc)
    return None


def everything(store: Store) -> object:
    infos = [info for attempt_id in "abc" for info in store.segments(attempt_id)]
    return store.load(), list(store.journal()), infos, [store.read_segment(info) for info in infos]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_memory_and_sqlite_agree(sequence: list[Change | list[Segment] | str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        memory, durable = MemoryStore(), SqliteStore(folder)
        try:
            for step in sequence:
                if isinstance(step, str):
                    durable.close()
                    durable = SqliteStore(folder)
                else:
                    assert outcome(durable, step) == outcome(memory, step)
            assert msgspec.json.encode(everything(durable)) == msgspec.json.encode(everything(memory))
        finally:
            durable.close()
