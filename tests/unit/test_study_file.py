"""Study files: what is accepted, and that each mistake is named with file, line, key and remedy."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.wire import limits
from scoot.wire.errors import UserError
from scoot.wire.spec import (
    ArrivalProcess,
    Arrivals,
    Budget,
    Confirm,
    Limits,
    Objective,
    Optimizer,
    Parameter,
    ParameterKind,
    Scale,
    Selection,
    Service,
    StudySpec,
    Workload,
)
from scoot.wire.study_file import RANGES, check_study, key_lines, located, parse_study

STUDY = """\
name = "chat"
objectives = ["ttft_mean", "tpot_mean"]
constraints = [
  "max_num_batched_tokens >= max_num_seqs",
]

[service]
engine = "mock"
model = "tiny"
device = "cpu"

[service.options]
enforce_eager = true

[service.env]
SOME_VARIABLE = "1"

[workload]
profile = "BOT"
arrivals = {process = "gamma", rate = 20, cv = 2.5}
duration_s = 30

[parameters.max_num_seqs]
type = "int"
low = 8
high = 256
default = 64

[parameters.max_num_batched_tokens]
type = "int"
low = 256
high = 8192
scale = "pow2"

[parameters.policy]
type = "enum"
choices = ["fcfs", "priority"]

[parameters.enable_chunked_prefill]
type = "bool"

