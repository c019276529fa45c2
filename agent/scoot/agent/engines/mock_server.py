"""The mock engine: `python -m scoot.agent.engines.mock_server --port P --model M [--FLAG=VALUE] [--mock.KNOB=VALUE]`.

An OpenAI-compatible server without a model: it computes nothing, and takes the time that a small engine with
continuous batching would take (scoot.agent.engines.mock_model), so that there is something to tune; and it can go wrong
in every way engines do (scoot.agent.engines.mock_knobs). It writes a log as engines do: the root cause of a failure
first, a general line last.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final, NoReturn

import msgspec
import uvloop

from scoot.agent.engines.mock_answer import Answer, Finish, Piece, draw
from scoot.agent.engines.mock_knobs import CommandLine, CrashAt, CrashRule, Rules, flag_values, parse_command_line
from scoot.agent.engines.mock_model import Job, Scheduler, costs_of
from scoot.agent.engines.mock_rules import Value
from scoot.simulator.serving import http1
from scoot.simulator.serving.connection import ServerConnection
from scoot.simulator.serving.exposition import CONTENT_TYPE, exposition
from scoot.simulator.serving.http1 import Request
from scoot.simulator.serving.log import Log
from scoot.simulator.serving.openai import error_body, models_body, tokenize_body
from scoot.simulator.serving.question import CHAT, COMPLETIONS, Question, check_length, read_question, read_tokenize
from scoot.wire.errors import UserError

EXIT_USAGE: Final = 2

_USAGE: Final = "usage: mock_server --port PORT --model MODEL [--FLAG=VALUE ...] [--mock.KNOB=VALUE ...]"
_ENDLESS_TOKENS: Final = 1_000_000_000
_MIB: Final = 1024 * 1024
_CATCH_UP_S: Final = 0.005


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point. Exits with 2 on wrong arguments, else as the knobs say, 0 after SIGTERM."""
    try:
        line = parse_command_line(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        sys.stderr.write(
            f"usage: mock_server --port PORT --model MODEL [--FLAG=VALUE ...]\nmock_server: error: {error}\n"
        )
        sys.exit(EXIT_USAGE)
    if line.knobs.ignores_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    log = Log("mock_server.py")
    rules = Rules(line)
    values = flag_values(line.flags)
    _start_up(line, rules, values, log)
    hoard = bytearray(line.knobs.leak_memory_mb * _MIB)
    for at in range(0, len(hoard), 4096):
        hoard[at] = 1
    if line.knobs.double_fork_child:
        _leave_child(log)
    gc.freeze()
    uvloop.run(MockEngine(line, rules, log).serve())
    sys.exit(0)


def _start_up(line: CommandLine, rules: Rules, values: Mapping[str, Value], log: Log) -> None:
    """What a start goes through before the server listens; may end the process."""
    flags, knobs = line.flags, line.knobs
    log.say(f"SCOOT mock engine, model {flags.model}")
    log.say("non-default args: " + msgspec.json.encode(values).decode())
    rule = rules.struck(CrashAt.ARGS, values)
    if rule is not None:
        _die_by_rule(rule, log)
    if not flags.enable_chunked_prefill and flags.max_num_batched_tokens < flags.max_model_len:
        log.die(
            1,
            f"ValueError: without chunked prefill max_num_batched_tokens ({flags.max_num_batched_tokens}) must not be"
            f" below max_model_len ({flags.max_model_len})",
        )
    if not Scheduler(flags, costs_of(line)).fits(flags.max_model_len):
        log.die(
            1,
            f"ValueError: the KV cache holds fewer tokens than max_model_len ({flags.max_model_len}); raise"
            " gpu_memory_utilization or lower max_model_len",
        )
    if knobs.start_delay_s:
        log.say(f"loading for {knobs.start_delay_s:g} s")
        time.sleep(knobs.start_delay_s)  # noqa: TID251 - simulates the time that loading a model takes
    if knobs.exit_on_start:
        log.die(knobs.exit_code, knobs.exit_message)
    rule = rules.struck(CrashAt.START, values)
    if rule is not None:
        _die_by_rule(rule, log)


def _die_by_rule(rule: CrashRule, log: Log) -> NoReturn:
    log.die(rule.exit_code, *(rule.log or (f"ValueError: {rule.when} is not supported",)))


def _leave_child(log: Log) -> None:
    """Start a process that is no child of this one, in a session of its own, and holds on to what it inherited."""
    if os.fork():
        os.wait()
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    log.say(f"process {os.getpid()} stays behind")
    while True:
        signal.pause()


class MockEngine:
    """The engine and its server."""

    def __init__(self, line: CommandLine, rules: Rules, log: Log) -> None:
        self.line = line
        self.flags = line.flags
        self.knobs = line.knobs
        self._rules = rules
        self._log = log
        self._values = flag_values(line.flags)
        self._scheduler = Scheduler(line.flags, costs_of(line))
        self._streams: dict[Job, Stream] = {}
        self._work = asyncio.Event()
        self._requests = 0
        self._prompt_tokens = 0
        self._output_tokens = 0

    async def serve(self) -> None:
        """Listen and compute until SIGTERM."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGINT,) if self.knobs.ignores_sigterm else (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        try:
            server = await loop.create_server(
                lambda: ServerConnection(self, keep_alive_s=self.knobs.keep_alive_s), self.flags.host, self.flags.port
            )
        except OSError as error:
            self._log.die(1, f"OSError: cannot listen on {self.flags.host}:{self.flags.port}: {error}")
        port = server.sockets[0].getsockname()[1]
        self._log.say(f"listening on http://{self.flags.host}:{port}")
        steps = loop.create_task(self._compute())
        stopped = loop.create_task(stop.wait())
        await asyncio.wait((steps, stopped), return_when=asyncio.FIRST_COMPLETED)
        if steps.done():
            steps.result()
        self._log.say("shutting down")
        if self.knobs.stop_delay_s:
            await asyncio.sleep(self.knobs.stop_delay_s)  # noqa: TID251 - simulates a slow end
        steps.cancel()
        server.close()

    # --- the engine --------------------------------------------------------------------------------------------------

    async def _compute(self) -> None:
        """Step after step. Their ends are absolute, so that a late wake-up does not slow the engine down."""
        end_s = 0.0
        scheduler = self._scheduler
        while True:
            if scheduler.idle:
                self._work.clear()
                await self._work.wait()
            if self.knobs.hang_after_requests and self._requests >= self.knobs.hang_after_requests:
                await asyncio.get_running_loop().create_future()
            now_s = time.monotonic()
            step = scheduler.plan()
            # Behind by less than a tick of the loop's clock the engine catches up; behind by more it has been idle.
            end_s = (end_s if now_s - end_s < _CATCH_UP_S else now_s) + step.ms / 1000
            await asyncio.sleep(max(0.0, end_s - now_s))  # noqa: TID251 - simulates the time of a step
            for job in scheduler.complete(step):
                self._output_tokens += 1
                stream = self._streams.get(job)
                if job.generated >= job.max_tokens:
                    self._streams.pop(job, None)
                if stream is not None:
                    stream.on_token()
            if self._rules.under_load:
                self._suffer()

    def _suffer(self) -> None:
        """Die if a rule says so."""
        values = self._load_values()
        if self._rules.out_of_memory(values):
            self._log.die(
                1,
                f"OutOfMemoryError: device out of memory with {values['running']} sequences and {values['kv_tokens']}"
                " tokens in the KV cache",
            )
        rule = self._rules.struck(CrashAt.LOAD, values)
        if rule is not None:
            _die_by_rule(rule, self._log)

    def _load_values(self) -> dict[str, Value]:
        scheduler = self._scheduler
        return {
            **self._values,
            "running": len(scheduler.running),
            "waiting": len(scheduler.waiting),
            "kv_tokens": (scheduler.blocks - scheduler.free_blocks) * self.flags.block_size,
            "kv_share": scheduler.kv_share,
            "requests": self._requests,
        }

    def start(self, stream: Stream, question: Question) -> Job:
        """Take a question into the queue."""
        max_tokens = _ENDLESS_TOKENS if stream.answer.goes_on else question.max_tokens
        job = Job(question.prompt, max_tokens)
        self._prompt_tokens += len(question.prompt)
        self._streams[job] = stream
        self._scheduler.add(job)
        self._work.set()
        return job

    def abort(self, job: Job) -> None:
        """Give up a job, if it is still there."""
        if self._streams.pop(job, None) is not None:
            self._scheduler.abort(job)

    # --- the server --------------------------------------------------------------------------------------------------

    def handle(self, connection: ServerConnection, request: Request) -> None:
        """Answer a request, now or bit by bit."""
        route = (request.method, request.path)
        if route in (("POST", COMPLETIONS), ("POST", CHAT)):
            self._on_completion(connection, request)
            return
        status, body, kind = HTTPStatus.OK, b"", "application/json"
        match route:
            case ("GET", "/health"):
                status = HTTPStatus.SERVICE_UNAVAILABLE if self.knobs.ready_never else HTTPStatus.OK
            case ("GET", "/v1/models"):
                body = models_body(self._name, self.flags.max_model_len)
            case ("GET", "/mock/config"):
                body = msgspec.json.encode(self._values)
            case ("GET", "/metrics"):
                body, kind = self._metrics(), CONTENT_TYPE
            case ("POST", "/tokenize"):
                status, body = self._on_tokenize(request.body)
            case _:
                status, body = HTTPStatus.NOT_FOUND, error_body(HTTPStatus.NOT_FOUND, f"no such path: {request.path}")
        connection.answer(status, body, content_type=kind)

    @property
    def _name(self) -> str:
        return self.flags.served_model_name or self.flags.model

    def _on_completion(self, connection: ServerConnection, request: Request) -> None:
        self._requests += 1
        if self.knobs.crash_after_requests and self._requests >= self.knobs.crash_after_requests:
            self._log.die(self.knobs.exit_code, self.knobs.exit_message)
        if draw(self.knobs.seed, self._requests, "http") < self.knobs.http_share:
            connection.answer(self.knobs.http_status, error_body(self.knobs.http_status, "refused, as asked"))
            return
        try:
            question = self._question(request)
        except UserError as error:
            status = HTTPStatus.NOT_FOUND if error.key == "model" else HTTPStatus.BAD_REQUEST
            connection.answer(status, error_body(status, str(error)))
            return
        connection.stream = Stream(self, connection, question)
        connection.stream.open()

    def _question(self, request: Request) -> Question:
        question = read_question(request.body, number=self._requests, chat=request.path == CHAT, model=self._name)
        natural = self.knobs.natural_tokens
        if natural and natural < question.max_tokens and not question.ignore_eos:
            question = msgspec.structs.replace(question, max_tokens=natural)
        check_length(question, self.flags.max_model_len)
        return question

    def _on_tokenize(self, body: bytes) -> tuple[HTTPStatus, bytes]:
        try:
            tokens = read_tokenize(body)
        except UserError as error:
            return HTTPStatus.BAD_REQUEST, error_body(HTTPStatus.BAD_REQUEST, str(error))
        return HTTPStatus.OK, tokenize_body(tokens, self.flags.max_model_len)

    def _metrics(self) -> bytes:
        values = self._load_values()
        samples = (
            ("vllm:num_requests_running", "gauge", float(values["running"])),
            ("vllm:num_requests_waiting", "gauge", float(values["waiting"])),
            ("vllm:kv_cache_usage_perc", "gauge", float(values["kv_share"])),
            ("vllm:prompt_tokens_total", "counter", self._prompt_tokens),
            ("vllm:generation_tokens_total", "counter", self._output_tokens),
        )
        return exposition(self._name, samples)


class Stream:
    """The answer to one question on its way out, streamed or not."""

    def __init__(self, engine: MockEngine, connection: ServerConnection, question: Question) -> None:
        self.answer = Answer(question, engine.knobs)
        self._engine = engine
        self._connection = connection
        self._job: Job | None = None

    def open(self) -> None:
        """Queue the question; send what comes before the first token."""
        self._job = self._engine.start(self, self.answer.question)
        if self.answer.question.stream:
            self._connection.write(http1.stream_head())
            self._send(self.answer.opening())

    def on_token(self) -> None:
        """The engine made a token."""
        self._send(self.answer.on_token())

    def cancel(self) -> None:
        """The client is gone, or nothing more is to be sent."""
        if self._job is not None:
            self._engine.abort(self._job)

    def _send(self, piece: Piece) -> None:
        connection = self._connection
        if not self.answer.question.stream:
            if piece.finish is Finish.END:
                connection.answer(HTTPStatus.OK, b"".join(piece.segments))
            return
        for segment in piece.segments:
            if segment:
                connection.write(http1.chunk(segment))
        match piece.finish:
            case Finish.END:
                connection.write(http1.LAST_CHUNK)
                self.cancel()
                connection.done()
            case Finish.CLOSE | Finish.RESET:
                self.cancel()
                connection.drop(reset=piece.finish is Finish.RESET)


if __name__ == "__main__":
    main()
