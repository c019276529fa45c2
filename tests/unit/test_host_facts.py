"""Ports, memory, cgroups and logs of a host."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.agent.host import cgroup, logs
from scoot.agent.host.memory import HostMemory, admit, parse_meminfo, read_memory
from scoot.agent.host.ports import free_port, port_is_free
from scoot.agent.workplace import MemoryBook
from scoot.wire import limits

GIB = 1024**3


def test_ports() -> None:
    port = free_port()
    assert port_is_free(port)
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen(1)
        assert not port_is_free(port)
    assert port_is_free(port)


def test_memory_figures() -> None:
    assert parse_meminfo("MemTotal:  2048 kB\nMemAvailable:   1024 kB\nHugePages_Total: 0\n") == HostMemory(
        total_bytes=2 * 1024**2, available_bytes=1024**2
    )
    assert parse_meminfo("nonsense") == HostMemory(total_bytes=0, available_bytes=0)
    assert 0 < read_memory().available_bytes <= read_memory().total_bytes


@pytest.mark.parametrize(
    ("available", "engines", "predicted", "admitted"),
    [(10, 2, 4, True), (9, 2, 4, False), (2, 1, 0, True), (1, 0, 4, False)],
)
def test_admission(available: int, engines: int, predicted: int, admitted: bool) -> None:
    memory = HostMemory(total_bytes=100 * GIB, available_bytes=available * GIB)
    verdict = admit(memory, engines=engines, predicted_rss_bytes=predicted * GIB, reserve_bytes=2 * GIB)
    assert verdict.admitted is admitted
    assert admitted or f"{available}.0 GiB" in verdict.detail


def test_cgroup_mounts() -> None:
    hybrid = (
        "31 23 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
        "32 23 0:27 / /sys/fs/cgroup/uni\\040fied rw,nosuid - cgroup2 cgroup2 rw\n"
    )
    assert cgroup.parse_mounts(hybrid) == "/sys/fs/cgroup/uni fied"
    assert cgroup.parse_mounts("") is None
    assert cgroup.parse_membership("4:memory:/x\n0::/system.slice/scoot-agent.service\n") == (
        "/system.slice/scoot-agent.service"
    )
    assert cgroup.parse_membership("4:memory:/x\n") is None


def test_cgroup_probe_leaves_nothing() -> None:
    support = cgroup.probe()
    assert support.detail
    if support.path:
        assert not list(Path(support.path).glob(f"{cgroup.PREFIX}probe-*"))
    assert cgroup.make(cgroup.CgroupSupport(detail="none"), "t") == ("", "")
    assert cgroup.remove_empty(cgroup.CgroupSupport(detail="none")) == 0


def test_cgroup_kill_only_touches_its_own_kind(tmp_path: Path) -> None:
    foreign = tmp_path / "system.slice"
    foreign.mkdir()
    (foreign / "cgroup.kill").write_text("")
    cgroup.kill_and_remove(str(foreign))
    assert (foreign / "cgroup.kill").read_text() == ""


def test_tail_strips_and_bounds(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\x1b[31mred\x1b[0m\r\n\x1b]0;title\x07plain\x00\xff\nprogress 1\rprogress 2\n")
    assert logs.read_tail(log) == "red\nplain\ufffd\nprogress 1\nprogress 2"
    log.write_text("\n".join(f"line {number}" for number in range(1000)))
    assert logs.read_tail(log).split("\n")[0] == f"line {1000 - limits.LOG_TAIL_LINES}"
    log.write_bytes(b"x" * 10_000_000 + b" the end\n")
    tail = logs.read_tail(log)
    assert tail.endswith("the end")
    assert len(tail) <= limits.LOG_TAIL_CHARS
    assert logs.read_tail(tmp_path / "none") == ""


def test_head_and_whole(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"first\n" + b"middle\n" * 400_000 + b"last\n")
    assert logs.read_head(log).startswith("first\n")
    text = logs.read_text(log)
    assert text.startswith("first\n")
    assert text.endswith("last\n")
    assert len(text) <= logs.HEAD_BYTES + logs.TAIL_BYTES + 1
    log.write_text("short\n")
    assert logs.read_text(log) == "short\n"
    assert logs.read_text(tmp_path / "none") == ""


@given(st.text(), st.integers(1, 50), st.integers(1, 500))
def test_tail_is_always_bounded_and_printable(text: str, lines: int, chars: int) -> None:
    tail = logs.tail_of(text, lines=lines, chars=chars)
    assert len(tail) <= chars
    assert tail.count("\n") < lines
    assert "\x1b" not in tail
    assert "\x00" not in tail


def test_an_engine_that_took_everything_keeps_no_other_from_being_tried() -> None:
    book = MemoryBook()
    assert book.predicted("e", "m") == 0
    book.saw("e", "m", 20 * GIB, available_bytes=22 * GIB)
    assert book.predicted("e", "m") < 20 * GIB
    host = HostMemory(total_bytes=24 * GIB, available_bytes=21 * GIB)
    again = {"engines": 1, "predicted_rss_bytes": book.predicted("e", "m"), "reserve_bytes": 2 * GIB}
    assert admit(host, **again).admitted
    assert not admit(msgspec.structs.replace(host, available_bytes=2 * GIB), **again).admitted
    book.saw("e", "m", 3 * GIB, available_bytes=22 * GIB)
    book.saw("e", "m", 19 * GIB, available_bytes=22 * GIB)
    assert book.predicted("e", "m") == 3 * GIB
    assert book.predicted("e", "other") == 0
