"""From an engine's log and end to a reason and the one line that says why. Pure.

Exit codes hide more than they tell (an engine whose core was killed exits 0), and the last line of a log is nearly
always the generic one ("Engine core initialization failed. See root cause above"). So the text decides: the *first*
error that an engine-core or worker process logged, else the last exception that is not generic. A process that was
killed says nothing at all: whether memory was the reason, the kernel's own count of such kills tells, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Protocol

from scoot.benchmark.validity import noise
from scoot.wire import limits
from scoot.wire.measurement import LoadAudit
from scoot.wire.reasons import Reason
from scoot.wire.spec import Limits

_SIGKILL: Final = 9
_SCAN_CHARS: Final = 4 * 1024 * 1024
"""A longer log is judged by its beginning and its end."""
_LINE_CHARS: Final = 8 * 1024

_EXCEPTION: Final = re.compile(
    r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Timeout|Failure)\b(?::|$)"
)
_FATAL: Final = re.compile(
    r"^(?:terminate called|Fatal Python error|Segmentation fault|double free|free\(\): |malloc\(\): |Aborted\b)|"
    r"std::bad_alloc|CUDA error: |NCCL error|panicked at|^Subprocess \S+ \(pid=\d+\) crashed with exit code|"
    r"^(?:ERROR:\s+)?\[Errno \d+\] |^/\S+: (?:No module named|Error while finding module specification)|"
    r"cudaMalloc failed|(?:failed|unable) to allocate\b|invalid magic characters|error loading model|"
    r"failed to open GGUF|failed to initialize the context|couldn't bind HTTP server socket"
)
"""What native code, uvicorn and a bare interpreter say before they end; believed only when no exception is there."""
_PREFIX: Final = re.compile(
    r"^(?:\d+\.\d\d\.\d{3}\.\d{3} [A-Z] )?(?:\[rank\d+\]:\s)?"
    r"(?:\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?: [A-Z]+\d+)*\]\s)?"
    r"(?:\((?P<who>[A-Za-z_]+)\S*\s[^)]*\)\s+)?"
    r"(?:(?P<level>[A-Z]+)\s+\d\S*\s\S+\s+(?:\[[^\]]*\]|[^\]\s]+:\d+\])\s?)?"
)
"""llama.cpp's clock, torch's rank, SGLang's clock and rank, vLLM's process name (newer releases) and logging head
(older releases leave out its first bracket); each may be missing: it always matches."""
_INNER: Final = frozenset(
    {
        "EngineCore",
        "EngineCore_DP",
        "RayWorkerWrapper",
        "VllmWorker",
        "VllmWorkerProcess",
        "Worker",
        "Worker_PP",
        "Worker_TP",
    }
)
"""Names under which vLLM's inner processes log, trailing digits and underscores left out."""
_MILD: Final = frozenset({"DEBUG", "INFO", "WARNING"})
_GENERIC: Final = re.compile(
    r"Engine core initialization failed|please check the stack trace above|See stack trace for root cause|"
    r"the root cause is above|"
    r"scheduler died during initialization|Initialization failed\. Please see the error messages|"
    r"Failed to create llama_context|Failed to load model from file|"
    r"EngineDeadError|EngineCore encountered an issue|Worker proc \S+ died|WorkerProc initialization failed|"
    r"^SystemExit|^KeyboardInterrupt|^(?:asyncio\.)?(?:exceptions\.)?CancelledError"
)
_CHILD_FAILED: Final = re.compile(r"It usually means (?:one|the) child failed")
"""SGLang kills itself with SIGKILL when one of its processes failed; nobody was short of memory then."""
_PYDANTIC: Final = re.compile(r"^(?:(?:\w+\.)*ValidationError: )?\d+ validation errors? for ")
_PARSER: Final = re.compile(
    r"^\S+(?: \S+)?: error: (?=unrecognized arguments|argument |the following arguments are required|"
    r"ambiguous option|invalid choice|one of the arguments)|"
    r"^Error: (?=No such option|Invalid value for|Missing |Got unexpected extra argument|Option .* requires)|"
    r"^(?=error: invalid argument: |error while handling argument )"
)
"""Before the complaint of an argument parser: argparse, click, llama.cpp's own."""
_REFUSED: Final = re.compile(
    r"^(?:\w+\.)*(?:TypeError: .*(?:unexpected keyword argument|got an unexpected)|ArgumentError\b|UsageError\b|"
    r"ValueError: Unsupported (?:attention implementation|dtype|quantization method)\b)"
)
_CHECKING: Final = re.compile(
    r'^\s+File "[^"]*/(?:sglang/srt/(?:server_args|arg_groups/\w+)|vllm/engine/arg_utils)\.py", line \d+, in '
)
"""A traceback's way through an argument check, whose exceptions are plain ones."""
_PAST_CHECKS: Final = re.compile(r"\bserver_args=|Initializing a \S+ LLM engine")
"""What SGLang and vLLM log once their argument checks are behind them."""
_OOM: Final = re.compile(
    r"torch\.(?:cuda\.)?OutOfMemoryError|CUDA out of memory|CUDA error: out of memory|HIP out of memory|"
    r"No available memory for the cache blocks|leave no (?:GPU )?memory for the KV cache|"
    r"KV cache is needed, which is larger than the available|"
    r"Available memory on node \S+ \([^)]*\)[^\n]{0,80} is less than|is less than desired GPU memory utilization|"
    r"^(?:\w+\.)*MemoryError\b|Cannot allocate memory|std::bad_alloc|cudaErrorMemoryAllocation|"
    r"OutOfMemory|out of memory|oom-kill|Killed process \d+|DefaultCPUAllocator: can't allocate|"
    r"max seq len .{0,40}is larger than the maximum number of tokens that can be stored in KV cache|"
    r"[Nn]ot enough memory|insufficient GPU memory|scheduler died during initialization \(exit code: -9\)|"
    r"cudaMalloc failed|(?:failed|unable) to allocate\b",
)
_GPU_FAULT: Final = re.compile(
    r"uncorrectable (?:ECC|NVLink) error|ECCUncorrectable|fallen off the bus|GPU is lost|\bXid\b"
)
"""A GPU that is ill."""
_GPU: Final = re.compile(
    r"CUDA-capable devices? ?(?:\(s\) )?(?:is/)?are busy|CUDA unknown error|CUDA error: unknown error|"
    r"[Ss]ystem not yet initialized|Failed to initialize NVML"
)
"""A GPU that is somebody else's, or not ready."""
_NO_GPU: Final = re.compile(
    r"no CUDA-capable device|No CUDA GPUs are available|Found no NVIDIA driver|Failed to infer device type|"
    r"NVIDIA driver on your system is too old|driver version is insufficient"
)
"""A host this build of the engine cannot run on."""
_PORT: Final = re.compile(r"Errno 98|[Aa]ddress already in use|EADDRINUSE|couldn't bind HTTP server socket")
_DISK: Final = re.compile(r"Errno 28|No space left on device|ENOSPC")
_MODEL: Final = re.compile(
    r"HFValidationError|RepositoryNotFoundError|LocalEntryNotFoundError|OfflineModeIsEnabled|"
    r"does not appear to have (?:a|any) file|Cannot find any model weights|Invalid repository ID or local directory|"
    r"(?:Can't|couldn't|Couldn't) (?:load|connect|find) .{0,80}(?:config|model|tokenizer|huggingface)|"
    r"is not a local folder and is not a valid model identifier|FileNotFoundError.{0,200}config\.json|"
    r"No such model|[Mm]odel path .{0,200}does not exist|Repo id must be in the form|"
    r"invalid magic characters|failed to open GGUF|error loading model: (?!unable to allocate)"
)
_MISSING_ENGINE: Final = re.compile(
    r"No module named '?(?:vllm|scoot|tensorrt_llm|transformers|sglang|llama_cpp)\b|"
    r"Error while finding module specification for"
)