[budget]
trials = 12
parallelism = 2
"""


def line_of(fragment: str, text: str = STUDY) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if fragment in line)


def test_the_friendly_layout_becomes_the_specification() -> None:
    assert parse_study(STUDY, path="s.toml") == StudySpec(
        name="chat",
        service=Service(
            engine="mock",
            model="tiny",
            device="cpu",
            options={"enforce_eager": True},
            env={"SOME_VARIABLE": "1"},
        ),
        workload=Workload(
            profile="BOT",
            arrivals=Arrivals(process=ArrivalProcess.GAMMA, rate=20.0, cv=2.5),
            duration_s=30.0,
        ),
        parameters=(
            Parameter(name="max_num_seqs", kind=ParameterKind.INT, low=8.0, high=256.0, default=64),
            Parameter(name="max_num_batched_tokens", kind=ParameterKind.INT, low=256.0, high=8192.0, scale=Scale.POW2),
            Parameter(name="policy", kind=ParameterKind.ENUM, choices=("fcfs", "priority")),
            Parameter(name="enable_chunked_prefill", kind=ParameterKind.BOOL),
        ),
        objectives=(Objective(metric="ttft_mean"), Objective(metric="tpot_mean")),
        constraints=("max_num_batched_tokens >= max_num_seqs",),
        budget=Budget(trials=12, parallelism=2),
    )


def test_objectives_may_be_tables_and_defaults_are_the_structs() -> None:
    text = STUDY.replace('objectives = ["ttft_mean", "tpot_mean"]', "")
    spec = parse_study(text + '\n[[objectives]]\nmetric = "e2e_p95"\n', path="s.toml")
    assert spec.objectives == (Objective(metric="e2e_p95"),)
    assert (spec.confirm, spec.optimizer, spec.limits) == (Confirm(), Optimizer(), Limits())
    assert spec.workload.select is Selection.LONGEST_HALF


def test_booleans_stay_booleans_and_integers_integers() -> None:
    text = STUDY.replace("enforce_eager = true", 'a = true\nb = 1\nc = 1.0\nd = "1"')
    options = parse_study(text, path="s.toml").service.options
    assert [type(value) for value in options.values()] == [bool, int, float, str]


BAD = [
    # (fragment to replace, replacement, key, part of the message, part of the hint, fragment that stands on the line)
    ("trials = 12", "trails = 12", "budget.trails", "unknown key", "did you mean 'trials'", "trails = 12"),
    ("[budget]", "[bugdet]", "bugdet", "unknown key", "did you mean 'budget'", "[bugdet]"),
    ("rate = 20", "rat = 20", "workload.arrivals.rat", "unknown key", "did you mean 'rate'", "arrivals ="),
    ("low = 8\n", "lo = 8\n", "parameters.max_num_seqs.lo", "unknown key", "did you mean 'low'", "lo = 8"),
    ('device = "cpu"', 'dvice = "cpu"', "service.dvice", "unknown key", "did you mean 'device'", "dvice"),
    ("trials = 12", 'trials = "12"', "budget.trials", "expected an integer, not '12'", "", 'trials = "12"'),
    ("trials = 12", "trials = true", "budget.trials", "expected an integer, not true", "", "trials = true"),
    ("trials = 12", "trials = 1.5", "budget.trials", "expected an integer, not 1.5", "", "trials = 1.5"),
    ("trials = 12", "trials = 2024-01-01", "budget.trials", "expected an integer, not date", "", "trials = 2024"),
    ("trials = 12", "trials = 0", "budget.trials", "0 is out of range", "from 1 to 10000", "trials = 0"),
    ("parallelism = 2", "parallelism = 257", "budget.parallelism", "out of range", "256", "parallelism = 257"),
    ("duration_s = 30", "duration_s = 0", "workload.duration_s", "out of range", "above 0", "duration_s = 0"),
    ("duration_s = 30", "duration_s = -1", "workload.duration_s", "out of range", "above 0", "duration_s = -1"),
    ("duration_s = 30", "duration_s = nan", "workload.duration_s", "nan is not a number", "finite", "duration_s"),
    ("low = 8\n", "low = -inf\n", "parameters.max_num_seqs.low", "-inf is not", "finite", "low = -inf"),
    ("default = 64", "default = 99999999999999999999", "parameters.max_num_seqs.default", "64 bits", "", "default = 9"),
    ('"gamma"', '"gama"', "workload.arrivals.process", "unknown value 'gama'", "did you mean 'gamma'", "arrivals ="),
    (", cv = 2.5", "", "workload.arrivals.cv", "process 'gamma' needs `cv`", "cv = 2.0", "arrivals ="),
    (" rate = 20,", "", "workload.arrivals.rate", "process 'gamma' needs `rate`", "per second", "arrivals ="),
    ('"gamma"', '"poisson"', "workload.arrivals.cv", "process 'poisson' takes no `cv`", "remove", "arrivals ="),
    ('"gamma", rate = 20, cv = 2.5', '"closed"', "workload.arrivals.users", "needs `users`", "16", "arrivals ="),
    (
        "cv = 2.5",
        "cv = 2.5, time_scale = 2",
        "workload.arrivals.time_scale",
        "takes no `time_scale`",
        '"trace"',
        "arrivals =",
    ),
    ('profile = "BOT"', "", "workload", "neither `profile` nor `trace`", "exactly one", "[workload]"),
    ('profile = "BOT"', 'profile = "B"\ntrace = "t"', "workload", "both set", "exactly one", "[workload]"),
    (
        'type = "bool"',
        'type = "boolean"',
        "parameters.enable_chunked_prefill.type",
        "unknown value",
        "'bool'",
        '"boolean"',
    ),
    ("choices = [", "choices = [[1], ", "parameters.policy.choices[0]", "not a list", "", "choices ="),
    ("choices = [", "choices = 3 # [", "parameters.policy.choices", "expected a list, not 3", "", "choices ="),
    ('engine = "mock"', 'engine = " "', "service.engine", "is empty", "", "engine ="),
    ('model = "tiny"', 'model = ""', "service.model", "is empty", "", "model ="),
    ('model = "tiny"\n', "", "service", "the key 'model' is missing", "[service]", "[service]"),
    ('model = "tiny"', 'model = "a\\u0000b"', "service.model", "control characters", "remove", "model ="),
    ('device = "cpu"', "devices = 0", "service.devices", "out of range", "from 1 to 64", "devices = 0"),
    ('device = "cpu"', "devices = 2\nreplicas = 2", "service.replicas", "exclude each other", "leave out", "replicas"),
    ("enforce_eager = true", "max-model-len = 3", "service.options.max-model-len", "snake case", "", "max-model-len"),
    ("enforce_eager = true", "a = {b = 1}", "service.options.a", "not a table", "", "a = {"),
    (
        "enforce_eager = true",
        "policy = 'fcfs'",
        "parameters.policy",
        "also fixed in [service.options]",
        "",
        "[parameters.po",
    ),
    ("SOME_VARIABLE =", "'A=B' =", "service.env.A=B", "not an environment variable's name", "", "'A=B' ="),
    ('SOME_VARIABLE = "1"', "SOME_VARIABLE = 1", "service.env.SOME_VARIABLE", "a text in quotes, not 1", "", "SOME_"),
    ("[parameters.policy]", "[parameters.a-b]", "parameters.a-b", "not a parameter name", "'a_b'", "[parameters.a-b]"),
    (
        'type = "bool"',
        'type = "bool"\nname = "x"',
        "parameters.enable_chunked_prefill.name",
        "own name",
        "",
        'name = "x"',
    ),
    ('"ttft_mean", "tpot_mean"', "", "objectives", "is empty", "ttft_mean", "objectives ="),
    ('"tpot_mean"]', '"ttft_mean"]', "objectives[1]", "named twice", "remove", "objectives ="),
    ('"tpot_mean"]', '"a", "b", "c"]', "objectives", "4 are too many", "at most 3", "objectives ="),
    ('"tpot_mean"]', "7]", "objectives[1]", "expected the name of a metric, not 7", "", "objectives ="),
    ('["ttft_mean", "tpot_mean"]', '"ttft_mean"', "objectives", "expected a list", "", "objectives ="),
    (
        '"max_num_batched_tokens >= max_num_seqs",',
        "1,",
        "constraints[0]",
        "a text in quotes, not 1",
        "",
        "constraints =",
    ),
    ('name = "chat"', 'name = "a/b"', "name", "'a/b' is not a name", "letters", "name ="),
    ('name = "chat"', 'name = "c"\nschema = 9', "schema", "version 9 is not known", "version 1", "schema"),
    (
        "[budget]",
        "[confirm]\narrival_orders = 21\n[budget]",
        "confirm.arrival_orders",
        "out of range",
        "0 to 20",
        "_orders",
    ),
    ("[budget]", "[limits]\nmax_failed_share = 1.5\n[budget]", "limits.max_failed_share", "out of", "0 to 1", "_share"),
    ("[budget]", "[optimizer]\nmethod = ''\n[budget]", "optimizer.method", "is empty", "sobol", "method ="),
    ("[budget]", "[optimizer]\nseed = -1\n[budget]", "optimizer.seed", "out of range", "", "seed ="),
    ("[budget]", "[workload_facts]\n[budget]", "workload_facts", "filled in by scootctl", "remove", "[workload_facts]"),
    ("trials = 12", "trials =", "", "not valid TOML", "", "trials ="),
    ("trials = 12", "trials = 12\ntrials = 13", "", "not valid TOML", "", "trials = 13"),
]


@pytest.mark.parametrize(("old", "new", "key", "message", "hint", "on"), BAD, ids=[f"{b[2]}-{b[3]}" for b in BAD])
def test_a_mistake_is_named_with_its_place_and_remedy(
    old: str, new: str, key: str, message: str, hint: str, on: str
) -> None:
    assert STUDY.count(old) >= 1
    text = STUDY.replace(old, new, 1)
    with pytest.raises(UserError) as caught:
        parse_study(text, path="dir/s.toml")
    error = caught.value
    assert (error.path, error.key) == ("dir/s.toml", key)
    assert message in error.message
    assert hint in error.hint
    assert error.line == line_of(on, text)


@pytest.mark.parametrize("part", ["name", "objectives", "service", "workload", "parameters"])
def test_a_missing_part_is_named(part: str) -> None:
    lines = STUDY.splitlines(keepends=True)
    if part in ("name", "objectives"):
        text = "".join(line for line in lines if not line.startswith(f"{part} ="))
    else:
        blocks = STUDY.split("\n\n")
        text = "\n\n".join(block for block in blocks if not block.startswith(f"[{part}"))
    with pytest.raises(UserError, match=f"'{part}' is missing"):
        parse_study(text, path="s.toml")


def test_limits_come_before_meaning() -> None:
    with pytest.raises(UserError, match="larger than"):
        parse_study("#" * (limits.SPEC_BYTES + 1), path="s.toml")
    with pytest.raises(UserError, match="nested too deeply"):
        parse_study("a = " + "[" * 100_000, path="s.toml")
    with pytest.raises(UserError, match="longer than 4096 characters"):
        parse_study(STUDY.replace('"tiny"', f'"{"x" * 5000}"'), path="s.toml")
    many = "".join(f'[parameters.p{n}]\ntype = "bool"\n' for n in range(limits.PARAMETERS + 1))
    with pytest.raises(UserError, match="too many"):
        parse_study(STUDY + many, path="s.toml")


def test_overrides_replace_keys_and_the_workload_source() -> None:
    spec = parse_study(
        STUDY,
        path="s.toml",
        overrides=[
            "workload.trace=../a b.csv.gz",
            "budget.trials=3",
            'objectives=["e2e_p95"]',
            "workload.arrivals.rate=5.5",
            "parameters.max_num_seqs.high=64",
            "service.options.load_format=dummy",
        ],
    )
    assert (spec.workload.trace, spec.workload.profile) == ("../a b.csv.gz", None)
    assert spec.budget.trials == 3
    assert [objective.metric for objective in spec.objectives] == ["e2e_p95"]
    assert spec.workload.arrivals == Arrivals(process=ArrivalProcess.GAMMA, rate=5.5, cv=2.5)
    assert spec.parameters[0].high == 64.0
    assert spec.service.options == {"enforce_eager": True, "load_format": "dummy"}
    back = parse_study(STUDY, path="s.toml", overrides=["workload.trace=t", "workload.profile=SQL"])
    assert (back.workload.trace, back.workload.profile) == (None, "SQL")


@pytest.mark.parametrize(
    ("override", "key", "message"),
    [
        ("budget.trails=3", "budget.trails", "unknown key"),
        ("budget.trials=many", "budget.trials", "expected an integer"),
        ("budget.trials", "", "not an override"),
        ("=3", "", "not an override"),
        ("name.first=3", "name", "is not a table"),
    ],
)
def test_a_bad_override_is_blamed_on_the_option(override: str, key: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_study(STUDY, path="s.toml", overrides=[override])
    assert (caught.value.path, caught.value.key) == ("--set", key)


def test_lines_of_keys_survive_strings_arrays_comments_and_quotes() -> None:
    text = "\n".join(  # noqa: FLY002 - a line each
        [
            'a = """',  # 1
            "b = 1",  # 2: inside the string
            '"""',
            "c = [ # [",  # 4
            "  'd = [', # d = 5",
            "]",
            '"e.f" = 1 # quoted',  # 7
            "g . h = {i = 1}",  # 8
            "[t]",
            "k = '''x'''",  # 10
            "[[list]]",
            "m = 1",
            "[[list]]",
            "m = 2",  # 14
        ]
    )
    lines = key_lines(text)
    assert lines == {
        "a": 1,
        "c": 4,
        "e.f": 7,
        "g.h": 8,
        "t": 9,
        "t.k": 10,
        "list": 11,
        "list[0]": 11,
        "list[0].m": 12,
        "list[1]": 13,
        "list[1].m": 14,
    }


