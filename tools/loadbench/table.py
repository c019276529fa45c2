"""The bars, and the tables: medians over rounds, ratios to the best peer, what was met and what is missing. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tools.loadbench.judge import Against, Bar, Held, hold, median
from tools.loadbench.scenarios import SCENARIOS, Result, Scenario, Step

OURS: Final = "scoot"
CEILING: Final = "C"

BARS: Final = (
    Bar(scenario="short", figure="late_p50", limit=1 / 20),
    Bar(scenario="short", figure="late_p99", limit=1 / 20),
    Bar(scenario="short", figure="late_p50", limit=20.0, against=Against.NOTHING),
    *(
        Bar(scenario=scenario, figure=figure, limit=limit)
        for scenario in ("stream10k", "stream20k")
        for figure, limit in (("itl_p50", 1 / 100), ("itl_p99", 1 / 100), ("ttft_p50", 1 / 50), ("ttft_p99", 1 / 25))
    ),
    *(
        bar
        for scenario in ("stream10k", "stream20k")
        for bar in (
            Bar(scenario=scenario, figure="cpu_100k", limit=1 / 3),
            Bar(scenario=scenario, figure="cpu_100k", limit=2.0, against=Against.CEILING),
        )
    ),
    Bar(scenario="memory", figure="pss_mb", limit=150.0, against=Against.NOTHING),
    Bar(scenario="memory", figure="pss_mb", limit=1 / 4),
    Bar(scenario="closed", figure="rate", limit=5.0, higher=True),
    Bar(scenario="freeze", figure="frozen_share", limit=0.99, against=Against.NOTHING, higher=True),
    Bar(scenario="start", figure="first_s", limit=1.0, against=Against.NOTHING),
)
"""What SCOOT's load generator has to reach."""

_HEADERS: Final[Mapping[str, str]] = {
    "arrived": "arrived",
    "completed": "ok",
    "rate": "req/s",
    "late_p50": "late p50 us",
    "late_p99": "late p99 us",
    "late_max": "late max us",
    "abs_p50": "abs. late p50 us",
    "abs_p99": "abs. late p99 us",
    "ttft_p50": "TTFT err p50 us",
    "ttft_p99": "TTFT err p99 us",
    "itl_p50": "ITL err p50 us",
    "itl_p99": "ITL err p99 us",
    "merged": "merged",
    "cpu_s": "CPU s",
    "cpu_100k": "CPU s/100k tok",
    "cpu_100k_whole": "with start-up",
    "cpu_request_ms": "CPU ms/req",
    "rss_mb": "RSS MiB",
    "pss_mb": "PSS MiB",
    "processes": "processes",
    "wall_s": "wall s",
    "first_s": "first req s",
    "frozen": "arrived in freeze",
    "frozen_share": "share of those due",
    "said_ttft_p99": "TTFT said p99 ms",
    "said_ttft_max": "max ms",
    "due_max": "max from due ms",
}

_NONE: Final = "-"
_SCALE_COLUMNS: Final = ("rate", "abs_p50", "abs_p99", "own_p99", "ttft_p99", "itl_p50", "itl_p99", "merged")
_SCALE_HEADERS: Final = ("own late p99 us", "valid")


def medians(results: Sequence[Result], scenario: str) -> dict[str, dict[str, float | None]]:
    """Client -> figure -> median over the rounds that count; clients in the order they came."""
    table: dict[str, dict[str, float | None]] = {}
    for client in dict.fromkeys(one.client for one in results if one.scenario == scenario):
        good = [one for one in results if (one.scenario, one.client) == (scenario, client) and not one.error]
        names = dict.fromkeys(name for one in good for name in one.figures)
        table[client] = {name: median(one.figures.get(name) for one in good) for name in names}
    return table


def verdicts(results: Sequence[Result], bars: Sequence[Bar] = BARS) -> list[Held]:
    """The bars of the scenarios that were run, each held."""
    held = []
    for bar in bars:
        table = medians(results, bar.scenario)
        if not table:
            continue
        figures = {client: values.get(bar.figure) for client, values in table.items()}
        peers = [client for client in table if client not in (OURS, CEILING)]
        held.append(hold(bar, figures, ours=OURS, peers=peers, ceiling=CEILING))
    return held


def render(results: Sequence[Result]) -> str:
    """Markdown: a table per scenario, its failures, and its bars."""
    parts = []
    for scenario in SCENARIOS:
        mine = [one for one in results if one.scenario == scenario.name]
        if mine:
            parts.append(
                _section(scenario, mine, [one for one in verdicts(results) if one.bar.scenario == scenario.name])
            )
    return "\n".join(parts)


