"""The import contracts hold, and each of them fires when it is broken."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOTS = ("proto", "coordinator", "agent", "benchmark")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]

RUN = """
import sys
sys.path[:0] = sys.argv[1:-1]
from importlinter.cli import lint_imports
sys.exit(lint_imports(config_filename=sys.argv[-1], cache_dir=None))
"""


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter over a copy of the tree. -S keeps the installed SCOOT out of sys.path."""
    site = sysconfig.get_paths()["purelib"]
    paths = [*(str(tree / root) for root in ROOTS), site]
    return subprocess.run(
        [sys.executable, "-S", "-c", RUN, *paths, str(tree / "pyproject.toml")],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    for root in ROOTS:
        shutil.copytree(ROOT / root, tree / root, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree / "pyproject.toml")
    return tree


def test_contracts_hold(copy: Path) -> None:
    result = lint(copy)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken" in result.stdout


OFFENCES = {
    "roots": [
        ("agent/scoot/agent/offence.py", "import scoot.coordinator.study.state"),
        ("coordinator/scoot/coordinator/rpc/offence.py", "import scoot.agent.config"),
        ("coordinator/scoot/coordinator/rpc/offence.py", "import scoot.cli.main"),
        ("coordinator/scoot/cli/offence.py", "import scoot.coordinator.study.state"),
        ("coordinator/scoot/cli/offence.py", "import scoot.coordinator.space.space"),
        ("benchmark/scoot/benchmark/offence.py", "import scoot.agent.config"),
        ("benchmark/scoot/benchmark/offence.py", "import scoot.simulator.shapes"),
        ("benchmark/scoot/simulator/offence.py", "import scoot.agent.config"),
        ("benchmark/scoot/simulator/offence.py", "import scoot.experiments.scores"),
        ("proto/scoot/wire/offence.py", "import scoot.benchmark.plan"),
        ("proto/scoot/v1/offence.py", "import scoot.wire.limits"),
    ],
    "coordinator": [
        ("coordinator/scoot/coordinator/rpc/offence.py", "import scoot.coordinator.runtime.kernel"),
        ("coordinator/scoot/coordinator/store/offence.py", "import scoot.coordinator.solver.pool"),
        ("coordinator/scoot/coordinator/study/offence.py", "import scoot.coordinator.report.build"),
        ("coordinator/scoot/coordinator/study/offence.py", "import scoot.coordinator.store.base"),
        ("coordinator/scoot/coordinator/objective/offence.py", "import scoot.coordinator.optimizer.base"),
        ("coordinator/scoot/coordinator/space/offence.py", "import scoot.coordinator.objective.metric"),
        ("coordinator/scoot/coordinator/runtime/offence.py", "import scoot.coordinator.daemon"),
        ("coordinator/scoot/coordinator/unlisted/offence.py", ""),
    ],
    "pure": [
        ("coordinator/scoot/coordinator/study/offence.py", "def f():\n    import asyncio"),
        ("coordinator/scoot/coordinator/space/offence.py", "import random"),
        ("coordinator/scoot/coordinator/objective/offence.py", "import time"),
        ("coordinator/scoot/coordinator/report/offence.py", "import threading"),
        ("coordinator/scoot/coordinator/optimizer/offence.py", "import multiprocessing"),
        ("agent/scoot/agent/core/offence.py", "import scoot.agent.host.ports"),
        ("proto/scoot/wire/offence.py", "import scoot.v1.trial_pb2"),
        ("benchmark/scoot/benchmark/metrics.py", "import scoot.benchmark.clock"),
        ("benchmark/scoot/simulator/replica.py", "import random"),
    ],
    "torch": [
        ("coordinator/scoot/coordinator/study/offence.py", "import sklearn"),
        ("agent/scoot/agent/offence.py", "import torch"),
        ("coordinator/scoot/cli/offence.py", "import botorch.models"),
    ],
    "sql": [
        ("coordinator/scoot/coordinator/runtime/offence.py", "import sqlite3"),
        ("agent/scoot/agent/offence.py", "import psycopg"),
    ],
    "grpc": [
        ("coordinator/scoot/coordinator/store/offence.py", "import grpc"),
        ("coordinator/scoot/coordinator/runtime/offence.py", "import scoot.v1.trial_pb2"),
        ("agent/scoot/agent/host/offence.py", "import grpc.aio"),
        ("coordinator/scoot/cli/offence.py", "import scoot.v1.trial_pb2"),
    ],
    "spawn": [
        ("agent/scoot/agent/engines/offence.py", "import subprocess"),
        ("coordinator/scoot/coordinator/solver/offence.py", "import multiprocessing"),
        ("coordinator/scoot/coordinator/runtime/offence.py", "import subprocess"),
    ],
}


def test_every_contract_has_an_offence() -> None:
    assert set(OFFENCES) == {contract["id"] for contract in CONTRACTS}


@pytest.mark.parametrize(
    ("contract", "path", "code"), [(contract, *case) for contract, cases in OFFENCES.items() for case in cases]
)
def test_contract_fires(copy: Path, contract: str, path: str, code: str) -> None:
    offender = copy / path
    before = offender.read_text(encoding="utf-8") if offender.exists() else None
    offender.parent.mkdir(exist_ok=True)
    try:
        offender.write_text((before or "") + f"\n{code}\n", encoding="utf-8")
        result = lint(copy)
    finally:
        if before is None:
            offender.unlink()
            if not any(offender.parent.iterdir()):
                offender.parent.rmdir()
        else:
            offender.write_text(before, encoding="utf-8")
    assert result.returncode == 1, result.stdout + result.stderr
    name = next(c["name"] for c in CONTRACTS if c["id"] == contract)
    report = " ".join(result.stdout.split("Broken contracts", 1)[1].split())
    assert name in report
    assert (Path(path).stem in report) == bool(code), report
