"""What a study may set of an engine, and what its process gets of it. Pure.

An adapter says which options and variables it lets a study set; a host's administrator can add names to both lists,
and to nothing else: names and values are checked all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from scoot.agent.engines import base
from scoot.agent.engines.base import EngineSettings, LaunchRequest
from scoot.wire.assignment import CPU
from scoot.wire.errors import UserError
from scoot.wire.spec import Config, Scalar, Service
from scoot.wire.topology import TENSOR_PARALLEL_NAMES

COMMON_ENV: Final = frozenset(
    {
        "CUDA_DEVICE_ORDER",
        "HF_HUB_OFFLINE",
        "MKL_NUM_THREADS",
        "NCCL_P2P_DISABLE",
        "OMP_NUM_THREADS",
        "PYTORCH_CUDA_ALLOC_CONF",
    }
)
"""Variables that every engine on PyTorch understands and that change speed or memory only."""

QUIET: Final = MappingProxyType({"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "NO_COLOR": "1"})
"""No download, no telemetry, no colours in the log: set for every engine."""

_NOTHING: Final[Mapping[str, frozenset[str]]] = MappingProxyType({})


class Permits(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter's lists, with what the agent's configuration adds to them.

    Attributes:
        settings: the agent's configuration of this engine.
        options: flags a study may set, snake case.
        env: variables a study may set.
        always: variables always set; a study may name them, where `env` has them, with this value only.
        choices: option -> the only values allowed, unless the administrator allowed the option by name.
    """

    settings: EngineSettings
    options: frozenset[str]
    env: frozenset[str] = COMMON_ENV
    always: Mapping[str, str] = QUIET
    choices: Mapping[str, frozenset[str]] = _NOTHING

    def check(self, name: str, value: Scalar, *, key: str) -> None:
        """Refuse what this agent does not let a study set.

        Raises:
            UserError: `name` is no flag's name, or not on a list, or `value` is not among its choices.
        """
        base.check_name(name, key=key)
        if name in self.settings.allow_options:
            return
        if name not in self.options:
            raise UserError(
                f"this agent does not let a study set {name!r}",
                key=key,
                hint="the host's administrator can add it to the engine's allow_options",
            )
        choices = self.choices.get(name)
        if choices is not None and value not in choices:
            raise UserError(f"{value!r} is not allowed", key=key, hint=f"one of {', '.join(sorted(choices))}")

    def environment(self, request: LaunchRequest) -> dict[str, str]:
        """The complete environment of one replica; GPUs are shown to it through CUDA_VISIBLE_DEVICES only.

        Raises:
            UserError: as base.study_environment, or a variable of `always` with another value.
        """
        for name, value in self.always.items():
            if request.service.env.get(name, value) != value:
                raise UserError(f"must be {value!r} when set", key=f"service.env.{name}")
        allowed = self.env | set(self.settings.allow_env)
        gpus = [device.id for device in request.devices if device.kind != CPU]
        return {
            "HOME": request.workdir,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            **base.base_environment(),
            **self.always,
            **base.study_environment(request.service.env, allowed=allowed, fixed=self.settings.fixed_env),
            "CUDA_VISIBLE_DEVICES": ",".join(gpus),
        }


def asked(request: LaunchRequest, *, length: str = "") -> Config:
    """Everything asked of the engine: options, the context length, and over them the trial's configuration.

    `length` is the engine's name for the longest context it serves; "" where it has none, and it is left out.
    """
    options: Config = dict(request.service.options)
    if length and request.service.max_model_len is not None:
        options[length] = request.service.max_model_len
    return {**options, **request.config}


def with_degree(given: Config, name: str, request: LaunchRequest) -> Config:
    """`given` with the replica's tensor-parallel degree as `name`, where there is one to speak of."""
    if request.tensor_parallel > 1 or not given.keys().isdisjoint(TENSOR_PARALLEL_NAMES):
        return {**{each: given[each] for each in flags(given)}, name: request.tensor_parallel}
    return given


def flags(given: Config) -> list[str]:
    """The names of `given` in order, without the tensor-parallel degree, which is the replica's."""
    return sorted(set(given) - set(TENSOR_PARALLEL_NAMES))


def key_of(request: LaunchRequest, name: str) -> str:
    """Where a study says `name`."""
    return f"{'parameters' if name in request.config else 'service.options'}.{name[: base.NAME_CHARS]}"


def on_cpu(request: LaunchRequest) -> bool:
    """Whether the replica has no GPU."""
    return all(device.kind == CPU for device in request.devices)


def model_of(service: Service) -> str:
    """The model's path, safe as an argument.

    Raises:
        UserError: it is not an absolute path, or unsafe.
    """
    if not Path(service.model).is_absolute():
        raise UserError(f"{service.model!r} is not a path", key="service.model", hint="resolve it with models_ok")
    return base.check_text(service.model, key="service.model")


def require_absolute(path: str, *, key: str, example: str) -> None:
    """Refuse a program of the agent's configuration that is not named by its absolute path.

    Raises:
        UserError: names the key.
    """
    if not Path(path).is_absolute():
        raise UserError(f"{path!r} is not an absolute path", key=key, hint=f"{example}")