_Known = tuple[tuple[re.Pattern[str], Reason], ...]

_AT_ANY_TIME: Final[_Known] = (
    (_DISK, Reason.DISK_FULL),
    (_GPU_FAULT, Reason.GPU_FAULT),
    (_GPU, Reason.GPU_BUSY),
    (_OOM, Reason.ENGINE_OOM),
)
_AT_START: Final[_Known] = (
    (_PORT, Reason.PORT_TAKEN),
    (_DISK, Reason.DISK_FULL),
    (_MISSING_ENGINE, Reason.ENGINE_MISSING),
    (_NO_GPU, Reason.ENGINE_MISSING),
    (_MODEL, Reason.MODEL_MISSING),
    (_GPU_FAULT, Reason.GPU_FAULT),
    (_GPU, Reason.GPU_BUSY),
    (_OOM, Reason.ENGINE_OOM),
)
"""What a root-cause line can say, in the order in which it is believed."""


class Exit(Protocol):
    """How a process ended (scoot.agent.host.process.ExitStatus)."""

    @property
    def code(self) -> int | None:
        """Exit code, None if a signal ended it."""
        ...

    @property
    def signal(self) -> int | None:
        """Number of the signal that ended it."""
        ...

    @property
    def by_us(self) -> bool:
        """Whether it ended after a stop was asked for."""
        ...


