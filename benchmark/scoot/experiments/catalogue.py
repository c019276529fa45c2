"""The services of the experiments, and which of them optimizers may be developed on. Pure.

Settings were fixed before any optimizer ran on them; they follow the SCOOT paper where it says something, and are
looked at only with the engines' default configurations otherwise. Which services are for development is decided by a
rule that knows nothing of results: see `development`.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from itertools import product
from types import MappingProxyType
from typing import Final

import msgspec

from scoot.benchmark.profiles import PrefixGroup, Profile
from scoot.experiments.services import TuningService
from scoot.simulator.dialect.registry import known_constraints
from scoot.simulator.service import SimulatedService, resolve
from scoot.simulator.settings import StartFailure
from scoot.wire.client_parameters import USERS
from scoot.wire.errors import UserError
from scoot.wire.spec import (
    ArrivalProcess,
    Arrivals,
    Config,
    Parameter,
    ParameterKind,
    Scalar,
    Scale,
    Selection,
    Workload,
)

MODEL_LEN: Final = 4096
"""Longest context served by the paper's services, tokens."""

DEVELOPMENT_SHARE: Final = 0.4
"""Of each stratum, rounded."""

_TIMEOUT_S: Final = 300.0
"""A request that takes longer has failed, and the configuration with it if these are more than 1 %: the paper's engines
crash of time-outs."""

_TIMEOUTS_S: Final = MappingProxyType({"BOT-2a10-13b": 600.0})
"""Where the default configuration does not survive that, it is doubled."""

_OFFLINE_TIMEOUT_S: Final = 1200.0
"""The same for REC, which is "periodically invoked offline": its load exceeds what small machines bear, and throughput
is what it is about."""


# -- parameters --------------------------------------------------------------------------------------------------------


def _integer(
    name: str, low: int, high: int, default: int, *, step: int | None = None, scale: Scale = Scale.LINEAR
) -> Parameter:
    return Parameter(name=name, kind=ParameterKind.INT, low=low, high=high, step=step, scale=scale, default=default)


def _flag(name: str, default: bool) -> Parameter:
    return Parameter(name=name, kind=ParameterKind.BOOL, default=default)


def _real(name: str, low: float, high: float, default: float) -> Parameter:
    return Parameter(name=name, kind=ParameterKind.FLOAT, low=low, high=high, default=default)


def _choice(name: str, default: Scalar, *choices: Scalar) -> Parameter:
    kind = ParameterKind.INT if isinstance(default, int) else ParameterKind.ENUM
    return Parameter(name=name, kind=kind, choices=choices, default=default)


def _users(default: int) -> Parameter:
    """Clients of a closed loop."""
    return _integer(USERS, 4, 256, default, scale=Scale.LOG)


def _vllm_old(devices: int, degree: int) -> tuple[Parameter, ...]:
    """Table 1 of the paper, and gpu_memory_utilization, which hides the constraint that everybody meets first: memory.

    The paper has max_num_seqs from 64 to 8192; here fewer can be tried, which small GPUs are worth, and none beyond
    2048, where nothing changes any more.
    """
    return (
        _integer("tensor_parallel_size", 1, devices, degree, scale=Scale.POW2),
        _integer("max_num_seqs", 8, 2048, 256, step=8, scale=Scale.LOG),
        _integer("max_num_batched_tokens", 64, 8192, MODEL_LEN, step=64),
        _choice("block_size", 16, 8, 16, 32),
        _real("scheduler_delay_factor", 0.0, 2.0, 0.0),
        _flag("enable_chunked_prefill", default=False),
        _flag("enable_prefix_caching", default=False),
        _flag("disable_custom_all_reduce", default=False),
        _flag("use_v2_block_manager", default=False),
        _real("gpu_memory_utilization", 0.8, 0.98, 0.9),
    )


