"""The curated overlays: their files are sound, and fit the engines' own lists and SCOOT's own languages."""

from __future__ import annotations

import re

import numpy as np
import pytest

from scoot.agent.engines import llamacpp, sglang, transformers, trtllm, vllm
from scoot.coordinator.space.expression import parse
from scoot.coordinator.space.parameter import axis_of
from scoot.wire.catalogue import shelf
from scoot.wire.catalogue.overlay import ChangeKind, Effect, Overlay, Tuning, parse_overlay
from scoot.wire.catalogue.study_check import names_of
from scoot.wire.errors import UserError
from scoot.wire.spec import Parameter, ParameterKind, Scale
from scoot.wire.topology import TENSOR_PARALLEL_NAMES

ENGINES = shelf.engines()
FLAGS = "enable_chunked_prefill"


def test_every_engine_has_one() -> None:
    assert ENGINES == ("llamacpp", "sglang", "transformers", "trtllm", "vllm")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_overlay_is_of_its_engine_and_names_options_as_studies_do(engine: str) -> None:
    overlay = shelf.overlay_of(engine)
    assert overlay.engine == engine
    assert len(overlay.options) >= 10
    assert any(tuning.tune for tuning in overlay.options.values())
    for name in (*overlay.options, *overlay.changes):
        assert re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name), name
    for tuning in overlay.options.values():
        assert not tuning.note.endswith(".")


