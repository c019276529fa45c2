"""One simulated trial: metrics, or the reason that an agent and the coordinator would have found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest

from scoot.benchmark.trace_row import TraceRow
from scoot.simulator import trial as trials
from scoot.simulator.load import Load
from scoot.simulator.service import SimulatedService
from scoot.simulator.settings import Admission, LoadMemory, Order, Resolved, SchedulerSettings, StartFailure
from scoot.simulator.study_service import default_of, profile_of, service_of_study
from scoot.simulator.trial import Trial, simulate
from scoot.wire.errors import UserError
from scoot.wire.reasons import Blame, Reason, blame_of
from scoot.wire.spec import ArrivalProcess, Arrivals, Limits, Parameter, ParameterKind, Service, SloClass, Workload

_SERVICE = SimulatedService(model="llama2-7b", gpu="a100")
_ROWS = tuple(TraceRow(input_tokens=10 + index, output_tokens=5) for index in range(7))
_WORKLOAD = Workload(
    arrivals=Arrivals(process=ArrivalProcess.CONSTANT, rate=20.0),
    duration_s=2.0,
    warm_up_s=0.5,
    slo_classes=(SloClass(name="all", ttft_ms=1000.0),),
)


class Linear:
    """A step takes 10 ms, and 1 ms more per prompt token."""

    def gpu_s(self, decodes: int, decode_context: int, prefills: Sequence[tuple[int, int]]) -> float:
        return 0.010 + 0.001 * sum(tokens for tokens, _ in prefills)

    def cpu_s(self, sequences: int) -> float:
        return 0.001


_ENGINE = Resolved(
    engine="test",
    scheduler=SchedulerSettings(
        order=Order.DECODE_FIRST,
        admission=Admission.NEXT_CHUNK,
        chunked=True,
        token_budget=512,
        max_running=16,
        max_model_len=100,
        block_size=16,
        blocks=1000,
        prefix_caching=False,
    ),
    memory=LoadMemory(free_bytes=1e9, fixed_bytes=0.0, token_bytes=1.0, sequence_bytes=1.0),
    step_time=Linear(),
    tensor_parallel=1,
    effective={},
    start_s=40.0,
)

Start = Callable[[Resolved | StartFailure], None]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Sets what services come to."""

    def come_to(what: Resolved | StartFailure) -> None:
        def resolve(_: SimulatedService) -> tuple[Resolved, int]:
            if isinstance(what, StartFailure):
                raise what
            return what, 1

        monkeypatch.setattr(trials, "resolve", resolve)

    come_to(_ENGINE)
    return come_to


def _trial(workload: Workload = _WORKLOAD, *, limits: Limits | None = None, seed: int = 3) -> Trial:
    return simulate(_SERVICE, workload, _ROWS, seed=seed, limits=limits or Limits())


def test_a_success_has_metrics(start: Start) -> None:
    trial = _trial()
    assert trial.succeeded
    assert (trial.reason, trial.message, trial.lines) == (None, "", ())
    assert trial.metrics is not None
    assert (trial.metrics.sent, trial.metrics.completed) == (40, 40)
    assert trial.metrics.goodput is not None
    assert trial.metrics.goodput.attained == 40
    assert [each.name for each in trial.metrics.goodput_by_class] == ["all"]
    assert trial.validity is not None
    assert trial.validity.valid
    assert trial.start_s == 40.0
    assert 2.5 < trial.load_s < 2.7
    assert trial.simulated_s == trial.start_s + trial.load_s


def test_the_same_seed_gives_the_same_bits(start: Start) -> None:
    encode = msgspec.msgpack.encode
    assert encode(_trial()) == encode(_trial())
    poisson = msgspec.structs.replace(_WORKLOAD, arrivals=Arrivals(rate=20.0))
    assert encode(_trial(poisson)) == encode(_trial(poisson))
    assert encode(_trial(poisson)) != encode(_trial(poisson, seed=4))


def test_a_load_can_be_made_beforehand(start: Start) -> None:
    load = Load(_WORKLOAD, _ROWS, seed=3)
    for _ in range(2):
        assert simulate(_SERVICE, _WORKLOAD, _ROWS, seed=3, load=load) == _trial()


def test_a_load_of_something_else_is_refused(start: Start) -> None:
    load = Load(_WORKLOAD, _ROWS, seed=3)
    with pytest.raises(UserError, match="another workload or seed"):
        simulate(_SERVICE, _WORKLOAD, _ROWS, seed=4, load=load)
    with pytest.raises(UserError, match="another workload or seed"):
        simulate(_SERVICE, msgspec.structs.replace(_WORKLOAD, duration_s=1.0), _ROWS, seed=3, load=load)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("arguments", Reason.ENGINE_REJECTED_ARGS),
        ("memory", Reason.ENGINE_OOM),
        ("engine", Reason.ENGINE_EXITED_ON_START),
    ],
)
def test_an_engine_that_does_not_start_says_why(start: Start, kind: str, reason: Reason) -> None:
    start(StartFailure("ValueError: this\n  will not do", "see above", kind=kind))
    trial = _trial()
    assert not trial.succeeded
    assert trial.reason is reason
    assert blame_of(reason) is Blame.CONFIG
    assert trial.message == "ValueError: this will not do"
    assert trial.lines == ("ValueError: this\n  will not do", "see above")
    assert (trial.metrics, trial.validity, trial.simulated_s) == (None, None, 10.0)


