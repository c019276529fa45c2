"""Whole studies in which a parameter is the client's: the load changes with it, and no engine sees it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

STUDY = """\
name = "small"
objectives = ["ttft_mean", "output_token_throughput"]
[service]
engine = "{engine}"
model = "{model}"
device = "cpu"
max_model_len = 2048
[workload]
profile = "AZURE_CONV"
length_scale = 0.03
arrivals = {arrivals}
warm_up_s = 0.2
duration_s = 1.5
request_timeout_s = 20
drain_s = 20
[parameters.max_num_seqs]
type = "int"
low = 4
high = 256
scale = "pow2"
[parameters.{name}]
type = "int"
low = {low}
high = {high}
[optimizer]
method = "sobol"
[budget]
trials = 4
[confirm]
arrival_orders = 0
[limits]
lateness_p99_ms = 5000
client_cpu_share = 1.0
clock_step_ms = 100000
run_queue_share = 0
achieved_share = 0
merged_share = 0
other_cpu_share = 0
min_requests = 5
"""


async def tuned(folder: Path, *options: str, **fields: Any) -> tuple[dict[str, Any], str]:
    """results.json and report.md of a study."""
    path = folder / "study.toml"
    path.write_text(STUDY.format(**fields))
    changes = [word for option in options for word in ("--set", option)]
    program = "from scoot.cli.main import main; main()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, "tune", str(path), "--data", str(folder / "run"), *changes),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    results: dict[str, Any] = json.loads((folder / "run" / "results.json").read_text())
    return results, (folder / "run" / "report.md").read_text()


@pytest.mark.timeout(180)
async def test_admission_is_tuned_with_the_engine(tmp_path: Path) -> None:
    fields = {"engine": "mock", "model": f"mock of {tmp_path}", "name": "max_in_flight", "low": 1, "high": 3}
    arrivals = '{process = "constant", rate = 60, max_in_flight = 2}'
    results, report = await tuned(tmp_path, **fields, arrivals=arrivals)
    trials = results["trials"]
    assert [trial["state"] for trial in trials] == ["SUCCEEDED"] * 4
    assert (trials[0]["config"], trials[0]["effective_config"]["max_in_flight"]) == ({}, 2)
    for trial in trials[1:]:
        assert trial["effective_config"]["max_in_flight"] == trial["config"]["max_in_flight"]
    assert len({trial["effective_config"]["max_in_flight"] for trial in trials}) > 1
    waits = {}
    for trial in trials:
        assert not [word for word in trial["command"] if "flight" in word]
        run = trial["runs"][0]
        assert run["validity"]["valid"]
        waited = run["metrics"]["admission_ms"]
        waits[trial["effective_config"]["max_in_flight"]] = waited["mean"] if waited else 0.0
        if waited:
            assert run["metrics"]["ttft_ms"]["mean"] > waited["mean"]
    assert waits[2] > 0
    assert "at most 2 in flight" in report
    best = trials[results["best"]["trial"]]
    if "max_in_flight" in best["config"]:
        assert f"# client: max_in_flight={best['config']['max_in_flight']}" in report


@pytest.mark.timeout(180)
async def test_the_users_of_a_closed_loop_are_tuned_with_a_simulated_engine(tmp_path: Path) -> None:
    results, _ = await tuned(
        tmp_path,
        "service.options.simulated_start_scale=0",
        'service.options.simulated_gpu="h200"',
        engine="simulated",
        model="llama2-7b",
        arrivals='{process = "closed", users = 4}',
        name="users",
        low=1,
        high=16,
    )
    trials = results["trials"]
    assert [trial["state"] for trial in trials] == ["SUCCEEDED"] * 4
    assert trials[0]["effective_config"]["users"] == 4
    users = [trial["effective_config"]["users"] for trial in trials]
    assert users[1:] == [trial["config"]["users"] for trial in trials[1:]]
    # In the measured window, each user sends again when it was answered: more users, more requests.
    sent = [trial["runs"][0]["metrics"]["sent"] for trial in trials]
    fewest, most = users.index(min(users)), users.index(max(users))
    assert sent[fewest] < sent[most]
