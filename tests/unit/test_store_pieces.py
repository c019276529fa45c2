"""The store's pure parts: row bodies and checksums, migrations, the log's look-over, fault plans, record invariants."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.coordinator.store import record_codec, schema, wal
from scoot.coordinator.store.base import Change, Snapshot
from scoot.coordinator.store.doctor import check_records
from scoot.coordinator.store.faulty import (
    Action,
    Fault,
    FaultPlan,
    FaultyStore,
    Operation,
    StoreCrash,
    When,
    parse_plan,
)
from scoot.coordinator.store.memory import MemoryStore
from scoot.coordinator.study.state import (
    AgentRecord,
    AttemptState,
    StudyRecord,
    TrialRecord,
)
from scoot.wire.errors import LocalProtocolError, PermanentInfraError, TransientError, UserError

SAMPLE = msgspec.json.decode((Path(__file__).parents[1] / "golden" / "store" / "v1.json").read_bytes(), type=Snapshot)


def add_unknown_keys(value: object) -> object:
    """`value` with a key nobody knows in every JSON object that is a struct (maps keep their keys)."""
    if isinstance(value, dict):
        inner = {
            key: add_unknown_keys(item) if key not in ("config", "options", "env", "failures") else item
            for key, item in value.items()
        }
        return inner | {"from_a_newer_minor": [1, {"x": None}]}
    if isinstance(value, list):
        return [add_unknown_keys(item) for item in value]
    return value


class TestRecordCodec:
    @pytest.mark.parametrize("record", [*SAMPLE.studies, *SAMPLE.trials, *SAMPLE.attempts, *SAMPLE.agents])
    def test_round_trip(self, record: msgspec.Struct) -> None:
        assert record_codec.decode(record_codec.encode(record), type(record)) == record

    @pytest.mark.parametrize("kind", [StudyRecord, AgentRecord])
    def test_unknown_keys_are_ignored_at_every_depth(self, kind: type[msgspec.Struct]) -> None:
        record = SAMPLE.studies[0] if kind is StudyRecord else SAMPLE.agents[0]
        body = msgspec.json.encode(add_unknown_keys(msgspec.json.decode(msgspec.json.encode(record))))
        assert b"from_a_newer_minor" in body
        assert record_codec.decode(body, kind) == record

    def test_absent_keys_take_their_defaults(self) -> None:
        whole = msgspec.json.decode(record_codec.encode(SAMPLE.studies[0]))
        del whole["waiting"]
        del whole["spec"]["confirm"]
        found = record_codec.decode(msgspec.json.encode(whole), StudyRecord)
        assert found.waiting == ""
        assert found.spec.confirm.arrival_orders == 3

    @pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"study_id":5}', b"\xff"])
    def test_what_is_no_record_is_named(self, body: bytes) -> None:
        with pytest.raises(PermanentInfraError, match="StudyRecord"):
            record_codec.decode(body, StudyRecord)

    @pytest.mark.parametrize(
        "change",
        [{"created_at_s": float("nan")}, {"message": "\ud800"}, {"explanation": {"x": object()}}, {"number": "1"}],
    )
    def test_what_could_not_be_read_again_is_refused(self, change: dict[str, object]) -> None:
        with pytest.raises(LocalProtocolError, match="TrialRecord"):
            record_codec.encode(msgspec.structs.replace(SAMPLE.trials[0], **change))

    @given(st.lists(st.one_of(st.binary(max_size=40), st.text(max_size=20), st.integers()), min_size=1), st.data())
    def test_checksum_sees_every_flipped_bit_of_a_body(self, parts: list[object], data: st.DataObject) -> None:
        body = data.draw(st.binary(min_size=1, max_size=200))
        bit = data.draw(st.integers(0, len(body) * 8 - 1))
        flipped = bytearray(body)
        flipped[bit // 8] ^= 1 << bit % 8
        assert record_codec.checksum(*parts, body) != record_codec.checksum(*parts, bytes(flipped))

    def test_checksum_tells_types_and_borders_apart(self) -> None:
        sums = [record_codec.checksum(*parts) for parts in (("ab", "c"), ("a", "bc"), (1,), ("1",), (b"1",), (None,))]
        assert len(set(sums)) == len(sums)


class TestSchema:
    def test_released_migrations_are_numbered_without_gaps(self) -> None:
        versions = [migration.version for migration in schema.released()]
        assert versions == list(range(1, len(versions) + 1))
        assert versions

    def test_every_released_schema_has_a_committed_database(self) -> None:
        folder = Path(__file__).parents[1] / "golden" / "store"
        for migration in schema.released():
            assert (folder / f"v{migration.version}.db").is_file()

    def test_statements_leave_comments_out_and_name_bytes(self) -> None:
        migration = schema.Migration(
            version=1, sql="-- a; comment\nCREATE TABLE t (\n    b BLOB NOT NULL\n);\n\nSELECT 1;\n"
        )
        assert list(migration.statements(blob="BYTEA")) == ["CREATE TABLE t (\n    b BYTEA NOT NULL\n)", "SELECT 1"]

    def test_only_what_is_missing_is_pending(self) -> None:
        steps = tuple(schema.Migration(version=version, sql="") for version in (1, 2, 3))
        assert schema.pending(steps, 1, "x") == steps[1:]
        assert schema.pending(steps, 3, "x") == ()
        with pytest.raises(UserError, match=r"schema 4.*up to 3"):
            schema.pending(steps, 4, "x")


def log_of(commits: list[bool], *, salts: tuple[int, int] = (7, 9), page: int = 512) -> bytes:
    """A write-ahead log with one frame per entry, True for one that ends a transaction; frames without checksums."""
    head = struct.pack(">6I", 0x377F0682, 3007000, page, 0, *salts)
    sums = wal._header_sums(head, big_endian=False)
    frames = [struct.pack(">6I", 1, 5 if commit else 0, *salts, 0, 0) + bytes(page) for commit in commits]
    return head + struct.pack(">2I", *sums) + b"".join(frames)


class TestWal:
    @pytest.mark.parametrize("data", [b"", bytes(100), log_of([])])
    def test_an_empty_log_claims_nothing(self, data: bytes) -> None:
        assert wal.scan(data, 512) == wal.WalScan()

    def test_commits_of_this_generation_are_found(self) -> None:
        data = log_of([False, True, True, False]) + log_of([True], salts=(6, 1))[32:]
        assert wal.scan(data, 512).commits == (2, 3)

    def test_a_flip_in_a_salt_does_not_hide_a_commit(self) -> None:
        for bit in range(64):
            data = bytearray(log_of([True, True]))
            data[32 + 8 + bit // 8] ^= 1 << bit % 8
            assert wal.scan(bytes(data), 512).commits == (1, 2)

    def test_a_frame_cut_short_does_not_count(self) -> None:
        assert wal.scan(log_of([True, True])[:-1], 512).commits == (1,)

    @pytest.mark.parametrize("bit", range(32 * 8))
    def test_a_flip_anywhere_in_the_header_is_seen(self, bit: int) -> None:
        data = bytearray(log_of([True]))
        data[bit // 8] ^= 1 << bit % 8
        assert wal.scan(bytes(data), 512).header_damaged

    @pytest.mark.parametrize(
        ("recovered", "verdict"),
        [(3, wal.WalVerdict.SOUND), (2, wal.WalVerdict.TORN), (1, wal.WalVerdict.DAMAGED), (0, wal.WalVerdict.DAMAGED)],
    )
    def test_at_most_the_last_commit_can_be_torn(self, recovered: int, verdict: wal.WalVerdict) -> None:
        assert wal.judge(wal.WalScan(commits=(1, 2, 3)), recovered) is verdict

    def test_a_damaged_header_is_damage(self) -> None:
        assert wal.judge(wal.WalScan(header_damaged=True), 0) is wal.WalVerdict.DAMAGED


class TestFaults:
    def test_plan_from_text(self) -> None:
        plan = parse_plan("commit:3:after:kill, any:1:before:slow:0.5,load:2:before:transient")
        assert plan.faults == (
            Fault(operation=Operation.COMMIT, at=3, when=When.AFTER, action=Action.KILL),
            Fault(at=1, action=Action.SLOW, seconds=0.5),
            Fault(operation=Operation.LOAD, at=2),
        )
        assert parse_plan("") == FaultPlan()

    @pytest.mark.parametrize(
        "text",
        [
            "commit",
            "commit:0:before:crash",
            "commit:x:before:crash",
            "fly:1:before:crash",
            "commit:1:during:crash",
            "commit:1:before:slow:-1",
            "commit:1:before:slow:nan",
            "commit:1:before:slow:1:2",
            "commit:1:after:transient",
        ],
    )
    def test_bad_plans_are_refused(self, text: str) -> None:
        with pytest.raises(UserError, match=r"fault"):
            parse_plan(text)

    def test_a_transient_fault_before_leaves_nothing_and_passes(self) -> None:
        inner = MemoryStore()
        store = FaultyStore(inner, parse_plan("commit:2:before:transient"))
        store.commit(Change(next_fence=2))
        with pytest.raises(TransientError):
            store.commit(Change(next_fence=3))
        assert store.load().next_fence == 2
        store.commit(Change(next_fence=4))
        assert store.load().next_fence == 4
        assert store.calls == ["commit", "commit", "load", "commit", "load"]
        assert len(store.fired) == 1

    @pytest.mark.parametrize(("when", "kept"), [(When.BEFORE, 1), (When.AFTER, 9)])
    def test_after_a_crash_nothing_works_and_only_the_inner_store_knows(self, when: When, kept: int) -> None:
        inner = MemoryStore()
        store = FaultyStore(inner, FaultPlan(faults=(Fault(at=1, when=when, action=Action.CRASH),)))
        with pytest.raises(StoreCrash):
            store.commit(Change(next_fence=9))
        with pytest.raises(StoreCrash):
            store.load()
        assert inner.load().next_fence == kept
        assert not issubclass(StoreCrash, Exception)

    def test_a_lasting_fault(self) -> None:
        fault = Fault(at=2, count=2, action=Action.PERMANENT, operation=Operation.PUT_BLOB)
        store = FaultyStore(MemoryStore(), FaultPlan(faults=(fault,)))
        store.put_blob(b"1")
        for _ in range(2):
            with pytest.raises(PermanentInfraError):
                store.put_blob(b"2")
        store.put_blob(b"3")
        assert store.fired == [fault, fault]

    def test_a_slow_operation_succeeds(self) -> None:
        store = FaultyStore(MemoryStore(), parse_plan("commit:1:before:slow:0.001"))
        store.commit(Change(next_fence=3))
        assert store.load().next_fence == 3
        assert len(store.fired) == 1


class TestInvariants:
    """The doctor's rules on records, each shown to fire."""

    @staticmethod
    def found(**change: object) -> list[str]:
        whole = {
            "studies": SAMPLE.studies,
            "trials": SAMPLE.trials,
            "attempts": SAMPLE.attempts,
            "next_fence": SAMPLE.next_fence,
        } | change
        return [finding.message for finding in check_records(**whole, where="x")]  # type: ignore[arg-type]  # by name

    def test_the_sample_is_sound(self) -> None:
        assert self.found() == []

    def test_a_number_given_twice(self) -> None:
        (message,) = self.found(trials=(*SAMPLE.trials, SAMPLE.trials[0]))
        assert "2 trials with number 0" in message

    def test_more_trials_than_the_budget_and_two(self) -> None:
        base = SAMPLE.trials[0]
        trials: list[TrialRecord] = [msgspec.structs.replace(base, number=number) for number in range(4)]
        assert self.found(trials=trials, attempts=()) == []
        trials.append(msgspec.structs.replace(base, number=4))
        (message,) = self.found(trials=trials, attempts=())
        assert "5 trials, its budget is 2" in message

    def test_trials_without_a_study(self) -> None:
        (message,) = self.found(studies=SAMPLE.studies[1:])
        assert "belong to study st-0001, which is not there" in message

    def test_attempts_without_a_trial(self) -> None:
        messages = self.found(trials=SAMPLE.trials[1:])
        assert len(messages) == 2
        assert "attempt st-0001/0/1 belongs to a trial that is not there" in messages[0]

    def test_a_live_attempt_of_a_finished_trial(self) -> None:
        alive = msgspec.structs.replace(SAMPLE.attempts[1], state=AttemptState.RUNNING)
        (message,) = self.found(attempts=(SAMPLE.attempts[0], alive, SAMPLE.attempts[2]))
        assert "is RUNNING, its trial is over (SUCCEEDED)" in message

    def test_fences_that_do_not_increase(self) -> None:
        messages = self.found(attempts=SAMPLE.attempts[::-1])
        assert len(messages) == 2
        assert "has fence 2, an earlier one had 3" in messages[0]

    def test_a_next_fence_already_given(self) -> None:
        (message,) = self.found(next_fence=3)
        assert "next fence would be 3" in message
