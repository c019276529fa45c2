"""scootctl doctor: is this machine fit for what you want to do with it?"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import msgspec

from scoot.cli.exits import CoordinatorUnreachableError, Exit
from scoot.cli.options import AS_JSON, Connection, connection_options, print_json
from scoot.wire.errors import ScootError

_PYTHON: Final = (3, 11)
_FREE_BYTES: Final = 1024**3
_ENGINE_FREE_BYTES: Final = 64 * 1024**2
_CHILD_S: Final = 300.0

_EXTRAS: Final = (
    ("scootctl", ("grpc", "google.protobuf", "msgspec", "numpy", "rich", "zstandard", "uvloop")),
    ("coordinator", ("torch", "botorch", "gpytorch", "sklearn", "scipy", "jinja2")),
    ("agent", ("psutil", "pynvml")),
)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing looked at: `status` is "ok", "warning" or "error"; `remedy` is "" when there is nothing to do."""

    status: str
    what: str
    detail: str
    remedy: str = ""


@click.command()
@click.option("--config", type=click.Path(), help="Also check this agent configuration and probe its engines.")
@click.option("--data", type=click.Path(), help="Also check the store of a coordinator that is not running.")
@AS_JSON
@connection_options
def doctor(config: str | None, data: str | None, as_json: bool, connection: Connection) -> None:
    """Check this machine: Python, packages, coordinator, disk; with options also an agent and a store."""
    findings = [*_python(), *_packages(), *_disk(Path.cwd()), asyncio.run(_coordinator(connection))]
    if config is not None:
        findings.append(_child("agent configuration", "scoot.agent", "--config", config, "--check"))
    if data is not None:
        findings.append(_child("coordinator's store", "scoot.coordinator", "--data", data, "doctor"))
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            click.echo(f"{finding.status:<8} {finding.what}: {finding.detail}")
            if finding.remedy:
                click.echo(f"         {finding.remedy}")
    if any(finding.status == "error" for finding in findings):
        raise click.exceptions.Exit(Exit.FAILED)


def _python() -> Iterator[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    wanted = ".".join(map(str, _PYTHON))
    good = sys.version_info >= _PYTHON
    yield Finding(
        status="ok" if good else "error",
        what="python",
        detail=f"{found} at {sys.executable}",
        remedy="" if good else f"install Python {wanted} or newer",
    )


def _packages() -> Iterator[Finding]:
    for extra, names in _EXTRAS:
        missing = [name for name in names if not _importable(name)]
        required = extra == "scootctl"
        detail = f"missing: {', '.join(missing)}" if missing else f"{len(names)} packages importable"
        remedy = f"pip install 'scoot-tuner[{extra}]', if this machine is to be one" if missing else ""
        if missing and required:
            remedy = "pip install --force-reinstall scoot-tuner"
        status = "ok" if not missing else "error" if required else "warning"
        yield Finding(status=status, what=f"packages of {extra}", detail=detail, remedy=remedy)


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _disk(folder: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free
    status = "ok" if free >= _FREE_BYTES else "warning" if free >= _ENGINE_FREE_BYTES else "error"
    yield Finding(
        status=status,
        what="disk",
        detail=f"{free / 1024**3:.1f} GiB free at {folder}",
        remedy="" if status == "ok" else "free some space: timings of a study take up to a few hundred MiB",
    )


async def _coordinator(connection: Connection) -> Finding:
    what = f"coordinator {connection.endpoint}"
    try:
        async with connection.open() as coordinator:
            agents = await coordinator.list_agents()
    except CoordinatorUnreachableError as error:
        status = "error" if connection.given else "warning"
        return Finding(status=status, what=what, detail=error.message, remedy=error.hint)
    except ScootError as error:
        return Finding(status="error", what=what, detail=str(error))
    return Finding(status="ok", what=what, detail=f"answers, {len(agents)} agents known")


def _child(what: str, module: str, *arguments: str) -> Finding:
    """The verdict of one of the daemons' own checks, as its last lines and exit status."""
    argv = [sys.executable, "-P", "-m", module, *arguments]
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_CHILD_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Finding(
            status="error", what=what, detail=f"no answer within {_CHILD_S:g} s", remedy=f"run: {' '.join(argv)}"
        )
    output = "\n".join(filter(None, (done.stdout.strip(), done.stderr.strip())))
    detail = output.replace("\n", "\n         ") or f"exit status {done.returncode}"
    return Finding(status="ok" if done.returncode == 0 else "error", what=what, detail=detail)
