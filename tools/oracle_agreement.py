"""How much the oracle saves, and whether it is right: random configurations asked, and some of them started.

    nice .venv/bin/python -m tools.oracle_agreement vllm .venv-vllm/bin/python --configs 500 --launches 24
    nice .venv/bin/python -m tools.oracle_agreement sglang .venv-sglang/bin/python --configs 500 --launches 24

Prints Markdown: the share of configurations the engine's argument checks refuse, the time a question takes, how many
configurations come to the same as another, which options change nothing; then, of a sample of both kinds (accepted and
refused, the refused by reason in turn), what happens when they are really started, one at a time, with the tiny model
on CPU. A start that fails is told apart by where it failed: in the argument checks, which is what the oracle foretells,
or later (a hidden constraint, which it cannot know). Every disagreement is listed again at the end; exit status 1 if
there is one. No part of CI: 500 questions take under a minute, a start 15 to 60 s and 2.4 GB.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from scoot.agent import canary
from scoot.agent.core.classify import classify_start
from scoot.agent.engines import base
from scoot.agent.engines.base import EngineAdapter, EngineSettings, LaunchRequest
from scoot.agent.engines.checker import inquiry_of
from scoot.agent.engines.oracle import Oracle
from scoot.agent.engines.registry import make_adapter
from scoot.agent.host import cgroup, logs
from scoot.agent.host.ports import free_port
from scoot.agent.host.process import EngineProcess, spawn_engine
from scoot.wire.assignment import Device
from scoot.wire.catalogue.verdict import Invalid, Ok, Unknown, Verdict, same_effective
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config, Scalar, Service

SHARE = 0.4
"""Of the options each configuration sets."""

MISTAKEN = 0.1
"""Of the configurations, with one impossible value each."""

MODEL_LEN = 2048
START_S = 240.0


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that can be asked and started here.

    Attributes:
        space: values users try, good and bad, of options a study may set; hidden constraints among them.
        mistakes: what it does not take: out of range, no such choice, no number, an option that is gone.
        options: of every configuration.
        env: of the engine.
        length: its name for the longest context.
        began: what its log says once a failing start is past the argument checks; None: nothing.
    """

    space: dict[str, tuple[Scalar, ...]]
    mistakes: tuple[tuple[str, Scalar], ...]
    options: Config
    env: dict[str, str]
    length: str
    began: str


ENGINES = {
    "vllm": Engine(
        space={
            "async_scheduling": (True, False),
            "block_size": (8, 16, 24, 32, 64, 128),
            "enable_chunked_prefill": (True, False),
            "enable_prefix_caching": (True, False),
            "gpu_memory_utilization": (0.5, 0.9, 1.0),
            "long_prefill_token_threshold": (0, 128, 512, 4096),
            "max_num_active_seqs": (2, 8, 32, 256),
            "max_num_batched_tokens": (64, 128, 256, 512, 1024, 2048, 4096, 8192),
            "max_num_scheduled_tokens": (64, 512, 2048),
            "max_num_seqs": (1, 4, 16, 64, 128, 256, 1024),
            "num_gpu_blocks_override": (4, 512),
            "performance_mode": ("balanced", "interactivity", "throughput"),
            "prefix_caching_hash_algo": ("sha256", "sha256_cbor", "xxhash"),
            "scheduler_reserve_full_isl": (True, False),
            "scheduling_policy": ("fcfs", "priority"),
            "stream_interval": (1, 4),
            "watermark": (0.0, 0.05, 0.5),
        },
        mistakes=(
            ("gpu_memory_utilization", 1.2),
            ("max_num_active_seqs", 0),
            ("max_num_seqs", "many"),
            ("num_scheduler_steps", 8),
            ("performance_mode", "fast"),
            ("prefix_caching_hash_algo", "md5"),
            ("scheduling_policy", "lifo"),
            ("stream_interval", 0),
            ("watermark", 1.5),
        ),
        options={"enforce_eager": True, "load_format": "dummy", "dtype": "bfloat16"},
        env={"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"},
        length="max_model_len",
        began="Engine core initialization failed",
    ),
    "sglang": Engine(
        space={
            "attention_backend": ("torch_native", "triton"),
            "chunked_prefill_size": (-1, 128, 200, 512, 2048),
            "disable_overlap_schedule": (True, False),
            "disable_radix_cache": (True, False),
            "enable_hierarchical_cache": (True, False),
            "enable_mixed_chunk": (True, False),
            "enable_priority_scheduling": (True, False),
            "max_prefill_tokens": (512, 4096, 16384),
            "max_running_requests": (1, 8, 64),
            "page_size": (1, 16, 64),
            "prefill_decode_interval": (-1, 0, 4),
            "radix_eviction_policy": ("lru", "lfu", "tlru"),
            "schedule_conservativeness": (-0.5, 0.3, 1.0),
            "schedule_policy": ("fcfs", "lpm", "dfs-weight", "lof"),
            "stream_interval": (1, 4),
        },
        mistakes=(
            ("chunked_prefill_size", "many"),
            ("cuda_graph_max_bs", 8),
            ("page_size", 0),
            ("retraction_policy", "random"),
            ("schedule_policy", "lifo"),
            ("swa_full_tokens_ratio", 5.0),
            ("tokenizer_worker_num", 0),
        ),
        options={"load_format": "dummy", "max_total_tokens": 8192},
        env={},
        length="context_length",
        began="server_args=",
    ),
}


