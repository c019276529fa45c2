"""A call of the optimizer for a study, with the engine's own argument check between it and the trials."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from scoot.coordinator.optimizer.base import Ask, Observation
from scoot.coordinator.solver.pool import Solver
from scoot.coordinator.study import vetting
from scoot.coordinator.study.effects import RequestSuggestions
from scoot.coordinator.study.events import Suggested, SuggestedConfig
from scoot.coordinator.study.history import observations
from scoot.coordinator.study.state import Idle, Rejected, StudyRecord, TrialRecord
from scoot.wire.catalogue.verdict import Checked
from scoot.wire.client_parameters import engine_config
from scoot.wire.errors import SolverError, UserError
from scoot.wire.spec import Config, Service

_log = logging.getLogger(__name__)

ROUNDS: Final = 8
"""Times the optimizer is asked for one call; suggestions of the last become trials whatever the engine says."""


class EngineCheck(Protocol):
    """Whoever can ask an engine what it would make of configurations."""

    async def check(
        self, service: Service, configs: Sequence[Config], names: Sequence[str]
    ) -> tuple[Checked, ...] | None:
        """A verdict for each; None where nobody can be asked now. `names`: parameters whose values are wanted."""


class Suggester:
    """Gets suggestions and has them checked."""

    def __init__(self, solver: Solver, engines: EngineCheck) -> None:
        self._solver = solver
        self._engines = engines

    async def suggest(
        self, effect: RequestSuggestions, study: StudyRecord, trials: Mapping[int, TrialRecord]
    ) -> Suggested:
        """The answer to a call. What the optimizer cannot do ends the search, with the reason in `note`."""
        resolved, idle = await self._look_at(study, trials)
        study = vetting.extended(study, idle=idle)
        known = {resolution: number for number, resolution in reversed(resolved.items())}
        known = {**known, **vetting.known_resolutions(trials.values())}
        kept: list[SuggestedConfig] = []
        rejected: list[Rejected] = []
        note = ""
        for left in reversed(range(ROUNDS)):
            seen = vetting.extended(study, rejected=rejected)
            asked = effect.n - len(kept)
            found, note = await self._ask(effect, seen, trials, kept, asked)
            checked = await self._check(study, [each.config for each in found])
            if checked is None:
                kept += found
                break
            sifted = vetting.sift(
                study.spec, found, checked, known=known, first=len(trials) + len(kept), take_all=left == 0
            )
            for number, each in enumerate(sifted.kept, len(trials) + len(kept)):
                if each.resolved:
                    known.setdefault(each.resolved, number)
            kept += sifted.kept
            rejected += sifted.rejected
            if len(kept) == effect.n or len(found) < asked:
                break
        return Suggested(
            study_id=effect.study_id,
            call=effect.call,
            suggestions=tuple(kept),
            note=note,
            rejected=tuple(rejected),
            idle=idle,
            resolved=resolved,
        )

    async def _ask(
        self,
        effect: RequestSuggestions,
        study: StudyRecord,
        trials: Mapping[int, TrialRecord],
        kept: Sequence[SuggestedConfig],
        n: int,
    ) -> tuple[list[SuggestedConfig], str]:
        """Suggestions, and why Sobol points stand in for the method's own, or why there are none."""
        history = observations(study, trials.values())
        first = max((each.number for each in history), default=-1) + 1
        pending = [Observation(number=first + k, config=each.config, pending=True) for k, each in enumerate(kept)]
        ask = Ask(
            spec=vetting.searched(study),
            history=(*history, *pending),
            n=n,
            call=effect.call,
            seed=study.spec.optimizer.seed,
        )
        try:
            result = await self._solver.suggest(study.spec.optimizer.method, ask, study.spec.budget.ask_deadline_s)
        except (UserError, SolverError) as error:
            # Not even Sobol has an answer: the search ends here, what it found is confirmed and reported.
            _log.warning("study %s, call %d: no suggestions: %s", effect.study_id, effect.call, error)
            return [], f"no suggestions: {error}"
        if result.fallback:
            _log.warning("study %s, call %d: %s", effect.study_id, effect.call, result.fallback)
        found = [
            SuggestedConfig(config=s.config, source=s.source, explanation=s.explanation) for s in result.suggestions
        ]
        return found, result.fallback

    async def _look_at(
        self, study: StudyRecord, trials: Mapping[int, TrialRecord]
    ) -> tuple[dict[int, str], tuple[Idle, ...]]:
        """What the engine makes of trials where that is not known; with the default's, parameters not to search."""
        open_trials = vetting.unresolved(trials.values())
        if not open_trials:
            return {}, ()
        begins = 0 in {trial.number for trial in open_trials}
        tried = vetting.probes(study.spec) if begins else ()
        default = trials[0].config
        configs = [trial.config for trial in open_trials]
        checked = await self._check(study, [*configs, *({**default, name: value} for name, value in tried)])
        if checked is None:
            return {}, ()
        verdicts, of_tried = checked[: len(open_trials)], checked[len(open_trials) :]
        resolved = {
            trial.number: resolution
            for trial, verdict in zip(open_trials, verdicts, strict=True)
            if (resolution := vetting.resolution(study.spec, trial.config, verdict))
        }
        idle = vetting.idle_parameters(study, verdicts[0], dict(zip(tried, of_tried, strict=True))) if begins else ()
        return resolved, idle

    async def _check(self, study: StudyRecord, configs: Sequence[Config]) -> tuple[Checked, ...] | None:
        if not configs:
            return ()
        names = [parameter.name for parameter in study.spec.parameters]
        return await self._engines.check(study.spec.service, [engine_config(each) for each in configs], names)
