"""A call of the optimizer with an engine's check between it and the trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import pytest
from study_bench import run, spec, study, trial

from scoot.coordinator.optimizer.base import Ask, Suggestion
from scoot.coordinator.runtime.suggesting import ROUNDS, Suggester
from scoot.coordinator.solver.pool import Solver
from scoot.coordinator.solver.result import SolverResult
from scoot.coordinator.study.effects import RequestSuggestions
from scoot.coordinator.study.events import Suggested
from scoot.coordinator.study.state import TrialRecord
from scoot.wire.catalogue.verdict import Checked, CheckState
from scoot.wire.errors import SolverError
from scoot.wire.spec import Config, Service
from scoot.wire.states import TrialState

INVALID = Checked(state=CheckState.INVALID, reason="too many")


class Counting:
    """An optimizer that proposes 1, 2, 3, ... up to `last`."""

    def __init__(self, last: int = 1000) -> None:
        self.asks: list[Ask] = []
        self._last = last

    async def suggest(self, method: str, ask: Ask, deadline_s: float) -> SolverResult:
        assert (method, deadline_s) == ("auto", 60.0)
        self.asks.append(ask)
        known = [int(str(each.config.get("max_num_seqs", 0))) for each in ask.history]
        first = max(known, default=0) + 1
        values = range(first, min(first + ask.n, self._last + 1))
        return SolverResult(
            suggestions=tuple(Suggestion(config={"max_num_seqs": value}, source="sobol") for value in values)
        )


class Broken:
    async def suggest(self, method: str, ask: Ask, deadline_s: float) -> SolverResult:
        raise SolverError("no memory")


class Engine:
    """Answers with what `verdict` makes of max_num_seqs; 0 is the default."""

    def __init__(self, verdict: Callable[[int], Checked]) -> None:
        self._verdict = verdict
        self.asked: list[list[int]] = []

    async def check(self, service: Service, configs: Sequence[Config], names: Sequence[str]) -> tuple[Checked, ...]:
        assert (service.engine, list(names)) == ("mock", ["max_num_seqs"])
        values = [int(str(config.get("max_num_seqs", 0))) for config in configs]
        self.asked.append(values)
        return tuple(map(self._verdict, values))


class Nobody:
    async def check(self, service: Service, configs: Sequence[Config], names: Sequence[str]) -> None:
        assert len(configs) > 0


def capped(value: int) -> Checked:
    """An engine that knows no more than 4."""
    return Checked(state=CheckState.OK, digest=f"at {min(value, 4)}", effective={"max_num_seqs": min(value, 4)})


async def ask(solver: object, engine: object, *trials: TrialRecord, n: int = 1) -> Suggested:
    record = study(spec=spec("ttft_mean"))
    suggester = Suggester(cast("Solver", solver), cast("Engine", engine))
    effect = RequestSuggestions(study_id="s-1", call=1, n=n)
    return await suggester.suggest(effect, record, {each.number: each for each in trials})


def values(found: Suggested) -> list[int]:
    return [int(str(each.config["max_num_seqs"])) for each in found.suggestions]


async def test_what_is_refused_is_asked_for_again_and_told_to_the_optimizer() -> None:
    solver = Counting()
    engine = Engine(lambda value: INVALID if value % 2 else capped(min(value, 2)))
    found = await ask(solver, engine, trial(0, run(50.0)), n=1)
    assert values(found) == [2]
    assert [(each.config["max_num_seqs"], each.before, each.same_as) for each in found.rejected] == [(1, 1, None)]
    assert found.suggestions[0].resolved == "at 2"
    assert found.resolved == {0: "at 0"}
    assert [each.infeasible for each in solver.asks[1].history] == [False, True]
    assert engine.asked == [[0, 1, 64], [1], [2]]  # the default and the ends of the range come first


async def test_the_same_to_the_engine_is_no_second_trial() -> None:
    trials = [
        trial(0, run(50.0), resolved="at 0"),
        trial(3, run(40.0), resolved="at 3", config={"max_num_seqs": 3}),
        trial(4, state=TrialState.RUNNING, resolved="at 4", config={"max_num_seqs": 4}),
    ]
    solver = Counting()
    engine = Engine(lambda value: capped(value if value < 8 else 2))
    found = await ask(solver, engine, *trials, n=2)
    assert [each.same_as for each in found.rejected][:3] == [4, 4, 4]  # 5, 6, 7
    assert values(found)[0] == 8
    assert found.resolved == {}
    assert found.idle == ()
    assert engine.asked[0] == [5, 6]


async def test_a_search_that_finds_nothing_new_goes_on_all_the_same() -> None:
    solver = Counting()
    found = await ask(solver, Engine(lambda _: INVALID), trial(0, run(50.0)), n=2)
    assert len(solver.asks) == ROUNDS
    assert len(found.suggestions) == 2
    assert len(found.rejected) == 2 * (ROUNDS - 1)


async def test_a_space_that_ends_among_rejected_ones_is_exhausted() -> None:
    found = await ask(Counting(last=3), Engine(lambda _: INVALID), trial(0, run(50.0)), n=2)
    assert (values(found), len(found.rejected)) == ([], 3)


async def test_without_anybody_to_ask_suggestions_are_trials() -> None:
    solver = Counting()
    found = await ask(solver, Nobody(), trial(0, run(50.0)), n=3)
    assert (values(found), found.rejected, found.resolved) == ([1, 2, 3], (), {})
    assert len(solver.asks) == 1


async def test_an_optimizer_that_fails_ends_the_search_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    found = await ask(Broken(), Engine(capped), trial(0, run(50.0)))
    assert (found.suggestions, found.note) == ((), "no suggestions: no memory")
    assert "no memory" in caplog.text
