"""Which waiting trial runs where. A pure function of the state; devices are never given out twice.

Trials are taken oldest first (study by submission, then trial number). A trial that does not fit now lets later ones
pass (mixed tensor-parallel sizes fill a box side by side), but only PASSES_MAX times: then an agent that could hold it
is kept free for it, so that a large trial cannot starve.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from scoot.coordinator.study.draft import CoordinatorState
from scoot.coordinator.study.state import (
    AgentRecord,
    AttemptState,
    StudyRecord,
    TrialRecord,
)
from scoot.wire.assignment import matching
from scoot.wire.errors import UserError
from scoot.wire.lease import LeaseState
from scoot.wire.reasons import Blame, blame_of
from scoot.wire.spec import Service
from scoot.wire.states import TrialState
from scoot.wire.topology import topology

PASSES_MAX: Final = 8


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """A trial that can start now, on exactly these devices of an agent."""

    study_id: str
    trial: int
    agent_id: str
    devices: tuple[str, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to start, who was passed over by it, who can never run, and why studies wait.

    Attributes:
        placed: in order.
        passed_over: (study, trial) -> how many later trials were placed ahead of it.
        impossible: (study, trial) -> why no host of any size could run it.
        waiting: study -> why its oldest waiting trial has no agent, "" if it only waits for its turn.
    """

    placed: tuple[Placed, ...] = ()
    passed_over: dict[tuple[str, int], int] = {}
    impossible: dict[tuple[str, int], str] = {}
    waiting: dict[str, str] = {}


def busy_devices(state: CoordinatorState) -> dict[str, dict[str, str]]:
    """Agent id -> device id -> the attempt that holds it, for attempts that are live or still stopping."""
    busy: dict[str, dict[str, str]] = {agent_id: {} for agent_id in state.agents}
    for attempt in state.attempts.values():
        agent = state.agents.get(attempt.agent_id)
        lingers = agent is not None and attempt.attempt_id in agent.stopping
        if lingers or not (attempt.state.is_terminal or attempt.state is AttemptState.COLLECTING):
            busy.setdefault(attempt.agent_id, {}).update(dict.fromkeys(attempt.devices, attempt.attempt_id))
    return busy


def matching_devices(agent: AgentRecord, service: Service) -> tuple[str, ...]:
    """Ids of the agent's devices that the service accepts ("gpu" accepts every device that is no CPU slot)."""
    return tuple(device.id for device in matching(agent.inventory.devices, service.device))


def offers(agent: AgentRecord, engine: str) -> bool:
    """Whether the agent can run the engine."""
    return any(offer.name == engine and not offer.error for offer in agent.inventory.engines)


def place(state: CoordinatorState) -> Plan:
    """What can start now."""
    free = _free_devices(state)
    reserved: set[str] = set()
    placed: list[Placed] = []
    passed: dict[tuple[str, int], int] = {}
    impossible: dict[tuple[str, int], str] = {}
    waiting: dict[str, str] = {}
    blocked: list[tuple[str, int]] = []
    for study, trial in _queue(state):
        key = (study.study_id, trial.number)
        try:
            need = topology(study.spec.service, trial.config).devices
        except UserError as error:
            impossible[key] = str(error)
            continue
        hosts = [
            agent
            for agent in state.agents.values()
            if agent.agent_id in free
            and offers(agent, study.spec.service.engine)
            and len(matching_devices(agent, study.spec.service)) >= need
        ]
        if not hosts:
            waiting.setdefault(study.study_id, _why(state, study, need))
            continue
        waiting.setdefault(study.study_id, "")
        chosen = _choose(state, study.spec.service, trial, need, [a for a in hosts if a.agent_id not in reserved], free)
        if chosen is None:
            blocked.append(key)
            if trial.passed_over >= PASSES_MAX:
                reserved.add(max(hosts, key=lambda agent: len(free[agent.agent_id])).agent_id)
            continue
        agent_id, devices = chosen
        free[agent_id] -= set(devices)
        placed.append(Placed(study_id=key[0], trial=key[1], agent_id=agent_id, devices=devices))
        for earlier in blocked:
            passed[earlier] = passed.get(earlier, 0) + 1
    return Plan(placed=tuple(placed), passed_over=passed, impossible=impossible, waiting=waiting)


def _free_devices(state: CoordinatorState) -> dict[str, set[str]]:
    """Free devices of every agent that may be given work."""
    busy = busy_devices(state)
    return {
        agent.agent_id: {device.id for device in agent.inventory.devices} - busy[agent.agent_id].keys()
        for agent in state.agents.values()
        if agent.lease is LeaseState.ACTIVE and not agent.cordoned
    }


def _queue(state: CoordinatorState) -> Iterator[tuple[StudyRecord, TrialRecord]]:
    """Waiting trials, oldest first, no more per study than its parallelism admits."""
    for study in state.studies.values():
        if study.state.is_terminal or study.cancelling:
            continue
        trials = state.trials.get(study.study_id, {}).values()
        room = study.spec.budget.parallelism - sum(trial.state is TrialState.RUNNING for trial in trials)
        pending = [trial for trial in trials if trial.state is TrialState.PENDING]
        for trial in pending[: max(room, 0)]:
            yield study, trial


def _choose(
    state: CoordinatorState,
    service: Service,
    trial: TrialRecord,
    need: int,
    hosts: list[AgentRecord],
    free: Mapping[str, set[str]],
) -> tuple[str, tuple[str, ...]] | None:
    """The tightest fit among `hosts`, avoiding hosts that this trial has already failed on."""
    burnt = {
        attempt.agent_id
        for attempt in state.attempts.values()
        if attempt.study_id == trial.study_id
        and attempt.trial == trial.number
        and attempt.reason is not None
        and blame_of(attempt.reason) is Blame.HOST
    }
    best: tuple[bool, int, str] | None = None
    devices: tuple[str, ...] = ()
    for agent in hosts:
        open_devices = [device for device in matching_devices(agent, service) if device in free[agent.agent_id]]
        rank = (agent.agent_id in burnt, len(open_devices), agent.agent_id)
        if len(open_devices) >= need and (best is None or rank < best):
            best, devices = rank, tuple(open_devices[:need])
    return None if best is None else (best[2], devices)


def _why(state: CoordinatorState, study: StudyRecord, need: int) -> str:
    """Why no agent can run a trial of the study, and what would help."""
    service = study.spec.service
    able = [agent for agent in state.agents.values() if offers(agent, service.engine)]
    if not state.agents:
        return "no agent is registered: start scoot-agent on a host"
    if not able:
        found = "; ".join(
            f"{agent.agent_id}: "
            + (", ".join(o.name + (f" ({o.error})" if o.error else "") for o in agent.inventory.engines) or "none")
            for agent in state.agents.values()
        )
        return f"no agent offers engine {service.engine!r} (offered: {found}): add [engines.{service.engine}] to one"
    fitting = [agent for agent in able if len(matching_devices(agent, service)) >= need]
    if not fitting:
        most = max(len(matching_devices(agent, service)) for agent in able)
        return f"a trial needs {need} x {service.device!r}, the largest agent with {service.engine!r} has {most}"
    return "; ".join(
        f"{agent.agent_id} is {('cordoned: ' + agent.cordoned) if agent.cordoned else agent.lease.value.lower()}"
        for agent in fitting
    )
