"""What a client says of a server that goes wrong, against what it should say."""

from __future__ import annotations

import math
import traceback
from pathlib import Path
from typing import Final

import msgspec
from tools.loadbench.child import measure
from tools.loadbench.clients import START_S, Client, Scoot
from tools.loadbench.judge import Reported, median
from tools.loadbench.scenarios import Bench, Scenario, serve, understood

from scoot.wire.columns import RequestStatus

_TOKENS: Final = 8
_HALF: Final = 4
_CAP: Final = 25
"""Tokens at which SCOOT cuts a stream of 8 off: 8 and the slack of 16, and the one that was too many."""

_REQUESTS: Final = 3
_TTFT_MS: Final = 20.0
_SLOW_MS: Final = 2_000.0
_TOLERANCE_MS: Final = 15.0
_DEADLINE_S: Final = 4.0
_PEER_S: Final = 20.0
_NOTE: Final = 150

SCENARIO: Final = Scenario(
    name="faults",
    title="3 requests of 8 tokens, TTFT 20 ms, gaps 10 ms",
    columns=(),
    tokens=_TOKENS,
    ttft_us=20_000,
    gap_us=10_000,
    rate=5.0,
    seconds=_REQUESTS / 5.0,
    quick_s=_REQUESTS / 5.0,
)


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What SCOOT should say of each request.

    Attributes:
        mode: of the truth server.
        what: is wrong.
        status: of the request.
        tokens: counted; partial ones are kept.
        ttft_ms: from sending; None without a token.
        http: status of the answer.
        merged: some chunks are to be flagged as merged.
    """

    mode: str
    what: str
    status: RequestStatus
    tokens: int = _TOKENS
    ttft_ms: float | None = _TTFT_MS
    http: int = 200
    merged: bool = False


EXPECTED: Final = (
    Expected(mode="plain", what="nothing", status=RequestStatus.OK),
    Expected(mode="role", what="a chunk without a token first", status=RequestStatus.OK),
    Expected(mode="empty", what="an empty chunk half way", status=RequestStatus.OK),
    Expected(mode="comments", what="no space, CRLF, comments, event and id fields", status=RequestStatus.OK),
    Expected(mode="malformed", what="broken JSON half way", status=RequestStatus.MALFORMED, tokens=_HALF),
    Expected(mode="error200", what="an error object under 200", status=RequestStatus.STREAM_ERROR, tokens=_HALF),
    Expected(mode="rst", what="TCP reset half way", status=RequestStatus.RESET, tokens=_HALF),
    Expected(mode="close", what="clean close half way", status=RequestStatus.CLOSED_EARLY, tokens=_HALF),
    Expected(
        mode="http429", what="429, Retry-After", status=RequestStatus.HTTP_ERROR, tokens=0, ttft_ms=None, http=429
    ),
    Expected(mode="http500", what="500", status=RequestStatus.HTTP_ERROR, tokens=0, ttft_ms=None, http=500),
    Expected(mode="nodone", what="no [DONE]", status=RequestStatus.OK),
    Expected(mode="coalesce", what="4 tokens per segment", status=RequestStatus.OK, merged=True),
    Expected(mode="split", what="events in two segments", status=RequestStatus.OK),
    Expected(mode="never", what="tokens without end", status=RequestStatus.STREAM_ERROR, tokens=_CAP),
    Expected(mode="hang", what="silence half way", status=RequestStatus.DEADLINE, tokens=_HALF),
    Expected(mode="slowfirst", what="everything 2 s late", status=RequestStatus.OK, ttft_ms=_TTFT_MS + _SLOW_MS),
    Expected(mode="hangnohead", what="no answer", status=RequestStatus.DEADLINE, tokens=0, ttft_ms=None, http=0),
)


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What one client said under one fault; `ok` is None where it is not judged."""

    mode: str
    client: str
    said: str
    ok: bool | None = None
    wrong: str = ""


