"""Reads a simulated service from a file, TOML or JSON. IO.

engine = "vllm-0.4.2"
model = "llama2-13b"
gpu = "a100"
devices = 2

[parameters]
max_num_seqs = 128
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any, Final

import msgspec

from scoot.simulator.profile_file import read_profile
from scoot.simulator.service import SimulatedService, check_service
from scoot.wire import limits
from scoot.wire.errors import UserError
from scoot.wire.study_file import located, suggest

_TOML_LINE: Final = re.compile(r" \(at line (\d+), column \d+\)$")
_CONVERT_PATH: Final = re.compile(r" - at `\$\.?(.*)`$")
_HIDDEN: Final = "fitted"


def read_service(path: Path | str) -> SimulatedService:
    """Read and check a service. Files whose name ends in .json are JSON, all others TOML.

    Its profile, if it names one, is read as well; a relative path is relative to the file's folder.

    Raises:
        UserError: unreadable, malformed, an unknown key, a wrong type or a name the simulator does not know; with file,
            line, key and remedy. What only its engine would refuse is left to `resolve`.
    """
    path = Path(path)
    text = _text(path)
    is_json = path.suffix.lower() == ".json"
    raw = _json(text, path) if is_json else _toml(text, path)
    try:
        service = _converted(raw)
        check_service(service)
        service = with_profile(service, path.parent)
    except UserError as error:
        if is_json:
            raise error.at(path=str(path), line=_json_line(text, error.key)) from error
        raise located(error, text, path=str(path)) from error
    return service


def with_profile(service: SimulatedService, folder: Path) -> SimulatedService:
    """The service with what stands in its profile, if it names one; a relative path is relative to `folder`.

    Raises:
        UserError: as read_profile.
    """
    if not service.profile:
        return service
    return msgspec.structs.replace(service, fitted=read_profile(folder / service.profile))


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read the service: {reason}", path=str(path)) from error
    if len(data) > limits.SPEC_BYTES:
        raise UserError(f"the file is larger than {limits.SPEC_BYTES} bytes", path=str(path))
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8", path=str(path)) from error


def _toml(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _TOML_LINE.search(str(error))
        message = str(error)[: found.start()] if found else str(error)
        raise UserError(f"not valid TOML: {message}", path=str(path), line=int(found[1]) if found else 0) from error
    except RecursionError as error:
        raise UserError("nested too deeply", path=str(path)) from error


def _json(text: str, path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"not valid JSON: {error.msg}", path=str(path), line=error.lineno) from error
    except (RecursionError, ValueError) as error:  # ValueError: an integer of thousands of digits
        raise UserError("not valid JSON: nested too deeply, or a number that is too long", path=str(path)) from error
    if not isinstance(raw, dict):
        raise UserError("expected an object", path=str(path), hint='as {"model": "llama2-13b", "gpu": "a100"}')
    return raw


def _converted(raw: dict[str, Any]) -> SimulatedService:
    names = [field.name for field in msgspec.structs.fields(SimulatedService) if field.name != _HIDDEN]
    for name in raw:
        if name not in names:
            raise UserError("unknown key", key=name[: limits.STRING_CHARS], hint=suggest(name, names))
    for name in ("model", "gpu"):
        if name not in raw:
            raise UserError(f"the key {name!r} is missing", hint="add it to the file")
    try:
        return msgspec.convert(raw, SimulatedService)
    except msgspec.ValidationError as error:
        found = _CONVERT_PATH.search(str(error))
        message = str(error)[: found.start()] if found else str(error)
        raise UserError(message, key=_concrete(found[1], raw) if found else "") from error


def _concrete(place: str, raw: dict[str, Any]) -> str:
    """Msgspec writes `parameters[...]`: name the parameter, the first whose value is no scalar."""
    if not place.endswith("[...]"):
        return place
    table = raw.get(place.removesuffix("[...]"), {})
    odd = (name for name, value in table.items() if not isinstance(value, bool | int | float | str))
    return f"{place.removesuffix('[...]')}.{next(odd, '*')}"


def _json_line(text: str, key: str) -> int:
    """The line on which a dotted key of a JSON text stands, the table's if it is not found, 0 for none."""
    at = line = 0
    for part in filter(None, key.split(".")):
        found = re.compile(rf'"{re.escape(part)}"\s*:').search(text, at)
        if found is None:
            break
        at = found.start()
        line = text.count("\n", 0, at) + 1
    return line
