"""A study's options against a catalogue and an overlay, and the commands that show all three."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from scoot.cli.catalogue_command import rows_of
from scoot.cli.exits import Exit
from scoot.cli.main import cli
from scoot.wire.catalogue import shelf
from scoot.wire.catalogue.option import Catalogue, EngineOption, OptionKind, Source, encode_catalogue
from scoot.wire.catalogue.overlay import parse_overlay
from scoot.wire.catalogue.study_check import Finding, Level, check_options, names_of
from scoot.wire.spec import Scalar
from scoot.wire.study_file import parse_study

CATALOGUE = Catalogue(
    engine="vllm",
    version="9.9",
    device="cpu",
    source=Source.SNAPSHOT,
    options=(
        EngineOption(name="block_size", kind=OptionKind.INT, minimum=0, above_minimum=True),
        EngineOption(name="chunked", kind=OptionKind.BOOL, default=True),
        EngineOption(name="max_seqs", kind=OptionKind.INT, aliases=("ms",), minimum=1),
        EngineOption(name="mode", kind=OptionKind.ENUM, choices=("fast", "slow")),
        EngineOption(name="precision", kind=OptionKind.ENUM, choices=("auto", "fp8")),
        EngineOption(name="share", kind=OptionKind.FLOAT, minimum=0, maximum=1),
        EngineOption(name="tokens", kind=OptionKind.INT),
        EngineOption(name="words", kind=OptionKind.TEXT),
    ),
)
OVERLAY = parse_overlay(
    """
