"""Options of engines that list them: by a program's help, and by asking a package in its own interpreter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scoot.agent.engines import base
from scoot.agent.engines.base import EngineSettings
from scoot.agent.engines.help_text import options_of
from scoot.agent.engines.helpers import options as package_options
from scoot.agent.engines.lister import ProgramLister, make_lister, read_help, read_package
from scoot.wire.catalogue.option import Catalogue, OptionKind
from scoot.wire.catalogue.verdict import Unknown

HELP = """a line of something else

----- common params -----

-h,    --help                           says this
--version                               says which
-t,    --threads N                      threads to use (default: -1)
                                        (env: SOME_THREADS)
-b,    --batch-size N                   logical batch (default: 2048)
--strict <0|1>                          strictly (default: 0)
--poll <0...100>                        level of polling (0 - none, default: 50)
--scale N                               a factor (default: -1.00, 0.0 = full
                                        something)
-fa,   --flash [on|off|auto]            whether ('on', 'off', or 'auto', default: 'auto')
--shape {none,row}                      one of them, defaults to what the model says
--same N                                as the others (default: same as --threads)

----- more params -----

-cb,   --batching, -nocb, --no-batching
                                        whether to batch (default: enabled)
--name NAME                             whatever it is called (default: none)
"""


def test_a_programs_help_tells_its_options() -> None:
    found = {option.name: option for option in options_of(HELP)}
    assert list(found) == [
        "batch_size",
        "batching",
        "flash",
        "name",
        "poll",
        "same",
        "scale",
        "shape",
        "strict",
        "threads",
    ]
    assert {name: option.kind.value for name, option in found.items() if option.kind is not OptionKind.INT} == {
        "batching": "bool",
        "flash": "enum",
        "name": "text",
        "scale": "float",
        "shape": "enum",
    }
    assert {name: option.default for name, option in found.items() if option.default is not None} == {
        "batch_size": 2048,
        "batching": True,
        "flash": "auto",
        "poll": 50,
        "scale": -1.0,
        "strict": 0,
        "threads": -1,
    }
    assert (found["poll"].minimum, found["poll"].maximum) == (0, 100)
    assert (found["strict"].choices, found["flash"].choices) == ((0, 1), ("on", "off", "auto"))
    assert (found["batching"].aliases, found["threads"].aliases) == (("cb",), ("t",))
    assert (found["threads"].help, found["threads"].group) == ("threads to use", "common params")
    assert found["batching"].group == "more params"
    assert options_of("no options here\n") == ()


PACKAGE = """
import argparse, enum
from typing import Annotated, Literal
from pydantic import BaseModel, ConfigDict, Field

__version__ = "1.2.3"

class Policy(str, enum.Enum):
    FIRST = "FIRST"
    SECOND = "SECOND"

class Deep(BaseModel):
    too_deep: int = 1

class Cache(BaseModel):
    share: float = Field(0.9, ge=0, lt=1)
    deep: Deep = Deep()

class Loader: ...  # has no form in a schema

