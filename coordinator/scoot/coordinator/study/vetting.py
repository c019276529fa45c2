"""What an engine's own argument check teaches before a trial is started. Pure.

Suggestions that the engine would refuse, and those of which it makes the same as of an earlier trial, are no trials:
they are told to the optimizer, and cost nothing else. Parameters that change nothing on the host are left out of the
search.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from scoot.coordinator.study.events import SuggestedConfig
from scoot.coordinator.study.state import Idle, Rejected, StudyRecord, TrialRecord
from scoot.wire.catalogue.study_check import names_of
from scoot.wire.catalogue.verdict import Checked, CheckState, inert
from scoot.wire.client_parameters import CLIENT_PARAMETERS, client_config
from scoot.wire.spec import Config, Parameter, ParameterKind, Scalar, StudySpec
from scoot.wire.states import TrialKind

_TRIED: Final = 4
"""Values of a parameter that are tried by themselves: its ends and what lies between, or that many choices."""

_replace = msgspec.structs.replace


class Sifted(msgspec.Struct, frozen=True, kw_only=True):
    """Suggestions that become trials, and those that do not."""

    kept: tuple[SuggestedConfig, ...] = ()
    rejected: tuple[Rejected, ...] = ()


def resolution(spec: StudySpec, config: Config, verdict: Checked) -> str:
    """What tells whether two configurations come to the same: the engine's digest and the client's part; "" unknown."""
    if verdict.state is not CheckState.OK:
        return ""
    client: Config = client_config(spec.workload)
    client.update({name: value for name, value in config.items() if name in CLIENT_PARAMETERS})
    return "/".join((verdict.digest, *(f"{name}={value}" for name, value in sorted(client.items()))))


def sift(
    spec: StudySpec,
    suggestions: Sequence[SuggestedConfig],
    checked: Sequence[Checked],
    *,
    known: Mapping[str, int],
    first: int,
    take_all: bool = False,
) -> Sifted:
    """Which suggestions become trials.

    Args:
        spec: the study.
        suggestions: in the optimizer's order.
        checked: the engine's verdict on each.
        known: trial number by `resolution`.
        first: the number of the next trial.
        take_all: every suggestion becomes a trial whatever the verdict, so that a search cannot go on for ever.
    """
    seen = dict(known)
    kept: list[SuggestedConfig] = []
    rejected: list[Rejected] = []
    for suggestion, verdict in zip(suggestions, checked, strict=True):
        resolved = resolution(spec, suggestion.config, verdict)
        same_as = seen.get(resolved)
        number = first + len(kept)
        if not take_all and (verdict.state is CheckState.INVALID or same_as is not None):
            rejected.append(
                Rejected(config=suggestion.config, before=number, message=verdict.reason, same_as=same_as),
            )
            continue
        if resolved:
            seen.setdefault(resolved, number)
        kept.append(_replace(suggestion, resolved=resolved))
    return Sifted(kept=tuple(kept), rejected=tuple(rejected))


def known_resolutions(trials: Iterable[TrialRecord]) -> dict[str, int]:
    """The first trial of every resolved configuration."""
    known: dict[str, int] = {}
    for trial in trials:
        if trial.resolved:
            known.setdefault(trial.resolved, trial.number)
    return known


def unresolved(trials: Iterable[TrialRecord]) -> tuple[TrialRecord, ...]:
    """Trials of which it is not known what the engine makes of them."""
    return tuple(trial for trial in trials if not trial.resolved and trial.kind is not TrialKind.CONFIRMATION)


def probes(spec: StudySpec) -> tuple[tuple[str, Scalar], ...]:
    """(parameter, value) pairs to be tried by themselves, everything else the default."""
    engines = (parameter for parameter in spec.parameters if parameter.name not in CLIENT_PARAMETERS)
    return tuple((parameter.name, value) for parameter in engines for value in _values(parameter))


def _values(parameter: Parameter) -> list[Scalar]:
    if parameter.kind is ParameterKind.BOOL:
        return [True, False]
    if parameter.choices:
        choices = list(parameter.choices)
        stride = max(1, -(-len(choices) // _TRIED))
        return list(dict.fromkeys([*choices[::stride], choices[-1]]))
    low, high = parameter.low, parameter.high
    if low is None or high is None:
        return []
    return [int(low), int(high)] if parameter.kind is ParameterKind.INT else [low, high]


def idle_parameters(study: StudyRecord, base: Checked, tried: Mapping[tuple[str, Scalar], Checked]) -> tuple[Idle, ...]:
    """Parameters not worth searching, and why: the engine has no such option, or nothing changes with it.

    A parameter that a constraint or another parameter's `when` mentions stays; so does one with a `when` of its own, as
    it was tried where it is not active; and so does the last one.
    """
    variants: dict[str, list[tuple[Scalar, Checked]]] = {}
    for (name, value), verdict in tried.items():
        variants.setdefault(name, []).append((value, verdict))
    without_effect = inert(base, variants)
    spec = study.spec
    conditions = [each.when for each in spec.parameters if each.when is not None]
    conditional = {each.name for each in spec.parameters if each.when is not None}
    named: frozenset[str] = frozenset().union(*map(names_of, (*spec.constraints, *study.implied, *conditions)))
    idle: list[Idle] = []
    for name, found in variants.items():
        if name in named:
            continue
        if name in without_effect and name not in conditional:
            idle.append(Idle(name=name, why="nothing changes with it on this host"))
        elif found and all(verdict.unknown_option for _, verdict in found):
            idle.append(Idle(name=name, why=found[0][1].reason))
    return tuple(idle if len(idle) < len(spec.parameters) else idle[1:])


def extended(study: StudyRecord, *, idle: Iterable[Idle] = (), rejected: Iterable[Rejected] = ()) -> StudyRecord:
    """The study with what a call has taught."""
    return _replace(study, idle=(*study.idle, *idle), rejected=(*study.rejected, *rejected))


def searched(study: StudyRecord) -> StudySpec:
    """The study's spec as its search has it: without idle parameters, with the engine's own constraints."""
    if not study.idle and not study.implied:
        return study.spec
    spec = study.spec
    idle = {each.name for each in study.idle}
    kept = tuple(parameter for parameter in spec.parameters if parameter.name not in idle)
    return _replace(spec, parameters=kept, constraints=(*spec.constraints, *study.implied))


def without_idle(study: StudyRecord, config: Config) -> Config:
    """A configuration without those parameters."""
    idle = {each.name for each in study.idle}
    return {name: value for name, value in config.items() if name not in idle}


def notes(study: StudyRecord) -> tuple[str, ...]:
    """What is worth knowing of a study's options and its space, a sentence each."""
    return (*study.notes, *(f"{each.name} is left out of the search: {each.why}" for each in study.idle))


def spared(study: StudyRecord) -> tuple[str, ...]:
    """What the engine's own check has spared a study, a sentence each."""
    refused = [each for each in study.rejected if each.same_as is None]
    doubles = len(study.rejected) - len(refused)
    said: list[str] = []
    if refused:
        example = f" (the last: {refused[-1].message})" if refused[-1].message else ""
        said.append(f"{len(refused)} suggestion(s) refused by the engine's own check cost no trial{example}")
    if doubles:
        said.append(f"{doubles} suggestion(s) that come to the same as an earlier trial were not measured again")
    return tuple(said)