engine = "vllm"
about = "made up"
[options.block_size]
class = "output-preserving"
low = 16
high = 128
step = 16
scale = "pow2"
note = "kernels want multiples"
[options.max_seqs]
class = "output-preserving"
low = 8
high = 64
[options.mode]
class = "numerics-may-move"
choices = ["fast"]
only = "lit rooms"
[options.precision]
class = "changes-outputs"
[options.tokens]
class = "output-preserving"
[options.chunked]
class = "output-preserving"
[changes.old_seqs]
change = "renamed"
to = "max_seqs"
[changes.delay]
change = "removed"
by = "0.9"
nearest = ["max_seqs", "tokens"]
note = "went long ago"
[[rules]]
rule = "tokens >= max_seqs"
[[rules]]
rule = "chunked or tokens >= max_model_len"
enforced = "request"
[[rules]]
rule = "block_size % 32 == 0"
enforced = "start"
devices = ["cpu"]
note = "its kernel"
""",
    path="o.toml",
)
HEAD = """
name = "s"
objectives = ["ttft_mean"]
[service]
engine = "vllm"
model = "m"
device = "{device}"
{service}
[workload]
profile = "BOT"
arrivals = {{rate = 1}}
"""


def study(body: str, *, options: str = "", service: str = "", device: str = "gpu", top: str = "") -> str:
    head = HEAD.format(device=device, service=service)
    return f"{top}{head}{body}\n[service.options]\n{options}" if options else f"{top}{head}{body}"


def findings(
    text: str, catalogue: Catalogue | None = CATALOGUE, *, with_overlay: bool = True
) -> list[tuple[str, str, str, str]]:
    spec = parse_study(text, path="s.toml")
    found = check_options(spec, catalogue, OVERLAY if with_overlay else None)
    return [(item.level.value, item.key, item.message, item.remedy) for item in found]


def only(text: str, catalogue: Catalogue | None = CATALOGUE) -> tuple[str, str, str, str]:
    (found,) = findings(text, catalogue)
    return found


FINE = '[parameters.max_seqs]\ntype = "int"\nlow = 8\nhigh = 64\n'


def parameter(name: str, rest: str) -> str:
    return f"[parameters.{name}]\n{rest}\n"


def test_a_sound_study_has_nothing_to_say() -> None:
    assert findings(study(FINE, options='words = "x"\nshare = 1\nmode = "slow"\nprecision = "fp8"')) == []
    assert findings(study(FINE, options='block_size = "8k"')) == [], "some engines read counts so"


@pytest.mark.parametrize(
    ("body", "level", "key", "said", "remedy"),
    [
        (parameter("max_seq", 'type = "int"\nlow = 1\nhigh = 2'), "error", "max_seq", "no such option", "'max_seqs'"),
        (parameter("qqq", 'type = "bool"'), "error", "qqq", "vllm 9.9 has no such option", ""),
        (parameter("ms", 'type = "int"\nlow = 8\nhigh = 64'), "warning", "ms", "another name", "write max_seqs"),
        (parameter("old_seqs", 'type = "int"\nlow = 8\nhigh = 64'), "error", "old_seqs", "renamed", "write max_seqs"),
        (
            parameter("delay", 'type = "float"\nlow = 0\nhigh = 1'),
            "error",
            "delay",
            "gone in 0.9",
            "max_seqs or tokens",
        ),
        (parameter("chunked", 'type = "int"\nlow = 0\nhigh = 1'), "error", "chunked.type", "true or false", '"bool"'),
        (parameter("max_seqs", 'type = "bool"'), "error", "max_seqs.type", "kind int", '"int"'),
        (parameter("max_seqs", 'type = "float"\nlow = 8\nhigh = 64'), "error", "max_seqs.type", "kind int", '"int"'),
        (
            parameter("mode", 'type = "enum"\nchoices = ["fast", "warp"]'),
            "error",
            "mode.choices[1]",
            "does not take 'warp'",
            "fast, slow",
        ),
        (
            parameter("max_seqs", 'type = "int"\nlow = 8\nhigh = 64\ndefault = 0'),
            "error",
            "max_seqs.default",
            "outside of the engine's limits",
            "at least 1",
        ),
        (
            parameter("max_seqs", 'type = "enum"\nchoices = ["8", "many"]'),
            "error",
            "max_seqs.choices[1]",
            "'many' is not of kind int",
            "",
        ),
        (
            parameter("max_seqs", 'type = "int"\nlow = 4\nhigh = 65'),
            "note",
            "max_seqs",
            "4, 65: outside of the range",
            "",
        ),
        (
            parameter("block_size", 'type = "int"\nchoices = [16, 24, 32]'),
            "warning",
            "block_size",
            "24: not a multiple of 16; kernels want multiples",
            "leave them out",
        ),
        (
            parameter("block_size", 'type = "int"\nlow = 16\nhigh = 128'),
            "warning",
            "block_size",
            "some values of the range",
            "step = 16",
        ),
        (
            parameter("precision", 'type = "enum"\nchoices = ["auto", "fp8"]'),
            "warning",
            "precision",
            "changes what the model answers",
            "[service.options]",
        ),
        (
            parameter("share", 'type = "float"\nlow = 0\nhigh = 1'),
            "note",
            "share",
            "nothing is known",
            "",
        ),
    ],
)
def test_what_is_wrong_with_a_parameter(body: str, level: str, key: str, said: str, remedy: str) -> None:
    found, *rest = findings(study(body))
    assert found[0] == level
    assert (rest == []) == (not key.startswith("mode")), "it is said once"
    assert found[1] == f"parameters.{key}"
    assert said in found[2]
    assert remedy in found[3]
    assert bool(remedy) == bool(found[3])


@pytest.mark.parametrize(
    "body",
    [
        parameter("block_size", 'type = "int"\nlow = 16\nhigh = 128\nstep = 32'),
        parameter("block_size", 'type = "int"\nlow = 16\nhigh = 128\nscale = "pow2"'),
        parameter("block_size", 'type = "int"\nchoices = [16, 48]'),
    ],
)
def test_multiples_are_fine_in_every_form(body: str) -> None:
    assert findings(study(body)) == []


def test_risk_and_conditions_are_told_beside_each_other() -> None:
    found = findings(study(parameter("mode", 'type = "enum"\nchoices = ["fast", "slow"]')))
    assert [item[0] for item in found] == ["warning", "note", "note"]
    assert "answers may move" in found[0][2]
    assert "lit rooms" in found[1][2]
    assert "slow: not among" in found[2][2]


@pytest.mark.parametrize(
    ("options", "level", "said"),
    [
        ("share = 1.5", "error", "limits"),
        ("chunked = 1", "error", "not true or false"),
        ("max_seqs = true", "error", "not of kind int"),
        ('mode = "warp"', "error", "does not take"),
        ("delay = 0.5", "error", "removed"),
        ("old_seqs = 5", "error", "renamed"),
        ("nothing_like_it = 5", "error", "no such option"),
        ("ms = 5", "warning", "another name"),
    ],
)
def test_what_is_wrong_with_a_fixed_option(options: str, level: str, said: str) -> None:
    found = only(study(parameter("block_size", 'type = "int"\nchoices = [32]'), options=options))
    assert (found[0], found[1]) == (level, f"service.options.{options.partition(' ')[0]}")
    assert said in found[2]


def test_without_a_catalogue_only_the_overlay_speaks() -> None:
    assert findings(study(FINE), None) == []
    gone = only(study(FINE, options="delay = 0.5"), None)
    assert gone[0] == "warning", "an early version may still have it"
    strange = findings(study(parameter("max_seq", 'type = "int"\nlow = 1\nhigh = 2')), None)
    assert [item[0] for item in strange] == ["note", "note"]
    assert "did you mean 'max_seqs'" in strange[0][3]


def test_without_an_overlay_only_the_engine_speaks() -> None:
    body = parameter("precision", 'type = "enum"\nchoices = ["auto", "fp4"]')
    found = findings(study(body), with_overlay=False)
    assert [(item[0], item[1]) for item in found] == [("error", "parameters.precision.choices[1]")]


TOKENS = parameter("tokens", 'type = "int"\nlow = 64\nhigh = 512')


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        (study(FINE + TOKENS), ["tokens >= max_seqs"]),
        (study(FINE + TOKENS, top='constraints = ["tokens  >=  max_seqs"]\n'), []),
        (study(FINE + TOKENS, top='constraints = ["max_seqs * 2 <= tokens"]\n'), []),
        (study(TOKENS), []),
        (study(TOKENS, options="max_seqs = 16"), ["tokens >= max_seqs"]),
        (
            study(TOKENS + parameter("chunked", 'type = "bool"'), service="max_model_len = 2048"),
            ["chunked or tokens >= max_model_len"],
        ),
        (study(parameter("block_size", 'type = "int"\nchoices = [32]')), []),
        (study(parameter("block_size", 'type = "int"\nchoices = [32]'), device="cpu"), ["block_size % 32 == 0"]),
    ],
)
def test_rules_a_study_does_not_state(text: str, rules: list[str]) -> None:
    found = findings(text)
    assert [item[3] for item in found] == [f'add "{rule}"' for rule in rules]
    assert all(item[0] == "note" for item in found)


def test_names_in_a_rule() -> None:
    assert names_of("a in (\"b\", 'c') implies not d_1 >= 2.5e3 or true") == {"a", "d_1"}


scalars = st.booleans() | st.integers(-5, 200) | st.floats(-2, 2) | st.sampled_from(["fast", "auto", "8k", "x y"])
known = st.sampled_from([*CATALOGUE.by_name, *CATALOGUE.by_alias, "delay", "old_seqs", "zzz"])


@given(st.dictionaries(known.filter(lambda name: name != "max_seqs"), scalars, max_size=5))
def test_findings_are_ordered_and_about_what_was_asked(options: dict[str, Scalar]) -> None:
    spec = parse_study(study(FINE), path="s.toml")
    spec = msgspec.structs.replace(spec, service=msgspec.structs.replace(spec.service, options=options))
    found = check_options(spec, CATALOGUE, OVERLAY)
    levels = [list(Level).index(item.level) for item in found]
    assert levels == sorted(levels)
    for item in found:
        assert item.key.startswith(("parameters.max_seqs", "service.options.")) or item.key == "constraints"
        assert item.message
    refused = {item.key.rpartition(".")[2] for item in found if item.level is Level.ERROR}
    for name, value in options.items():
        option = CATALOGUE.by_name.get(name)
        if option is None:
            assert (name in refused) == (name not in CATALOGUE.by_alias or name in refused)
        elif name not in refused and isinstance(value, int | float) and option.kind is not OptionKind.TEXT:
            assert option.allows(value)


# --- commands --------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["catalogue", *arguments])


def loads(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code in (Exit.OK, Exit.FAILED), result.output
    return json.loads(result.stdout)


def test_show_lists_what_matters_and_all_on_request() -> None:
    some, everything = run("show", "vllm"), run("show", "vllm", "--all")
    assert some.exit_code == everything.exit_code == Exit.OK
    assert "max_num_seqs  " in some.output
    assert "otlp_traces_endpoint" not in some.output
    assert "otlp_traces_endpoint" in everything.output
    catalogue = shelf.snapshot_of("vllm")
    assert catalogue is not None
    left_out = len(catalogue.options) - len(rows_of(catalogue, shelf.overlay_of("vllm"), everything=False))
    assert f"{left_out} more with --all" in some.output
    row = next(line for line in some.output.splitlines() if line.startswith("block_size "))
    assert row.split() == [
        "block_size",
        "output-preserving",
        "int",
        "-",
        "128",
        "16",
        "..",
        "128",
        "pow2",
        "step",
        "16",
        "*",
    ]


def test_show_of_an_engine_without_a_catalogue_says_so() -> None:
    result = run("show", "trtllm")
    assert result.exit_code == Exit.OK
    assert "no version's own list of options" in result.output
    assert "max_num_tokens" in result.output
    data = loads("show", "trtllm")
    assert data["catalogue"] is None
    assert {row["name"] for row in data["options"]} == set(shelf.overlay_of("trtllm").options)


def test_show_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "live.json"
    path.write_bytes(encode_catalogue(msgspec.structs.replace(CATALOGUE, source=Source.LIVE)))
    data = loads("show", "vllm", "--all", "--file", str(path))
    assert data["catalogue"] == {"version": "9.9", "device": "cpu", "source": "live"}
    assert [row["name"] for row in data["options"]] == list(CATALOGUE.by_name)
    wrong = run("show", "sglang", "--file", str(path))
    assert wrong.exit_code == Exit.USAGE
    assert "is a catalogue of vllm" in wrong.output


def test_diff_of_two_versions() -> None:
    result = run("diff", "vllm", "0.27.1", "0.32.0")
    assert result.exit_code == Exit.OK
    assert "calculate_kv_scales" in result.output
    assert "max_num_active_seqs" in result.output
    assert "gdn_prefill_backend: choices +aiter_flydsl" in result.output
    data = loads("diff", "vllm", "0.32.0", "0.27.1")
    assert "max_num_active_seqs" in {item["name"] for item in data["removed"]}
    assert run("diff", "vllm", "0.1", "0.32.0").exit_code == Exit.USAGE
    assert run("diff", "trtllm", "1", "2").exit_code == Exit.USAGE
    assert run("diff", "trtllm", "", "").exit_code == Exit.USAGE


def test_check_fails_where_the_engine_would_refuse(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(study('[parameters.scheduler_delay_factor]\ntype = "float"\nlow = 0\nhigh = 1'), encoding="utf-8")
    result = run("check", str(path))
    assert result.exit_code == Exit.FAILED
    assert "error    parameters.scheduler_delay_factor: was removed" in result.output
    assert "max_num_active_seqs or" in result.output
    older = loads("check", str(path), "--version", "0.27.1")
    assert older["catalogue"]["version"] == "0.27.1"
    assert older["findings"][0]["level"] == "error"
    fixed = run("check", str(path), "--set", "service.engine=trtllm")
    assert fixed.exit_code == Exit.OK, "without a catalogue nothing is certain"
    assert "there is no catalogue of it" in fixed.output


def test_check_of_a_study_without_reproach_and_of_an_engine_without_options(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(study('[parameters.max_num_seqs]\ntype = "int"\nlow = 16\nhigh = 64'), encoding="utf-8")
    result = run("check", str(path))
    assert result.exit_code == Exit.OK
    assert "nothing to say" in result.output
    mock = run("check", str(path), "--set", "service.engine=mock")
    assert mock.exit_code == Exit.USAGE
    assert "no options of 'mock' are known" in mock.output


@pytest.mark.parametrize("name", ["vllm-tiny.toml", "vllm-tiny-p95.toml"])
def test_the_examples_use_options_of_every_version_there_is(name: str) -> None:
    path = Path(__file__).parents[2] / "examples" / name
    for version in shelf.versions("vllm"):
        assert run("check", str(path), "--version", version).exit_code == Exit.OK


def test_a_finding_is_plain_data() -> None:
    finding = Finding(level=Level.ERROR, key="a", message="b")
    assert msgspec.json.decode(msgspec.json.encode(finding), type=Finding) == finding
