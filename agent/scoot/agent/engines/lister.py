"""Asks installed engines for their options: a program that lists them and ends, started once by the agent.

vLLM's are listed by its resident helper (scoot.agent.engines.checker), which knows effective defaults besides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

import msgspec

from scoot.agent.engines import base, help_text, llamacpp, probing
from scoot.agent.engines.base import EngineSettings
from scoot.agent.engines.helpers.plain import MARK
from scoot.agent.host.process import HelperResult, SpawnError, run_helper
from scoot.wire.catalogue.option import Catalogue, EngineOption, Source
from scoot.wire.catalogue.verdict import Unknown

_TIMEOUT_S: Final = probing.TIMEOUT_S

_ASKED: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "trtllm": ("pydantic", "tensorrt_llm.llmapi:TorchLlmArgs"),
        "sglang": ("arguments", "sglang.srt.server_args:ServerArgs"),
        "transformers": ("signature", "transformers.cli.serve:Serve"),
        "llamacpp": ("pydantic", *llamacpp.SETTINGS),
    }
)
"""What `helpers.options` is asked, by kind of engine: the form its options have, and where they are."""

_QUIET: Final = MappingProxyType({"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "200"})


class Listing(msgspec.Struct, frozen=True):
    """What an installation listed, or why it could not."""

    version: str = ""
    options: tuple[EngineOption, ...] = ()
    error: str = ""


class Lister(Protocol):
    """Whoever knows an installation's options."""

    async def catalogue(self) -> Catalogue | Unknown:
        """Every option, with the defaults it has there."""
        ...


class ProgramLister:
    """Options of an installation that lists them when it is asked; `command` asks, `read` understands."""

    def __init__(
        self, settings: EngineSettings, command: tuple[str, ...], read: Callable[[HelperResult], Listing]
    ) -> None:
        self._settings = settings
        self._command = command
        self._read = read

    async def catalogue(self) -> Catalogue | Unknown:
        """See Lister. Where the program does not tell its release, `version` is ""."""
        with tempfile.TemporaryDirectory(prefix="scoot-options-") as folder:
            env = {"HOME": folder, **base.base_environment(), **_QUIET, **self._settings.fixed_env}
            try:
                done = await run_helper(self._command, env=env, cwd=Path(folder), timeout_s=_TIMEOUT_S)
            except SpawnError as error:
                return Unknown(str(error))
        found = self._read(done)
        if found.error:
            return Unknown(found.error)
        return Catalogue(
            engine=self._settings.kind, version=found.version, device="", source=Source.LIVE, options=found.options
        )


def read_package(done: HelperResult) -> Listing:
    """The answer of `helpers.options`. Pure."""
    for line in reversed(done.stdout.decode(errors="replace").splitlines()):
        if line.startswith(MARK):
            try:
                return msgspec.json.decode(line.removeprefix(MARK), type=Listing)
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                return Listing(error=f"the options are told in a form that is not known: {error}")
    return Listing(error=probing.failure_of(done))


def read_help(done: HelperResult) -> Listing:
    """The answer of a program to `--help`. Pure."""
    options = help_text.options_of(done.stdout.decode(errors="replace"))
    return Listing(options=options) if options else Listing(error=probing.failure_of(done))


def make_lister(settings: EngineSettings) -> Lister | None:
    """The lister of an engine; None where there is none."""
    if settings.program:
        return ProgramLister(settings, (settings.program, "--help"), read_help)
    asked = _ASKED.get(settings.kind)
    if asked is None:
        return None
    return ProgramLister(settings, base.helper_command(settings, "options", *asked), read_package)
