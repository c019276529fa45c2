"""How the load process reaches a server: TLS, proxies, IPv6, credentials, chat, and several senders. Real sockets."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from load_bench import TOKENS, load, make_plan, mock_engine, run, statuses

from scoot.benchmark import process
from scoot.benchmark.plan import Endpoint, Priority
from scoot.benchmark.trace_row import TraceRow
from scoot.wire.columns import RequestStatus
from scoot.wire.spec import ArrivalProcess, Arrivals

pytestmark = pytest.mark.timeout(40)

_OK = {RequestStatus.OK}


class Relay:
    """A server that passes every connection on to the engine, and keeps what came.

    Attributes:
        heard: the first bytes of every connection, decrypted.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.heard: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        writers = [writer]
        try:
            port, first = await self._begin(reader, writer)
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(up_writer)
            up_writer.write(first)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(reader, up_writer, keep=True))
                group.create_task(self._pass_on(up_reader, writer, keep=False))
        except asyncio.IncompleteReadError:
            pass  # opened beforehand, and never used
        finally:
            for each in writers:
                each.close()

    async def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, bytes]:
        return self._port, b""

    def _rewritten(self, data: bytes) -> bytes:
        return data

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, keep: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if keep:
                    self.heard.append(data)
                    data = self._rewritten(data)
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
            else:
                writer.close()


class ConnectProxy(Relay):
    """An HTTP proxy: tunnels, and requests with an absolute target. Attribute `asked`: heads it was sent."""

    def __init__(self) -> None:
        super().__init__(0)
        self.asked: list[bytes] = []

    async def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, bytes]:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head)
        found = re.match(rb"CONNECT [^ ]+:(\d+) HTTP", head)
        if found is not None:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            return int(found[1]), b""
        found = re.match(rb"POST http://[^/]+:(\d+)/", head)
        assert found is not None, head
        return int(found[1]), self._rewritten(head)

    def _rewritten(self, data: bytes) -> bytes:
        return re.sub(rb"POST http://[^/]+/", b"POST /", data)


