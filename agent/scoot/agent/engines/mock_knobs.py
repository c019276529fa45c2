"""The mock engine's command line: the engine's flags with vLLM's names, and the knobs that set how it behaves.

A knob is given as `--mock.NAME=VALUE` (a study writes `mock_NAME = VALUE` under [service.options]), or all of them as
one JSON object with `--mock-json='{...}'`. Values of list knobs are JSON.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, TypeVar

import msgspec

from scoot.agent.engines.mock_rules import Condition, Value
from scoot.wire.errors import UserError

LOAD_NAMES: Final = frozenset({"running", "waiting", "kv_tokens", "kv_share", "requests"})
"""Names that conditions under load may use besides the flags: sequences running and waiting, tokens in the KV cache,
its share in use (0..1), completion requests so far."""

T = TypeVar("T", bound=msgspec.Struct)

_PREFIXES: Final = ("--mock.", "--mock-")


class EngineFlags(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The engine's flags. Those that change its speed are explained in scoot.agent.engines.mock_model.

    Attributes:
        port, host, model, served_model_name: as with any server; the model is a name only.
        max_model_len: prompt and output of a request, tokens.
        max_num_seqs: sequences computed together.
        max_num_batched_tokens: tokens computed in one step.
        block_size: tokens of a block of the KV cache.
        enable_chunked_prefill: prompts share their steps with decoding; without, they are computed whole, in between.
        enable_prefix_caching: leading blocks of a prompt seen before are not computed again.
        tensor_parallel_size: devices per replica.
        gpu_memory_utilization: scales the KV cache, 0.9 is as the knob says.
        dtype, kv_cache_dtype, scheduling_policy, seed, enforce_eager, async_scheduling, disable_log_requests: accepted,
            without effect.
    """

    port: int = 8000
    host: str = "127.0.0.1"
    model: str = "mock"
    served_model_name: str = ""
    max_model_len: int = 4096
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    block_size: int = 16
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = True
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    scheduling_policy: str = "fcfs"
    seed: int = 0
    enforce_eager: bool = False
    async_scheduling: bool = False
    disable_log_requests: bool = False


class CrashAt(StrEnum):
    """When a rule strikes: reading the flags, after `start_delay_s`, or under load."""

    ARGS = "args"
    START = "start"
    LOAD = "load"


class CrashRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A hidden constraint: the engine dies where a condition holds.

    Attributes:
        when: condition over the flags (and over LOAD_NAMES, at "load"), as "block_size % 32 != 0".
        at: see CrashAt.
        after_requests: at "load": not before so many completion requests.
        log: lines of the error, root cause first; a general last line always follows, as real engines write one.
        exit_code: of the process.
    """

    when: str
    at: CrashAt = CrashAt.START
    after_requests: int = 1
    log: tuple[str, ...] = ()
    exit_code: int = 1


class Fault(StrEnum):
    """What is wrong with a stream, from `fault_after_tokens` tokens on.

    MALFORMED: broken JSON. ERROR_OBJECT: an error under HTTP 200. RESET: TCP reset. CLOSE: the connection is closed.
    END: the response ends properly, without an end of its answer. NO_DONE: [DONE] is missing. EMPTY_FIRST, ROLE_ONLY:
    a first chunk without text, at once. LONG_LINE: a line of 10 MB. STALL: nothing comes any more (for slow tokens see
    `time_scale`). NEVER_ENDING: more
    tokens than asked for, without end. RAGGED: no space after "data:", CRLF, comments, event and id fields.
    SPLIT: every event in two segments. TOO_FEW: the answer ends there as if whole.
    """

    NONE = "none"
    MALFORMED = "malformed"
    ERROR_OBJECT = "error_object"
    RESET = "reset"
    CLOSE = "close"
    END = "end"
    NO_DONE = "no_done"
    EMPTY_FIRST = "empty_first"
    ROLE_ONLY = "role_only"
    LONG_LINE = "long_line"
    STALL = "stall"
    NEVER_ENDING = "never_ending"
    RAGGED = "ragged"
    SPLIT = "split"
    TOO_FEW = "too_few"


class Knobs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the mock behaves. Times in the unit of their suffix.

    Attributes:
        base_ms, decode_us, prefill_us, context_us, block_us, tp_overhead_ms, kv_tokens: see mock_model.Costs.
        time_scale: every step lasts so many times as long.
        start_delay_s: until it listens.
        ready_never: it listens, and /health answers 503 for ever.
        exit_on_start: it logs `exit_message` and exits with `exit_code` after the start delay.
        rules: hidden constraints.
        oom_when: condition over flags and LOAD_NAMES; where it holds under load, the engine dies for lack of memory.
        crash_after_requests: it dies with `exit_code` on receiving so many completion requests; 0 never.
        hang_after_requests: no step is computed any more after so many; /health still answers 200; 0 never.
        fault, fault_after_tokens, fault_share: see Fault; the share of the streams, drawn from `seed`.
        http_status, http_share: answer this share of completion requests with this status.
        tokens_per_chunk: tokens gathered into one event.
        empty_every: every so many tokens have an empty text (half a character); 0 none.
        natural_tokens: without `ignore_eos` answers end after so many tokens; 0 only at max_tokens.
        usage: tell token counts, where they are asked for.
        keep_alive_s: an idle connection is closed after its answer; 0 never.
        ignores_sigterm: only SIGKILL ends it.
        stop_delay_s: between SIGTERM and its end.
        double_fork_child: leaves a process in its own session behind, holding on to stdout and memory.
        leak_memory_mb: memory held from the start.
        seed: of every draw.
    """

    base_ms: float = 4.0
    decode_us: float = 60.0
    prefill_us: float = 25.0
    context_us: float = 0.02
    block_us: float = 0.3
    tp_overhead_ms: float = 0.8
    kv_tokens: int = 65_536
    time_scale: float = 1.0
    start_delay_s: float = 0.0
    ready_never: bool = False
    exit_on_start: bool = False
    exit_code: int = 1
    exit_message: str = "RuntimeError: the device is not usable"
    rules: tuple[CrashRule, ...] = ()
    oom_when: str = ""
    crash_after_requests: int = 0
    hang_after_requests: int = 0
    fault: Fault = Fault.NONE
    fault_after_tokens: int = 2
    fault_share: float = 1.0
    http_status: int = 429
    http_share: float = 0.0
    tokens_per_chunk: int = 1
    empty_every: int = 0
    natural_tokens: int = 0
    usage: bool = True
    keep_alive_s: float = 5.0
    ignores_sigterm: bool = False
    stop_delay_s: float = 0.0
    double_fork_child: bool = False
    leak_memory_mb: int = 0
    seed: int = 0


