"""What every engine adapter promises, whatever engine it is for."""

from __future__ import annotations

import copy
import os
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.agent.engines import llamacpp, sglang, transformers, trtllm, vllm
from scoot.agent.engines.base import EngineAdapter, EngineSettings, LaunchRequest
from scoot.agent.engines.registry import KINDS, make_adapter
from scoot.wire.assignment import Device
from scoot.wire.errors import UserError
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config, Scalar, Service

PORT = 8123
WORKDIR = "/var/lib/scoot/attempt"
CPU = (Device(id="cpu-0", kind="cpu"),)
GPUS = tuple(Device(id=f"GPU-{name}", kind="NVIDIA H200") for name in "ab")


def folder_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(msgspec.json.encode({"vocab_size": 1000, "eos_token_id": 2}))
    return folder


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf_model(path: Path) -> Path:
    """A GGUF file with nothing but a vocabulary."""
    path = path.with_suffix(".gguf")
    path.parent.mkdir(parents=True, exist_ok=True)
    tokens = b"".join(text(f"t{number}") for number in range(64))
    key = text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 64)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key + tokens)
    return path


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of engine, and what is particular to it.

    Attributes:
        settings: complete; allows nothing more.
        options: what a study may set; None where the adapter has no list, as its engine does nothing but listen.
        ours: flags that are the adapter's, snake case; each is given at most once.
        devices, degree: a replica it can start.
        cpu: whether it runs without a GPU.
        make_model: writes a model that can be served, and returns its path.
    """

    settings: EngineSettings
    options: frozenset[str] | None = None
    ours: frozenset[str] = frozenset({"model", "host", "port"})
    devices: tuple[Device, ...] = GPUS
    degree: int = 2
    cpu: bool = True
    make_model: Callable[[Path], Path] = folder_model

    @property
    def adapter(self) -> EngineAdapter:
        return make_adapter(self.settings)


def settings(kind: str) -> EngineSettings:
    return EngineSettings(kind=kind, python=f"/opt/{kind}/bin/python")


CASES = {
    "vllm": Case(
        settings=settings("vllm"),
        options=vllm.ALLOWED_OPTIONS,
        ours=frozenset({"model", "host", "port", "uvicorn_log_level", "disable_uvicorn_access_log"}),
    ),
    "trtllm": Case(
        settings=settings("trtllm"),
        options=trtllm.ALLOWED_OPTIONS,
        ours=frozenset({"host", "port", "backend", "config"}),
        cpu=False,
    ),
    "sglang": Case(
        settings=settings("sglang"),
        options=sglang.ALLOWED_OPTIONS,
        ours=frozenset({"model_path", "host", "port", "log_level_http", "device"}),
    ),
    "transformers": Case(
        settings=settings("transformers"),
        options=transformers.ALLOWED_OPTIONS,
        ours=frozenset({"host", "port", "device"}),
        devices=GPUS[:1],
        degree=1,
    ),
    "llamacpp": Case(
        settings=EngineSettings(kind="llamacpp", program="/opt/llama.cpp/llama-server"),
        options=llamacpp.SERVER_OPTIONS,
        make_model=gguf_model,
    ),
    "llamacpp-python": Case(
        settings=settings("llamacpp"),
        options=llamacpp.PYTHON_OPTIONS,
        ours=frozenset({"model", "host", "port", "interrupt_requests"}),
        make_model=gguf_model,
    ),
    "simulated": Case(settings=EngineSettings(kind="simulated"), devices=CPU, degree=1),
    "mock": Case(settings=EngineSettings(kind="mock"), devices=CPU, degree=1),
}
CURATED = [name for name, case in CASES.items() if case.options is not None]

every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
curated = pytest.mark.parametrize("case", [CASES[name] for name in CURATED], ids=CURATED)


def request(
    case: Case,
    config: Config | None = None,
    *,
    options: dict[str, Scalar] | None = None,
    env: dict[str, str] | None = None,
    model: str = "",
    max_model_len: int | None = 2048,
    devices: tuple[Device, ...] | None = None,
    degree: int | None = None,
) -> LaunchRequest:
    kind = case.settings.kind
    return LaunchRequest(
        service=Service(
            engine=kind,
            model=model or ("llama-3-8b" if kind == "simulated" else "/models/tiny"),
            options=options or {},
            env=env or {},
            max_model_len=max_model_len,
        ),
        config=config or {},
        tensor_parallel=case.degree if degree is None else degree,
        devices=case.devices if devices is None else devices,
        port=PORT,
        workdir=WORKDIR,
    )


def flags_of(argv: tuple[str, ...]) -> list[str]:
    """Names of the flags in a command line, snake case; a negative number is a value."""
    names = []
    for item in argv:
        if item.startswith("-") and not item.lstrip("-")[:1].isdigit() and item not in ("-m", "-"):
            assert item.startswith("--"), item
            names.append(item.partition("=")[0].removeprefix("--").replace("-", "_"))
    return names


def test_every_kind_is_here() -> None:
    assert {case.settings.kind for case in CASES.values()} == set(KINDS)


@every
def test_is_an_adapter_of_its_name(case: Case) -> None:
    adapter = case.adapter
    assert isinstance(adapter, EngineAdapter)
    assert adapter.name == case.settings.kind
    assert adapter.health_path.startswith("/")
    assert all(path.startswith("/") for path in adapter.info_paths)


@every
def test_listens_on_loopback_and_on_the_port_it_was_given(case: Case) -> None:
    argv = case.adapter.command(request(case)).argv
    told = " ".join(argv).replace("=", " ").split()
    assert told[told.index("--port") + 1] == str(PORT)
    assert told.count("--port") == 1
    if case.settings.kind != "mock":
        assert told[told.index("--host") + 1] == "127.0.0.1"
    assert told.count("--host") <= 1
    assert not {"0.0.0.0", "::", "localhost"} & set(told)  # noqa: S104 - none of them


@curated
def test_devices_are_shown_through_one_variable_only(case: Case) -> None:
    command = case.adapter.command(request(case))
    assert command.env["CUDA_VISIBLE_DEVICES"] == ",".join(device.id for device in case.devices)
    rest = {name: value for name, value in command.env.items() if name != "CUDA_VISIBLE_DEVICES"}
    assert "GPU-" not in repr((command.argv, rest, command.files))
    if case.cpu:
        command = case.adapter.command(request(case, devices=CPU, degree=1))
        assert command.env["CUDA_VISIBLE_DEVICES"] == ""
    else:
        with pytest.raises(UserError, match="GPU"):
            case.adapter.command(request(case, devices=CPU, degree=1))


@curated
@pytest.mark.parametrize(
    "name", ["CUDA_VISIBLE_DEVICES", "LD_PRELOAD", "PYTHONPATH", "PATH", "HOME", "PORT", "A B", ""]
)
def test_variables_a_study_cannot_set(case: Case, name: str) -> None:
    with pytest.raises(UserError) as caught:
        case.adapter.command(request(case, env={name: "1"}))
    assert caught.value.key.startswith("service.env.")


@curated
@pytest.mark.parametrize("value", ["1\n2", "a\x00b", "x" * 5000])
def test_unsafe_values_of_variables(case: Case, value: str) -> None:
    with pytest.raises(UserError):
        case.adapter.command(request(case, env={"OMP_NUM_THREADS": value}))


@curated
def test_the_agents_own_variables_stay_with_it_and_fixed_ones_win(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    fixed = msgspec.structs.replace(case.settings, fixed_env={"OMP_NUM_THREADS": "2"})
    command = make_adapter(fixed).command(request(case, env={"OMP_NUM_THREADS": "64"}))
    assert "planted" not in command.env.values()
    assert command.env["OMP_NUM_THREADS"] == "2"
    assert command.env["HF_HUB_OFFLINE"] == "1"
    assert command.env["CUDA_VISIBLE_DEVICES"] != "7"


@curated
@pytest.mark.parametrize(
    "name",
    [
        *("trust_remote_code", "host", "port", "model", "model_path", "api_key", "config", "config_file", "tokenizer"),
        *("ssl_keyfile", "chat_template", "lora_path", "log_file", "download_dir", "custom_module_dirs", "revision"),
        *("Max_num_seqs", "max-num-seqs", "--seed", "seed=1", "", "a b", "é", "x" * 65, "seed\n", "_x", "1x"),
    ],
)
def test_options_a_study_cannot_set(case: Case, name: str) -> None:
    asked: Config = {name: "1"}
    nothing: Config = {}
    for config, options in ((asked, nothing), (nothing, asked)):
        with pytest.raises(UserError) as caught:
            case.adapter.command(request(case, config, options=options))
        assert caught.value.key.startswith("parameters." if config else "service.options.")


@curated
@pytest.mark.parametrize(
    "value", ["-x", "--trust-remote-code", "a\x00b", "a\nb", "x" * 5000, float("nan"), -float("inf")]
)
def test_values_a_study_cannot_set(case: Case, value: Scalar) -> None:
    for name in sorted(case.options or ()):
        if name not in ("tensor_parallel_size", "tp_size"):  # the replica's degree is given instead
            with pytest.raises(UserError):
                case.adapter.command(request(case, {name: value}))


@curated
def test_an_administrator_can_allow_more(case: Case) -> None:
    allowing = msgspec.structs.replace(case.settings, allow_options=("brand_new",), allow_env=("NCCL_DEBUG",))
    command = make_adapter(allowing).command(request(case, {"brand_new": 3}, env={"NCCL_DEBUG": "INFO"}))
    assert "brand" in " ".join((*command.argv, *command.files.values()))
    assert command.env["NCCL_DEBUG"] == "INFO"


scalars = st.one_of(st.booleans(), st.integers(), st.floats(), st.text(max_size=30))


@curated
@given(data=st.data())
def test_no_configuration_smuggles_a_flag(case: Case, data: st.DataObject) -> None:
    assert case.options is not None
    names = st.one_of(st.sampled_from(sorted(case.options)), st.text(max_size=20))
    config: Config = data.draw(st.dictionaries(names, scalars, max_size=4))
    try:
        command = case.adapter.command(request(case, config))
    except UserError:
        return
    flags = flags_of(command.argv)
    for flag in flags:
        plain = {flag, flag.removeprefix("no_")}
        assert plain & (case.options | case.ours | {"tp_size"})
    for flag in case.ours:
        assert flags.count(flag) <= 1
    for item in command.argv:
        assert item.isprintable() or not any(ord(char) < 32 or ord(char) == 127 for char in item)
    for name, content in command.files.items():
        assert "/" not in name
        assert isinstance(msgspec.json.decode(content), dict)


@every
@given(data=st.data())
def test_commands_are_pure(case: Case, data: st.DataObject) -> None:
    names = sorted(case.options or {"max_num_seqs", "enable_prefix_caching", "block_size"})
    config: Config = data.draw(st.dictionaries(st.sampled_from(names), st.integers(1, 9), max_size=4))
    asked = request(case, config, options=data.draw(st.permutations(sorted(config.items())).map(dict)))
    before = copy.deepcopy(asked)
    environment = dict(os.environ)
    try:
        first = case.adapter.command(asked)
    except UserError:
        return
    turned = msgspec.structs.replace(asked, config=dict(reversed(config.items())))
    assert case.adapter.command(asked) == first == case.adapter.command(turned)
    assert asked == before
    assert dict(os.environ) == environment


@every
def test_the_degree_is_the_replicas(case: Case) -> None:
    adapter = case.adapter
    for name in ("tensor_parallel_size", "tp_size"):
        argv = adapter.command(request(case, {name: 64})).argv
        assert "64" not in " ".join(argv).replace("=", " ").split()


@every
def test_a_model_has_a_name(case: Case) -> None:
    asked = request(case)
    assert case.adapter.served_model_name(asked) in (asked.service.model, Path(asked.service.model).name)


@curated
def test_relative_models_are_refused(case: Case) -> None:
    for model in ("meta-llama/Llama-3.1-8B", "tiny", "-x"):
        with pytest.raises(UserError) as caught:
            case.adapter.command(request(case, model=model))
        assert caught.value.key == "service.model"


@curated
def test_models_stay_inside_their_roots(case: Case, tmp_path: Path) -> None:
    good = case.make_model(tmp_path / "root" / "good")
    outside = case.make_model(tmp_path / "outside" / "good")
    (tmp_path / "root" / "empty").mkdir()
    link = tmp_path / "root" / f"link{good.suffix}"
    link.symlink_to(outside)
    adapter = case.adapter
    roots = (str(tmp_path / "absent"), str(tmp_path / "root"))
    assert adapter.models_ok(good.name, roots) == str(good)
    assert adapter.models_ok(str(good), roots) == str(good)
    for model in ("empty", link.name, str(outside), f"../outside/{good.name}", "absent", "", "good\x00", "x" * 5000):
        assert adapter.models_ok(model, roots) is Reason.MODEL_MISSING
    assert adapter.models_ok(good.name, ()) is Reason.MODEL_MISSING


@curated
def test_token_range_is_of_the_model(case: Case, tmp_path: Path) -> None:
    model = case.make_model(tmp_path / "good")
    low, high = case.adapter.token_range(str(model))
    assert 0 < low < high <= 1000
    file = model / "config.json" if model.is_dir() else model
    for content in (b"", b"{}", b"GGUF", b"\xff" * 64):
        file.write_bytes(content)
        with pytest.raises(UserError) as caught:
            case.adapter.token_range(str(model))
        assert caught.value.path == str(file)
    file.unlink()
    with pytest.raises(UserError):
        case.adapter.token_range(str(model))


bodies = st.one_of(
    st.text(),
    st.sampled_from(
        ["", "[]", "{}", "[" * 100_000, '{"total_slots": "x"}', '{"page_size": 1e999, "tp_size": []}', "\x00"]
    ),
    st.dictionaries(st.text(max_size=10), st.one_of(scalars, st.none(), st.lists(st.integers()))).map(
        lambda value: msgspec.json.encode(value).decode()
    ),
)
logs = st.lists(
    st.one_of(
        st.text(),
        st.sampled_from(
            [
                "[transformers] [Request received] Model: x, CB: True",
                "llama_context: n_batch = 256",
                "llama_context: n_batch = " + "9" * 40,
                "n_slots = 2, n_ctx_slot = 512, kv_unified = 'true'",
                "[TRT-LLM] [I] max_seq_len=1, max_num_requests=2, max_num_tokens=3, max_batch_size=4",
                "max_seq_len=1, max_num_requests=" + "9" * 300,
            ]
        ),
    )
).map("\n".join)


@every
@given(log=logs, told=st.one_of(st.none(), bodies), config=st.dictionaries(st.text(max_size=12), scalars, max_size=3))
def test_reading_back_never_raises(case: Case, log: str, told: str | None, config: Config) -> None:
    adapter = case.adapter
    answers: Mapping[str, str] | None = None if told is None else dict.fromkeys(adapter.info_paths, told)
    found = adapter.effective_config(log, request(case, config), answers)
    for name, value in found.items():
        assert isinstance(name, str)
        assert isinstance(value, bool | int | float | str)


@curated
def test_programs_must_be_absolute(case: Case) -> None:
    name = "program" if case.settings.program else "python"
    for path in ("python3", "./python", ""):
        relative = msgspec.structs.replace(case.settings, **{name: path})
        with pytest.raises(UserError) as caught:
            make_adapter(relative)
        assert caught.value.key.startswith(f"engines.{case.settings.kind}.")


@curated
async def test_probe_of_a_missing_program(case: Case) -> None:
    offer = await case.adapter.probe()
    assert (offer.name, offer.version) == (case.settings.kind, "")
    assert (case.settings.program or case.settings.python) in offer.error


@curated
@pytest.mark.parametrize("script", ["exit 3", "echo 'SCOOT-PROBE {'", "kill -9 $$", "echo 'SCOOT-PROBE {}'", "exit 0"])
async def test_probes_that_go_wrong(case: Case, script: str, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    name = "program" if case.settings.program else "python"
    offer = await make_adapter(msgspec.structs.replace(case.settings, **{name: str(program)})).probe()
    assert offer.version == ""
    assert str(program) in offer.error


@pytest.mark.parametrize("kind", ["vllm", "trtllm", "sglang", "llamacpp"])
async def test_probe_of_an_interpreter_without_the_engine(kind: str) -> None:
    offer = await make_adapter(EngineSettings(kind=kind, python=sys.executable)).probe()
    assert offer.version == ""
    assert "No module named" in offer.error