def run(bench: Bench, client: Client, expected: Expected) -> Heard:
    """One client under one fault."""
    folder = bench.fresh("fault", expected.mode, client.name)
    try:
        return _run(bench, client, expected, folder)
    except Exception as error:  # noqa: BLE001 - anything at all may come out of a peer's output
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{error!r} ({Path(where.filename).name}:{where.lineno})"
        return Heard(mode=expected.mode, client=client.name, said=said, ok=False, wrong=said)
    finally:
        bench.done_with(folder)


def _run(bench: Bench, client: Client, expected: Expected, folder: Path) -> Heard:
    ours = isinstance(client, Scoot)
    with serve(bench, SCENARIO, expected.mode) as server:
        load = msgspec.structs.replace(SCENARIO.load(server.port, quick=False), deadline_s=_DEADLINE_S)
        limit_s = START_S if ours else START_S / 2 + _PEER_S
        cost = measure(client.argv(load, folder), log=folder / "log", timeout_s=limit_s, env=client.env(folder))
    said, error = understood(client, load, folder, cost)
    words = _in_words(said.requests)
    if error:
        words = f"{error} {words}".strip()
    heard = Heard(mode=expected.mode, client=client.name, said=words)
    if not ours:
        return heard
    wrong = error or wrong_with(said.requests, expected)
    if not wrong and len(server.records) != _REQUESTS:
        wrong = f"{len(server.records)} requests arrived: it must not send any again"
    return msgspec.structs.replace(heard, ok=not wrong, wrong=wrong)


def tokens_of(request: Reported) -> int:
    """Tokens a client counted, as far as its chunks tell."""
    return request.chunks if request.tokens is None else int(request.tokens.sum())


def _in_words(requests: list[Reported]) -> str:
    """What a client says of its requests; those of which it says the same together."""
    alike: dict[str, list[float]] = {}
    for one in requests:
        note = " ".join(one.note.split())[:_NOTE] or "no note"
        gaps = "" if one.gaps_us is None else f", {tokens_of(one)} tokens in {one.chunks} chunks"
        alike.setdefault(f"{'ok' if one.ok else 'FAILED'} ({note}){gaps}", []).append(one.ttft_us / 1e3)
    words = []
    for text, ttfts_ms in alike.items():
        known = median(ttfts_ms)
        ttft = "no token" if known is None else f"TTFT {known:.0f} ms"
        words.append(f"{len(ttfts_ms)} x {text}, {ttft}")
    return "; ".join(words)


def wrong_with(requests: list[Reported], expected: Expected) -> str:
    """What differs from what is expected, "" if nothing does."""
    if len(requests) != _REQUESTS:
        return f"{len(requests)} requests instead of {_REQUESTS}"
    return next((wrong for one in requests if (wrong := _wrong_in(one, expected))), "")


def _wrong_in(one: Reported, expected: Expected) -> str:
    want = f"{expected.status.name} {expected.http}" if expected.http else expected.status.name
    tokens, ttft_ms = tokens_of(one), one.ttft_us / 1e3
    # Past the cap it may have read more: what is in one segment is counted as a whole.
    right_tokens = tokens == expected.tokens or expected.tokens == _CAP < tokens
    late_ms = 0.0 if expected.ttft_ms is None else abs(ttft_ms - expected.ttft_ms)
    wrong = ""
    if one.note != want:
        wrong = f"{one.note} instead of {want}"
    elif not right_tokens:
        wrong = f"{tokens} tokens instead of {expected.tokens}"
    elif math.isnan(ttft_ms) != (expected.ttft_ms is None) or late_ms > _TOLERANCE_MS:
        wrong = f"TTFT {ttft_ms:.1f} ms instead of {expected.ttft_ms}"
    elif expected.merged and (one.merged is None or not one.merged.any()):
        wrong = "merged tokens are not flagged"
    return wrong


def render(heard: list[Heard]) -> str:
    """Markdown: a row per fault and client."""
    lines = [f"\n## {SCENARIO.name}: {SCENARIO.title}\n", "| fault | client | said | verdict |", "|---|---|---|---|"]
    what = {one.mode: one.what for one in EXPECTED}
    for one in heard:
        verdict = "" if one.ok is None else "PASS" if one.ok else f"WRONG: {one.wrong}"
        cells = (f"{one.mode}: {what[one.mode]}", one.client, one.said, verdict)
        lines.append("| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines)
