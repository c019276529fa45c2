"""scootctl why: what an explanation is made of for people, from a run folder and for scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from scoot.cli.main import cli
from scoot.cli.why_command import results_path
from scoot.cli.why_view import text, why
from scoot.wire.errors import UserError

EXPLANATION: dict[str, Any] = {
    "design": "MACE",
    "predicted": {"0": {"mean": 40.1, "low": 35.2, "high": 46.9}, "1": {"mean": 9.0, "low": 8.5, "high": 9.5}},
    "pof": 0.82,
    "pof_threshold": 0.45,
    "acquisition": {"ei": 1.07, "pi": 0.41},
    "expected_gain": 0.031,
    "index": 5,
}


def trial(number: int, **values: Any) -> dict[str, Any]:
    return {
        "number": number,
        "kind": "SUGGESTED",
        "source": "scoot",
        "state": "SUCCEEDED",
        "config": {"max_num_seqs": 64 * number, "enable_x": False},
        "explanation": EXPLANATION,
        "values": [43.3, 9.9],
        "runs": [{"unknown": "to this reader"}],
        **values,
    }


DEFAULT = trial(
    0,
    kind="DEFAULT",
    source="default",
    explanation={},
    config={"max_num_seqs": 64},
    effective_config={"enable_x": False},
)


def results(*trials: dict[str, Any]) -> str:
    objectives = [
        {"metric": "ttft_mean", "label": "TTFT mean", "unit": "ms", "direction": "minimise"},
        {"metric": "tpot_mean", "label": "TPOT mean", "unit": "ms", "direction": "minimise"},
    ]
    return json.dumps(
        {"schema": 1, "study_id": "chat-1", "name": "chat", "objectives": objectives, "trials": [DEFAULT, *trials]}
    )


def shown(*trials: dict[str, Any], number: int = 1) -> list[str]:
    return text(why(results(*trials), number, path="results.json")).splitlines()


def test_everything_that_an_optimizer_told_is_shown() -> None:
    assert shown(trial(1, config={"max_num_seqs": 512, "enable_x": False})) == [
        "chat-1  trial 1 (scoot), SUCCEEDED",
        "differs in      max_num_seqs=512",
        "chosen by       MACE",
        "acquisition     ei 1.07, pi 0.41",
        "works           with probability 0.82 (at least 0.45 was asked for)",
        "expected gain   +3.1 % on the best of then",
        "index           5",
        "",
        "OBJECTIVE       PREDICTED  90 % INTERVAL  MEASURED",
        "ttft_mean [ms]  40.1       35.2 to 46.9   43.3      as forecast",
        "tpot_mean [ms]  9          8.5 to 9.5     9.9       outside the interval",
    ]


def test_what_was_not_told_is_not_made_up() -> None:
    lines = shown(trial(1, explanation={"design": "Sobol design"}, values=None, state="RUNNING"))
    assert [line.split("  ")[0] for line in lines] == [
        "chat-1",
        "differs in",
        "chosen by",
        "",
        "OBJECTIVE",
        "ttft_mean [ms]",
        "tpot_mean [ms]",
    ]
    assert lines[-1].split() == ["tpot_mean", "[ms]", "-", "-", "-"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"explanation": {}}, "scoot left no explanation."),
        (
            {"kind": "CONFIRMATION", "source": "confirm-best", "confirms": 7, "explanation": {}},
            "Repeats trial 7 under several arrival orders.",
        ),
    ],
)
def test_trials_without_explanation_say_so(values: dict[str, Any], sentence: str) -> None:
    assert any(line.startswith(sentence) for line in shown(trial(1, **values)))
    assert any(line.startswith("The default configuration:") for line in shown(number=0))
    assert not any("left no explanation" in line for line in shown(trial(1)))


def test_a_crash_shows_its_reason_beside_the_forecast() -> None:
    lines = shown(
        trial(1, state="INFEASIBLE", reason="ENGINE_OOM", message="CUDA out of\x1b[31m memory\n...", values=None)
    )
    assert lines[0] == "chat-1  trial 1 (scoot), INFEASIBLE: ENGINE_OOM: CUDA out of [31m memory"
    assert lines[-1].split() == ["tpot_mean", "[ms]", "9", "8.5", "to", "9.5", "-"]


@pytest.mark.parametrize(
    "explanation",
    [
        {"predicted": [1, 2], "pof": "high", "acquisition": 3, "expected_gain": None},
        {"predicted": {"0": {"mean": "x"}, "7": {"mean": 1.0}}, "pof": True, "design": 5},
        {"predicted": {"0": 5.0}, "design": "two\nlines", "long": ["x" * 50] * 9},
        {"note": "a\x1b[2J\nb", "\x1b[2J": 1, "acquisition": {"\x07": "loud"}},
    ],
)
def test_an_odd_explanation_breaks_nothing(explanation: dict[str, Any]) -> None:
    view = why(results(trial(1, explanation=explanation)), 1, path="")
    assert view.pof is None
    assert view.acquisition == {}
    assert view.objectives[0].mean is None
    assert all(line.isprintable() and len(line) < 200 for line in text(view).splitlines())


def test_unknown_trials_and_other_files_are_refused() -> None:
    with pytest.raises(UserError, match="there is no trial 9") as caught:
        why(results(trial(1)), 9, path="chat-1")
    assert "0 to 1" in caught.value.hint
    for junk in ("", "[]", "{}", '{"study_id": 1}', b"\xff\xfe"):
        with pytest.raises(UserError, match=r"is not a results\.json"):
            why(junk, 0, path="x")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["why", *arguments])


def test_the_folder_of_a_run_needs_no_coordinator(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(results(trial(1)))
    for place in (tmp_path, tmp_path / "results.json"):
        result = call(str(place), "1")
        assert result.exit_code == 0, result.output
        assert result.output.startswith("chat-1  trial 1 (scoot), SUCCEEDED\n")


def test_json_is_the_view(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(results(trial(1)))
    told = json.loads(call(str(tmp_path), "1", "--json").output)
    assert (told["pof"], told["acquisition"], told["more"]) == (0.82, {"ei": 1.07, "pi": 0.41}, {"index": 5})
    assert told["objectives"][1]["inside"] is False
    assert told["objectives"][0]["measured"] == 43.3


def test_mistakes_are_explained(tmp_path: Path) -> None:
    empty = call(f"{tmp_path}/", "1")
    assert (empty.exit_code, "has no results.json yet" in empty.output) == (2, True)
    missing = call(str(tmp_path / "none.json"), "1")
    assert (missing.exit_code, "cannot be read" in missing.output) == (2, True)
    assert call(str(tmp_path), "-1").exit_code == 2
    nobody = call("chat-1", "1", "--coordinator", "127.0.0.1:1")
    assert (nobody.exit_code, "the coordinator is unavailable" in nobody.output) == (3, True)


def test_an_id_is_no_path_unless_results_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chat-1").mkdir()
    assert results_path("chat-1") is None
    assert results_path("v1.2") is None
    (tmp_path / "chat-1" / "results.json").touch()
    assert results_path("chat-1") == Path("chat-1/results.json")
    assert results_path("other.json") == Path("other.json")
