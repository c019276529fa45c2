"""The units and their companions, as systemd itself judges them; the example configurations, as the daemons do."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from scoot.agent.config import load_config
from scoot.coordinator.config import CoordinatorConfig, read_config

SYSTEMD = Path(__file__).parents[2] / "systemd"
HOST_UNITS = Path("/usr/lib/systemd/system")
UNITS = ("scoot-coordinator.service", "scoot-agent.service", "scoot.slice")


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed here")


def executables(unit: str) -> list[str]:
    lines = (SYSTEMD / unit).read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("ExecStart=").split()[0] for line in lines if line.startswith("ExecStart=")]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A root with systemd's own units, ours, and stubs of what ours start."""
    if not HOST_UNITS.is_dir():
        pytest.skip(f"{HOST_UNITS} is not there: no units to resolve targets with")
    shutil.copytree(HOST_UNITS, tmp_path / "usr/lib/systemd/system", symlinks=True)
    folder = tmp_path / "etc/systemd/system"
    folder.mkdir(parents=True)
    for unit in UNITS:
        shutil.copy(SYSTEMD / unit, folder)
        for executable in executables(unit):
            stub = tmp_path / executable.lstrip("/")
            stub.parent.mkdir(parents=True, exist_ok=True)
            stub.write_text("#!/bin/sh\n", encoding="utf-8")
            stub.chmod(0o755)
    return tmp_path


def verify(image: Path) -> str:
    result = subprocess.run(
        [shutil.which("systemd-analyze") or "", "verify", "--man=no", f"--root={image}", *UNITS],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    return result.stdout + result.stderr + (f"exit status {result.returncode}" if result.returncode else "")


@needs("systemd-analyze")
def test_units_verify_without_a_word(image: Path) -> None:
    assert verify(image) == ""


@needs("systemd-analyze")
def test_verification_would_notice(image: Path) -> None:
    unit = image / "etc/systemd/system/scoot-agent.service"
    unit.write_text(unit.read_text(encoding="utf-8").replace("KillMode=control-group", "KillMode=politely"), "utf-8")
    assert "politely" in verify(image)


@pytest.mark.parametrize("unit", ["scoot-coordinator.service", "scoot-agent.service"])
def test_units_say_what_the_daemons_rely_on(unit: str) -> None:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys of units are case-sensitive
    parser.read(SYSTEMD / unit, encoding="utf-8")
    service = parser["Service"]
    assert service["Type"] == "notify"
    assert service["KillMode"] == "control-group"
    assert service["Slice"] == "scoot.slice"
    assert service["RestartPreventExitStatus"] == "2"
    assert service["User"] != "root"
    if unit == "scoot-agent.service":
        assert service["Delegate"] == "yes"
        assert service["OOMPolicy"] == "continue"


@needs("systemd-sysusers")
def test_users_and_folders_are_made(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("making users in an image needs root")
    for name, program in (("sysusers.d", "systemd-sysusers"), ("tmpfiles.d", "systemd-tmpfiles")):
        folder = tmp_path / "usr/lib" / name
        folder.mkdir(parents=True)
        shutil.copy(SYSTEMD / name / "scoot.conf", folder)
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed here")
    (tmp_path / "etc/scoot").mkdir(parents=True)
    (tmp_path / "etc/scoot/agent.toml").touch(mode=0o666)
    for program, *arguments in (["systemd-sysusers"], ["systemd-tmpfiles", "--create", "--prefix=/etc/scoot"]):
        result = subprocess.run(
            [shutil.which(program) or "", f"--root={tmp_path}", *arguments, "scoot.conf"],
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
        )
        assert result.returncode == 0, result.stderr
    users = (tmp_path / "etc/passwd").read_text(encoding="utf-8")
    assert "scoot:" in users
    assert "scoot-agent:" in users
    assert (tmp_path / "etc/scoot/agent.toml").stat().st_mode & 0o777 == 0o640


def test_example_configurations_are_accepted() -> None:
    assert read_config(str(SYSTEMD / "coordinator.example.toml")) == CoordinatorConfig()
    agent = load_config(SYSTEMD / "agent.example.toml")
    assert set(agent.engines) == {"vllm", "mock"}
    assert agent.data_dir == Path("/var/lib/scoot-agent")
