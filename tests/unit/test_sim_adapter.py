"""What the adapter of the simulated engine starts and reads back, and what scootctl makes of such a study."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from scoot.agent.engines.base import EngineAdapter, EngineSettings, LaunchRequest
from scoot.agent.engines.registry import make_adapter
from scoot.cli.agent_file import agent_toml, check_model, engines_of, slots_of
from scoot.cli.resolve import resolve_study
from scoot.simulator.serving.target import Target, read_target
from scoot.wire.errors import UserError
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config, Scalar, Service

EXAMPLE = Path(__file__).parents[2] / "examples" / "simulated-chat.toml"


def request(
    config: Config | None = None, options: dict[str, Scalar] | None = None, *, degree: int = 1
) -> LaunchRequest:
    return LaunchRequest(
        service=Service(engine="simulated", model="llama2-13b", options=options or {}, max_model_len=512),
        config=config or {},
        tensor_parallel=degree,
        devices=(),
        port=9001,
        workdir="/w",
    )


@pytest.fixture
def adapter() -> EngineAdapter:
    return make_adapter(EngineSettings(kind="simulated"))


async def test_offers_scoots_own_version(adapter: EngineAdapter) -> None:
    offer = await adapter.probe()
    assert (offer.name, offer.error) == ("simulated", "")
    assert offer.version.startswith("simulator-")


def test_command_line(adapter: EngineAdapter) -> None:
    asked = request(
        {"max_num_seqs": 8, "enable_prefix_caching": False, "tensor_parallel_size": 2},
        {
            "simulated_gpu": "h100",
            "simulated_link": "pcie",
            "simulated_start_scale": 0,
            "gpu_memory_utilization": 0.8,
        },
        degree=2,
    )
    assert adapter.command(asked).argv == (
        *(sys.executable, "-m", "scoot.simulator", "serve", "--port=9001", "--host=127.0.0.1", "--model=llama2-13b"),
        *("--engine=vllm-0.32", "--gpu=h100", "--link=pcie", "--start-scale=0.0", "--tensor-parallel-size=2"),
        *("--no-enable-prefix-caching", "--gpu-memory-utilization=0.8", "--max-model-len=512", "--max-num-seqs=8"),
    )


def test_the_degree_has_its_engines_name(adapter: EngineAdapter) -> None:
    asked = request({"tp_size": 1}, {"simulated_engine": "trtllm-1.2"})
    assert "--tp-size=1" in adapter.command(asked).argv
    assert not any("tensor-parallel" in word for word in adapter.command(request()).argv)


@pytest.mark.parametrize(
    "name", ["host", "port", "model", "served_model_name", "engine", "gpu", "link", "profile", "start_scale", "help"]
)
def test_flags_that_are_not_the_studys(adapter: EngineAdapter, name: str) -> None:
    with pytest.raises(UserError, match="cannot set"):
        adapter.command(request({name: "x"}))
    with pytest.raises(UserError, match="cannot set"):
        adapter.command(request({}, {name: "x"}))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("simulated_gpus", "a100", "no such option.*did you mean simulated_gpu"),
        ("simulated_gpu", "a1000", "no GPU"),
        ("simulated_link", "infiniband", "none of nvlink, pcie"),
        ("simulated_start_scale", -1, "within 0 and 1000"),
        ("simulated_start_scale", "fast", "simulated_"),
        ("simulated_engine", "vllm\n0.32", "control"),
        ("simulated_profile", "/etc/passwd", "does not let a study name a file"),
    ],
)
def test_options_that_are_refused(adapter: EngineAdapter, name: str, value: Scalar, said: str) -> None:
    with pytest.raises(UserError, match=f"(?s){said}"):
        adapter.command(request({}, {name: value}))


def test_a_profile_needs_the_agents_permission() -> None:
    adapter = make_adapter(EngineSettings(kind="simulated", allow_options=("simulated_profile",)))
    assert "--profile=/srv/mine.json" in adapter.command(request({}, {"simulated_profile": "/srv/mine.json"})).argv


def test_unsafe_names_and_variables_are_refused(adapter: EngineAdapter) -> None:
    configs: tuple[Config, ...] = ({"Bad-name": 1}, {"x": "-1"}, {"x": "a\x00"}, {"simulated_gpu": "a100"})
    for config in configs:
        with pytest.raises(UserError):
            adapter.command(request(config))
    service = msgspec.structs.replace(request().service, env={"LD_PRELOAD": "/x.so"})
    with pytest.raises(UserError, match="does not let"):
        adapter.command(msgspec.structs.replace(request(), service=service))


def test_models_and_tokens(adapter: EngineAdapter) -> None:
    assert adapter.models_ok("llama3-8b", ()) == "llama3-8b"
    assert adapter.models_ok("llama4", ()) is Reason.MODEL_MISSING
    assert adapter.token_range("llama3-8b") == (16, 128256)
    assert adapter.served_model_name(request()) == "llama2-13b"


def test_effective_configuration(adapter: EngineAdapter) -> None:
    asked = request({"max_num_seqs": 8})
    (path,) = adapter.info_paths
    assert adapter.effective_config("", asked, None) == {"max_num_seqs": 8}
    assert adapter.effective_config("", asked, {path: "{"}) == {"max_num_seqs": 8}
    told = {path: '{"max_num_seqs": 4, "block_size": 16}'}
    assert adapter.effective_config("", asked, told) == {"max_num_seqs": 4, "block_size": 16}


def test_options_that_are_not_the_simulators_are_left_alone() -> None:
    assert read_target({"enforce_eager": True}) == Target()
    assert read_target({"simulated_gpu": "h200", "x": 1}) == Target(gpu="h200")


def test_scootctl_needs_neither_an_interpreter_nor_a_models_folder(tmp_path: Path) -> None:
    spec = resolve_study(EXAMPLE).spec
    engines = engines_of(spec, [], {})
    assert engines == {"simulated": sys.executable}
    check_model(spec.service)
    slots = slots_of(spec)
    assert slots == (spec.service.devices or 0) * spec.budget.parallelism > 0
    text = agent_toml(
        spec, agent_id="local", data_dir=tmp_path, coordinator="127.0.0.1:5", engines=engines, slots=slots
    )
    told = tomllib.loads(text)
    assert told["agent"]["reserve_memory_gib"] == 0.25
    assert told["engines"]["simulated"]["kind"] == "simulated"


def test_scootctl_tells_at_once_what_the_simulator_does_not_know() -> None:
    service = resolve_study(EXAMPLE).spec.service
    with pytest.raises(UserError, match="no model") as caught:
        check_model(msgspec.structs.replace(service, model="llama2-14b"))
    assert caught.value.hint == "did you mean 'llama2-13b'?"
    with pytest.raises(UserError, match="no GPU"):
        check_model(msgspec.structs.replace(service, options={"simulated_gpu": "b200"}))
