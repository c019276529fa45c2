"""GA: a genetic algorithm over mixed variables; NSGA-II where there is more than one objective (SCOOT, appendix A.3).

The population is no state: it is what the survival rule leaves of all finished trials, whoever proposed them, failures
with their penalty (see `penalty`). Asked for ten at a time this is the usual algorithm of generations of ten; asked for
one at a time, or while trials are pending, an offspring has the best population known by then as its parents.

Numbers live on the unit interval of their own scale; flags, listed values and powers of two are choices, as polynomial
mutation hardly ever leaves the cell of a coarse grid. Operators and their constants are pymoo's defaults for mixed
variables, but for the rate of mutation, which is 1/d for every gene (pymoo looks at each choice alone and redraws half
of them). Known constraints are kept by moving an offspring to the nearest configuration that satisfies them.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from pymoo.algorithms.moo.nsga2 import binary_tournament
from pymoo.algorithms.soo.nonconvex.ga import FitnessSurvival, comp_by_cv_and_fitness
from pymoo.config import Config as PymooConfig
from pymoo.core.duplicate import NoDuplicateElimination
from pymoo.core.mixed import MixedVariableMating
from pymoo.core.population import Population
from pymoo.core.problem import Problem as PymooProblem
from pymoo.core.variable import Choice, Real
from pymoo.operators.mutation.pm import PM
from pymoo.operators.mutation.rm import ChoiceRandomMutation
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

from scoot.coordinator.objective.pareto import FloatArray
from scoot.coordinator.optimizer.base import Suggestion, Task
from scoot.coordinator.optimizer.baselines.penalty import Evidence, evidence_of
from scoot.coordinator.optimizer.baselines.proposals import Proposals, generator
from scoot.coordinator.space.encoding import Axis, ChoiceAxis, GridAxis, PowerAxis
from scoot.coordinator.space.space import Space

SOURCE: Final = "ga"

POPULATION: Final = 10
"""Individuals (SCOOT, appendix A.3). The first ten trials are the default and Sobol points."""

_ROUNDS: Final = 100
"""Matings tried until enough offspring are new; then Sobol points take their places."""

_PARENTS: Final = 2

PymooConfig.warnings["not_compiled"] = False  # it would be printed on the worker's standard output


def suggest(task: Task) -> tuple[Suggestion, ...]:
    """The next `task.n` individuals (a Method).

    Raises:
        UserError: a trial has another number of values than the problem has objectives.
    """
    proposals = Proposals(task, SOURCE)
    evidence = evidence_of(task.problem, task.history)
    proposals.add_sobol(POPULATION - len(task.history), "first population (Sobol)")
    if proposals.missing and len(evidence.units) >= _PARENTS:
        _breed(task, evidence, proposals)
    proposals.add_sobol(proposals.missing, "Sobol fill-up")
    return tuple(proposals.found)


def _breed(task: Task, evidence: Evidence, proposals: Proposals) -> None:
    """Add offspring of the population until there are enough, or _ROUNDS have been tried."""
    space, rng = task.problem.space, generator(task)
    one = len(task.problem.directions) == 1
    problem = PymooProblem(vars={axis.name: _variable(axis) for axis in space.axes}, n_obj=len(evidence.penalty))
    everyone = Population.new(X=_genomes(space, evidence.units), F=evidence.figures)
    survival = FitnessSurvival() if one else RankAndCrowding()
    parents = survival.do(problem, everyone, n_survive=POPULATION, random_state=rng)
    rate = 1.0 / len(space.axes)
    mating = MixedVariableMating(
        mutation={Real: PM(prob_var=rate), Choice: ChoiceRandomMutation(prob_var=rate)},
        selection=TournamentSelection(func_comp=comp_by_cv_and_fitness if one else binary_tournament),
        eliminate_duplicates=NoDuplicateElimination(),  # proposals know more of them than the population
    )
    algorithm = SimpleNamespace(tournament_type="comp_by_dom_and_crowding", random_state=rng)  # what NSGA-II's asks for
    why = {"design": "GA offspring" if one else "NSGA-II offspring"}
    for _ in range(_ROUNDS):
        if not proposals.missing:
            return
        offspring = mating.do(problem, parents, proposals.missing, random_state=rng, algorithm=algorithm)
        for config in space.decode(space.project_points(_units(space, [each.X for each in offspring]))):
            proposals.add(config, why)


def _variable(axis: Axis) -> Any:  # noqa: ANN401 - pymoo has no types
    """The kind of gene of a parameter: a choice among the cells of its grid, or a number of the unit interval."""
    if _chosen(axis):
        return Choice(options=list(range(axis.count or 0)))
    return Real(bounds=(0.0, 1.0))


def _chosen(axis: Axis) -> bool:
    return isinstance(axis, ChoiceAxis | PowerAxis)


def _genomes(space: Space, units: FloatArray) -> list[dict[str, int | float]]:
    """(N, d) points -> genes by name."""
    columns = [
        axis.cells(units[:, place]) if isinstance(axis, GridAxis) and _chosen(axis) else units[:, place]
        for place, axis in enumerate(space.axes)
    ]
    return [dict(zip(space.names, row, strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]


def _units(space: Space, genomes: list[dict[str, int | float]]) -> FloatArray:
    """Genes by name -> (N, d) points."""
    units = np.empty((len(genomes), len(space.axes)))
    for place, axis in enumerate(space.axes):
        genes = np.asarray([genome[axis.name] for genome in genomes])
        if isinstance(axis, GridAxis) and _chosen(axis):
            units[:, place] = axis.units(genes.astype(np.int64))
        else:
            units[:, place] = genes.astype(np.float64)
    return units
