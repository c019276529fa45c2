"""scootctl as its own process, against a coordinator that this test plays over real gRPC."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from scoot.v1 import agent_service_pb2, measurement_pb2, study_pb2, study_service_pb2, study_service_pb2_grpc, trial_pb2
from scoot.wire.catalogue.option import Catalogue, EngineOption, OptionKind, Source, encode_catalogue

STUDY = """\
name = "chat"
objectives = ["e2e_p95"]
[service]
engine = "mock"
model = "tiny"
device = "cpu"
[workload]
profile = "BOT"
arrivals = {rate = 20}
[parameters.max_num_seqs]
type = "int"
low = 8
high = 256
[budget]
trials = 2
"""

Context = grpc.aio.ServicerContext[Any, Any]


class FakeCoordinator(study_service_pb2_grpc.StudyServiceServicer):
    """One study, whose states a test prepares; remembers what it was asked."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.keys: list[str] = []
        self.specs: list[study_pb2.StudySpec] = []
        self.cancelled = asyncio.Event()
        self.watching = asyncio.Event()
        self.states: list[study_service_pb2.StudyDetail] = []
        self.break_create = 0
        self.break_watch_after: int | None = None
        self.watch_from = 0
        self.hold = False
        self.reason = ""
        self.results = '{"schema": 1}'

    async def PutBlob(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[agent_service_pb2.BlobChunk], context: Context
    ) -> study_service_pb2.PutBlobReply:
        data = b"".join([chunk.data async for chunk in request_iterator])
        self.blobs[hashlib.sha256(data).hexdigest()] = data
        return study_service_pb2.PutBlobReply(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))

    async def CreateStudy(  # noqa: N802 - gRPC's name
        self, request: study_service_pb2.CreateStudyRequest, context: Context
    ) -> study_pb2.Study:
        self.keys.append(request.idempotency_key)
        if self.break_create:
            self.break_create -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        self.specs.append(request.spec)
        return study_pb2.Study(study_id="chat-1", spec=request.spec, state=study_pb2.STUDY_STATE_SEARCHING)

    async def GetStudy(  # noqa: N802 - gRPC's name
        self, request: study_service_pb2.GetStudyRequest, context: Context
    ) -> study_service_pb2.StudyDetail:
        if request.study_id != "chat-1":
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no study {request.study_id!r} here")
        return self.states[-1]

    async def ListStudies(  # noqa: N802 - gRPC's name
        self, request: study_service_pb2.ListStudiesRequest, context: Context
    ) -> study_service_pb2.ListStudiesReply:
        return study_service_pb2.ListStudiesReply(studies=[self.states[-1].study])

    async def CancelStudy(  # noqa: N802 - gRPC's name
        self, request: study_service_pb2.CancelStudyRequest, context: Context
    ) -> study_pb2.Study:
        self.reason = request.reason
        self.cancelled.set()
        return self.states[-1].study

    async def WatchStudy(  # noqa: N802 - gRPC's name
        self, request: study_service_pb2.WatchStudyRequest, context: Context
    ) -> AsyncIterator[study_service_pb2.StudyDetail]:
        for n, state in list(enumerate(self.states))[self.watch_from :]:
            if n == self.break_watch_after:
                self.break_watch_after, self.watch_from = None, n - 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
            yield state
        self.watching.set()
        if self.hold:
            await self.cancelled.wait()

    async def GetReport(  # noqa: N802 - gRPC's name
        self, request: study_service_pb2.GetReportRequest, context: Context
    ) -> study_service_pb2.Report:
        return study_service_pb2.Report(json=self.results, markdown="# chat\n", html="<p>chat</p>")

    async def ListAgents(  # noqa: N802 - gRPC's name
        self, request: study_service_pb2.ListAgentsRequest, context: Context
    ) -> study_service_pb2.ListAgentsReply:
        device = agent_service_pb2.Device(id="cpu-0", kind="cpu")
        engines = [
            agent_service_pb2.EngineOffer(name="mock", version="0.1.0"),
            agent_service_pb2.EngineOffer(name="vllm", error="no module named vllm\nsecond line"),
            agent_service_pb2.EngineOffer(name="fast-vllm", version="9.9", checks=True, lists=True),
        ]
        inventory = agent_service_pb2.Inventory(devices=[device], engines=engines, hostname="box.example")
        agent = study_service_pb2.Agent(
            agent_id="box",
            inventory=inventory,
            lease=study_service_pb2.LEASE_STATE_ACTIVE,
            in_use={"cpu-0": "chat-1/1/1"},
            silent_s=2.0,
        )
        return study_service_pb2.ListAgentsReply(agents=[agent])

    async def GetCatalogue(  # noqa: N802 - gRPC's name
        self, request: study_service_pb2.GetCatalogueRequest, context: Context
    ) -> agent_service_pb2.EngineCatalogue:
        if (request.engine, request.agent_id) != ("fast-vllm", "box"):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"nobody has told the options of {request.engine!r}")
        option = EngineOption(name="max_num_seqs", kind=OptionKind.INT, effective=77)
        told = Catalogue(engine="vllm", version="9.9", device="cuda", source=Source.LIVE, options=(option,))
        return agent_service_pb2.EngineCatalogue(engine=request.engine, json=encode_catalogue(told))


