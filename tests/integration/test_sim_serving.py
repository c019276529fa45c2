"""The simulated engine as agents run it: its own process, real HTTP, SCOOT's load generator, and its ends."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from load_bench import TOKENS, make_plan, run, statuses

from scoot.agent.core.classify import classify_load, classify_start
from scoot.agent.engines.base import EngineSettings, LaunchRequest
from scoot.agent.engines.registry import make_adapter
from scoot.agent.host.ports import free_port
from scoot.agent.host.process import ExitStatus
from scoot.benchmark.trace_row import TraceRow
from scoot.wire.columns import RequestStatus
from scoot.wire.reasons import Reason
from scoot.wire.spec import ArrivalProcess, Arrivals, Config, Scalar, Service

pytestmark = pytest.mark.timeout(50)

ADAPTER = make_adapter(EngineSettings(kind="simulated"))


def command(config: Config, *, port: int, options: dict[str, Scalar] | None = None) -> tuple[str, ...]:
    """The agent's command line for one replica."""
    service = Service(
        engine="simulated",
        model="llama2-13b",
        max_model_len=2048,
        options={"simulated_start_scale": 0, **(options or {})},
    )
    request = LaunchRequest(
        service=service,
        config=config,
        tensor_parallel=int(config.get("tensor_parallel_size", 1)),
        devices=(),
        port=port,
        workdir="/",
    )
    return ADAPTER.command(request).argv


