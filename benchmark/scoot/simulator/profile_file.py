"""Reads and writes profile files: step times fitted to a user's own timings, as JSON. IO."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from scoot.simulator.linear import PROFILE_SCHEMA, Profile
from scoot.simulator.shapes import gpu_named, model_named
from scoot.wire import limits
from scoot.wire.errors import PermanentInfraError, UserError

_CONVERT_PATH: Final = re.compile(r" - at `\$\.?(.*)`$")
_AGAIN: Final = "write it anew with `scoot.simulator fit`"


def read_profile(path: Path | str) -> Profile:
    """The profile in a file, checked.

    Raises:
        UserError: unreadable, no profile, of a newer schema, or of a model or GPU the simulator does not know; with
            file and key.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(limits.SPEC_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"the profile cannot be read: {reason}", path=str(path), hint=_AGAIN) from error
    if len(data) > limits.SPEC_BYTES:
        raise UserError(f"a profile of over {limits.SPEC_BYTES} bytes", path=str(path), hint="is it one?")
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise UserError("not valid JSON", path=str(path), hint=_AGAIN) from error
    if not isinstance(raw, dict):
        raise UserError("no profile: expected an object", path=str(path), hint=_AGAIN)
    schema = raw.get("schema")
    if isinstance(schema, int) and schema > PROFILE_SCHEMA:
        raise UserError(
            f"schema {schema} is newer than {PROFILE_SCHEMA}", path=str(path), key="schema", hint="update SCOOT"
        )
    try:
        profile = msgspec.convert(raw, Profile)
    except msgspec.ValidationError as error:
        found = _CONVERT_PATH.search(str(error))
        message = str(error)[: found.start()] if found else str(error)
        raise UserError(message, path=str(path), key=found[1] if found else "", hint=_AGAIN) from error
    try:
        model_named(profile.model)
        gpu_named(profile.gpu)
    except UserError as error:
        raise error.at(path=str(path)) from error
    return profile


def write_profile(path: Path | str, profile: Profile, *, overwrite: bool = False) -> None:
    """Write a profile, whole or not at all.

    Raises:
        UserError: the file is there and `overwrite` is not set, or its folder is not there.
        PermanentInfraError: it cannot be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise UserError("there is no such folder", path=str(path.parent), hint="make it first")
    text = json.dumps(msgspec.to_builtins(profile), indent=2) + "\n"
    try:
        handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(partial).chmod(0o644)
            if overwrite:
                Path(partial).replace(path)
            else:
                path.hardlink_to(partial)
        finally:
            Path(partial).unlink(missing_ok=True)
    except FileExistsError as error:
        raise UserError("the file is there already", path=str(path), hint="name another, or add --force") from error
    except OSError as error:
        raise PermanentInfraError(f"{path}: cannot be written: {error.strerror}") from error