def test_an_error_is_located_at_the_nearest_key_that_is_there() -> None:
    error = UserError("bad", key="parameters.policy.default")
    assert located(error, STUDY, path="s.toml").line == line_of("[parameters.policy]")
    assert located(UserError("bad", key="nowhere.at.all"), STUDY, path="s.toml").line == 0


def test_every_number_outside_parameters_has_a_range() -> None:
    def numbers(struct: type[msgspec.Struct], prefix: str) -> set[str]:
        found = set()
        for field in msgspec.structs.fields(struct):
            name = f"{prefix}{field.encode_name}"
            if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
                found |= numbers(field.type, f"{name}.")
            elif field.type in (int, float, int | None, float | None) and name != "schema":
                found.add(name)
        return found

    assert numbers(StudySpec, "") == set(RANGES)


def test_ranges_hold_at_their_ends() -> None:
    spec = parse_study(STUDY, path="s.toml")

    def with_share(share: float) -> StudySpec:
        return msgspec.structs.replace(spec, limits=Limits(max_failed_share=share))

    check_study(with_share(0.0))
    check_study(with_share(1.0))
    for share in (-1e-9, math.nextafter(1.0, 2.0), math.nan):
        with pytest.raises(UserError, match="out of range"):
            check_study(with_share(share))


