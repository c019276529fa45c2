"""Answers questions about a vLLM installation's options. Run by path with *its* interpreter; imports nothing of SCOOT.

One JSON object a line, on standard input and output; `id` comes back with the answer. First, unasked, once vLLM is
imported: `{"ready": true, "version": ..., "device": ...}`, or `{"ready": false, "error": ...}`. Then

    {"id": 1, "op": "catalogue"}
        -> {"id": 1, "options": [...]}: every option of the OpenAI server's parser, as scoot.wire.catalogue.option has
        it, with the defaults that a small model gets on this host
    {"id": 2, "op": "check", "config": {"max_num_seqs": 64}, "model": "/models/llama"}
        -> {"id": 2, "ok": true, "effective": {...}}: vLLM accepts it, and makes this of it
        -> {"id": 2, "ok": false, "reason": ..., "kind": ..., "options": [...]}: it does not
        -> {"id": 2, "ok": null, "why": ...}: nobody can tell (the model alone is refused, memory is short)

A configuration takes the way it takes at a start: command line, argument parser, `create_engine_config` for an OpenAI
server. No weights are read, no device is used, nothing is listened on. Without a model a tiny reference stands in.
Whatever a check raises is an answer. What a check leaves behind (environment variables, arguments changed in place) is
put back, and from time to time the default is resolved again: if it has come to differ, the process ends with status
3, so that another takes its place. At the end of its input it ends, and with its parent.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import enum
import importlib
import json
import math
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

DRIFTED = 3
DRIFT_EVERY = 100
"""Checks between two looks at whether the default still resolves to the same."""

_PR_SET_PDEATHSIG = 1
_HELP_CHARS = 160
_REASON_CHARS = 600
_ITEMS = 64
"""Longest list that is a value; longer ones (sizes of graphs) are cut."""

_PARSERS = ("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")
"""Where the server's parser has lived, newest first."""

_REFERENCE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "vocab_size": 256,
    "torch_dtype": "bfloat16",
}
"""Eight heads and layers, so that usual degrees of parallelism divide them."""

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

_BAD_VALUES = re.compile(
    r"greater_than|less_than|literal_error|_type$|_parsing$|enum|finite_number|multiple_of|too_(long|short)"
)
"""Types of pydantic's errors that are about one value alone."""

_CAUSES = (ValueError, TypeError, AssertionError, NotImplementedError, KeyError, AttributeError, ImportError)
"""What vLLM raises about a configuration. Others (no memory, no file) are about the host."""


class _UsageError(Exception):
    """The argument parser refuses a command line."""


