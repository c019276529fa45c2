"""The public API: ask for configurations to try, tell what came of them. Usable without the rest of SCOOT.

All that an Optimizer knows is its history; methods are functions of it (optimizer.base). So an Optimizer that is made
anew from the history of another goes on exactly as that one would have done, in this process or the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, Final, Self, TypeAlias

import msgspec

from scoot.coordinator.objective.best import best_trial, contending
from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.objective.outcome import Outcome, violation
from scoot.coordinator.objective.pareto import minimise, pareto_front
from scoot.coordinator.optimizer.base import UNNUMBERED, Observation, Problem, Suggestion, Task
from scoot.coordinator.optimizer.contract import ask_method
from scoot.coordinator.optimizer.registry import DEFAULT_METHOD, check_method, load_method
from scoot.coordinator.optimizer.told import (
    Figures,
    Goals,
    Infeasible,
    read_config,
    read_figures,
    read_noise,
    read_objectives,
    read_outcomes,
    read_space,
)
from scoot.coordinator.space.space import Space
from scoot.wire.errors import UserError
from scoot.wire.spec import Config, Parameter, Scalar

Result: TypeAlias = Observation | Infeasible | Figures | None

_Key: TypeAlias = frozenset[tuple[str, Scalar]]

_DEFAULT_NUMBER: Final = 0


class Optimizer:
    """Suggests configurations of a space, from what was told of others.

    Args:
        space: the search space, or its d parameters.
        objectives: 1 to limits.OBJECTIVES: names with directions, {"latency": "minimise"}, or names of SCOOT's metrics
            (docs/measurement.md), whose directions are known. m of them below.
        constraints: known constraints over the parameters, "max_num_batched_tokens >= max_num_seqs"; a Space has its
            own.
        method: who suggests: a name of registry.METHODS.
        default: the configuration to beat, instead of the parameters' own defaults; may leave parameters out, which
            says that nobody knows their values. If it states all of them, it is suggested first.
        seed: any integer. The same seed and history give the same suggestions, bit by bit, on the same machine.
        outcomes: limits on k other figures, "ttft_p95 <= 2000", which a configuration must keep to be any use.
        history: observations of before, with their configurations: another Optimizer's `history`, or a user's own. They
            may be in any order; those without a number get one, in order.

    Raises:
        UserError: an argument is wrong, or the history is not of this space; nothing global was changed.

    Source: SCOOT, section 4: the default is trial 0, the configuration to beat, and then the optimizer suggests.
    """

    def __init__(
        self,
        space: Space | Sequence[Parameter],
        objectives: Goals,
        *,
        constraints: Sequence[str] = (),
        method: str = DEFAULT_METHOD,
        default: Mapping[str, Any] | None = None,
        seed: int = 0,
        outcomes: Iterable[Outcome | str] = (),
        history: Iterable[Observation] = (),
    ) -> None:
        if not _is_integer(seed):
            raise UserError(f"{seed!r} is not an integer", key="seed")
        self._names, directions = read_objectives(objectives)
        check_method(method, objectives=len(directions))
        self._problem = Problem(
            space=read_space(space, constraints, default), directions=directions, outcomes=read_outcomes(outcomes)
        )
        self._method = method
        self._seed = int(seed)
        self._records: dict[int, Observation] = {}
        self._numbers: dict[_Key, int] = {}
        given = list(history)
        for observation in (*(o for o in given if o.number >= 0), *(o for o in given if o.number < 0)):
            self._keep([self._remembered(observation)])

    @classmethod
    def from_history(
        cls,
        history: Iterable[Observation],
        space: Space | Sequence[Parameter],
        objectives: Goals,
        **options: Any,  # noqa: ANN401 - the keyword arguments of the class
    ) -> Self:
        """An Optimizer that goes on where the one with this history was: pending trials are pending again.

        Args:
            history: `history` of an Optimizer, stored in between or not.
            space, objectives, options: as of the class; the same as that one's.

        Raises:
            UserError: the history is of another space or other objectives, with the difference.
        """
        return cls(space, objectives, history=history, **options)

    # -- what is known -------------------------------------------------------------------------------------------------

    @property
    def space(self) -> Space:
        """The search space, with the default that was given."""
        return self._problem.space

    @property
    def objectives(self) -> dict[str, Direction]:
        """Names of the objectives and which way is better, in order."""
        return dict(zip(self._names, self._problem.directions, strict=True))

    @property
    def history(self) -> tuple[Observation, ...]:
        """Everything asked and told, in order of number: all that there is to keep of an Optimizer.

        `msgspec.json.encode(optimizer.history)` writes it, `msgspec.json.decode(data, type=tuple[Observation, ...])`
        reads it.
        """
        return tuple(self._records[number] for number in sorted(self._records))

    @property
    def pending(self) -> tuple[Config, ...]:
        """Configurations asked for and not told yet, in order."""
        return tuple(dict(record.config) for record in self.history if record.pending)

    @property
    def best(self) -> Observation | None:
        """The best of what was told; None while nothing was measured.

        It is chosen among what keeps the outcomes; where nothing is known to, among what violates them least. With
        several objectives: largest single-point hypervolume against the default (objective.best.best_trial).
        """
        default = self._records.get(_DEFAULT_NUMBER)
        reference = default.values if default is not None else None
        values = [(record.number, record.values) for record in self.history if record.values is not None]
        number = best_trial(values, reference, self._problem.directions, self._violations())
        return None if number is None else self._records[number]

    @property
    def front(self) -> tuple[Observation, ...]:
        """What no other dominates, among the same; in order of number."""
        violations = self._violations()
        useful = contending(tuple(violations), violations)
        records = [record for record in self.history if record.number in useful]
        points = minimise([record.values or () for record in records], self._problem.directions)
        return tuple(record for record, on_front in zip(records, pareto_front(points), strict=True) if on_front)

    # -- asking and telling --------------------------------------------------------------------------------------------

    def ask(self, n: int = 1) -> list[Suggestion]:
        """Configurations to try next: `n` of them, fewer (in the end none) only when the space has no more.

        They satisfy the known constraints, and none was asked, told or in the history before. They are pending until
        they are told. A default that states every parameter comes first.

        Raises:
            UserError: `n` is not an integer of at least 1.
            SolverError: the method failed, in whatever way (that is its cause); nothing was asked then.
        """
        if not _is_integer(n) or n < 1:
            raise UserError(f"{n!r} suggestions cannot be asked for", key="n", hint="an integer, at least 1")
        suggestions = self._default_first()
        pending = [_pending(_DEFAULT_NUMBER, suggestion) for suggestion in suggestions]
        if n > len(suggestions):
            history = (*pending, *self.history)
            task = Task(
                problem=self._problem,
                history=history,
                n=n - len(suggestions),
                call=sum(record.number != _DEFAULT_NUMBER for record in history),
                seed=self._seed,
            )
            found = ask_method(load_method(self._method), task)
            first = max(self._records, default=_DEFAULT_NUMBER) + 1
            pending += [_pending(number, suggestion) for number, suggestion in enumerate(found, first)]
            suggestions += found
        self._keep(pending)
        return suggestions

    def tell(
        self,
        what: Suggestion | Mapping[str, Any],
        result: Result,
        *,
        noise: Figures | None = None,
        outcomes: Figures | None = None,
    ) -> None:
        """Say what came of a configuration, in whatever order; one that was never asked for is as welcome.

        Args:
            what: the suggestion, or a configuration of the space (or its default).
            result: m finite figures, in the objectives' own units and senses: a number, a sequence in the order of the
                objectives, or a mapping by name; or an Observation that has them. Infeasible(reason): it does not
                work, and the configuration is to blame. None: nothing was measured, and it is not to blame (a lost
                host, say); that teaches nothing, and it is not suggested again.
            noise: standard errors of these m figures, same units, at least 0; None is unknown.
            outcomes: k finite figures, one for each limited outcome, in its own unit; None is unknown.

        Raises:
            UserError: not a configuration of the space (with the difference), told before, another number of figures,
                or one that is NaN or infinite. Nothing was changed, what is pending stays so.
        """
        config = read_config(self.space, what.config if isinstance(what, Suggestion) else what)
        before = self._find(config)
        if before is not None and not before.pending:
            raise UserError(f"told already, as trial {before.number}: {_shown(before)}", key="config", hint=_TWICE)
        number = before.number if before is not None else self._next_number(config)
        if isinstance(result, Observation):
            record = self._told_observation(result, config, number, noise, outcomes)
        else:
            record = self._told(result, config, number, noise, outcomes)
        self._keep([record])

    # -- inside --------------------------------------------------------------------------------------------------------

    def _told_observation(
        self, told: Observation, config: Config, number: int, noise: Figures | None, outcomes: Figures | None
    ) -> Observation:
        if noise is not None or outcomes is not None:
            raise UserError("an Observation has its own noise and outcomes", key="noise", hint="give them to it")
        if told.pending:
            raise UserError("a pending observation tells nothing", key="observation", hint="tell it when it is over")
        if told.config and read_config(self.space, told.config) != config:
            raise UserError(f"the observation is of {told.config}, not of {config}", key="observation.config")
        if told.number not in (UNNUMBERED, number):
            raise UserError(f"the observation is of trial {told.number}, not {number}", key="observation.number")
        result: Infeasible | Figures | None = Infeasible(told.reason) if told.infeasible else told.values
        return self._told(result, config, number, told.noise, told.outcomes)

    def _told(
        self,
        result: Infeasible | Figures | None,
        config: Config,
        number: int,
        noise: Figures | None,
        outcomes: Figures | None,
    ) -> Observation:
        """What was told of a configuration, as the methods see it."""
        if result is None or isinstance(result, Infeasible):
            if noise is not None or outcomes is not None:
                raise UserError("noise and outcomes belong to values", key="noise", hint="leave them out")
            if result is None:
                return Observation(number=number, config=config)
            return Observation(number=number, config=config, infeasible=True, reason=str(result.reason))
        limited = [outcome.name for outcome in self._problem.outcomes]
        return Observation(
            number=number,
            config=config,
            values=read_figures("values", result, self._names),
            noise=None if noise is None else read_noise(noise, self._names),
            outcomes=None if outcomes is None else read_figures("outcomes", outcomes, limited),
        )

    def _remembered(self, given: Observation) -> Observation:
        """The record of an observation of a history.

        Raises:
            UserError: it does not belong here; says which it is.
        """
        try:
            return self._reread(given)
        except UserError as error:
            name = f"trial {given.number}" if given.number >= 0 else str(given.config)
            raise UserError(f"{name}: {error.message}", key=error.key or "history", hint=error.hint) from error

    def _reread(self, given: Observation) -> Observation:
        config, default = read_config(self.space, given.config), self.space.default_config()
        before = self._find(config)
        if before is not None:
            raise UserError(f"the same configuration as trial {before.number}", hint=_TWICE)
        number = given.number if given.number >= 0 else self._next_number(config)
        if number in self._records:
            raise UserError("the number is there twice", hint="leave numbers out")
        if number == _DEFAULT_NUMBER and config != default:
            raise UserError(
                f"number 0 is for the default configuration, {default}", hint="leave numbers out, or give `default`"
            )
        if given.pending:
            return Observation(number=number, config=config, pending=True)
        told = msgspec.structs.replace(given, number=UNNUMBERED, config={})
        return self._told_observation(told, config, number, None, None)

    def _keep(self, records: Iterable[Observation]) -> None:
        """Take checked records in, or what became of them."""
        for record in records:
            self._records[record.number] = record
            self._numbers[_key(record.config)] = record.number

    def _find(self, config: Config) -> Observation | None:
        """The record of a configuration, as read_config gives it."""
        number = self._numbers.get(_key(config))
        return None if number is None else self._records[number]

    def _next_number(self, config: Config) -> int:
        """The number of a configuration that has none: 0 is kept for the default."""
        if config == self.space.default_config():
            return _DEFAULT_NUMBER
        return max(self._records, default=_DEFAULT_NUMBER) + 1

    def _default_first(self) -> list[Suggestion]:
        """The default, while it can be tried and is not known."""
        config = self.space.default_config()
        if self.space.key(config) is None or self._find(config) is not None:
            return []
        return [Suggestion(config=config, source="default", explanation={"design": "default configuration"})]

    def _violations(self) -> dict[int, float]:
        """How far each trial with values is beyond its outcomes, by number; infinite where that is not known."""
        outcomes = self._problem.outcomes
        return {
            record.number: violation(outcomes, record.outcomes or [None] * len(outcomes))
            for record in self.history
            if record.values is not None
        }


_TWICE: Final = "a configuration is told once; of repeated measurements tell the mean, and its standard error as noise"


def _key(config: Config) -> _Key:
    """Identity of a configuration in the space's own types; of the default, too, if that is not a full one."""
    return frozenset(config.items())


def _pending(number: int, suggestion: Suggestion) -> Observation:
    """A suggestion that was just made. Its configuration is copied: the other copy is the user's."""
    return Observation(number=number, config=dict(suggestion.config), pending=True)


def _is_integer(value: object) -> bool:
    """NumPy's integers are; True is not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _shown(record: Observation) -> str:
    """What was told, for an error."""
    if record.infeasible:
        return f"infeasible {record.reason}".rstrip()
    return "nothing was measured" if record.values is None else f"values {record.values}"
