"""The three engine generations: defaults, refusals in their own words, and what the parameters come to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from scoot.agent.core.classify import classify_start
from scoot.agent.engines import vllm
from scoot.simulator.dialect.launch import LaunchCost, Launched, launched
from scoot.simulator.dialect.registry import DIALECTS
from scoot.simulator.dialect.vllm_v1 import batch_defaults
from scoot.simulator.linear import LinearModel, Profile
from scoot.simulator.memory import MemoryPlan, plan_memory
from scoot.simulator.service import SimulatedService, check_service, resolve
from scoot.simulator.settings import Admission, Chunking, LoadMemory, Order, Resolved, StartFailure, StepTime
from scoot.simulator.shapes import GPUS, MODELS
from scoot.wire.errors import UserError
from scoot.wire.reasons import Reason

OLD, NEW, TRT = "vllm-0.4.2", "vllm-0.32", "trtllm-1.2"


class FakeTime:
    """A step of 1 ms on the device, and 1 ms of the CPU."""

    def gpu_s(self, decodes: int, decode_context: int, prefills: Sequence[tuple[int, int]]) -> float:
        return 1e-3

    def cpu_s(self, sequences: int) -> float:
        return 1e-3


class Seam:
    """Stands in for memory and step times; keeps what it was asked."""

    def __init__(self, blocks: int = 10_000) -> None:
        self.blocks = blocks
        self.memory_asked: dict[str, Any] = {}
        self.time_asked: dict[str, Any] = {}

    def memory(self, model: object, gpu: object, tensor_parallel: int, **asked: Any) -> MemoryPlan:
        self.memory_asked = {"tensor_parallel": tensor_parallel, **asked}
        load = LoadMemory(free_bytes=1e9, fixed_bytes=0, token_bytes=0, sequence_bytes=0)
        blocks = asked["blocks_override"] if asked["blocks_override"] is not None else self.blocks
        return MemoryPlan(blocks=blocks, load=load, weights_bytes=1.0, activation_bytes=1.0, kv_bytes=1.0)

    def step_time(self, model: object, gpu: object, tensor_parallel: int, **asked: Any) -> StepTime:
        self.time_asked = {"tensor_parallel": tensor_parallel, **asked}
        return FakeTime()


def service(engine: str, **parameters: Any) -> SimulatedService:
    return SimulatedService(engine=engine, model="llama2-13b", gpu="a100", devices=2, parameters=parameters)


def settled(engine: str, *, seam: Seam | None = None, **parameters: Any) -> Resolved:
    seam = seam or Seam()
    return resolve(service(engine, **parameters), memory=seam.memory, step_time=seam.step_time)[0]


def refusal(engine: str, **parameters: Any) -> StartFailure:
    with pytest.raises(StartFailure) as caught:
        settled(engine, **parameters)
    return caught.value


# --- defaults --------------------------------------------------------------------------------------------------------


def test_vllm_0_4_2_by_default_computes_prompts_first_and_whole() -> None:
    seam = Seam()
    resolved = settled(OLD, seam=seam)
    scheduler = resolved.scheduler
    assert (scheduler.order, scheduler.admission, scheduler.chunked) == (
        Order.PREFILL_FIRST,
        Admission.FULL_INPUT,
        False,
    )
    assert (scheduler.token_budget, scheduler.max_running, scheduler.block_size) == (4096, 256, 16)
    assert scheduler.max_model_len == 4096
    assert (scheduler.watermark, scheduler.budget_counts_cached, scheduler.prefix_at_once) == (0.01, True, False)
    assert not scheduler.prefix_caching
    assert not scheduler.async_scheduling
    assert scheduler.blocks == 10_000
    assert seam.memory_asked["utilization"] == 0.9
    assert seam.memory_asked["style"] == OLD
    assert seam.time_asked["overheads"] == OLD


def test_vllm_0_4_2_with_chunks_decodes_first_in_512_tokens() -> None:
    scheduler = settled(OLD, enable_chunked_prefill=True, scheduler_delay_factor=0.5).scheduler
    assert (scheduler.order, scheduler.chunked, scheduler.token_budget) == (Order.DECODE_FIRST, True, 512)
    assert scheduler.delay_factor == 0.5


def test_whole_prompts_get_at_least_2048_tokens_in_vllm_0_4_2() -> None:
    assert settled(OLD, max_model_len=1024).scheduler.token_budget == 2048


def test_vllm_0_32_by_default() -> None:
    seam = Seam()
    resolved = settled(NEW, seam=seam)
    scheduler = resolved.scheduler
    assert (scheduler.order, scheduler.admission, scheduler.chunked) == (
        Order.DECODE_FIRST,
        Admission.FULL_INPUT,
        True,
    )
    assert (scheduler.token_budget, scheduler.max_running, scheduler.block_size) == (2048, 256, 16)
    assert scheduler.prefix_caching
    assert scheduler.prefix_at_once
    assert scheduler.async_scheduling
    assert scheduler.watermark == 0.0
    assert seam.memory_asked["utilization"] == 0.92
    assert resolved.request_limit is None


@pytest.mark.parametrize(("gpu", "tokens", "seqs"), [("a100", 2048, 256), ("h100", 8192, 1024), ("l40s", 2048, 256)])
def test_the_defaults_of_vllm_0_32_depend_on_the_gpu(gpu: str, tokens: int, seqs: int) -> None:
    assert batch_defaults(GPUS[gpu]) == (tokens, seqs)


def test_the_largest_gpus_get_the_largest_defaults() -> None:
    huge = msgspec.structs.replace(GPUS["h200"], name="b200", usable_gib=178.0)
    assert batch_defaults(huge) == (16384, 1024)


def test_throughput_mode_doubles_both_defaults_and_no_value_that_is_given() -> None:
    doubled = settled(NEW, performance_mode="throughput").scheduler
    assert (doubled.token_budget, doubled.max_running) == (4096, 512)
    given = settled(NEW, performance_mode="throughput", max_num_seqs=100).scheduler
    assert (given.token_budget, given.max_running) == (4096, 100)


def test_default_tokens_hold_a_whole_prompt_where_vllm_0_32_may_not_chunk() -> None:
    assert settled(NEW, enable_chunked_prefill=False).scheduler.token_budget == 4096


def test_default_seqs_are_at_most_the_tokens() -> None:
    assert settled(NEW, max_num_batched_tokens=100).scheduler.max_running == 100


def test_default_tokens_are_at_most_what_all_sequences_can_have() -> None:
    assert settled(NEW, max_num_seqs=2, max_model_len=512).scheduler.token_budget == 1024


def test_trtllm_by_default_evicts_nothing_and_rejects_long_prompts() -> None:
    seam = Seam()
    scheduler = settled(TRT, seam=seam).scheduler
    assert (scheduler.token_budget, scheduler.max_running, scheduler.block_size) == (8192, 2048, 32)
    assert scheduler.admission is Admission.NO_EVICT
    assert (scheduler.chunked, scheduler.reject_long_prompts) == (False, True)
    assert (scheduler.prefix_caching, scheduler.prefix_at_once, scheduler.async_scheduling) == (True, False, True)
    assert seam.memory_asked["style"] == TRT


@pytest.mark.parametrize(
    ("policy", "admission"),
    [
        ("GUARANTEED_NO_EVICT", Admission.NO_EVICT),
        ("MAX_UTILIZATION", Admission.FULL_INPUT),
        ("STATIC_BATCH", Admission.STATIC_BATCH),
    ],
)
def test_trtllm_policies(policy: str, admission: Admission) -> None:
    assert settled(TRT, capacity_scheduler_policy=policy).scheduler.admission is admission


def test_trtllm_chunks_in_equal_parts_only_where_it_chunks() -> None:
    equal = settled(TRT, enable_chunked_prefill=True, context_chunking_policy="EQUAL_PROGRESS")
    assert equal.scheduler.chunking is Chunking.EQUAL
    assert not equal.scheduler.reject_long_prompts
    assert settled(TRT, enable_chunked_prefill=True).effective["context_chunking_policy"] == "FIRST_COME_FIRST_SERVED"
    assert "context_chunking_policy" not in settled(TRT, context_chunking_policy="EQUAL_PROGRESS").effective


def test_trtllm_knows_the_long_names_of_two_options() -> None:
    resolved = settled(TRT, tensor_parallel_size=2, free_gpu_memory_fraction=0.5)
    assert resolved.tensor_parallel == 2
    assert resolved.effective["kv_cache_free_gpu_memory_fraction"] == 0.5
    assert "one parameter" in str(refusal(TRT, tensor_parallel_size=2, tp_size=2))


@pytest.mark.parametrize("engine", DIALECTS)
def test_defaults_written_out_change_nothing(engine: str) -> None:
    plain = settled(engine)
    spelled = settled(engine, **dict[str, Any](plain.effective))
    assert spelled.effective == plain.effective
    assert spelled.scheduler == plain.scheduler
    assert list(plain.effective) == sorted(plain.effective)


# --- what parameters do ----------------------------------------------------------------------------------------------


def test_vllm_0_32_valves() -> None:
    seam = Seam()
    resolved = settled(
        NEW,
        seam=seam,
        max_num_seqs=128,
        max_num_active_seqs=32,
        max_num_scheduled_tokens=1024,
        max_num_queued_reqs=0,
        stream_interval=8,
        watermark=0.05,
        scheduler_reserve_full_isl=False,
        long_prefill_token_threshold=256,
        async_scheduling=False,
    )
    scheduler = resolved.scheduler
    assert (scheduler.max_running, scheduler.token_budget) == (32, 1024)
    assert (seam.memory_asked["max_running"], seam.memory_asked["token_budget"]) == (128, 2048)
    assert (resolved.request_limit, resolved.stream_interval) == (0, 8)
    assert (scheduler.watermark, scheduler.admission) == (0.05, Admission.NEXT_CHUNK)
    assert (scheduler.long_prefill_threshold, scheduler.async_scheduling) == (256, False)


def test_a_small_budget_lets_no_more_sequences_run_than_it_has_tokens() -> None:
    scheduler = settled(NEW, max_num_scheduled_tokens=16).scheduler
    assert (scheduler.token_budget, scheduler.max_running) == (16, 16)


def test_kv_cache_bytes_are_blocks_of_a_device() -> None:
    seam = Seam()
    # 40 layers x 40 heads x 128 x 2 (k, v) x 2 bytes = 819,200 bytes a token, halved by two devices
    settled(NEW, seam=seam, kv_cache_memory_bytes=409_600 * 16 * 500 + 1, tensor_parallel_size=2)
    assert seam.memory_asked["blocks_override"] == 500
    settled(NEW, seam=seam, kv_cache_memory_bytes=10**10, num_gpu_blocks_override=77)
    assert seam.memory_asked["blocks_override"] == 77


def test_replicas_link_and_all_reduce() -> None:
    seam = Seam()
    asked = SimulatedService(
        engine=NEW,
        model="llama2-13b",
        gpu="a100",
        devices=8,
        link="pcie",
        parameters={"tensor_parallel_size": 2, "disable_custom_all_reduce": True},
    )
    resolved, replicas = resolve(asked, memory=seam.memory, step_time=seam.step_time)
    assert (resolved.tensor_parallel, replicas) == (2, 4)
    assert seam.time_asked == {
        "tensor_parallel": 2,
        "link": "pcie",
        "custom_all_reduce": False,
        "overheads": NEW,
        "linear": None,
    }
    resolve(service(NEW), memory=seam.memory, step_time=seam.step_time)
    assert seam.time_asked["link"] == "nvlink"


def test_the_service_length_is_used_and_the_parameter_goes_before_it() -> None:
    seam = Seam()
    asked = SimulatedService(engine=TRT, model="llama2-13b", gpu="a100", max_model_len=1000)
    assert resolve(asked, memory=seam.memory, step_time=seam.step_time)[0].scheduler.max_model_len == 1000
    both = SimulatedService(
        engine=NEW, model="llama2-13b", gpu="a100", max_model_len=1000, parameters={"max_model_len": 600}
    )
    assert resolve(both, memory=seam.memory, step_time=seam.step_time)[0].scheduler.max_model_len == 600


def test_trtllm_serves_no_longer_sequences_than_its_cache_holds() -> None:
    assert settled(TRT, seam=Seam(blocks=10)).scheduler.max_model_len == 320


def test_start_takes_longer_for_more_weights_per_device_and_for_graphs() -> None:
    graphs, eager = settled(NEW).start_s, settled(NEW, enforce_eager=True).start_s
    assert graphs > eager > settled(NEW, enforce_eager=True, tensor_parallel_size=2).start_s
    assert settled(OLD).start_s > settled(OLD, enforce_eager=True).start_s
    assert settled(TRT).start_s > settled(TRT, tp_size=2).start_s


@pytest.mark.parametrize("engine", DIALECTS)
def test_the_real_parts_fit_together(engine: str) -> None:
    resolved, replicas = resolve(service(engine))
    assert replicas == 2
    assert resolved.scheduler.blocks > 256
    assert resolved.memory.short_by(1, 1) < 0
    assert 0.001 < resolved.step_time.gpu_s(8, 8 * 500, [(500, 0)]) < 1.0
    assert 0.0 < resolved.step_time.cpu_s(8) < 0.1
    assert any("SIMULATED" in line for line in resolved.log)


def test_too_little_memory_is_the_engine_s_own_failure() -> None:
    with pytest.raises(StartFailure) as caught:
        resolve(SimulatedService(engine=NEW, model="llama2-13b", gpu="a10"))
    assert caught.value.kind == "memory"


def test_the_agent_reads_the_log_of_vllm_0_32() -> None:
    log = "\n".join(settled(NEW, max_num_batched_tokens=1000, max_num_seqs=64).log)
    told = vllm._from_log(log)
    assert told["max_num_batched_tokens"] == 1000
    assert told["max_model_len"] == 4096
    assert told["enable_prefix_caching"] is True
    assert told["tensor_parallel_size"] == 1


# --- launches --------------------------------------------------------------------------------------------------------


def test_a_step_without_a_graph_takes_at_least_its_launches() -> None:
    cost = LaunchCost(eager_s=0.004, captured=16, step_s=1e-4, sequence_s=1e-6)
    timed = Launched(FakeTime(), cost)
    assert timed.gpu_s(16, 160, []) == 1e-3
    assert timed.gpu_s(17, 170, []) == 0.004
    assert timed.gpu_s(10, 100, [(7, 0)]) == 0.004
    assert timed.gpu_s(10, 100, [(6, 0)]) == 1e-3
    assert timed.gpu_s(0, 0, []) == 1e-3
    assert timed.cpu_s(100) == pytest.approx(1e-3 + 1e-4 + 1e-4)
    prompts_never = Launched(FakeTime(), LaunchCost(eager_s=0.004, captured=16, decodes_only=True))
    assert prompts_never.gpu_s(0, 0, [(6, 0)]) == 0.004
    long_anyway = Launched(FakeTime(), LaunchCost(eager_s=0.0005))
    assert long_anyway.gpu_s(17, 170, []) == 1e-3


def test_nothing_to_add_adds_no_call() -> None:
    inner = FakeTime()
    assert launched(inner, LaunchCost()) is inner


def test_graphs_reach_as_far_as_is_captured() -> None:
    assert settled(NEW).effective["max_cudagraph_capture_size"] == 512
    assert settled(NEW, max_num_seqs=64).effective["max_cudagraph_capture_size"] == 128
    assert settled(NEW, max_num_seqs=65).effective["max_cudagraph_capture_size"] == 128  # sizes go by 8
    assert settled(NEW, max_num_seqs=64, max_num_batched_tokens=100).effective["max_cudagraph_capture_size"] == 100
    assert settled(NEW, max_cudagraph_capture_size=30).effective["max_cudagraph_capture_size"] == 24
    assert settled(NEW, enforce_eager=True).effective["max_cudagraph_capture_size"] == 0


def test_eager_and_uncaptured_steps_are_slower() -> None:
    def decode(tokens: int, **parameters: Any) -> float:
        return settled(NEW, **parameters).step_time.gpu_s(tokens, tokens * 10, [])

    assert decode(8, enforce_eager=True) > decode(8, max_cudagraph_capture_size=4) > decode(8)


def test_the_second_block_manager_costs_cpu() -> None:
    plain, second = settled(OLD).step_time, settled(OLD, use_v2_block_manager=True).step_time
    assert second.cpu_s(100) > plain.cpu_s(100)
    assert second.cpu_s(200) - second.cpu_s(100) > plain.cpu_s(200) - plain.cpu_s(100)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_vllm_0_4_2_refuses_in_its_own_words() -> None:
    few = refusal(OLD, max_num_batched_tokens=64, max_num_seqs=128, enable_chunked_prefill=True)
    assert few.lines == (
        "ValueError: max_num_batched_tokens (64) must be greater than or equal to max_num_seqs (128).",
    )
    assert (few.kind, few.exit_code) == ("arguments", 1)
    short = refusal(OLD, max_num_batched_tokens=2048)
    assert short.lines[0].startswith(
        "ValueError: max_num_batched_tokens (2048) is smaller than max_model_len (4096). This effectively limits"
    )
    both = refusal(OLD, enable_chunked_prefill=True, enable_prefix_caching=True)
    assert both.lines == ("RuntimeError: chunked prefill cannot be used with prefix caching now.",)
    assert both.kind == "arguments"
    assert refusal(OLD, max_num_seqs=0).lines == (
        "ValueError: max_num_seqs (0): Input should be greater than or equal to 1",
    )
    manager = refusal(OLD, use_v2_block_manager=True, enable_prefix_caching=True)
    assert manager.lines == ("AssertionError: Prefix caching not yet supported",)
    assert manager.kind == "engine"


@pytest.mark.parametrize(
    ("engine", "parameters", "line"),
    [
        (OLD, {"max_num_active_seqs": 64}, "unrecognized arguments: --max-num-active-seqs=64"),
        (OLD, {"async_scheduling": False}, "unrecognized arguments: --no-async-scheduling"),
        (NEW, {"scheduler_delay_factor": 0.5}, "unrecognized arguments: --scheduler-delay-factor=0.5"),
        (NEW, {"use_v2_block_manager": True}, "unrecognized arguments: --use-v2-block-manager"),
        (NEW, {"swap_space": 4, "num_scheduler_steps": 8}, "unrecognized arguments: --swap-space=4 --num-scheduler-st"),
        (OLD, {"block_size": 64}, "argument --block-size: invalid choice: 64 (choose from 8, 16, 32)"),
        (NEW, {"max_num_seqs": "many"}, "argument --max-num-seqs: invalid int value: 'many'"),
        (NEW, {"max_num_seqs": 64.0}, "argument --max-num-seqs: invalid int value: '64.0'"),
        (NEW, {"max_num_seqs": True}, "argument --max-num-seqs: invalid int value: 'True'"),
        (NEW, {"enforce_eager": 1}, "argument --enforce-eager: ignored explicit argument '1'"),
        (NEW, {"performance_mode": "fast"}, "argument --performance-mode: invalid choice: 'fast' (choose from 'balan"),
        (NEW, {"performance_mode": 3}, "argument --performance-mode: invalid choice: 3 (choose from 'balan"),
        (NEW, {"scheduling_policy": "priority"}, "argument --scheduling-policy: invalid choice: 'priority'"),
    ],
)
def test_vllm_s_parser_refuses_and_the_agent_says_so(engine: str, parameters: dict[str, Any], line: str) -> None:
    failure = refusal(engine, **parameters)
    assert (failure.kind, failure.exit_code) == ("arguments", 2)
    assert failure.lines[0].startswith(f"api_server.py: error: {line}")
    reason, told = classify_start(None, timed_out=False, log_text="\n".join(failure.lines), engine="simulated")
    assert reason is Reason.ENGINE_REJECTED_ARGS
    assert told in failure.lines[0]


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        (
            {"max_num_seqs": 512, "max_num_batched_tokens": 256},
            "SchedulerConfig: max_num_batched_tokens (256) must be greater than or equal to max_num_seqs (512).",
        ),
        (
            {"enable_chunked_prefill": False, "max_num_batched_tokens": 256, "max_num_seqs": 16},
            "SchedulerConfig: max_num_batched_tokens (256) is smaller than max_model_len (4096).",
        ),
        (
            {"max_num_active_seqs": 20, "max_num_seqs": 10},
            "SchedulerConfig: max_num_active_seqs (20) cannot be greater than max_num_seqs (10).",
        ),
        (
            {"long_prefill_token_threshold": 5000},
            "SchedulerConfig: long_prefill_token_threshold (5000) cannot be greater than the max_model_len (4096).",
        ),
        ({"max_num_scheduled_tokens": 4096}, "SchedulerConfig: max_num_scheduled_tokens (4096) cannot be greater"),
        ({"tensor_parallel_size": 4}, "ParallelConfig: World size (4) is larger than the number of available GPUs (2)"),
        ({"max_model_len": 8192}, "ModelConfig: User-specified max_model_len (8192) is greater than the derived"),
        ({"max_num_seqs": 0}, "SchedulerConfig: max_num_seqs: Input should be greater than or equal to 1"),
        ({"gpu_memory_utilization": 0}, "CacheConfig: gpu_memory_utilization: Input should be greater than 0"),
        ({"gpu_memory_utilization": 1.1}, "CacheConfig: gpu_memory_utilization: Input should be less than or equal"),
        ({"watermark": 1.0}, "SchedulerConfig: watermark: Input should be less than 1"),
        ({"watermark": float("nan")}, "SchedulerConfig: watermark: Input should be a finite number"),
        ({"watermark": 10**400}, "SchedulerConfig: watermark: Input should be a finite number"),
        ({"max_num_seqs": 2**40}, "SchedulerConfig: max_num_seqs: Input should be less than or equal to"),
    ],
)
def test_vllm_0_32_s_checks_are_read_by_the_agent(parameters: dict[str, Any], told: str) -> None:
    failure = refusal(NEW, **parameters)
    assert (failure.kind, failure.exit_code) == ("arguments", 1)
    reason, cause = classify_start(None, timed_out=False, log_text="\n".join(failure.lines), engine="simulated")
    assert reason is Reason.ENGINE_REJECTED_ARGS
    assert cause.startswith(told)


def test_hidden_constraints_of_vllm_0_32_pass_its_argument_check() -> None:
    blocks = refusal(NEW, block_size=24)
    assert blocks.lines[0] == "ValueError: No common block size for 24 (FLASH_ATTN: [MultipleOf(16)])."
    assert (blocks.kind, blocks.exit_code) == ("engine", 1)
    assert settled(NEW, block_size=48).scheduler.block_size == 48
    package = refusal(NEW, prefix_caching_hash_algo="xxhash")
    assert package.lines[0].startswith("ModuleNotFoundError: xxhash is required")
    assert settled(NEW, prefix_caching_hash_algo="xxhash", enable_prefix_caching=False).scheduler.blocks
    reason, told = classify_start(None, timed_out=False, log_text="\n".join(blocks.lines), engine="simulated")
    assert reason is Reason.ENGINE_EXITED_ON_START
    assert told == blocks.lines[0]


def test_heads_must_divide() -> None:
    asked = SimulatedService(
        engine=NEW, model="llama2-13b", gpu="a100", devices=3, parameters={"tensor_parallel_size": 3}
    )
    with pytest.raises(StartFailure, match=r"attention heads \(40\) must be divisible by tensor parallel size \(3\)"):
        resolve(asked)
    with pytest.raises(StartFailure, match="does not divide the service's 3 GPUs"):
        resolve(SimulatedService(model="qwen3-8b", gpu="a100", devices=3, parameters={"tensor_parallel_size": 2}))
    with pytest.raises(StartFailure, match=r"num_attention_heads \(40\)"):
        resolve(SimulatedService(engine=TRT, model="llama2-13b", gpu="a100", devices=3, parameters={"tp_size": 3}))
    with pytest.raises(StartFailure, match="does not divide"):
        resolve(SimulatedService(engine=TRT, model="qwen3-8b", gpu="a100", devices=3, parameters={"tp_size": 2}))
    with pytest.raises(StartFailure, match="larger than"):
        resolve(SimulatedService(engine=TRT, model="qwen3-8b", gpu="a100", parameters={"tp_size": 2}))


def test_a_degree_without_times_is_the_user_s_error() -> None:
    asked = SimulatedService(
        engine=NEW, model="llama2-13b", gpu="a100", devices=5, parameters={"tensor_parallel_size": 5}
    )
    with pytest.raises(UserError, match="no times for tensor-parallel degree 5"):
        resolve(asked)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"enable_chunked_context": True}, "calls it enable_chunked_prefill"),
        ({"kv_cache_reuse": True}, "calls it enable_block_reuse"),
        ({"use_paged_context_fmha": True}, "always paged"),
        ({"nonsense": 1}, "No such option: --nonsense."),
    ],
)
def test_trtllm_names_today_s_name(parameters: dict[str, Any], words: str) -> None:
    failure = refusal(TRT, **parameters)
    assert (failure.kind, failure.exit_code) == ("arguments", 2)
    assert words in failure.lines[0]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"max_num_tokens": 64, "max_batch_size": 128}, "max_num_tokens (64) must be greater than or equal to"),
        ({"tokens_per_block": 48}, "tokens_per_block: Input should be a power of two"),
        ({"capacity_scheduler_policy": "EQUAL_PROGRESS"}, "'GUARANTEED_NO_EVICT' or 'MAX_UTILIZATION' or 'STATIC"),
        ({"context_chunking_policy": "MAX_UTILIZATION"}, "'FIRST_COME_FIRST_SERVED' or 'EQUAL_PROGRESS'"),
        ({"kv_cache_free_gpu_memory_fraction": 1.0}, "less than 1"),
        ({"max_batch_size": "8"}, "should be a valid integer"),
        ({"max_seq_len": 10_000}, "max_seq_len (10000) is greater than"),
    ],
)
def test_trtllm_refuses(parameters: dict[str, Any], words: str) -> None:
    failure = refusal(TRT, **parameters)
    assert words in str(failure)
    assert failure.kind == "arguments"
    reason, _ = classify_start(None, timed_out=False, log_text="\n".join(failure.lines), engine="simulated")
    assert reason is Reason.ENGINE_REJECTED_ARGS


# --- services that make no sense -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"engine": "vllm-0.33"}, "engine", "did you mean 'vllm-0.32'"),
        ({"model": "llama9"}, "model", "no model"),
        ({"gpu": "a101"}, "gpu", "no GPU"),
        ({"link": "nvlnk"}, "link", "did you mean 'nvlink'"),
        ({"routing": "random"}, "routing", "no routing"),
        ({"devices": 0}, "devices", "out of range"),
        ({"max_model_len": 0}, "max_model_len", "at least 1"),
        ({"parameters": {"max-num-seqs": 3}}, "parameters.max-num-seqs", "'max_num_seqs'"),
        ({"parameters": {"performance_mode": "a\nb"}}, "parameters.performance_mode", "control characters"),
        ({"parameters": {"kv_cache_dtype": "fp8"}}, "parameters.kv_cache_dtype", "does not simulate"),
        ({"parameters": {f"p{n}": 1 for n in range(300)}}, "parameters", "too many"),
        ({"profile": "mine.json"}, "profile", "was not read"),
    ],
)
def test_services_that_make_no_sense(changes: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        resolve(SimulatedService(**{"model": "llama2-13b", "gpu": "a100", **changes}))
    assert caught.value.key == key


def linear(covers: Any) -> LinearModel:
    return LinearModel(
        base_s=0.5,
        prefill_token_s=0.0,
        chunk_squared_s=0.0,
        chunk_cached_s=0.0,
        decode_s=0.0,
        context_token_s=0.0,
        covers=covers,
    )


@pytest.mark.parametrize(("covers", "cpu"), [("step", False), ("gpu", True)])
def test_a_profile_replaces_the_tables_and_the_cpu_where_it_covers_it(covers: str, cpu: bool) -> None:
    fitted = Profile(name="mine", model="llama2-13b", gpu="a100", tensor_parallel=1, link="pcie", linear=linear(covers))
    asked = SimulatedService(model="llama2-13b", gpu="a100", devices=2, profile="mine.json", fitted=fitted)
    timed = resolve(asked)[0].step_time
    assert timed.gpu_s(8, 80, []) == 0.5
    assert (timed.cpu_s(8) > 0) is cpu
    with pytest.raises(UserError, match="tensor_parallel"):
        resolve(
            SimulatedService(
                model="llama2-13b",
                gpu="a100",
                devices=2,
                profile="mine.json",
                fitted=fitted,
                parameters={"tensor_parallel_size": 2},
            )
        )
    with pytest.raises(UserError, match=r"mine\.json"):
        resolve(SimulatedService(model="qwen3-8b", gpu="a100", profile="mine.json", fitted=fitted))


# --- seams -----------------------------------------------------------------------------------------------------------


def test_check_service_leaves_to_the_engine_what_the_engine_refuses() -> None:
    assert check_service(service(NEW, nonsense=1)).name == NEW


def test_the_seam_has_the_signature_of_the_real_one() -> None:
    asked = service(OLD)
    seam = Seam()
    resolve(asked, memory=seam.memory, step_time=seam.step_time)
    tensor_parallel = seam.memory_asked.pop("tensor_parallel")
    assert plan_memory(MODELS["llama2-13b"], GPUS["a100"], tensor_parallel, **seam.memory_asked).blocks > 0
