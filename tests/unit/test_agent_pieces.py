"""The agent's small parts by themselves: folders, spool reading, notification, and who listens where."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import numpy as np
import pytest

from scoot.agent.core.run import EndState
from scoot.agent.folders import AttemptFolders, KeptOutcome
from scoot.agent.host.process import ExitStatus
from scoot.agent.link.channel import open_channel
from scoot.agent.link.codec import AttemptRef
from scoot.agent.listener import is_served_by, sockets_on, users_of
from scoot.agent.load import LoadRun
from scoot.agent.notify import Notifier
from scoot.agent.spooled import SpoolFrames, summarise
from scoot.benchmark.plan import LoadPlan, PromptMode
from scoot.benchmark.spool import SpoolCorruptError, SpoolWriter
from scoot.wire.columns import NONE_US, RequestPhase, RequestStatus, TimingBatch, encode
from scoot.wire.endpoint import Endpoint, TlsFiles
from scoot.wire.errors import UserError
from scoot.wire.measurement import AttemptOutcome
from scoot.wire.reasons import Reason
from scoot.wire.spec import Limits, Workload

REF = AttemptRef("study/0/1", 7)


def kept(*, uploaded: bool = True) -> KeptOutcome:
    return KeptOutcome(
        outcome=AttemptOutcome(attempt_id=REF.attempt_id, fence=REF.fence, state="COMPLETED"), uploaded=uploaded
    )


def batch(*statuses: RequestStatus, phase: RequestPhase = RequestPhase.MEASURED) -> bytes:
    n = len(statuses)

    def column(value: int, dtype: str = "<u4") -> np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]:
        return np.full(n, value, dtype)

    return encode(
        TimingBatch(
            index=np.arange(n, dtype="<u4"),
            intended_us=column(0, "<u8"),
            sent_us=column(0),
            first_us=column(NONE_US),
            end_us=column(5),
            input_tokens=column(1),
            output_tokens=column(0),
            wanted_tokens=column(1),
            chunks=column(0),
            run=column(0, "<u2"),
            http_status=column(200, "<u2"),
            replica=column(0, "<u2"),
            phase=column(phase, "u1"),
            status=np.array(statuses, "u1"),
            gap_us=np.empty(0, "<u4"),
        )
    )


def test_an_outcome_survives_until_it_is_dropped(tmp_path: Path) -> None:
    folders = AttemptFolders(tmp_path, "boot")
    folder = folders.create(REF)
    (folder / "engine-0-0.log").write_text("log")
    (folder / "engine-0").mkdir()
    folders.spool(REF).write_bytes(b"x")
    folders.keep(kept(uploaded=False))
    folders.keep(kept())
    assert AttemptFolders(tmp_path, "boot").recover() == [kept()]
    folders.drop(REF)
    assert [path.name for path in folder.iterdir()] == ["engine-0-0.log"]
    assert AttemptFolders(tmp_path, "boot").recover() == []


@pytest.mark.parametrize(("boot", "reason"), [("boot", Reason.HOST_LOST), ("another", Reason.HOST_REBOOTED)])
def test_an_attempt_that_was_cut_off_gets_its_outcome(tmp_path: Path, boot: str, reason: Reason) -> None:
    AttemptFolders(tmp_path, "boot").create(REF)
    found = AttemptFolders(tmp_path, boot).recover()
    assert [(each.ref, each.outcome.state, each.outcome.reason) for each in found] == [(REF, "ABORTED", reason)]
    assert AttemptFolders(tmp_path, "third").recover() == found  # decided once


@pytest.mark.parametrize("damage", [b"", b"{", b"\x00" * 64, b'{"outcome": 3}'])
def test_a_damaged_outcome_is_put_aside_and_never_believed(tmp_path: Path, damage: bytes) -> None:
    folders = AttemptFolders(tmp_path, "boot")
    folder = folders.create(REF)
    (folder / "outcome.json").write_bytes(damage)
    assert [each.outcome.reason for each in folders.recover()] == [Reason.HOST_LOST]
    assert (folder / "outcome.json.damaged").read_bytes() == damage


def test_logs_of_old_attempts_are_removed(tmp_path: Path) -> None:
    folders = AttemptFolders(tmp_path, "boot")
    for fence in range(1, 61):
        ref = AttemptRef("s/0/1", fence)
        (folders.create(ref) / "engine.log").write_text("x")
        folders.drop(ref)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == list(range(11, 61))


def test_frames_are_read_by_number_while_the_spool_grows(tmp_path: Path) -> None:
    payloads = [batch(*[RequestStatus.OK] * n) for n in range(1, 21)]
    frames = SpoolFrames(tmp_path / "spool")
    assert frames.payload(0) is None
    with SpoolWriter(tmp_path / "spool") as writer:
        for seq, payload in enumerate(payloads[:10]):
            writer.append(payload)
            assert frames.payload(seq) == payload
        assert frames.payload(10) is None
        for payload in payloads[10:]:
            writer.append(payload)
    order = [10, 11, 3, 12, 13, 0, 14, 15, 16, 17, 18, 19, 19, 5]
    assert [frames.payload(seq) for seq in order] == [payloads[seq] for seq in order]
    assert frames.payload(20) is None
    frames.close()


def test_a_summary_counts_measured_requests_that_were_sent(tmp_path: Path) -> None:
    ok, reset = RequestStatus.OK, RequestStatus.RESET
    with SpoolWriter(tmp_path / "spool") as writer:
        writer.append(batch(ok, reset, phase=RequestPhase.WARM_UP))
        writer.append(batch(ok, ok, RequestStatus.NOT_SENT, RequestStatus.DEADLINE))
        writer.append(batch(reset, reset))
    summary = summarise(tmp_path / "spool", whole=True)
    assert (summary.frames, summary.measured, summary.failed, summary.worst) == (3, 5, 3, "RESET")
    assert summary.failed_share == pytest.approx(0.6)
    assert summary.timed_out == 1
    assert summary.error_share == pytest.approx(0.4)


@pytest.mark.parametrize(
    "kind", [kind for kind in RequestStatus if kind not in (RequestStatus.OK, RequestStatus.NOT_SENT)]
)
def test_only_what_ran_out_of_time_is_no_error(tmp_path: Path, kind: RequestStatus) -> None:
    with SpoolWriter(tmp_path / "spool") as writer:
        writer.append(batch(RequestStatus.OK, kind))
    late = kind in (RequestStatus.DEADLINE, RequestStatus.CANCELLED)
    assert summarise(tmp_path / "spool", whole=True).error_share == (0.0 if late else 0.5)


def test_an_empty_or_missing_spool_has_no_failures(tmp_path: Path) -> None:
    summary = summarise(tmp_path / "none", whole=True)
    assert (summary.failed_share, summary.error_share) == (0.0, 0.0)


def test_a_torn_spool_matters_only_where_it_must_be_whole(tmp_path: Path) -> None:
    with SpoolWriter(tmp_path / "spool") as writer:
        writer.append(batch(RequestStatus.OK))
        writer.append(batch(RequestStatus.OK))
    os.truncate(tmp_path / "spool", (tmp_path / "spool").stat().st_size - 1)
    assert summarise(tmp_path / "spool", whole=False).frames == 1
    with pytest.raises(SpoolCorruptError):
        summarise(tmp_path / "spool", whole=True)


def load_run(folder: Path) -> LoadRun:
    plan = LoadPlan(
        targets=(),
        model="m",
        prompt_mode=PromptMode.TEXT,
        token_low=0,
        token_high=1,
        ignore_eos=False,
        max_model_len=0,
        workload=Workload(),
        rows_path="",
        run_seeds=(1,),
        limits=Limits(),
        spool_path="",
        audit_path=str(folder / "audit.json"),
    )
    return LoadRun(plan, folder, lambda _: None)


@pytest.mark.parametrize(
    ("status", "state", "reason"),
    [
        (ExitStatus(code=errno.ENOSPC), EndState.ABORTED, Reason.DISK_FULL),
        (ExitStatus(code=1), EndState.ABORTED, Reason.CLIENT_CRASHED),
        (ExitStatus(code=2), EndState.ABORTED, Reason.SPEC_INVALID),
        (ExitStatus(signal=9), EndState.ABORTED, Reason.CLIENT_CRASHED),
        (ExitStatus(code=0), EndState.ABORTED, Reason.CLIENT_CRASHED),  # it left no audit
    ],
)
def test_how_a_load_process_ended_is_understood(
    tmp_path: Path, status: ExitStatus, state: EndState, reason: Reason
) -> None:
    (tmp_path / "load.log").write_text("first\nno space left\n")
    ending = load_run(tmp_path).understand(status)
    assert ending is not None
    assert (ending.state, ending.reason) == (state, reason)
    assert status.code == 0 or "no space left" in ending.message


def test_a_load_process_that_ended_well_left_its_audit(tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text(
        '[{"run": 0, "cpu_share": 0.5, "run_queue_s": 0.0, "clock_step_ms": 0.0, "dropped": 0}]'
    )
    load = load_run(tmp_path)
    assert load.understand(ExitStatus(code=0)) is None
    assert [audit.cpu_share for audit in load.audits] == [0.5]


@pytest.mark.parametrize("abstract", [False, True])
def test_notifications_reach_the_service_manager(tmp_path: Path, abstract: bool) -> None:
    name = f"@scoot-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "2000000"})
        notifier.tell("READY=1", "STATUS=up")
        assert manager.recv(100) == b"READY=1\nSTATUS=up"
        assert notifier.watchdog_s == 2.0


def test_without_a_service_manager_nothing_is_told() -> None:
    Notifier({}).tell("READY=1")
    gone = Notifier({"NOTIFY_SOCKET": "/nonexistent/socket"})
    gone.tell("READY=1")
    assert Notifier({"WATCHDOG_USEC": "1000"}).watchdog_s is None
    another = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    assert Notifier(another, pid=2).watchdog_s is None


def test_a_port_is_served_by_whoever_listens_on_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert is_served_by(port, [os.getpid()])
        assert not is_served_by(port, [1 << 22])
        assert not is_served_by(port, [])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            assert not is_served_by(connection.getsockname()[1], [os.getpid()]), "the end of a connection listens not"
    assert not is_served_by(port, [os.getpid()])


def test_sockets_of_a_port_are_read_with_their_users_and_whether_they_listen() -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    row = "   {}: 0100007F:1F90 00000000:0000 {} 00000000:00000000 00:00000000 00000000 {:>5}        0 {} 1 0 100\n"
    table = head + row.format(0, "0A", 1000, 111) + row.format(1, "01", 0, 222)
    assert list(sockets_on(table, 8080)) == [("111", 1000, True), ("222", 0, False)]
    assert list(sockets_on(table, 8081)) == []


def test_sockets_of_other_users_are_strangers_without_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert users_of(port) == frozenset({os.getpid()})
        monkeypatch.setattr(os, "geteuid", lambda: 1 << 30)
        assert users_of(port) == frozenset()
    assert users_of(port) is None, "nothing is there that could be told of"


async def test_plaintext_never_leaves_the_host_and_bad_certificates_are_named(tmp_path: Path) -> None:
    away = Endpoint("192.0.2.1", 7070)
    with pytest.raises(UserError, match="loopback"):
        open_channel(away, None)
    files = {name: str(tmp_path / name) for name in ("ca", "cert", "key")}
    with pytest.raises(UserError, match="No such file") as missing:
        open_channel(away, TlsFiles(**files))
    assert (missing.value.path, missing.value.key) == (files["ca"], "tls.ca")
    (tmp_path / "ca").write_text("not a certificate")
    with pytest.raises(UserError, match="not a PEM file"):
        open_channel(away, TlsFiles(**files))
    channel = open_channel(Endpoint("127.0.0.1", 9), None)
    await channel.close()
