"""Token timings per second from an agent's spool to committed segments: real gRPC, real SQLite, two processes.

The coordinator runs as its own process; this process is the agent: it opens a session, takes an assignment, and uploads
a spool of synthetic but realistic timings through the agent's own Uploader. Every round has timings of its own, so that
no round profits from another's content-addressed segments.

    python tools/bench_ingest.py [--tokens 8000000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import grpc.aio
import msgspec
import numpy as np
import psutil

from scoot.agent.link.channel import open_channel
from scoot.agent.link.codec import AttemptRef
from scoot.agent.link.upload import UploadEnd, Uploader
from scoot.agent.spooled import SpoolFrames
from scoot.benchmark.spool import SpoolWriter
from scoot.v1 import agent_service_pb2 as agent_pb
from scoot.v1 import study_pb2 as study_pb
from scoot.v1 import study_service_pb2 as pb
from scoot.v1.agent_service_pb2_grpc import AgentServiceStub
from scoot.v1.study_service_pb2_grpc import StudyServiceStub
from scoot.wire import columns, limits
from scoot.wire.assignment import Device, EngineOffer, Inventory
from scoot.wire.columns import RequestPhase, TimingBatch
from scoot.wire.endpoint import parse_endpoint
from scoot.wire.protobuf import to_message
from scoot.wire.spec import (
    Arrivals,
    Budget,
    Confirm,
    Objective,
    Parameter,
    ParameterKind,
    Service,
    StudySpec,
    Workload,
    WorkloadFacts,
)

TOKENS_PER_REQUEST = 200
BLOB = b"bench"


def timings(rng: np.random.Generator, n: int) -> TimingBatch:
    """N requests of TOKENS_PER_REQUEST tokens: gaps of 25 ms with the jitter of a real engine."""
    m = n * TOKENS_PER_REQUEST
    gaps = rng.gamma(25.0, 1000.0, m).astype(np.uint32)
    gaps[::TOKENS_PER_REQUEST] = 0
    first = rng.gamma(4.0, 50_000.0, n).astype(np.uint32) + 100
    end = first + gaps.reshape(n, -1).sum(axis=1, dtype=np.uint32)
    return TimingBatch(
        index=np.arange(n, dtype=np.uint32),
        intended_us=np.cumsum(rng.exponential(1e5, n)).astype(np.uint64),
        sent_us=rng.integers(5, 90, n, np.uint32),
        first_us=first,
        end_us=end,
        input_tokens=rng.integers(10, 2000, n, np.uint32),
        output_tokens=np.full(n, TOKENS_PER_REQUEST, np.uint32),
        wanted_tokens=np.full(n, TOKENS_PER_REQUEST, np.uint32),
        chunks=np.full(n, TOKENS_PER_REQUEST, np.uint32),
        run=np.zeros(n, np.uint16),
        http_status=np.full(n, 200, np.uint16),
        replica=np.zeros(n, np.uint16),
        phase=np.full(n, RequestPhase.MEASURED, np.uint8),
        status=np.zeros(n, np.uint8),
        gap_us=gaps,
    )


def write_spool(path: pathlib.Path, tokens: int, seed: int) -> tuple[int, int]:
    """A spool of about `tokens` tokens in batches of the usual size: (tokens, frames)."""
    rng = np.random.default_rng(seed)
    per_batch = limits.BATCH_TARGET_BYTES // columns.encoded_bytes(1, TOKENS_PER_REQUEST, chunk_tokens=False)
    frames = max(1, tokens // (per_batch * TOKENS_PER_REQUEST))
    with SpoolWriter(path) as writer:
        for _ in range(frames):
            writer.append(columns.encode(timings(rng, per_batch)))
    return frames * per_batch * TOKENS_PER_REQUEST, frames


def start_coordinator(folder: pathlib.Path) -> tuple[subprocess.Popen[bytes], str]:
    """A coordinator process on loopback, and its address."""
    ready = folder / "ready"
    argv = [sys.executable, "-m", "scoot.coordinator", "--data", str(folder / "data"), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen([*argv, "--ready-file", str(ready), "--exit-with-stdin"], stdin=subprocess.PIPE)
    while not ready.exists():
        if process.poll() is not None:
            sys.exit(f"the coordinator ended with {process.returncode}")
        time.sleep(0.01)  # noqa: TID251 - start-up of a benchmark
    return process, ready.read_text().strip()


def spec() -> StudySpec:
    """A study whose attempts all come to us."""
    digest = hashlib.sha256(BLOB).hexdigest()
    return StudySpec(
        name="bench",
        service=Service(engine="mock", model="m", device="cpu"),
        workload=Workload(profile="BOT", arrivals=Arrivals(rate=5.0)),
        parameters=(Parameter(name="max_num_seqs", kind=ParameterKind.INT, low=1, high=64),),
        objectives=(Objective(metric="ttft_mean"),),
        budget=Budget(trials=1),
        confirm=Confirm(arrival_orders=0),
        workload_facts=WorkloadFacts(sha256=digest, requests=1, input_p50=1, input_max=1, output_p50=1, output_max=1),
    )


async def take_assignment(
    channel: grpc.aio.Channel, key: str
) -> tuple[AttemptRef, grpc.aio.StreamStreamCall[agent_pb.AgentMessage, agent_pb.CoordinatorMessage]]:
    """Submit a study and be the agent that runs it."""
    studies = StudyServiceStub(channel)
    await studies.PutBlob(iter([agent_pb.BlobChunk(data=BLOB)]))
    await studies.CreateStudy(pb.CreateStudyRequest(spec=to_message(spec(), study_pb.StudySpec()), idempotency_key=key))
    inventory = Inventory(devices=(Device(id="cpu-0", kind="cpu"),), engines=(EngineOffer(name="mock", version="1"),))
    call = AgentServiceStub(channel).Session()
    hello = agent_pb.Hello(agent_id=key, incarnation="1", boot_id="b", version="0", protocol=1)
    hello.inventory.CopyFrom(to_message(inventory, agent_pb.Inventory()))
    await call.write(agent_pb.AgentMessage(hello=hello))
    await call.read()
    message = await call.read()
    if not isinstance(message, agent_pb.CoordinatorMessage):
        sys.exit("the coordinator closed the session")
    return AttemptRef(message.assign.attempt_id, message.assign.fence), call


async def upload(address: str, spool: pathlib.Path, key: str) -> float:
    """Seconds from the first frame read to the last acknowledgement."""
    endpoint = parse_endpoint(address)
    async with open_channel(endpoint, None) as channel:
        ref, session = await take_assignment(channel, key)
        uploader = Uploader(lambda: open_channel(endpoint, None), time.monotonic)
        runner = asyncio.create_task(uploader.run())
        started = time.perf_counter()
        job = uploader.add(ref, SpoolFrames(spool))
        job.close()
        ended = await job.ended
        seconds = time.perf_counter() - started
        runner.cancel()
        await asyncio.wait([runner])
        session.cancel()
    if ended is not UploadEnd.STORED:
        sys.exit(f"the upload ended {ended}")
    return seconds


def main() -> None:
    """Print one line per round, then the median and the spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8_000_000, help="token timings per round")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        process, address = start_coordinator(folder)
        daemon = psutil.Process(process.pid)
        idle = daemon.memory_info().rss
        rates: list[float] = []
        raw = sent = 0
        try:
            for round_ in range(args.rounds):
                spool = folder / f"spool-{round_}"
                tokens, frames = write_spool(spool, args.tokens, seed=round_)
                seconds = asyncio.run(upload(address, spool, f"round-{round_}"))
                raw += spool.stat().st_size
                sent += tokens
                rates.append(tokens / seconds)
                print(f"round {round_}: {tokens:,} tokens in {frames} batches, {rates[-1] / 1e6:.2f} million tokens/s")
            busy = daemon.memory_info().rss
        finally:
            if process.stdin is not None:
                process.stdin.close()
            process.wait()
        stored = sum(path.stat().st_size for path in (folder / "data" / "segments").rglob("*") if path.is_file())
    result = {
        "tokens_per_s_median": statistics.median(rates),
        "tokens_per_s_min": min(rates),
        "tokens_per_s_max": max(rates),
        "raw_bytes_per_token": raw / sent,
        "stored_bytes_per_token": stored / sent,
        "coordinator_rss_mib_idle": idle / 2**20,
        "coordinator_rss_mib_after": busy / 2**20,
    }
    print(msgspec.json.format(msgspec.json.encode(result)).decode())


if __name__ == "__main__":
    main()
