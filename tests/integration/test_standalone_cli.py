"""`python -m scoot.benchmark` against the mock engine: real processes, real sockets, short windows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from load_bench import mock_engine

from scoot.benchmark.metrics import summarise
from scoot.benchmark.standalone.exits import Exit
from scoot.benchmark.standalone.folder import read_spool
from scoot.benchmark.standalone.follow import STOPPING
from scoot.benchmark.standalone.summary import INTERRUPTED, INVALID, VALID, Summary, figures
from scoot.benchmark.standalone.sweep_table import Sweep
from scoot.wire.columns import NONE_US, RequestStatus

pytestmark = pytest.mark.timeout(50)

TOKENS = 6
SMALL = ("--input-tokens", "20", "--output-tokens", str(TOKENS))
SHORT = ("--rate", "40", "--arrivals", "constant", "--duration", "0.6", "--limit", "min_requests=5")
# Shared machines are slow at times; what is tested here is not how late requests are.
PATIENT = (
    "--limit",
    "lateness_p99_ms=60000",
    "--limit",
    "client_cpu_share=100",
    "--limit",
    "run_queue_share=0",
    "--limit",
    "merged_share=0",
    "--limit",
    "achieved_share=0",
)
LONG = ("--rate", "40", "--arrivals", "constant", "--duration", "600")


class Tool:
    """A running command."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.output = ""

    async def see(self, text: str) -> None:
        """Read its output until a line has `text`."""
        assert self.process.stdout is not None
        while line := (await self.process.stdout.readline()).decode():
            self.output += line
            if text in line:
                return
        pytest.fail(f"{text!r} was not said in:\n{self.output}")

    async def end(self) -> tuple[int, str, str]:
        """Its exit code, and what it wrote to standard output and standard error."""
        out, err = await self.process.communicate()
        self.output += out.decode()
        assert self.process.returncode is not None
        return self.process.returncode, self.output, err.decode()


@contextlib.asynccontextmanager
async def started(*arguments: str, cwd: Path | None = None, stdin: int | None = None) -> AsyncIterator[Tool]:
    """The command; killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scoot.benchmark", *arguments),
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
    )
    try:
        yield Tool(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def tool(*arguments: str, cwd: Path | None = None) -> tuple[int, str, str]:
    """Run the command to its end."""
    async with started(*arguments, cwd=cwd) as running:
        return await running.end()


def summary(folder: Path) -> Summary:
    """The run's summary."""
    return msgspec.json.decode((folder / "summary.json").read_bytes(), type=Summary)


def children(pid: int) -> list[int]:
    """Processes that a process has forked."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


async def gone(pid: int) -> None:
    """Wait for the end of a process that is not ours to wait for."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, ended.set)
    await ended.wait()
    loop.remove_reader(fd)
    os.close(fd)


async def test_a_run_leaves_its_results(tmp_path: Path) -> None:
    out = tmp_path / "out"
    async with mock_engine() as url:
        code, printed, err = await tool(
            *("run", "--url", url, *SMALL, *SHORT, *PATIENT, "--warm-up", "0.2", "--runs", "2", "--out", str(out)),
            *("--slo", "ttft=60s,e2el=60s", "--header", "X-Secret: s3cret"),
        )
    assert (code, err) == (Exit.OK, ""), printed
    found = summary(out)
    assert (found.state, found.detail, found.seeds) == (VALID, "", (0, 1))
    assert [run.metrics["requests"] for run in found.runs] == [24, 24]
    assert found.metrics["completed"] == 24
    assert found.metrics["goodput_share"] == 1.0
    assert found.metrics["total_output_tokens"] == 24 * TOKENS
    assert found.spread is not None
    assert (found.target.urls, found.target.model, found.target.max_model_len) == ((url,), "m", 4096)
    assert found.target.headers == ("X-Secret",)
    assert found.facts.input_max == 20
    assert found.command[0] == "run"
    assert {"scoot", "python", "kernel"} <= found.versions.keys()
    assert "VALID" in printed
    assert "TTFT" in printed
    assert str(out) in printed
    assert [name for name, data in contents(out).items() if b"s3cret" in data] == ["plan.json"]
    assert (out / "plan.json").stat().st_mode & 0o077 == 0

    spooled = read_spool(out / "spool")
    assert len(spooled) == 2 * 32
    expected = figures(summarise(spooled, run=1))
    assert {name: found.runs[1].metrics[name] for name in expected} == expected | {
        "request_goodput": found.runs[1].metrics["request_goodput"],
        "goodput_share": 1.0,
    }