def spec() -> study_pb2.StudySpec:
    return study_pb2.StudySpec(
        name="chat",
        schema=1,
        service=study_pb2.Service(engine="mock", model="tiny", device="cpu", replicas=1),
        workload=study_pb2.Workload(
            profile="BOT",
            format="auto",
            select=study_pb2.SELECTION_ALL,
            arrivals=study_pb2.Arrivals(process=study_pb2.ARRIVAL_PROCESS_POISSON, rate=20, time_scale=1),
        ),
        parameters=[
            study_pb2.Parameter(
                name="max_num_seqs",
                type=study_pb2.PARAMETER_KIND_INT,
                low=8,
                high=256,
                scale=study_pb2.SCALE_LINEAR,
            )
        ],
        objectives=[study_pb2.Objective(metric="e2e_p95")],
        budget=study_pb2.Budget(trials=2, parallelism=1, max_attempts=3, ask_deadline_s=60),
        confirm=study_pb2.Confirm(arrival_orders=0),
        optimizer=study_pb2.Optimizer(method="sobol"),
        limits=study_pb2.Limits(max_failed_share=0.01),
    )


def measured(e2e_ms: float) -> measurement_pb2.RunResult:
    return measurement_pb2.RunResult(
        metrics=measurement_pb2.Metrics(
            e2e_ms=measurement_pb2.Distribution(
                n=9, mean=e2e_ms, p50=e2e_ms, p90=e2e_ms, p95=e2e_ms, p99=e2e_ms, max=e2e_ms
            )
        ),
        audit=measurement_pb2.LoadAudit(),
        validity=measurement_pb2.Validity(valid=True),
    )


def trial(number: int, state: trial_pb2.TrialState.ValueType, **values: Any) -> trial_pb2.Trial:
    kind = trial_pb2.TRIAL_KIND_SUGGESTED if number else trial_pb2.TRIAL_KIND_DEFAULT
    source = "sobol" if number else "default"
    return trial_pb2.Trial(number=number, kind=kind, state=state, source=source, attempts=1, **values)


def states(end: study_pb2.StudyState.ValueType) -> list[study_service_pb2.StudyDetail]:
    config = {"max_num_seqs": study_pb2.Scalar(int_value=16)}
    first = trial(0, trial_pb2.TRIAL_STATE_SUCCEEDED, runs=[measured(100)], started_at_s=10, ended_at_s=20)
    running = trial(1, trial_pb2.TRIAL_STATE_RUNNING, agent="box", phase="MEASURE", config=config)
    second = trial(1, trial_pb2.TRIAL_STATE_SUCCEEDED, runs=[measured(80)], config=config)
    best = 1 if end == study_pb2.STUDY_STATE_COMPLETED else None

    def detail(state: study_pb2.StudyState.ValueType, *trials: trial_pb2.Trial) -> study_service_pb2.StudyDetail:
        study = study_pb2.Study(study_id="chat-1", spec=spec(), state=state, best_trial=best, created_at_s=5)
        return study_service_pb2.StudyDetail(study=study, trials=trials)

    return [
        detail(study_pb2.STUDY_STATE_SEARCHING, trial(0, trial_pb2.TRIAL_STATE_RUNNING, agent="box")),
        detail(study_pb2.STUDY_STATE_SEARCHING, first, running),
        detail(end, first, second),
    ]