def _section(scenario: Scenario, results: Sequence[Result], held: Sequence[Held]) -> str:
    table = medians(results, scenario.name)
    best = {name: _best(table, name) for name in scenario.columns}
    rows = []
    for client, values in table.items():
        rounds = sum(not one.error for one in results if one.client == client)
        rows.append([client, str(rounds), *(number(values.get(name)) for name in scenario.columns)])
    if OURS in table and any(value is not None for value in best.values()):
        ratios = [_ratio(table[OURS].get(name), best[name]) for name in scenario.columns]
        rows.append([f"{OURS} / best peer", "", *ratios])
    header = ["client", "rounds", *(_HEADERS.get(name, name) for name in scenario.columns)]
    lines = [f"\n## {scenario.name}: {scenario.title}\n", *_markdown(header, rows)]
    lines += [f"\n{one.client}, round {one.round + 1}: FAILED: {one.error}" for one in results if one.error]
    lines += [*_apart(results), *_doubts(results), _server(results)]
    if held:
        lines += ["", *(f"* {describe(one)}" for one in held)]
    return "\n".join(lines)


def _best(table: Mapping[str, Mapping[str, float | None]], name: str) -> float | None:
    known = [v for client, row in table.items() if client not in (OURS, CEILING) and (v := row.get(name)) is not None]
    if not known:
        return None
    return max(known) if name in ("rate", "completed", "arrived") else min(known)


def _ratio(ours: float | None, best: float | None) -> str:
    if ours is None or not best:
        return _NONE
    return f"{ours / best:.3g}"


def _apart(results: Sequence[Result]) -> list[str]:
    """What was not matched as it should be, which makes errors of a client's upper estimates."""
    lines = []
    for one in results:
        arrived, joined, odd = (one.figures.get(name) or 0 for name in ("arrived", "joined", "odd"))
        if not one.error and (joined < arrived or odd):
            lines.append(
                f"\n{one.client}, round {one.round + 1}: {joined:.0f} of {arrived:.0f} requests matched,"
                f" {odd:.0f} with another number of tokens"
            )
    return lines


def _doubts(results: Sequence[Result]) -> list[str]:
    """Runs that SCOOT itself calls invalid."""
    told = [(one.round, one.facts["validity"]) for one in results if "validity" in one.facts]
    return [
        f"\n{OURS}, round {round_ + 1}: invalid by its own account: {validity['detail']}"
        for round_, validity in told
        if not validity["valid"]
    ]


def _server(results: Sequence[Result]) -> str:
    """How good the truth was, in the worst run."""
    servers = [one.server for one in results if one.server]
    if not servers:
        return ""
    late_us = max(server["send_late_us_p99"] for server in servers)
    text = f"\nserver: tokens left at most {number(late_us)} us after they were due at p99, which is in no error above"
    text += "" if all(server["fifo"] for server in servers) else "; without real-time priority"
    unstamped = sum(server["unstamped"] for server in servers)
    return text + (f"; {unstamped} reads without a kernel stamp" if unstamped else "")


def describe(held: Held) -> str:
    """One bar and what came of it."""
    bar = held.bar
    name = _HEADERS.get(bar.figure, bar.figure)
    sign = ">=" if bar.higher else "<="
    if bar.against is Against.NOTHING:
        goal = f"{name} {sign} {bar.limit:g}"
    elif bar.limit < 1:
        goal = f"{name} {sign} 1/{1 / bar.limit:g} of the {bar.against}"
    else:
        goal = f"{name} {sign} {bar.limit:g} x the {bar.against}"
    if held.ok is None:
        return f"{goal}: NOT TOLD"
    found = number(held.ours)
    if held.other is not None and held.ratio:
        times = f"{held.ratio:.3g}" if bar.limit >= 1 else f"1/{1 / held.ratio:.3g}"
        found += f" against {number(held.other)} of {held.whose}: {times}"
    return f"{goal}: {found}: {'PASS' if held.ok else f'SHORT by {held.short:.2f} x'}"


def render_scale(steps: Sequence[Step]) -> str:
    """Markdown of the scale test."""
    figures = {**_HEADERS, "own_p99": _SCALE_HEADERS[0]}
    header = ["streams", "offered tok/s", *(figures[name] for name in _SCALE_COLUMNS)]
    header += ["CPU s/100k tok", "RSS MiB", "busiest sender", "parser", "server late p99 us", "valid"]
    rows = []
    for step in steps:
        values, audit = step.result.figures, step.result.facts.get("audit", {})
        rows.append(
            [
                str(step.streams),
                f"{step.streams * 20:,}",
                *(number(values.get(name)) for name in _SCALE_COLUMNS),
                number(values.get("cpu_100k_whole")),
                number(values.get("rss_mb")),
                number(audit.get("cpu_share")),
                number(audit.get("parser_cpu_share")),
                number(values.get("server_late_p99")),
                "yes" if step.valid else f"NO: {step.detail}",
            ]
        )
    return "\n".join(["\n## scale: SCOOT alone, streams of 20 tokens/s until it says no\n", *_markdown(header, rows)])


def number(value: float | None) -> str:
    """For a table: three digits at least, no more decimals than say something."""
    if value is None:
        return _NONE
    if value == int(value):
        return f"{int(value):,}"
    if abs(value) >= 1000:  # noqa: PLR2004
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
