"""Step times as a linear function of what a step computes, with what it was fitted on. Pure.

    t = a + b prefill_tokens + c sum(chunk^2) + d sum(chunk x cached) + e decode_seqs + f sum(decode contexts)

Each term is a kind of work: `a` what every step costs, `b` matrix multiplications of prompts, `c` and `d` their
attention to themselves and to what is cached, `e` matrix multiplications of decodes, `f` reading their keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec

from scoot.wire.errors import UserError

PROFILE_SCHEMA: Final = 1
"""Version of the profile file."""

TERMS: Final = (
    ("a", "base_s", "every step", "s"),
    ("b", "prefill_token_s", "prompt token", "s/token"),
    ("c", "chunk_squared_s", "chunk tokens squared", "s/token^2"),
    ("d", "chunk_cached_s", "chunk x cached tokens", "s/token^2"),
    ("e", "decode_s", "decoding sequence", "s/sequence"),
    ("f", "context_token_s", "token of a decode's context", "s/token"),
)
"""(letter, field, what it is multiplied with, unit) of every coefficient."""

Covers = Literal["gpu", "step"]
Link = Literal["nvlink", "pcie"]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class FitError(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far predictions are from measured steps, as shares of the measured time.

    Attributes:
        mape: mean absolute error.
        bias: mean signed error; above 0 it predicts too slow.
        p95: 95th percentile of the absolute error (nearest rank).
    """

    mape: float
    bias: float
    p95: float


class LinearModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fitted model of step times; `gpu_s` makes it usable as that part of settings.StepTime.

    Attributes:
        base_s, prefill_token_s, chunk_squared_s, chunk_cached_s, decode_s, context_token_s: coefficients a to f.
        floor_s: no step is faster.
        covers: "gpu" if the timings were of the device alone, so that the CPU's time comes on top; "step" if they were
            of whole steps, and nothing does.
        source: where the timings come from, as the user has named it.
        rows, trimmed: steps that were read, and those of them left out as outliers.
        error: of each kept step, predicted by a model fitted to the other kept ones.
        method: how that error was computed.
        notes: what the timings could not tell, one sentence each.
    """

    base_s: Seconds
    prefill_token_s: Seconds
    chunk_squared_s: Seconds
    chunk_cached_s: Seconds
    decode_s: Seconds
    context_token_s: Seconds
    floor_s: Seconds = 0.0
    covers: Covers = "step"
    source: str = ""
    rows: int = 0
    trimmed: int = 0
    error: FitError | None = None
    method: str = ""
    notes: tuple[str, ...] = ()

    def gpu_s(self, decodes: int, decode_context: int, prefills: Sequence[tuple[int, int]]) -> float:
        """Time of a step, seconds, never below `floor_s`.

        Args:
            decodes: sequences that get one token each.
            decode_context: tokens they attend to, summed.
            prefills: (tokens computed, tokens before them that are in the KV cache) of each prompt.
        """
        time_s = self.base_s + self.decode_s * decodes + self.context_token_s * decode_context
        for chunk, cached in prefills:
            time_s += chunk * (self.prefill_token_s + self.chunk_squared_s * chunk + self.chunk_cached_s * cached)
        return max(time_s, self.floor_s)


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Step times of one model on one kind of GPU, fitted to a user's own timings: the content of a profile file.

    Attributes:
        name: as reports show it.
        model, gpu: as scoot.simulator.shapes knows them.
        tensor_parallel: devices of a replica.
        link: between them, "nvlink" or "pcie".
        schema: version of this format.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    model: str
    gpu: str
    tensor_parallel: Annotated[int, msgspec.Meta(ge=1, le=64)]
    link: Link
    linear: LinearModel
    schema: Annotated[int, msgspec.Meta(ge=1)] = PROFILE_SCHEMA

    def check(self, model: str, gpu: str, tensor_parallel: int, link: str) -> None:
        """Whether it is of this service. The link is of no matter with one device.

        Raises:
            UserError: it is of another model, GPU, degree or link.
        """
        asked = {"model": model, "gpu": gpu, "tensor_parallel": tensor_parallel, "link": link}
        for key, value in asked.items():
            own = getattr(self, key)
            if own != value and not (key == "link" and tensor_parallel == 1):
                raise UserError(
                    f"the profile {self.name!r} is of {key} {own}, the service has {value}",
                    key=key,
                    hint="fit a profile to timings of this service, or leave the profile out",
                )