def _vllm_today(devices: int, degree: int, tokens: int, seqs: int) -> tuple[Parameter, ...]:
    """What the catalogue of vLLM 0.32 has that changes speed, or may crash, or does nothing, as users find it."""
    return (
        _integer("tensor_parallel_size", 1, devices, degree, scale=Scale.POW2),
        _integer("max_num_seqs", 8, 2048, seqs, step=8, scale=Scale.LOG),
        _integer("max_num_batched_tokens", 256, 16384, tokens, step=256, scale=Scale.LOG),
        _integer("max_num_active_seqs", 8, 2048, seqs, step=8, scale=Scale.LOG),
        _integer("max_num_scheduled_tokens", 256, 16384, tokens, step=256, scale=Scale.LOG),
        _integer("long_prefill_token_threshold", 0, 4096, 0, step=256),
        _choice("block_size", 16, 16, 32, 64, 128),
        _flag("enable_chunked_prefill", default=True),
        _flag("enable_prefix_caching", default=True),
        _choice("prefix_caching_hash_algo", "sha256", "sha256", "sha256_cbor", "xxhash"),
        _real("gpu_memory_utilization", 0.8, 0.99, 0.92),
        _real("watermark", 0.0, 0.2, 0.0),
        _flag("scheduler_reserve_full_isl", default=True),
        _flag("async_scheduling", default=True),
        _integer("stream_interval", 1, 16, 1, scale=Scale.POW2),
        _choice("performance_mode", "balanced", "balanced", "interactivity", "throughput"),
        _flag("disable_custom_all_reduce", default=False),
        _flag("enforce_eager", default=False),
        _integer("max_cudagraph_capture_size", 1, 1024, min(512, 2 * seqs, tokens), scale=Scale.POW2),
        _flag("disable_log_stats", default=False),
        _flag("enable_log_requests", default=False),
    )


def _trtllm(devices: int, degree: int) -> tuple[Parameter, ...]:
    """Table 3 of the paper under today's names, with the share of memory and the overlap of scheduling."""
    return (
        _integer("tp_size", 1, devices, degree, scale=Scale.POW2),
        _integer("max_batch_size", 8, 2048, 2048, step=8, scale=Scale.LOG),
        _integer("max_num_tokens", 64, 8192, 8192, step=64),
        _choice("tokens_per_block", 32, 4, 8, 16, 32, 64, 128),
        _flag("enable_chunked_prefill", default=False),
        _flag("enable_block_reuse", default=True),
        _choice("capacity_scheduler_policy", "GUARANTEED_NO_EVICT", "GUARANTEED_NO_EVICT", "MAX_UTILIZATION"),
        _choice("context_chunking_policy", "FIRST_COME_FIRST_SERVED", "FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS"),
        _real("kv_cache_free_gpu_memory_fraction", 0.7, 0.98, 0.9),
        _flag("disable_overlap_scheduler", default=False),
    )


def smallest_degree(engine: SimulatedService, name: str = "tensor_parallel_size") -> int:
    """The default tensor-parallel degree: the engine's own, 1, where it starts, else the smallest that does.

    Raises:
        UserError: it starts with none.
    """
    degree = 1
    while degree <= engine.devices:
        try:
            resolve(msgspec.structs.replace(engine, parameters={**engine.parameters, name: degree}))
        except StartFailure:
            degree *= 2
        else:
            return degree
    raise UserError(f"{engine.model} does not start on {engine.devices} x {engine.gpu}", key="engine")


# -- the paper's services ----------------------------------------------------------------------------------------------

APPLICATIONS: Final = MappingProxyType(
    {
        "SQL": ("ttft_mean", "tpot_mean"),
        "BOT": ("ttft_mean", "tpot_mean"),
        "CLS": ("e2e_p95",),
        "REC": ("request_throughput",),
    }
)
"""The paper's applications and what is optimised for them (section 5.1)."""

RATES: Final = MappingProxyType({"SQL": 5.0, "BOT": 5.0, "CLS": 10.0, "REC": 15.0})
"""Requests per second on A10; twice that on A100."""

RESOURCES: Final = ((2, "a10"), (4, "a10"), (2, "a100"), (4, "a100"))
SIZES: Final = ("7b", "13b")


