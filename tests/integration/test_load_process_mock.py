"""The load process against the mock engine: real processes, real sockets, short windows."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from load_bench import TOKENS, free_port, load, make_plan, mock_engine, run, statuses

from scoot.benchmark import process
from scoot.benchmark.plan import PromptMode
from scoot.benchmark.trace_row import TraceRow
from scoot.wire.assignment import Phase
from scoot.wire.columns import NONE_US, RequestPhase, RequestStatus
from scoot.wire.spec import ArrivalProcess, Arrivals

pytestmark = pytest.mark.timeout(40)

# --- a good load -----------------------------------------------------------------------------------------------------


async def test_two_runs_with_warm_up(tmp_path: Path) -> None:
    async with mock_engine() as url:
        plan = make_plan(tmp_path, url, run_seeds=(1, 2), warm_up_s=0.3, duration_s=0.6)
        async with load(plan) as running:
            batch = await running.result()
            progress, audits = running.progress, running.audits()
    assert statuses(batch) == {RequestStatus.OK}
    for index in (0, 1):
        own = batch.run == index
        assert sorted(batch.index[own].tolist()) == list(range(own.sum()))
        assert own.sum() in (22, 23)
        warm = batch.phase[own] == RequestPhase.WARM_UP
        assert np.array_equal(warm, batch.intended_us[own] < 300_000)
        phases = list(dict.fromkeys(line.phase for line in progress if line.run == index))
        assert phases == [Phase.WARM_UP, Phase.MEASURE, Phase.DRAIN]
        last = [line for line in progress if line.run == index][-1]
        assert (last.sent, last.completed, last.failed, last.outstanding) == (own.sum(), own.sum(), 0, 0)
        assert last.tokens == own.sum() * TOKENS
    assert set(batch.output_tokens.tolist()) == {TOKENS}
    assert batch.chunks.sum() == len(batch.gap_us)
    assert sorted(set(batch.input_tokens.tolist())) == sorted(set(range(10, 50)) & set(batch.input_tokens.tolist()))
    assert (batch.sent_us >= 0).all()
    assert (batch.first_us > batch.sent_us).all()
    assert [audit.run for audit in audits] == [0, 1]
    assert all(0 < audit.cpu_share < 2 and audit.dropped == 0 and audit.clock == "kernel" for audit in audits)


async def test_texts_are_fitted_with_the_engines_tokenizer(tmp_path: Path) -> None:
    rows = (TraceRow(input_tokens=30, output_tokens=3), TraceRow(prompt="tell me a story", output_tokens=3))
    async with mock_engine() as url:
        batch = await run(make_plan(tmp_path, url, rows=rows, prompt_mode=PromptMode.TEXT))
    assert statuses(batch) == {RequestStatus.OK}
    assert set(batch.input_tokens.tolist()) == {30, 4}


async def test_closed_loop_sends_when_answered(tmp_path: Path) -> None:
    arrivals = Arrivals(process=ArrivalProcess.CLOSED, users=3)
    async with mock_engine() as url:
        batch = await run(make_plan(tmp_path, url, arrivals=arrivals, warm_up_s=0.2, duration_s=0.4))
    assert statuses(batch) == {RequestStatus.OK}
    starts = batch.intended_us.astype(np.int64)
    assert (starts == 0).sum() == 3
    assert len(batch) > 10
    ends = set((starts + batch.end_us).tolist())
    assert set(starts[starts > 0].tolist()) <= ends
    assert np.array_equal(batch.phase == RequestPhase.WARM_UP, starts < 200_000)
    assert starts.max() < 600_000


async def test_the_least_loaded_replica_is_chosen(tmp_path: Path) -> None:
    async with mock_engine() as fast, mock_engine("--mock.time_scale=60") as slow:
        batch = await run(make_plan(tmp_path, slow, fast, duration_s=0.8, drain_s=0.1))
    to_fast = batch.replica == 1
    # The slow one holds on to what it got, so nearly everything else goes to the fast one.
    assert batch.replica[np.argmin(batch.intended_us)] == 0
    assert to_fast.sum() > (~to_fast).sum() * 2
    assert set(batch.status[to_fast].tolist()) == {RequestStatus.OK}


async def test_tokens_are_counted_and_not_chunks(tmp_path: Path) -> None:
    async with mock_engine("--mock.tokens_per_chunk=4", "--mock.empty_every=2") as url:
        batch = await run(make_plan(tmp_path, url))
    assert statuses(batch) == {RequestStatus.OK}
    assert set(batch.output_tokens.tolist()) == {TOKENS}
    assert batch.chunk_tokens is not None
    assert batch.chunk_tokens.sum() == len(batch) * TOKENS
    assert batch.chunks.max() <= 2


# --- engines in trouble ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status", "tokens"),
    [
        ("malformed", RequestStatus.MALFORMED, 2),
        ("error_object", RequestStatus.STREAM_ERROR, 2),
        ("reset", RequestStatus.RESET, 2),
        ("close", RequestStatus.CLOSED_EARLY, 2),
        ("end", RequestStatus.CLOSED_EARLY, 2),
        ("too_few", RequestStatus.TOO_FEW_TOKENS, 2),
        ("long_line", RequestStatus.MALFORMED, 2),
        ("never_ending", RequestStatus.STREAM_ERROR, TOKENS + 17),
        ("stall", RequestStatus.DEADLINE, 2),
        ("no_done", RequestStatus.OK, TOKENS),
        ("ragged", RequestStatus.OK, TOKENS),
        ("split", RequestStatus.OK, TOKENS),
        ("role_only", RequestStatus.OK, TOKENS),
        ("empty_first", RequestStatus.OK, TOKENS),
    ],
)
async def test_faults_of_streams(tmp_path: Path, fault: str, status: RequestStatus, tokens: int) -> None:
    async with mock_engine(f"--mock.fault={fault}") as url:
        batch = await run(make_plan(tmp_path, url, request_timeout_s=0.5 if fault == "stall" else 20.0))
    assert statuses(batch) == {status}
    assert len(batch) >= 10
    if fault == "never_ending":
        assert (batch.output_tokens >= tokens).all()
    else:
        assert set(batch.output_tokens.tolist()) == {tokens}
    assert (batch.first_us != NONE_US).all(), "partial timings are kept"
    assert set(batch.http_status.tolist()) == {200}
    if fault == "stall":
        assert (batch.end_us >= 500_000).all()


@pytest.mark.parametrize("fault", ["role_only", "empty_first"])
async def test_an_empty_first_chunk_is_no_token(tmp_path: Path, fault: str) -> None:
    async with mock_engine(f"--mock.fault={fault}", "--mock.base_ms=40") as url:
        batch = await run(make_plan(tmp_path, url))
    assert statuses(batch) == {RequestStatus.OK}
    # The chunk comes at once; a step takes at least 40 ms less the rounding of the server's clock.
    assert (batch.first_us > 30_000).all()
    assert batch.chunks.max() <= TOKENS


async def test_http_errors_and_usage_left_out(tmp_path: Path) -> None:
    async with mock_engine("--mock.http_share=0.5", "--mock.http_status=503", "--mock.usage=false") as url:
        batch = await run(make_plan(tmp_path, url))
    refused = batch.status == RequestStatus.HTTP_ERROR
    assert 0 < refused.sum() < len(batch)
    assert set(batch.http_status[refused].tolist()) == {503}
    assert set(batch.status[~refused].tolist()) == {RequestStatus.OK}
    assert set(batch.output_tokens[~refused].tolist()) == {TOKENS}
    assert (batch.first_us[refused] == NONE_US).all()


async def test_nobody_listens(tmp_path: Path) -> None:
    async with load(make_plan(tmp_path, f"http://127.0.0.1:{free_port()}")) as running:
        batch = await running.result()
        audits = running.audits()
    assert statuses(batch) == {RequestStatus.CONNECT_FAILED}
    assert (batch.sent_us == NONE_US).all()
    assert audits[0].dropped == 0, "the engine refused; the load process dropped nothing"


async def test_the_engine_dies_under_load(tmp_path: Path) -> None:
    async with mock_engine("--mock.crash_after_requests=5", "--mock.base_ms=60") as url:
        batch = await run(make_plan(tmp_path, url))
    assert RequestStatus.CONNECT_FAILED in statuses(batch)
    assert statuses(batch) & {RequestStatus.CLOSED_EARLY, RequestStatus.RESET}
    assert len(batch) >= 10


async def test_the_drain_ends(tmp_path: Path) -> None:
    async with (
        mock_engine("--mock.hang_after_requests=3") as url,
        load(make_plan(tmp_path, url, drain_s=0.2)) as running,
    ):
        batch = await running.result()
    assert RequestStatus.CANCELLED in statuses(batch)
    assert statuses(batch) <= {RequestStatus.CANCELLED, RequestStatus.OK}
    assert running.progress[-1].outstanding == 0
    assert max(line.silent_s for line in running.progress) > 0


# --- the load process itself -----------------------------------------------------------------------------------------


async def test_sigterm_cancels_spools_and_audits(tmp_path: Path) -> None:
    async with (
        mock_engine("--mock.fault=stall") as url,
        load(make_plan(tmp_path, url, duration_s=60.0, run_seeds=(1, 2))) as running,
    ):
        await running.follow(Phase.MEASURE, sent=5)
        running.child.send_signal(signal.SIGTERM)
        batch = await running.result()
        audits = running.audits()
    assert statuses(batch) == {RequestStatus.CANCELLED}
    assert len(batch) >= 5
    assert [audit.run for audit in audits] == [0]


async def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    async with mock_engine() as url, load(make_plan(tmp_path, url, duration_s=60.0)) as running:
        await running.follow(Phase.MEASURE, sent=1)
        assert running.child.stdin is not None
        running.child.stdin.close()
        await running.follow()
        assert await running.child.wait() == process.EXIT_ORPHANED


async def test_a_full_disk(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, f"http://127.0.0.1:{free_port()}")
    (tmp_path / "plan.json").write_bytes(msgspec.json.encode(plan))
    script = (
        "import errno, sys\n"
        "from scoot.benchmark import process, spool\n"
        "def append(self, payload): raise OSError(errno.ENOSPC, 'no space left on device')\n"
        "spool.SpoolWriter.append = append\n"
        "sys.exit(process.main(sys.argv[1:]))\n"
    )
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(tmp_path / "plan.json")),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await child.communicate()
    assert child.returncode == process.EXIT_DISK_FULL == 28
    assert said.decode().splitlines() == [f"{plan.spool_path}: [Errno 28] no space left on device"]


@pytest.mark.parametrize("damage", ["plan", "rows", "targets"])
async def test_a_wrong_plan(tmp_path: Path, damage: str) -> None:
    plan = make_plan(tmp_path, "ftp://elsewhere" if damage == "targets" else "http://127.0.0.1:9")
    if damage == "rows":
        (tmp_path / "rows").write_bytes(b"not gzip")
    if damage == "plan":
        plan = msgspec.structs.replace(plan, targets=())
    async with load(plan, stderr=asyncio.subprocess.PIPE) as running:
        await running.follow()
        assert running.child.stderr is not None
        said = (await running.child.stderr.read()).decode()
        assert await running.child.wait() == process.EXIT_BAD_PLAN
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "spool").exists()


async def test_errors_that_only_the_body_tells_slow_a_closed_loop_down(tmp_path: Path) -> None:
    arrivals = Arrivals(process=ArrivalProcess.CLOSED, users=2)
    async with mock_engine("--mock.fault=error_object") as url:
        batch = await run(make_plan(tmp_path, url, arrivals=arrivals, duration_s=1.5))
    assert statuses(batch) == {RequestStatus.STREAM_ERROR}
    # Told a frame late, a failure makes some later request pause: most of them by 100 ms, none of them at full speed.
    assert len(batch) < 150
