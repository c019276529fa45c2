"""The engine generations there are. Pure."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from scoot.simulator.dialect import trtllm, vllm_v0, vllm_v1
from scoot.simulator.dialect.base import Dialect
from scoot.simulator.dialect.parameters import ParameterInfo
from scoot.wire.errors import UserError
from scoot.wire.study_file import suggest

DIALECTS: Final = MappingProxyType(
    {dialect.name: dialect for dialect in (vllm_v0.DIALECT, vllm_v1.DIALECT, trtllm.DIALECT)}
)
"""Generation and version -> its dialect."""


def dialect_named(generation: str, *, key: str = "engine") -> Dialect:
    """The dialect of a generation.

    Raises:
        UserError: the simulator does not know it.
    """
    if generation not in DIALECTS:
        raise UserError(f"the simulator has no engine {generation[:80]!r}", key=key, hint=suggest(generation, DIALECTS))
    return DIALECTS[generation]


def parameters_of(generation: str) -> tuple[ParameterInfo, ...]:
    """What may be set of an engine generation.

    Raises:
        UserError: the simulator does not know it.
    """
    return dialect_named(generation).parameters


def known_constraints(generation: str) -> tuple[str, ...]:
    """What its argument check demands of several parameters together, in the language of a study's constraints.

    They mention parameters and the fact `max_model_len`; a study drops those about parameters it does not have.

    Raises:
        UserError: the simulator does not know it.
    """
    return dialect_named(generation).constraints
