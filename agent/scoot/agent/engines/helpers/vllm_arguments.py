"""What a vLLM installation makes of options; see `resident`. Runs in its interpreter: the standard library only.

A configuration takes the way it takes at a start: command line, argument parser, `create_engine_config` for an OpenAI
server. No weights are read, no device is used, nothing is listened on.
"""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from scoot.agent.engines.helpers import command_line
from scoot.agent.engines.helpers.plain import is_value, plain
from scoot.agent.engines.helpers.resident import reference_model, stay

_PARSERS = ("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")
"""Where the server's parser has lived, newest first."""

_CLASSES = ("vllm.utils.argparse_utils", "vllm.utils")
"""Where the class of parsers has lived, newest first; 0.9 has the latter."""

_FIELDS = {
    "attention_backend": "attention_config.backend",
    "kv_cache_dtype": "cache_config.cache_dtype",
    "limit_mm_per_prompt": "multimodal_config.limit_per_prompt",
    "lora_target_modules": "lora_config.target_modules",
    "mamba_backend": "mamba_config.backend",
    "scheduling_policy": "scheduler_config.policy",
    "spec_method": "speculative_config.method",
    "spec_model": "speculative_config.model",
    "spec_tokens": "speculative_config.num_speculative_tokens",
}
"""Options whose field has another name; the others' have the option's own, in the class that names the group."""

_ASIDE = re.compile(
    r"(_port|_ports|_path|_dir|_hash|_id|_ip|_addr|_address|_token)$"
    r"|^(model|model_weights|tokenizer|served_model_name|host|port|uds|config|load_format|skip_tokenizer_init)$"
    r"|^user_specified_"
)
"""Fields that say where, or who said it, and not how: never part of an effective configuration."""

_BETWEEN_RANKS = "disable_nccl_for_dp_synchronization"
"""Follows asynchronous scheduling, and does nothing without data parallelism."""


class VllmArguments:
    """The imported vLLM; see resident.Arguments."""

    def __init__(self, folder: Path) -> None:
        vllm = importlib.import_module("vllm")
        self.version = str(vllm.__version__)
        self.title = f"vLLM {self.version}"
        self.device = str(importlib.import_module("vllm.platforms").current_platform.device_type)
        self._arguments = importlib.import_module("vllm.engine.arg_utils")
        self._usage = importlib.import_module("vllm.usage.usage_lib").UsageContext.OPENAI_API_SERVER
        self._reference = reference_model(folder)
        self._parser = self._make_parser()
        self._actions = command_line.actions_of(self._parser)
        self._groups = {name: command_line.group_of(self._parser, action) for name, action in self._actions.items()}

    @property
    def options(self) -> Collection[str]:
        """See resident.Arguments."""
        return self._actions.keys()

    def _make_parser(self) -> Any:  # noqa: ANN401 - vLLM's own class of parsers
        """The server's parser; the engine's alone where the server's has moved."""
        # Descriptions are collected only for a process that is asked for help.
        vars(self._arguments)["NEEDS_HELP"] = True
        kind = _first(_CLASSES, "FlexibleArgumentParser")
        if kind is None:
            raise ImportError(f"no FlexibleArgumentParser in {' or '.join(_CLASSES)}")
        parser = kind(prog="vllm", allow_abbrev=False, add_help=False)
        make = _first(_PARSERS, "make_arg_parser") or self._arguments.AsyncEngineArgs.add_cli_args
        made = make(parser)
        command_line.make_refuse(made)
        return made

    def describe(self) -> list[dict[str, Any]]:
        """See resident.Arguments."""
        return [{**each, **self._bounds(each["name"])} for each in command_line.options_of(self._parser)]

    def _bounds(self, name: str) -> dict[str, Any]:
        """minimum, maximum and whether they are excluded, where the option's field states them."""
        found: dict[str, Any] = {}
        for item in getattr(self._field(name), "metadata", ()):
            for attribute, key, exclusive in (
                ("ge", "minimum", ""),
                ("gt", "minimum", "above_minimum"),
                ("le", "maximum", ""),
                ("lt", "maximum", "below_maximum"),
            ):
                limit = getattr(item, attribute, None)
                if isinstance(limit, (int, float)) and not isinstance(limit, bool):
                    found[key] = limit
                    if exclusive:
                        found[exclusive] = True
        return found

    def _field(self, name: str) -> Any:  # noqa: ANN401 - pydantic's description of a field, or None
        group = self._groups[name]
        config = getattr(importlib.import_module("vllm.config"), group, None)
        own = _FIELDS.get(name, name).rpartition(".")[2]
        return getattr(config, "__pydantic_fields__", {}).get(own)

    def resolve(self, config: Mapping[str, Any], model: str) -> dict[str, Any]:
        """The engine's configuration for an OpenAI server, flattened. Raises whatever vLLM raises."""
        argv = ["--model", model or str(self._reference)]
        if not model:
            argv += ["--skip-tokenizer-init", "--load-format", "dummy"]
        for name, value in config.items():
            argv += command_line.arguments(self._actions[name], value)
        # A copy: the parser's own defaults are handed out, and filled in in place.
        asked = copy.deepcopy(self._parser.parse_args(argv))
        arguments = self._arguments.AsyncEngineArgs.from_cli_args(asked)
        found = dict(self._flattened(arguments.create_engine_config(usage_context=self._usage)))
        for name in self._actions:
            # The API server's own options, and those of parts that are not in use: as they were parsed.
            value = plain(getattr(asked, name, None))
            if name not in found and not _ASIDE.search(name) and is_value(value):
                found[name] = value
        if found.get("data_parallel_size") == 1:
            found.pop(_BETWEEN_RANKS, None)
        return found

    def _flattened(self, made: object) -> Iterator[tuple[str, Any]]:
        """Plain fields of the resolved configuration: by their option's name, others as `part.field`."""
        options = {}
        for name, group in self._groups.items():
            part = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", group).lower()
            options[_FIELDS.get(name, f"{part}.{name}")] = name
            options.setdefault(f"vllm_config.{name}", name)
        for key, value in _leaves("", made, depth=3):
            shown = plain(value)
            last = key.rpartition(".")[2]
            if key.startswith("model_config.") and key not in options:
                continue  # what the model is, not how it is served
            if last.startswith("_") or _ASIDE.search(last) or not is_value(shown):
                continue
            yield options.get(key, options.get(f"vllm_config.{key}", key)), shown


def _first(modules: tuple[str, ...], name: str) -> Any:  # noqa: ANN401 - whatever vLLM has under that name
    """What the first of these modules that exists and has it calls `name`, None if none does."""
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
    return None


def _leaves(prefix: str, item: object, *, depth: int) -> Iterator[tuple[str, object]]:
    """Fields of a configuration and of those inside it, as (dotted name, value)."""
    for name, value in vars(item).items():
        key = f"{prefix}{name}"
        if depth > 1 and hasattr(type(value), "__dataclass_fields__"):
            yield from _leaves(f"{key}.", value, depth=depth - 1)
        else:
            yield key, value


def main(_: list[str]) -> None:
    """Answer until the input ends."""
    stay(VllmArguments)
