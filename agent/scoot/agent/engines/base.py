"""What an engine adapter is: how an engine is probed, started, asked and understood.

An adapter knows one kind of engine. It decides nothing about when; the agent's runtime does. Authority lies with the
agent's own root-owned configuration (`EngineSettings`): an assignment carries typed parameters, and everything that is
not on an allow-list is refused before a process is started.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import msgspec

from scoot.agent.core.command import EngineCommand
from scoot.agent.engines.helpers import run
from scoot.benchmark.plan import PromptMode
from scoot.wire import limits
from scoot.wire.assignment import Device, EngineOffer
from scoot.wire.errors import UserError
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config, Scalar, Service

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
NAME_CHARS: Final = 64
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f]")
RESERVED_TOKENS: Final = 16
"""Low token ids prompts avoid: control and padding tokens live there in every tokenizer family SCOOT meets."""

_PASSED_THROUGH: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "CUDA_HOME")
"""The agent's own variables an engine gets. They come from root (the unit file), never from an assignment."""


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the agent's root-owned configuration says of one engine.

    Attributes:
        kind: adapter; scoot.agent.engines.registry lists them.
        python: interpreter of the engine's environment, absolute; "" is this interpreter (SCOOT's own engines only).
        program: the engine's own executable, absolute, where it is none of Python's (llama.cpp's llama-server); then
            there is no `python`.
        allow_options: flags allowed besides the adapter's curated list, snake case.
        allow_env: environment variables a study may set besides the adapter's curated list.
        fixed_args: arguments put before all others, as they are.
        fixed_env: environment variables always set; a study cannot override them.
        check_first: whether configurations are shown to the engine's own argument check before it is started with them.
    """

    kind: str
    python: str = ""
    program: str = ""
    allow_options: tuple[str, ...] = ()
    allow_env: tuple[str, ...] = ()
    fixed_args: tuple[str, ...] = ()
    fixed_env: dict[str, str] = {}
    check_first: bool = True


class LaunchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One replica to start.

    Attributes:
        service: what is served.
        config: the trial's configuration.
        tensor_parallel: degree of this replica, >= 1.
        devices: exactly the devices of this replica.
        port: loopback port it must listen on.
        workdir: folder of this attempt, absolute, writable.
    """

    service: Service
    config: Config
    tensor_parallel: int
    devices: tuple[Device, ...]
    port: int
    workdir: str


@runtime_checkable
class EngineAdapter(Protocol):
    """One kind of engine.

    Attributes:
        name: as studies call it.
        prompt_mode: how prompts are sent.
        ignore_eos: whether exact output lengths can be asked for.
        health_path: answers 200 once the engine is up (one real completion must follow).
        info_paths: paths whose bodies `effective_config` understands, fetched once when ready.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see the class
    @property
    def prompt_mode(self) -> PromptMode: ...  # noqa: D102 - see the class
    @property
    def ignore_eos(self) -> bool: ...  # noqa: D102 - see the class
    @property
    def health_path(self) -> str: ...  # noqa: D102 - see the class
    @property
    def info_paths(self) -> tuple[str, ...]: ...  # noqa: D102 - see the class

    async def probe(self) -> EngineOffer:
        """The engine's version, or why it cannot run. Never raises for a broken engine; bounded in time; cached."""
        ...

    def command(self, request: LaunchRequest) -> EngineCommand:
        """How to start one replica. Pure.

        Raises:
            UserError: a flag or variable that is not allowed, or an unsafe value.
        """
        ...

    def served_model_name(self, request: LaunchRequest) -> str:
        """The value of "model" in requests."""
        ...

    def token_range(self, model: str) -> tuple[int, int]:
        """Token ids prompts may be drawn from, low inclusive, high exclusive.

        Raises:
            UserError: the model's folder does not tell its vocabulary.
        """
        ...

    def models_ok(self, model: str, roots: tuple[str, ...]) -> str | Reason:
        """The model as the engine should be given it, or MODEL_MISSING."""
        ...

    def effective_config(self, log_text: str, request: LaunchRequest, bodies: Mapping[str, str] | None) -> Config:
        """Tuned parameters as the engine resolved them; parameters it does not tell are absent.

        `log_text` is the *beginning* of the engine's log (resolved values are logged during the start), `bodies` what
        the running engine answered on `info_paths` (path -> body), None if it was not asked. Never raises.
        """
        ...


def check_settings(settings: EngineSettings) -> None:
    """Refuse settings that allow what cannot be a flag or a variable.

    Raises:
        UserError: names the engine's table.
    """
    for name in (*settings.allow_options, *settings.allow_env):
        if not _ENV_NAME.fullmatch(name):
            raise UserError(f"{name!r} is not a flag or variable name", key=f"engines.{settings.kind}")


def check_name(name: str, *, key: str) -> str:
    """`name` if it is a plain snake-case flag name.

    Raises:
        UserError: anything else, so that no name can turn into another flag.
    """
    if len(name) > NAME_CHARS or not _NAME.fullmatch(name):
        raise UserError(
            f"{name[:NAME_CHARS]!r} is not a flag name", key=key, hint="write it in snake case: a-z, 0-9, _"
        )
    return name


def check_text(value: str, *, key: str) -> str:
    """`value` if it is safe as one argument or variable.

    Raises:
        UserError: control characters (NUL, newline), a leading dash (it would be read as a flag), or too long.
    """
    if len(value) > limits.STRING_CHARS:
        raise UserError(f"value of {len(value)} characters, at most {limits.STRING_CHARS}", key=key)
    if _UNSAFE.search(value):
        raise UserError(f"{value[:80]!r} contains a control character", key=key)
    if value.startswith("-"):
        raise UserError(f"{value[:80]!r} begins with a dash and would be read as a flag", key=key)
    return value


def flag_arguments(name: str, value: Scalar, *, key: str) -> tuple[str, ...]:
    """`--flag value` for a snake-case name: True is `--flag`, False `--no-flag`, numbers in their shortest exact form.

    Raises:
        UserError: name or value is unsafe, or a float is not finite.
    """
    flag = "--" + check_name(name, key=key).replace("_", "-")
    if isinstance(value, bool):
        return (flag if value else f"--no-{flag[2:]}",)
    return (f"{flag}={value_text(value, key=key)}",)


def value_text(value: Scalar, *, key: str) -> str:
    """A value as a command line has it, numbers in their shortest exact form; switches are the caller's.

    Raises:
        UserError: a text is unsafe, or a float is not finite.
    """
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - NaN is the value unlike itself
            raise UserError(f"{value} is not a finite number", key=key)
        return repr(value)
    if isinstance(value, int):
        return str(value)
    return check_text(value, key=key)


def helper_command(settings: EngineSettings, program: str, *arguments: str) -> tuple[str, ...]:
    """How to run a program of `helpers` in the engine's interpreter."""
    return (settings.python, *settings.fixed_args, run.__file__, program, *arguments)


def base_environment(source: Mapping[str, str] | None = None) -> dict[str, str]:
    """The few variables of the agent's own environment that an engine gets; `source` defaults to os.environ."""
    source = os.environ if source is None else source
    return {name: source[name] for name in _PASSED_THROUGH if source.get(name)}


def study_environment(asked: Mapping[str, str], *, allowed: frozenset[str], fixed: Mapping[str, str]) -> dict[str, str]:
    """The variables a study asked for, checked, with the agent's fixed ones over them.

    Raises:
        UserError: a variable that is not allowed, or an unsafe value.
    """
    out: dict[str, str] = {}
    for name, value in asked.items():
        key = f"service.env.{name[:NAME_CHARS]}"
        if name not in allowed:
            raise UserError(
                f"this agent does not let a study set {name[:NAME_CHARS]!r}",
                key=key,
                hint="the host's administrator can add it to the engine's allow_env",
            )
        if len(value) > limits.STRING_CHARS or _UNSAFE.search(value):
            raise UserError("too long, or contains a control character", key=key)
        out[name] = value
    return {**out, **fixed}


def own_command(argv: Sequence[str], service: Service, settings: EngineSettings) -> EngineCommand:
    """The command of an engine that is part of SCOOT: nothing is in its environment but what was allowed and fixed.

    Raises:
        UserError: as study_environment.
    """
    allowed = frozenset(settings.allow_env)
    asked = study_environment(service.env, allowed=allowed, fixed=settings.fixed_env)
    return EngineCommand(argv=tuple(argv), env={**base_environment(), **asked})


def model_path(model: str, roots: tuple[str, ...]) -> Path | None:
    """The folder or file `model` names, when it lies in one of `roots` after following every link; None otherwise.

    A relative name is looked up in each root in turn.
    """
    if not model or _UNSAFE.search(model) or len(model) > limits.STRING_CHARS:
        return None
    for root in roots:
        try:
            base = Path(root).resolve(strict=True)
            path = (base / model).resolve(strict=True)
        except (OSError, RuntimeError):
            continue
        if path.is_relative_to(base):
            return path
    return None


def model_folder(model: str, roots: tuple[str, ...]) -> str | Reason:
    """The Hugging Face folder `model` names, inside one of `roots`; names on a hub are not downloaded."""
    path = model_path(model, roots)
    if path is None or not (path / "config.json").is_file():
        return Reason.MODEL_MISSING
    return str(path)


def vocabulary_range(model: str) -> tuple[int, int]:
    """Token ids of a Hugging Face model folder that are safe in a prompt: [reserved, lowest special id above, vocab).

    Reads `vocab_size` of config.json (also below `text_config`), and keeps clear of special ids: those below 16 and
    those at the vocabulary's end that config.json names as begin, end or padding.

    Raises:
        UserError: no readable config.json, or no usable vocab_size in it.
    """
    path = Path(model) / "config.json"
    try:
        raw = msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UserError(
            f"the model's config.json cannot be read: {error}", path=str(path), key="service.model"
        ) from error
    text = raw.get("text_config")
    if "vocab_size" not in raw and isinstance(text, dict):
        raw = text
    size = raw.get("vocab_size")
    if not isinstance(size, int) or size <= 2 * RESERVED_TOKENS:
        raise UserError(f"vocab_size is {size!r}", path=str(path), key="service.model")
    special: list[int] = []
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = raw.get(name)
        special += [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, int)]
    high = min([size, *(item for item in special if size // 2 < item < size)])
    return (RESERVED_TOKENS, high)
