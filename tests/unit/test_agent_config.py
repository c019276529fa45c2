from __future__ import annotations

import socket
from pathlib import Path

import pytest

from scoot.agent.config import load_config
from scoot.agent.engines.base import EngineSettings
from scoot.wire.endpoint import Endpoint
from scoot.wire.errors import UserError

MINIMAL = """
[agent]
coordinator = "127.0.0.1:7070"
data_dir = "data"

[engines.mock]
kind = "mock"
"""

ROOT = Path(__file__).parents[2]


def write(folder: Path, text: str) -> Path:
    path = folder / "agent.toml"
    path.write_text(text)
    return path


def refused(folder: Path, text: str) -> UserError:
    path = write(folder, text)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert caught.value.path == str(path)
    return caught.value


def test_the_shortest_file_has_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL))
    assert config.agent_id == socket.gethostname()
    assert config.data_dir == tmp_path / "data"
    assert config.coordinator == Endpoint("127.0.0.1", 7070)
    assert config.cpu_slots is None
    assert config.tls is None
    assert config.engines == {"mock": EngineSettings(kind="mock")}


def test_every_key_is_taken(tmp_path: Path) -> None:
    config = load_config(
        write(
            tmp_path,
            """
[agent]
id = "box-1"
coordinator = "10.0.0.1:7070"
data_dir = "/var/lib/scoot-agent"
model_roots = ["/models", "more"]
cpu_slots = 2
reserve_memory_gib = 1.5
room_wait_s = 5

[tls]
ca = "/etc/ca.pem"
cert = "agent.pem"
key = "agent.key"

[engines.vllm]
kind = "vllm"
python = "/opt/vllm/bin/python"
allow_options = ["seed"]
allow_env = ["VLLM_LOGGING_LEVEL"]
fixed_args = ["--x"]
fixed_env = { A = "b" }
""",
        )
    )
    assert config.agent_id == "box-1"
    assert config.model_roots == ("/models", str(tmp_path / "more"))
    assert config.cpu_slots == 2
    assert config.reserve_memory_bytes == 1536 * 1024**2
    assert config.room_wait_s == 5.0
    assert config.tls is not None
    assert (config.tls.ca, config.tls.cert) == ("/etc/ca.pem", str(tmp_path / "agent.pem"))
    assert config.engines["vllm"].allow_env == ("VLLM_LOGGING_LEVEL",)


@pytest.mark.parametrize(
    ("broken", "key", "line", "hint"),
    [
        (MINIMAL.replace("data_dir", "data_dri"), "agent.data_dri", 4, "did you mean 'data_dir'?"),
        (MINIMAL.replace("[agent]", "[agnet]"), "agnet", 2, "did you mean 'agent'?"),
        (MINIMAL.replace("kind", "knid"), "engines.mock.knid", 7, "did you mean 'kind'?"),
        (MINIMAL + "zzz = 1\n", "engines.mock.zzz", 8, "known keys"),
        (MINIMAL.replace('"127.0.0.1:7070"', "7070"), "agent.coordinator", 3, ""),
        (MINIMAL.replace('"mock"', "3"), "engines.mock.kind", 7, ""),
        (MINIMAL.replace("127.0.0.1:7070", "localhost"), "agent.coordinator", 3, "host:port"),
        (MINIMAL.replace("127.0.0.1:7070", "127.0.0.1:0"), "agent.coordinator", 3, ""),
        (MINIMAL.replace("127.0.0.1", "10.1.2.3"), "agent.coordinator", 3, "mutual TLS"),
        (MINIMAL.replace('"data"', '""'), "agent.data_dir", 4, "/var/lib"),
        (MINIMAL.replace('"data"', '"data"\nid = "a/b"'), "agent.id", 5, "letters"),
        (MINIMAL.replace('"data"', '"data"\ncpu_slots = 65'), "agent.cpu_slots", 5, ""),
        (MINIMAL.replace('"data"', '"data"\ncpu_slots = -1'), "agent.cpu_slots", 5, ""),
        (MINIMAL.replace('"data"', '"data"\nreserve_memory_gib = nan'), "agent.reserve_memory_gib", 5, "GiB"),
        (MINIMAL.replace('"data"', '"data"\nroom_wait_s = -1'), "agent.room_wait_s", 5, "seconds"),
        (MINIMAL.partition("[engines")[0] + "[engines]\n", "engines", 6, "[engines.vllm]"),
    ],
)
def test_bad_input_names_file_key_line_and_remedy(tmp_path: Path, broken: str, key: str, line: int, hint: str) -> None:
    error = refused(tmp_path, broken)
    assert (error.key, error.line) == (key, line)
    assert hint in error.hint


def test_what_is_not_toml_names_its_line(tmp_path: Path) -> None:
    assert refused(tmp_path, "[agent]\nid = = 3\n").line == 2


def test_missing_keys_and_files_are_named(tmp_path: Path) -> None:
    assert "coordinator" in refused(tmp_path, MINIMAL.replace('coordinator = "127.0.0.1:7070"', "")).message
    with pytest.raises(UserError, match="No such file"):
        load_config(tmp_path / "none.toml")


def test_binary_rubbish_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        load_config(path)


def test_the_example_in_the_repository_is_valid_and_every_key_is_documented() -> None:
    config = load_config(ROOT / "systemd" / "agent.example.toml")
    assert config.engines
    page = (ROOT / "docs" / "agent-config.md").read_text()
    keys = ["id", "coordinator", "data_dir", "model_roots", "cpu_slots", "reserve_memory_gib", "room_wait_s"]
    keys += ["ca", "cert", "key"]
    keys += list(EngineSettings.__struct_fields__)
    assert [key for key in keys if f"`{key}`" not in page] == []
