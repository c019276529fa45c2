"""`python -m scoot.simulator run`: what it reads, prints, writes and exits with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from scoot.benchmark.standalone.summary import SCHEMA, Summary
from scoot.simulator import stress as stresses
from scoot.simulator.command import cli
from scoot.simulator.replica import EngineDied, Replica, Step
from scoot.simulator.run_command import ENGINE_FAILED, ENGINE_FILE
from scoot.simulator.workload_file import read_workload
from scoot.wire.errors import UserError

_SERVICE = """
engine = "vllm-0.4.2"
model = "llama2-13b"
gpu = "a100"
devices = 2

[parameters]
max_num_seqs = 64
"""
_WORKLOAD = """
[workload]
profile = "CLS"
arrivals = {rate = 10}
duration_s = 5
warm_up_s = 1
seed = 7
"""
_STUDY = (
    """
name = "chat"
objectives = ["ttft_mean"]

[service]
engine = "simulated"
model = "llama2-7b"
devices = 1
options = {simulated_gpu = "a100"}
"""
    + _WORKLOAD
    + """
[limits]
min_requests = 1000

[parameters.max_num_seqs]
type = "int"
low = 1
high = 64
default = 32
"""
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "service.toml").write_text(_SERVICE)
    (tmp_path / "workload.toml").write_text(_WORKLOAD)
    (tmp_path / "study.toml").write_text(_STUDY)
    return tmp_path


def _run(folder: Path, *arguments: str, workload: str = "workload.toml", config: str | None = "service.toml") -> Result:
    named = [] if config is None else ["--config", str(folder / config)]
    return CliRunner().invoke(cli, ["run", "--workload", str(folder / workload), *named, *arguments])


def _summary(result: Result) -> Summary:
    return msgspec.json.decode(result.stdout, type=Summary)


def test_the_table_says_in_capitals_that_it_is_simulated(folder: Path) -> None:
    result = _run(folder)
    assert result.exit_code == 0, result.output
    first, second, *_ = result.stdout.splitlines()
    assert first == "SIMULATED, NOTHING WAS MEASURED: VLLM-0.4.2, LLAMA2-13B, 2 X A100"
    assert "s of virtual time in" in second
    assert "TTFT" in result.stdout
    assert "VALID" in result.stdout


def test_json_is_a_summary_like_that_of_a_real_test(folder: Path) -> None:
    result = _run(folder, "--json")
    summary = _summary(result)
    assert (result.exit_code, summary.state, summary.schema) == (0, "valid", SCHEMA)
    assert summary.metrics["requests"] == summary.metrics["completed"]
    assert summary.metrics["mean_ttft_ms"] is not None
    assert summary.metrics["max_lateness_ms"] == 0
    assert summary.seeds == (7,)
    assert summary.target.model == "llama2-13b"
    assert summary.runs[0].audit.clock == "virtual"
    assert summary.notes[0].startswith("SIMULATED in virtual time, nothing was measured: vllm-0.4.2 with llama2-13b")
    assert "built-in step times" in summary.notes[0]
    assert summary.notes[0].endswith("seed 7")
    assert not any("load generator's own" in note for note in summary.notes)


def test_the_same_seed_prints_the_same_figures(folder: Path) -> None:
    first, again, other = (_summary(_run(folder, "--json", "--seed", seed)) for seed in ("3", "3", "4"))
    assert first.metrics == again.metrics
    assert first.metrics != other.metrics
    assert first.workload.seed == 3


def test_several_runs_have_a_seed_each(folder: Path) -> None:
    summary = _summary(_run(folder, "--json", "--runs", "3"))
    assert summary.seeds == (7, 8, 9)
    assert [(run.run, run.seed) for run in summary.runs] == [(0, 7), (1, 8), (2, 9)]
    assert len({run.metrics["mean_ttft_ms"] for run in summary.runs}) == 3
    assert summary.spread is not None
    assert "seeds 7, 8, 9" in summary.notes[0]


def test_a_study_brings_its_own_service_and_limits(folder: Path) -> None:
    result = _run(folder, "--json", workload="study.toml", config=None)
    summary = _summary(result)
    assert result.exit_code == 3
    assert summary.state == "invalid"
    assert "TOO_FEW_REQUESTS" in summary.detail
    assert summary.target.model == "llama2-7b"
    assert "1 x a100" in summary.notes[0]


def test_a_service_file_goes_before_the_study_s(folder: Path) -> None:
    assert _summary(_run(folder, "--json", workload="study.toml")).target.model == "llama2-13b"


def test_a_folder_gets_the_summary_and_the_engine(folder: Path) -> None:
    out = folder / "out"
    result = _run(folder, "--out", str(out))
    assert result.exit_code == 0
    assert f"results: {out}" in result.stdout
    summary = msgspec.json.decode((out / "summary.json").read_bytes(), type=Summary)
    assert summary.valid
    engine = msgspec.json.decode((out / ENGINE_FILE).read_bytes())
    assert engine["effective"]["max_num_seqs"] == 64
    assert engine["scheduler"]["max_running"] == 64
    again = _run(folder, "--out", str(out))
    assert again.exit_code == 2
    assert "has results already" in again.stderr


def test_an_engine_that_does_not_start_is_an_outcome(folder: Path) -> None:
    (folder / "service.toml").write_text(_SERVICE + "max_num_batched_tokens = 16\n")
    result = _run(folder, "--json")
    summary = _summary(result)
    assert result.exit_code == ENGINE_FAILED == 4
    assert summary.state == "failed"
    assert summary.detail.startswith("ENGINE_REJECTED_ARGS: ")
    assert (summary.metrics, summary.runs) == ({}, ())
    assert any(note.startswith("the engine's log: ") for note in summary.notes)
    table = _run(folder)
    assert table.exit_code == ENGINE_FAILED
    assert "FAILED: ENGINE_REJECTED_ARGS" in table.stdout


def test_an_engine_that_dies_ends_the_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mortal(Replica):
        def begin(self, now_ns: int) -> Step | None:
            if now_ns > 3_000_000_000:
                raise EngineDied("torch.cuda.OutOfMemoryError: CUDA out of memory.", "the end")
            return super().begin(now_ns)

    monkeypatch.setattr(stresses, "Replica", Mortal)
    summary = _summary(_run(folder, "--json", "--runs", "3"))
    assert summary.state == "failed"
    assert summary.detail == "ENGINE_OOM: torch.cuda.OutOfMemoryError: CUDA out of memory."
    assert len(summary.runs) == 1
    assert summary.runs[0].failures
    assert "the engine's log: the end" in summary.notes


def test_without_a_service_there_is_nothing_to_simulate(folder: Path) -> None:
    result = _run(folder, config=None)
    assert result.exit_code == 2
    assert "--config" in result.stderr
    (folder / "study.toml").write_text(_STUDY.replace('"simulated"', '"vllm"').replace("simulated_gpu", "gpu"))
    assert _run(folder, workload="study.toml", config=None).exit_code == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[workload]\nprofile = 3\n", "workload.toml:2: workload.profile"),
        ("[workload\n", "not valid TOML"),
        ("", "the table 'workload' is missing"),
        ('[workload]\nprofile = "BOT"\nrate = 3\n', "workload.toml:3: workload.rate"),
        ('[workload]\nprofile = "BOT"\n', "workload.arrivals.rate"),
        ('[workload]\nprofile = "BOB"\narrivals = {rate = 1}\n', "BOB"),
        ('[workload]\ntrace = "no.csv"\narrivals = {rate = 1}\n', "there is no such trace file"),
        ('[workload]\nprofile = "BOT"\narrivals = {rate = 1e6}\nduration_s = 80000\n', "too many|over the limit"),
    ],
)
def test_a_wrong_workload_is_named(folder: Path, text: str, expected: str) -> None:
    (folder / "workload.toml").write_text(text)
    result = _run(folder)
    assert result.exit_code == 2
    assert any(each in result.stderr for each in expected.split("|")), result.stderr
    assert "Traceback" not in result.stderr


def test_files_that_are_none_are_named(folder: Path) -> None:
    (folder / "binary.toml").write_bytes(b"\xff\xfe")
    for name in ("missing.toml", "binary.toml", "."):
        result = _run(folder, workload=name)
        assert result.exit_code == 2
        assert "--workload" in result.stderr
    (folder / "huge.toml").write_text("#" * (1 << 20) + "#")
    assert "larger" in _run(folder, workload="huge.toml").stderr


def test_a_trace_is_relative_to_its_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"timestamp": 100 * at, "input_length": 20, "output_length": 5, "hash_ids": [at]} for at in range(40)]
    (folder / "trace.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(rows))
    (folder / "workload.toml").write_text(
        '[workload]\ntrace = "trace.jsonl"\narrivals = {process = "trace"}\nduration_s = 3\nwarm_up_s = 0\n'
    )
    monkeypatch.chdir("/")
    summary = _summary(_run(folder, "--json"))
    assert summary.metrics["requests"] == 30
    assert summary.facts.input_max == 20


def test_requests_are_clipped_to_what_the_engine_serves(folder: Path) -> None:
    (folder / "service.toml").write_text(_SERVICE + "max_model_len = 600\n")
    summary = _summary(_run(folder, "--json"))
    assert summary.metrics["failed"] == 0
    assert any("max_model_len 600" in note for note in summary.facts.notes)


def test_only_a_simulated_study_has_a_service(folder: Path) -> None:
    assert read_workload(str(folder / "workload.toml")).service is None
    study = read_workload(str(folder / "study.toml"), seed=11)
    assert study.service is not None
    assert [parameter.name for parameter in study.parameters] == ["max_num_seqs"]
    assert study.workload.seed == 11


def test_errors_of_rows_name_the_file(folder: Path) -> None:
    (folder / "workload.toml").write_text(_WORKLOAD.replace("CLS", "BOB"))
    with pytest.raises(UserError, match=r"workload\.toml:3: workload\.profile"):
        read_workload(str(folder / "workload.toml")).rows(None)


def test_help_names_the_exit_codes() -> None:
    result = CliRunner().invoke(cli, ["run", "--help"])
    assert result.exit_code == 0
    assert "4  the simulated engine does not start" in result.output


def test_another_command_is_none() -> None:
    result = CliRunner().invoke(cli, ["walk"])
    assert result.exit_code == 2


def test_running_loads_nothing_heavy(folder: Path) -> None:
    code = (
        "import sys\n"
        "from scoot.simulator.command import cli\n"
        f"cli(['run', '--config', {str(folder / 'service.toml')!r}, '--workload', {str(folder / 'workload.toml')!r}],"
        " standalone_mode=False)\n"
        "heavy = {'torch', 'scipy', 'sklearn', 'pandas', 'grpc', 'pyarrow', 'uvloop'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