class CommandLine(msgspec.Struct, frozen=True):
    """A parsed command line."""

    flags: EngineFlags
    knobs: Knobs


def parse_command_line(arguments: Sequence[str]) -> CommandLine:
    """Flags and knobs.

    Raises:
        UserError: an unknown flag, a value of the wrong type or out of range.
    """
    flags: dict[str, str | bool] = {}
    knobs: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            raise UserError(f"unrecognized arguments: {argument}")
        word, equals, value = argument.partition("=")
        is_knob = word.startswith(_PREFIXES)
        known: Mapping[str, object] = _types(Knobs if is_knob else EngineFlags)
        name = (word[7:] if is_knob else word[2:]).replace("-", "_")
        if not equals and name not in known and name.removeprefix("no_") in known:
            name, value, equals = name.removeprefix("no_"), "false", "="
        elif not equals and known.get(name) is bool:
            value, equals = "true", "="
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"argument --{name.replace('_', '-')}: expected one argument")
            value = rest.pop(0)
        if is_knob and name == "json":
            knobs.update(_decode(value, dict[str, Any], "--mock-json"))
        elif name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UserError(f"unrecognized arguments: {argument}", hint=f"did you mean {near[0]}?" if near else "")
        else:
            (knobs if is_knob else flags)[name] = value
    # A list knob on the command line is JSON; in --mock-json it is a list already.
    knobs = {
        name: _decode(value, Any, f"mock.{name}") if name == "rules" and isinstance(value, str) else value
        for name, value in knobs.items()
    }
    line = CommandLine(_convert(flags, EngineFlags, "--"), _convert(knobs, Knobs, "--mock."))
    _check(line)
    return line


def flag_values(flags: EngineFlags) -> dict[str, Value]:
    """The flags as names and values, for conditions and for /mock/config."""
    values: dict[str, Value] = msgspec.to_builtins(flags)
    return values


class Rules:
    """The crash rules of a command line, parsed."""

    def __init__(self, line: CommandLine) -> None:
        names = frozenset(flag_values(line.flags))
        self._rules = tuple(
            (
                rule,
                Condition(rule.when, names | LOAD_NAMES if rule.at is CrashAt.LOAD else names, key=f"mock.rules[{i}]"),
            )
            for i, rule in enumerate(line.knobs.rules)
        )
        oom = line.knobs.oom_when
        self._oom = Condition(oom, names | LOAD_NAMES, key="mock.oom_when") if oom else None
        self.under_load = self._oom is not None or any(rule.at is CrashAt.LOAD for rule, _ in self._rules)
        """Whether anything can strike under load."""

    def struck(self, at: CrashAt, values: Mapping[str, Value]) -> CrashRule | None:
        """The first rule that strikes at this point, None if none does."""
        for rule, condition in self._rules:
            if rule.at is at and condition.holds(values):
                if at is CrashAt.LOAD and int(values["requests"]) < rule.after_requests:
                    continue
                return rule
        return None

    def out_of_memory(self, values: Mapping[str, Value]) -> bool:
        """Whether `oom_when` holds."""
        return self._oom is not None and self._oom.holds(values)


def _types(kind: type[msgspec.Struct]) -> dict[str, object]:
    return {field.name: field.type for field in msgspec.structs.fields(kind)}


def _decode(text: str, kind: Any, key: str) -> Any:  # noqa: ANN401 - JSON of the kind asked for
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UserError(f"is not JSON as expected: {error}", key=key) from error


def _convert(data: Mapping[str, Any], kind: type[T], prefix: str) -> T:
    try:
        return msgspec.convert(data, kind, strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f"argument {prefix}{error}") from error


def _check(line: CommandLine) -> None:
    flags, knobs = line.flags, line.knobs
    for name in ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "block_size", "tensor_parallel_size"):
        if getattr(flags, name) < 1:
            raise UserError(f"argument --{name.replace('_', '-')}: must be at least 1")
    if not 0 < flags.gpu_memory_utilization <= 1:
        raise UserError("argument --gpu-memory-utilization: must be above 0 and at most 1")
    for name in ("fault_share", "http_share"):
        if not 0 <= getattr(knobs, name) <= 1:
            raise UserError(f"argument --mock.{name}: must be within 0 and 1")
    for name in ("kv_tokens", "tokens_per_chunk", "time_scale"):
        if not getattr(knobs, name) > 0:
            raise UserError(f"argument --mock.{name}: must be above 0")
    Rules(line)
