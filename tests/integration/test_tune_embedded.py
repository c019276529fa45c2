"""`scootctl tune` for real: its own coordinator and agent, the mock engine, and nothing left afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

STUDY = """\
name = "small"
objectives = ["ttft_mean", "tpot_mean"]
[service]
engine = "mock"
model = "any"
device = "cpu"
max_model_len = 2048
[workload]
profile = "AZURE_CONV"
length_scale = 0.03
arrivals = {process = "constant", rate = 20}
warm_up_s = 0.2
duration_s = 1.5
request_timeout_s = 20
drain_s = 20
[parameters.max_num_seqs]
type = "int"
low = 4
high = 256
scale = "pow2"
[budget]
trials = 3
parallelism = 1
[confirm]
arrival_orders = 0
[limits]
lateness_p99_ms = 5000
other_cpu_share = 0
client_cpu_share = 1.0
clock_step_ms = 100000
min_requests = 5
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY.replace('"any"', f'"mock of {tmp_path}"'))
    return path


async def start(mark: Path, *arguments: str) -> asyncio.subprocess.Process:
    """scootctl, with a mark in its environment that its daemons and their wardens inherit."""
    program = "from scoot.cli.main import main; main()"
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, "tune", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "SCOOT_TEST_MARK": str(mark)},
    )


async def finish(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    out, _ = await asyncio.wait_for(process.communicate(), 100)
    return process.returncode, out.decode()


async def read_until(process: asyncio.subprocess.Process, fragment: str) -> str:
    assert process.stdout is not None
    text = ""
    while fragment not in text:
        line = await asyncio.wait_for(process.stdout.readline(), 100)
        assert line, f"it ended before {fragment!r}:\n{text}"
        text += line.decode()
    return text


def left_of(mark: Path) -> list[str]:
    """Processes of a test that still run: known by its folder in their environment or, engines, in the model's name."""
    return [line for _, line, environment in processes() if str(mark) in line or str(mark) in environment]


def processes() -> list[tuple[int, str, str]]:
    """(pid, command line, environment) of every process but this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            texts = [(entry / name).read_bytes().replace(b"\0", b" ").decode() for name in ("cmdline", "environ")]
        except OSError:
            continue
        found.append((int(entry.name), texts[0], texts[1]))
    return found


@pytest.mark.timeout(120)
async def test_a_study_from_start_to_report_and_its_resumption(study: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, out = await finish(await start(tmp_path, str(study), "--data", str(run)))
    assert code == 0, out
    assert out.count(" SUCCEEDED in ") == 3
    assert "study COMPLETED" in out
    assert "Best configuration: trial " in out
    results = json.loads((run / "results.json").read_text())
    assert len(results["trials"]) == 3
    assert (run / "report.md").stat().st_size > 0
    assert "<html" in (run / "report.html").read_text()
    assert left_of(tmp_path) == []

    code, again = await finish(await start(tmp_path, "--resume", str(run)))
    assert code == 0, again
    assert again.count(" SUCCEEDED in ") == 3
    assert " started on " not in again, "nothing is run twice"

    code, refused = await finish(await start(tmp_path, str(study), "--data", str(run)))
    assert (code, "holds a study already" in refused) == (2, True)


@pytest.mark.timeout(120)
async def test_ctrl_c_cancels_and_a_second_one_kills(study: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = await start(tmp_path, str(study), "--data", str(run), "--set", "workload.duration_s=60")
    await read_until(process, "trial 0 (default) started")
    assert len(left_of(tmp_path)) >= 3, "the check sees scootctl, coordinator and agent"
    process.send_signal(signal.SIGINT)
    code, out = await finish(process)
    assert code == 4, out
    assert "cancelling the study" in out
    assert "study CANCELLED" in out
    assert (run / "results.json").exists()
    assert left_of(tmp_path) == []

    # The mock takes its time to stop here, so that the second signal finds the first one at work.
    run = tmp_path / "killed"
    slow = ["--set", "workload.duration_s=60", "--set", "service.options.mock_stop_delay_s=60.0"]
    process = await start(tmp_path, str(study), "--data", str(run), *slow)
    await read_until(process, "trial 0 (default) started")
    process.send_signal(signal.SIGINT)
    await read_until(process, "cancelling the study")
    process.send_signal(signal.SIGINT)
    code, out = await finish(process)
    assert code == 130, out
    assert "killed; what was measured is kept" in out
    assert left_of(tmp_path) == []


@pytest.mark.timeout(120)
async def test_a_dead_agent_is_told_and_the_study_goes_on_where_it_was(study: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = await start(tmp_path, str(study), "--data", str(run))
    before = await read_until(process, "trial 1 (auto) started")
    agent = next(pid for pid, line, _ in processes() if f"scoot.agent --config {run}" in line)
    os.kill(agent, signal.SIGKILL)
    code, out = await finish(process)
    assert code == 1, out
    assert "the agent was killed by signal 9" in out
    assert f"hint: go on with: scootctl tune --resume {run}" in out
    assert left_of(tmp_path) == []

    code, out = await finish(await start(tmp_path, "--resume", str(run)))
    assert code == 0, out
    assert before.count("trial 0 (default) SUCCEEDED") == 1
    assert "trial 0 (default) started" not in out, "what was completed is kept"
    assert len(json.loads((run / "results.json").read_text())["trials"]) == 3


async def test_an_engine_that_does_not_work_is_named_with_its_reason(study: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    run = tmp_path / "run"
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'no module named vllm' >&2\nexit 1\n")
    python.chmod(0o755)
    arguments = ["--set", "service.engine=vllm", "--set", f"service.model={model}", "--engine", f"vllm={python}"]
    code, out = await finish(await start(tmp_path, str(study), "--data", str(run), *arguments))
    assert code == 2, out
    assert f"error: service.engine: the engine 'vllm' ({python}) does not work" in out
    assert "no module named vllm" in out
    assert left_of(tmp_path) == []