def parameter_of(name: str, tuning: Tuning) -> Parameter:
    """A parameter of a study as the overlay would have it tuned."""
    if tuning.choices:
        return Parameter(name=name, kind=ParameterKind.ENUM, choices=tuning.choices)
    if tuning.low is None or tuning.high is None:
        return Parameter(name=name, kind=ParameterKind.BOOL)
    whole = isinstance(tuning.low, int) and isinstance(tuning.high, int)
    return Parameter(
        name=name,
        kind=ParameterKind.INT if whole else ParameterKind.FLOAT,
        low=tuning.low,
        high=tuning.high,
        scale=tuning.scale,
        step=None if tuning.scale is Scale.POW2 else tuning.step,
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_every_range_makes_an_axis_and_its_values_are_multiples_of_its_step(engine: str) -> None:
    for name, tuning in shelf.overlay_of(engine).options.items():
        axis = axis_of(parameter_of(name, tuning))
        if tuning.step is not None:
            assert not (np.asarray(axis.decode(np.linspace(0, 1, 50))) % tuning.step).any(), name


@pytest.mark.parametrize("engine", ENGINES)
def test_rules_are_expressions_of_the_constraint_language(engine: str) -> None:
    for rule in shelf.overlay_of(engine).rules:
        names = names_of(rule.rule)
        expression = parse(rule.rule, names)
        assert expression.names == names, "the two readers of names agree"
        columns = {name: np.asarray(True if name == FLAGS else 64) for name in names}
        assert expression.evaluate(columns).dtype == np.bool_


def test_vllms_options_exist_and_its_changes_are_of_names_that_do_not() -> None:
    overlay = shelf.overlay_of("vllm")
    latest = shelf.snapshot_of("vllm")
    assert latest is not None
    assert overlay.options.keys() - latest.by_name.keys() == set()
    for version in shelf.versions("vllm"):
        catalogue = shelf.snapshot_of("vllm", version)
        assert catalogue is not None
        for name, change in overlay.changes.items():
            if change.by and shelf.version_key(change.by) <= shelf.version_key(version):
                assert name not in catalogue.by_name, name
    pointed = {name for change in overlay.changes.values() for name in (change.to, *change.nearest) if name}
    assert pointed <= latest.by_name.keys()
    for name, tuning in overlay.options.items():
        option = latest.by_name[name]
        if option.choices:
            assert set(tuning.choices) <= set(option.choices), name
        assert all(option.allows(end) for end in (tuning.low, tuning.high) if end is not None), name


def test_what_is_tuned_by_default_is_what_agents_let_studies_set() -> None:
    allowed = {
        "llamacpp": llamacpp.SERVER_OPTIONS | llamacpp.PYTHON_OPTIONS,
        "sglang": sglang.ALLOWED_OPTIONS | set(TENSOR_PARALLEL_NAMES),
        "transformers": transformers.ALLOWED_OPTIONS,
        "trtllm": trtllm.ALLOWED_OPTIONS | set(TENSOR_PARALLEL_NAMES),
        "vllm": vllm.ALLOWED_OPTIONS,
    }
    for engine in ENGINES:
        tuned = {name for name, tuning in shelf.overlay_of(engine).options.items() if tuning.tune}
        assert tuned - allowed[engine] == set(), engine


def test_the_papers_names_lead_to_todays() -> None:
    vllm, trtllm = shelf.overlay_of("vllm").changes, shelf.overlay_of("trtllm").changes
    assert vllm["scheduler_delay_factor"].kind is ChangeKind.REMOVED
    assert "max_num_active_seqs" in vllm["scheduler_delay_factor"].nearest
    assert vllm["max_num_partial_prefills"].nearest == ("long_prefill_token_threshold",)
    assert {"use_v2_block_manager", "num_scheduler_steps", "swap_space"} <= vllm.keys()
    assert trtllm["enable_chunked_context"].to == "enable_chunked_prefill"
    assert "renamed to enable_chunked_prefill (gone in 1.2)" in trtllm["enable_chunked_context"].describe()


def overlay(body: str) -> Overlay:
    return parse_overlay(f'engine = "e"\nabout = "x"\n{body}', path="e.toml")


def test_an_overlay_as_written() -> None:
    found = overlay(
        '[options.a]\nclass = "output-preserving"\nlow = 16\nhigh = 64\nstep = 16\nscale = "pow2"\ntune = true\n'
        '[options.b]\nclass = "changes-outputs"\nchoices = ["x", "y"]\n[[rules]]\nrule = "a > 1"'
    )
    assert found.options["a"].range() == "16 .. 64 pow2 step 16"
    assert found.options["b"].range() == "{x, y}"
    assert found.options["b"].effect is Effect.OUTPUTS
    assert found.rules[0].rule == "a > 1"


@pytest.mark.parametrize(
    ("body", "line", "key", "said"),
    [
        ("opts = 1", 3, "opts", "unknown key"),
        ("options = 3", 3, "options", "no table of tables"),
        ("rules = 3", 3, "rules", "no list"),
        ("[options.a]\nlow = 1", 3, "options.a", "class"),
        ('[options.a]\nclass = "harmless"', 4, "options.a.class", "harmless"),
        ('[options.a]\nclass = "output-preserving"\ntyop = 1', 3, "options.a", "tyop"),
        ('[options.a]\nclass = "output-preserving"\nlow = "1"', 5, "options.a.low", "Expected"),
        ('[options.a]\nclass = "output-preserving"\nlow = 1', 3, "options.a", "one end"),
        ('[options.a]\nclass = "output-preserving"\nlow = 3\nhigh = 2', 5, "options.a.low", "above"),
        ('[options.a]\nclass = "output-preserving"\nlow = 0\nhigh = 2\nscale = "log"', 5, "options.a.low", "above 0"),
        (
            '[options.a]\nclass = "output-preserving"\nlow = 0\nhigh = 2\nchoices = [1]',
            7,
            "options.a.choices",
            "both|range",
        ),
        ('[options.a]\nclass = "output-preserving"\nstep = 2', 3, "options.a", "no range"),
        ('[options.a]\nclass = "changes-outputs"\ntune = true', 5, "options.a.tune", "by default"),
        (
            '[options.a]\nclass = "output-preserving"\n[changes.a]\nchange = "removed"',
            3,
            "options.a",
            "also in",
        ),
        ('[changes.a]\nchange = "renamed"', 3, "changes.a", "new name"),
        ('[changes.a]\nchange = "removed"\nto = "b"', 3, "changes.a", "new name"),
        (
            '[changes.a]\nchange = "removed"\nnearest = ["b"]\n[changes.b]\nchange = "removed"',
            3,
            "changes.a",
            "gone as well",
        ),
        ('[[rules]]\nenforced = "parser"', 3, "rules[0]", "rule"),
    ],
)
def test_a_wrong_file_is_told_with_line_and_key(body: str, line: int, key: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        overlay(body)
    error = raised.value
    assert (error.path, error.line, error.key) == ("e.toml", line, key)
    assert error.hint


def test_a_file_without_its_head_or_without_toml() -> None:
    with pytest.raises(UserError, match="engine"):
        parse_overlay('about = "x"', path="e.toml")
    with pytest.raises(UserError, match="not valid TOML"):
        parse_overlay("[", path="e.toml")
    with pytest.raises(UserError, match="did you mean 'vllm'"):
        shelf.overlay_of("vlllm")
