"""The engine's own check before a start: what it is asked, and what becomes of an attempt it refuses."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from scoot.agent.attempt import Attempt
from scoot.agent.core.run import EndState
from scoot.agent.engines import vllm
from scoot.agent.engines.base import EngineSettings, LaunchRequest
from scoot.agent.engines.checker import EngineChecker, make_checker
from scoot.agent.engines.mock import MockAdapter
from scoot.agent.folders import AttemptFolders
from scoot.agent.host.gpu_fake import FakeGpus
from scoot.agent.workplace import Workplace
from scoot.wire.assignment import Assignment, Device, EngineOffer, Phase
from scoot.wire.catalogue.verdict import Invalid, Ok, RefusalKind, Unknown, Verdict
from scoot.wire.errors import UserError
from scoot.wire.lease import LeasePolicy
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config, Limits, Service, Workload

CPU = Device(id="cpu-0", kind="cpu")
GPU = Device(id="GPU-1", kind="NVIDIA H200")
VLLM = EngineSettings(kind="vllm", python="/opt/vllm/bin/python", allow_env=("MINE",))


class Oracles:
    """Makes oracles that accept everything, and notes what they are asked."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self.asked: list[tuple[int, Config, str]] = []
        self.closed: list[int] = []

    def __call__(self, settings: EngineSettings, **how: Any) -> Any:
        assert settings is VLLM
        self.made.append(how)
        return _Oracle(self, len(self.made) - 1)


HELPER = 2**22 + 1
"""A process id that no process has."""


class _Oracle:
    pid = HELPER

    def __init__(self, of: Oracles, number: int) -> None:
        self._of, self._number = of, number

    async def check(self, config: Config, *, model: str = "") -> Verdict:
        self._of.asked.append((self._number, config, model))
        return Ok({})

    async def aclose(self) -> None:
        self._of.closed.append(self._number)


def launch(config: Config, *, device: Device = CPU, env: Mapping[str, str] | None = None, **more: Any) -> LaunchRequest:
    service = Service(engine="vllm", model="/m", device="cpu", options={"seed": 1}, env=dict(env or {}), **more)
    return LaunchRequest(service=service, config=config, tensor_parallel=1, devices=(device,), port=0, workdir="/w")


async def test_it_is_asked_what_the_adapter_would_start() -> None:
    oracles = Oracles()
    checker = EngineChecker(VLLM, vllm.inquiry(VLLM), oracle=oracles)
    assert await checker.check(launch({"max_num_seqs": 8}, max_model_len=512)) == Ok({})
    await checker.check(launch({"tensor_parallel_size": 1, "seed": 2}))
    assert oracles.asked == [
        (0, {"seed": 1, "max_model_len": 512, "max_num_seqs": 8}, "/m"),
        (0, {"seed": 2, "tensor_parallel_size": 1}, "/m"),
    ]
    assert "max_num_seqs" in oracles.made[0]["allowed"]
    assert "middleware" not in oracles.made[0]["allowed"]


async def test_another_environment_is_another_oracle() -> None:
    oracles = Oracles()
    checker = EngineChecker(VLLM, vllm.inquiry(VLLM), oracle=oracles)
    for value in ("1", "1", "2"):
        await checker.check(launch({}, env={"VLLM_CPU_KVCACHE_SPACE": value, "MINE": "x"}))
    assert [number for number, _, _ in oracles.asked] == [0, 0, 1]
    assert oracles.closed == [0]
    assert [made["env"]["VLLM_CPU_KVCACHE_SPACE"] for made in oracles.made] == ["1", "2"]
    await checker.aclose()
    assert oracles.closed == [0, 1]
    with pytest.raises(UserError, match="LD_PRELOAD"):
        await checker.check(launch({}, env={"LD_PRELOAD": "x"}))


