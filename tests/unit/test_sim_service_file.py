"""Files of simulated services: what they hold, and errors with file, line, key and remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scoot.simulator.linear import LinearModel, Profile
from scoot.simulator.profile_file import write_profile
from scoot.simulator.service import resolve
from scoot.simulator.service_file import read_service
from scoot.wire import limits
from scoot.wire.errors import UserError

GOOD = """\
engine = "vllm-0.4.2"
model = "llama2-13b"
gpu = "a100"
devices = 2
link = "nvlink"
routing = "round-robin"
max_model_len = 2048

[parameters]
max_num_seqs = 128
scheduler_delay_factor = 0.5
enable_prefix_caching = true
"""


def written(folder: Path, text: str, name: str = "service.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    service = read_service(written(tmp_path, GOOD))
    assert service.engine == "vllm-0.4.2"
    assert service.devices == 2
    assert service.parameters == {"max_num_seqs": 128, "scheduler_delay_factor": 0.5, "enable_prefix_caching": True}
    as_json = {
        "engine": "vllm-0.4.2",
        "model": "llama2-13b",
        "gpu": "a100",
        "devices": 2,
        "link": "nvlink",
        "routing": "round-robin",
        "max_model_len": 2048,
        "parameters": {"max_num_seqs": 128, "scheduler_delay_factor": 0.5, "enable_prefix_caching": True},
    }
    assert read_service(written(tmp_path, json.dumps(as_json), "service.json")) == service
    assert resolve(service)[1] == 2


def test_a_short_file_has_defaults(tmp_path: Path) -> None:
    service = read_service(str(written(tmp_path, 'model = "qwen3-8b"\ngpu = "H200"\n')))
    assert (service.engine, service.devices, service.routing) == ("vllm-0.32", 1, "least-outstanding")


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "words"),
    [
        ('gpu = "a100"', 'gpu = "a1OO"', 3, "gpu", "no GPU"),
        ('model = "llama2-13b"', 'model = "llama2-13"', 2, "model", "did you mean"),
        ('engine = "vllm-0.4.2"', 'engin = "vllm-0.4.2"', 1, "engin", "did you mean 'engine'"),
        ("devices = 2", 'devices = "two"', 4, "devices", "int"),
        ("devices = 2", "devices = 100", 4, "devices", "from 1 to"),
        ('routing = "round-robin"', 'routing = "any"', 6, "routing", "known are"),
        ("max_num_seqs = 128", "max_num_seqs = [1]", 10, "parameters.max_num_seqs", "array"),
        ("max_num_seqs = 128", "max-num-seqs = 128", 10, "parameters.max-num-seqs", "snake case"),
        ("max_num_seqs = 128", "quantization = 1", 10, "parameters.quantization", "remove it"),
        ("devices = 2", "devices = ", 4, "", "not valid TOML"),
        ("devices = 2", 'fitted = "x"', 4, "fitted", "unknown key"),
        ('model = "llama2-13b"', "", 0, "", "'model' is missing"),
    ],
)
def test_errors_name_file_line_key_and_remedy(
    tmp_path: Path, old: str, new: str, line: int, key: str, words: str
) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(UserError) as caught:
        read_service(path)
    error = caught.value
    assert (error.path, error.line, error.key) == (str(path), line, key)
    assert words in str(error)


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ('{\n "model": "llama2-13b",\n "gpu": "z"\n}', 3, "gpu", "no GPU"),
        (
            '{"gpu": "a100",\n "model": "llama2-13b",\n "parameters": {\n  "max-num-seqs": 1}}',
            4,
            "parameters.max-num-seqs",
            "snake case",
        ),
        (
            '{"model": "llama2-13b", "gpu": "a100",\n "parameters": {\n  "a": 1,\n  "b": null}}',
            4,
            "parameters.b",
            "null",
        ),
        ('{"gpu": "a100",\n', 2, "", "not valid JSON"),
        ("[]", 0, "", "expected an object"),
        ('{"gpu": "a100"}', 0, "", "'model' is missing"),
        ("[" * 100_000, 0, "", "nested too deeply"),
        ('{"devices": ' + "9" * 5000 + "}", 0, "", "too long"),
    ],
)
def test_json_errors(tmp_path: Path, text: str, line: int, key: str, words: str) -> None:
    path = written(tmp_path, text, "service.json")
    with pytest.raises(UserError) as caught:
        read_service(path)
    assert (caught.value.path, caught.value.line, caught.value.key) == (str(path), line, key)
    assert words in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the service"):
        read_service(tmp_path / "nothing.toml")
    with pytest.raises(UserError, match="cannot read the service"):
        read_service(tmp_path)
    with pytest.raises(UserError, match="cannot read the service"):
        read_service("a\0b")
    path = tmp_path / "odd.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="UTF-8"):
        read_service(path)
    path.write_bytes(b"#" * (limits.SPEC_BYTES + 1))
    with pytest.raises(UserError, match="larger than"):
        read_service(path)
    with pytest.raises(UserError, match="nested too deeply"):
        read_service(written(tmp_path, "a = " + "[" * 50_000))


def test_a_profile_is_read_from_next_to_the_file(tmp_path: Path) -> None:
    linear = LinearModel(
        base_s=0.25,
        prefill_token_s=0.0,
        chunk_squared_s=0.0,
        chunk_cached_s=0.0,
        decode_s=0.0,
        context_token_s=0.0,
    )
    profile = Profile(name="mine", model="llama2-13b", gpu="a100", tensor_parallel=1, link="nvlink", linear=linear)
    (tmp_path / "profiles").mkdir()
    write_profile(tmp_path / "profiles" / "mine.json", profile)
    path = written(tmp_path, 'model = "llama2-13b"\ngpu = "a100"\nprofile = "profiles/mine.json"\n')
    service = read_service(path)
    assert service.fitted == profile
    assert resolve(service)[0].step_time.gpu_s(1, 10, []) == 0.25
    missing = written(tmp_path, 'model = "llama2-13b"\ngpu = "a100"\nprofile = "gone.json"\n', "other.toml")
    with pytest.raises(UserError) as caught:
        read_service(missing)
    assert caught.value.path == str(tmp_path / "gone.json")
