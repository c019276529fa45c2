"""The coordinator as a process: starting, refusing, stopping."""

from __future__ import annotations

import pathlib
import signal
import socket
import subprocess
import sys

import pytest

PATIENCE_S = 30.0


def start(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "scoot.coordinator", *args],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def finished(*args: str) -> tuple[int, str]:
    """Exit status and standard error of a coordinator that is expected to end by itself."""
    process = start(*args)
    _, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, err


def serving(tmp_path: pathlib.Path, *args: str) -> tuple[subprocess.Popen[str], str]:
    """A coordinator that serves, and its address."""
    ready = tmp_path / "ready"
    process = start("--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0", "--ready-file", str(ready), *args)
    assert process.stderr is not None
    for line in process.stderr:
        if "serving on" in line:
            break
    while not ready.exists():
        assert process.poll() is None
    return process, ready.read_text().strip()


def end(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=PATIENCE_S)
    return process.returncode


def test_it_stops_cleanly_on_sigterm(tmp_path: pathlib.Path) -> None:
    process, address = serving(tmp_path)
    assert address.startswith("127.0.0.1:")
    process.send_signal(signal.SIGTERM)
    assert end(process) == 0


def test_it_stops_with_its_standard_input_only_if_asked(tmp_path: pathlib.Path) -> None:
    process, _ = serving(tmp_path, "--exit-with-stdin")
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None
    assert end(process) == 0


def test_one_coordinator_per_folder_and_per_port(tmp_path: pathlib.Path) -> None:
    process, address = serving(tmp_path)
    try:
        status, err = finished("--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0")
        assert status == 2
        assert str(tmp_path / "data") in err
        assert "Traceback" not in err
        status, err = finished("--data", str(tmp_path / "other"), "--listen", address)
        assert status == 2
        assert f"cannot listen on {address}" in err
        assert "Traceback" not in err
    finally:
        process.send_signal(signal.SIGTERM)
        assert end(process) == 0


def test_a_port_held_by_something_else_is_named(tmp_path: pathlib.Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        status, err = finished("--data", str(tmp_path / "data"), "--listen", f"127.0.0.1:{port}")
    assert status == 2
    assert f"127.0.0.1:{port}" in err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("listn = '127.0.0.1:1'", ["listn"]),
        ("listen = 7070", ["$.listen"]),
        ("listen = 'nowhere'", ["nowhere", "host:port"]),
        ("listen = '0.0.0.0:7070'", ["loopback", "mutual TLS"]),
        ("[lease]\nreassign_s = 20.0", ["lease"]),
        ("listen = ", ["no TOML"]),
        ("store = 'oracle'", ["oracle"]),
    ],
)
def test_bad_configuration_is_one_clear_line(tmp_path: pathlib.Path, text: str, words: list[str]) -> None:
    config = tmp_path / "coordinator.toml"
    config.write_text(f"{text}\n")
    status, err = finished("--config", str(config), "--data", str(tmp_path / "data"))
    assert status == 2, err
    assert "Traceback" not in err
    assert all(word in err for word in words), err


def test_missing_files_and_half_a_certificate_are_named(tmp_path: pathlib.Path) -> None:
    status, err = finished("--config", str(tmp_path / "none.toml"))
    assert (status, "none.toml" in err) == (2, True)
    status, err = finished("--data", str(tmp_path / "data"), "--tls-ca", "ca.pem")
    assert (status, "--tls-key" in err) == (2, True)
    pem = str(tmp_path / "missing.pem")
    status, err = finished(
        "--data",
        str(tmp_path / "data"),
        "--listen",
        "127.0.0.1:0",
        "--tls-ca",
        pem,
        "--tls-cert",
        pem,
        "--tls-key",
        pem,
    )
    assert (status, "missing.pem" in err, "tls.ca" in err) == (2, True, True)


def test_doctor_finds_nothing_in_a_fresh_store(tmp_path: pathlib.Path) -> None:
    process, _ = serving(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert end(process) == 0
    doctor = start("--data", str(tmp_path / "data"), "doctor")
    out, err = doctor.communicate(timeout=PATIENCE_S)
    assert doctor.returncode == 0, err
    assert "no findings" in out