async def test_a_check_that_takes_memory_of_a_gpu_is_the_last() -> None:
    oracles, gpus = Oracles(), FakeGpus(2)
    checker = EngineChecker(VLLM, vllm.inquiry(VLLM), gpus=gpus, oracle=oracles)
    assert await checker.check(launch({}, device=GPU)) == Ok({})
    gpus.hold(gpus.devices()[1].id, HELPER, 500 << 20)
    assert await checker.check(launch({}, device=GPU)) == Ok({})  # this answer is as good as any
    assert oracles.closed == [0]
    for verdict in (await checker.check(launch({}, device=GPU)), await checker.check(launch({}))):
        assert isinstance(verdict, Unknown)
        assert "GPU-00000000-0000-0000-0000-000000000001" in verdict.why
    assert len(oracles.made) == 1


async def test_what_others_hold_of_a_gpu_bars_nothing() -> None:
    oracles, gpus = Oracles(), FakeGpus(1)
    checker = EngineChecker(VLLM, vllm.inquiry(VLLM), gpus=gpus, oracle=oracles)
    gpus.hold(gpus.devices()[0].id, HELPER + 1, 80 << 30)
    for _ in range(2):
        assert await checker.check(launch({}, device=GPU)) == Ok({})
    assert oracles.closed == []


def test_a_host_can_do_without_and_other_engines_have_none() -> None:
    assert isinstance(make_checker(VLLM), EngineChecker)
    assert make_checker(EngineSettings(kind="vllm", python="/p", check_first=False)) is None
    assert make_checker(EngineSettings(kind="mock")) is None


class Says:
    """A checker with one answer."""

    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict

    async def check(self, request: LaunchRequest) -> Verdict:
        assert (request.config, request.service.model) == ({"max_num_seqs": 8}, "m")
        return self._verdict

    async def catalogue(self) -> Unknown:
        return Unknown("it has none")

    async def aclose(self) -> None:
        """Nothing is open."""


async def attempt(verdict: Verdict, folder: Path) -> tuple[Any, list[str]]:
    """The end of an attempt whose workload can never be fetched, and the workloads that were asked for."""
    fetched: list[str] = []

    async def fetch(sha256: str) -> Path:
        fetched.append(sha256)
        raise UserError("no such workload")

    workplace = Workplace(
        adapters={"mock": MockAdapter(EngineSettings(kind="mock"))},
        offers={"mock": EngineOffer(name="mock", version="0")},
        model_roots=(),
        devices={CPU.id: CPU},
        gpus=FakeGpus(0),
        folders=AttemptFolders(folder / "attempts", "boot"),
        state_dir=folder,
        fetch=fetch,
        uploader=cast("Any", None),
        reserve_memory_bytes=0,
        room_wait_s=0.0,
        clock=time.monotonic,
        checkers={"mock": Says(verdict)},
    )
    assignment = Assignment(
        attempt_id="s/1/0",
        fence=7,
        service=Service(engine="mock", model="m", device="cpu"),
        devices=(CPU.id,),
        config={"max_num_seqs": 8},
        workload=Workload(profile="BOT"),
        workload_sha256="ab",
        limits=Limits(),
        run_seeds=(1,),
    )
    end = await Attempt(assignment, workplace, LeasePolicy(), lambda: None).run()
    return end, fetched


async def test_what_the_engine_refuses_is_never_started(tmp_path: Path) -> None:
    end, fetched = await attempt(Invalid("seqs above tokens", RefusalKind.CONSTRAINT, ()), tmp_path)
    outcome = end.outcome
    assert (outcome.state, outcome.reason) == (EndState.INFEASIBLE.value, Reason.ENGINE_REJECTED_ARGS)
    assert "seqs above tokens" in outcome.message
    assert (outcome.command, fetched, end.dirty) == ((), [], None)
    assert Phase.START not in {time.phase for time in outcome.phases}


@pytest.mark.parametrize("verdict", [Ok({}), Unknown("the helper died")])
async def test_what_it_accepts_or_cannot_tell_goes_on(verdict: Verdict, tmp_path: Path) -> None:
    end, fetched = await attempt(verdict, tmp_path)
    assert fetched == ["ab"]
    assert end.outcome.reason is Reason.SPEC_INVALID
