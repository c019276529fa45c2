"""Commands `fit` and `profiles`, and the profile file between them and the simulator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from scoot.simulator.fit_command import fit
from scoot.simulator.linear import LinearModel, Profile
from scoot.simulator.profile_file import read_profile, write_profile
from scoot.simulator.profiles_command import profiles
from scoot.simulator.shapes import GPUS, MODELS
from scoot.wire.errors import PermanentInfraError, UserError

LINEAR = LinearModel(
    base_s=0.01, prefill_token_s=5e-5, chunk_squared_s=1e-9, chunk_cached_s=2e-9, decode_s=1e-5, context_token_s=1e-7
)
PROFILE = Profile(name="mine", model="llama2-7b", gpu="a100", tensor_parallel=2, link="pcie", linear=LINEAR)


def run(command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


def timings(folder: Path, n: int = 60) -> Path:
    lines = []
    for i in range(n):
        chunk, decodes = 37 * i % 1000 * (i % 2), [100 + 13 * i] * (1 + i % 7)
        ms = 10.0 + 0.05 * chunk + 1e-6 * chunk * chunk + 0.02 * len(decodes) + 1e-4 * sum(decodes)
        ms *= 5 if i % 10 == 3 else 1
        lines.append(json.dumps({"gpu": "x", "prefills": [[chunk, 0]] if chunk else [], "decodes": decodes, "ms": ms}))
    path = folder / "steps.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_fit_writes_a_profile_and_says_how_good_it_is(tmp_path: Path) -> None:
    out = tmp_path / "p.json"
    arguments = ("--model", "llama2-7b", "--gpu", "A100", "--tp", "2", "--link", "pcie", "-o", str(out))
    result = run(fit, str(timings(tmp_path)), "--where", "gpu=x", *arguments)
    assert result.exit_code == 0, result.output
    for said in (
        "llama2-7b-a100-tp2: llama2-7b on 2 x a100 (pcie), times of whole steps, from steps.jsonl, gpu=x",
        "54 steps kept of 60, 6 dropped as outliers (10.0 %)",
        "5e-05 s/token     x prompt token",
        "error: mean 0.0 %, bias ",
        "leave-one-out",
        "note: d (chunk x cached tokens) is tied to 2 c",
    ):
        assert said in result.output
    profile = read_profile(out)
    assert (profile.model, profile.gpu, profile.tensor_parallel, profile.link) == ("llama2-7b", "a100", 2, "pcie")
    assert profile.linear.prefill_token_s == pytest.approx(5e-5, rel=1e-4)
    assert (profile.linear.rows, profile.linear.trimmed, profile.linear.covers) == (60, 6, "step")
    again = run(fit, str(timings(tmp_path)), *arguments)
    assert "the file is there already" in str(again.exception)
    assert run(fit, str(timings(tmp_path)), *arguments, "--force", "--covers", "gpu").exit_code == 0
    assert read_profile(out).linear.covers == "gpu"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (("--model", "llama2-7"), "did you mean 'llama2-7b'?"),
        (("--gpu", "b100"), "--gpu: the simulator has no GPU 'b100'"),
        (("--tp", "3"), "--tp: 3 devices cannot be"),
        (("--where", "gpu"), "--where: 'gpu' is no condition"),
        (("--where", "gpu=y"), "no steps with gpu=y"),
        (("--where", "gpu=x", "--where", "gpu=y"), "two values of 'gpu'"),
    ],
)
def test_fit_refuses_with_one_line_and_writes_nothing(tmp_path: Path, changed: tuple[str, ...], says: str) -> None:
    out = tmp_path / "p.json"
    result = run(fit, str(timings(tmp_path)), "--model", "llama2-7b", "--gpu", "a100", "-o", str(out), *changed)
    assert isinstance(result.exception, UserError)
    assert says in str(result.exception)
    assert not out.exists()


def test_fit_names_the_file_that_cannot_be_fitted(tmp_path: Path) -> None:
    path = timings(tmp_path, 10)
    result = run(fit, str(path), "--model", "llama2-7b", "--gpu", "a100", "-o", str(tmp_path / "p.json"))
    assert str(result.exception) == f"{path}: 10 steps are too few to fit, 30 are needed (record more of them)"


def test_a_profile_survives_its_file(tmp_path: Path) -> None:
    write_profile(tmp_path / "p.json", PROFILE)
    assert read_profile(tmp_path / "p.json") == PROFILE
    with pytest.raises(UserError, match="there already"):
        write_profile(tmp_path / "p.json", PROFILE)
    write_profile(tmp_path / "p.json", msgspec.structs.replace(PROFILE, name="other"), overwrite=True)
    assert read_profile(tmp_path / "p.json").name == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]


def test_a_profile_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        write_profile(tmp_path / "none" / "p.json", PROFILE)
    (tmp_path / "folder").mkdir()
    with pytest.raises(PermanentInfraError, match="cannot be written"):
        write_profile(tmp_path / "folder", PROFILE, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"schema": 99}, "schema: schema 99 is newer"),
        ({"model": "gpt"}, "model: the simulator has no model 'gpt'"),
        ({"gpu": "b100"}, "gpu: the simulator has no GPU 'b100'"),
        ({"link": "wire"}, "link: Invalid enum value 'wire'"),
        ({"linear": {"base_s": -1}}, "linear"),
        ({"extra": 1}, "unknown field `extra`"),
    ],
)
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({**msgspec.to_builtins(PROFILE), **changed}), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_profile(path)
    assert caught.value.path == str(path)
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "\udcff", "x" * 5_000_000])
def test_garbage_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError):
        read_profile(path)


def test_profiles_lists_every_model_and_gpu() -> None:
    result = run(profiles)
    assert result.exit_code == 0
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in result.output.splitlines() if line.split()[1] in GPUS}
    assert len(rows) == len(MODELS) * len(GPUS)
    assert rows["llama2-13b", "a10"][0] == "-"
    assert int(rows["llama2-13b", "a10"][1].replace(",", "")) == pytest.approx(20_000, rel=0.05)
    assert rows["qwen3-8b", "a10"][0].endswith("*")
    assert "needs a smaller max_model_len" in result.output


def test_profiles_of_other_generations_and_one_degree() -> None:
    result = run(profiles, "--model", "llama2-7b", "--gpu", "a100", "--engine", "vllm-0.4.2")
    assert result.output.splitlines()[2].split()[2] == f"{7452 * 16:,}"
    assert run(profiles, "--tp", "2").output.splitlines()[1].split() == ["model", "gpu", "tp", "2"]
    assert isinstance(run(profiles, "--tp", "3").exception, UserError)


def test_one_profile_says_where_it_is_from() -> None:
    result = run(profiles, "--model", "llama2-13b", "--gpu", "a10", "--tp", "2")
    assert result.exit_code == 0
    assert "step time: " in result.output
    assert "DERIVED" in result.output
    assert "weights 12.12" in result.output
    too_large = run(profiles, "--model", "llama2-13b", "--gpu", "a10", "--tp", "1")
    assert "does not start with its defaults: torch.OutOfMemoryError" in too_large.output
