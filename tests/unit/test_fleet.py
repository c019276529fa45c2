"""An attempt's engines together: a question that hangs hides no exit, and a stranger on a port accuses nobody."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from scoot.agent.core.command import EngineCommand
from scoot.agent.core.plan import Prompting
from scoot.agent.engines.base import EngineAdapter, LaunchRequest
from scoot.agent.fleet import Fleet
from scoot.agent.host.ports import free_port, port_is_free
from scoot.agent.host.process import EngineProcess, ExitStatus
from scoot.agent.host.proctable import TOKEN_VARIABLE
from scoot.agent.listener import users_of
from scoot.benchmark.plan import PromptMode
from scoot.wire.spec import Service

DEADLINE_S = 20.0
NEVER_S = 3600.0
KILLED = ExitStatus(signal=9)
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
PROMPTING = Prompting(model="m", prompt_mode=PromptMode.TEXT, token_low=0, token_high=1, ignore_eos=False)

Answering = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Idle:
    """An adapter whose engine never listens."""

    health_path = "/health"

    def command(self, launch: LaunchRequest) -> EngineCommand:
        return EngineCommand(argv=(sys.executable, "-c", "import signal; signal.pause()"), env={})


def fleet_on(*ports: int, folder: Path = Path("/nonexistent")) -> Fleet:
    service = Service(engine="idle", model="m")
    launches = [
        LaunchRequest(service=service, config={}, tensor_parallel=1, devices=(), port=port, workdir=str(folder))
        for port in ports
    ]
    return Fleet(cast("EngineAdapter", Idle()), launches, folder)


def with_exits(fleet: Fleet) -> list[asyncio.Future[ExitStatus]]:
    """Have the fleet run engines that are nothing but their exits."""
    loop = asyncio.get_running_loop()
    exits: list[asyncio.Future[ExitStatus]] = [loop.create_future() for _ in fleet.launches]
    fleet._engines = {index: cast("EngineProcess", SimpleNamespace(exited=each)) for index, each in enumerate(exits)}
    return exits


@contextlib.asynccontextmanager
async def serving(answer: Answering) -> AsyncIterator[int]:
    """A server that hands the first line of each request to `answer`; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            await answer(await reader.readline(), reader, writer)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def until_left(_: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer nothing for as long as somebody waits."""
    await reader.read()


@pytest.mark.parametrize("dying", [0, 1])
async def test_an_engine_that_ends_is_not_waited_for_while_a_question_hangs(dying: int) -> None:
    async def hang(line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exits[dying].set_result(KILLED)
        await until_left(line, reader, writer)

    async with asyncio.timeout(DEADLINE_S), serving(hang) as port:
        fleet = fleet_on(port, free_port())
        exits = with_exits(fleet)
        trouble = await fleet.check(lambda _: PROMPTING, timeout_s=NEVER_S)
    assert trouble is not None
    assert (trouble.replica, trouble.exit, trouble.silent) == (dying, KILLED, False)


@pytest.mark.parametrize("dies", [True, False])
async def test_an_engine_that_answers_and_ends_has_ended(dies: bool) -> None:
    async def answer(line: bytes, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        last = line.startswith(b"POST")
        if last and dies:
            exits[0].set_result(KILLED)
        writer.write(OK + (b'{"choices": [{}]}' if last else b""))
        await writer.drain()

    async with asyncio.timeout(DEADLINE_S), serving(answer) as port:
        fleet = fleet_on(port)
        exits = with_exits(fleet)
        trouble = await fleet.check(lambda _: PROMPTING, timeout_s=DEADLINE_S)
    assert (trouble.exit if trouble is not None else None) == (KILLED if dies else None)


async def test_one_that_refuses_is_given_time_to_end_and_one_that_is_silent_is_told() -> None:
    fleet = fleet_on(free_port())
    with_exits(fleet)
    refused = await fleet.check(lambda _: PROMPTING, timeout_s=DEADLINE_S, exit_wait_s=0.0)
    assert refused is not None
    assert (refused.exit, refused.silent) == (None, False)
    assert "Connect call failed" in refused.detail or "refused" in refused.detail
    async with asyncio.timeout(DEADLINE_S), serving(until_left) as port:
        fleet = fleet_on(port)
        with_exits(fleet)
        silent = await fleet.check(lambda _: PROMPTING, timeout_s=0.01, exit_wait_s=0.0)
    assert silent is not None
    assert (silent.exit, silent.silent) == (None, True)


@pytest.mark.parametrize("how", ["check", "ready"])
async def test_a_question_ends_with_the_wait_for_it(how: str) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def hang(line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await until_left(line, reader, writer)
        left.set()

    async with asyncio.timeout(DEADLINE_S), serving(hang) as port:
        fleet = fleet_on(port)
        with_exits(fleet)
        deadline_s = asyncio.get_running_loop().time() + NEVER_S
        waiting = asyncio.create_task(
            fleet.check(lambda _: PROMPTING, timeout_s=NEVER_S)
            if how == "check"
            else fleet.ready(lambda _: PROMPTING, deadline_s)
        )
        await asked.wait()
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        await left.wait()


async def test_a_port_that_others_serve_is_not_waited_for(tmp_path: Path) -> None:
    async with asyncio.timeout(DEADLINE_S), serving(refuse) as port:
        fleet = fleet_on(port, folder=tmp_path)
        await fleet.start(attempt_id="s/0/1", state_dir=tmp_path, cgroups=None)
        try:
            trouble = await fleet.ready(lambda _: PROMPTING, asyncio.get_running_loop().time() + NEVER_S)
        finally:
            await fleet.stop(DEADLINE_S, DEADLINE_S)
    assert trouble is not None
    assert (trouble.foreign, trouble.exit) == (True, None)
    assert str(port) in trouble.detail


async def refuse(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Not the engine: it has no such path."""
    writer.write(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()


async def stopped(folder: Path, port: int) -> Fleet:
    """A fleet whose engine has run, never listened, and is gone."""
    fleet = fleet_on(port, folder=folder)
    await fleet.start(attempt_id="s/0/1", state_dir=folder, cgroups=None)
    (report,) = await fleet.stop(DEADLINE_S, DEADLINE_S)
    assert report.clean
    return fleet


async def test_a_stranger_on_the_port_is_not_the_engines_uncleanliness(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        fleet = await stopped(tmp_path, port)
        assert not port_is_free(port)
        assert users_of(port) == frozenset({os.getpid()})
        assert fleet.unclean() == ""
        with socket.create_connection(("127.0.0.1", port)) as connection:
            own = connection.getsockname()[1]
            fleet.launches = fleet_on(own).launches
            assert not port_is_free(own), "the end of a connection of a stranger's"
            assert fleet.unclean() == ""


async def test_a_process_of_the_engine_on_the_port_is_left_of_it(tmp_path: Path) -> None:
    port = free_port()
    fleet = await stopped(tmp_path, port)
    token = fleet._engines[0]._record.token
    code = f"import socket; s = socket.create_server(('127.0.0.1', {port})); print(flush=True); input()"
    with subprocess.Popen(  # noqa: ASYNC220 - not below a warden, as if it had been started by somebody else
        [sys.executable, "-c", code], env={TOKEN_VARIABLE: token}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as escaped:
        assert escaped.stdout is not None
        escaped.stdout.readline()
        said = fleet.unclean()
        assert fleet.unclean(ports=False) == ""
        escaped.communicate(b"\n")
    assert said == f"port {port} is still in use by process(es) [{escaped.pid}] of the engine"
    assert fleet.unclean() == ""


def in_flight(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Two ends of a pipe with a listening socket under way in it: it listens, and no process has it open."""
    ends = socket.socketpair()
    ends[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener.fileno()]))])
    listener.close()
    return ends


def bound(listener: socket.socket) -> tuple[socket.socket]:
    """A socket that is bound and does not listen, so that no table of the kernel's has it."""
    port = listener.getsockname()[1]
    listener.close()
    other = socket.socket()
    other.bind(("127.0.0.1", port))
    return (other,)


@pytest.mark.parametrize("hide", [in_flight, bound])
async def test_a_port_whose_user_cannot_be_told_counts_until_it_is_free(
    tmp_path: Path, hide: Callable[[socket.socket], tuple[Any, ...]]
) -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = listener.getsockname()[1]
        fleet = await stopped(tmp_path, port)
        for each in hide(listener):
            stack.enter_context(each)
        assert fleet.unclean() == f"port {port} is still in use (by whom cannot be told)"
    assert fleet.unclean() == ""
