"""The simulated engine's server: what is asked, what is answered, and when, with steps that all take as long."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.agent.core.classify import classify_load, classify_start
from scoot.agent.host.process import ExitStatus
from scoot.benchmark.completion import ChunkKind, parse_chunk
from scoot.simulator.serving.arguments import read_flags
from scoot.simulator.serving.exposition import info_line
from scoot.simulator.serving.length import natural_tokens
from scoot.simulator.serving.log import Log
from scoot.simulator.serving.openai import Payloads
from scoot.simulator.serving.question import Question, check_length, read_question, read_tokenize
from scoot.simulator.serving.server import EXIT_DIED, EXIT_OK, SimulatedServer
from scoot.simulator.settings import Admission, LoadMemory, Order, Resolved, SchedulerSettings
from scoot.simulator.shapes import model_named
from scoot.wire.errors import UserError
from scoot.wire.reasons import Reason

pytestmark = pytest.mark.timeout(30)


class _Steps:
    """Every step takes as long."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def gpu_s(self, decodes: int, decode_context: int, prefills: Sequence[tuple[int, int]]) -> float:
        return self._seconds

    def cpu_s(self, sequences: int) -> float:
        return 0.0


def resolved(step_s: float = 0.002, *, free_bytes: float = 1e9, **changes: Any) -> Resolved:
    scheduler = SchedulerSettings(
        order=Order.DECODE_FIRST,
        admission=Admission.NEXT_CHUNK,
        chunked=True,
        token_budget=512,
        max_running=8,
        max_model_len=1024,
        block_size=16,
        blocks=1000,
        prefix_caching=True,
    )
    of_scheduler = {name: value for name, value in changes.items() if name in SchedulerSettings.__struct_fields__}
    of_replica = {name: value for name, value in changes.items() if name not in of_scheduler}
    return Resolved(
        engine="test-1",
        scheduler=msgspec.structs.replace(scheduler, **of_scheduler),
        memory=LoadMemory(free_bytes=free_bytes, fixed_bytes=0, token_bytes=1, sequence_bytes=0),
        step_time=_Steps(step_s),
        tensor_parallel=1,
        effective={"max_num_seqs": 8},
        start_s=0.0,
        **of_replica,
    )


class Client:
    """Asks one server."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        return await asyncio.to_thread(self._ask, method, path, body)

    def _ask(self, method: str, path: str, body: object) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else msgspec.json.encode(body))
            answer = connection.getresponse()
            return answer.status, answer.read()

    async def metric(self, name: str) -> float:
        text = (await self.ask("GET", "/metrics"))[1].decode()
        return float(next(line for line in text.splitlines() if line.startswith(f"{name}{{")).rpartition(" ")[2])


@contextlib.asynccontextmanager
async def served(engine: Resolved | None = None) -> AsyncIterator[Client]:
    server = SimulatedServer(engine or resolved(), model_named("llama2-13b"), name="m", log=Log("test"))
    running = asyncio.create_task(server.serve("127.0.0.1", 0))
    try:
        await server.listening.wait()
        yield Client(server.port)
    finally:
        server.stop()
        await running


async def begin(client: Client, body: bytes, *, until: bytes = b"data: {") -> asyncio.StreamWriter:
    """Ask for a stream and read no more than its beginning."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    await reader.readuntil(until)
    return writer


def events(body: bytes) -> list[dict[str, Any]]:
    """The events of a stream; its end must be [DONE]."""
    assert body.endswith(b"data: [DONE]\n\n")
    lines = body.split(b"\n\n")[:-2]
    assert all(parse_chunk(line[6:]).kind is ChunkKind.DELTA for line in lines)
    return [json.loads(line[6:]) for line in lines]


# --- questions and answers -------------------------------------------------------------------------------------------