def classify_start(
    exit_status: Exit | None, *, timed_out: bool, log_text: str, engine: str, oom_kills: int | None = None
) -> tuple[Reason, str]:
    """Why an engine did not become ready, and the line that says so.

    Args:
        exit_status: of its first process, None while it runs.
        timed_out: the start's deadline passed.
        log_text: beginning and end of its log.
        engine: the adapter's name, for the line when the log says nothing.
        oom_kills: processes of this host the kernel killed for lack of memory meanwhile, None if nobody could tell.

    Returns:
        A reason, and one line of at most limits.STRING_CHARS characters, never empty.
    """
    lines = _lines(log_text)
    refused, cause = _find_cause(lines)
    by_text = _reason_of(cause, _AT_START) or (Reason.ENGINE_REJECTED_ARGS if refused else None)
    if by_text is not None:
        return by_text, _one_line(cause)
    if exit_status is not None and oom_kills and not _telling(cause):
        return Reason.ENGINE_OOM, _one_line(_starved_text(engine, cause, oom_kills))
    if _killed(exit_status, lines):
        return Reason.ENGINE_EXITED_ON_START, _one_line(_killed_text(engine, cause, oom_kills))
    if exit_status is None and timed_out:
        last = cause or _last(lines)
        return Reason.ENGINE_START_TIMEOUT, _one_line(f"{engine} was not ready in time; last said: {last}")
    how = _ending(exit_status)
    return Reason.ENGINE_EXITED_ON_START, _one_line(cause or f"{engine} {how} and logged no cause: {_last(lines)}")


def classify_load(
    exit_status: Exit | None,
    *,
    hung: bool,
    failed_share: float,
    log_text: str,
    engine: str,
    oom_kills: int | None = None,
) -> tuple[Reason, str]:
    """What went wrong under load, and the line that says so. Only for attempts that did go wrong.

    Args:
        exit_status: of the engine's first process, None while it runs.
        hung: nothing moved for longer than the stall timeout while requests were outstanding.
        failed_share: failed requests over those sent, 0..1.
        log_text: beginning and end of its log.
        engine: the adapter's name.
        oom_kills: as in `classify_start`.
    """
    lines = _lines(log_text)
    cause = root_cause(lines)
    told = cause or _last(lines)
    by_text = _reason_of(cause, _AT_ANY_TIME)
    if by_text is not None:
        return by_text, _one_line(cause)
    if exit_status is not None or _core_died(lines):
        reason, text = _crash(exit_status, lines, cause, engine, oom_kills)
        return reason, _one_line(text)
    if hung:
        # A hung engine's last line is about something else; how long it has been silent is what the caller knows.
        text = f"{engine} stopped answering under load" + (f"; its log says: {cause}" if cause else "")
        return Reason.ENGINE_HUNG_UNDER_LOAD, _one_line(text)
    return Reason.ENGINE_REQUESTS_FAILED, _one_line(f"{failed_share:.1%} of the requests failed; {told}")


def may_be_noise(error_share: float, audits: Iterable[LoadAudit], bounds: Limits) -> bool:
    """Whether too many failed requests may be the doing of others on the host, not of the configuration.

    They may where it took those that ran out of time to make them too many, and others used the host's CPUs in a run.
    The coordinator, which has the timings of each run, then decides.

    Args:
        error_share: failed requests that did not run out of time over those sent, 0..1.
        audits: of the attempt's runs.
        bounds: the study's.
    """
    return error_share <= bounds.max_failed_share and any(noise(audit, bounds) is not None for audit in audits)


def _crash(
    exit_status: Exit | None, lines: list[str], cause: str, engine: str, oom_kills: int | None
) -> tuple[Reason, str]:
    """What became of an engine that ended under load, in whole or in part."""
    told = cause or _last(lines)
    if oom_kills and not _telling(cause):
        return Reason.ENGINE_OOM, _starved_text(engine, cause, oom_kills)
    if _killed(exit_status, lines):
        text = _killed_text(engine, cause, oom_kills)
    elif _telling(cause):
        text = cause
    elif _core_died(lines):
        text = f"a process of {engine} ended without a word (killed, or a crash in native code); the others say: {told}"
    else:
        text = f"{engine} {_ending(exit_status)} under load: {told}"
    return Reason.ENGINE_CRASHED_UNDER_LOAD, text


def _core_died(lines: list[str]) -> bool:
    """Whether vLLM's API process says that its engine core is gone; it then exits, with status 0."""
    return any("EngineDead" in line for line in lines)


def root_cause(lines: list[str]) -> str:
    """The first exception an inner process logged, else the last one that is not generic, else "".

    Where a release names no process in its log, whatever is logged at error level counts as an inner process's.
    An argument parser's complaint comes before all; pydantic's header is joined with the sentence below it; a generic
    line or a native crash is better than nothing.
    """
    return _find_cause(lines)[1]


