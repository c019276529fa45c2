"""The experiments from their command line: one tiny service, two methods, a few trials."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SERVICE = "CLS-4a10-13b"


def run(*arguments: str, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-m", "scoot.experiments", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        cwd=folder,
    )
    assert done.returncode == code, done.stderr
    return done


def compare(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run(
        *("compare", "--methods", "sobol,rd", "--services", SERVICE, "--seeds", "1", "--budget", "6"),
        *("--out", "results", "--cache", "cache", *more),
        folder=folder,
    )


@pytest.mark.timeout(300)
def test_a_comparison_its_tables_and_going_on(tmp_path: Path) -> None:
    first = compare(tmp_path)
    assert "2 runs, 0 of them are there" in first.stderr
    assert "## One objective" in first.stdout
    assert f"| {SERVICE} | 1 |" in first.stdout
    files = sorted((tmp_path / "results").rglob("*.jsonl"))
    assert [path.name for path in files] == ["rd-own-b6-p1-s0.jsonl", "sobol-own-b6-p1-s0.jsonl"]
    assert [len(path.read_bytes().splitlines()) for path in files] == [7, 7]
    kept = [path.read_bytes() for path in files]

    again = compare(tmp_path, "--jobs", "2", "--parallelism", "1,4")
    assert "4 runs, 2 of them are there" in again.stderr
    assert "sobol p4" in again.stdout
    assert [path.read_bytes() for path in files] == kept

    table = run("table", "results", "--cache", "cache", "--against", "sobol", folder=tmp_path)
    assert table.stdout == again.stdout


@pytest.mark.timeout(300)
def test_references_services_and_the_conflict(tmp_path: Path) -> None:
    found = run(
        *("reference", "--services", SERVICE, "--points", "20", "--rounds", "1", "--cache", "cache"), folder=tmp_path
    )
    assert f"{SERVICE}: " in found.stderr
    shown = run("services", "--services", SERVICE, "--random", "20", "--cache", "cache", folder=tmp_path)
    assert f"| {SERVICE} | judging | 10 |" in shown.stdout
    figure = run(
        *("figure", "12", "--services", SERVICE, "--methods", "sobol", "--seeds", "1", "--budget", "9"),
        *("--out", "results", "--cache", "cache"),
        folder=tmp_path,
    )
    assert "Figure 12" in figure.stdout
    hours = [float(line.split("|")[4]) for line in figure.stdout.splitlines() if line.startswith("| sobol p")]
    assert len(hours) == 4
    assert hours == sorted(hours, reverse=True)


def test_mistakes_are_told_in_a_line(tmp_path: Path) -> None:
    wrong = run("compare", "--methods", "sobl", "--out", "results", folder=tmp_path, code=2)
    assert "did you mean 'sobol'" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1
    assert "no runs" in run("table", "nowhere", "--cache", "cache", folder=tmp_path, code=2).stderr
