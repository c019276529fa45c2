"""From options to a load plan: arrivals, windows and rows, all of it checked. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import PurePath
from types import MappingProxyType
from typing import Final

import msgspec
import numpy as np

from scoot.benchmark.plan import LoadPlan
from scoot.benchmark.profiles import profile_named
from scoot.benchmark.standalone.options import RunOptions, Span
from scoot.benchmark.target import parse_target
from scoot.benchmark.trace_row import Rows, TraceRow, first_turns
from scoot.benchmark.workload import PROFILE_ROWS_MAX, PROFILE_ROWS_MIN, profile_rows
from scoot.wire.errors import UserError
from scoot.wire.spec import ArrivalProcess, Arrivals, Workload
from scoot.wire.study_file import RANGES, SLO_CLASSES

DURATION_S: Final = 60.0
"""Of a run for which nothing says otherwise."""

MAX_RUNS: Final = 1_000
MAX_SENDERS: Final = 256

_SEED_MASK: Final = (1 << 64) - 1
_MAX_SEED: Final = (1 << 63) - 1
_ROWS_PER_USER: Final = 50
_JUST_BELOW: Final = 1 - 1e-12
_SHARES_TOLERANCE: Final = 1e-3

_RANGED: Final = MappingProxyType(
    {
        "rate": ("--rate", "workload.arrivals.rate"),
        "cv": ("--cv", "workload.arrivals.cv"),
        "users": ("--users", "workload.arrivals.users"),
        "time_scale": ("--time-scale", "workload.arrivals.time_scale"),
        "ramp_s": ("--ramp", "workload.arrivals.ramp_s"),
        "ramp_from": ("--ramp-from", "workload.arrivals.ramp_from"),
        "max_in_flight": ("--max-in-flight", "workload.arrivals.max_in_flight"),
        "duration_s": ("--duration", "workload.duration_s"),
        "warm_up_s": ("--warm-up", "workload.warm_up_s"),
        "cool_down_s": ("--cool-down", "workload.cool_down_s"),
        "requests": ("--requests", "workload.max_requests"),
        "seed": ("--seed", "workload.seed"),
        "timeout_s": ("--timeout", "workload.request_timeout_s"),
        "length_scale": ("--length-scale", "workload.length_scale"),
        "max_model_len": ("--max-model-len", "service.max_model_len"),
    }
)
"""Field -> its option, and the study file's key that has its range."""

_OPTION_OF: Final = MappingProxyType(
    {
        "workload.trace": "--trace",
        "workload.format": "--format",
        "workload.profile": "--profile",
        "workload.max_requests": "--requests",
        "workload.length_scale": "--length-scale",
        "workload.arrivals.process": "--arrivals",
        "workload.arrivals": "--rate",
        "workload.arrivals.max_in_flight": "--max-in-flight",
        "workload.sessions": "--sessions",
        "workload.slo_classes": "--slo-class",
        "service.max_model_len": "--max-model-len",
    }
)
"""Key of a study file -> the option that sets it here."""

_TAKES: Final = MappingProxyType(
    {
        ArrivalProcess.POISSON: ("rate",),
        ArrivalProcess.GAMMA: ("rate", "cv"),
        ArrivalProcess.CONSTANT: ("rate",),
        ArrivalProcess.TRACE: (),
        ArrivalProcess.CLOSED: ("users",),
    }
)
"""What each arrival process needs, and takes no others."""

_EXAMPLE: Final = MappingProxyType(
    {"rate": "as --rate 5 (requests per second)", "cv": "as --cv 2 (1 is Poisson)", "users": "as --users 16"}
)


def checked(options: RunOptions) -> RunOptions:
    """The options, if they make sense together, with their addresses normalised.

    Raises:
        UserError: they do not; names the option and the remedy.
    """
    for name, (option, key) in _RANGED.items():
        value = getattr(options, name)
        if value is not None and value not in RANGES[key]:
            raise UserError(f"{value:g} is out of range", key=option, hint=f"a number {RANGES[key]}")
    for option, value, low, high in (
        ("--runs", options.runs, 1, MAX_RUNS),
        ("--senders", options.senders, 0, MAX_SENDERS),
        ("--prefix-tokens", options.prefix_tokens, 0, 10_000_000),
    ):
        if not low <= value <= high:
            raise UserError(f"{value} is out of range", key=option, hint=f"a number from {low} to {high}")
    if options.seed + options.runs > _MAX_SEED:
        raise UserError(
            f"{options.seed} leaves no seeds for {options.runs} runs", key="--seed", hint="choose a smaller one"
        )
    if not options.urls:
        raise UserError("there is no server to load", key="--url", hint="as --url http://127.0.0.1:8000")
    _check_source(options)
    _check_classes(options)
    arrivals_of(options)
    return msgspec.structs.replace(options, urls=tuple(base_url(url) for url in options.urls))


