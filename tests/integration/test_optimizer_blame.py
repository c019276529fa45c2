"""Whose fault it is: a method's own mistakes cost a study no more than Sobol points, a user's end it at once."""

from __future__ import annotations

import os
import pathlib

import grpc
import grpc.aio
import msgspec
import pytest
from coordinator_desk import Agent, desk, spec, submit

from scoot.coordinator.optimizer.base import Ask
from scoot.coordinator.solver.faults import ENVIRONMENT
from scoot.coordinator.solver.pool import Solver
from scoot.coordinator.solver.result import SolverResult
from scoot.coordinator.store.memory import MemoryStore
from scoot.coordinator.study.events import JournalEntry, Suggested
from scoot.wire.spec import Objective, Optimizer
from scoot.wire.states import StudyState, TrialState


class Failing(Solver):
    """A solver whose every method is `fault`, however the study calls it."""

    def __init__(self, fault: str) -> None:
        super().__init__(environ={**os.environ, ENVIRONMENT: "1"})
        self._fault = fault

    async def suggest(self, method: str, ask: Ask, deadline_s: float) -> SolverResult:
        del method
        return await super().suggest(self._fault, ask, deadline_s)


@pytest.mark.parametrize(
    ("fault", "note"),
    [
        ("fault-error", "fault-error: ArithmeticError: failing on purpose for 1 suggestions"),
        ("fault-user-error", "fault-user-error: UserError: parameters.x: no such parameter among 1 (add it)"),
        ("fault-infeasible", "fault-infeasible: a suggestion is not a configuration of the space"),
        ("fault-too-few", "fault-too-few: 0 suggestions instead of 1, though the space has more"),
    ],
)
async def test_a_method_that_fails_ends_no_study(tmp_path: pathlib.Path, fault: str, note: str) -> None:
    store = MemoryStore()
    async with desk(tmp_path, store=store, solver=Failing(fault)) as d:
        study_id = (await submit(d, spec(trials=3))).study_id
        agent = Agent(d)
        await agent.connect()
        for _ in range(3):
            await agent.complete(await agent.assignment())
            await agent.hear()
        await d.until(lambda state: state.studies[study_id].state is StudyState.COMPLETED)
        trials = d.coordinator.state.trials[study_id].values()
        assert [(trial.source, trial.state) for trial in trials] == [
            ("default", TrialState.SUCCEEDED),
            ("sobol-fallback", TrialState.SUCCEEDED),
            ("sobol-fallback", TrialState.SUCCEEDED),
        ]
        events = [msgspec.json.decode(entry, type=JournalEntry).event for _, entry in store.journal()]
        agent.hang_up()
    answers = [event for event in events if isinstance(event, Suggested)]
    assert [(answer.call, len(answer.suggestions)) for answer in answers] == [(1, 1), (2, 1)]
    assert [answer.note[: len(note)] for answer in answers] == [note] * 2


@pytest.mark.parametrize("method", ["scoot", "vbo", "soboll"])
async def test_a_study_that_its_method_cannot_serve_is_refused_at_its_start(
    tmp_path: pathlib.Path, method: str
) -> None:
    metrics = ("ttft_mean", "tpot_mean", "request_throughput")
    study = msgspec.structs.replace(
        spec(), objectives=tuple(Objective(metric=metric) for metric in metrics), optimizer=Optimizer(method=method)
    )
    async with desk(tmp_path) as d:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await submit(d, study)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        details = str(caught.value.details())
        assert details.startswith("optimizer.method: ")
        assert method in details
        assert "auto" in details  # a remedy
        assert not d.coordinator.state.studies
