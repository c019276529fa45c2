"""What is simulated, as the fixed options of a study say it: `simulated_engine`, `simulated_gpu`, ... Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from scoot.simulator.shapes import LINKS, gpu_named, model_named
from scoot.wire.errors import UserError
from scoot.wire.spec import Scalar, Service

ENGINE_NAME: Final = "simulated"
"""What studies and adapters call the simulator."""

PREFIX: Final = "simulated_"
"""Options with names that begin so are the simulator's own; all others are parameters of the engine it stands for."""

CONFIG_PATH: Final = "/simulated/config"
"""Of the server: answers a JSON object, every parameter with the value it has in the end."""

VERSION_PREFIX: Final = "simulator-"
"""Of the version that the simulator tells."""


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is simulated. Each field is an option with PREFIX before its name.

    Attributes:
        engine: generation and version.
        gpu: each device.
        link: between devices of a replica, "nvlink" or "pcie"; "" is what the GPU usually has.
        start_scale: times the time a real start takes; 0 is at once.
        profile: file of a user's own timings; "" is what the simulator knows.
    """

    engine: str = "vllm-0.32"
    gpu: str = "a100"
    link: str = ""
    start_scale: float = 1.0
    profile: str = ""

    def arguments(self) -> tuple[str, ...]:
        """Of `python -m scoot.simulator serve`."""
        out = [f"--engine={self.engine}", f"--gpu={self.gpu}"]
        if self.link:
            out.append(f"--link={self.link}")
        if self.profile:
            out.append(f"--profile={self.profile}")
        return (*out, f"--start-scale={self.start_scale!r}")

    def describe(self, service: Service) -> str:
        """One line for humans, e.g. "llama2-13b on 2 x A100 (nvlink), engine generation vllm-0.32"."""
        link = self.link or _usual_link(self.gpu)
        devices = f"{service.devices} x " if service.devices is not None else ""
        gpus = f"{devices}{self.gpu.upper()}{f' ({link})' if link else ''}"
        return f"{service.model} on {gpus}, engine generation {self.engine}"


def read_target(options: Mapping[str, Scalar]) -> Target:
    """The target among fixed options; those without PREFIX are left alone.

    Raises:
        UserError: an unknown option with PREFIX, or a value it cannot have. The engine's own name is not checked.
    """
    own = {name.removeprefix(PREFIX): value for name, value in options.items() if name.startswith(PREFIX)}
    known = Target.__struct_fields__
    for name in own:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {PREFIX}{near[0]}?" if near else f"there are {', '.join(PREFIX + n for n in known)}"
            raise UserError("the simulator has no such option", key=f"service.options.{PREFIX}{name[:64]}", hint=hint)
    try:
        target = msgspec.convert(own, Target)
    except msgspec.ValidationError as error:
        raise UserError(f"the simulator's options ({PREFIX}*): {error}", key="service.options") from error
    gpu_named(target.gpu, key=f"service.options.{PREFIX}gpu")
    if target.link not in ("", *LINKS):
        raise UserError(f"{target.link[:80]!r} is none of {', '.join(LINKS)}", key=f"service.options.{PREFIX}link")
    if not 0 <= target.start_scale <= 1000:  # noqa: PLR2004 - NaN and slips are refused; nobody waits for longer
        raise UserError("must be within 0 and 1000", key=f"service.options.{PREFIX}start_scale")
    return target


def pretence(service: Service, versions: Sequence[str] = ()) -> tuple[str, str] | None:
    """What everybody who sees the figures of a simulated study must know first: (in large letters, a sentence).

    None for a study of a real engine. Never raises: a report is also made of studies that are wrong.

    Args:
        service: of the study.
        versions: of its engine, as agents told; the simulator's tell that it is one whatever it is called.
    """
    if service.engine != ENGINE_NAME and not any(version.startswith(VERSION_PREFIX) for version in versions):
        return None
    try:
        what = read_target(service.options).describe(service)
    except UserError:
        what = service.model
    return (
        "SIMULATED ENGINE",
        f"{what}. Nothing ran on a GPU: all times come from SCOOT's simulator, a model fitted to measured GPU times.",
    )


def vocabulary_of(model: str) -> int:
    """Size of a model's vocabulary.

    Raises:
        UserError: the simulator does not know it.
    """
    return model_named(model, key="service.model").vocab


def _usual_link(gpu: str) -> str:
    try:
        return gpu_named(gpu).link
    except UserError:
        return ""