async def test_a_stream_of_exactly_the_tokens_asked_for() -> None:
    async with served() as client:
        ask = {"model": "m", "prompt": [1, 2, 3], "max_tokens": 5, "ignore_eos": True, "stream": True}
        options = {"include_usage": True, "continuous_usage_stats": True}
        status, body = await client.ask("POST", "/v1/completions", {**ask, "stream_options": options})
        told = events(body)
        plain = events((await client.ask("POST", "/v1/completions", ask))[1])
    assert status == 200
    assert [event["usage"]["completion_tokens"] for event in told] == [1, 2, 3, 4, 5, 5]
    assert told[-1]["choices"] == []
    assert told[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    assert [event["choices"][0]["finish_reason"] for event in told[:-1]] == [None] * 4 + ["length"]
    assert all(event["choices"][0]["text"].strip() for event in told[:-1])
    assert len(plain) == 5
    assert "usage" not in plain[-1]


async def test_a_chat_begins_with_its_role_and_a_whole_answer_has_usage() -> None:
    async with served() as client:
        chat = {"messages": [{"role": "user", "content": [{"type": "text", "text": "tell me"}]}], "max_tokens": 3}
        streamed = events((await client.ask("POST", "/v1/chat/completions", {**chat, "stream": True}))[1])
        status, body = await client.ask("POST", "/v1/chat/completions", {**chat, "ignore_eos": True})
    assert streamed[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(event["object"] == "chat.completion.chunk" for event in streamed)
    whole = json.loads(body)
    assert (status, whole["object"], whole["choices"][0]["finish_reason"]) == (200, "chat.completion", "length")
    assert whole["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert whole["choices"][0]["message"]["content"].count(" ") == 3


async def test_without_ignore_eos_answers_end_where_they_like_the_same_every_time() -> None:
    prompt = next([n] for n in range(1000) if 3 < natural_tokens([n]) < 30)
    natural = natural_tokens(prompt)
    async with served() as client:
        ask = {"prompt": prompt, "max_tokens": 900}
        first, again = [json.loads((await client.ask("POST", "/v1/completions", ask))[1]) for _ in range(2)]
        longer = json.loads((await client.ask("POST", "/v1/completions", {**ask, "min_tokens": natural + 5}))[1])
        cut = json.loads((await client.ask("POST", "/v1/completions", {**ask, "max_tokens": 2}))[1])
    assert first["usage"]["completion_tokens"] == again["usage"]["completion_tokens"] == natural
    assert first["choices"][0]["finish_reason"] == "stop"
    assert longer["usage"]["completion_tokens"] == natural + 5
    assert (cut["usage"]["completion_tokens"], cut["choices"][0]["finish_reason"]) == (2, "length")


async def test_tokens_go_out_in_groups_the_first_and_the_last_at_once() -> None:
    async with served(resolved(stream_interval=4)) as client:
        options = {"include_usage": True, "continuous_usage_stats": True}
        ask = {"prompt": [1], "max_tokens": 11, "ignore_eos": True, "stream": True, "stream_options": options}
        told = events((await client.ask("POST", "/v1/completions", ask))[1])
    assert [event["usage"]["completion_tokens"] for event in told[:-1]] == [1, 5, 9, 11]
    assert [event["choices"][0]["text"].count(" ") for event in told[:-1]] == [1, 4, 4, 2]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"prompt": [1], "model": "other"}, 404, "`other` does not exist"),
        ({"prompt": [1] * 1000, "max_tokens": 25}, 400, "maximum context length is 1024"),
        ({"prompt": [], "max_tokens": 1}, 400, "empty prompt"),
        ({"prompt": [1], "max_tokens": 0}, 400, "no tokens"),
        ({"prompt": [1], "max_tokens": 3, "min_tokens": 4}, 400, "min_tokens"),
        ({"prompt": [1], "n": 2}, 400, "n = 1"),
        ({"prompt": 3}, 400, "not understood"),
        ([], 400, "not understood"),
    ],
)
async def test_what_engines_refuse(body: object, status: int, said: str) -> None:
    async with served() as client:
        got, answer = await client.ask("POST", "/v1/completions", body)
    error = json.loads(answer)["error"]
    assert (got, error["code"]) == (status, status)
    assert said in error["message"]


async def test_a_full_queue_is_told() -> None:
    async with served(resolved(30.0, request_limit=1)) as client:
        writer = await begin(client, b'{"prompt": [1], "max_tokens": 2, "stream": true}', until=b"\r\n\r\n")
        assert (await client.ask("POST", "/v1/completions", {"prompt": [1]}))[0] == 503
        writer.close()
        await writer.wait_closed()


