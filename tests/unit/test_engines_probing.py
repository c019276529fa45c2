"""Probes of engines' installations: asked once, remembered as long as nothing changes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from scoot.agent.engines import base
from scoot.agent.engines.base import EngineSettings
from scoot.agent.engines.probing import Probe, Prober, read_marked
from scoot.agent.host.process import ExitStatus, HelperResult

SETTINGS = EngineSettings(kind="sglang", python=sys.executable)


def prober(*arguments: str) -> Prober:
    return Prober(SETTINGS, base.helper_command(SETTINGS, "package_probe", *arguments), watched=(), env={})


async def test_a_package_tells_its_version() -> None:
    import msgspec

    found = await prober("msgspec", "msgspec.json", "json").probe()
    assert found == Probe(version=msgspec.__version__, device=found.device, entry=True)


@pytest.mark.parametrize(
    ("arguments", "entry", "error"),
    [
        (("msgspec", "msgspec.absent.deeper"), False, ""),
        (("msgspec", "msgspec.json", "absent_a", "json", "absent_b.c"), True, "without: absent_a, absent_b.c"),
        (("absent_package", "x"), False, "No module named 'absent_package'"),
        (("scoot", "scoot.cli"), False, "AttributeError"),
    ],
)
async def test_what_is_missing_is_told(arguments: tuple[str, ...], entry: bool, error: str) -> None:
    found = await prober(*arguments).probe()
    assert found.entry is entry
    assert error in found.error
    assert bool(found.error) is bool(error)


async def test_modules_named_like_engines_do_not_shadow_them() -> None:
    # scoot/agent/engines has a sglang.py: run from there, it must not be taken for the package.
    found = await prober("sglang", "sglang.launch_server").probe()
    assert "No module named 'sglang'" in found.error


def test_the_last_marked_line_counts() -> None:
    lines = b'SCOOT-PROBE {"version": "1"}\nnoise\n  SCOOT-PROBE {"version": "3"}\nSCOOT-PROBE {"version": "2"}\nbye\n'
    result = HelperResult(exit=ExitStatus(code=0), stdout=lines, stderr=b"", timed_out=False)
    assert read_marked(result).version == "2"
    late = HelperResult(exit=ExitStatus(signal=9), stdout=b"", stderr=b"", timed_out=True)
    assert "did not end" in read_marked(late).error


async def test_an_answer_holds_until_a_watched_package_changes(tmp_path: Path) -> None:
    program = tmp_path / "env" / "bin" / "python"
    package = tmp_path / "env" / "lib" / "python3.11" / "site-packages" / "engine"
    count = tmp_path / "count"
    package.mkdir(parents=True)
    program.parent.mkdir()

    def answer(text: str) -> None:
        mode = program.stat().st_mtime_ns if program.exists() else None
        program.write_text(f"#!/bin/sh\necho x >> {count}\necho 'SCOOT-PROBE {text}'\n")
        program.chmod(0o755)
        if mode is not None:
            os.utime(program, ns=(mode, mode))  # only the package is to change

    def fresh() -> Prober:
        command = (str(program), "ask")
        return Prober(SETTINGS, command, watched=("engine", "absent"), env={}, cache_dir=tmp_path / "cache")

    answer('{"version": "1", "error": "broken"}')
    assert (await fresh().probe()).error == "broken"
    assert (await fresh().probe()).error == "broken"
    assert count.read_text() == "x\nx\n", "a failure is asked again"
    answer('{"version": "1", "entry": true}')
    one = fresh()
    assert one.known is None
    for asking in (one, one, fresh()):
        assert (await asking.probe()).version == "1"
        assert asking.known == Probe(version="1", entry=True)
    assert count.read_text() == "x\nx\nx\n"
    answer('{"version": "2", "entry": true}')
    assert (await fresh().probe()).version == "1"
    os.utime(package, ns=(1, 1))
    assert (await one.probe()).version == "2"
    program.unlink()
    assert (await fresh().probe()).error != ""
