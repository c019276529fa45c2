"""The load process where only so many requests may be in flight: what a server sees of it, and what the timings say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from load_bench import load, make_plan, mock_engine, run, statuses

from scoot.benchmark.metrics import summarise
from scoot.benchmark.validity import judge
from scoot.wire.columns import NONE_US, RequestStatus, TimingBatch
from scoot.wire.reasons import Reason
from scoot.wire.spec import ArrivalProcess, Arrivals, Limits

pytestmark = pytest.mark.timeout(40)

_SLOW = "--mock.base_ms=15"
"""Six tokens take some 100 ms."""


class Counting:
    """A server in front of the engine that counts the requests that are under way.

    Attributes:
        most: at once.
        asked: in all.
    """

    def __init__(self, url: str) -> None:
        self._engine = urlsplit(url)
        self._now = 0
        self.most = 0
        self.asked = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; its requests follow one another."""
        up_reader, up_writer = await asyncio.open_connection(self._engine.hostname, self._engine.port)
        with contextlib.closing(up_writer), contextlib.closing(writer):
            async with asyncio.TaskGroup() as group:
                group.create_task(self._up(reader, up_writer))
                group.create_task(self._down(up_reader, writer))

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if data.startswith(b"POST "):
                    self.asked += 1
                    self._now += 1
                    self.most = max(self.most, self._now)
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if data.endswith(b"0\r\n\r\n"):
                    self._now -= 1  # before the client can know
                writer.write(data)
                await writer.drain()
            writer.write_eof()


@contextlib.asynccontextmanager
async def counted(*arguments: str) -> AsyncIterator[tuple[str, Counting]]:
    """A mock engine behind a counting server: the server's URL, and it."""
    async with mock_engine(*arguments) as url:
        counting = Counting(url)
        tasks: set[asyncio.Task[None]] = set()
        writers: list[asyncio.StreamWriter] = []

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            tasks.add(asyncio.get_running_loop().create_task(counting.serve(reader, writer)))

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", counting
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for writer in writers:  # a task that was cancelled before it began has closed nothing
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


def limited(most: int | None, rate: float = 100.0) -> Arrivals:
    return Arrivals(process=ArrivalProcess.CONSTANT, rate=rate, max_in_flight=most)


def column(batch: TimingBatch, name: str) -> list[int]:
    """Values in the order of the requests' indices."""
    values: list[int] = getattr(batch, name)[np.argsort(batch.index)].tolist()
    return values


@pytest.mark.parametrize("most", [1, 3])
async def test_the_server_never_has_more_and_nothing_is_late(tmp_path: Path, most: int) -> None:
    async with (
        counted(_SLOW) as (url, counting),
        load(make_plan(tmp_path, url, arrivals=limited(most), duration_s=0.3)) as running,
    ):
        batch = await running.result()
        audits = running.audits()
    assert statuses(batch) == {RequestStatus.OK}
    assert (counting.asked, counting.most) == (30, most)
    assert batch.admitted_us is not None
    admitted, sent = np.array(column(batch, "admitted_us")), np.array(column(batch, "sent_us"))
    assert (admitted[:most] == 0).all()
    assert (admitted[most:] > 0).all(), "what takes so long is never caught up with"
    assert (sent >= admitted).all()
    # In the order of the intended starts, each when another one had ended.
    intended, ends = np.array(column(batch, "intended_us")), np.array(column(batch, "end_us"))
    assert (np.diff(intended + admitted) >= 0).all()
    assert set((intended + admitted)[most:].tolist()) <= set((intended + ends).tolist())
    assert (np.array(column(batch, "first_us")) > sent).all(), "from the intended start, the wait included"
    # The wait is the configuration's. As lateness of the load generator it would have made the run invalid.
    metrics = summarise(batch, run=0)
    assert metrics.achieved_rate < 0.8 * metrics.offered_rate
    generous = Limits(min_requests=1, lateness_p99_ms=150, client_cpu_share=1, run_queue_share=0, clock_step_ms=1e6)
    verdict = judge(metrics, audits[0], generous)
    assert verdict.reason not in (Reason.LOAD_LATE, Reason.CLIENT_SATURATED), verdict.detail
    assert audits[0].dropped == 0
    assert running.progress[-1].outstanding == 0
    assert max(line.outstanding for line in running.progress) <= most


async def test_a_limit_that_is_not_reached_changes_nothing(tmp_path: Path) -> None:
    async with mock_engine() as url:
        batch = await run(make_plan(tmp_path, url, arrivals=limited(100), duration_s=0.3))
    assert statuses(batch) == {RequestStatus.OK}
    assert column(batch, "intended_us") == [10_000 * at for at in range(30)]
    assert batch.admitted_us is None


@pytest.mark.parametrize(("most", "senders"), [(5, 3), (2, 2)])
async def test_several_senders_keep_one_limit(tmp_path: Path, most: int, senders: int) -> None:
    async with (
        counted(_SLOW) as (url, counting),
        load(make_plan(tmp_path, url, arrivals=limited(most), duration_s=0.3, senders=3)) as running,
    ):
        batch = await running.result()
        audits = running.audits()
    assert statuses(batch) == {RequestStatus.OK}
    assert sorted(batch.index.tolist()) == list(range(30))
    assert (counting.asked, counting.most <= most) == (30, True)
    assert audits[0].senders == senders, "each has a share of the limit"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"drain_s": 2.0}, RequestStatus.CANCELLED),  # long enough for the server to have read what was sent
        ({"request_timeout_s": 0.2}, RequestStatus.DEADLINE),
    ],
)
async def test_who_is_never_admitted_has_timed_out(
    tmp_path: Path, changes: dict[str, Any], status: RequestStatus
) -> None:
    async with (
        counted("--mock.fault=stall") as (url, counting),
        load(make_plan(tmp_path, url, arrivals=limited(1, 1000.0), duration_s=0.03, **changes)) as running,
    ):
        batch = await running.result()
        audits = running.audits()
    assert statuses(batch) == {status}
    assert len(batch) == 30
    assert batch.admitted_us is not None
    never = batch.admitted_us == NONE_US
    assert np.array_equal(never, batch.sent_us == NONE_US)
    assert 30 - never.sum() == counting.asked < 30
    assert (batch.end_us[never] != NONE_US).all()
    assert audits[0].dropped == 0, "not the load generator's fault"


async def test_an_engine_that_is_gone_fails_them_one_after_the_other(tmp_path: Path) -> None:
    async with mock_engine("--mock.crash_after_requests=3", "--mock.base_ms=60") as url:
        batch = await run(make_plan(tmp_path, url, arrivals=limited(2, 1000.0), duration_s=0.2, request_timeout_s=10.0))
    assert len(batch) == 200
    assert int(np.count_nonzero(batch.status == RequestStatus.OK)) <= 2
    assert RequestStatus.CONNECT_FAILED in statuses(batch)
    assert RequestStatus.NOT_SENT not in statuses(batch)
    assert batch.admitted_us is not None
    assert (batch.admitted_us != NONE_US).all(), "each had its turn"
