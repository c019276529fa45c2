"""A random forest as a surrogate: the mean and the spread of its trees, and what is believed of unfinished trials."""

from __future__ import annotations

from typing import Final

import numpy as np
from sklearn.ensemble import RandomForestRegressor

from scoot.coordinator.objective.pareto import FloatArray

TREES: Final = 100


class Forest:
    """Regressions of m figures, each on its own: trees on bootstrap samples, grown to single observations.

    Attributes:
        units: (N, d) points learnt from.
        figures: (N, m).
    """

    def __init__(self, units: FloatArray, figures: FloatArray, seed: int) -> None:
        """Fit it.

        Args:
            units: (N, d), N at least 1.
            figures: (N, m), finite.
            seed: 0 to 2**32 - 1.
        """
        self.units = units
        self.figures = figures
        self._seed = seed
        self._trees = [
            [tree.tree_ for tree in RandomForestRegressor(TREES, random_state=seed).fit(units, column).estimators_]
            for column in figures.T
        ]

    def predict(self, units: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(N, d) points -> means and standard deviations over the trees, both (N, m)."""
        rows = np.asarray(units, dtype=np.float32)  # what a tree takes
        found = [np.stack([tree.predict(rows)[:, 0] for tree in trees]) for trees in self._trees]
        return np.stack([f.mean(axis=0) for f in found], axis=1), np.stack([f.std(axis=0) for f in found], axis=1)

    def believing(self, units: FloatArray) -> Forest:
        """A forest that has also seen (N, d) points come out as it expects them to."""
        if len(units) == 0:
            return self
        figures = np.concatenate([self.figures, self.predict(units)[0]])
        return Forest(np.concatenate([self.units, units]), figures, self._seed)
