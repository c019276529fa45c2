"""What the mock adapter starts and reads back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scoot.agent.engines.base import EngineAdapter, EngineSettings, LaunchRequest
from scoot.agent.engines.registry import make_adapter
from scoot.wire.errors import UserError
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config, Scalar, Service


def request(config: Config | None = None, *, env: dict[str, str] | None = None, **options: Scalar) -> LaunchRequest:
    return LaunchRequest(
        service=Service(engine="mock", model="tiny", options=options, env=env or {}, max_model_len=512),
        config=config or {},
        tensor_parallel=1,
        devices=(),
        port=9001,
        workdir="/w",
    )


@pytest.fixture
def adapter() -> EngineAdapter:
    return make_adapter(EngineSettings(kind="mock", allow_env=("X",)))


async def test_offers_scoots_own_version(adapter: EngineAdapter) -> None:
    offer = await adapter.probe()
    assert offer.name == "mock"
    assert offer.version
    assert not offer.error


def test_command_line(adapter: EngineAdapter) -> None:
    command = adapter.command(
        request(
            {"max_num_seqs": 8, "enable_prefix_caching": False},
            env={"X": "1"},
            mock_ttft_ms=1.5,
            mock_ready=True,
            mock_crash="block_size % 32",
        )
    )
    assert command.argv == (
        *(sys.executable, "-m", "scoot.agent.engines.mock_server", "--port", "9001", "--model", "tiny"),
        *("--no-enable-prefix-caching", "--max-model-len=512", "--max-num-seqs=8"),
        *("--mock.crash=block_size % 32", "--mock.ready=true", "--mock.ttft_ms=1.5"),
    )
    assert command.env["X"] == "1"


@pytest.mark.parametrize(
    ("name", "value"), [("mock_", "x"), ("mock_Bad", 1), ("mock_a-b", 1), ("mock_x", "-1"), ("mock_x", "a\x00")]
)
def test_unsafe_behaviour_is_refused(adapter: EngineAdapter, name: str, value: Scalar) -> None:
    with pytest.raises(UserError):
        adapter.command(request({name: value}))


@pytest.mark.parametrize("name", ["host", "port", "model", "served_model_name", "Bad-name"])
def test_flags_that_are_refused(adapter: EngineAdapter, name: str) -> None:
    with pytest.raises(UserError):
        adapter.command(request({name: "0.0.0.0"}))  # noqa: S104 - that it is refused is the point


def test_variables_need_permission(adapter: EngineAdapter) -> None:
    with pytest.raises(UserError, match="does not let"):
        adapter.command(request(env={"LD_PRELOAD": "/x.so"}))


def test_models_and_tokens(adapter: EngineAdapter, tmp_path: Path) -> None:
    assert adapter.models_ok("any-name", ()) == "any-name"
    assert adapter.models_ok("", ()) is Reason.MODEL_MISSING
    assert adapter.models_ok(str(tmp_path), (str(tmp_path),)) == str(tmp_path)
    assert adapter.models_ok("/etc", (str(tmp_path),)) is Reason.MODEL_MISSING
    low, high = adapter.token_range("any-name")
    assert 0 < low < high
    (tmp_path / "config.json").write_text('{"vocab_size": 1000}')
    assert adapter.token_range(str(tmp_path)) == (16, 1000)


def test_effective_configuration(adapter: EngineAdapter) -> None:
    asked = request({"max_num_seqs": 8})
    assert adapter.effective_config("", asked, None) == {"max_num_seqs": 8}
    assert adapter.effective_config("", asked, {"/mock/config": "{"}) == {"max_num_seqs": 8}
    told = {"/mock/config": '{"max_num_seqs": 4, "block_size": 16, "port": 1, "host": "127.0.0.1"}'}
    assert adapter.effective_config("", asked, told) == {"max_num_seqs": 4, "block_size": 16}
