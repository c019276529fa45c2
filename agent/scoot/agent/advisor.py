"""What the coordinator asks of engines beside attempts: their options, and what they make of configurations.

No engine is run here. Answers lost with a session are asked for again; catalogues are told once a session.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import msgspec

from scoot.agent.engines.base import LaunchRequest
from scoot.agent.link.codec import CheckQuestion, CheckReply
from scoot.agent.workplace import Workplace
from scoot.wire.assignment import matching
from scoot.wire.catalogue.option import Catalogue, encode_catalogue
from scoot.wire.catalogue.verdict import Unknown, Verdict, told
from scoot.wire.client_parameters import engine_config
from scoot.wire.errors import UserError
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config, Service
from scoot.wire.topology import topology

LOG: Final = logging.getLogger(__name__)


class Advisor:
    """Answers questions one after another.

    Attributes:
        changed: called when there is something new to tell.
    """

    def __init__(self, workplace: Workplace, changed: Callable[[], None] = lambda: None) -> None:
        self.changed = changed
        self._workplace = workplace
        self._catalogues: dict[str, bytes] = {}
        self._replies: list[CheckReply] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def catalogues(self) -> Mapping[str, bytes]:
        """JSON of the options of each engine that has told them so far, by the engine's name."""
        return self._catalogues

    def look_up(self) -> None:
        """Begin to ask every engine for its options; this also has vLLM's helper import it before it is needed."""
        for name in self._workplace.listers:
            self._begin(self._look_up(name), f"catalogue of {name}")

    def ask(self, question: CheckQuestion) -> None:
        """Begin to answer a question."""
        self._begin(self._answer(question), f"check {question.check_id}")

    def take_replies(self) -> tuple[CheckReply, ...]:
        """Answers not taken before."""
        replies, self._replies = tuple(self._replies), []
        return replies

    async def aclose(self) -> None:
        """Give up what is being answered."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            LOG.error("%s: a bug of SCOOT", task.get_name(), exc_info=error)

    async def _look_up(self, name: str) -> None:
        offer = self._workplace.offers.get(name)
        if offer is None or offer.error:
            return
        found = await self._workplace.listers[name].catalogue()
        if not isinstance(found, Catalogue):
            LOG.info("the options of %s are not known: %s", name, found.why)
            return
        found = msgspec.structs.replace(found, version=found.version or offer.version)
        LOG.info("%s: %d options", found.title, len(found.options))
        self._catalogues[name] = encode_catalogue(found)
        self.changed()

    async def _answer(self, question: CheckQuestion) -> None:
        """Answer, whatever comes up: who asked waits."""
        try:
            model = await self._model(question.service)
            verdicts = [await self._verdict(question.service, config, model) for config in question.configs]
        except (UserError, OSError) as error:
            verdicts = [Unknown(str(error))] * len(question.configs)
        checked = tuple(told(verdict, question.names) for verdict in verdicts)
        self._replies.append(CheckReply(check_id=question.check_id, checked=checked))
        self.changed()

    async def _model(self, service: Service) -> str:
        """The model's folder here.

        Raises:
            UserError: the engine or the model is not here.
        """
        place = self._workplace
        adapter = place.adapters.get(service.engine)
        if adapter is None:
            raise UserError(f"no engine {service.engine!r} here", key="service.engine")
        model = await asyncio.to_thread(adapter.models_ok, service.model, place.model_roots)
        if isinstance(model, Reason):
            raise UserError(f"{service.model!r} is in no model root", key="service.model")
        return model

    async def _verdict(self, service: Service, config: Config, model: str) -> Verdict:
        checker = self._workplace.checkers.get(service.engine)
        if checker is None:
            return Unknown(f"{service.engine} has no argument check that could be asked")
        try:
            shape = topology(service, config)
        except UserError as error:
            return Unknown(str(error))
        devices = matching(self._workplace.devices.values(), service.device)
        if len(devices) < shape.per_replica:
            return Unknown(f"{shape.per_replica} x {service.device!r} are needed, this host has {len(devices)}")
        request = LaunchRequest(
            service=msgspec.structs.replace(service, model=model),
            config=engine_config(config),
            tensor_parallel=shape.tensor_parallel,
            devices=devices[: shape.per_replica],
            port=0,  # nothing is started
            workdir="",
        )
        return await checker.check(request)
