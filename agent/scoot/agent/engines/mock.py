"""The mock engine (scoot.agent.engines.mock_server): an OpenAI-compatible server with settable behaviour, and no model.

Tuned parameters go to it as flags, like any engine's. Options whose name begins with `mock_` set how it behaves
(`mock_crash_after = 10` becomes `--mock.crash_after=10`): delays, rates, crash rules, hangs, malformed streams.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from scoot.agent.core.command import EngineCommand
from scoot.agent.engines import base
from scoot.agent.engines.base import EngineSettings, LaunchRequest
from scoot.benchmark.plan import PromptMode
from scoot.wire.assignment import EngineOffer
from scoot.wire.errors import UserError
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config, Scalar
from scoot.wire.topology import TENSOR_PARALLEL_NAMES

SERVER: Final = "scoot.agent.engines.mock_server"
CONFIG_PATH: Final = "/mock/config"
"""Answers a JSON object of the parameters as the mock resolved them, where the server has it."""
_BEHAVIOUR: Final = "mock_"
_OURS: Final = frozenset({"host", "port", "model", "served_model_name"})
"""Flags the adapter sets or leaves alone: a mock, too, listens on loopback only."""
_TOKENS: Final = (16, 32_000)


class MockAdapter:
    """Adapter for the mock engine; see EngineAdapter."""

    name = "mock"
    prompt_mode = PromptMode.TOKEN_IDS
    ignore_eos = True
    health_path = "/health"
    info_paths = (CONFIG_PATH,)

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._python = settings.python or sys.executable

    async def probe(self) -> EngineOffer:
        """SCOOT's own version: the mock is part of it."""
        try:
            return EngineOffer(name=self.name, version=importlib.metadata.version("scoot-tuner"))
        except importlib.metadata.PackageNotFoundError:
            return EngineOffer(name=self.name, version="0")

    def command(self, request: LaunchRequest) -> EngineCommand:
        """The mock server's command line."""
        service = request.service
        argv = [self._python, *self._settings.fixed_args, "-m", SERVER, "--port", str(request.port)]
        argv += ["--model", base.check_text(service.model, key="service.model")]
        asked: Config = {**service.options, **request.config}
        if service.max_model_len is not None:
            asked = {"max_model_len": service.max_model_len, **asked}
        if request.tensor_parallel > 1 or any(name in asked for name in TENSOR_PARALLEL_NAMES):
            argv.append(f"--tensor-parallel-size={request.tensor_parallel}")
        for name in sorted(set(asked) - set(TENSOR_PARALLEL_NAMES)):
            key = f"{'parameters' if name in request.config else 'service.options'}.{name[: base.NAME_CHARS]}"
            if name in _OURS:
                raise UserError(f"a study cannot set {name!r}", key=key)
            argv += _behaviour(name, asked[name], key=key) or base.flag_arguments(name, asked[name], key=key)
        return base.own_command(argv, service, self._settings)

    def served_model_name(self, request: LaunchRequest) -> str:
        """The name it was given."""
        return request.service.model

    def token_range(self, model: str) -> tuple[int, int]:
        """The model's vocabulary where there is one, else 16..32,000."""
        if (Path(model) / "config.json").is_file():
            return base.vocabulary_range(model)
        return _TOKENS

    def models_ok(self, model: str, roots: tuple[str, ...]) -> str | Reason:
        """Any name will do; an absolute path must exist inside a root, as with real engines."""
        if not Path(model).is_absolute():
            return model or Reason.MODEL_MISSING
        path = base.model_path(model, roots)
        return Reason.MODEL_MISSING if path is None else str(path)

    def effective_config(self, log_text: str, request: LaunchRequest, bodies: Mapping[str, str] | None) -> Config:
        """What the server told on CONFIG_PATH, else the configuration as asked."""
        del log_text
        asked: Config = dict(request.config)
        try:
            told = msgspec.json.decode((bodies or {}).get(CONFIG_PATH, ""), type=dict[str, bool | int | float | str])
        except (msgspec.DecodeError, msgspec.ValidationError):
            return asked
        return {**asked, **{name: value for name, value in told.items() if name not in _OURS}}


def _behaviour(name: str, value: Scalar, *, key: str) -> tuple[str, ...]:
    """`--mock.NAME=VALUE` for an option that sets the mock's behaviour; () for any other."""
    if not name.startswith(_BEHAVIOUR):
        return ()
    short = base.check_name(name, key=key).removeprefix(_BEHAVIOUR)
    if not short:
        raise UserError("names nothing", key=key, hint="write mock_NAME")
    text = str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)
    return (f"--mock.{short}={base.check_text(text, key=key) if isinstance(value, str) else text}",)