def _paper(application: str, devices: int, gpu: str, size: str) -> TuningService:
    engine = SimulatedService(
        engine="vllm-0.4.2", model=f"llama2-{size}", gpu=gpu, devices=devices, max_model_len=MODEL_LEN
    )
    rate = RATES[application] * (2.0 if gpu == "a100" else 1.0)
    name = f"{application}-{devices}{gpu}-{size}"
    timeout_s = _OFFLINE_TIMEOUT_S if application == "REC" else _TIMEOUTS_S.get(name, _TIMEOUT_S)
    return TuningService(
        name=name,
        group="paper",
        stratum=application,
        engine=engine,
        workload=Workload(
            profile=application,
            arrivals=Arrivals(rate=rate),
            duration_s=100.0,
            warm_up_s=0.0,
            request_timeout_s=timeout_s,
            drain_s=timeout_s,
        ),
        parameters=_vllm_old(devices, smallest_degree(engine)),
        constraints=known_constraints(engine.engine),
        objectives=APPLICATIONS[application],
    )


# -- today's services --------------------------------------------------------------------------------------------------


class _Today(msgspec.Struct, frozen=True, kw_only=True):
    """One service of vLLM 0.32; fields as in TuningService."""

    profile: str
    model: str
    gpu: str
    devices: int
    rate: float
    objectives: tuple[str, ...]
    outcomes: tuple[str, ...] = ()
    sessions: bool = False


_TODAY: Final = (
    _Today(profile="BOT", model="qwen3-14b", gpu="a100", devices=2, rate=10.0, objectives=("ttft_mean", "tpot_mean")),
    _Today(profile="AZURE_CONV", model="llama3-8b", gpu="l40s", devices=2, rate=10.0, objectives=("e2e_p95",)),
    _Today(profile="SQL", model="qwen3-32b", gpu="h100", devices=4, rate=60.0, objectives=("ttft_mean", "tpot_mean")),
    _Today(profile="REC", model="llama3-8b", gpu="l40s", devices=2, rate=25.0, objectives=("request_throughput",)),
    _Today(profile="CLS", model="llama3-70b", gpu="h100", devices=8, rate=80.0, objectives=("e2e_p95",)),
    _Today(
        profile="CHAT_SESSIONS",
        model="qwen3-32b",
        gpu="h200",
        devices=2,
        rate=5.0,
        objectives=("e2e_p95",),
        outcomes=("ttft_p95 <= 300",),
        sessions=True,
    ),
    _Today(
        profile="AZURE_CONV",
        model="qwen3-32b",
        gpu="a100",
        devices=4,
        rate=4.0,
        objectives=("ttft_mean", "tpot_mean", "output_token_throughput"),
    ),
    _Today(
        profile="BOT",
        model="llama3-70b",
        gpu="h100",
        devices=4,
        rate=6.0,
        objectives=("output_token_throughput",),
        outcomes=("ttft_p95 <= 2000",),
    ),
)


def _today(each: _Today) -> TuningService:
    from scoot.simulator.dialect.vllm_v1 import batch_defaults
    from scoot.simulator.shapes import gpu_named

    engine = SimulatedService(
        engine="vllm-0.32", model=each.model, gpu=each.gpu, devices=each.devices, max_model_len=2 * MODEL_LEN
    )
    tokens, seqs = batch_defaults(gpu_named(each.gpu))
    size = each.model.rpartition("-")[2]
    return TuningService(
        name=f"{each.profile}-{each.devices}{each.gpu}-{size}-today",
        group="today",
        stratum="today",
        engine=engine,
        workload=Workload(
            profile=each.profile,
            select=Selection.ALL,
            arrivals=Arrivals(rate=each.rate),
            duration_s=60.0,
            warm_up_s=10.0,
            request_timeout_s=_TIMEOUT_S,
            sessions=each.sessions,
        ),
        parameters=_vllm_today(each.devices, smallest_degree(engine), tokens, seqs),
        constraints=known_constraints(engine.engine),
        objectives=each.objectives,
        outcomes=each.outcomes,
    )


# -- the story-writing services of Table 4 -----------------------------------------------------------------------------

_STORY_OUTPUT: Final = ((0, 60), (5, 120), (25, 210), (50, 285), (75, 370), (95, 540), (100, 800))