class Launch(msgspec.Struct, frozen=True):
    """What came of a start: "ready", "refused" by argument checks, "died" later, or "late"; why, and in whose words."""

    outcome: str
    reason: Reason | None
    line: str
    seconds: float


def drawn(engine: Engine, rng: random.Random) -> Config:
    """A random configuration."""
    config = {name: rng.choice(values) for name, values in engine.space.items() if rng.random() < SHARE}
    return config | dict([rng.choice(engine.mistakes)]) if rng.random() < MISTAKEN else config


def fixed(engine: Engine, config: Config) -> Config:
    """All options of a configuration, with those every one has."""
    return {**engine.options, engine.length: MODEL_LEN, **config}


async def launched(adapter: EngineAdapter, engine: Engine, config: Config, model: str) -> Launch:
    """Start an engine, ask it for one completion, stop it."""
    service = Service(
        engine=adapter.name,
        model=model,
        device="cpu",
        max_model_len=MODEL_LEN,
        options=dict(engine.options),
        env=dict(engine.env),
    )
    with tempfile.TemporaryDirectory(prefix="scoot-agreement-") as name:
        folder = Path(name)
        request = LaunchRequest(
            service=service,
            config=config,
            tensor_parallel=1,
            devices=(Device(id="cpu-0", kind="cpu"),),
            port=free_port(),
            workdir=name,
        )
        began_s = time.monotonic()
        process = await spawn_engine(
            adapter.command(request),
            log_path=folder / "engine.log",
            cwd=folder,
            state_dir=folder,
            attempt_id="agreement/0/0",
            port=request.port,
            cgroups=cgroup.probe(),
        )
        timed_out = False
        try:
            ready = await answers(process, request)
        except TimeoutError:
            ready, timed_out = False, True
        finally:
            report = await process.stop(15.0, 5.0)
        seconds = time.monotonic() - began_s
        log = logs.read_text(folder / "engine.log")
    if ready:
        return Launch("ready", None, "", seconds)
    reason, line = classify_start(report.exit, timed_out=timed_out, log_text=log, engine=adapter.name)
    if timed_out:
        return Launch("late", reason, line, seconds)
    return Launch("died" if engine.began in log else "refused", reason, line, seconds)


