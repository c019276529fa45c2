"""Whatever the process table looks like, a sweep never touches a process it cannot prove to own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scoot.agent.host.proctable import Process, below
from scoot.agent.host.reaper import Record, belonging, to_kill

PIDS = st.integers(2, 14)
TICKS = st.integers(1, 4)
BOOTS = st.sampled_from(["a", "b"])


@st.composite
def tables(draw: st.DrawFn) -> tuple[Process, ...]:
    """A table with unique pids and small numbers, so that pids, groups and start times collide all the time."""
    pids = draw(st.lists(PIDS, unique=True, max_size=12))
    return tuple(
        Process(
            pid=pid,
            ppid=draw(st.integers(0, 14)),
            pgid=draw(PIDS),
            start_ticks=draw(TICKS),
            state=draw(st.sampled_from("SRDZT")),
            token=draw(st.sampled_from(["", "x", "y"])),
            cgroup=draw(st.sampled_from(["", "/scoot-engine-x"])),
        )
        for pid in pids
    )


records = st.builds(
    Record,
    boot_id=BOOTS,
    token=st.sampled_from(["", "x"]),
    cgroup_path=st.sampled_from(["", "/scoot-engine-x"]),
    agent_pid=PIDS,
    agent_start_ticks=TICKS,
    pid=PIDS,
    pgid=PIDS,
    start_ticks=TICKS,
    members=st.lists(st.tuples(PIDS, TICKS), max_size=3).map(tuple),
)


@given(tables(), records, BOOTS)
def test_only_proven_processes_are_killed(table: tuple[Process, ...], record: Record, boot: str) -> None:
    (found,) = to_kill([record], table, boot)
    identities = {(record.pid, record.start_ticks), *record.members}
    proven = {
        process.pid
        for process in table
        if (process.pid, process.start_ticks) in identities
        or (record.token and process.token == record.token)
        or (record.cgroup_path and process.cgroup == record.cgroup_path)
    }
    in_group = {process.pid for process in table if process.pgid == record.pgid}
    allowed = proven | (in_group if proven & in_group else set())
    allowed |= {process.pid for root in allowed for process in below(root, table)}
    assert {process.pid for process in found} <= allowed
    assert all(process.state != "Z" and process.pid > 1 for process in found)
    if boot != record.boot_id:
        assert found == ()


@given(tables(), records)
def test_everything_recorded_and_alive_is_found(table: tuple[Process, ...], record: Record) -> None:
    found = {process.pid for process in belonging(record, table)}
    identities = {(record.pid, record.start_ticks), *record.members}
    for process in table:
        if (process.pid, process.start_ticks) in identities and process.state != "Z":
            assert process.pid in found
            assert {child.pid for child in below(process.pid, table) if child.state != "Z"} <= found


@given(tables(), st.lists(records, max_size=4), BOOTS)
def test_records_are_judged_one_by_one(table: tuple[Process, ...], some: list[Record], boot: str) -> None:
    together = to_kill(some, table, boot)
    assert together == tuple(to_kill([record], table, boot)[0] for record in some)


@given(tables(), PIDS)
def test_descendants_end_even_in_circles(table: tuple[Process, ...], root: int) -> None:
    found = below(root, table)
    assert root not in {process.pid for process in found}
    assert len({process.pid for process in found}) == len(found)
