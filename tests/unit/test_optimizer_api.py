"""The public Optimizer: what it takes, what it refuses without losing anything, and what it hands to methods."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import scoot.coordinator.optimizer as public
from scoot.coordinator.optimizer import Direction, Infeasible, Observation, Optimizer, Outcome, Space, Suggestion
from scoot.coordinator.optimizer import optimizer as module
from scoot.coordinator.optimizer.base import Task
from scoot.coordinator.optimizer.registry import DEFAULT_METHOD, METHODS, MOST_OBJECTIVES
from scoot.wire import spec
from scoot.wire.errors import LocalProtocolError, SolverError, UserError
from scoot.wire.spec import Config, Parameter, ParameterKind

PAGE = Path(__file__).parents[2] / "docs" / "optimizer.md"


def integer(name: str, low: int, high: int, default: int | None = None, **more: Any) -> Parameter:
    return Parameter(name=name, kind=ParameterKind.INT, low=low, high=high, default=default, **more)


BATCH = integer("batch", 1, 64, 8)
MEMORY = Parameter(name="memory", kind=ParameterKind.FLOAT, low=0.5, high=0.95, default=0.9)
CHUNKED = Parameter(name="chunked", kind=ParameterKind.BOOL, default=True)
SPACE = (BATCH, MEMORY, CHUNKED)
DEFAULT: Config = {"batch": 8, "memory": 0.9, "chunked": True}
OTHER: Config = {"batch": 16, "memory": 0.8, "chunked": False}


def make(*parameters: Parameter, objectives: Any = (("latency", "minimise"),), **more: Any) -> Optimizer:
    more.setdefault("method", "sobol")
    return Optimizer(parameters or SPACE, objectives, **more)


def two(**more: Any) -> Optimizer:
    return make(objectives=["ttft_mean", "request_throughput"], **more)


# --- the package -----------------------------------------------------------------------------------------------------


def test_the_package_imports_nothing_until_it_is_used() -> None:
    code = "import sys, scoot.coordinator.optimizer as o; print(*(m for m in sys.modules if 'scoot' in m or m in %r))"
    result = subprocess.run(
        [sys.executable, "-c", code % (["numpy", "msgspec", "scipy"],)],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    assert result.stdout.split() == ["scoot", "scoot.coordinator", "scoot.coordinator.optimizer"]


def test_every_public_name_is_there() -> None:
    assert set(public.__all__) == set(public._HOME)
    assert all(getattr(public, name).__name__ == name for name in public.__all__)
    assert set(public.__all__) <= set(dir(public))
    with pytest.raises(AttributeError, match="Optimiser"):
        public.Optimiser  # noqa: B018 - looking it up is the test


def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    match = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert match is not None
    assert len([line for line in match[1].splitlines() if line.strip()]) <= 20
    scope: dict[str, Any] = {}
    exec(compile(match[1], str(PAGE), "exec"), scope)  # noqa: S102 - the page's own example
    assert len(scope["optimizer"].history) == 12
    assert "max_num_seqs" in capsys.readouterr().out


def test_the_page_names_every_method_and_the_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.read_text().split("## Methods")[1], re.MULTILINE))
    assert rows.keys() == METHODS.keys()
    assert [name for name, text in rows.items() if "the default" in text] == [DEFAULT_METHOD]
    assert spec.Optimizer().method == DEFAULT_METHOD


# --- asking ----------------------------------------------------------------------------------------------------------


def test_a_full_default_comes_first_and_everything_is_new() -> None:
    optimizer = make()
    first, second = optimizer.ask(), optimizer.ask(3)
    assert [(s.config, s.source) for s in first] == [(DEFAULT, "default")]
    assert [s.source for s in second] == ["sobol"] * 3
    assert [record.number for record in optimizer.history] == [0, 1, 2, 3]
    assert list(optimizer.pending) == [s.config for s in first + second]
    assert len({tuple(config.values()) for config in optimizer.pending}) == 4


def test_a_default_that_leaves_something_out_is_not_suggested_but_may_be_told() -> None:
    optimizer = make(default={"batch": 8})
    assert [s.source for s in optimizer.ask(2)] == ["sobol", "sobol"]
    optimizer.tell({"batch": 8}, 50.0)
    assert [(o.number, o.values) for o in optimizer.history] == [(0, (50.0,)), (1, None), (2, None)]
    with pytest.raises(UserError, match="`memory` has no value"):
        optimizer.tell({"batch": 9}, 50.0)


@pytest.mark.parametrize("as_space", [False, True])
def test_a_default_replaces_those_of_the_parameters(as_space: bool) -> None:
    space = Space.build(SPACE, ["batch <= 32"])

    def with_default(default: dict[str, Any]) -> Optimizer:
        if as_space:
            return Optimizer(space, "ttft_mean", default=default)
        return Optimizer(SPACE, "ttft_mean", constraints=["batch <= 32"], default=default)

    optimizer = with_default({**OTHER, "batch": np.int64(16)})
    assert optimizer.ask()[0].config == OTHER
    assert space.default_config() == DEFAULT
    for wrong in ({"batch": 65}, {"batch": 33}, {"batch": 1.5}, {"size": 1}, {"batch": [1]}):
        with pytest.raises(UserError):
            with_default(wrong)


def test_a_space_has_its_own_constraints() -> None:
    with pytest.raises(UserError, match="its own constraints"):
        Optimizer(Space.build(SPACE), "ttft_mean", constraints=["batch > 1"])


def test_a_space_is_asked_to_its_last_point() -> None:
    optimizer = make(integer("a", 1, 3, 1), integer("b", 1, 2, 1), constraints=["a + b != 3"])
    assert [len(optimizer.ask(3)) for _ in range(3)] == [3, 1, 0]
    single = make(integer("a", 7, 7, 7))
    assert [s.config for s in single.ask(5)] == [{"a": 7}]
    assert single.ask() == []
    assert [len(make(integer("a", 1, 10**6), constraints=["a == 77777"]).ask(2))] == [1]


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "3", None])
def test_a_senseless_number_of_suggestions_is_refused(n: Any) -> None:
    optimizer = make()
    with pytest.raises(UserError):
        optimizer.ask(n)
    assert optimizer.history == ()


def test_three_hundred_may_be_pending() -> None:
    optimizer = make()
    asked = [*optimizer.ask(np.int64(150)), *optimizer.ask(150)]  # type: ignore[arg-type]  # as from an array
    assert len(optimizer.pending) == len(asked) == 300
    for place, suggestion in enumerate(reversed(asked)):
        optimizer.tell(suggestion, float(place))
    assert optimizer.pending == ()
    assert [o.values for o in optimizer.history] == [(float(299 - n),) for n in range(300)]


def test_what_the_user_does_with_a_suggestion_changes_nothing() -> None:
    optimizer = make()
    optimizer.ask()[0].config["batch"] = 64
    optimizer.pending[0]["batch"] = 63
    assert optimizer.pending == (DEFAULT,)


class Spy:
    """A method that keeps what it is asked and answers from a list."""

    def __init__(self, *answers: Any) -> None:
        self.tasks: list[Task] = []
        self.answers = list(answers)

    def __call__(self, task: Task) -> tuple[Suggestion, ...]:
        self.tasks.append(task)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return tuple(Suggestion(config=config, source="spy") for config in answer)


def spy(monkeypatch: pytest.MonkeyPatch, *answers: Any) -> Spy:
    found = Spy(*answers)
    monkeypatch.setattr(module, "load_method", lambda name: found)
    return found


def test_methods_get_the_whole_history_with_what_is_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    method = spy(monkeypatch, [OTHER], [{**OTHER, "batch": n} for n in (1, 2, 3, 4)])
    optimizer = make(seed=-3, outcomes=["ttft_p95 <= 2000"])
    optimizer.ask(2)
    optimizer.tell({**OTHER, "batch": 17}, 4.0)
    optimizer.tell(DEFAULT, 5, noise=0.5, outcomes=[1000])
    known = optimizer.history
    assert len(optimizer.ask(4)) == 4
    first, second = method.tasks
    assert [(o.number, o.pending) for o in first.history] == [(0, True)]
    assert (first.n, first.call, first.seed) == (1, 0, -3)
    assert second.history == known
    assert [(o.number, o.pending, o.values) for o in second.history] == [
        (0, False, (5.0,)),
        (1, True, None),
        (2, False, (4.0,)),
    ]
    assert (second.history[0].noise, second.history[0].outcomes) == ((0.5,), (1000.0,))
    assert (second.n, second.call) == (4, 2)
    assert second.problem.directions == (Direction.MINIMISE,)
    assert second.problem.outcomes == (Outcome(name="ttft_p95", direction=Direction.MINIMISE, limit=2000.0),)


def test_the_default_is_trial_0_even_when_it_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    method = spy(monkeypatch, [{**OTHER, "batch": 17}])
    optimizer = make()
    optimizer.tell(OTHER, 4.0)
    assert [s.source for s in optimizer.ask(2)] == ["default", "spy"]
    assert [(o.number, o.pending) for o in method.tasks[0].history] == [(0, True), (1, False)]


@pytest.mark.parametrize(
    "answer",
    [
        SolverError("no"),
        UserError("a mistake of the method's own"),
        ZeroDivisionError("division by zero"),
        [],
        [OTHER, {**OTHER, "batch": 9}],
        [DEFAULT],
        [{"batch": 1}],
        [{**OTHER, "batch": 65}],
        [{**OTHER, "batch": 64}],
    ],
)
def test_a_method_that_fails_loses_nothing(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    spy(monkeypatch, answer, [OTHER])
    optimizer = make(constraints=["batch < 64"])
    with pytest.raises(SolverError) as caught:
        optimizer.ask(2)
    assert not isinstance(answer, Exception) or answer in (caught.value, caught.value.__cause__)
    assert optimizer.history == ()
    assert [s.config for s in optimizer.ask(2)] == [DEFAULT, OTHER]


def test_running_out_of_memory_is_no_methods_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    spy(monkeypatch, MemoryError())
    optimizer = make()
    with pytest.raises(MemoryError):
        optimizer.ask(2)
    assert optimizer.history == ()


# --- telling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "result",
    [
        (41.2, 9.0),
        [41.2, 9],
        np.array([41.2, 9.0]),
        {"request_throughput": 9, "ttft_mean": 41.2},
        {"ttft_mean": np.float32(41.2).astype(np.float64).round(1), "request_throughput": np.int64(9)},
        Observation(values=(41.2, 9.0)),
        Observation(values=[41.2, 9]),  # type: ignore[arg-type]  # what people write
        Observation(values=np.array([41.2, 9.0])),  # type: ignore[arg-type]  # what people write
        Observation(number=0, config=DEFAULT, values=(41.2, 9.0)),
    ],
)
def test_values_come_in_any_form(result: Any) -> None:
    optimizer = two()
    optimizer.tell(optimizer.ask()[0], result)
    assert optimizer.history == (Observation(number=0, config=DEFAULT, values=(41.2, 9.0)),)
    assert all(type(value) is float for value in optimizer.history[0].values or ())


@pytest.mark.parametrize("result", [7, 7.0, [7], (7,), {"latency": 7}, np.float64(7), np.array(7), np.array([7.0])])
def test_one_objective_needs_no_brackets(result: Any) -> None:
    optimizer = make()
    optimizer.tell(OTHER, result)
    assert optimizer.history[0].values == (7.0,)
    assert Observation(values=7).values == (7.0,)  # type: ignore[arg-type]  # what people write


def test_noise_and_outcomes_in_any_form() -> None:
    optimizer = two(outcomes=["e2e_p95 <= 2000", Outcome(name="goodput", direction=Direction.MAXIMISE, limit=0.9)])
    noise, kept = {"ttft_mean": 0.5, "request_throughput": 0}, {"goodput": 0.95, "e2e_p95": 900}
    optimizer.tell(DEFAULT, (1, 2), noise=noise, outcomes=kept)
    optimizer.tell(OTHER, Observation(values=(1, 2), noise=(0.5, 0), outcomes=(900, 0.95)))
    assert [(o.noise, o.outcomes) for o in optimizer.history] == [((0.5, 0.0), (900.0, 0.95))] * 2


def test_what_does_not_work_and_what_nobody_knows() -> None:
    optimizer = make()
    first, second, third = optimizer.ask(3)
    optimizer.tell(first, Infeasible("ENGINE_OOM"))
    optimizer.tell(second, Observation(infeasible=True, reason="hung"))
    optimizer.tell(third, None)
    told = [(o.infeasible, o.reason, o.values, o.pending) for o in optimizer.history]
    assert told == [(True, "ENGINE_OOM", None, False), (True, "hung", None, False), (False, "", None, False)]
    assert optimizer.best is None
    assert optimizer.front == ()
    known = [o.config for o in optimizer.history]
    assert all(s.config not in known for s in optimizer.ask(50))


def test_configurations_are_told_in_their_own_types() -> None:
    optimizer = make()
    optimizer.tell({"memory": np.float64(0.9000000001), "chunked": np.bool_(True), "batch": np.int32(8)}, 1.0)
    assert optimizer.history == (Observation(number=0, config=DEFAULT, values=(1.0,)),)
    assert list(optimizer.history[0].config) == ["batch", "memory", "chunked"]


def tell_twice(optimizer: Optimizer) -> None:
    optimizer.tell(OTHER, 7.0)


BAD: list[tuple[str, Callable[[Optimizer], object], str]] = [
    ("nan", lambda o: o.tell(DEFAULT, float("nan")), "nan is not a finite number"),
    ("inf", lambda o: o.tell(DEFAULT, {"latency": -np.inf}), "values.latency: -inf is not a finite number"),
    ("nan observation", lambda o: o.tell(DEFAULT, Observation(values=(float("nan"),))), "not all finite"),
    ("text", lambda o: o.tell(DEFAULT, "7"), "is not a number"),  # type: ignore[arg-type]  # what people write
    ("texts", lambda o: o.tell(DEFAULT, ["7"]), "not a finite number"),  # type: ignore[list-item]  # what people write
    ("truth", lambda o: o.tell(DEFAULT, True), "True is not a finite number"),
    ("too many", lambda o: o.tell(DEFAULT, (1.0, 2.0)), "2 figures instead of 1"),
    ("too few", lambda o: o.tell(DEFAULT, ()), "0 figures instead of 1"),
    ("names", lambda o: o.tell(DEFAULT, {"ttft": 1.0}), "missing: latency; unknown: ttft"),
    ("negative noise", lambda o: o.tell(DEFAULT, 1.0, noise=-0.1), "noise.latency: -0.1 is below 0"),
    ("nan noise", lambda o: o.tell(DEFAULT, 1.0, noise=[float("nan")]), "noise.latency: nan"),
    ("no outcomes", lambda o: o.tell(DEFAULT, 1.0, outcomes={"x": 1.0}), "no limited outcomes"),
    ("noise of nothing", lambda o: o.tell(DEFAULT, Infeasible(), noise=1.0), "belong to values"),
    ("noise twice", lambda o: o.tell(DEFAULT, Observation(values=(1,)), noise=1.0), "its own noise"),
    ("pending", lambda o: o.tell(DEFAULT, Observation(pending=True)), "tells nothing"),
    ("other config", lambda o: o.tell(DEFAULT, Observation(config=OTHER, values=(1,))), "the observation is of"),
    ("other number", lambda o: o.tell(DEFAULT, Observation(number=4, values=(1,))), "of trial 4, not 0"),
    ("both", lambda o: o.tell(DEFAULT, Observation(values=(1,), infeasible=True)), "at most one of"),
    ("twice", tell_twice, r"told already, as trial 1: values \(5.0,\)"),
    ("after the end", lambda o: o.tell(OTHER, Infeasible()), "told already, as trial 1"),
    ("outside", lambda o: o.tell({**OTHER, "batch": 65}, 1.0), "`batch` = 65 is none of 1 to 64"),
    ("type", lambda o: o.tell({**OTHER, "chunked": 1}, 1.0), "`chunked` = 1 is none of false, true"),
    ("nan in it", lambda o: o.tell({**OTHER, "memory": float("nan")}, 1.0), "`memory` = nan is none of"),
    ("unknown", lambda o: o.tell({**OTHER, "size": 1}, 1.0), "`size` is not a parameter"),
    ("incomplete", lambda o: o.tell({"batch": 3}, 1.0), "`memory` has no value; `chunked` has no value"),
    ("constraint", lambda o: o.tell({**OTHER, "batch": 60}, 1.0), "violates `batch < 50`"),
    ("odd value", lambda o: o.tell({**OTHER, "batch": [1]}, 1.0), r"config.batch: \[1\] is not a value"),
    ("no config", lambda o: o.tell(7, 1.0), "expected a configuration"),  # type: ignore[arg-type]  # what people write
]


@pytest.mark.parametrize(("tell", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_mistake_is_named_and_changes_nothing(tell: Callable[[Optimizer], object], message: str) -> None:
    optimizer = make(constraints=["batch < 50"])
    optimizer.ask()
    optimizer.tell(OTHER, 5.0)
    before = optimizer.history
    with pytest.raises(UserError, match=message):
        tell(optimizer)
    assert optimizer.history == before
    assert optimizer.pending == (DEFAULT,)
    optimizer.tell(DEFAULT, 1.0)


def test_our_own_observations_are_checked_as_ours() -> None:
    with pytest.raises(LocalProtocolError):
        Observation(number=3, config={}, values=(float("nan"),))
    with pytest.raises(UserError):
        Observation(values={"latency": 1.0})  # type: ignore[arg-type]  # what people write


def test_parameters_that_do_not_apply_are_left_out() -> None:
    depth = integer("depth", 1, 4, when="chunked")
    optimizer = make(BATCH, CHUNKED, depth)
    optimizer.tell({"batch": 3, "chunked": False}, 1.0)
    optimizer.tell({"batch": 3, "chunked": True, "depth": 2}, 2.0)
    for wrong in ({"batch": 4, "chunked": False, "depth": 2}, {"batch": 4, "chunked": True}):
        with pytest.raises(UserError, match="`depth` must have values exactly where active"):
            optimizer.tell(wrong, 1.0)
    assert all(("depth" in s.config) is s.config["chunked"] for s in optimizer.ask(20))


# --- objectives and outcomes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("goals", "expected"),
    [
        ("ttft_mean", {"ttft_mean": "minimise"}),
        (["request_throughput", "ttft_mean"], {"request_throughput": "maximise", "ttft_mean": "minimise"}),
        ({"a": "min", "b": "Maximize"}, {"a": "minimise", "b": "maximise"}),
        ([("a", "max"), "tpot_p99"], {"a": "maximise", "tpot_p99": "minimise"}),
        ({"ttft_mean": Direction.MAXIMISE}, {"ttft_mean": "maximise"}),
    ],
)
def test_objectives_are_given_in_several_ways(goals: Any, expected: dict[str, str]) -> None:
    assert make(objectives=goals).objectives == expected


@pytest.mark.parametrize(
    ("goals", "message"),
    [
        ([], "1 to 3 objectives, not 0"),
        (dict.fromkeys("abcd", "min"), "not 4"),
        ("latency", "say which way is better"),
        ({"a": "up"}, "'up' is not a direction"),
        ({"a": None}, "unknown metric 'a'"),
        ([("a", "min"), ("a", "max")], "'a' is there twice"),
    ],
)
def test_senseless_objectives_are_refused(goals: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(objectives=goals)


@pytest.mark.parametrize("text", ["ttft_p95 < 5", "ttft_p95", "<= 5", "a <= b", "a <= nan", "a <= inf", ""])
def test_senseless_outcomes_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"outcomes\[0\]"):
        make(outcomes=[text])
    with pytest.raises(UserError, match="there twice"):
        make(outcomes=["a <= 1", "a >= 0"])


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_method_with_too_many_objectives_is_refused_before_anything_is_asked(method: str) -> None:
    goals = dict.fromkeys("abc", "min")
    if MOST_OBJECTIVES.get(method, 3) == 3:
        assert len(make(objectives=goals, method=method).ask()) == 1
    else:
        with pytest.raises(UserError, match=f"method {method} takes at most 2 objectives, not 3.*auto, ga, rd, sobol"):
            make(objectives=goals, method=method)


@pytest.mark.parametrize(("key", "value"), [("method", "soboll"), ("seed", 1.5), ("seed", True)])
def test_other_arguments_are_checked(key: str, value: Any) -> None:
    with pytest.raises(UserError):
        make(**{key: value})


def test_the_best_keeps_the_outcomes() -> None:
    optimizer = make(outcomes=["ttft_p95 <= 100", "goodput >= 0.5"])
    configs = [{**OTHER, "batch": n} for n in range(1, 6)]
    figures = [(5.0, (50, 0.9)), (4.0, (100, 0.5)), (3.0, (101, 0.9)), (2.0, (50, 0.4)), (1.0, None)]
    for config, (value, outcomes) in zip(configs, figures, strict=True):
        optimizer.tell(config, value, outcomes=outcomes)
    assert optimizer.best == optimizer.history[1]
    assert optimizer.front == optimizer.history[1:2]


def test_where_nothing_keeps_the_outcomes_the_least_violation_is_best() -> None:
    optimizer = make(outcomes=["ttft_p95 <= 100"])
    for n, (value, outcome) in enumerate([(1.0, None), (2.0, 150), (3.0, 120), (4.0, 120)], 1):
        optimizer.tell({**OTHER, "batch": n}, value, outcomes=outcome)
    assert optimizer.best == optimizer.history[2]
    assert optimizer.front == optimizer.history[2:3]


def test_the_best_of_two_objectives_is_against_the_default() -> None:
    optimizer = two()
    optimizer.tell(DEFAULT, (100.0, 10.0))
    values = [(40.0, 9.0), (90.0, 20.0), (60.0, 15.0), (61.0, 14.0)]
    for n, pair in enumerate(values, 1):
        optimizer.tell({**OTHER, "batch": n}, pair)
    assert optimizer.best is not None
    assert optimizer.best.values == (60.0, 15.0)
    assert [o.values for o in optimizer.front] == values[:3]


def test_two_identical_objectives_do_no_harm() -> None:
    optimizer = make(objectives={"a": "min", "b": "min"})
    for suggestion in optimizer.ask(5):
        optimizer.tell(suggestion, [suggestion.config["batch"]] * 2)  # type: ignore[list-item]  # an int
    assert optimizer.best is not None
    assert len(optimizer.front) >= 1
    assert len(optimizer.ask(2)) == 2


# --- histories -------------------------------------------------------------------------------------------------------


def stored(optimizer: Optimizer) -> tuple[Observation, ...]:
    return msgspec.json.decode(msgspec.json.encode(optimizer.history), type=tuple[Observation, ...])


def test_a_stored_history_is_the_whole_state() -> None:
    optimizer = two(outcomes=["e2e_p95 <= 5"], seed=4)
    asked = optimizer.ask(5)
    optimizer.tell(asked[3], (3.0, 4.0), noise=(0.1, 0.2), outcomes=3)
    optimizer.tell(asked[0], Infeasible("ENGINE_OOM"))
    optimizer.tell(asked[1], None)
    again = Optimizer.from_history(
        stored(optimizer), SPACE, ["ttft_mean", "request_throughput"], outcomes=["e2e_p95 <= 5"], seed=4, method="sobol"
    )
    assert again.history == optimizer.history
    assert again.pending == optimizer.pending
    assert again.ask(7) == optimizer.ask(7)
    again.tell(asked[2], (1.0, 1.0))


def test_the_order_of_a_history_does_not_matter() -> None:
    optimizer = make()
    for n, suggestion in enumerate(optimizer.ask(6)):
        optimizer.tell(suggestion, float(n))
    assert make(history=reversed(optimizer.history)).history == optimizer.history


def test_measurements_of_ones_own_are_a_history() -> None:
    given = [Observation(config={**OTHER, "batch": n}, values=(float(n),)) for n in (5, 6)]
    optimizer = make(history=[*given, Observation(config=DEFAULT, values=(9.0,))])
    assert [(o.number, o.values) for o in optimizer.history] == [(0, (9.0,)), (1, (5.0,)), (2, (6.0,))]
    assert optimizer.ask()[0].source == "sobol"
    mixed = make(history=[given[0], Observation(number=7, config=OTHER, infeasible=True)])
    assert [o.number for o in mixed.history] == [7, 8]


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (Observation(number=1, config={"a": 1, "b": 2}, values=(1,)), "trial 1: .*`a` is not a parameter; `b` is not"),
        (Observation(number=1, config={"batch": 3}, pending=True), "trial 1: .*`memory` has no value"),
        (Observation(number=2, config={**OTHER, "batch": 512}), "trial 2: .*`batch` = 512 is none of 1 to 64"),
        (Observation(number=2, config={**OTHER, "batch": 60}), "trial 2: violates `batch < 50`"),
        (Observation(number=3, config=OTHER, values=(1.0, 2.0)), "trial 3: 2 figures instead of 1"),
        (Observation(number=3, config=OTHER, values=(1.0,), outcomes=(1.0,)), "trial 3: 1 figures instead of 0"),
        (Observation(number=3, config=OTHER, values=(1.0,), noise=(-1.0,)), "trial 3: -1.0 is below 0"),
        (Observation(number=0, config=OTHER), "number 0 is for the default"),
        (Observation(number=5, config=OTHER), "the number is there twice"),
        (Observation(number=6, config={**OTHER, "batch": 20}), "the same configuration as trial 5"),
        (Observation(config={**OTHER, "batch": 20}), "the same configuration as trial 5"),
    ],
)
def test_a_history_that_does_not_fit_is_refused_with_the_difference(observation: Observation, message: str) -> None:
    good = Observation(number=5, config={**OTHER, "batch": 20}, values=(1.0,))
    make(constraints=["batch < 50"], history=[good])
    with pytest.raises(UserError, match=message):
        make(constraints=["batch < 50"], history=[good, observation])


def test_a_history_of_a_study_is_one_of_its_space() -> None:
    partial: Config = {"batch": 8}
    parameters = (BATCH, msgspec.structs.replace(MEMORY, default=None), CHUNKED)
    trial_0 = Observation(number=0, config={"batch": 8, "chunked": True}, values=(3.0,))
    assert make(*parameters, history=[trial_0]).history == (trial_0,)
    with pytest.raises(UserError, match="`chunked` has no value"):
        make(*parameters, history=[Observation(number=0, config=partial, values=(3.0,))])


def test_nothing_global_is_drawn_from_or_set() -> None:
    np.random.seed(7)  # noqa: NPY002 - the global generator is what must be left alone
    before = np.random.get_state()  # noqa: NPY002 - as above
    optimizer = make()
    for suggestion in optimizer.ask(20):
        optimizer.tell(suggestion, 1.0)
    after = np.random.get_state()  # noqa: NPY002 - as above
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