async def test_the_parquet_files_are_the_spool(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out"
    async with mock_engine("--mock.fault=reset", "--mock.fault_share=0.4", "--mock.tokens_per_chunk=2") as url:
        await tool("run", "--url", url, *SMALL, *SHORT, *PATIENT, "--out", str(out), "--quiet")
    spooled = read_spool(out / "spool")
    requests = pq.read_table(out / "requests.parquet").to_pydict()
    tokens = pq.read_table(out / "tokens.parquet").to_pydict()
    assert set(requests["status"]) == {"OK", "RESET"}
    for name in ("run", "index", "intended_us", "output_tokens", "chunks"):
        assert requests[name] == getattr(spooled, name).tolist()
    assert requests["first_us"] == [None if at == NONE_US else at for at in spooled.first_us.tolist()]
    assert tokens["gap_us"] == spooled.gap_us.tolist()
    assert sum(tokens["tokens"]) == int(spooled.output_tokens.sum())
    last = {(run, index): at for run, index, at in zip(tokens["run"], tokens["index"], tokens["time_us"], strict=True)}
    ok = spooled.status == RequestStatus.OK
    ends = spooled.intended_us[ok] + spooled.end_us[ok]
    assert all(last[0, index] <= end for index, end in zip(spooled.index[ok].tolist(), ends.tolist(), strict=True))
    assert len(tokens["time_us"]) == len(spooled.gap_us)


async def test_json_is_all_there_is_on_standard_output(tmp_path: Path) -> None:
    async with mock_engine() as url:
        code, printed, err = await tool(
            "run", "--url", url, *SMALL, *SHORT, *PATIENT, "--json", "--no-records", cwd=tmp_path
        )
    assert code == Exit.OK, err
    found = msgspec.json.decode(printed, type=Summary)
    folder = tmp_path / ".scoot" / "run-1"
    assert found == summary(folder)
    assert "VALID" in err
    assert not (folder / "requests.parquet").exists()


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def test_results_are_never_overwritten(tmp_path: Path) -> None:
    async with mock_engine() as url:
        arguments = ("run", "--url", url, *SMALL, *SHORT, *PATIENT, "--quiet", "--no-records")
        assert (await tool(*arguments, "--out", str(tmp_path)))[0] == Exit.OK
        before = contents(tmp_path)
        code, printed, err = await tool(*arguments, "--out", str(tmp_path))
    assert (code, printed) == (Exit.USAGE, "")
    assert err.startswith(f"error: {tmp_path}: --out: the folder has results already")
    assert contents(tmp_path) == before


async def test_a_trace_and_several_replicas(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    rows = ({"input_tokens": 10 + i, "output_tokens": 3, "arrived_at": i * 0.02} for i in range(20))
    trace.write_bytes(msgspec.json.Encoder().encode_lines(list(rows)))
    out = tmp_path / "out"
    async with mock_engine() as one, mock_engine() as two:
        code, _, err = await tool(
            *("run", "--url", one, "--url", f"{two}/v1", "--trace", str(trace), "--arrivals", "trace"),
            *(*PATIENT, "--limit", "min_requests=5", "--endpoint", "chat", "--out", str(out), "--quiet"),
        )
    assert (code, err) == (Exit.OK, "")
    spooled = read_spool(out / "spool")
    assert spooled.intended_us[np.argsort(spooled.index)].tolist() == [i * 20_000 for i in range(20)]
    assert set(spooled.replica.tolist()) <= {0, 1}
    assert summary(out).workload.duration_s == pytest.approx(0.4)


async def test_users_wait_for_their_answers(tmp_path: Path) -> None:
    async with mock_engine() as url:
        code, printed, err = await tool(
            *("run", "--url", url, *SMALL, *PATIENT, "--users", "3", "--duration", "0.5", "--out", str(tmp_path)),
            *("--limit", "min_requests=5", "--no-records"),
        )
    assert (code, err) == (Exit.OK, "")
    assert "closed, 3 users" in printed
    assert summary(tmp_path).metrics["max_concurrency"] in {1, 2, 3}


async def test_no_more_are_in_flight_than_may_be_and_the_wait_is_in_the_latencies(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    async with mock_engine("--mock.base_ms=15") as url:
        code, printed, err = await tool(
            *("run", "--url", url, *SMALL, *PATIENT, "--rate", "80", "--arrivals", "constant", "--duration", "0.4"),
            *("--limit", "min_requests=5", "--max-in-flight", "2", "--out", str(tmp_path)),
        )
    assert (code, err) == (Exit.OK, ""), printed
    assert "constant, 80 req/s, at most 2 in flight" in printed
    assert "wait for admission" in printed
    found = summary(tmp_path)
    assert found.workload.arrivals.max_in_flight == 2
    assert (found.metrics["completed"], found.metrics["max_concurrency"]) == (32, 2)
    assert found.metrics["n_admission_ms"] == 32
    rows = pq.read_table(tmp_path / "requests.parquet").to_pylist()
    for row in rows:
        assert row["admitted_us"] <= row["sent_us"] <= row["first_us"] <= row["end_us"]
    # Of each, some 90 ms: at 80 a second two at once never catch up.
    assert [row["admitted_us"] for row in rows if row["index"] < 2] == [0, 0]
    assert all(row["admitted_us"] > 0 for row in rows if row["index"] >= 2)
    waits, from_due, from_sent = (
        found.metrics[f"mean_{name}"] or 0.0 for name in ("admission_ms", "e2el_ms", "e2el_from_send_ms")
    )
    assert from_due == pytest.approx(from_sent + waits + (found.metrics["mean_lateness_ms"] or 0.0))
    assert waits > from_sent


async def test_a_sweep_under_a_limit_of_those_in_flight(tmp_path: Path) -> None:
    async with mock_engine("--mock.base_ms=15") as url:
        code, printed, err = await tool(
            *("sweep", "--url", url, *SMALL, *PATIENT, "--rates", "auto", "--points", "1", "--users", "8"),
            *("--max-in-flight", "2", "--duration", "0.5", "--limit", "min_requests=1", "--out", str(tmp_path)),
            *("--no-records", "--csv"),
        )
    assert (code, err) == (Exit.OK, "")
    sweep = msgspec.json.decode((tmp_path / "sweep.json").read_bytes(), type=Sweep)
    one, many, rate = sweep.steps
    assert (one.users, many.users, rate.users) == (1, 2, None)
    assert [summary(tmp_path / step.folder).workload.arrivals.max_in_flight for step in sweep.steps] == [None, None, 2]
    assert (rate.metrics["max_concurrency"] or 0) <= 2
    assert [step.metrics["admitted_rate"] is None for step in sweep.steps] == [True, True, False]
    assert "wait p99" in printed
    assert "p99_admission_ms" in (tmp_path / "sweep.csv").read_text().splitlines()[0]


async def test_an_invalid_measurement_is_told_and_has_its_exit_code(tmp_path: Path) -> None:
    async with mock_engine() as url:
        arguments = ("run", "--url", url, *SMALL, *SHORT, *PATIENT, "--limit", "min_requests=1000", "--no-records")
        code, printed, err = await tool(*arguments, "--out", str(tmp_path / "a"))
        assert (code, err) == (Exit.INVALID, "")
        sentence = "INVALID: TOO_FEW_REQUESTS: 24 measured requests completed, at least 1000 are needed"
        assert sentence in printed.splitlines()
        assert summary(tmp_path / "a").state == INVALID
        code, printed, err = await tool(*arguments, "--out", str(tmp_path / "b"), "--quiet")
    assert (code, printed, err) == (Exit.INVALID, "", sentence + "\n")


async def test_failures_are_told(tmp_path: Path) -> None:
    async with mock_engine("--mock.http_share=1", "--mock.http_status=429") as url:
        code, printed, _ = await tool("run", "--url", url, *SMALL, *SHORT, *PATIENT, "--out", str(tmp_path))
    assert code == Exit.INVALID
    assert "note: 24 of 24 requests failed (24 HTTP_429)" in printed
    assert "note: the server refuses every request: HTTP 429: " in printed
    assert "refused, as asked" in printed
    assert summary(tmp_path).metrics["mean_ttft_ms"] is None


async def test_an_interrupt_summarises_what_is_there(tmp_path: Path) -> None:
    async with (
        mock_engine() as url,
        started(
            "run", "--url", url, *SMALL, *LONG, *PATIENT, "--out", str(tmp_path), stdin=asyncio.subprocess.PIPE
        ) as run,
    ):
        await run.see("measuring")
        run.process.send_signal(signal.SIGINT)
        code, printed, err = await run.end()
    assert (code, err) == (Exit.INTERRUPTED, "")
    assert STOPPING in printed
    assert "INTERRUPTED: stopped before its end" in printed
    found = summary(tmp_path)
    assert found.state == INTERRUPTED
    assert found.runs[0].interrupted
    assert found.metrics["completed"]
    assert (tmp_path / "audit.json").exists()


async def test_a_second_interrupt_kills(tmp_path: Path) -> None:
    async with (
        mock_engine() as url,
        started("run", "--url", url, *SMALL, *LONG, *PATIENT, "--out", str(tmp_path)) as run,
    ):
        await run.see("measuring")
        (load,) = children(run.process.pid)
        os.kill(load, signal.SIGSTOP)  # it cannot end by itself now
        run.process.send_signal(signal.SIGINT)
        await run.see(STOPPING)
        run.process.send_signal(signal.SIGINT)
        code, printed, err = await run.end()
        await gone(load)
    assert (code, err) == (Exit.INTERRUPTED, "")
    assert "killed" in printed
    assert (tmp_path / "spool").exists()
    assert not (tmp_path / "summary.json").exists()


async def test_the_load_ends_with_the_tool(tmp_path: Path) -> None:
    async with (
        mock_engine() as url,
        started("run", "--url", url, *SMALL, *LONG, *PATIENT, "--out", str(tmp_path)) as run,
    ):
        await run.see("measuring")
        (load,) = children(run.process.pid)
        run.process.kill()
        await gone(load)
        assert (await run.end())[0] == -signal.SIGKILL


async def test_a_load_process_that_dies_is_told(tmp_path: Path) -> None:
    async with (
        mock_engine() as url,
        started("run", "--url", url, *SMALL, *LONG, *PATIENT, "--out", str(tmp_path)) as run,
    ):
        await run.see("measuring")
        (load,) = children(run.process.pid)
        os.kill(load, signal.SIGKILL)
        code, _, err = await run.end()
    assert code == Exit.FAILED
    assert err.startswith("error: the load process ended with signal 9")
    assert str(tmp_path / "load.log") in err


async def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    code, printed, err = await tool("run", "--url", url, *SMALL, *SHORT, cwd=tmp_path)
    assert (code, printed) == (Exit.USAGE, "")
    assert (
        err
        == f"error: {url}: --url: no server answers: Connection refused (start the server, or correct the address)\n"
    )
    assert not (tmp_path / ".scoot").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--url", "nonsense", *SMALL, "--rate", "1"), "'nonsense' is not a URL"),
        (("--url", "http://h", *SMALL), "--rate: is missing"),
        (("--url", "http://h", "--rate", "1"), "--profile: there are no requests to send"),
        (("--url", "http://h", "--rate", "1", "--profile", "NOPE"), "--profile: unknown profile 'NOPE'"),
        (("--url", "http://h", "--rate", "1", "--trace", "/gone.csv"), "/gone.csv: --trace: there is no such trace"),
        (("--url", "http://h", "--rate", "-1", *SMALL), "--rate: -1 is out of range"),
        (("--url", "http://h", "--rate", "1", *SMALL, "--max-in-flight", "0"), "--max-in-flight: 0 is out of range"),
        (("--url", "http://h", "--users", "8", *SMALL, "--max-in-flight", "4"), "--max-in-flight: closed arrivals"),
        (("--url", "http://h", "--rate", "1", *SMALL, "--slo", "foo=1"), "--slo: unknown latency 'foo'"),
        (("--url", "http://h", "--rate", "1", *SMALL, "--api-key-env", "SCOOT_NO_KEY"), "SCOOT_NO_KEY is not set"),
    ],
)
async def test_mistakes_are_one_line_with_the_remedy(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    code, printed, err = await tool("run", *arguments, cwd=tmp_path)
    assert (code, printed) == (Exit.USAGE, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert err.rstrip().endswith(")"), "the remedy"


async def test_a_sweep_over_rates(tmp_path: Path) -> None:
    async with mock_engine() as url:
        code, printed, err = await tool(
            *(
                "sweep",
                "--url",
                url,
                *SMALL,
                *PATIENT,
                "--rates",
                "40,20",
                "--arrivals",
                "constant",
                "--duration",
                "0.5",
            ),
            *("--limit", "min_requests=5", "--slo", "ttft=60s", "--csv", "--keep-going", "--out", str(tmp_path)),
            "--no-records",
        )
    assert (code, err) == (Exit.OK, ""), printed
    sweep = msgspec.json.decode((tmp_path / "sweep.json").read_bytes(), type=Sweep)
    assert [(step.name, step.rate, step.state) for step in sweep.steps] == [("20", 20.0, VALID), ("40", 40.0, VALID)]
    assert sweep.knee is not None
    assert (sweep.knee.rate, sweep.knee.next_rate) == (40.0, None)
    assert sweep.slos == ("all: TTFT <= 60000 ms",)
    assert summary(tmp_path / "rate-20").metrics == sweep.steps[0].metrics
    assert len((tmp_path / "sweep.csv").read_text().splitlines()) == 3
    assert "goodput knee" in printed
    assert "40 req/s (2 of 2)" in printed


async def test_a_sweep_finds_its_rates(tmp_path: Path) -> None:
    async with mock_engine("--max-num-seqs=4") as url:
        code, printed, err = await tool(
            *("sweep", "--url", url, *SMALL, *PATIENT, "--rates", "auto", "--points", "2", "--users", "8"),
            *("--duration", "0.5", "--limit", "min_requests=1", "--keep-going", "--out", str(tmp_path), "--no-records"),
            "--json",
        )
    assert code == Exit.OK, err
    sweep = msgspec.json.decode(printed, type=Sweep)
    one, many, *between = sweep.steps
    assert (one.name, one.users, many.name, many.users) == ("synchronous", 1, "throughput", 8)
    low, high = (step.metrics["request_throughput"] or 0 for step in (one, many))
    rates = [step.rate or 0 for step in between]
    assert len(rates) == 2
    assert rates[-1] == pytest.approx(high, rel=0.01)
    assert low < high
    assert sweep.knee is None
    assert "saturation" in err


async def test_an_interrupted_sweep_keeps_what_it_has(tmp_path: Path) -> None:
    async with (
        mock_engine() as url,
        started(
            *(
                "sweep",
                "--url",
                url,
                *SMALL,
                *PATIENT,
                "--rates",
                "20,40",
                "--arrivals",
                "constant",
                "--duration",
                "600",
            ),
            *("--out", str(tmp_path), "--no-records"),
        ) as running,
    ):
        await running.see("measuring")
        running.process.send_signal(signal.SIGINT)
        code, printed, err = await running.end()
    assert (code, err) == (Exit.INTERRUPTED, "")
    sweep = msgspec.json.decode((tmp_path / "sweep.json").read_bytes(), type=Sweep)
    assert sweep.interrupted
    assert [step.state for step in sweep.steps] == [INTERRUPTED]
    assert not (tmp_path / "rate-40").exists()
    assert STOPPING in printed


async def test_runs_and_loads_end_with_the_sweep(tmp_path: Path) -> None:
    async with (
        mock_engine() as url,
        started(
            *("sweep", "--url", url, *SMALL, *PATIENT, "--rates", "20,40", "--duration", "600", "--out", str(tmp_path)),
        ) as running,
    ):
        await running.see("measuring")
        (run,) = children(running.process.pid)
        (load,) = children(run)
        running.process.kill()
        await gone(load)
        await gone(run)
        await running.end()
    assert summary(tmp_path / "rate-20").state == INTERRUPTED