async def test_the_other_paths() -> None:
    async with served() as client:
        assert await client.ask("GET", "/health") == (200, b"")
        assert json.loads((await client.ask("GET", "/v1/models"))[1])["data"][0]["max_model_len"] == 1024
        assert json.loads((await client.ask("GET", "/version"))[1])["version"] == "test-1"
        assert json.loads((await client.ask("GET", "/simulated/config"))[1]) == {"max_num_seqs": 8}
        assert json.loads((await client.ask("POST", "/tokenize", {"prompt": "one two"}))[1])["count"] == 2
        assert (await client.ask("POST", "/tokenize", []))[0] == 400
        assert (await client.ask("GET", "/elsewhere"))[0] == 404


async def test_metrics_count() -> None:
    async with served() as client:
        ask = {"prompt": list(range(64)), "max_tokens": 3, "ignore_eos": True}
        for _ in range(2):
            await client.ask("POST", "/v1/completions", ask)
        assert await client.metric("vllm:prompt_tokens_total") == 128
        assert await client.metric("vllm:generation_tokens_total") == 6
        assert await client.metric("vllm:prefix_cache_queries_total") == 128
        assert await client.metric("vllm:prefix_cache_hits_total") == 48
        assert await client.metric("vllm:num_requests_running") == 0
        assert await client.metric("vllm:kv_cache_usage_perc") == 0
        assert await client.metric("simulated:steps_total") == 6
        text = (await client.ask("GET", "/metrics"))[1]
    assert b'block_size="16",num_gpu_blocks="1000"' in text


# --- time ------------------------------------------------------------------------------------------------------------


async def test_a_token_comes_no_earlier_than_its_step_ends() -> None:
    loop = asyncio.get_running_loop()
    async with served(resolved(0.02)) as client:
        begun = loop.time()
        await client.ask("POST", "/v1/completions", {"prompt": [1], "max_tokens": 5, "ignore_eos": True})
        assert loop.time() - begun >= 0.1


async def test_a_late_wake_up_does_not_slow_the_engine_down() -> None:
    """The loop is held up for many steps; the engine has computed them all the same."""
    loop = asyncio.get_running_loop()
    async with served(resolved(0.01)) as client:
        writer = await begin(client, b'{"prompt": [1], "max_tokens": 1000, "ignore_eos": true, "stream": true}')
        steps = await client.metric("simulated:steps_total")
        until = loop.time() + 0.3
        while loop.time() < until:
            pass
        assert await client.metric("simulated:steps_total") - steps >= 29
        writer.close()
        await writer.wait_closed()


async def test_an_answer_nobody_waits_for_is_given_up() -> None:
    async with served(resolved(0.005)) as client:
        writer = await begin(client, b'{"prompt": [1], "max_tokens": 1000, "ignore_eos": true, "stream": true}')
        assert await client.metric("vllm:num_requests_running") == 1
        writer.close()
        await writer.wait_closed()
        while await client.metric("vllm:num_requests_running"):
            pass
        assert await client.metric("vllm:generation_tokens_total") < 1000


async def test_many_at_once_all_get_their_own() -> None:
    lengths = [random.Random(1).randint(1, 40) for _ in range(40)]
    async with served(resolved(0.001)) as client:
        asks = [
            client.ask("POST", "/v1/completions", {"prompt": [n, n + 1], "max_tokens": m, "ignore_eos": True})
            for n, m in enumerate(lengths)
        ]
        answers = await asyncio.gather(*asks)
    assert [json.loads(body)["usage"]["completion_tokens"] for _, body in answers] == lengths


# --- the end ---------------------------------------------------------------------------------------------------------