def with_option(error: UserError) -> UserError:
    """The error with the option's name in place of the study file's key."""
    return UserError(
        error.message,
        path=error.path,
        line=error.line,
        key=_OPTION_OF.get(error.key, error.key),
        hint=error.hint,
    )


def base_url(url: str) -> str:
    """A replica's base URL, in one way of writing.

    Raises:
        UserError: not a base URL.
    """
    try:
        return parse_target(url).url
    except UserError as error:
        raise UserError(error.message, key="--url", hint=error.hint) from error


def _check_source(options: RunOptions) -> None:
    sources = {
        "--trace": options.trace is not None,
        "--profile": options.profile is not None,
        "--input-tokens": options.input_tokens is not None or options.output_tokens is not None,
    }
    named = [option for option, given in sources.items() if given]
    if not named:
        raise UserError(
            "there are no requests to send",
            key="--profile",
            hint="give --profile BOT, or --trace FILE, or --input-tokens N and --output-tokens N",
        )
    if len(named) > 1:
        raise UserError(f"{' and '.join(named)} exclude each other", key=named[1], hint="give one of them")
    if sources["--input-tokens"] and (options.input_tokens is None or options.output_tokens is None):
        missing = "--input-tokens" if options.input_tokens is None else "--output-tokens"
        raise UserError("is missing", key=missing, hint="synthetic requests need both lengths")
    if options.profile is not None:
        try:
            profile_named(options.profile)
        except UserError as error:
            raise with_option(error) from error
    if options.prefix_tokens and options.input_tokens is None:
        raise UserError("is for synthetic requests", key="--prefix-tokens", hint="use it with --input-tokens")


def _check_classes(options: RunOptions) -> None:
    classes = options.slo_classes
    names = [each.name for each in classes]
    if len(set(names)) < len(names):
        raise UserError(f"a name is there twice: {', '.join(names)}", key="--slo-class", hint="give each its own")
    if len(classes) > SLO_CLASSES:
        raise UserError(f"{len(classes)} are too many", key="--slo-class", hint=f"at most {SLO_CLASSES}")
    total = sum(each.share for each in classes)
    if classes and abs(total - 1.0) > _SHARES_TOLERANCE:
        raise UserError(f"the shares add up to {total:g}, not 1", key="--slo-class", hint="as share=0.8 and share=0.2")


def arrivals_of(options: RunOptions) -> Arrivals:
    """The arrival process asked for; where none is named, what `users`, `rate` and `cv` imply.

    Raises:
        UserError: it lacks what it needs, or was given what it does not take.
    """
    process = options.arrivals or _implied(options)
    for name in ("rate", "cv", "users"):
        given = getattr(options, name) is not None
        needed = name in _TAKES[process]
        if needed and not given:
            raise UserError(f"{process.value} arrivals need it", key=f"--{name}", hint=_EXAMPLE[name])
        if given and not needed:
            raise UserError(f"{process.value} arrivals take none", key=f"--{name}", hint="leave it out")
    if process is ArrivalProcess.TRACE and options.trace is None:
        raise UserError(
            "only a trace has arrival times to replay", key="--arrivals", hint="use --rate R, or --trace FILE"
        )
    if process is not ArrivalProcess.TRACE and options.time_scale != 1.0:
        raise UserError("is for --arrivals trace", key="--time-scale", hint="leave it out")
    if process is ArrivalProcess.TRACE and options.ramp_s:
        raise UserError("a replay has the trace's own times", key="--ramp", hint="leave it out")
    if options.ramp_from and not options.ramp_s:
        raise UserError("is the start of a ramp", key="--ramp-from", hint="give its length with --ramp S")
    if process is ArrivalProcess.CLOSED and options.max_in_flight is not None:
        raise UserError(
            "closed arrivals take none", key="--max-in-flight", hint="leave it out: users are one request each"
        )
    return Arrivals(
        process=process,
        rate=options.rate,
        cv=options.cv,
        users=options.users,
        time_scale=options.time_scale,
        ramp_s=options.ramp_s,
        ramp_from=options.ramp_from,
        max_in_flight=options.max_in_flight,
    )


def _implied(options: RunOptions) -> ArrivalProcess:
    if options.users is not None:
        return ArrivalProcess.CLOSED
    if options.cv is not None:
        return ArrivalProcess.GAMMA
    if options.rate is not None:
        return ArrivalProcess.POISSON
    replay = ", or --arrivals trace to replay the trace's own times" if options.trace is not None else ""
    raise UserError(
        "is missing", key="--rate", hint=f"as --rate 5 (requests per second), or --users 16 for a closed loop{replay}"
    )


