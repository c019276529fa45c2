"""Who has been heard of when: the volatile half of the leases, turned into events when a lease changes."""

from __future__ import annotations

from collections.abc import Mapping

from scoot.coordinator.study.events import AgentLeaseChanged
from scoot.coordinator.study.state import AgentRecord
from scoot.wire.lease import LeasePolicy, LeaseState, lease_state


class LeaseTable:
    """Monotonic seconds of each agent's last heartbeat."""

    def __init__(self, policy: LeasePolicy, started_s: float) -> None:
        self.policy = policy
        self._started_s = started_s
        self._heard_s: dict[str, float] = {}

    def heard(self, agent_id: str, now_s: float) -> None:
        """The agent gave a sign of life at `now_s`."""
        self._heard_s[agent_id] = now_s

    def silent_s(self, agent_id: str, now_s: float) -> float:
        """Seconds since the agent was heard of; since the start for one not heard of since."""
        return now_s - self._heard_s.get(agent_id, self._started_s)

    def due(self, agents: Mapping[str, AgentRecord], now_s: float) -> list[AgentLeaseChanged]:
        """Events for the agents whose lease is not what their record says.

        Only a hello brings an agent back from LOST: its attempts have to be agreed on first.
        """
        events = []
        for agent in agents.values():
            seen = lease_state(self.policy, self.silent_s(agent.agent_id, now_s))
            if agent.agent_id not in self._heard_s and seen is LeaseState.ACTIVE:
                seen = LeaseState.SUSPECT
            lost = agent.lease in (LeaseState.LOST, LeaseState.RELEASED)
            if seen is not agent.lease and not (lost and seen in (LeaseState.ACTIVE, LeaseState.SUSPECT)):
                events.append(AgentLeaseChanged(agent_id=agent.agent_id, lease=seen))
        return events
