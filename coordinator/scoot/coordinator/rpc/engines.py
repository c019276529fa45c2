"""What connected agents tell of their engines: the options of each installation, and verdicts on configurations.

Nothing of it is durable: an agent tells its catalogues in every session, and a question whose answer does not come is
asked again by whoever needs it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from scoot.coordinator.study.placement import matching_devices
from scoot.coordinator.study.state import AgentRecord
from scoot.v1 import agent_service_pb2 as pb
from scoot.wire import limits
from scoot.wire.catalogue.option import Catalogue, decode_catalogue
from scoot.wire.catalogue.verdict import Checked
from scoot.wire.errors import RemoteProtocolError, UserError
from scoot.wire.protobuf import from_message, to_message
from scoot.wire.spec import Config, Service

_log = logging.getLogger(__name__)

ANSWER_S: Final = 120.0
"""Importing an engine before the first answer takes its time; a search waits so long for it, and goes on without."""

Send = Callable[[pb.CoordinatorMessage], None]


class EngineDesk:
    """Questions to agents and their answers. Used from the event loop only.

    Args:
        agents: the committed agents by id.
        answer_s: see ANSWER_S.
    """

    def __init__(self, agents: Callable[[], Mapping[str, AgentRecord]], *, answer_s: float = ANSWER_S) -> None:
        self._agents = agents
        self._answer_s = answer_s
        self._lines: dict[str, Send] = {}
        self._catalogues: dict[tuple[str, str], Catalogue] = {}
        self._open: dict[int, tuple[str, int, asyncio.Future[tuple[Checked, ...] | None]]] = {}
        self._number = 0

    def connected(self, agent_id: str, send: Send) -> None:
        """An agent has a session; what its predecessor was asked will not be answered."""
        self.gone(agent_id)
        self._lines[agent_id] = send

    def gone(self, agent_id: str) -> None:
        """Its session is over."""
        self._lines.pop(agent_id, None)
        self._catalogues = {key: found for key, found in self._catalogues.items() if key[0] != agent_id}
        for asked, _, answer in self._open.values():
            if asked == agent_id and not answer.done():
                answer.set_result(None)

    def take_catalogue(self, agent_id: str, message: pb.EngineCatalogue) -> None:
        """An agent tells the options of an engine.

        Raises:
            RemoteProtocolError: it is none.
        """
        try:
            found = decode_catalogue(message.json, path=f"{message.engine} of {agent_id}")
        except UserError as error:
            raise RemoteProtocolError(f"not a catalogue: {error}") from error
        self._catalogues[agent_id, message.engine[: limits.STRING_CHARS]] = found

    def take_reply(self, agent_id: str, message: pb.CheckReply) -> None:
        """An agent answers a question; one that was given up is ignored.

        Raises:
            RemoteProtocolError: a wrong number of answers, or values out of their types.
        """
        asked, wanted, answer = self._open.get(message.check_id, ("", 0, None))
        if answer is None or asked != agent_id or answer.done():
            return
        if len(message.checked) != wanted:
            raise RemoteProtocolError(f"{len(message.checked)} answers to {wanted} configurations")
        answer.set_result(tuple(from_message(each, Checked) for each in message.checked))

    def catalogue(self, engine: str, agent_id: str = "") -> Catalogue | None:
        """The options of an engine as a connected agent has it; None where none has told."""
        for (teller, name), found in self._catalogues.items():
            if name == engine and agent_id in ("", teller):
                return found
        return None

    def authority(self, engine: str) -> Catalogue | None:
        """The options by which a study may be refused: of an agent that shows configurations to the engine itself.

        Other catalogues are to be looked at. Their names are the engine's; adapters take some under others as well.
        """
        agents = self._agents()
        for (teller, name), found in self._catalogues.items():
            if name == engine and teller in agents and _asks(agents[teller], engine):
                return found
        return None

    def version(self, engine: str) -> str:
        """The release of an engine that agents offer; "" where they differ, or none does."""
        found = {
            offer.version
            for agent in self._agents().values()
            for offer in agent.inventory.engines
            if offer.name == engine and not offer.error
        }
        return found.pop() if len(found) == 1 else ""

    async def check(
        self, service: Service, configs: Sequence[Config], names: Sequence[str]
    ) -> tuple[Checked, ...] | None:
        """What the engine would make of configurations, as a host says that could run them; None if none answers."""
        agent_id = self._able(service)
        if agent_id is None or not configs or len(configs) > limits.CHECKS:
            return None
        self._number += 1
        number = self._number
        question = pb.CheckConfigs(check_id=number, service=to_message(service, pb.CheckConfigs().service), names=names)
        for config in configs:
            to_message(_Configuration(config), question.configs.add())
        if question.ByteSize() > limits.MESSAGE_BYTES // 2:  # the answer may be as long, and has to fit as well
            _log.warning("%d configurations are too many to ask %s about at once", len(configs), service.engine)
            return None
        answer: asyncio.Future[tuple[Checked, ...] | None] = asyncio.get_running_loop().create_future()
        self._open[number] = (agent_id, len(configs), answer)
        try:
            self._lines[agent_id](pb.CoordinatorMessage(check=question))
            async with asyncio.timeout(self._answer_s):
                return await answer
        except TimeoutError:
            _log.warning("agent %s did not say in %.0f s what %s makes of it", agent_id, self._answer_s, service.engine)
            return None
        finally:
            del self._open[number]

    def _able(self, service: Service) -> str | None:
        """A connected agent that can ask the engine, and has a device of the kind."""
        agents = self._agents()
        for agent_id in self._lines:
            agent = agents.get(agent_id)
            if agent is None or not matching_devices(agent, service):
                continue
            if _asks(agent, service.engine):
                return agent_id
        return None


def _asks(agent: AgentRecord, engine: str) -> bool:
    """Whether the agent can ask the engine about configurations."""
    return any(offer.name == engine and offer.checks for offer in agent.inventory.engines)


class _Configuration(msgspec.Struct, frozen=True):
    """Mirrors scoot.v1.Configuration."""

    values: Config