def parsed(text: str) -> StudySpec | UserError:
    try:
        return parse_study(text, path="s.toml")
    except UserError as error:
        return error


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_garbled_files_give_user_errors_only(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(STUDY)))
    length = data.draw(st.integers(0, 40))
    junk = data.draw(st.text(max_size=8) | st.sampled_from(["[", "]", '"""', "=", "{", "nan", "[[x]]\n", "\x00"]))
    text = STUDY[:at] + junk + STUDY[at + length :]
    outcome = parsed(text)
    assert outcome.path == "s.toml" if isinstance(outcome, UserError) else outcome.parameters


def test_a_study_survives_json() -> None:
    spec = parse_study(STUDY, path="s.toml")
    assert msgspec.json.decode(msgspec.json.encode(spec), type=StudySpec) == spec


def test_every_field_is_documented_for_users() -> None:
    page = (Path(__file__).parents[2] / "docs" / "study-file.md").read_text()

    def undocumented(struct: type[msgspec.Struct]) -> list[str]:
        missing = []
        for field in msgspec.structs.fields(struct):
            if field.name == "workload_facts":
                continue
            if f"`{field.encode_name}`" not in page:
                missing.append(f"{struct.__name__}.{field.encode_name}")
            if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
                missing += undocumented(field.type)
        return missing

    assert [*undocumented(StudySpec), *undocumented(Parameter), *undocumented(Objective)] == []


def test_the_documented_ranges_and_defaults_are_the_real_ones() -> None:
    page = (Path(__file__).parents[2] / "docs" / "study-file.md").read_text()
    sections: dict[str, type[msgspec.Struct]] = {
        "budget": Budget,
        "confirm": Confirm,
        "optimizer": Optimizer,
        "limits": Limits,
        "workload": Workload,
    }
    for section, struct in sections.items():
        for field in msgspec.structs.fields(struct):
            if isinstance(field.default, int | float) and not isinstance(field.default, bool):
                row = next(line for line in page.splitlines() if line.startswith(f"| `{field.encode_name}` |"))
                assert f"| {field.default:g} |" in row, (section, row)