class Engine:
    """The imported vLLM: its parser, and what it makes of a configuration.

    Attributes:
        version, device: as vLLM calls them.
    """

    def __init__(self, folder: Path) -> None:
        vllm = importlib.import_module("vllm")
        self.version = str(vllm.__version__)
        self.device = str(importlib.import_module("vllm.platforms").current_platform.device_type)
        self._arguments = importlib.import_module("vllm.engine.arg_utils")
        self._usage = importlib.import_module("vllm.usage.usage_lib").UsageContext.OPENAI_API_SERVER
        self._reference = folder / "reference"
        self._reference.mkdir()
        (self._reference / "config.json").write_text(json.dumps(_REFERENCE), encoding="utf-8")
        self._parser = self._make_parser()
        self._actions = {action.dest: action for action in self._parser._actions if action.option_strings}  # noqa: SLF001 - argparse has no other way to list options
        self._groups = {name: _group_of(self._parser, action) for name, action in self._actions.items()}
        self._unsteady: frozenset[str] = frozenset()
        self._default: dict[str, Any] = {}
        self._good_models: set[str] = set()
        self._checks = 0

    def _make_parser(self) -> Any:  # noqa: ANN401 - vLLM's own class of parsers
        """The server's parser; the engine's alone where the server's has moved."""
        # Descriptions are collected only for a process that is asked for help.
        vars(self._arguments)["NEEDS_HELP"] = True
        parser = importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser(
            prog="vllm", allow_abbrev=False, add_help=False
        )
        for name in _PARSERS:
            try:
                made = importlib.import_module(name).make_arg_parser(parser)
                break
            except (ImportError, AttributeError):
                continue
        else:
            made = self._arguments.AsyncEngineArgs.add_cli_args(parser)

        def refuse(message: str) -> None:
            raise _UsageError(message)

        made.error = refuse
        return made

    def settle(self) -> None:
        """Resolve the default twice: what differs between the two is by chance (ports, identifiers), and left out."""
        self._default = {}
        one, two = (self._resolve({}, "") for _ in range(2))
        self._unsteady = frozenset(name for name in {*one, *two} if name not in one or one[name] != two.get(name))
        self._default = {name: value for name, value in one.items() if name not in self._unsteady}

    def drifted(self) -> bool:
        """Whether earlier checks have changed what the default resolves to; looked at every DRIFT_EVERY checks."""
        self._checks += 1
        if self._checks % DRIFT_EVERY or not self._default:
            return False
        try:
            return self._effective(self._resolve({}, "")) != self._default
        except Exception:  # noqa: BLE001 - it worked at the start
            return True

    def catalogue(self) -> dict[str, Any]:
        """Every option, described."""
        options = []
        for name, action in sorted(self._actions.items()):
            described = _described(name, action, self._groups[name])
            described.update(self._bounds(name))
            effective = self._default.get(name)
            options.append({**described, "effective": effective if _is_plain(effective) else None})
        return {"options": options}

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

    def check(self, config: Mapping[str, Any], model: str) -> dict[str, Any]:
        """What vLLM makes of a configuration, or why it refuses it."""
        unknown = [name for name in config if name not in self._actions]
        if unknown:
            shown = ", ".join(f"--{name.replace('_', '-')}" for name in unknown)
            return {
                "ok": False,
                "reason": f"vLLM {self.version} has no {shown}",
                "kind": "unknown_option",
                "options": unknown,
            }
        try:
            effective = self._effective(self._resolve(config, model))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it raises is the answer
            return self._refusal(error, config, model)
        self._good_models.add(model)
        return {"ok": True, "effective": effective}

    def _refusal(self, error: BaseException, config: Mapping[str, Any], model: str) -> dict[str, Any]:
        """An error as an answer. The configuration is to blame only where the model alone works."""
        kind, reason = _kind_and_reason(error)
        if not isinstance(error, (*_CAUSES, _UsageError)):
            return {"ok": None, "why": f"{type(error).__name__}: {reason}"}
        if model not in self._good_models and not isinstance(error, _UsageError):
            try:
                self._resolve({}, model)
                self._good_models.add(model)
            except Exception as alone:  # noqa: BLE001 - as in `check`
                return {"ok": None, "why": f"refused even without any option: {_kind_and_reason(alone)[1]}"}
        # A single word is a name only where it was asked for: "model" and "watermark" are words as well.
        names = [name for name in self._actions if "_" in name or name in config]
        mentioned = {name for name in names if _mentions(reason, name)} | (_located(error) & set(self._actions))
        return {"ok": False, "reason": reason, "kind": kind, "options": sorted(mentioned)}

    def _effective(self, resolved: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in resolved.items() if name not in self._unsteady}

    def _resolve(self, config: Mapping[str, Any], model: str) -> dict[str, Any]:
        """The engine's configuration for an OpenAI server, flattened. Raises whatever vLLM raises."""
        argv = ["--model", model or str(self._reference)]
        if not model:
            argv += ["--skip-tokenizer-init", "--load-format", "dummy"]
        for name, value in config.items():
            argv += _arguments(self._actions[name], value)
        kept = dict(os.environ)
        try:
            # A copy: the parser's own defaults are handed out, and filled in in place.
            asked = copy.deepcopy(self._parser.parse_args(argv))
            arguments = self._arguments.AsyncEngineArgs.from_cli_args(asked)
            made = arguments.create_engine_config(usage_context=self._usage)
            found = dict(self._flattened(made))
        finally:
            if dict(os.environ) != kept:
                os.environ.clear()
                os.environ.update(kept)
        for name in self._actions:
            # The API server's own options, and those of parts that are not in use: as they were parsed.
            value = _plain(getattr(asked, name, None))
            if name not in found and not _ASIDE.search(name) and _is_value(value):
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
            plain = _plain(value)
            last = key.rpartition(".")[2]
            if key.startswith("model_config.") and key not in options:
                continue  # what the model is, not how it is served
            if last.startswith("_") or _ASIDE.search(last) or not _is_value(plain):
                continue
            yield options.get(key, options.get(f"vllm_config.{key}", key)), plain


