"""The mock engine: its command line, conditions, step model and answers, and how its process behaves."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.agent.engines.mock_answer import Answer, Finish, draw
from scoot.agent.engines.mock_knobs import CrashAt, Fault, Knobs, Rules, flag_values, parse_command_line
from scoot.agent.engines.mock_model import Job, Scheduler, costs_of
from scoot.agent.engines.mock_rules import Condition
from scoot.benchmark.http1 import ResponseParser
from scoot.simulator.serving.http1 import Request, RequestParser
from scoot.simulator.serving.question import Question
from scoot.simulator.serving.tokenizer import tokenize
from scoot.wire.errors import RemoteProtocolError, UserError

pytestmark = pytest.mark.timeout(30)

_NAMES = frozenset({"a", "b", "mode"})


# --- conditions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("a % 32 != 0", True),
        ("a == 16 and not b", True),
        ("a > 1 or b / 0", True),
        ("b / 0 > 1", False),
        ("mode == 'fcfs'", True),
        ("mode + 1", False),
        ("1 < a < 16", False),
        ("1 < a <= 16", True),
        ("max(a, 3) - 16 == 0", True),
        ("-a < 0", True),
    ],
)
def test_conditions(text: str, holds: bool) -> None:
    assert Condition(text, _NAMES, key="k").holds({"a": 16, "b": False, "mode": "fcfs"}) is holds


@pytest.mark.parametrize(
    "text",
    [
        "c > 1",
        "a >",
        "a.b",
        "__import__('os')",
        "(lambda: 1)()",
        "[1][0]",
        "a ** 9",
        "max(a, key=b)",
        "a if b else a",
        "(a := 3)",
        "f'{a}'",
        "1j",
        "(" * 300 + ")" * 300,
    ],
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        Condition(text, _NAMES, key="k")


@given(text=st.text(alphabet="ab01 +-*/%<>=!()'", max_size=20))
@settings(max_examples=300)
def test_any_text_holds_or_is_refused(text: str) -> None:
    with contextlib.suppress(UserError):
        assert Condition(text, _NAMES, key="k").holds({"a": 3, "b": 0.5, "mode": "x"}) in (True, False)


# --- the command line ------------------------------------------------------------------------------------------------


def test_flags_and_knobs() -> None:
    rules = '[{"when": "block_size % 32 != 0", "at": "load", "log": ["ValueError: block"]}]'
    line = parse_command_line(
        [
            *("--port", "8123", "--model=m", "--block-size=32", "--no-enable-chunked-prefill"),
            *("--enable-prefix-caching", "--gpu-memory-utilization=0.5"),
            *("--mock.start_delay_s=0.5", "--mock-fault", "reset", "--mock.ready_never=true", f"--mock.rules={rules}"),
        ]
    )
    flags, knobs = line.flags, line.knobs
    assert (flags.port, flags.model, flags.block_size, flags.gpu_memory_utilization) == (8123, "m", 32, 0.5)
    assert (flags.enable_chunked_prefill, flags.enable_prefix_caching) == (False, True)
    assert (knobs.start_delay_s, knobs.fault, knobs.ready_never) == (0.5, Fault.RESET, True)
    assert (knobs.rules[0].at, knobs.rules[0].log) == (CrashAt.LOAD, ("ValueError: block",))
    assert parse_command_line(["--mock-json", '{"seed": 3, "fault": "end"}']).knobs == Knobs(seed=3, fault=Fault.END)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--max-num-sequences=3", "unrecognized.*did you mean max_num_seqs"),
        ("--mock.fautl=reset", "unrecognized.*did you mean fault"),
        ("--block-size=many", "int"),
        ("--block-size=0", "at least 1"),
        ("--block-size", "expected one argument"),
        ("stray", "unrecognized"),
        ("--mock.fault=odd", "odd"),
        ("--mock.http_share=2", "within 0 and 1"),
        ("--mock.rules=[", "not JSON"),
        ('--mock.rules=[{"when": "nonsense > 1"}]', "unknown name 'nonsense'"),
        ('--mock.rules=[{"when": "running > 1", "at": "start"}]', "unknown name 'running'"),
        ("--gpu-memory-utilization=1.5", "at most 1"),
    ],
)
def test_wrong_arguments_are_told(argument: str, said: str) -> None:
    with pytest.raises(UserError, match=f"(?s){said}"):
        parse_command_line([argument])


def test_rules_strike_where_they_should() -> None:
    rules = [
        {"when": "block_size == 1", "at": "args"},
        {"when": "block_size == 2"},
        {"when": "running > 3", "at": "load", "after_requests": 10},
    ]
    line = parse_command_line([f"--mock.rules={json.dumps(rules)}", "--mock.oom_when=kv_share > 0.9"])
    parsed = Rules(line)
    values = flag_values(line.flags)
    assert parsed.under_load
    assert parsed.struck(CrashAt.ARGS, values) is None
    assert parsed.struck(CrashAt.START, {**values, "block_size": 2}) == line.knobs.rules[1]
    load = {**values, "running": 4, "waiting": 0, "kv_tokens": 0, "kv_share": 0.95, "requests": 9}
    assert parsed.struck(CrashAt.LOAD, load) is None
    assert parsed.struck(CrashAt.LOAD, {**load, "requests": 10}) == line.knobs.rules[2]
    assert parsed.out_of_memory(load)


# --- the step model --------------------------------------------------------------------------------------------------


def _scheduler(*arguments: str) -> Scheduler:
    line = parse_command_line(list(arguments))
    return Scheduler(line.flags, costs_of(line))


def _serve(scheduler: Scheduler, jobs: list[Job], check: Callable[[], None] = lambda: None) -> dict[Job, list[float]]:
    """Token times of every job, ms, all queued at 0."""
    for job in jobs:
        scheduler.add(job)
    now_ms = 0.0
    times: dict[Job, list[float]] = {job: [] for job in jobs}
    for _ in range(100_000):
        if scheduler.idle:
            return times
        step = scheduler.plan()
        check()
        now_ms += step.ms
        for job in scheduler.complete(step):
            times[job].append(now_ms)
    raise AssertionError("the scheduler does not come to an end")


@given(
    shapes=st.lists(st.tuples(st.integers(1, 200), st.integers(1, 30)), min_size=1, max_size=12),
    seqs=st.integers(1, 6),
    tokens=st.integers(1, 150),
    block=st.sampled_from([1, 8, 32]),
    chunked=st.booleans(),
    caching=st.booleans(),
)
@settings(max_examples=150)
def test_every_job_is_served_and_every_block_given_back(
    shapes: list[tuple[int, int]], seqs: int, tokens: int, block: int, chunked: bool, caching: bool
) -> None:
    scheduler = _scheduler(
        *(f"--max-num-seqs={seqs}", f"--max-num-batched-tokens={tokens}", f"--block-size={block}"),
        f"--{'' if chunked else 'no-'}enable-chunked-prefill",
        f"--{'' if caching else 'no-'}enable-prefix-caching",
        "--mock.kv_tokens=300",
    )
    jobs = [Job(tuple(range(length)), output) for length, output in shapes]

    def check() -> None:
        assert len(scheduler.running) <= seqs
        assert 0 <= scheduler.free_blocks <= scheduler.blocks

    times = _serve(scheduler, jobs, check)
    assert [len(times[job]) for job in jobs] == [job.max_tokens for job in jobs]
    assert scheduler.free_blocks == scheduler.blocks


def _ttft_and_tpot(*arguments: str) -> tuple[float, float]:
    # 600 tokens each, all different, so that no prefix is shared.
    jobs = [Job(tuple(range(i * 1000, i * 1000 + 600)), 40) for i in range(24)]
    times = _serve(_scheduler(*arguments), jobs)
    ttft = sum(times[job][0] for job in jobs) / len(jobs)
    tpot = sum((times[job][-1] - times[job][0]) / 39 for job in jobs) / len(jobs)
    return ttft, tpot


def test_more_sequences_trade_tpot_for_ttft() -> None:
    few, many = _ttft_and_tpot("--max-num-seqs=4"), _ttft_and_tpot("--max-num-seqs=24")
    assert many[0] < few[0]
    assert many[1] > few[1]


def test_block_size_has_its_best_value_inside() -> None:
    by_size = {size: _ttft_and_tpot(f"--block-size={size}", "--mock.kv_tokens=9000")[0] for size in (1, 32, 512)}
    assert by_size[32] < min(by_size[1], by_size[512])


def test_devices_and_prefixes_make_it_faster() -> None:
    assert _ttft_and_tpot("--tensor-parallel-size=2") < _ttft_and_tpot()
    scheduler = _scheduler()
    first, second = Job(tuple(range(500)), 2), Job(tuple(range(500)), 2)
    cold = _serve(scheduler, [first])[first][0]
    assert _serve(scheduler, [second])[second][0] < cold
    assert (first.cached, second.cached) == (0, 496)


def test_an_aborted_job_gives_everything_back() -> None:
    scheduler = _scheduler("--max-num-seqs=1")
    jobs = [Job((1, 2, 3), 5), Job((4, 5), 5)]
    for job in jobs:
        scheduler.add(job)
    step = scheduler.plan()
    for job in jobs:
        scheduler.abort(job)
    assert scheduler.complete(step) == []
    assert scheduler.idle
    assert scheduler.free_blocks == scheduler.blocks


# --- answers and HTTP ------------------------------------------------------------------------------------------------


def _answer(fault: Fault = Fault.NONE, **knobs: Any) -> tuple[bytes, Finish]:
    question = Question(
        number=1,
        chat=False,
        model="m",
        prompt=(1, 2),
        max_tokens=4,
        stream=True,
        include_usage=True,
        continuous_usage=True,
    )
    answer = Answer(question, Knobs(fault=fault, **knobs))
    pieces = [answer.opening()]
    while pieces[-1].finish is Finish.NOT_YET and len(pieces) < 12:
        pieces.append(answer.on_token())
    return b"".join(segment for piece in pieces for segment in piece.segments), pieces[-1].finish


def test_a_stream_of_tokens() -> None:
    data, finish = _answer(empty_every=2)
    events = [msgspec.json.decode(line[6:]) for line in data.split(b"\n\n") if line.startswith(b"data: {")]
    assert finish is Finish.END
    assert data.endswith(b"data: [DONE]\n\n")
    assert [event["usage"]["completion_tokens"] for event in events] == [1, 2, 3, 4, 4]
    assert [event["choices"][0]["text"] == "" for event in events[:-1]] == [False, True, False, True]
    assert [event["choices"][0]["finish_reason"] for event in events[:-1]] == [None, None, None, "length"]
    assert events[-1]["choices"] == []


@pytest.mark.parametrize(
    ("fault", "finish"),
    [
        (Fault.RESET, Finish.RESET),
        (Fault.CLOSE, Finish.CLOSE),
        (Fault.END, Finish.END),
        (Fault.STALL, Finish.STALL),
        (Fault.MALFORMED, Finish.STALL),
        (Fault.NEVER_ENDING, Finish.NOT_YET),
        (Fault.NO_DONE, Finish.END),
    ],
)
def test_faults_end_as_they_should(fault: Fault, finish: Finish) -> None:
    data, ended = _answer(fault)
    assert ended is finish
    assert b"[DONE]" not in data
    assert _answer(fault, fault_share=0.0)[1] is Finish.END


def test_draws_and_tokens_are_the_same_every_time() -> None:
    assert draw(1, 2, "http") == draw(1, 2, "http") != draw(1, 3, "http")
    shares = sum(draw(7, number, "fault") < 0.3 for number in range(2000)) / 2000
    assert shares == pytest.approx(0.3, abs=0.05)
    assert tokenize("tell me a story") == tokenize("tell me a story")
    assert len(tokenize("tell me a story")) == 4
    assert len(tokenize("incomprehensible")) == 3
    assert tokenize("") == []


@given(cuts=st.lists(st.integers(0, 200), max_size=5))
def test_requests_however_split(cuts: list[int]) -> None:
    stream = (
        b"POST /v1/completions?x=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
        b"GET /health HTTP/1.1\r\nconnection: close\r\n\r\n"
    )
    parser = RequestParser()
    seen: list[Request] = []
    edges = [0, *sorted(cuts), len(stream)]
    for start, end in itertools.pairwise(edges):
        parser.feed(stream[start:end])
        while (request := parser.next()) is not None:
            seen.append(request)
    assert seen == [Request("POST", "/v1/completions", b"abc", False), Request("GET", "/health", b"", True)]


@pytest.mark.parametrize(
    "stream",
    [
        b"nonsense\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"x" * 70_000,
    ],
)
def test_other_requests_are_refused(stream: bytes) -> None:
    parser = RequestParser()
    parser.feed(stream)
    with pytest.raises(RemoteProtocolError):
        parser.next()


# --- the process -----------------------------------------------------------------------------------------------------


class Server:
    """A mock engine's process."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child
        self.port = 0

    async def line_with(self, words: str) -> str:
        """The next line of its log with these words."""
        assert self.child.stdout is not None
        while line := (await self.child.stdout.readline()).decode():
            if words in line:
                return line
        raise AssertionError(f"its log ended without {words!r}")

    async def ended(self) -> tuple[int, list[str]]:
        """Its exit code and the rest of its log, once it has ended."""
        log, _ = await self.child.communicate()
        assert self.child.returncode is not None
        return self.child.returncode, log.decode().splitlines()

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Status and body of an answer."""
        return await asyncio.to_thread(self._ask, method, path, body)

    def _ask(self, method: str, path: str, body: object) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else msgspec.json.encode(body))
            answer = connection.getresponse()
            return answer.status, answer.read()


@contextlib.asynccontextmanager
async def server(*arguments: str, listens: bool = True) -> AsyncIterator[Server]:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scoot.agent.engines.mock_server", "--port=0", "--model=m", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    running = Server(child)
    try:
        if listens:
            line = await running.line_with("listening on")
            running.port = int(line.strip().rpartition(":")[2])
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.communicate()


async def test_it_answers_like_an_engine() -> None:
    async with server("--block-size=32") as engine:
        assert await engine.ask("GET", "/health") == (200, b"")
        models = json.loads((await engine.ask("GET", "/v1/models"))[1])
        assert models["data"][0]["id"] == "m"
        assert json.loads((await engine.ask("GET", "/mock/config"))[1])["block_size"] == 32
        counted = json.loads((await engine.ask("POST", "/tokenize", {"prompt": "one two"}))[1])
        assert (counted["count"], len(counted["tokens"])) == (2, 2)
        ask = {"model": "m", "prompt": [1, 2, 3], "max_tokens": 3, "ignore_eos": True}
        status, body = await engine.ask("POST", "/v1/completions", ask)
        assert status == 200
        assert json.loads(body)["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
        chat = {"model": "m", "messages": [{"role": "user", "content": "tell me"}], "max_completion_tokens": 2}
        status, body = await engine.ask("POST", "/v1/chat/completions", chat)
        assert json.loads(body)["choices"][0]["message"]["role"] == "assistant"
        status, body = await engine.ask("POST", "/v1/chat/completions", {**chat, "stream": True})
        assert body.startswith(b"data: {")
        assert body.endswith(b"data: [DONE]\n\n")
        assert b"vllm:num_requests_running" in (await engine.ask("GET", "/metrics"))[1]
        assert (await engine.ask("GET", "/elsewhere"))[0] == 404
        assert (await engine.ask("POST", "/v1/completions", {**ask, "model": "other"}))[0] == 404
        assert (await engine.ask("POST", "/v1/completions", {**ask, "max_tokens": 9999}))[0] == 400
        engine.child.terminate()
        code, log = await engine.ended()
    assert code == 0
    assert "shutting down" in log[-1]


async def test_a_connection_serves_again_until_told_to_close() -> None:
    async with server() as engine:
        reader, writer = await asyncio.open_connection("127.0.0.1", engine.port)
        for option in (b"", b"Connection: close\r\n"):
            writer.write(b"GET /v1/models HTTP/1.1\r\n" + option + b"\r\n")
            parser = ResponseParser()
            while not parser.complete:
                parser.feed(await reader.read(4096))
            assert parser.keep_alive is (not option)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("arguments", "code", "root"),
    [
        (("--bogus=1",), 2, "unrecognized arguments: --bogus=1"),
        (("--mock.exit_on_start=true", "--mock.exit_code=3", "--mock.exit_message=RuntimeError: no"), 3, "Error: no"),
        (('--mock.rules=[{"when": "block_size < 32", "log": ["ValueError: block"]}]',), 1, "ValueError: block"),
        (('--mock.rules=[{"when": "block_size < 32", "at": "args", "exit_code": 9}]',), 9, "block_size < 32"),
        (("--no-enable-chunked-prefill", "--max-num-batched-tokens=64"), 1, "max_num_batched_tokens (64)"),
        (("--mock.kv_tokens=1000",), 1, "KV cache"),
    ],
)
async def test_starts_that_fail(arguments: tuple[str, ...], code: int, root: str) -> None:
    async with server(*arguments, listens=False) as engine:
        ended, log = await engine.ended()
    assert ended == code
    if code == 2:
        assert root in log[-1]
    else:
        assert root in log[-2]
        assert "the root cause is above" in log[-1]


async def test_a_taken_port_ends_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        async with server(f"--port={taken.getsockname()[1]}", listens=False) as engine:
            code, log = await engine.ended()
    assert code == 1
    assert "cannot listen" in log[-2]


@pytest.mark.parametrize(
    ("knob", "code"),
    [
        (("--mock.crash_after_requests=1", "--mock.exit_code=0"), 0),
        (("--mock.oom_when=running >= 0", "--mock.exit_code=5"), 1),
        (('--mock.rules=[{"when": "block_size == 16", "at": "load", "exit_code": 7}]',), 7),
    ],
)
async def test_deaths_under_load(knob: tuple[str, ...], code: int) -> None:
    async with server(*knob) as engine:
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            await engine.ask("POST", "/v1/completions", {"prompt": [1, 2], "max_tokens": 3})
        assert (await engine.ended())[0] == code


async def test_it_hangs_and_is_healthy_all_the_same() -> None:
    async with server("--mock.hang_after_requests=1") as engine:
        reader, writer = await asyncio.open_connection("127.0.0.1", engine.port)
        body = b'{"prompt": [1], "max_tokens": 2, "stream": true}'
        writer.write(b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        assert b"text/event-stream" in await reader.readuntil(b"\r\n\r\n")
        assert (await engine.ask("GET", "/health"))[0] == 200
        running = (await engine.ask("GET", "/metrics"))[1]
        assert b'vllm:num_requests_waiting{model_name="m"} 1' in running
        writer.close()
        await writer.wait_closed()


async def test_it_is_never_ready() -> None:
    async with server("--mock.ready_never=true") as engine:
        assert (await engine.ask("GET", "/health"))[0] == 503


async def test_it_ignores_sigterm() -> None:
    async with server("--mock.ignores_sigterm=true") as engine:
        engine.child.terminate()
        assert (await engine.ask("GET", "/health"))[0] == 200
        engine.child.kill()
        assert (await engine.ended())[0] == -signal.SIGKILL


async def test_it_leaves_a_process_behind() -> None:
    async with server("--mock.double_fork_child=true", "--mock.leak_memory_mb=8", listens=False) as engine:
        # Whoever reads the log to its end waits for this process too.
        line = await engine.line_with("stays behind")
        orphan = int(line.split("process ")[1].split()[0])
        try:
            assert os.getsid(orphan) != os.getsid(engine.child.pid)
            assert os.getsid(orphan) != os.getsid(0)
            with open(f"/proc/{orphan}/statm", encoding="ascii") as statm:  # noqa: ASYNC230, PTH123 - /proc never blocks
                assert int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE") > 8 * 1024 * 1024
        finally:
            os.kill(orphan, signal.SIGKILL)
