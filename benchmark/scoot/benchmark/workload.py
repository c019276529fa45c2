"""From a trace or a profile to the workload of a study: selected, scaled, clipped, and packed into a blob. Pure.

Whatever is done to the rows is said in `facts.notes`, which the report shows.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import numpy as np

from scoot.benchmark.profiles import SessionProfile, draw, draw_sessions, mean_turns, profile_named
from scoot.benchmark.quantile import percentile
from scoot.benchmark.trace_row import (
    CLASS_CHARS,
    MAX_ARRIVAL_S,
    MAX_THINK_S,
    MAX_TOKENS,
    Rows,
    TraceRow,
    first_turns,
    input_estimate,
)
from scoot.wire import limits
from scoot.wire.errors import RemoteProtocolError, UserError
from scoot.wire.spec import ArrivalProcess, Selection, Workload, WorkloadFacts

PROFILE_ROWS_MIN: Final = 200
PROFILE_ROWS_MAX: Final = 20_000
"""Fewest and most rows drawn from a profile; a longer load repeats them."""

BLOB_INFLATED_BYTES: Final = 1024**3
"""Largest workload blob, inflated."""

_CLOSED_ROWS_PER_USER: Final = 50
_ROW_BYTES: Final = 64 * 1024**2
_STEP: Final = 1024 * 1024
_GZIP_WBITS: Final = 31


class ResolvedWorkload(msgspec.Struct, frozen=True, kw_only=True):
    """A workload ready to be sent: its rows, what is to be known about them, and the rows as a blob."""

    rows: tuple[TraceRow, ...]
    facts: WorkloadFacts
    blob: bytes


def profile_rows(workload: Workload) -> tuple[TraceRow, ...]:
    """Rows of the workload's built-in profile, drawn with `workload.seed`.

    Enough for rate x (warm-up + duration + cool-down) after the selection, within PROFILE_ROWS_MIN and
    PROFILE_ROWS_MAX. Where arrivals are starts of sessions, enough sessions, with all their turns.

    Raises:
        UserError: no such profile, or it is to be replayed, which needs the arrival times of a trace.
    """
    profile = profile_named(workload.profile or "")
    arrivals = workload.arrivals
    if arrivals.process is ArrivalProcess.TRACE:
        raise UserError(
            f"the profile {profile.name} has no arrival times to replay",
            key="workload.arrivals.process",
            hint='use "poisson" or "gamma" with a rate',
        )
    if arrivals.process is ArrivalProcess.CLOSED:
        wanted = float((arrivals.users or 1) * _CLOSED_ROWS_PER_USER)
    else:
        load_s = workload.warm_up_s + workload.duration_s + workload.cool_down_s
        wanted = (arrivals.rate or profile.rate) * load_s
    if workload.select is Selection.LONGEST_HALF:
        wanted *= 2
    turns = mean_turns(profile) if isinstance(profile, SessionProfile) else 1.0
    if workload.sessions:
        wanted *= turns
    capped = min(max(wanted, PROFILE_ROWS_MIN), PROFILE_ROWS_MAX) if math.isfinite(wanted) else PROFILE_ROWS_MAX
    if isinstance(profile, SessionProfile):
        return draw_sessions(profile, math.ceil(capped / turns), workload.seed)
    return draw(profile, math.ceil(capped), workload.seed)


def resolve(workload: Workload, *, max_model_len: int | None, rows: Sequence[TraceRow]) -> ResolvedWorkload:
    """Apply selection, row limit, length scale and clipping, in this order, and pack what is left.

    * selection `longest_half`: outputs at or above the median output (SCOOT section 5.1). Of sessions, whole ones are
      kept, by the outputs of all their turns.
    * `length_scale` multiplies input, output and shared blocks, rounded, at least 1. A prompt's text is cut to that
      share of its characters, or repeated.
    * clipping to `max_model_len`: where input + output is longer, the input is cut, to no less than one token; an
      output that alone is too long is cut first. Lengths of texts are estimates unless the trace gives them.

    Args:
        workload: as in the study.
        max_model_len: longest context the engine serves, tokens; None if unknown.
        rows: of the trace or profile; `notes` they carry come first in the facts.

    Raises:
        UserError: no rows, a replay of rows without arrival times, sessions wanted of rows that have none, rows of
            unknown SLO classes, or settings or a result out of range.
    """
    if not rows:
        raise UserError("the workload has no requests", key="workload")
    if len(rows) > limits.REQUESTS:
        raise UserError(f"{len(rows)} requests, over the limit of {limits.REQUESTS}", key="workload.max_requests")
    notes = list(rows.notes) if isinstance(rows, Rows) else []
    rows = _with_sessions(workload, rows)
    replayed = workload.arrivals.process is ArrivalProcess.TRACE
    if replayed and any(row.arrived_s is None for row in first_turns(rows)):
        raise UserError(
            "the trace has no arrival times to replay",
            path=workload.trace or "",
            key="workload.arrivals.process",
            hint='use "poisson" or "gamma" with a rate',
        )
    kept = _with_classes(workload, rows, notes)
    kept = _selected(workload, kept, notes)
    kept = _limited(workload.max_requests, kept, notes)
    kept = _scaled(workload.length_scale, kept, notes)
    kept = _clipped(max_model_len, kept, notes)
    if workload.sessions:
        notes.append(_sessions_note(kept))
    estimated = sum(row.input_tokens is None for row in kept)
    if estimated:
        notes.append(
            f"{estimated} of {len(kept)} requests carry a text without a token count: their input lengths are"
            " estimates until the engine has counted them"
        )
    blob = to_blob(kept)
    inputs = np.fromiter((input_estimate(row) for row in kept), np.int64, len(kept))
    outputs = np.fromiter((row.output_tokens for row in kept), np.int64, len(kept))
    facts = WorkloadFacts(
        sha256=hashlib.sha256(blob).hexdigest(),
        requests=len(kept),
        input_p50=int(percentile(inputs, 50)),
        input_max=int(inputs.max()),
        output_p50=int(percentile(outputs, 50)),
        output_max=int(outputs.max()),
        notes=tuple(notes),
    )
    return ResolvedWorkload(rows=tuple(kept), facts=facts, blob=blob)


def _with_sessions(workload: Workload, rows: Sequence[TraceRow]) -> Sequence[TraceRow]:
    """Rows with their sessions, or, when none are wanted, without."""
    there = any(row.session is not None for row in rows)
    if workload.sessions and not there:
        raise UserError(
            "the workload has no sessions",
            path=workload.trace or "",
            key="workload.sessions",
            hint='docs/traces.md tells which traces have them; or profile = "CHAT_SESSIONS"',
        )
    if workload.sessions or not there:
        return rows
    return [msgspec.structs.replace(row, session=None, think_s=0.0) for row in rows]


def _with_classes(workload: Workload, rows: Sequence[TraceRow], notes: list[str]) -> list[TraceRow]:
    """Rows with the SLO classes they name, or, when the study has no classes, without."""
    named = sum(row.slo_class is not None for row in rows)
    if not named:
        return list(rows)
    if not workload.slo_classes:
        notes.append(f"{named} requests name an SLO class, which the study does not define: the names were dropped")
        return [msgspec.structs.replace(row, slo_class=None) for row in rows]
    known = [slo_class.name for slo_class in workload.slo_classes]
    strange = next((row.slo_class for row in rows if row.slo_class is not None and row.slo_class not in known), None)
    if strange is not None:
        raise UserError(
            f"a request names the SLO class {strange!r}, which the study does not define",
            path=workload.trace or "",
            key="workload.slo_classes",
            hint=f"defined are: {', '.join(known)}",
        )
    notes.append(f"{named} of {len(rows)} requests name their SLO class")
    return list(rows)


def _sessions_note(rows: Sequence[TraceRow]) -> str:
    turns = Counter(row.session for row in rows if row.session is not None)
    seen: set[int | None] = {None}
    pauses: list[float] = []
    for row in rows:
        if row.session in seen and row.session is not None:
            pauses.append(row.think_s)
        seen.add(row.session)
    text = f"sessions: {len(turns)} of {turns.total()} turns, the longest of {max(turns.values(), default=0)}"
    return f"{text}, median pause {np.median(pauses):.3g} s" if pauses else text


def _selected_sessions(rows: list[TraceRow], notes: list[str]) -> list[TraceRow]:
    """Whole sessions, a request on its own being one, by their outputs in all."""
    names = [-1 - index if row.session is None else row.session for index, row in enumerate(rows)]
    outputs: dict[int, int] = {}
    for name, row in zip(names, rows, strict=True):
        outputs[name] = outputs.get(name, 0) + row.output_tokens
    median = float(np.median(list(outputs.values())))
    kept = [row for name, row in zip(names, rows, strict=True) if outputs[name] >= median]
    sessions = sum(output >= median for output in outputs.values())
    notes.append(
        f"selection longest_half: {sessions} of {len(outputs)} sessions, those with at least {median:g} output tokens"
    )
    return kept


def _selected(workload: Workload, rows: list[TraceRow], notes: list[str]) -> list[TraceRow]:
    if workload.select is Selection.ALL:
        return rows
    if workload.sessions:
        return _selected_sessions(rows, notes)
    median = float(np.median([row.output_tokens for row in rows]))
    kept = [row for row in rows if row.output_tokens >= median]
    notes.append(
        f"selection longest_half: {len(kept)} of {len(rows)} requests, those with at least {median:g} output tokens"
    )
    if workload.arrivals.process is ArrivalProcess.TRACE and len(kept) < len(rows):
        notes.append(
            "the replay keeps the arrival times of the selected requests, so its rate is lower than the trace's"
        )
    return kept


def _limited(max_requests: int | None, rows: list[TraceRow], notes: list[str]) -> list[TraceRow]:
    if max_requests is None:
        return rows
    if max_requests < 1:
        raise UserError(f"{max_requests} requests are no workload", key="workload.max_requests", hint="at least 1")
    if max_requests < len(rows):
        notes.append(f"max_requests: the first {max_requests} of {len(rows)} requests")
    return rows[:max_requests]


def _scaled(scale: float, rows: list[TraceRow], notes: list[str]) -> list[TraceRow]:
    if not (math.isfinite(scale) and scale > 0):
        raise UserError(f"{scale:g} is not a positive number", key="workload.length_scale")
    if scale == 1.0:
        return rows
    notes.append(f"length_scale: input and output lengths of {len(rows)} requests multiplied by {scale:g}")
    texts = sum(row.prompt is not None for row in rows)
    if texts:
        notes.append(f"{texts} prompt texts were {'cut' if scale < 1 else 'repeated'} to {scale:g} of their characters")
    return [_scaled_row(row, scale) for row in rows]


def _scaled_row(row: TraceRow, scale: float) -> TraceRow:
    return msgspec.structs.replace(
        row,
        input_tokens=None if row.input_tokens is None else _times(row.input_tokens, scale),
        output_tokens=_times(row.output_tokens, scale),
        prompt=None if row.prompt is None else _resized(row.prompt, _times(len(row.prompt), scale)),
        block_tokens=_times(row.block_tokens, scale) if row.blocks else 0,
    )


def _times(tokens: int, scale: float) -> int:
    return min(MAX_TOKENS, max(1, round(tokens * scale)))


def _resized(text: str, chars: int) -> str:
    """`text` cut, or repeated on new lines, to `chars` characters; never blank if `text` is not."""
    if chars <= len(text):
        return text[:chars] if text[:chars].strip() else text.strip()[:chars]
    return (f"{text}\n" * (chars // (len(text) + 1) + 1))[:chars]


def _clipped(max_model_len: int | None, rows: list[TraceRow], notes: list[str]) -> list[TraceRow]:
    if max_model_len is None:
        return rows
    if max_model_len < 2:  # noqa: PLR2004 - one token in, one out
        raise UserError(
            f"a context of {max_model_len} tokens holds no request", key="service.max_model_len", hint="at least 2"
        )
    outputs = inputs = 0
    kept: list[TraceRow] = []
    for row in rows:
        length = input_estimate(row)
        if length + row.output_tokens <= max_model_len:
            kept.append(row)
            continue
        new_output = min(row.output_tokens, max_model_len - 1)
        new_input = min(length, max_model_len - new_output)
        outputs += new_output < row.output_tokens
        inputs += new_input < length
        kept.append(_clipped_row(row, length, new_input, new_output))
    if outputs or inputs:
        notes.append(
            f"max_model_len {max_model_len}: {inputs} inputs and {outputs} outputs of {len(rows)} requests were cut"
        )
    return kept


def _clipped_row(row: TraceRow, length: int, new_input: int, new_output: int) -> TraceRow:
    prompt = row.prompt
    if prompt is not None and new_input < length:
        prompt = _resized(prompt, max(1, len(prompt) * new_input // length))
    used = -(-new_input // row.block_tokens) if row.blocks else 0
    return msgspec.structs.replace(
        row,
        input_tokens=None if row.input_tokens is None else new_input,
        output_tokens=new_output,
        prompt=prompt,
        blocks=row.blocks[:used],
    )


def to_blob(rows: Sequence[TraceRow]) -> bytes:
    """Rows as gzip JSON lines; the same rows give the same bytes (no time stamp, no file name).

    Raises:
        UserError: over limits.BLOB_BYTES.
    """
    encoder = msgspec.json.Encoder()
    packer = zlib.compressobj(6, zlib.DEFLATED, _GZIP_WBITS)
    parts: list[bytes] = []
    packed = 0
    for at in range(0, len(rows), 1000):
        parts.append(packer.compress(encoder.encode_lines(rows[at : at + 1000])))
        packed += len(parts[-1])
        if packed > limits.BLOB_BYTES:
            break
    parts.append(packer.flush())
    blob = b"".join(parts)
    if len(blob) > limits.BLOB_BYTES:
        raise UserError(
            f"the workload is over {limits.BLOB_BYTES >> 20} MiB compressed",
            key="workload.max_requests",
            hint="use fewer requests",
        )
    return blob


def from_blob(data: bytes) -> tuple[TraceRow, ...]:
    """Rows of a blob. Sizes are checked while it is inflated, before rows are made.

    Raises:
        RemoteProtocolError: over limits.BLOB_BYTES, BLOB_INFLATED_BYTES or limits.REQUESTS; not gzip, cut off, or
            followed by something else; or rows that are none.
    """
    if len(data) > limits.BLOB_BYTES:
        raise RemoteProtocolError(f"workload blob of {len(data)} bytes is over the limit of {limits.BLOB_BYTES}")
    decoder = msgspec.json.Decoder(TraceRow)
    rows: list[TraceRow] = []
    try:
        for line in _inflated_lines(data):
            rows.append(_checked(decoder.decode(line), rows[-1] if rows else None))
            if len(rows) > limits.REQUESTS:
                raise RemoteProtocolError(f"workload blob has more than {limits.REQUESTS} rows")
    except (zlib.error, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"workload blob is damaged: {error}") from error
    if not rows:
        raise RemoteProtocolError("workload blob has no rows")
    return tuple(rows)


def _inflated_lines(data: bytes) -> Iterator[bytes]:
    """Lines of the one gzip member that `data` is."""
    unpacker = zlib.decompressobj(_GZIP_WBITS)
    total = 0
    rest = b""
    pending = data
    while not unpacker.eof:
        piece = unpacker.decompress(pending, _STEP)
        pending = unpacker.unconsumed_tail
        if not piece and not pending and not unpacker.eof:
            raise RemoteProtocolError("workload blob is cut off")
        total += len(piece)
        *lines, rest = (rest + piece).split(b"\n")
        if total > BLOB_INFLATED_BYTES or len(rest) > _ROW_BYTES:
            raise RemoteProtocolError(
                f"workload blob inflates to more than {BLOB_INFLATED_BYTES} bytes, or has no lines"
            )
        yield from lines
    if rest or unpacker.unused_data:
        raise RemoteProtocolError("workload blob does not end with its last row")


def _checked(row: TraceRow, previous: TraceRow | None) -> TraceRow:
    """A row as `resolve` makes them."""
    lengths = (row.output_tokens, row.output_tokens if row.input_tokens is None else row.input_tokens)
    earliest = 0.0 if previous is None else previous.arrived_s or 0.0
    holds = (
        all(1 <= length <= MAX_TOKENS for length in lengths)
        and (row.input_tokens is not None or bool(row.prompt))
        and (row.arrived_s is None or earliest <= row.arrived_s <= MAX_ARRIVAL_S)
        and (1 <= row.block_tokens <= MAX_TOKENS if row.blocks else row.block_tokens == 0)
        and (row.think_s == 0 if row.session is None else row.session >= 0 and 0 <= row.think_s <= MAX_THINK_S)
        and (row.slo_class is None or 1 <= len(row.slo_class) <= CLASS_CHARS)
    )
    if not holds:
        raise RemoteProtocolError("workload blob has a row that no trace can give")
    return row