def test_a_start_has_a_deadline(start: Start) -> None:
    trial = _trial(limits=Limits(start_timeout_s=39.0))
    assert trial.reason is Reason.ENGINE_START_TIMEOUT
    assert "39 s" in trial.message
    assert trial.simulated_s == 39.0


def test_out_of_memory_under_load(start: Start) -> None:
    memory = LoadMemory(free_bytes=12.0, fixed_bytes=0.0, token_bytes=1.0, sequence_bytes=0.0)
    start(msgspec.structs.replace(_ENGINE, memory=memory))
    trial = _trial()
    assert trial.reason is Reason.ENGINE_OOM
    assert trial.message == " ".join(trial.lines[0].split())
    assert trial.metrics is not None
    assert trial.metrics.sent < 40
    assert trial.load_s < 2.5


def test_a_silent_engine_hangs(start: Start) -> None:
    class Slow(Linear):
        def gpu_s(self, decodes: int, decode_context: int, prefills: Sequence[tuple[int, int]]) -> float:
            return 100.0

    start(msgspec.structs.replace(_ENGINE, step_time=Slow()))
    trial = _trial()
    assert trial.reason is Reason.ENGINE_HUNG_UNDER_LOAD
    assert "60 s" in trial.message


def test_too_many_failed_requests(start: Start) -> None:
    workload = msgspec.structs.replace(_WORKLOAD, request_timeout_s=0.095)
    trial = _trial(workload)
    assert trial.reason is Reason.ENGINE_REQUESTS_FAILED
    assert trial.metrics is not None
    failed = trial.metrics.failures["DEADLINE"]
    assert trial.message == f"{failed} of 40 requests failed ({failed} DEADLINE)"
    assert 0 < failed < 40
    assert _trial(workload, limits=Limits(max_failed_share=failed / 40, min_requests=1)).succeeded


def test_too_few_requests_are_the_harness_s_fault(start: Start) -> None:
    trial = _trial(limits=Limits(min_requests=41))
    assert trial.reason is Reason.TOO_FEW_REQUESTS
    assert trial.metrics is not None
    assert trial.metrics.completed == 40


def test_a_slow_engine_is_no_late_load_generator(start: Start) -> None:
    start(msgspec.structs.replace(_ENGINE, scheduler=msgspec.structs.replace(_ENGINE.scheduler, max_running=1)))
    trial = _trial()
    assert trial.succeeded
    assert trial.metrics is not None
    assert trial.metrics.lateness_ms is not None
    assert trial.metrics.lateness_ms.max == 0.0
    assert trial.metrics.ttft_ms is not None
    assert trial.metrics.ttft_ms.max > 500.0


def test_no_rows_are_refused(start: Start) -> None:
    with pytest.raises(UserError, match="no requests"):
        simulate(_SERVICE, _WORKLOAD, (), seed=0)


@pytest.mark.parametrize("engine", ["vllm-0.4.2", "vllm-0.32", "trtllm-1.2"])
def test_every_generation_can_be_simulated(engine: str) -> None:
    service = SimulatedService(engine=engine, model="llama2-13b", gpu="a100", devices=2)
    trial = simulate(service, _WORKLOAD, _ROWS, seed=0)
    assert trial.succeeded
    assert trial.metrics is not None
    assert trial.metrics.completed == 40


def test_a_study_names_its_service() -> None:
    service = Service(
        engine="simulated",
        model="llama2-13b",
        devices=4,
        max_model_len=2048,
        options={"simulated_gpu": "h100", "simulated_engine": "vllm-0.4.2", "block_size": 16},
    )
    made = service_of_study(service, {"max_num_seqs": 64, "tensor_parallel_size": 2})
    assert made == SimulatedService(
        engine="vllm-0.4.2",
        model="llama2-13b",
        gpu="h100",
        devices=4,
        max_model_len=2048,
        parameters={"block_size": 16, "max_num_seqs": 64, "tensor_parallel_size": 2},
    )
    assert profile_of(service) == ""


def test_devices_follow_from_the_replicas() -> None:
    service = Service(engine="simulated", model="llama2-13b", replicas=3)
    assert service_of_study(service, {"tensor_parallel_size": 2}).devices == 6


def test_the_default_configuration_is_what_the_study_names() -> None:
    parameters = (
        Parameter(name="max_num_seqs", kind=ParameterKind.INT, low=1, high=9, default=4),
        Parameter(name="enable_prefix_caching", kind=ParameterKind.BOOL),
    )
    assert default_of(parameters) == {"max_num_seqs": 4}
