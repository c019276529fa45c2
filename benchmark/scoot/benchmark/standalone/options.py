"""What the user of the stand-alone tool asks for, as values, and how its texts become them. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from scoot.benchmark.plan import Endpoint, Priority, PromptMode
from scoot.wire.errors import UserError
from scoot.wire.spec import ArrivalProcess, Limits, Selection, SloClass

LATENCIES: Final = MappingProxyType({"ttft": "ttft_ms", "tpot": "tpot_ms", "e2el": "e2e_ms"})
"""Latencies of a request that can have an SLO -> their field of SloClass."""

ALL: Final = "all"
"""Name of the class of all requests, where there is one only."""

_MS: Final = MappingProxyType({"us": 1e-3, "ms": 1.0, "s": 1e3, "": 1.0})
_QUANTITY: Final = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(us|ms|s|)")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LIMITS: Final = (
    "lateness_p99_ms",
    "client_cpu_share",
    "clock_step_ms",
    "min_requests",
    "run_queue_share",
    "achieved_share",
    "merged_share",
)
_MAX_TOKEN: Final = 1 << 32
_MAX_CPU: Final = 4096


class Span(msgspec.Struct, frozen=True):
    """Whole numbers from `low` to `high`, both included."""

    low: int
    high: int


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """One run as asked for. Durations are seconds, rates requests per second, lengths tokens.

    Attributes:
        urls: base URLs of the replicas.
        model: "" asks the server.
        trace, profile, input_tokens with output_tokens: where the requests come from; exactly one.
        prefix_tokens: shared start of synthetic prompts.
        format, select, length_scale: of a trace (select and length_scale of a profile as well).
        arrivals: None: what the other options imply.
        rate, cv, users, time_scale, ramp_s, ramp_from, max_in_flight: as in scoot.wire.spec.Arrivals.
        duration_s: None: what `requests` or the trace imply, else a minute.
        warm_up_s, cool_down_s: load before and after it, not measured.
        sessions: rows are turns of conversations.
        requests: distinct requests.
        seed, runs: run k is drawn from seed + k.
        timeout_s: a request unfinished so long after its intended start has failed.
        max_model_len: None: what the server says.
        check: whether the server is asked before the load.
        slo_classes: what requests are promised; empty for nothing.
        limits: when the measurement is not believed.
    """

    urls: tuple[str, ...]
    model: str = ""
    trace: str | None = None
    profile: str | None = None
    input_tokens: Span | None = None
    output_tokens: Span | None = None
    prefix_tokens: int = 0
    format: str = "auto"
    select: Selection = Selection.ALL
    length_scale: float = 1.0
    arrivals: ArrivalProcess | None = None
    rate: float | None = None
    cv: float | None = None
    users: int | None = None
    time_scale: float = 1.0
    ramp_s: float = 0.0
    ramp_from: float = 0.0
    max_in_flight: int | None = None
    duration_s: float | None = None
    warm_up_s: float = 0.0
    cool_down_s: float = 0.0
    sessions: bool = False
    requests: int | None = None
    seed: int = 0
    runs: int = 1
    timeout_s: float = 300.0
    endpoint: Endpoint = Endpoint.COMPLETIONS
    prompt: PromptMode = PromptMode.TOKEN_IDS
    vocab: Span = Span(16, 31_999)
    ignore_eos: bool = True
    headers: tuple[tuple[str, str], ...] = ()
    api_key_env: str = ""
    ca_path: str = ""
    insecure: bool = False
    proxy: bool = False
    senders: int = 0
    priority: Priority = Priority.NORMAL
    cpus: tuple[int, ...] = ()
    max_model_len: int | None = None
    check: bool = True
    slo_classes: tuple[SloClass, ...] = ()
    limits: Limits = Limits()


def parse_span(text: str, *, key: str, low: int = 1, high: int = 10_000_000) -> Span:
    """As "512", or "128:1024" for a range, both ends included.

    Raises:
        UserError: neither, or outside of `low`..`high`.
    """
    first, colon, second = text.partition(":")
    try:
        span = Span(int(first), int(second if colon else first))
    except ValueError:
        raise UserError(
            f"{text!r} is no number of tokens", key=key, hint="write 512, or 128:1024 for a range"
        ) from None
    if not low <= span.low <= span.high <= high:
        raise UserError(f"{text} is not within {low}:{high}", key=key, hint="the smaller number comes first")
    return span


def parse_vocab(text: str, *, key: str) -> Span:
    """As "LOW:HIGH": token ids of prompts, LOW included, HIGH not, as a span of ids.

    Raises:
        UserError: not of that form, or empty.
    """
    first, _, second = text.partition(":")
    try:
        low, high = int(first), int(second)
    except ValueError:
        raise UserError(f"{text!r} is no range of token ids", key=key, hint="write LOW:HIGH, as 16:32000") from None
    if not 0 <= low < high <= _MAX_TOKEN:
        raise UserError(f"no token id is in {text}", key=key, hint="write LOW:HIGH with LOW below HIGH, as 16:32000")
    return Span(low, high - 1)


def parse_slos(texts: Sequence[str], *, key: str) -> tuple[SloClass, ...]:
    """Several of "ttft=500ms,tpot=50ms,e2el=10s", together one class of all requests. Without a unit: milliseconds.

    Raises:
        UserError: an unknown latency, one named twice, or no duration.
    """
    if not texts:
        return ()
    return (_slo_class(ALL, ",".join(texts), key=key),)


def parse_slo_classes(texts: Sequence[str], *, key: str) -> tuple[SloClass, ...]:
    """Several of "NAME:share=0.8,ttft=500ms,tpot=50ms", a class each.

    Raises:
        UserError: not of that form. Names and shares are checked where the workload is.
    """
    classes: list[SloClass] = []
    for text in texts:
        name, colon, rest = text.partition(":")
        if not colon or not name.strip():
            raise UserError(f"{text!r} has no name", key=key, hint="write chat:share=0.8,ttft=500ms,tpot=50ms")
        classes.append(_slo_class(name.strip(), rest, key=key))
    return tuple(classes)


def _slo_class(name: str, text: str, *, key: str) -> SloClass:
    values: dict[str, float] = {}
    for item in (part.strip() for part in text.split(",")):
        latency, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise UserError(f"{item!r} is no objective", key=key, hint="write ttft=500ms,tpot=50ms")
        field = LATENCIES.get(latency, latency if latency == "share" and name != ALL else "")
        if not field:
            raise UserError(f"unknown latency {latency!r}", key=key, hint=f"one of {', '.join(LATENCIES)}")
        match = _QUANTITY.fullmatch(value)
        if match is None or not float(match[1]) > 0 or (field == "share" and match[2]):
            what = "share, as 0.8" if field == "share" else "duration, as 500ms or 1.5s"
            raise UserError(f"{value!r} is no {what}", key=key, hint="write ttft=500ms,tpot=50ms")
        if field in values:
            raise UserError(f"{latency} is named twice", key=key, hint="remove one")
        values[field] = float(match[1]) * (1.0 if field == "share" else _MS[match[2]])
    return SloClass(name=name, **values)


def parse_header(text: str, *, key: str) -> tuple[str, str]:
    """As "Name: value".

    Raises:
        UserError: not of that form, or with characters no header can have.
    """
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not _HEADER_NAME.fullmatch(name):
        raise UserError(f"{text!r} is no header", key=key, hint='write "Name: value"')
    if not (value.isprintable() and value.isascii()):
        raise UserError(f"the header {name} has characters that cannot be sent", key=key, hint="use ASCII only")
    return name, value


def parse_cpus(text: str, *, key: str) -> tuple[int, ...]:
    """As "2,4-7": CPU numbers, in the order given.

    Raises:
        UserError: not of that form.
    """
    cpus: list[int] = []
    for item in text.split(","):
        first, dash, last = item.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"{text!r} is no list of CPUs", key=key, hint="write 2,4-7")
        low, high = int(first), int(last or first)
        if not low <= high <= _MAX_CPU:
            raise UserError(f"{item.strip()!r} is no range of CPUs", key=key, hint="write 2,4-7")
        cpus += range(low, high + 1)
    if len(set(cpus)) < len(cpus):
        raise UserError(f"{text!r} names a CPU twice", key=key, hint="remove one")
    return tuple(cpus)


def parse_rates(text: str, *, key: str) -> tuple[float, ...] | None:
    """As "1,2,4,8": rates in ascending order; None for "auto".

    Raises:
        UserError: neither.
    """
    if text.strip() == "auto":
        return None
    try:
        rates = sorted(float(item) for item in text.split(","))
    except ValueError:
        raise UserError(f"{text!r} are no rates", key=key, hint="write 1,2,4,8, or auto") from None
    if not all(math.isfinite(rate) and rate > 0 for rate in rates):
        raise UserError(f"{text} has a rate that is not positive", key=key, hint="write 1,2,4,8, or auto")
    if len(set(rates)) < len(rates):
        raise UserError(f"{text} has a rate twice", key=key, hint="remove one")
    return tuple(rates)


def parse_limits(texts: Sequence[str], *, key: str) -> Limits:
    """Several of "NAME=VALUE" as limits of validity; others keep their defaults.

    Raises:
        UserError: an unknown limit, or no number.
    """
    limits = Limits()
    for text in texts:
        name, _, value = (part.strip() for part in text.partition("="))
        if name not in _LIMITS:
            raise UserError(f"unknown limit {name!r}", key=key, hint=f"NAME=VALUE with one of {', '.join(_LIMITS)}")
        try:
            number = int(value) if name == "min_requests" else float(value)
        except ValueError:
            raise UserError(f"{value!r} is no number for {name}", key=key, hint=f"as {name}=20") from None
        limits = msgspec.structs.replace(limits, **{name: number})
    return limits