async def answers(process: EngineProcess, request: LaunchRequest) -> bool:
    """Whether the engine comes up and completes a prompt; False when it ends instead."""
    async with asyncio.timeout(START_S):
        while not (await canary.ask(request.port, "/health", timeout_s=5.0)).ok:
            done, _ = await asyncio.wait([process.exited], timeout=0.5)
            if done:
                return False
        body = {"model": request.service.model, "prompt": [20, 21, 22, 23], "max_tokens": 4, "ignore_eos": True}
        question = msgspec.json.encode(body)
        return (await canary.ask(request.port, "/v1/completions", timeout_s=60.0, body=question)).ok


def rows(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    table = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in table)


def short(config: Config) -> str:
    """A configuration in one cell."""
    return " ".join(f"{name}={value}" for name, value in config.items()) or "(default)"


def twins(verdicts: Sequence[Verdict]) -> int:
    """Accepted configurations that come to the same as an earlier one."""
    distinct: list[Ok] = []
    accepted = [verdict for verdict in verdicts if isinstance(verdict, Ok)]
    for verdict in accepted:
        if not any(same_effective(verdict.effective, other.effective) for other in distinct):
            distinct.append(verdict)
    return len(accepted) - len(distinct)


async def questions(
    oracle: Oracle, engine: Engine, configs: Sequence[Config], model: str
) -> tuple[list[Verdict], list[float]]:
    """The verdict of every configuration and the milliseconds it took; the first question waits for the import."""
    await oracle.check(fixed(engine, {}), model=model)
    verdicts, times_ms = [], []
    for config in configs:
        began_s = time.perf_counter()
        verdicts.append(await oracle.check(fixed(engine, config), model=model))
        times_ms.append((time.perf_counter() - began_s) * 1000)
    return verdicts, times_ms


def kind_of(verdict: Verdict) -> str:
    """A verdict in a word or two."""
    match verdict:
        case Ok():
            return "accepted"
        case Invalid():
            return f"refused: {verdict.kind.value}"
        case Unknown():
            return "unknown"


async def measure(arguments: argparse.Namespace) -> bool:
    """Ask, print, start some, print; whether the oracle was never wrong."""
    rng = random.Random(arguments.seed)  # noqa: S311 - a reproducible sample
    engine = ENGINES[arguments.engine]
    configs = [drawn(engine, rng) for _ in range(arguments.configs)]
    settings = EngineSettings(kind=arguments.engine, python=arguments.python)
    inquiry = inquiry_of(settings)
    if inquiry is None:
        sys.exit(f"{arguments.engine} has no argument check")
    command = base.helper_command(settings, *inquiry.helper)
    model: str = arguments.model
    async with Oracle(settings, env=engine.env, command=command) as oracle:
        verdicts, times_ms = await questions(oracle, engine, configs, model)
        again = [await oracle.check(fixed(engine, config), model=model) for config in configs[:20]]
        inert = await oracle.inert(engine.space, model=model)
        found = await oracle.catalogue()
        starts = oracle.starts
    title = found.why if isinstance(found, Unknown) else found.title
    counts = Counter(map(kind_of, verdicts))
    refused = sum(isinstance(verdict, Invalid) for verdict in verdicts)
    times = statistics.quantiles(times_ms, n=20)
    figures = [
        ("engine", title),
        (
            "configurations",
            f"{len(configs)}, seed {arguments.seed}, {len(engine.space)} options, {SHARE:.0%} of them set",
        ),
        ("with an impossible value besides", f"{MISTAKEN:.0%}, one of {len(engine.mistakes)}"),
        ("refused", f"{refused} ({refused / len(configs):.1%})"),
        *((f"- {name}", count) for name, count in sorted(counts.items())),
        ("different reasons for that", len({reason_of(each) for each in verdicts if isinstance(each, Invalid)})),
        ("come to the same as another", twins(verdicts)),
        ("a question, median", f"{statistics.median(times_ms):.1f} ms"),
        ("a question, p95", f"{times[-1]:.1f} ms"),
        ("helpers started", starts),
        ("the first 20 asked again at the end", "same" if again == verdicts[:20] else "DIFFERENT"),
        ("options that change nothing", ", ".join(sorted(inert)) or "none"),
    ]
    print(rows(("oracle", ""), figures))
    ok = again == verdicts[:20]
    if arguments.launches:
        ok &= await compare(arguments, make_adapter(settings), list(zip(configs, verdicts, strict=True)), model)
    return ok


