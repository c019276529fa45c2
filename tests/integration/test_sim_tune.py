"""`scootctl tune` of the example that `make tune` runs, cut short: everything is there but a real engine."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "simulated-chat.toml"
SHORT = (
    *("budget.trials=2", "confirm.arrival_orders=0", "workload.warm_up_s=0.2", "workload.duration_s=2"),
    *("workload.length_scale=0.05", "service.options.simulated_start_scale=0", "limits.lateness_p99_ms=5000"),
    *(
        "limits.client_cpu_share=1.0",
        "limits.clock_step_ms=100000",
        "limits.run_queue_share=0",
        "limits.other_cpu_share=0",
        "limits.min_requests=5",
    ),
)


@pytest.mark.timeout(120)
async def test_the_example_runs_and_says_that_it_is_simulated(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    changes = [word for change in SHORT for word in ("--set", change)]
    program = "from scoot.cli.main import main; main()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, "tune", str(EXAMPLE), "--data", str(folder), *changes),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    text = out.decode()
    assert process.returncode == 0, text
    assert "*** SIMULATED ENGINE ***\nllama2-13b on 2 x A100 (nvlink), engine generation vllm-0.32." in text
    results = json.loads((folder / "results.json").read_text())
    assert (results["engine"]["name"], results["counts"]["succeeded"]) == ("simulated", 2)
    default = results["trials"][0]
    assert default["effective_config"]["block_size"] == 16
    # Two replicas of one GPU: a decode step of this model cannot be shorter than 13 ms.
    assert default["runs"][0]["metrics"]["tpot_ms"]["mean"] > 13
    assert (folder / "report.md").read_text().startswith("# SIMULATED ENGINE")
    assert '<p class="banner"' in (folder / "report.html").read_text()
