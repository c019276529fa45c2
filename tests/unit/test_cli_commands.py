"""scootctl's command line without a coordinator: usage, bad input, validate, the set-up of an embedded run."""

from __future__ import annotations

import gzip
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from scoot.cli import children, files
from scoot.cli.agent_file import agent_toml, check_model, engines_of, slots_of
from scoot.cli.exits import MEANING, ChildDiedError, CoordinatorUnreachableError, Exit
from scoot.cli.main import cli, exit_code
from scoot.cli.resolve import resolve_study
from scoot.cli.run_folder import RunFolder, RunRecord, new_folder
from scoot.wire.errors import PermanentInfraError, UserError
from scoot.wire.view import Report

STUDY = """\
name = "chat"
objectives = ["ttft_mean", "tpot_mean"]
constraints = ["max_num_batched_tokens >= max_num_seqs"]

[service]
engine = "mock"
model = "tiny"
device = "cpu"

[workload]
profile = "BOT"
arrivals = {rate = 20}
duration_s = 5
warm_up_s = 1

[parameters.max_num_seqs]
type = "int"
low = 8
high = 256

[parameters.max_num_batched_tokens]
type = "int"
low = 256
high = 8192
scale = "pow2"

[budget]
trials = 4
parallelism = 3
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


def call(*arguments: str, env: dict[str, str | None] | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, env=env)


def test_help_lists_every_command_and_exit_code() -> None:
    text = call("--help").output
    for name in [
        "tune",
        "submit",
        "list",
        "status",
        "watch",
        "cancel",
        "results",
        "report",
        "why",
        "agents",
        "validate",
        "doctor",
    ]:
        assert f"\n  {name} " in text
    for code, meaning in MEANING.items():
        assert f"{code.value}  {meaning}" in text


def test_the_page_documents_every_command_option_and_exit_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "scootctl.md").read_text()
    for name, command in cli.commands.items():
        assert f"scootctl {name}" in page
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert all(f"`{option}" in page for option in parameter.opts if option.startswith("--")), parameter.opts
    for code in Exit:
        assert f"| {code.value} |" in page


def test_validate_prints_the_resolved_study(study: Path) -> None:
    result = call("validate", str(study))
    assert result.exit_code == 0, result.output
    for fragment in (
        "space        1,494 configurations",
        "objective    minimise ttft_mean [ms]",
        "constraint   max_num_batched_tokens >= max_num_seqs",
        "profile BOT",
        "selection longest_half",
    ):
        assert fragment in result.output


def test_validate_as_json_is_the_specification(study: Path) -> None:
    result = call("validate", str(study), "--json", "--set", "budget.trials=7")
    told = json.loads(result.output)
    assert told["study"]["budget"]["trials"] == 7
    assert told["study"]["workload_facts"]["requests"] > 0
    assert told["space_size"]["count"] == 1494
    assert told["objectives"][0] == {"metric": "ttft_mean", "direction": "minimise", "unit": "ms"}


BAD: list[tuple[str, str, tuple[str, ...]]] = [
    ("trials = 4", "trails = 4", ("study.toml:28: budget.trails: unknown key", "did you mean 'trials'?")),
    ("trials = 4", "trials = '4'", ("study.toml:28: budget.trials: expected an integer, not '4'",)),
    ("low = 8\n", "low = 800\n", ("study.toml:18: parameters.max_num_seqs.low: 800", "above high", "hint:")),
    ("high = 256\n", "high = 256\ndefault = 257\n", ("study.toml:20: parameters.max_num_seqs.default", "hint: widen")),
    (
        "tokens >= max_num_seqs",
        "tokens < 8",
        ("study.toml:3: constraints[0]", "the search space is empty", "hint: loosen"),
    ),
    ("tokens >= max_num_seqs", "tokens >= max_num_seq", ("study.toml:3: constraints[0]", "max_num_seq")),
    (
        'profile = "BOT"',
        'trace = "no.csv"',
        ("study.toml:11: workload.trace: there is no trace file", "no.csv", "hint:"),
    ),
    ('profile = "BOT"', 'profile = "BOTT"', ("study.toml:11: workload.profile", "did you mean BOT?")),
    ("rate = 20", 'process = "trace"', ("study.toml:12: workload.arrivals", "no arrival times")),
    (
        '"ttft_mean"',
        '"ttft_men"',
        ("study.toml:2: objectives[0]", "unknown metric 'ttft_men'", "did you mean 'ttft_mean'"),
    ),
    ("[budget]", "[optimizer]\nmethod = 'sobl'\n[budget]", ("study.toml:28: optimizer.method", "did you mean 'sobol'")),
]


@pytest.mark.parametrize(("old", "new", "fragments"), BAD, ids=[new for _, new, _ in BAD])
def test_bad_studies_are_refused_with_file_line_key_and_remedy(
    study: Path, old: str, new: str, fragments: tuple[str, ...]
) -> None:
    study.write_text(STUDY.replace(old, new))
    for command in ("validate", "submit", "tune"):
        result = call(command, str(study))
        assert result.exit_code == Exit.USAGE
        assert result.stdout == ""
        assert result.stderr.startswith("error: ")
        assert all(fragment in result.stderr for fragment in fragments), result.stderr
    assert list(study.parent.iterdir()) == [study], "nothing was written"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"input_tokens": 5, "output_tokens": 7}\n{"input_tokens": NaN, "output_tokens": 7}\n', ":2"),
        ('{"input_tokens": -5, "output_tokens": 7}\n', ":1"),
        ("not a trace\n", "trace"),
    ],
)
def test_a_bad_trace_is_named_with_its_own_line(study: Path, rows: str, message: str) -> None:
    trace = study.parent / "t.jsonl"
    trace.write_text(rows)
    study.write_text(STUDY.replace('profile = "BOT"', 'trace = "t.jsonl"'))
    result = call("validate", str(study))
    assert result.exit_code == Exit.USAGE
    assert f"{trace}{message}" in result.stderr or message in result.stderr
    assert str(trace) in result.stderr


def test_paths_in_the_file_are_relative_to_it_and_in_set_to_the_current_folder(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = b'{"input_tokens": 5, "output_tokens": 7}\n' * 3
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(rows))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "u.jsonl").write_bytes(rows)
    monkeypatch.chdir(elsewhere)
    study.write_text(
        STUDY.replace('profile = "BOT"', 'trace = "t.jsonl.gz"').replace('model = "tiny"', 'model = "./models/x"')
    )
    spec = resolve_study(study).spec
    assert spec.workload.trace == str(tmp_path / "t.jsonl.gz")
    assert spec.service.model == str(tmp_path / "models" / "x")
    spec = resolve_study(study, ["workload.trace=u.jsonl", "service.model=./m"]).spec
    assert spec.workload.trace == str(elsewhere / "u.jsonl")
    assert spec.service.model == str(elsewhere / "m")
    assert resolve_study(study, ["service.model=plain"]).spec.service.model == "plain"


def test_an_error_in_an_override_names_the_option(study: Path) -> None:
    result = call("validate", str(study), "--set", "constraints=['max_num_seqs < 0']")
    assert "error: --set: constraints[0]" in result.stderr
    assert call("validate", str(study), "--set", "workload.trace=nope").stderr.startswith(
        "error: --set: workload.trace"
    )


def test_a_missing_unreadable_or_binary_file_is_named(tmp_path: Path) -> None:
    missing = call("validate", str(tmp_path / "no.toml"))
    assert (missing.exit_code, "no.toml: cannot be read: No such file" in missing.stderr) == (2, True)
    binary = tmp_path / "b.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8" in call("validate", str(binary)).stderr
    assert "cannot be read" in call("validate", str(tmp_path)).stderr


def test_an_unreachable_coordinator_has_its_own_exit_code(study: Path) -> None:
    # Port 1 on loopback: nothing listens there, and the refusal is immediate.
    for command in (["list"], ["status", "x"], ["cancel", "x"], ["results", "x"], ["agents"], ["submit", str(study)]):
        result = call(*command, "--coordinator", "127.0.0.1:1")
        assert result.exit_code == Exit.UNREACHABLE, result.output
        assert "127.0.0.1:1" in result.stderr
        assert "hint: start scoot-coordinator" in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--coordinator", "10.0.0.1:7070"], "plaintext is for loopback only"),
        (["--coordinator", "nowhere"], "is not an address"),
        (["--ca", "x"], "needs all three"),
        (["--ca", "x", "--cert", "x", "--key", "x"], "x: --ca: cannot be read"),
    ],
)
def test_connections_that_cannot_be_made_are_refused(arguments: list[str], message: str) -> None:
    result = call("list", *arguments)
    assert result.exit_code == Exit.USAGE
    assert message in result.stderr


def test_files_that_are_no_pem_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pem"
    path.write_text("no certificate")
    result = call("list", "--ca", str(path), "--cert", str(path), "--key", str(path))
    assert (result.exit_code, "is not a PEM file" in result.stderr) == (2, True)


def test_the_address_may_come_from_the_environment() -> None:
    result = call("list", env={"SCOOT_COORDINATOR": "127.0.0.1:2"})
    assert (result.exit_code, "127.0.0.1:2" in result.stderr) == (Exit.UNREACHABLE, True)


def test_debug_shows_the_traceback(study: Path) -> None:
    result = call("--debug", "validate", str(study), "--set", "nme=3")
    assert isinstance(result.exception, UserError)


def test_exit_codes_of_errors() -> None:
    assert exit_code(UserError("x")) is Exit.USAGE
    assert exit_code(CoordinatorUnreachableError("x")) is Exit.UNREACHABLE
    assert exit_code(ChildDiedError("x")) is Exit.FAILED
    assert exit_code(PermanentInfraError("x")) is Exit.FAILED


def test_tune_wants_a_study_or_a_folder(study: Path, tmp_path: Path) -> None:
    assert "give either STUDY or --resume" in call("tune").stderr
    assert "give either STUDY or --resume" in call("tune", str(study), "--resume", str(tmp_path)).stderr
    assert "takes the study as it was" in call("tune", "--resume", str(tmp_path), "--slots", "2").stderr
    missing = call("tune", "--resume", str(tmp_path / "no"))
    assert (missing.exit_code, "there is no such folder" in missing.stderr) == (2, True)
    empty = call("tune", "--resume", str(tmp_path))
    assert (empty.exit_code, "holds no study to resume" in empty.stderr) == (2, True)


def test_tune_refuses_an_engine_it_cannot_start_before_it_writes(study: Path) -> None:
    study.write_text(STUDY.replace('"mock"', '"vllm"'))
    result = call("tune", str(study), "--data", str(study.parent / "run"), env={"SCOOT_VLLM_PYTHON": None})
    assert result.exit_code == Exit.USAGE
    assert "study.toml:7: service.model: there is no model tiny" in result.stderr
    model = study.parent / "model"
    model.mkdir()
    result = call("tune", str(study), "--set", f"service.model={model}", env={"SCOOT_VLLM_PYTHON": None})
    assert "study.toml:6: service.engine: no interpreter is known for the engine 'vllm'" in result.stderr
    assert "SCOOT_VLLM_PYTHON" in result.stderr
    result = call("tune", str(study), "--set", f"service.model={model}", "--engine", "vllm=/nonexistent/python")
    assert "/nonexistent/python: --engine vllm: is not an executable" in result.stderr
    assert sorted(path.name for path in study.parent.iterdir()) == ["model", "study.toml"]


def record(study: Path) -> tuple[RunRecord, bytes]:
    resolved = resolve_study(study)
    return RunRecord(idempotency_key="k", spec=resolved.spec, engines={"mock": "/p"}, slots=3), resolved.blob


def test_a_run_folder_keeps_what_resuming_needs(study: Path, tmp_path: Path) -> None:
    made, blob = record(study)
    with RunFolder(tmp_path / "run") as folder:
        folder.create(made, blob)
        assert folder.load() == (made, blob)
        with pytest.raises(UserError, match="holds a study already") as caught:
            folder.create(made, blob)
        assert "--resume" in caught.value.hint
        with pytest.raises(UserError, match="another scootctl is using"), RunFolder(tmp_path / "run"):
            pass
    with RunFolder(tmp_path / "run") as again:
        again.blob_path.write_bytes(b"other")
        with pytest.raises(UserError, match="not the one the study was submitted with"):
            again.load()
        again.record_path.write_text("{")
        with pytest.raises(UserError, match="cannot be read"):
            again.load()


def test_a_used_run_folder_is_refused_by_tune(study: Path, tmp_path: Path) -> None:
    made, blob = record(study)
    with RunFolder(tmp_path / "run") as folder:
        folder.create(made, blob)
    result = call("tune", str(study), "--data", str(tmp_path / "run"))
    assert (result.exit_code, "hint: scootctl tune --resume" in result.stderr) == (2, True)


def test_new_run_folders_have_free_names(tmp_path: Path) -> None:
    assert new_folder("a b.c", tmp_path).name == "tune-a-b-c-1"
    (tmp_path / "tune-a-b-c-1").mkdir()
    assert new_folder("a b.c", tmp_path).name == "tune-a-b-c-2"


def test_the_embedded_agent_gets_what_the_study_needs(study: Path, tmp_path: Path) -> None:
    spec = resolve_study(study, ["service.options.enforce_eager=true", "service.env.A=1", "service.model=/m/tiny"]).spec
    text = agent_toml(
        spec,
        agent_id="local",
        data_dir=tmp_path / 'a "quoted" folder',
        coordinator="127.0.0.1:5",
        engines={"mock": sys.executable},
        slots=slots_of(spec),
        allow=["middleware"],
    )
    told: dict[str, Any] = tomllib.loads(text)
    assert told["agent"] == {
        "id": "local",
        "data_dir": str(tmp_path / 'a "quoted" folder'),
        "coordinator": "127.0.0.1:5",
        "model_roots": ["/m"],
        "reserve_memory_gib": 0.25,
        "cpu_slots": 3,
    }
    assert told["engines"]["mock"] == {
        "kind": "mock",
        "python": sys.executable,
        "allow_options": ["middleware"],
        "allow_env": ["middleware"],
    }


def test_slots_follow_from_the_largest_trial(study: Path) -> None:
    spec = resolve_study(study, ["parameters.tensor_parallel_size={type='int', choices=[1, 2, 4]}"]).spec
    assert slots_of(spec) == 12
    copies = [
        "parameters.tensor_parallel_size={type='int', choices=[1, 2]}",
        "parameters.data_parallel_size={type='int', low=1, high=3}",
    ]
    assert slots_of(resolve_study(study, copies).spec) == 18
    assert slots_of(resolve_study(study, ["service.devices=2"]).spec) == 6
    assert slots_of(resolve_study(study, ["service.device=gpu"]).spec) is None
    assert slots_of(resolve_study(study, ["budget.parallelism=200"]).spec) == 64


def test_engines_come_from_the_option_then_the_environment(study: Path, tmp_path: Path) -> None:
    spec = resolve_study(study).spec
    assert engines_of(spec, [], {}) == {"mock": sys.executable}
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    vllm = msgspec.structs.replace(spec, service=msgspec.structs.replace(spec.service, engine="vllm"))
    assert engines_of(vllm, [], {"SCOOT_VLLM_PYTHON": str(link)}) == {"vllm": str(link)}, "the link is not followed"
    assert engines_of(vllm, [f"vllm={link}"], {"SCOOT_VLLM_PYTHON": "/other"}) == {"vllm": str(link)}
    with pytest.raises(UserError, match="is not NAME=PYTHON"):
        engines_of(spec, ["vllm"], {})
    check_model(spec.service)


def test_a_full_disk_is_told_and_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device") as caught:
        files.write_report(tmp_path / "report", Report(json="{}", markdown="m", html="h"))
    assert (caught.value.path, caught.value.hint != "") == (str(tmp_path / "report" / "results.json"), True)
    assert list((tmp_path / "report").iterdir()) == []


def test_doctor_says_what_is_there_and_what_to_do() -> None:
    result = call("doctor", "--coordinator", "127.0.0.1:1")
    assert result.exit_code == Exit.FAILED, "the address was given, so it matters"
    assert "ok       python: " in result.output
    assert "error    coordinator 127.0.0.1:1" in result.output
    found = json.loads(call("doctor", "--json", env={"SCOOT_COORDINATOR": None}).output)
    assert {"python", "disk", "packages of scootctl"} <= {finding["what"] for finding in found}


def test_descendants_are_found_below_a_process_only() -> None:
    table = {2: 1, 3: 2, 4: 3, 5: 1, 6: 2, 1: 0}
    assert children.descendants(2, table) == [3, 6, 4]
    assert children.descendants(5, table) == []
    assert children.descendants(0, {0: 0, 1: 0}) == [1]
    assert children.parents()[os.getpid()] == os.getppid()