def reason_of(verdict: Invalid) -> str:
    """The kind of refusal a verdict is: its sentence without the numbers."""
    return re.sub(r"\d+(?:\.\d+)?", "N", verdict.reason)


def varied(refused: Sequence[tuple[Config, Invalid]]) -> list[tuple[Config, Verdict]]:
    """Refused configurations, one of each reason first, then a second of each."""
    seen: Counter[str] = Counter()
    placed: list[tuple[int, int]] = []
    for number, (_, verdict) in enumerate(refused):
        reason = reason_of(verdict)
        placed.append((seen[reason], number))
        seen[reason] += 1
    return [refused[number] for _, number in sorted(placed)]


async def compare(
    arguments: argparse.Namespace, adapter: EngineAdapter, asked: list[tuple[Config, Verdict]], model: str
) -> bool:
    """Start a sample, half of it accepted and half refused; whether no verdict was wrong."""
    accepted = [item for item in asked if isinstance(item[1], Ok)]
    others = varied([(config, verdict) for config, verdict in asked if isinstance(verdict, Invalid)])
    sample = [*others[: arguments.launches // 2], *accepted[: arguments.launches - arguments.launches // 2]]
    lines: list[tuple[str, ...]] = []
    for config, verdict in sample:
        outcome = await launched(adapter, ENGINES[arguments.engine], config, model)
        # Whoever foretells a refusal has to be right about it in both places: where the start ended, and its reason.
        refused = outcome.outcome == "refused" and outcome.reason is Reason.ENGINE_REJECTED_ARGS
        agrees = refused if isinstance(verdict, Invalid) else outcome.outcome in ("ready", "died")
        said = verdict.reason if isinstance(verdict, Invalid) else "accepted"
        cells = (short(config), said[:120], outcome.outcome, outcome.reason or "", outcome.line[:120])
        lines.append((*cells, f"{outcome.seconds:.0f}", "yes" if agrees else "NO"))
        print(f"{len(lines)}/{len(sample)} {outcome.outcome}", file=sys.stderr)
    header = ("configuration", "oracle", "start", "reason", "its own words", "s", "agrees")
    wrong = [line for line in lines if line[-1] == "NO"]
    hidden = [line for line in lines if line[1] == "accepted" and line[2] == "died"]
    print()
    print(rows(header, lines))
    print(
        f"\n{len(lines) - len(wrong)} of {len(lines)} starts agree with the oracle: "
        f"{sum(line[1] != 'accepted' for line in lines)} it refused, {sum(line[1] == 'accepted' for line in lines)} it "
        f"accepted. {len(hidden)} of the accepted died later, of a hidden constraint."
    )
    print("\nDisagreements: " + (f"\n\n{rows(header, wrong)}" if wrong else "none."))
    return not wrong


def absolute(text: str) -> str:
    """A path from the root, links left as they are: an environment's interpreter is one."""
    return str(Path(text).absolute())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=tuple(ENGINES))
    parser.add_argument("python", type=absolute, help="interpreter of its environment")
    parser.add_argument("--configs", type=int, default=500)
    parser.add_argument("--launches", type=int, default=0, help="configurations to start, half of them refused")
    model_help = "folder of tools/make_tiny_model.py"
    parser.add_argument("--model", type=absolute, default=absolute(".scoot/models/tiny-llama"), help=model_help)
    parser.add_argument("--seed", type=int, default=0)
    sys.exit(0 if asyncio.run(measure(parser.parse_args())) else 1)