async def test_out_of_memory_under_load_ends_it_as_real_engines_end(capsys: pytest.CaptureFixture[str]) -> None:
    server = SimulatedServer(resolved(free_bytes=100), model_named("llama2-13b"), name="m", log=Log("test.py"))
    running = asyncio.create_task(server.serve("127.0.0.1", 0))
    await server.listening.wait()
    client = Client(server.port)
    assert (await client.ask("POST", "/v1/completions", {"prompt": [1] * 50}))[0] == 200
    _, writer = await asyncio.open_connection("127.0.0.1", client.port)
    body = msgspec.json.encode({"prompt": [1] * 200, "stream": True})
    writer.write(b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    assert await running == EXIT_DIED
    writer.close()
    text = capsys.readouterr().out
    reason, line = classify_load(
        ExitStatus(code=EXIT_DIED, signal=None, by_us=False), hung=False, failed_share=0.0, log_text=text, engine="s"
    )
    assert reason is Reason.ENGINE_OOM
    assert line.startswith("torch.OutOfMemoryError: CUDA out of memory")
    assert "the root cause is above" in text.splitlines()[-1]


async def test_a_stop_during_the_start_is_a_clean_end(capsys: pytest.CaptureFixture[str]) -> None:
    server = SimulatedServer(resolved(), model_named("llama2-13b"), name="m", log=Log("test.py"))
    running = asyncio.create_task(server.serve("127.0.0.1", 0, start_s=1000.0))
    asyncio.get_running_loop().call_soon(server.stop)
    assert await running == EXIT_OK
    assert "listening" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (("ValueError: No available memory for the cache blocks.",), Reason.ENGINE_OOM),
        (("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.",), Reason.ENGINE_OOM),
        (("ValueError: head size 20 is not supported",), Reason.ENGINE_EXITED_ON_START),
    ],
)
def test_failed_starts_are_told_as_real_engines_tell_them(
    lines: tuple[str, ...], reason: Reason, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Log("simulator.py")
    log.say("non-default args: {}")
    log.fail(*lines)
    text = capsys.readouterr().out
    exit_status = ExitStatus(code=1, signal=None, by_us=False)
    assert classify_start(exit_status, timed_out=False, log_text=text, engine="simulated") == (reason, lines[0])


# --- pure pieces -----------------------------------------------------------------------------------------------------


def test_flags_on_a_command_line() -> None:
    flags = ["--max-num-seqs=64", "--no-enable-prefix-caching", "--enforce-eager", "--dtype", "half", "--x=0.5"]
    assert read_flags([*flags, "--max-num-seqs=8", "--y=true", "--z=1_000", "--empty="]) == {
        "max_num_seqs": 8,
        "enable_prefix_caching": False,
        "enforce_eager": True,
        "dtype": "half",
        "x": 0.5,
        "y": True,
        "z": "1_000",
        "empty": "",
    }
    with pytest.raises(UserError, match="unrecognized"):
        read_flags(["stray"])


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=50))
def test_natural_lengths_are_the_same_every_time(prompt: list[int]) -> None:
    assert natural_tokens(prompt) == natural_tokens(tuple(prompt)) >= 1


def test_natural_lengths_lie_around_their_median() -> None:
    lengths = sorted(natural_tokens([n, 7]) for n in range(2000))
    assert 130 < lengths[1000] < 170
    assert lengths[100] < 60
    assert lengths[1900] > 400


@given(
    text=st.text(max_size=30),
    tokens=st.integers(0, 10_000),
    chat=st.booleans(),
    usage=st.booleans(),
    finish=st.sampled_from(["", "stop", "length"]),
)
def test_events_are_json_whatever_the_text(text: str, tokens: int, chat: bool, usage: bool, finish: str) -> None:
    question = Question(
        number=1, chat=chat, model='m"', prompt=(1, 2), max_tokens=5, include_usage=usage, continuous_usage=usage
    )
    payload = Payloads(question).text(text, tokens, finish)
    said = json.loads(payload)
    choice = said["choices"][0]
    assert (choice["delta"]["content"] if chat else choice["text"]) == text
    assert choice["finish_reason"] == (finish or None)
    assert (said.get("usage") or {}).get("completion_tokens") == (tokens if usage else None)
    assert parse_chunk(payload).kind is ChunkKind.DELTA


def test_a_chat_that_does_not_say_may_fill_the_context() -> None:
    chat = b'{"messages": [{"role": "user", "content": "one two"}]}'
    question = read_question(chat, number=1, chat=True, model="m", chat_context=100)
    assert (len(question.prompt), question.max_tokens) == (2, 98)
    check_length(question, 100)
    with pytest.raises(UserError, match="maximum context length"):
        check_length(question, 99)
    assert read_question(b'{"prompt": "x"}', number=1, chat=False, model="m", chat_context=100).max_tokens == 16
    assert read_tokenize(chat) == list(question.prompt)


def test_labels_are_escaped() -> None:
    assert info_line("a", {"b": 'x"\n\\'}) == b'# TYPE a gauge\na{b="x\\"\\n\\\\"} 1.0\n'