@contextlib.asynccontextmanager
async def serving(relay: Relay, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """A relay that listens; its port."""
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(relay.serve(reader, writer))
        tasks.add(task)

    server = await asyncio.start_server(connected, host, 0, ssl=tls)
    try:
        port: int = server.sockets[0].getsockname()[1]
        yield port
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def certificates(folder: Path) -> tuple[ssl.SSLContext, str]:
    """A server's context, and the file of its CA."""
    ca = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1", "engine.test").configure_cert(context)
    path = folder / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return context, str(path)


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


async def test_https_is_measured_by_the_kernels_stamps_too(tmp_path: Path) -> None:
    context, ca_path = certificates(tmp_path)
    async with mock_engine() as url, serving(Relay(port_of(url)), tls=context) as port:
        plan = make_plan(tmp_path, f"https://127.0.0.1:{port}", ca_path=ca_path)
        async with load(plan) as running:
            batch = await running.result()
            audit = running.audits()[0]
    assert statuses(batch) == _OK
    assert set(batch.output_tokens.tolist()) == {TOKENS}
    assert audit.clock == "kernel"


async def test_a_certificate_that_is_not_trusted_fails_the_requests_and_says_so(tmp_path: Path) -> None:
    context, _ = certificates(tmp_path)
    async with mock_engine() as url, serving(Relay(port_of(url)), tls=context) as port:
        target = f"https://127.0.0.1:{port}"
        batch = await run(make_plan(tmp_path, target))
        assert statuses(batch) == {RequestStatus.CONNECT_FAILED}
        (tmp_path / "insecure").mkdir()
        batch = await run(make_plan(tmp_path / "insecure", target, verify_tls=False))
        assert statuses(batch) == _OK


async def test_the_environments_proxy_is_used_where_the_plan_says_so(tmp_path: Path) -> None:
    # Loopback is never proxied, so the target has a name: the proxy takes it for its own port on loopback.
    proxy = ConnectProxy()
    async with mock_engine() as url, serving(proxy) as port:
        env = {**os.environ, "http_proxy": f"http://user:secret@127.0.0.1:{port}"}
        target = f"http://engine.test:{port_of(url)}"
        batch = await run(make_plan(tmp_path, target, proxies=True), env)
        assert statuses(batch) == _OK
        assert all(head.startswith(f"POST {target}/v1/completions HTTP/1.1\r\n".encode()) for head in proxy.asked)
        assert b"Proxy-Authorization: Basic " + base64.b64encode(b"user:secret") in proxy.asked[0]
        (tmp_path / "direct").mkdir()
        batch = await run(make_plan(tmp_path / "direct", url, proxies=True), env)
        assert statuses(batch) == _OK
    assert all(b"engine.test" in head for head in proxy.asked)


async def test_https_goes_through_a_tunnel(tmp_path: Path) -> None:
    context, ca_path = certificates(tmp_path)
    proxy = ConnectProxy()
    async with mock_engine() as url, serving(Relay(port_of(url)), tls=context) as port, serving(proxy) as proxy_port:
        env = {**os.environ, "https_proxy": f"http://127.0.0.1:{proxy_port}"}
        plan = make_plan(tmp_path, f"https://engine.test:{port}", proxies=True, ca_path=ca_path)
        batch = await run(plan, env)
    assert statuses(batch) == _OK
    assert proxy.asked
    assert all(head.startswith(f"CONNECT engine.test:{port} HTTP/1.1\r\n".encode()) for head in proxy.asked)


async def test_key_headers_path_and_request_ids(tmp_path: Path) -> None:
    async with mock_engine() as url:
        relay = Relay(port_of(url))
        async with serving(relay) as port:
            plan = make_plan(
                tmp_path,
                f"http://127.0.0.1:{port}/v1",
                api_key_env="SCOOT_TEST_KEY",
                headers=(("X-Team", "serving"),),
                endpoint=Endpoint.CHAT,
                rows=(TraceRow(prompt="tell me a story", output_tokens=TOKENS),),
            )
            batch = await run(plan, {**os.environ, "SCOOT_TEST_KEY": "sk-42"})
    assert statuses(batch) == _OK
    assert (batch.input_tokens > 0).all()
    sent = b"".join(relay.heard)
    assert sent.count(b"POST /v1/chat/completions HTTP/1.1\r\n") == len(batch)
    assert sent.count(b"Authorization: Bearer sk-42\r\n") == len(batch)
    assert sent.count(b"X-Team: serving\r\n") == len(batch)
    assert {int(n) for n in re.findall(rb"X-Request-Id: 0-(\d+)\r\n", sent)} == set(batch.index.tolist())
    assert b"sk-42" not in (tmp_path / "plan.json").read_bytes(), "keys are in no file"


async def test_a_key_that_is_not_there_is_a_wrong_plan(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "http://127.0.0.1:9", api_key_env="SCOOT_TEST_NO_SUCH_KEY")
    async with load(plan, stderr=asyncio.subprocess.PIPE) as running:
        await running.follow()
        assert running.child.stderr is not None
        said = (await running.child.stderr.read()).decode()
        assert await running.child.wait() == process.EXIT_BAD_PLAN
    assert "SCOOT_TEST_NO_SUCH_KEY is not set" in said


async def test_ipv6(tmp_path: Path) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 on loopback")
    async with mock_engine() as url:
        relay = Relay(port_of(url))
        async with serving(relay, host="::1") as port:
            batch = await run(make_plan(tmp_path, f"http://[::1]:{port}"))
    assert statuses(batch) == _OK
    assert f"Host: [::1]:{port}\r\n".encode() in relay.heard[0]


@pytest.mark.parametrize(
    "arrivals",
    [
        Arrivals(process=ArrivalProcess.CONSTANT, rate=60.0),
        Arrivals(process=ArrivalProcess.CLOSED, users=5),
    ],
)
async def test_several_senders_share_a_load(tmp_path: Path, arrivals: Arrivals) -> None:
    async with mock_engine() as url:
        plan = make_plan(tmp_path, url, arrivals=arrivals, senders=3, run_seeds=(1, 2), warm_up_s=0.2)
        async with load(plan) as running:
            batch = await running.result()
            audits = running.audits()
    assert statuses(batch) == _OK
    assert [audit.senders for audit in audits] == [3, 3]
    for number in (0, 1):
        own = batch.run == number
        indices = batch.index[own].tolist()
        assert len(set(indices)) == len(indices), "no request is sent twice"
        if arrivals.process is ArrivalProcess.CONSTANT:
            assert sorted(indices) == list(range(len(indices))), "none is left out"
            assert len(indices) in (36, 37)
        else:
            assert {index % 3 for index in indices} == {0, 1, 2}


async def test_priority_and_pinning_are_told_as_they_came_to_be(tmp_path: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    async with mock_engine() as url:
        plan = make_plan(tmp_path, url, priority=Priority.HIGH, cpus=(cpu,))
        async with load(plan) as running:
            await running.result()
            audit = running.audits()[0]
    assert audit.priority in ("high", "normal")
    assert audit.pinned == (cpu,)
