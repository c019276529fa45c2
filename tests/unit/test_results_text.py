"""How results are written: hostile and secret text, commands, numbers, and the plot."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_bench import build, codes, run, spec, study, trial

from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.report.build import build_results, worst_of
from scoot.coordinator.report.command import shell_line, tuned_flags
from scoot.coordinator.report.html import render_html
from scoot.coordinator.report.markdown import block, code, plain, render_markdown
from scoot.coordinator.report.plot import linear_ticks, log_ticks, make_chart
from scoot.coordinator.report.results import encode_results
from scoot.coordinator.report.text import bound, number, objective_info, seconds
from scoot.wire.reasons import Reason
from scoot.wire.spec import (
    Parameter,
    ParameterKind,
    Workload,
)
from scoot.wire.states import StudyState, TrialState

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>|`__[x](javascript:1)\n# \x1b[31m {{ 7*7 }} ]]>"


def test_hostile_strings_stay_text() -> None:
    chosen = msgspec.structs.replace(
        spec("ttft_mean", model=HOSTILE, env={"A": HOSTILE}, options={"x": HOSTILE}),
        name=HOSTILE,
        parameters=(Parameter(name=HOSTILE, kind=ParameterKind.ENUM, choices=(HOSTILE, "b")),),
        constraints=(HOSTILE,),
        workload=Workload(trace=HOSTILE),
    )
    bad = {"config": {HOSTILE: HOSTILE}, "agent_id": HOSTILE, "engine_version": HOSTILE, "source": HOSTILE}
    results = build(
        study(spec=chosen, state=StudyState.CANCELLED, message=HOSTILE),
        trial(0, run(40.0), **bad),
        trial(1, run(30.0), command=("run", HOSTILE, "--" + HOSTILE), effective_config={HOSTILE: "c"}, **bad),
        trial(2, state=TrialState.INFEASIBLE, reason=Reason.ENGINE_OOM, message=HOSTILE, log_tail=HOSTILE, **bad),
    )
    page = render_html(results)
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert "{{ 7*7 }}" in page
    text = render_markdown(results)
    assert "\x1b" not in text
    in_code = False
    for line in text.splitlines():
        if line.startswith("```"):
            in_code = not in_code
        elif not in_code and "`" not in line.replace("\\`", ""):
            assert "<script" not in line.replace("\\<", "")
            assert "](" not in line.replace("\\]", "")
    table = [line for line in text.splitlines() if line.startswith("| 2 ")]
    assert len(table) == 1
    header = next(line for line in text.splitlines() if line.startswith("| trial |"))
    assert table[0].replace("\\|", "").count("|") == header.replace("\\|", "").count("|")


@given(st.text())
def test_code_span_and_block_cannot_be_left(text: str) -> None:
    span = code(text)
    if span:
        ticks = len(span) - len(span.lstrip("`"))
        assert "`" * ticks not in span[ticks:-ticks] or span[ticks : ticks + 1] == " "
        assert "\n" not in span
    fence = block(text).split("sh\n", 1)[0]
    assert not any(line.startswith(fence) for line in block(text).splitlines()[1:-1])
    assert "\n" not in plain(text)


def test_secret_values_are_hidden_everywhere() -> None:
    hidden = "sk-very-secret"
    chosen = spec("ttft_mean", env={"API_KEY": hidden}, options={"api_key": "other-secret", "max_tokens": "12345"})
    command = ("serve", "--api-key", "third-secret", "--token=fourth-secret", "--max-tokens", "12345", f"--x={hidden}")
    results = build(
        study(spec=chosen, message=f"used {hidden}"),
        trial(0, run(40.0), command=command),
        trial(1, state=TrialState.INFEASIBLE, reason=Reason.ENGINE_OOM, message=hidden, log_tail=f"a {hidden} b"),
    )
    encoded = encode_results(results).decode() + render_html(results) + render_markdown(results)
    assert "secret" not in encoded.replace("look secret", "").replace("secret-looking", "")
    assert results.best is not None
    assert results.best.command == ("serve", "--api-key", "***", "--token=***", "--max-tokens", "12345", "--x=***")
    assert "redacted" in codes(results)


def test_tuned_flags_are_cut_out_of_a_command() -> None:
    command = (
        "python",
        "-m",
        "x",
        "--model",
        "m",
        "--max-num-seqs",
        "8",
        "--block_size=16",
        "--no-enable-x",
        "--port",
        "1",
    )
    assert tuned_flags(command, ["max_num_seqs", "block_size", "enable_x"]) == (
        "--max-num-seqs",
        "8",
        "--block_size=16",
        "--no-enable-x",
    )
    assert tuned_flags(("serve", "--seqs", "8", "model"), ["seqs"]) == ("--seqs", "8")


def test_shell_line_quotes() -> None:
    assert shell_line(["/a b/run", "--x", "$(rm)"], {"K": "a b"}) == "K='a b' '/a b/run' \\\n  --x '$(rm)'"
    assert shell_line([]) == ""


@given(
    st.floats(min_value=1e-3, max_value=1e6, allow_nan=False),
    st.sampled_from(["ttft_mean", "request_throughput"]),
)
def test_printed_bound_is_never_tighter_than_the_measured_one(value: float, metric: str) -> None:
    objective = objective_info(metric)
    printed = float(bound(value, objective).split()[-2].replace(",", ""))
    tolerance = 1e-5 * max(1.0, value)
    if objective.direction is Direction.MINIMISE:
        assert printed >= value - tolerance
    else:
        assert printed <= value + tolerance
    assert printed == pytest.approx(value, rel=0.02)


def test_worst_follows_the_direction() -> None:
    assert worst_of([1.0, 3.0, 2.0], Direction.MINIMISE) == 3.0
    assert worst_of([1.0, 3.0, 2.0], Direction.MAXIMISE) == 1.0


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_linear_ticks_are_few_and_inside(low: float, span: float) -> None:
    ticks = linear_ticks(low, low + span)
    assert 2 <= len(ticks) <= 8
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    assert ticks == sorted(ticks)


@given(st.floats(-3, 5), st.floats(1.4, 8))
def test_log_ticks_are_few_and_inside(low: float, span: float) -> None:
    ticks = log_ticks(low, low + span)
    assert 2 <= len(ticks) <= 12
    assert all(10**low * 0.999 <= tick <= 10 ** (low + span) * 1.001 for tick in ticks)


@given(
    st.lists(st.floats(min_value=0.01, max_value=1e5), min_size=1, max_size=12),
    st.sampled_from([("ttft_mean",), ("ttft_mean", "request_throughput")]),
)
def test_marks_lie_inside_the_plot(values: list[float], objectives: tuple[str, ...]) -> None:
    trials = [trial(n, run(value, 1000 / value)) for n, value in enumerate(values)]
    results = build_results(study(*objectives), trials, scoot_version="0", now_s=0.0)
    chart = make_chart(results)
    assert chart is not None
    assert len(chart.marks) == len(values)
    for mark in chart.marks:
        assert chart.left <= mark.x <= chart.right
        assert chart.top <= mark.y <= chart.bottom
    assert len(chart.x.ticks) >= 2
    assert len(chart.y.ticks) >= 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.5, "0.5"), (0.01234, "0.0123"), (7.4, "7.40"), (23.68, "23.7"), (1234.5, "1,234"), (None, "-")],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.04, "0.0 s"), (59.6, "1 min"), (61.0, "1 min 1 s"), (3600.0, "1 h"), (7_500.0, "2 h 5 min")]
)
def test_durations_read_well(value: float, text: str) -> None:
    assert seconds(value) == text