def workload_of(options: RunOptions, rows: Sequence[TraceRow] = ()) -> Workload:
    """The workload of checked options.

    Args:
        options: see `checked`.
        rows: of the trace; only a replay without `duration_s` looks at them.
    """
    arrivals = arrivals_of(options)
    return Workload(
        profile=options.profile,
        trace=options.trace,
        format=options.format,
        select=options.select,
        length_scale=options.length_scale,
        max_requests=options.requests,
        arrivals=arrivals,
        duration_s=_duration_s(options, arrivals, rows),
        warm_up_s=options.warm_up_s,
        request_timeout_s=options.timeout_s,
        drain_s=options.timeout_s,
        seed=options.seed,
        cool_down_s=options.cool_down_s,
        sessions=options.sessions,
        slo_classes=options.slo_classes,
    )


def _duration_s(options: RunOptions, arrivals: Arrivals, rows: Sequence[TraceRow]) -> float:
    """As asked; else what so many requests take at the rate; else one lap of the trace; else DURATION_S."""
    if options.duration_s is not None:
        return options.duration_s
    if options.requests is not None and arrivals.rate is not None:
        # Just below, so that a constant rate does not round up to one request more.
        return options.requests / arrivals.rate * _JUST_BELOW
    if arrivals.process is ArrivalProcess.TRACE:
        kept = rows[: options.requests]
        starting = first_turns(kept) if options.sessions else kept
        times = [row.arrived_s for row in starting if row.arrived_s is not None]
        span = (times[-1] - times[0]) * arrivals.time_scale if len(times) > 1 else 0.0
        if span > 0:
            # The trace would begin anew after its mean gap.
            lap = (span + span / (len(times) - 1)) * _JUST_BELOW
            around = options.warm_up_s + options.cool_down_s
            return lap - around if lap > around else lap
    return DURATION_S


def made_rows(options: RunOptions) -> tuple[TraceRow, ...]:
    """Rows of a profile, or synthetic ones; a trace's are read elsewhere. The same seed gives the same rows.

    Raises:
        UserError: no such profile.
    """
    workload = workload_of(options)
    if options.profile is not None:
        return profile_rows(workload)
    inputs, outputs = options.input_tokens, options.output_tokens
    if inputs is None or outputs is None:
        raise UserError("there are no requests to make", key="--input-tokens", hint="give both lengths")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(options.seed & _SEED_MASK)))
    n = options.requests or _rows_needed(workload)
    prefix = options.prefix_tokens
    if prefix >= inputs.low and prefix:
        raise UserError(
            f"{prefix} tokens leave nothing of the shortest input, {inputs.low}",
            key="--prefix-tokens",
            hint="make it shorter",
        )
    rows = [
        TraceRow(input_tokens=i, output_tokens=o, blocks=(0,) if prefix else (), block_tokens=prefix)
        for i, o in zip(_drawn(inputs, n, rng), _drawn(outputs, n, rng), strict=True)
    ]
    shared = f", {prefix} of them shared" if prefix else ""
    note = f"synthetic: {n} requests with {_shown(inputs)} input tokens{shared} and {_shown(outputs)} output tokens"
    return Rows(rows, (note,))


def _rows_needed(workload: Workload) -> int:
    arrivals = workload.arrivals
    if arrivals.rate is None:
        wanted = float((arrivals.users or 1) * _ROWS_PER_USER)
    else:
        wanted = arrivals.rate * (workload.warm_up_s + workload.duration_s + workload.cool_down_s)
    return math.ceil(min(max(wanted, PROFILE_ROWS_MIN), PROFILE_ROWS_MAX))


def _drawn(span: Span, n: int, rng: np.random.Generator) -> list[int]:
    drawn: list[int] = rng.integers(span.low, span.high, n, endpoint=True).tolist()
    return drawn


def _shown(span: Span) -> str:
    return f"{span.low}" if span.low == span.high else f"{span.low} to {span.high}"


def plan_of(options: RunOptions, workload: Workload, *, model: str, max_model_len: int | None, folder: str) -> LoadPlan:
    """The plan of one load process.

    Args:
        options: see `checked`.
        workload: resolved.
        model: value of the requests' "model" field.
        max_model_len: rows were clipped to it; None if unknown.
        folder: absolute path of the folder that plan, rows, spool and audit are in.
    """
    inside = PurePath(folder)
    return LoadPlan(
        targets=options.urls,
        model=model,
        prompt_mode=options.prompt,
        token_low=options.vocab.low,
        token_high=options.vocab.high + 1,
        ignore_eos=options.ignore_eos,
        max_model_len=max_model_len or 0,
        workload=workload,
        rows_path=str(inside / "rows.jsonl.gz"),
        run_seeds=tuple(options.seed + run for run in range(options.runs)),
        limits=options.limits,
        spool_path=str(inside / "spool"),
        audit_path=str(inside / "audit.json"),
        endpoint=options.endpoint,
        headers=options.headers,
        api_key_env=options.api_key_env,
        proxies=options.proxy,
        ca_path=options.ca_path,
        verify_tls=not options.insecure,
        senders=options.senders,
        priority=options.priority,
        cpus=options.cpus,
    )