@asynccontextmanager
async def served(fake: FakeCoordinator) -> AsyncIterator[str]:
    server = grpc.aio.server()
    study_service_pb2_grpc.add_StudyServiceServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def start(*arguments: str, coordinator: str) -> asyncio.subprocess.Process:
    program = "import sys; from scoot.cli.main import main; main()"
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        *arguments,
        "--coordinator",
        coordinator,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def call(*arguments: str, coordinator: str) -> tuple[int | None, str, str]:
    process = await start(*arguments, coordinator=coordinator)
    out, err = await asyncio.wait_for(process.communicate(), 40)
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def fake() -> FakeCoordinator:
    made = FakeCoordinator()
    made.states = states(study_pb2.STUDY_STATE_COMPLETED)
    return made


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


async def test_submit_sends_the_workload_and_the_study_and_follows(fake: FakeCoordinator, study: Path) -> None:
    async with served(fake) as address:
        code, out, err = await call("submit", str(study), "--follow", coordinator=address)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "chat-1",
        "study chat-1 chat: mock with tiny, minimise e2e_p95, 2 trials, parallelism 1",
        "trial 0 (default) started on box",
        "best so far: trial 1",
        "trial 0 (default) SUCCEEDED in 10.0 s: e2e_p95 100 ms",
        "trial 1 (sobol) started on box: max_num_seqs=16",
        "trial 1 (sobol) SUCCEEDED: e2e_p95 80 ms (-20.0 %)",
        "study COMPLETED",
        "Best configuration: trial 1",
        "  max_num_seqs = 16",
        "Trial 1 against the default:",
        "  e2e_p95 80 ms (-20.0 %)",
    ]
    facts = fake.specs[0].workload_facts
    assert facts.requests > 0
    assert list(fake.blobs) == [facts.sha256]


async def test_submit_repeats_with_the_same_key_when_the_coordinator_restarts(
    fake: FakeCoordinator, study: Path
) -> None:
    fake.break_create = 2
    async with served(fake) as address:
        code, out, _ = await call("submit", str(study), coordinator=address)
    assert (code, out) == (0, "chat-1\n")
    assert len(fake.keys) == 3
    assert len(set(fake.keys)) == 1


async def test_watching_survives_a_broken_stream(fake: FakeCoordinator) -> None:
    fake.break_watch_after = 2
    async with served(fake) as address:
        code, out, _ = await call("watch", "chat-1", coordinator=address)
    assert code == 0
    assert out.count("is lost; trying again") == 1
    assert out.count("trial 0 (default) SUCCEEDED") == 1
    assert "study COMPLETED" in out


@pytest.mark.parametrize(
    ("end", "code"),
    [(study_pb2.STUDY_STATE_FAILED, 1), (study_pb2.STUDY_STATE_CANCELLED, 4)],
)
async def test_the_exit_code_of_watch_tells_the_end(
    fake: FakeCoordinator, end: study_pb2.StudyState.ValueType, code: int
) -> None:
    fake.states = states(end)
    async with served(fake) as address:
        found, out, _ = await call("watch", "chat-1", coordinator=address)
    assert found == code
    assert "No feasible configuration was found." in out


async def test_ctrl_c_ends_the_watching_not_the_study(fake: FakeCoordinator) -> None:
    fake.states = fake.states[:2]
    fake.hold = True
    async with served(fake) as address:
        process = await start("watch", "chat-1", coordinator=address)
        await asyncio.wait_for(fake.watching.wait(), 40)
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode == 130
    assert b"Traceback" not in out + err
    assert b"the study goes on: scootctl watch chat-1" in err
    assert not fake.cancelled.is_set()


async def test_list_status_agents_and_cancel(fake: FakeCoordinator) -> None:
    async with served(fake) as address:
        assert "chat-1  chat  COMPLETED  0/2     1     1970-01-01" in (await call("list", coordinator=address))[1]
        code, out, _ = await call("status", "chat-1", coordinator=address)
        assert (code, "1 *    sobol    SUCCEEDED  80       max_num_seqs=16" in out) == (0, True)
        told = json.loads((await call("status", "chat-1", "--json", coordinator=address))[1])
        assert told["trials"][1]["config"] == {"max_num_seqs": 16}
        agents = (await call("agents", coordinator=address))[1]
        assert (
            "box    ACTIVE  2 s ago  1/1 cpu  mock 0.1.0, vllm no module named vllm, fast-vllm 9.9  box.example"
            in agents
        )
        code, out, _ = await call("cancel", "chat-1", "--reason", "enough", coordinator=address)
        assert (code, fake.reason, out) == (0, "enough", "chat-1 COMPLETED\n")


