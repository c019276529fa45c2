"""The simulated engine's server: OpenAI-compatible, in real time, one replica. Nothing is computed."""

from __future__ import annotations

import asyncio
import gc
import signal
from http import HTTPStatus
from typing import Final

import msgspec
import uvloop

from scoot.benchmark.clock import sharpen_timers
from scoot.simulator.replica import EngineDied
from scoot.simulator.serving import openai, target
from scoot.simulator.serving.connection import ServerConnection
from scoot.simulator.serving.engine import RealTimeEngine
from scoot.simulator.serving.exposition import CONTENT_TYPE, exposition, info_line
from scoot.simulator.serving.http1 import Request
from scoot.simulator.serving.log import Log
from scoot.simulator.serving.question import CHAT, COMPLETIONS, Question, read_question, read_tokenize
from scoot.simulator.serving.version import simulator_version
from scoot.simulator.settings import Resolved
from scoot.simulator.shapes import ModelShape
from scoot.wire.errors import UserError

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

EXIT_OK: Final = 0
EXIT_DIED: Final = 1

_KEEP_ALIVE_S: Final = 5.0
_LATE_NS: Final = 250_000_000
_NS: Final = 1e9


class SimulatedServer:
    """One simulated replica behind HTTP.

    Args:
        resolved: what kind of engine.
        model: shape of the model, for its vocabulary.
        name: the model's name as clients must give it.
        log: where it says what happens.

    Attributes:
        port: it listens on, once `listening` is set.
    """

    def __init__(self, resolved: Resolved, model: ModelShape, *, name: str, log: Log) -> None:
        self._resolved = resolved
        self._model = model
        self._name = name
        self._log = log
        self._engine = RealTimeEngine(resolved, self._on_death)
        self._requests = 0
        self._died: EngineDied | None = None
        self._stop = asyncio.Event()
        self.port = 0
        self.listening = asyncio.Event()

    def stop(self) -> None:
        """End `serve`."""
        self._stop.set()

    async def serve(self, host: str, port: int, *, start_s: float = 0.0) -> int:
        """Start for so long, then listen and compute until `stop` or death. The exit code.

        Raises:
            OSError: the port cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        if start_s > 0 and await happens_within(self._stop, start_s):
            self._log.say("shutting down")
            return EXIT_OK
        self._engine.start(loop)
        server = await loop.create_server(lambda: ServerConnection(self, keep_alive_s=_KEEP_ALIVE_S), host, port)
        try:
            self.port = server.sockets[0].getsockname()[1]
            self._log.say(f"listening on http://{host}:{self.port}")
            self.listening.set()
            await self._stop.wait()
        finally:
            server.close()
            self._engine.close(loop)
        if self._engine.late_max_ns > _LATE_NS:
            self._log.warn(f"tokens were up to {self._engine.late_max_ns / 1e6:.0f} ms late: this machine is too busy")
        if self._died is not None:
            self._log.fail(*self._died.lines)
            return EXIT_DIED
        self._log.say("shutting down")
        return EXIT_OK

    def _on_death(self, died: EngineDied) -> None:
        self._died = died
        self._stop.set()

    # --- requests ----------------------------------------------------------------------------------------------------

    def handle(self, connection: ServerConnection, request: Request) -> None:
        """Answer a request, now or bit by bit."""
        route = (request.method, request.path)
        if route in (("POST", COMPLETIONS), ("POST", CHAT)):
            self._on_completion(connection, request)
            return
        status, body, kind = HTTPStatus.OK, b"", "application/json"
        match route:
            case ("GET", "/health"):
                pass
            case ("GET", "/v1/models"):
                body = openai.models_body(self._name, self._resolved.scheduler.max_model_len)
            case ("GET", "/version"):
                body = msgspec.json.encode({"version": self._resolved.engine, "simulator": simulator_version()})
            case ("GET", target.CONFIG_PATH):
                body = msgspec.json.encode(self._resolved.effective)
            case ("GET", "/metrics"):
                body, kind = self._metrics(), CONTENT_TYPE
            case ("POST", "/tokenize"):
                status, body = self._on_tokenize(request.body)
            case _:
                status, body = _error(HTTPStatus.NOT_FOUND, f"no such path: {request.path}")
        connection.answer(status, body, content_type=kind)

    def _on_completion(self, connection: ServerConnection, request: Request) -> None:
        self._requests += 1
        try:
            question = self._question(request)
        except UserError as error:
            status = HTTPStatus.NOT_FOUND if error.key == "model" else HTTPStatus.BAD_REQUEST
            connection.answer(*_error(status, str(error)))
            return
        refusal = self._engine.replica.refusal(len(question.prompt), question.max_tokens)
        if refusal:
            connection.answer(*_error(HTTPStatus.BAD_REQUEST, refusal))
        elif self._engine.full:
            connection.answer(*_error(HTTPStatus.SERVICE_UNAVAILABLE, "the engine's queue is full; try again later"))
        else:
            self._engine.ask(connection, question)

    def _question(self, request: Request) -> Question:
        return read_question(
            request.body,
            number=self._requests,
            chat=request.path == CHAT,
            model=self._name,
            vocabulary=self._model.vocab,
            chat_context=self._resolved.scheduler.max_model_len,
        )

    def _on_tokenize(self, body: bytes) -> tuple[HTTPStatus, bytes]:
        try:
            tokens = read_tokenize(body, self._model.vocab)
        except UserError as error:
            return _error(HTTPStatus.BAD_REQUEST, str(error))
        return HTTPStatus.OK, openai.tokenize_body(tokens, self._resolved.scheduler.max_model_len)

    def _metrics(self) -> bytes:
        engine = self._engine
        replica = engine.replica
        scheduler = self._resolved.scheduler
        labels = {
            "engine": "0",
            "block_size": scheduler.block_size,
            "num_gpu_blocks": scheduler.blocks,
            "enable_prefix_caching": scheduler.prefix_caching,
        }
        samples = (
            ("vllm:num_requests_running", "gauge", float(replica.running)),
            ("vllm:num_requests_waiting", "gauge", float(replica.waiting)),
            ("vllm:kv_cache_usage_perc", "gauge", replica.kv_share),
            ("vllm:prompt_tokens_total", "counter", float(engine.prompt_tokens)),
            ("vllm:generation_tokens_total", "counter", float(engine.tokens)),
            ("vllm:prefix_cache_queries_total", "counter", float(replica.prefix_queried_tokens)),
            ("vllm:prefix_cache_hits_total", "counter", float(replica.prefix_hit_tokens)),
            ("vllm:num_preemptions_total", "counter", float(replica.preemptions)),
            ("simulated:steps_total", "counter", float(engine.steps)),
            ("simulated:step_lateness_seconds_total", "counter", engine.late_sum_ns / _NS),
            ("simulated:step_lateness_seconds_max", "gauge", engine.late_max_ns / _NS),
        )
        return exposition(self._name, samples) + info_line("vllm:cache_config_info", labels)


def _error(status: HTTPStatus, message: str) -> tuple[HTTPStatus, bytes]:
    return status, openai.error_body(status, message)


def run_server(
    resolved: Resolved, model: ModelShape, *, name: str, host: str, port: int, start_s: float, log: Log
) -> int:
    """Serve until SIGTERM or death. The exit code: 0 or 1."""
    try:
        return uvloop.run(_serve(resolved, model, name=name, host=host, port=port, start_s=start_s, log=log))
    except OSError as error:
        log.fail(f"OSError: cannot listen on {host}:{port}: {error}")
        return EXIT_DIED


async def _serve(
    resolved: Resolved, model: ModelShape, *, name: str, host: str, port: int, start_s: float, log: Log
) -> int:
    server = SimulatedServer(resolved, model, name=name, log=log)
    for number in STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, server.stop)
    sharpen_timers()
    gc.freeze()
    return await server.serve(host, port, start_s=start_s)


async def happens_within(event: asyncio.Event, seconds: float) -> bool:
    """Whether an event is set before so much time has passed."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
