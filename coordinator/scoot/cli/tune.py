"""scootctl tune: a whole study on this machine, with a coordinator and an agent of its own on loopback."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click

from scoot.cli.agent_file import OWN_ENGINES, agent_toml
from scoot.cli.children import Child
from scoot.cli.client import Coordinator
from scoot.cli.exits import ChildDiedError, Exit
from scoot.cli.files import write_file, write_report
from scoot.cli.follow import exit_of, follow
from scoot.cli.interrupts import Interrupts
from scoot.cli.live import Display
from scoot.cli.progress import headline
from scoot.cli.run_folder import RunFolder, RunRecord
from scoot.wire.assignment import EngineOffer
from scoot.wire.endpoint import Endpoint, parse_endpoint
from scoot.wire.errors import UserError
from scoot.wire.lease import LeaseState
from scoot.wire.view import StudyDetail

T = TypeVar("T")

AGENT_ID: Final = "local"

_COORDINATOR_START_S: Final = 60.0
_AGENT_START_S: Final = 360.0
"""An agent asks each engine its version first, and importing a real one takes a while."""
_AGENT_STOP_S: Final = 30.0
_COORDINATOR_STOP_S: Final = 15.0
_POLL_S: Final = 0.1


class _AskedToStopError(Exception):
    """Ctrl-C; leave by the front door."""


class EmbeddedRun:
    """One `tune`: starts the daemons, submits, follows, reports, stops them; whatever happens, nothing of it remains.

    The first Ctrl-C cancels the study and waits for its engines to stop; the second kills everything at once.
    """

    def __init__(self, folder: RunFolder, record: RunRecord, blob: bytes, display: Display) -> None:
        self._folder = folder
        self._record = record
        self._blob = blob
        self._display = display
        self._children: list[Child] = []
        self._interrupts = Interrupts()
        self._ended: Exit | None = None

    async def run(self) -> Exit:
        """Run to the end.

        Raises:
            ChildDiedError: the coordinator or the agent died.
            UserError: no engine, no address, no space.
        """
        with self._interrupts:
            work = asyncio.ensure_future(self._run_and_stop())
            insisted = asyncio.ensure_future(self._interrupts.insisted.wait())
            try:
                await asyncio.wait((work, insisted), return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    return work.result()
                for child in reversed(self._children):
                    child.kill()
                work.cancel()
                return Exit.INTERRUPTED if self._ended is None else self._ended
            finally:
                insisted.cancel()
                await asyncio.gather(work, insisted, return_exceptions=True)
                self._display.close()

    async def _run_and_stop(self) -> Exit:
        try:
            return await self._study()
        except _AskedToStopError:
            return Exit.CANCELLED
        finally:
            await self._stop()

    async def _study(self) -> Exit:
        endpoint = await self._guarded(self._start_coordinator())
        async with Coordinator(endpoint) as coordinator:
            offer = await self._guarded(self._start_agent(coordinator, endpoint))
            self._display.note(f"engine {offer.name} {offer.version}, run folder {self._folder.path}")
            record = self._record
            study = await self._guarded(coordinator.create_study(record.spec, self._blob, record.idempotency_key))
            try:
                detail = await self._guarded(follow(coordinator, study.study_id, self._display))
            except _AskedToStopError:
                self._display.note("cancelling the study and stopping its engines (Ctrl-C again kills them)")
                await coordinator.cancel_study(study.study_id, "Ctrl-C")
                ended = self._guarded(follow(coordinator, study.study_id, self._display), asked_ends_it=False)
                detail = await ended
            self._display.close()
            await self._report(coordinator, detail)
            self._ended = exit_of(detail)
            return self._ended

    async def _report(self, coordinator: Coordinator, detail: StudyDetail) -> None:
        report = await coordinator.get_report(detail.study.study_id)
        paths = write_report(self._folder.path, report)
        self._display.note("\n".join((*headline(detail), "Report:", *(f"  {path}" for path in paths))))

    async def _start_coordinator(self) -> Endpoint:
        folder = self._folder.path
        ready = folder / "coordinator.address"
        ready.unlink(missing_ok=True)
        argv = [*_python("scoot.coordinator"), "--data", str(folder / "coordinator"), "--listen", "127.0.0.1:0"]
        argv += ["--ready-file", str(ready), "--exit-with-stdin"]
        child = await Child.start("coordinator", argv, folder / "coordinator.log")
        self._children.append(child)
        deadline = asyncio.get_running_loop().time() + _COORDINATOR_START_S
        while not ready.exists():
            if asyncio.get_running_loop().time() > deadline:
                self._died(child, f"is not ready after {_COORDINATOR_START_S:g} s")
            await child.wait(_POLL_S)
            if child.returncode is not None:
                self._died(child)
        return parse_endpoint(ready.read_text().strip())

    async def _start_agent(self, coordinator: Coordinator, endpoint: Endpoint) -> EngineOffer:
        """Start the agent and wait until it offers the study's engine."""
        folder, record = self._folder.path, self._record
        config = folder / "agent.toml"
        text = agent_toml(
            record.spec,
            agent_id=AGENT_ID,
            data_dir=folder / "agent",
            coordinator=str(endpoint),
            engines=record.engines,
            slots=record.slots,
            allow=record.allow,
        )
        write_file(config, text.encode())
        argv = [*_python("scoot.agent"), "--config", str(config), "--exit-with-stdin"]
        child = await Child.start("agent", argv, folder / "agent.log")
        self._children.append(child)
        deadline = asyncio.get_running_loop().time() + _AGENT_START_S
        while True:
            offer = await self._offer(coordinator, child)
            if offer is not None:
                return offer
            if asyncio.get_running_loop().time() > deadline:
                self._died(child, f"has not registered after {_AGENT_START_S:g} s")
            await child.wait(_POLL_S)
            if child.returncode is not None:
                self._died(child)

    async def _offer(self, coordinator: Coordinator, child: Child) -> EngineOffer | None:
        """What the agent offers for the study's engine; None while it is not registered.

        Raises:
            UserError: the engine does not work, or is not offered.
        """
        wanted = self._record.spec.service.engine
        for agent in await coordinator.list_agents():
            # After a restart the coordinator remembers the agent of before, until the new one has said hello.
            if agent.agent_id != AGENT_ID or agent.lease is not LeaseState.ACTIVE:
                continue
            offer = next((offer for offer in agent.inventory.engines if offer.name == wanted), None)
            if offer is None or offer.error:
                reason = "is not offered by the agent" if offer is None else f"does not work: {offer.error}"
                python = self._record.engines.get(wanted, "")
                raise UserError(
                    f"the engine {wanted!r} ({python}) {reason}\n{_quoted(child)}",
                    key="service.engine",
                    hint=f"check it with: {python} -c 'import {wanted}'"
                    if wanted not in OWN_ENGINES
                    else "see the log",
                )
            return offer
        return None

    async def _guarded(self, work: Coroutine[Any, Any, T], *, asked_ends_it: bool = True) -> T:
        """The result of `work`, unless a child dies or Ctrl-C comes first; `work` is cancelled then."""
        task = asyncio.ensure_future(work)
        asked = asyncio.ensure_future(self._interrupts.asked.wait())
        deaths = {asyncio.ensure_future(child.wait()): child for child in self._children}
        others = [*deaths, *([asked] if asked_ends_it else [])]
        try:
            await asyncio.wait((task, *others), return_when=asyncio.FIRST_COMPLETED)
            dead = next((child for wait, child in deaths.items() if wait.done()), None)
            if dead is not None:
                self._died(dead)
            if task.done():
                return task.result()
            raise _AskedToStopError
        finally:
            for each in (task, asked, *deaths):
                each.cancel()
            await asyncio.gather(task, asked, *deaths, return_exceptions=True)

    async def _stop(self) -> None:
        """Stop the agent, then the coordinator; say so if one had to be killed."""
        for child in reversed(self._children):
            grace_s = _AGENT_STOP_S if child.name == "agent" else _COORDINATOR_STOP_S
            if not await child.stop(grace_s) and not self._interrupts.insisted.is_set():
                self._display.note(
                    f"the {child.name} did not stop within {grace_s:g} s and was killed: {child.log_path}"
                )

    def _died(self, child: Child, how: str = "") -> NoReturn:
        status = child.returncode
        if not how:
            how = f"was killed by signal {-status}" if status is not None and status < 0 else f"ended with {status}"
        hint = f"go on with: scootctl tune --resume {self._folder.path}" if self._folder.record_path.exists() else ""
        raise ChildDiedError(f"the {child.name} {how}\n{_quoted(child)}", path=str(child.log_path), hint=hint)


def _quoted(child: Child) -> str:
    """The end of a child's log, indented."""
    return "\n".join(f"  | {line}" for line in child.log_tail(lines=12).splitlines())


def _python(module: str) -> list[str]:
    """This interpreter running `module`; -P keeps files of the current folder from being imported instead."""
    return [sys.executable, "-P", "-m", module]


async def tune(folder: Path, record: RunRecord | None, blob: bytes, display: Display) -> Exit:
    """Run `record` in `folder`, or go on with the run that is there if it is None. Raises as EmbeddedRun.run."""
    with RunFolder(folder) as run_folder:
        if record is None:
            record, blob = run_folder.load()
        else:
            run_folder.create(record, blob)
        return await EmbeddedRun(run_folder, record, blob, display).run()


def tell_resume(folder: Path) -> None:
    """Say how to get at what a killed run measured."""
    click.echo(f"killed; what was measured is kept: scootctl tune --resume {folder}", err=True)