class Model(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    batch: int = Field(8, gt=0, description="How  many.")
    cache: Cache | None = None
    policy: Policy = Policy.FIRST
    mode: Literal["a"] | None = None
    either: int | str = "/a/path"
    flag: bool = False
    loader: Loader | None = Loader()

class Arguments:
    @staticmethod
    def add_cli_args(parser):
        parser.add_argument("--tp-size", "--tensor-parallel-size", type=int, default=1, help="50%% more")
        parser.add_argument("--policy", choices=["fcfs", "lpm"], default="fcfs")
        parser.add_argument("--share", type=float)
        parser.add_argument("--sizes", nargs="+")
        parser.add_argument("--eager", action="store_true")

class ArgumentInfo:
    help = "by position"

class OptionInfo:
    def __init__(self, help, min=None):
        self.help, self.min, self.max = help, min, None

class Mode(enum.Enum):
    SLOW = "slow"
    FAST = "fast"

class Command:
    def __init__(
        self,
        model: Annotated[str, ArgumentInfo()] = None,
        port: Annotated[int, OptionInfo("where", min=1)] = 8000,
        share: Annotated[float | None, OptionInfo("how much")] = None,
        mode: Annotated[Mode, OptionInfo("how")] = Mode.SLOW,
        level: Annotated[Literal["debug", "info"], OptionInfo("loudness")] = "info",
    ): ...
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "scoot_test_engine"
    (tmp_path / f"{name}.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def listing(kind: str, *names: str) -> dict[str, tuple[object, ...]]:
    told = package_options.look(kind, list(names))
    assert (told["error"], told["version"]) == ("", "1.2.3")
    return {each["name"]: (each["kind"], each["default"], tuple(each["choices"])) for each in told["options"]}


def test_a_pydantic_models_schema_tells_its_options(package: str) -> None:
    assert listing("pydantic", f"{package}:Model") == {
        "batch": ("int", 8, ()),
        "cache__share": ("float", 0.9, ()),
        "either": ("text", None, ()),
        "flag": ("bool", False, ()),
        "loader": ("text", None, ()),
        "mode": ("enum", None, ("a",)),
        "policy": ("enum", "FIRST", ("FIRST", "SECOND")),
    }
    batch, share, *_ = package_options.look("pydantic", [f"{package}:Model"])["options"]
    assert (batch["minimum"], batch["above_minimum"], batch["help"]) == (0, True, "How many.")
    assert (share["minimum"], share["maximum"], share["below_maximum"], share["group"]) == (0, 1, True, "cache")
    assert "above_minimum" not in share


def test_an_argument_parser_tells_its_options(package: str) -> None:
    assert listing("arguments", f"{package}:Arguments") == {
        "eager": ("bool", False, ()),
        "policy": ("enum", "fcfs", ("fcfs", "lpm")),
        "share": ("float", None, ()),
        "sizes": ("list", None, ()),
        "tp_size": ("int", 1, ()),
    }
    told = package_options.look("arguments", [f"{package}:Arguments"])["options"][-1]
    assert (told["aliases"], told["help"]) == (["tensor_parallel_size"], "50% more")


def test_a_commands_signature_tells_its_options(package: str) -> None:
    assert listing("signature", f"{package}:Command") == {
        "level": ("enum", "info", ("debug", "info")),
        "mode": ("enum", "slow", ("slow", "fast")),
        "port": ("int", 8000, ()),
        "share": ("float", None, ()),
    }


@pytest.mark.parametrize("name", ["scoot_no_such_package:X", "json:NoSuchName"])
def test_a_package_that_cannot_tell_says_why(name: str) -> None:
    told = package_options.look("pydantic", [name])
    assert told["options"] == []
    assert name.partition(":")[0].partition("_no")[0] in told["error"]


async def test_an_installation_is_asked_in_its_own_interpreter(tmp_path: Path, package: str) -> None:
    assert package
    settings = EngineSettings(kind="sglang", python=sys.executable, fixed_env={"PYTHONPATH": str(tmp_path)})
    command = base.helper_command(settings, "options", "arguments", f"{package}:Arguments")
    found = await ProgramLister(settings, command, read_package).catalogue()
    assert isinstance(found, Catalogue)
    assert (found.engine, found.version, len(found.options)) == ("sglang", "1.2.3", 5)
    assert found.title == "sglang 1.2.3 (live)"
    wrong = await ProgramLister(settings, (*command[:-1], f"{package}:Nothing"), read_package).catalogue()
    assert isinstance(wrong, Unknown)
    assert "Nothing" in wrong.why
    silent = await ProgramLister(settings, (sys.executable, "-c", "raise SystemExit(3)"), read_package).catalogue()
    assert isinstance(silent, Unknown)
    assert "status 3" in silent.why
    missing = await ProgramLister(settings, (str(tmp_path / "nobody"), "--help"), read_help).catalogue()
    assert isinstance(missing, Unknown)


async def test_a_program_is_asked_for_its_help(tmp_path: Path) -> None:
    (tmp_path / "help.txt").write_text(HELP)
    settings = EngineSettings(kind="llamacpp", program="/bin/cat")
    found = await ProgramLister(settings, ("/bin/cat", str(tmp_path / "help.txt")), read_help).catalogue()
    assert isinstance(found, Catalogue)
    assert len(found.options) == 10
    assert isinstance(await ProgramLister(settings, ("/bin/true",), read_help).catalogue(), Unknown)


def test_every_kind_of_real_engine_is_listed_by_something() -> None:
    for kind in ("trtllm", "sglang", "transformers", "llamacpp"):
        assert make_lister(EngineSettings(kind=kind, python="/p")) is not None
    assert make_lister(EngineSettings(kind="llamacpp", program="/p")) is not None
    assert make_lister(EngineSettings(kind="vllm", python="/p")) is None
    assert make_lister(EngineSettings(kind="mock")) is None
