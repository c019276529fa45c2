"""kill -9 of either daemon in the middle of a study: it ends, nothing finished runs twice, nothing is left over."""

from __future__ import annotations

import pathlib
import re

import pytest
from rig import Rig, rig, study, submit

from scoot.coordinator.store.doctor import check_store
from scoot.wire.states import StudyState, TrialState
from scoot.wire.view import StudyDetail

pytestmark = pytest.mark.timeout(180)


def completed(detail: StudyDetail) -> int:
    return sum(trial.state is TrialState.SUCCEEDED for trial in detail.trials)


def begun(made: Rig) -> list[str]:
    """Attempts the agents began, as their logs tell."""
    return [name for agent in made.agents for name in re.findall(r"(\S+/\d+/\d+): begins", agent.log())]


async def check_end(made: Rig, study_id: str, trials: int) -> StudyDetail:
    """The study ended well, each attempt ran once, the store is sound, no process is left."""
    detail = await made.until(study_id, lambda d: d.study.state.is_terminal)
    assert detail.study.state is StudyState.COMPLETED
    assert [trial.number for trial in detail.trials] == list(range(trials))
    assert {trial.state for trial in detail.trials} == {TrialState.SUCCEEDED}
    attempts = begun(made)
    assert len(set(attempts)) == len(attempts)
    assert len(attempts) <= sum(trial.attempts for trial in detail.trials)  # one may be offered to a dead agent
    made.stop()
    assert made.leftovers() == []
    # gRPC's fork handlers used to kill every other optimizer process at birth.
    assert "fork_posix" not in made.coordinator.log()
    assert "optimizer failed" not in made.coordinator.log()
    assert [finding for finding in check_store(str(made.folder / "coordinator")) if finding.severity == "error"] == []
    return detail


async def test_the_coordinator_is_killed(tmp_path: pathlib.Path) -> None:
    async with rig(tmp_path, slots=2) as made:
        study_id = await submit(made, study(trials=6, parallelism=2))
        before = await made.until(study_id, lambda d: completed(d) >= 2)
        made.coordinator.kill()
        made.coordinator.start()
        await made.coordinator.ready()
        after = await check_end(made, study_id, 6)
    done = {trial.number for trial in before.trials if trial.state is TrialState.SUCCEEDED}
    kept = {trial.number: trial for trial in after.trials}
    assert all(kept[trial.number].runs == trial.runs for trial in before.trials if trial.number in done)
    assert {trial.attempts for trial in after.trials} == {1}  # what ran went on, what was finished stayed


async def test_the_agent_is_killed(tmp_path: pathlib.Path) -> None:
    async with rig(tmp_path, slots=2) as made:
        study_id = await submit(made, study(trials=6, parallelism=2))
        before = await made.until(
            study_id, lambda d: completed(d) >= 2 and any(trial.phase == "MEASURE" for trial in d.trials)
        )
        made.agents[0].kill()
        made.agents[0].start()
        await made.agents[0].ready()
        after = await check_end(made, study_id, 6)
    done = {trial.number: trial for trial in before.trials if trial.state is TrialState.SUCCEEDED}
    assert all(after.trials[number].runs == trial.runs for number, trial in done.items())
    assert all(after.trials[number].attempts == trial.attempts for number, trial in done.items())
    assert max(trial.attempts for trial in after.trials) == 2


async def test_coordinator_then_agent_and_two_hosts(tmp_path: pathlib.Path) -> None:
    async with rig(tmp_path, agents=2) as made:
        study_id = await submit(made, study(trials=6, parallelism=2, orders=2))
        await made.until(study_id, lambda d: completed(d) >= 1)
        made.coordinator.kill()
        made.coordinator.start()
        await made.coordinator.ready()
        await made.until(study_id, lambda d: completed(d) >= 2)
        made.agents[1].kill()
        made.agents[1].start()
        detail = await check_end(made, study_id, 8 if await best_is_new(made, study_id) else 7)
        assert {trial.agent for trial in detail.trials} == {"agent-0", "agent-1"}


async def best_is_new(made: Rig, study_id: str) -> bool:
    """Whether the best differs from the default, which decides how many trials confirm."""
    detail = await made.until(study_id, lambda d: d.study.state.is_terminal)
    return detail.study.best_trial != 0


async def test_a_client_that_dies_changes_nothing(tmp_path: pathlib.Path) -> None:
    async with rig(tmp_path) as made:
        study_id = await submit(made, study(trials=2))
        assert await submit(made, study(trials=9)) == study_id
        await check_end(made, study_id, 2)