async def test_why_reads_the_results_of_a_study_that_runs(fake: FakeCoordinator) -> None:
    trial = {"number": 1, "kind": "SUGGESTED", "source": "scoot", "state": "RUNNING", "config": {"max_num_seqs": 9}}
    results = {"study_id": "chat-1", "name": "chat", "objectives": [], "trials": [trial]}
    trial["explanation"] = {"design": "EHVI", "expected_gain": 0.25}
    fake.results = json.dumps(results)
    async with served(fake) as address:
        code, out, _ = await call("why", "chat-1", "1", coordinator=address)
        assert code == 0
        assert "trial 1 (scoot), RUNNING" in out
        assert "chosen by       EHVI" in out
        assert "expected gain   +25.0 %" in out
        code, _, err = await call("why", "chat-1", "2", coordinator=address)
        assert (code, "there is no trial 2" in err) == (2, True)


async def test_results_and_report_write_files(fake: FakeCoordinator, tmp_path: Path) -> None:
    async with served(fake) as address:
        assert (await call("results", "chat-1", coordinator=address))[1] == '{"schema": 1}\n'
        table = (await call("results", "chat-1", "--csv", coordinator=address))[1]
        assert [row["e2e_ms.p95"] for row in csv.DictReader(io.StringIO(table))] == ["100", "80"]
        out_file = tmp_path / "deep" / "r.json"
        assert (await call("results", "chat-1", "--json", "--out", str(out_file), coordinator=address))[0] == 0
        assert out_file.read_text() == '{"schema": 1}'
        folder = tmp_path / "report"
        code, out, _ = await call("report", "chat-1", "--out", str(folder), coordinator=address)
        assert (code, len(out.splitlines())) == (0, 3)
        assert {path.name: path.read_text() for path in folder.iterdir()} == {
            "results.json": '{"schema": 1}',
            "report.md": "# chat\n",
            "report.html": "<p>chat</p>",
        }
        code, _, err = await call("report", "chat-1", "--out", str(out_file), coordinator=address)
        assert (code, "is a file" in err or "is not a folder" in err) == (2, True)


async def test_the_coordinators_refusals_are_told_in_its_words(fake: FakeCoordinator) -> None:
    async with served(fake) as address:
        code, out, err = await call("status", "nope", coordinator=address)
        assert (code, out) == (2, "")
        assert err == f"error: {address}: no study 'nope' here\n"
        assert (await call("doctor", coordinator=address))[1].count(f"coordinator {address}: answers, 1 agents") == 1


async def test_a_coordinator_that_fails_is_not_the_users_mistake(
    fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: FakeCoordinator, request: object, context: Context) -> None:
        await context.abort(grpc.StatusCode.INTERNAL, "invariant")

    handler: Callable[..., Awaitable[None]] = broken
    monkeypatch.setattr(FakeCoordinator, "ListStudies", handler)
    async with served(fake) as address:
        code, _, err = await call("list", coordinator=address)
    assert (code, err) == (1, f"error: the coordinator at {address} failed: INTERNAL invariant\n")


async def test_output_into_a_closed_pipe_is_no_error(fake: FakeCoordinator) -> None:
    async with served(fake) as address:
        program = "import sys; from scoot.cli.main import main; main()"
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            '"$@" | true',
            "sh",
            *(sys.executable, "-c", program, "results", "chat-1", "--csv", "--coordinator", address),
            stderr=asyncio.subprocess.PIPE,
        )
        _, err = await asyncio.wait_for(process.communicate(), 40)
    assert err == b""


async def test_engines_of_agents_and_the_options_of_one(fake: FakeCoordinator) -> None:
    async with served(fake) as coordinator:
        code, out, err = await call("engines", coordinator=coordinator)
        assert (code, err) == (0, "")
        rows = [line.split() for line in out.splitlines()]
        assert rows[1] == ["box", "ACTIVE", "mock", "0.1.0", "no", "nowhere"]
        assert rows[2][:5] == ["box", "ACTIVE", "vllm", "no", "module"]
        assert rows[3] == ["box", "ACTIVE", "fast-vllm", "9.9", "yes", "its", "installation"]
        code, out, err = await call("engines", "fast-vllm", "--agent", "box", coordinator=coordinator)
        assert (code, err) == (0, "")
        assert "vllm 9.9" in out
        assert next(line for line in out.splitlines() if line.startswith("max_num_seqs")).split()[4] == "77"
        code, out, err = await call("engines", "sglang", coordinator=coordinator)
        assert (code, out) == (2, "")
        assert "nobody has told the options of 'sglang'" in err
