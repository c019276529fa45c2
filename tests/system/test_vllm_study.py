"""A whole study on real vLLM (CPU build): what the default resolves to, and a hidden constraint with its cause."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import psutil
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


@pytest.fixture
def vllm_python() -> str:
    python = os.environ.get("SCOOT_VLLM_PYTHON", "")
    if not python:
        pytest.skip("SCOOT_VLLM_PYTHON is not set: `make test` sets vLLM up where its CPU wheel exists")
    return python


def run(folder: pathlib.Path, vllm_python: str) -> dict[str, Any]:
    """Tune block_size alone over {16, 32} and return results.json."""
    subprocess.run([vllm_python, ROOT / "tools" / "make_tiny_model.py", folder / "tiny"], check=True, timeout=120)
    study = folder / "study.toml"
    text = (ROOT / "examples" / "vllm-tiny.toml").read_text()
    head, _, rest = text.partition("[parameters.max_num_seqs]")
    budget = rest[rest.index("[budget]") :]
    study.write_text(f'{head}[parameters.block_size]\ntype = "int"\nchoices = [16, 32]\n\n{budget}')
    overrides = {
        "service.model": f"{folder / 'tiny'}",
        "constraints": "[]",
        "engine_constraints": "false",
        "workload.arrivals.rate": "8",
        "workload.warm_up_s": "2",
        "workload.duration_s": "6",
        "budget.trials": "3",
        "confirm.arrival_orders": "0",
        "limits.lateness_p99_ms": "2000",
        "limits.other_cpu_share": "0",
    }
    argv = [str(pathlib.Path(sys.executable).with_name("scootctl")), "tune", str(study), "--data", str(folder / "run")]
    argv += ["--engine", f"vllm={vllm_python}"]
    for key, value in overrides.items():
        argv += ["--set", f"{key}={value}"]
    done = subprocess.run(argv, check=False, timeout=800, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results: dict[str, Any] = json.loads((folder / "run" / "results.json").read_text())
    return results


def test_block_sizes_that_crash_come_back_with_the_root_cause(tmp_path: pathlib.Path, vllm_python: str) -> None:
    results = run(tmp_path, vllm_python)
    default, *others = results["trials"]
    assert default["state"] == "SUCCEEDED"
    assert default["config"] == {}
    assert default["effective_config"]["block_size"] == 128
    assert default["effective_config"]["max_num_seqs"] == 128
    by_size = {trial["config"]["block_size"]: trial for trial in others}
    crashed, fine = by_size[16], by_size[32]
    assert (crashed["state"], crashed["reason"], crashed["blame"]) == (
        "INFEASIBLE",
        "ENGINE_EXITED_ON_START",
        "CONFIG",
    )
    assert "No common block size for 16" in crashed["message"]
    assert "initialization failed" not in crashed["message"]
    assert fine["state"] == "SUCCEEDED"
    assert fine["effective_config"]["block_size"] == 32
    metrics = fine["runs"][0]["metrics"]
    assert metrics["completed"] == metrics["sent"] >= 20
    assert metrics["ttft_ms"]["mean"] > 0
    assert metrics["tpot_ms"]["mean"] > 0
    assert all(str(tmp_path) not in " ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"]))