def _story_profile(name: str, tokens: Sequence[int]) -> Profile:
    levels = (0, 5, 25, 50, 75, 95, 100)
    return Profile(
        name=name,
        source="not fitted: the mean lengths of the SCOOT paper's story services (Appendix A.6), behind a short prefix",
        own_tokens=tuple(zip(levels, tokens, strict=True)),
        output_tokens=_STORY_OUTPUT,
        groups=(PrefixGroup(1, 80),),
        rate=1.0,
    )


STORY_PROFILES: Final = (
    _story_profile("STL", (300, 480, 700, 880, 1080, 1500, 2400)),
    _story_profile("STS", (120, 190, 300, 400, 510, 760, 1300)),
)
"""Mean input of about 1,000 and 500 tokens, output of 300."""


def _story(profile: Profile, generation: str) -> TuningService:
    engine = SimulatedService(engine=generation, model="qwen-72b", gpu="l40s", devices=8, max_model_len=MODEL_LEN)
    parameters = _trtllm(8, 8) if generation.startswith("trtllm") else _vllm_old(8, 8)
    return TuningService(
        name=f"{profile.name}-{generation.partition('-')[0]}",
        group="story",
        stratum="story",
        engine=engine,
        workload=Workload(
            select=Selection.ALL,
            arrivals=Arrivals(process=ArrivalProcess.CLOSED, users=8),
            duration_s=600.0,
            warm_up_s=60.0,
            request_timeout_s=_TIMEOUT_S,
        ),
        profile=profile,
        parameters=(*parameters, _users(8)),
        constraints=known_constraints(generation),
        objectives=("request_throughput",),
        outcomes=("ttft_mean <= 5000", "tpot_mean <= 200"),
    )


# -- all of them -------------------------------------------------------------------------------------------------------

SERVICES: Final = MappingProxyType(
    {
        service.name: service
        for service in (
            *(
                _paper(application, devices, gpu, size)
                for application, (devices, gpu), size in product(APPLICATIONS, RESOURCES, SIZES)
            ),
            *map(_today, _TODAY),
            *(
                _story(profile, generation)
                for profile, generation in product(STORY_PROFILES, ("vllm-0.4.2", "trtllm-1.2"))
            ),
        )
    }
)
"""Every service by name."""


def development() -> tuple[str, ...]:
    """The services that optimizers may be developed on; the others are for judging only.

    In each stratum, the DEVELOPMENT_SHARE (rounded) of the names whose SHA-256 is least.
    """
    chosen: set[str] = set()
    for stratum in dict.fromkeys(service.stratum for service in SERVICES.values()):
        names = [service.name for service in SERVICES.values() if service.stratum == stratum]
        names.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        chosen.update(names[: round(DEVELOPMENT_SHARE * len(names))])
    return tuple(name for name in SERVICES if name in chosen)


def select(text: str) -> tuple[TuningService, ...]:
    """Services by what the command line calls them.

    Args:
        text: names of services, of applications or groups ("BOT", "paper", "today", "story"), "development",
            "judging" or "all", with commas between them. "A&B" is what is in both A and B: "judging&BOT".

    Raises:
        UserError: a name that there is not.
    """
    chosen: set[str] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        together = set(SERVICES)
        for word in part.split("&"):
            together &= _names(word.strip())
        chosen |= together
    if not chosen:
        raise UserError(f"no service is {text!r}", key="--services", hint='"development", "judging" or names')
    return tuple(service for name, service in SERVICES.items() if name in chosen)


def _names(word: str) -> set[str]:
    if word == "all":
        return set(SERVICES)
    if word in {"development", "judging"}:
        develop = set(development())
        return develop if word == "development" else set(SERVICES) - develop
    grouped = {service.name for service in SERVICES.values() if word in {service.group, service.stratum}}
    if grouped:
        return grouped
    if word not in SERVICES:
        near = difflib.get_close_matches(word, SERVICES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`services` lists them"
        raise UserError(f"there is no service {word[:80]!r}", key="--services", hint=hint)
    return {word}


def default_of(service: TuningService) -> Config:
    """Its default configuration."""
    return {each.name: each.default for each in service.parameters if each.default is not None}
