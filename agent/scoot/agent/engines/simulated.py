"""The simulated engine (`python -m scoot.simulator serve`): a real engine's parameters, a GPU's times.

Tuned parameters go to it as flags, like any engine's, with the names of the generation it stands for. Options whose
name begins with `simulated_` say what is simulated: `simulated_engine`, `simulated_gpu`, `simulated_link`,
`simulated_start_scale` (scoot.simulator.serving.target), and `simulated_profile`, which names a file
and therefore needs the agent's permission.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final

import msgspec

from scoot.agent.core.command import EngineCommand
from scoot.agent.engines import base
from scoot.agent.engines.base import EngineSettings, LaunchRequest
from scoot.benchmark.plan import PromptMode
from scoot.simulator.serving.target import (
    CONFIG_PATH,
    ENGINE_NAME,
    PREFIX,
    VERSION_PREFIX,
    read_target,
    vocabulary_of,
)
from scoot.simulator.serving.version import simulator_version
from scoot.wire.assignment import EngineOffer
from scoot.wire.errors import UserError
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config
from scoot.wire.topology import TENSOR_PARALLEL_NAMES

MODULE: Final = "scoot.simulator"
_OURS: Final = frozenset(
    {"host", "port", "model", "served_model_name", "engine", "gpu", "link", "profile", "start_scale", "help"}
)
"""Flags the adapter sets or leaves alone: the simulator, too, listens on loopback only, and reads no files unasked."""
_PROFILE: Final = f"{PREFIX}profile"


class SimulatedAdapter:
    """Adapter for the simulated engine; see EngineAdapter."""

    name = ENGINE_NAME
    prompt_mode = PromptMode.TOKEN_IDS
    ignore_eos = True
    health_path = "/health"
    info_paths = (CONFIG_PATH,)

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._python = settings.python or sys.executable

    async def probe(self) -> EngineOffer:
        """SCOOT's own version: the simulator is part of it."""
        return EngineOffer(name=self.name, version=f"{VERSION_PREFIX}{simulator_version()}")

    def command(self, request: LaunchRequest) -> EngineCommand:
        """The simulator's command line for one replica."""
        service = request.service
        target = read_target(service.options)
        if target.profile and _PROFILE not in self._settings.allow_options:
            raise UserError(
                "this agent does not let a study name a file",
                key=f"service.options.{_PROFILE}",
                hint=f"the host's administrator can add {_PROFILE} to the engine's allow_options",
            )
        for text in (target.engine, target.profile):
            base.check_text(text, key=f"service.options.{PREFIX}*")
        argv = [self._python, *self._settings.fixed_args, "-m", MODULE, "serve", f"--port={request.port}"]
        argv += ["--host=127.0.0.1", f"--model={base.check_text(service.model, key='service.model')}"]
        argv += target.arguments()
        fixed = {name: value for name, value in service.options.items() if not name.startswith(PREFIX)}
        asked: Config = {**fixed, **request.config}
        if service.max_model_len is not None:
            asked = {"max_model_len": service.max_model_len, **asked}
        degrees = [each for each in TENSOR_PARALLEL_NAMES if each in asked]
        if request.tensor_parallel > 1 or degrees:
            degree = degrees[0] if degrees else TENSOR_PARALLEL_NAMES[0]
            argv.append(f"--{degree.replace('_', '-')}={request.tensor_parallel}")
        for name in sorted(set(asked) - set(TENSOR_PARALLEL_NAMES)):
            key = f"{'parameters' if name in request.config else 'service.options'}.{name[: base.NAME_CHARS]}"
            if name in _OURS or name.startswith(PREFIX):
                raise UserError(f"a study cannot set {name!r}", key=key)
            argv += base.flag_arguments(name, asked[name], key=key)
        return base.own_command(argv, service, self._settings)

    def served_model_name(self, request: LaunchRequest) -> str:
        """The model's name."""
        return request.service.model

    def token_range(self, model: str) -> tuple[int, int]:
        """The model's vocabulary, but for the lowest ids."""
        return (base.RESERVED_TOKENS, vocabulary_of(model))

    def models_ok(self, model: str, roots: tuple[str, ...]) -> str | Reason:
        """Any model whose shape the simulator knows."""
        del roots
        try:
            vocabulary_of(model)
        except UserError:
            return Reason.MODEL_MISSING
        return model

    def effective_config(self, log_text: str, request: LaunchRequest, bodies: Mapping[str, str] | None) -> Config:
        """What the server told on CONFIG_PATH, else the configuration as asked."""
        del log_text
        asked: Config = dict(request.config)
        try:
            told = msgspec.json.decode((bodies or {}).get(CONFIG_PATH, ""), type=dict[str, bool | int | float | str])
        except (msgspec.DecodeError, msgspec.ValidationError):
            return asked
        return {**asked, **{name: value for name, value in told.items() if name not in _OURS}}
