"""The agent's own configuration file: who it is, where its coordinator is, and what it may run (docs/agent-config.md).

The file is the authority over what is executed on this host, so everything in it is checked before anything is used.
"""

from __future__ import annotations

import difflib
import re
import socket
import tomllib
from pathlib import Path
from typing import Any, Final

import msgspec

from scoot.agent.engines.base import EngineSettings
from scoot.wire import limits
from scoot.wire.endpoint import Endpoint, TlsFiles, parse_endpoint, require_tls
from scoot.wire.errors import UserError

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ENGINE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_GIB: Final = 1024**3
_LONGEST_WAIT_S: Final = 3600.0
_FILE_BYTES: Final = 1024 * 1024
_TOML_LINE: Final = re.compile(r"\(at line (\d+), column \d+\)")
_CONVERT_PATH: Final = re.compile(r" - at `\$\.?(.*)`$")


class _AgentSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table [agent] as it stands in the file."""

    coordinator: str
    data_dir: str
    id: str = ""
    model_roots: tuple[str, ...] = ()
    cpu_slots: int | None = None
    reserve_memory_gib: float = 2.0
    room_wait_s: float = 30.0


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file as it stands."""

    agent: _AgentSection
    engines: dict[str, EngineSettings]
    tls: TlsFiles | None = None


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A checked configuration; every path is absolute.

    Attributes:
        path: the file it came from.
        agent_id: stable name of this agent.
        data_dir: where spools, outcomes, logs and blobs are kept.
        coordinator: its address.
        model_roots: folders models may be served from.
        cpu_slots: CPU slots to offer; None is one where there is no GPU, none otherwise.
        reserve_memory_bytes: host memory that must be left free when an attempt begins.
        room_wait_s: how long an attempt waits for GPUs and host memory that others hold before it is refused.
        tls: PEM files; None only where the coordinator is on loopback.
        engines: engines this host may run, by the name studies use.
    """

    path: Path
    agent_id: str
    data_dir: Path
    coordinator: Endpoint
    model_roots: tuple[str, ...]
    cpu_slots: int | None
    reserve_memory_bytes: int
    room_wait_s: float
    tls: TlsFiles | None
    engines: dict[str, EngineSettings]


def load_config(path: Path) -> AgentConfig:
    """Read and check a configuration file. Relative paths in it are relative to its folder.

    Raises:
        UserError: unreadable, not TOML, an unknown key, a wrong type or a value that makes no sense.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read the configuration: {error.strerror}", path=str(path), hint="give --config FILE"
        ) from error
    if len(data) > _FILE_BYTES:
        raise UserError(f"{len(data)} bytes are too many for a configuration file", path=str(path))
    try:
        text = data.decode()
        raw = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8", path=str(path)) from error
    except tomllib.TOMLDecodeError as error:
        found = _TOML_LINE.search(str(error))
        raise UserError(f"is not TOML: {error}", path=str(path), line=int(found[1]) if found else 0) from error
    try:
        return _checked(_converted(raw), path)
    except UserError as error:
        raise error.at(path=str(path), line=_line_of(text, error.key)) from error


def _converted(raw: dict[str, Any]) -> _File:
    _refuse_unknown(raw, _File, "")
    try:
        return msgspec.convert(raw, _File)
    except msgspec.ValidationError as error:
        found = _CONVERT_PATH.search(str(error))
        message = str(error)[: found.start()] if found else str(error)
        raise UserError(message, key=_concrete(found[1], raw) if found else "") from error


def _refuse_unknown(raw: dict[str, Any], type_: Any, prefix: str) -> None:  # noqa: ANN401 - a struct class
    """Unknown keys, found before msgspec does so that the nearest known one can be named."""
    kinds = {field.encode_name: field.type for field in msgspec.structs.fields(type_)}
    for key, value in raw.items():
        if key not in kinds:
            near = difflib.get_close_matches(key, kinds, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(kinds))}"
            raise UserError("unknown key", key=prefix + key, hint=hint)
        if not isinstance(value, dict):
            continue
        if key == "agent":
            _refuse_unknown(value, _AgentSection, "agent.")
        elif key == "tls":
            _refuse_unknown(value, TlsFiles, "tls.")
        elif key == "engines":
            for name, table in value.items():
                if isinstance(table, dict):
                    _refuse_unknown(table, EngineSettings, f"engines.{name}.")


def _concrete(path: str, raw: dict[str, Any]) -> str:
    """Msgspec writes `engines[...].python`; name the only engine where there is no doubt."""
    names = list(raw.get("engines", {})) if isinstance(raw.get("engines"), dict) else []
    return path.replace("engines[...]", f"engines.{names[0]}") if len(names) == 1 else path.replace("[...]", ".*")


def _checked(file: _File, path: Path) -> AgentConfig:
    folder = path.resolve().parent
    section = file.agent
    agent_id = section.id or socket.gethostname()
    if not _ID.fullmatch(agent_id):
        raise UserError(
            f"{agent_id!r} is not a name", key="agent.id", hint="use letters, digits and . _ - (at most 128)"
        )
    coordinator = parse_endpoint(section.coordinator, key="agent.coordinator")
    if coordinator.port == 0:
        raise UserError("port 0 cannot be connected to", key="agent.coordinator")
    tls = file.tls
    if tls is not None:
        tls = TlsFiles(**{name: str(folder / getattr(tls, name)) for name in ("ca", "cert", "key")})
    require_tls(coordinator, tls, key="agent.coordinator")
    if section.cpu_slots is not None and not 0 <= section.cpu_slots <= limits.DEVICES_PER_AGENT:
        raise UserError(f"{section.cpu_slots} is not within 0..{limits.DEVICES_PER_AGENT}", key="agent.cpu_slots")
    _check_room(section)
    if not section.data_dir:
        raise UserError("is empty", key="agent.data_dir", hint='for example "/var/lib/scoot-agent"')
    if not file.engines:
        raise UserError(
            "no engine is configured", key="engines", hint="add a table [engines.vllm] or [engines.simulated]"
        )
    for name in file.engines:
        if not _ENGINE_NAME.fullmatch(name):
            raise UserError(f"{name!r} is not an engine name", key="engines", hint="use a-z, 0-9, _ and -")
    return AgentConfig(
        path=path,
        agent_id=agent_id,
        data_dir=folder / section.data_dir,
        coordinator=coordinator,
        model_roots=tuple(str(folder / root) for root in section.model_roots),
        cpu_slots=section.cpu_slots,
        reserve_memory_bytes=int(section.reserve_memory_gib * _GIB),
        room_wait_s=section.room_wait_s,
        tls=tls,
        engines=file.engines,
    )


def _check_room(section: _AgentSection) -> None:
    if not 0 <= section.reserve_memory_gib < float("inf"):
        raise UserError(f"{section.reserve_memory_gib} is not a size", key="agent.reserve_memory_gib", hint="GiB, >= 0")
    if not 0 <= section.room_wait_s <= _LONGEST_WAIT_S:
        raise UserError(
            f"{section.room_wait_s} is out of range", key="agent.room_wait_s", hint=f"0 to {_LONGEST_WAIT_S:g} seconds"
        )


def _line_of(text: str, key: str) -> int:
    """The line a dotted key stands on: the key in its table, else the table, else 0."""
    table, _, leaf = key.rpartition(".")
    here, found = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        head = re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line)
        if head:
            here = head[1].replace('"', "")
            if here == key or (here == table and not found):
                found = number
        elif here == table and re.match(rf'\s*"?{re.escape(leaf)}"?\s*=', line):
            return number
    return found
