"""How vLLM refuses arguments, and the checks that both of its generations share. Pure.

The texts are those of vLLM's argument parser, of its own checks, and (0.32) of pydantic around them.
"""

from __future__ import annotations

import msgspec

from scoot.simulator.dialect.base import Host
from scoot.simulator.dialect.parameters import ParameterInfo, pydantic_failure, range_broken
from scoot.simulator.settings import StartFailure
from scoot.wire.spec import Config, ParameterKind, Scalar

_TYPE_WORDS = {ParameterKind.INT: "int", ParameterKind.FLOAT: "float"}


def flag_text(name: str, value: Scalar) -> str:
    """A parameter as it stands on a command line."""
    dashed = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{dashed}" if value else f"--no-{dashed}"
    return f"--{dashed}={value}"


class VllmWording(msgspec.Struct, frozen=True):
    """vLLM's words. `pydantic`: its checks are pydantic's, as today; `sections`: which of its classes holds what."""

    pydantic: bool
    sections: dict[str, str] = {}

    def unknown(self, given: Config) -> StartFailure:
        """As argparse refuses them."""
        flags = " ".join(flag_text(name, value) for name, value in given.items())
        return _parser(f"unrecognized arguments: {flags}")

    def mistyped(self, info: ParameterInfo, value: Scalar) -> StartFailure:
        """As argparse refuses it."""
        flag = f"--{info.name.replace('_', '-')}"
        if info.kind in _TYPE_WORDS:
            return _parser(f"argument {flag}: invalid {_TYPE_WORDS[info.kind]} value: {str(value)!r}")
        if info.kind is ParameterKind.BOOL:
            return _parser(f"argument {flag}: ignored explicit argument {str(value)!r}")
        return self.not_among(info, value)

    def not_among(self, info: ParameterInfo, value: Scalar) -> StartFailure:
        """As argparse refuses it."""
        choices = ", ".join(repr(choice) for choice in info.choices)
        flag = f"--{info.name.replace('_', '-')}"
        return _parser(f"argument {flag}: invalid choice: {value!r} (choose from {choices})")

    def out_of_range(self, info: ParameterInfo, value: float) -> StartFailure:
        """As pydantic refuses it (0.32); 0.4.2 checks few ranges, and its words here are the simulator's."""
        sentence = f"Input should be {range_broken(info, value)}"
        if not self.pydantic:
            return StartFailure(f"ValueError: {info.name} ({value}): {sentence}", kind="arguments")
        section = self.sections.get(info.name, "SchedulerConfig")
        return pydantic_failure(section, f"{info.name}: {sentence} [type=value_error, input_value={value}]")

    def twice(self, info: ParameterInfo) -> StartFailure:
        """No parameter of vLLM has two names here."""
        return _parser(f"argument --{info.name.replace('_', '-')}: given twice")

    def refused(self, sentence: str, *, section: str = "SchedulerConfig") -> StartFailure:
        """A check of vLLM's own that does not hold."""
        if not self.pydantic:
            return StartFailure(f"ValueError: {sentence}", kind="arguments")
        return pydantic_failure(section, f"Value error, {sentence} [type=value_error]")


def _parser(complaint: str) -> StartFailure:
    return StartFailure(f"api_server.py: error: {complaint}", exit_code=2, kind="arguments")


def model_length(host: Host, given: Config, words: VllmWording) -> int:
    """The longest input and output: the parameter, else what the service asks for, else the model's.

    Raises:
        StartFailure: it is longer than the model was made for.
    """
    asked = given.get("max_model_len", host.max_model_len)
    if asked is None:
        return host.model.max_model_len
    length = int(asked)
    if length > host.model.max_model_len:
        raise words.refused(
            f"User-specified max_model_len ({length}) is greater than the derived max_model_len "
            f"(max_position_embeddings={host.model.max_model_len} or model_max_length=None in model's config.json). "
            "Make sure the value is correct and within the model context size.",
            section="ModelConfig",
        )
    return length


def tensor_parallel(host: Host, given: Config, words: VllmWording) -> int:
    """The tensor-parallel degree.

    Raises:
        StartFailure: there are too few devices, or it does not divide them or the model's heads.
    """
    degree = int(given.get("tensor_parallel_size", 1))
    if degree > host.devices:
        raise words.refused(
            f"World size ({degree}) is larger than the number of available GPUs ({host.devices}) in this node.",
            section="ParallelConfig",
        )
    if host.devices % degree:
        raise words.refused(
            f"tensor parallel size ({degree}) does not divide the service's {host.devices} GPUs.",
            section="ParallelConfig",
        )
    if host.model.heads % degree:
        raise words.refused(
            f"Total number of attention heads ({host.model.heads}) must be divisible by tensor parallel size "
            f"({degree}).",
            section="VllmConfig",
        )
    return degree


def check_batch(tokens: int, seqs: int, length: int, *, chunked: bool, words: VllmWording) -> None:
    """The checks of vLLM's SchedulerConfig that both generations have, in its order.

    Raises:
        StartFailure: one of them does not hold.
    """
    if tokens < length and not chunked:
        raise words.refused(
            f"max_num_batched_tokens ({tokens}) is smaller than max_model_len ({length}). This effectively limits the "
            "maximum sequence length to max_num_batched_tokens and makes vLLM reject longer sequences. Please increase "
            "max_num_batched_tokens or decrease max_model_len."
        )
    if tokens < seqs:
        raise words.refused(
            f"max_num_batched_tokens ({tokens}) must be greater than or equal to max_num_seqs ({seqs})."
        )