def _leaves(prefix: str, item: object, *, depth: int) -> Iterator[tuple[str, object]]:
    """Fields of a configuration and of those inside it, as (dotted name, value)."""
    for name, value in vars(item).items():
        key = f"{prefix}{name}"
        if depth > 1 and hasattr(type(value), "__dataclass_fields__"):
            yield from _leaves(f"{key}.", value, depth=depth - 1)
        else:
            yield key, value


def _plain(value: object) -> object:
    """Enumerations by their plain value or name, torch's types by text, sets and tuples as lists."""
    if isinstance(value, enum.Enum):
        return value.value if isinstance(value.value, (str, int)) else value.name
    if type(value).__module__ == "torch" and type(value).__name__ == "dtype":
        return str(value).removeprefix("torch.")
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _is_plain(value: object) -> bool:
    """Whether it is a scalar of JSON or a short list of them; no paths."""
    if isinstance(value, list):
        return len(value) <= _ITEMS and all(_is_plain(item) and not isinstance(item, list) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return not value.startswith(("/", "~")) and len(value) <= _REASON_CHARS
    return isinstance(value, (bool, int))


def _is_value(value: object) -> bool:
    return value is None or _is_plain(value) or (isinstance(value, list) and all(map(_is_plain, value)))


def _arguments(action: Any, value: object) -> list[str]:  # noqa: ANN401 - an argparse action
    """A value on the command line, as the agent writes it."""
    flag = next((item for item in action.option_strings if item.startswith("--")), action.option_strings[0])
    if isinstance(value, bool):
        negative = f"--no-{flag[2:]}"
        if not value and negative not in action.option_strings and action.nargs == 0:
            return []
        return [flag if value else negative]
    if isinstance(value, list):
        return [flag, *(str(item) for item in value)]
    if isinstance(value, dict):
        return [f"{flag}={json.dumps(value)}"]
    return [f"{flag}={value!r}" if isinstance(value, float) else f"{flag}={value}"]


def _group_of(parser: Any, action: Any) -> str:  # noqa: ANN401 - argparse's own
    """The title of the group an option is listed in."""
    for group in parser._action_groups:  # noqa: SLF001 - argparse has no other way
        if action in group._group_actions:  # noqa: SLF001 - as above
            return str(group.title or "")
    return ""


def _described(name: str, action: Any, group: str) -> dict[str, Any]:  # noqa: ANN401 - an argparse action
    """Name, aliases, kind, choices, default, whether it may be unset, help and group of an option."""
    spelled = [item.lstrip("-").replace("-", "_") for item in action.option_strings if not item.startswith("--no-")]
    default = None if action.default is argparse.SUPPRESS else _plain(action.default)
    kind = _kind_of(action)
    listed = action.choices or (action.metavar if isinstance(action.metavar, (list, tuple)) else ())
    choices = [item for item in map(_plain, listed) if item not in (None, "None")]
    words = (action.help or "").replace("%%", "%").split("\n\n")[0].split()
    sentence = re.split(r"(?<=\.)(?<!e\.g\.)(?<!i\.e\.)\s(?=[A-Z])", " ".join(words), maxsplit=1)[0]
    return {
        "name": name,
        "aliases": sorted({item for item in spelled if item != name}),
        "kind": "enum" if choices and kind == "text" else kind,
        "choices": [item for item in choices if _is_plain(item)],
        "default": default if _is_plain(default) else None,
        "nullable": default is None or _takes(action.type, "None") is None,
        "help": sentence if len(sentence) <= _HELP_CHARS else sentence[: _HELP_CHARS - 3] + "...",
        "group": group,
    }


_REFUSED = object()


def _takes(convert: Callable[[str], Any] | None, text: str) -> object:
    """What a parser's type makes of a text; _REFUSED if it raises."""
    if convert is None:
        return text
    try:
        return convert(text)
    except Exception:  # noqa: BLE001 - types raise what they like
        return _REFUSED


def _kind_of(action: Any) -> str:  # noqa: ANN401 - an argparse action
    """Kind of an option by what its type does with texts: types are closures that do not say what they are."""
    if action.nargs in ("+", "*") or type(action).__name__ == "_AppendAction":
        return "list"
    if action.nargs == 0:
        return "bool"
    if action.type is None or _takes(action.type, "{}") is not _REFUSED:
        return "text"
    whole = _takes(action.type, "2")
    if isinstance(whole, int) and not isinstance(whole, bool) and _takes(action.type, "0.5") is _REFUSED:
        return "int"
    return "float" if isinstance(whole, float) and _takes(action.type, "word") is _REFUSED else "text"


def _located(error: BaseException) -> set[str]:
    """Names of fields at which pydantic saw an error."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return set()
    return {str(part) for item in errors() for part in item.get("loc", ()) if isinstance(part, str)}


def _kind_and_reason(error: BaseException) -> tuple[str, str]:
    """What kind of refusal an error is, and its message in one line."""
    if isinstance(error, _UsageError):
        return "invalid_value", _line(str(error))
    errors = getattr(error, "errors", None)
    if callable(errors) and type(error).__name__ == "ValidationError":
        for item in errors():
            where = ".".join(str(part) for part in item.get("loc", ()))
            message = str(item.get("msg", "")).removeprefix("Value error, ").removeprefix("Assertion failed, ")
            alone = bool(where) and _BAD_VALUES.search(str(item.get("type", "")))
            given = f" (given: {item.get('input')!r})" if alone and _is_plain(item.get("input")) else ""
            text = f"{where}: {message}{given}" if where and where not in message else f"{message}{given}"
            return ("invalid_value" if alone else "constraint"), _line(text)
    if isinstance(error, (ValueError, AssertionError, NotImplementedError)):
        return "constraint", _line(str(error) or type(error).__name__)
    return "other", _line(f"{type(error).__name__}: {error}")


def _line(text: str) -> str:
    """The first line that says something, without control characters."""
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return "".join(char if char.isprintable() else " " for char in first)[:_REASON_CHARS]


def _mentions(text: str, name: str) -> bool:
    """Whether a message names an option: as max_num_seqs, --max-num-seqs or "max num seqs"."""
    return re.search(rf"(?<![\w-])(--)?{name.replace('_', '[-_ ]')}(?![\w-])", text, re.IGNORECASE) is not None


def serve(lines: Iterator[str], out: TextIO, folder: Path) -> int:
    """Answer until the input ends; the exit status."""

    def say(answer: Mapping[str, Any]) -> None:
        out.write(json.dumps(answer, allow_nan=False) + "\n")
        out.flush()

    notes = ""
    try:
        engine = Engine(folder)
        try:
            engine.settle()
        except Exception as error:  # noqa: BLE001 - only defaults stay unknown
            notes = _kind_and_reason(error)[1]
        say({"ready": True, "version": engine.version, "device": engine.device, "notes": notes})
    except Exception as error:  # noqa: BLE001 - anything an installation can raise is the answer
        say({"ready": False, "error": f"{type(error).__name__}: {_line(str(error))}"})
        return 0
    for line in lines:
        number: object = None
        try:
            asked: dict[str, Any] = json.loads(line)
            number = asked.get("id")
            if asked["op"] == "catalogue":
                answer = engine.catalogue()
            elif asked["op"] == "check":
                answer = engine.check(asked["config"], asked.get("model", ""))
            else:
                answer = {"error": f"unknown op {asked['op']!r}"}
        except Exception as error:  # noqa: BLE001 - a wrong question is not the end
            answer = {"error": _kind_and_reason(error)[1]}
        say({"id": number, **answer})
        if engine.drifted():
            return DRIFTED
    return 0


def main() -> None:
    """Serve on the descriptors it was started with; everything else that prints goes to standard error."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    here = Path(__file__).resolve().parent
    sys.path[:] = [item for item in sys.path if Path(item).resolve() != here]  # it has a module called vllm
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    lines = os.fdopen(os.dup(0), "r", encoding="utf-8")
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    with tempfile.TemporaryDirectory(prefix="scoot-oracle-") as folder:
        status = serve(iter(lines.readline, ""), out, Path(folder).resolve())
    sys.exit(status)


if __name__ == "__main__":
    main()