class _ArgumentChecks:
    """Follows tracebacks through a log.

    Attributes:
        failed: the exception at the end of the traceback being read came out of an argument check.
    """

    def __init__(self) -> None:
        self.failed = False
        self._past = False

    def read(self, text: str) -> None:
        """Take up a line."""
        self._past = self._past or _PAST_CHECKS.search(text) is not None
        if self._past or "Traceback (most recent call last)" in text:
            self.failed = False
        elif _CHECKING.match(text):
            self.failed = True


def _find_cause(lines: list[str]) -> tuple[bool, str]:
    """(whether the engine refused its arguments, root-cause line)."""
    plain: tuple[bool, str] | None = None
    generic = fatal = ""
    checks = _ArgumentChecks()
    for index, line in enumerate(lines):
        who, level, text = _split(line)
        checks.read(text)
        complaint = _PARSER.match(text)
        if complaint is not None:
            return True, text[complaint.end() :]
        if not _EXCEPTION.match(text) and not _PYDANTIC.match(text):
            if not fatal and _FATAL.search(text):
                fatal = text
            continue
        if level in _MILD:
            continue
        refused = checks.failed or _REFUSED.match(text) is not None
        if _PYDANTIC.match(text) and index + 1 < len(lines):
            text = _validation(text, [_split(line)[2] for line in lines[index + 1 : index + 3]])
            refused = True
        if _GENERIC.search(text):
            generic = text
        elif who in _INNER or (not who and level):
            return refused, text
        else:
            plain = refused, text
    return plain if plain is not None else (False, fatal or generic)


def _split(line: str) -> tuple[str, str, str]:
    """(process name without its number, level, text) of a log line, "" for what it does not have."""
    prefix = _PREFIX.match(line)
    if prefix is None:
        return "", "", line
    return (prefix["who"] or "").rstrip("_0123456789"), prefix["level"] or "", line[prefix.end() :]


def _validation(header: str, below: list[str]) -> str:
    """`ValidationError: 1 validation error for X` and its detail, without the dump of all input.

    `below` is one or two lines: the sentence, indented; or the field it is about, and the sentence.
    """
    named = len(below) > 1 and below[0].strip() != "" and not below[0][0].isspace()
    field = f"{below[0].strip()}: " if named else ""
    sentence = below[named].strip().partition(" [type=")[0].removeprefix("Value error, ")
    return f"{header.rpartition(' for ')[2]}: {field}{sentence}" if sentence else header


def _reason_of(cause: str, known: _Known) -> Reason | None:
    """What the root-cause line says; None if it fits no known kind."""
    return next((reason for pattern, reason in known if pattern.search(cause)), None)


def _telling(cause: str) -> bool:
    """Whether the line says more than that something is wrong."""
    return bool(cause) and not _GENERIC.search(cause)


def _starved_text(engine: str, cause: str, oom_kills: int) -> str:
    text = f"{engine} ended while the kernel killed {oom_kills} process(es) of this host for lack of memory"
    return f"{text} ({cause})" if cause else text


def _killed_text(engine: str, cause: str, oom_kills: int | None) -> str:
    text = f"{engine} was killed by SIGKILL, and not by SCOOT: by the kernel for lack of memory, or by somebody's hand"
    if oom_kills == 0:
        text = f"{engine} was killed by SIGKILL, and neither by SCOOT nor by the kernel for lack of memory"
    return f"{text} ({cause})" if cause else text


def _killed(exit_status: Exit | None, lines: list[str]) -> bool:
    """Whether somebody else than SCOOT and the engine itself did it."""
    if exit_status is None or exit_status.signal != _SIGKILL or exit_status.by_us:
        return False
    return not any(_CHILD_FAILED.search(line) for line in lines)


def _ending(exit_status: Exit | None) -> str:
    if exit_status is None:
        return "did not end"
    if exit_status.signal is not None:
        return f"was ended by signal {exit_status.signal}"
    return "ended" if exit_status.code is None else f"exited with status {exit_status.code}"


def _lines(text: str) -> list[str]:
    if len(text) > _SCAN_CHARS:
        half = _SCAN_CHARS // 2
        text = text[:half] + "\n" + text[-half:]
    return [line[:_LINE_CHARS] for line in text.split("\n")]


def _last(lines: list[str]) -> str:
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")


def _one_line(text: str) -> str:
    """One printable line that fits a wire string."""
    kept = "".join(char if char.isprintable() else " " for char in text[: 2 * limits.STRING_CHARS])
    return " ".join(kept.split())[: limits.STRING_CHARS]