class Engine:
    """A simulated engine's process."""

    def __init__(self, child: asyncio.subprocess.Process, url: str) -> None:
        self.child = child
        self.url = url

    async def get(self, path: str) -> bytes:
        return await asyncio.to_thread(self._get, path)

    def _get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", int(self.url.rpartition(":")[2]), timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().read()

    async def metric(self, name: str) -> float:
        lines = (await self.get("/metrics")).decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name}{{")).rpartition(" ")[2])

    async def ended(self) -> tuple[int, str]:
        """Its exit code and the rest of its log."""
        log, _ = await self.child.communicate()
        assert self.child.returncode is not None
        return self.child.returncode, log.decode()


@contextlib.asynccontextmanager
async def engine(
    config: Config, *, listens: bool = True, options: dict[str, Scalar] | None = None
) -> AsyncIterator[Engine]:
    port = free_port()
    child = await asyncio.create_subprocess_exec(
        *command(config, port=port, options=options), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        assert child.stdout is not None
        while listens:
            line = (await child.stdout.readline()).decode()
            assert line, "it has ended"
            if f"listening on http://127.0.0.1:{port}" in line:
                break
        yield Engine(child, f"http://127.0.0.1:{port}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.communicate()


async def test_the_load_generator_measures_it(tmp_path: Path) -> None:
    async with engine({"max_num_seqs": 32}) as simulated:
        plan = make_plan(tmp_path, simulated.url, model="llama2-13b", max_model_len=2048, duration_s=0.8)
        batch = await run(plan)
        computed = await simulated.metric("vllm:generation_tokens_total")
        simulated.child.terminate()
        code, log = await simulated.ended()
    assert statuses(batch) == {RequestStatus.OK}
    assert set(batch.output_tokens.tolist()) == {TOKENS}
    assert computed == len(batch) * TOKENS
    # A step of this model takes 13 ms or more on this GPU: no token can come earlier, whatever the machine.
    assert batch.first_us.min() >= 10_000
    assert np.diff(np.sort(batch.end_us - batch.first_us))[0] >= 0
    assert (batch.end_us - batch.first_us).min() >= (TOKENS - 1) * 10_000
    assert code == 0
    assert "shutting down" in log.splitlines()[-1]


async def test_two_replicas_and_their_effective_configuration(tmp_path: Path) -> None:
    config: Config = {"tensor_parallel_size": 2, "enable_prefix_caching": False}
    async with engine(config) as one, engine(config) as other:
        plan = make_plan(tmp_path, one.url, other.url, model="llama2-13b", max_model_len=2048)
        batch = await run(plan)
        bodies = {path: (await one.get(path)).decode() for path in ADAPTER.info_paths}
        models = json.loads(await one.get("/v1/models"))
    assert statuses(batch) == {RequestStatus.OK}
    assert set(batch.replica.tolist()) == {0, 1}
    service = Service(engine="simulated", model="llama2-13b")
    request = LaunchRequest(service=service, config=config, tensor_parallel=2, devices=(), port=1, workdir="/")
    found = ADAPTER.effective_config("", request, bodies)
    assert found["tensor_parallel_size"] == 2
    assert found["enable_prefix_caching"] is False
    assert found["block_size"] == 16
    assert "port" not in found
    assert models["data"][0]["max_model_len"] == 2048


@pytest.mark.parametrize(
    ("config", "options", "reason", "line"),
    [
        ({"frobnicate": 1}, {}, Reason.ENGINE_REJECTED_ARGS, "unrecognized arguments: --frobnicate=1"),
        ({"max_num_seqs": "many"}, {}, Reason.ENGINE_REJECTED_ARGS, "argument --max-num-seqs: invalid int value"),
        (
            {"max_num_seqs": 512, "max_num_batched_tokens": 128},
            {},
            Reason.ENGINE_REJECTED_ARGS,
            "SchedulerConfig: max_num_batched_tokens (128) must be greater than or equal to max_num_seqs (512)",
        ),
        ({"block_size": 24}, {}, Reason.ENGINE_EXITED_ON_START, "ValueError: No common block size for 24"),
        ({}, {"simulated_gpu": "a10"}, Reason.ENGINE_OOM, "torch.OutOfMemoryError: CUDA out of memory"),
        ({}, {"simulated_engine": "vllm-9"}, Reason.ENGINE_REJECTED_ARGS, "argument engine: "),
        (
            {"enable_chunked_prefill": True, "enable_prefix_caching": True},
            {"simulated_engine": "vllm-0.4.2"},
            Reason.ENGINE_EXITED_ON_START,
            "RuntimeError: chunked prefill cannot be used with prefix caching",
        ),
    ],
)
async def test_failed_starts_are_classified_as_those_of_real_engines(
    config: Config, options: dict[str, Scalar], reason: Reason, line: str
) -> None:
    async with engine(config, options=options, listens=False) as failing:
        code, log = await failing.ended()
    assert code in (1, 2)
    status = ExitStatus(code=code, signal=None, by_us=False)
    found, told = classify_start(status, timed_out=False, log_text=log, engine="simulated")
    assert (found, told.startswith(line)) == (reason, True), log


async def test_out_of_memory_under_load(tmp_path: Path) -> None:
    """Nearly all of the memory is the KV cache, and prompts that come together need more than what is left."""
    config: Config = {"gpu_memory_utilization": 0.99, "max_num_batched_tokens": 8192}
    rows = tuple(TraceRow(input_tokens=1500 + n, output_tokens=4) for n in range(40))
    arrivals = Arrivals(process=ArrivalProcess.CONSTANT, rate=60.0)
    async with engine(config, options={"simulated_engine": "vllm-0.4.2"}) as simulated:
        plan = make_plan(tmp_path, simulated.url, model="llama2-13b", max_model_len=2048, rows=rows, arrivals=arrivals)
        batch = await run(plan)
        code, log = await simulated.ended()
    assert statuses(batch) & {RequestStatus.CLOSED_EARLY, RequestStatus.RESET}
    assert code == 1
    status = ExitStatus(code=code, signal=None, by_us=False)
    reason, line = classify_load(status, hung=False, failed_share=1.0, log_text=log, engine="simulated")
    assert reason is Reason.ENGINE_OOM
    assert line.startswith("torch.OutOfMemoryError: CUDA out of memory")
    assert "the root cause is above" in log.splitlines()[-1]
