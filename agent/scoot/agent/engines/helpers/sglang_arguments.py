"""What an SGLang installation makes of options; see `resident`. Runs in its interpreter: the standard library only.

A configuration takes the way it takes at a start: command line, argument parser, `ServerArgs`, which is resolved and
checked. Earlier releases resolve when it is made, later ones when they are told to.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from scoot.agent.engines.helpers import command_line
from scoot.agent.engines.helpers.package_probe import device
from scoot.agent.engines.helpers.plain import is_value, plain
from scoot.agent.engines.helpers.resident import reference_model, stay

_PLACE = re.compile(r"(_path|_dir|_file|_id|_ip|_addr|_address|_host|_key|_keyfile|_certfile|_token|_url)$")
_ASIDE = re.compile(
    r"^_|_explicitly_set$|_ports?$|^(host|port|served_model_name|load_format|skip_tokenizer_init|random_seed|nccl_init_addr|config)$"
)
"""Fields that say where, or differ by chance, and not how: never part of an effective configuration."""


class SglangArguments:
    """The imported SGLang; see resident.Arguments."""

    def __init__(self, folder: Path) -> None:
        self.version = str(importlib.import_module("sglang").__version__)
        self.title = f"SGLang {self.version}"
        self.device = device()
        self._kind = importlib.import_module("sglang.srt.server_args").ServerArgs
        self._reference = reference_model(folder)
        self._parser = argparse.ArgumentParser(prog="sglang", allow_abbrev=False, add_help=False)
        self._kind.add_cli_args(self._parser)
        command_line.make_refuse(self._parser)
        self._actions = command_line.actions_of(self._parser)

    @property
    def options(self) -> Collection[str]:
        """See resident.Arguments."""
        return self._actions.keys()

    def describe(self) -> list[dict[str, Any]]:
        """See resident.Arguments."""
        return list(command_line.options_of(self._parser))

    def resolve(self, config: Mapping[str, Any], model: str) -> dict[str, Any]:
        """See resident.Arguments."""
        argv = ["--model-path", model or str(self._reference)]
        if not model:
            argv += ["--skip-tokenizer-init", "--load-format", "dummy"]
        if self.device == "cpu" and "device" not in config:
            argv += ["--device", "cpu"]
        for name, value in config.items():
            argv += command_line.arguments(self._actions[name], value)
        made = self._kind.from_cli_args(copy.deepcopy(self._parser.parse_args(argv)))
        if hasattr(made, "resolve_once"):
            made.resolve_once()
        made.check_server_args()
        resolved = made.resolved_dict() if hasattr(made, "resolved_dict") else dataclasses.asdict(made)
        shown = ((name, plain(value)) for name, value in _leaves(resolved, depth=3))
        return {name: value for name, value in shown if is_value(value) and not _is_aside(name, value)}


def _leaves(resolved: Mapping[str, Any], *, depth: int) -> Iterator[tuple[str, Any]]:
    """Fields, those of records inside as PART.FIELD: which graphs there are is in one."""
    for name, value in resolved.items():
        if isinstance(value, Mapping) and depth > 1:
            yield from ((f"{name}.{each}", inner) for each, inner in _leaves(value, depth=depth - 1))
        else:
            yield name, value


def _is_aside(name: str, value: object) -> bool:
    return bool(_ASIDE.search(name) or (isinstance(value, str) and _PLACE.search(name)))


def main(_: list[str]) -> None:
    """Answer until the input ends."""
    stay(SglangArguments)
