"""The probability of feasibility: a random forest that regresses on 0 (infeasible) and 1 (SCOOT, section 4.7).

scikit-learn grows the trees; they are walked here, all together, as a solver asks thousands of times for a few points.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import RandomForestRegressor

from scoot.coordinator.objective.pareto import BoolArray, FloatArray

TREES: Final = 100

_LEAF: Final = -1


class Forest:
    """A fitted forest.

    Args:
        features: (n, D), n >= 1.
        feasible: (n,).
        seed: of the trees; 32 bits.
    """

    def __init__(self, features: FloatArray, feasible: BoolArray, seed: int) -> None:
        forest = RandomForestRegressor(TREES, random_state=seed)
        forest.fit(features, feasible.astype(np.float64))
        trees = [tree.tree_ for tree in forest.estimators_]
        first = np.cumsum([0, *(tree.node_count for tree in trees)])
        self._roots = first[:-1]
        self._depth = max(tree.max_depth for tree in trees)
        self._feature: npt.NDArray[np.int64] = np.concatenate([np.maximum(tree.feature, 0) for tree in trees])
        self._split: FloatArray = np.concatenate([tree.threshold for tree in trees])
        self._value: FloatArray = np.concatenate([tree.value[:, 0, 0] for tree in trees])
        self._left = _children([tree.children_left for tree in trees], first)
        self._right = _children([tree.children_right for tree in trees], first)

    def probability(self, features: FloatArray) -> FloatArray:
        """(N, D) -> (N,) mean over the trees, 0 to 1."""
        seen = features.astype(np.float32)  # what scikit-learn compares with its thresholds
        rows = np.arange(len(seen))[:, None]
        node = np.broadcast_to(self._roots, (len(seen), len(self._roots)))
        for _ in range(self._depth):
            node = np.where(seen[rows, self._feature[node]] <= self._split[node], self._left[node], self._right[node])
        found: FloatArray = self._value[node].mean(axis=1)
        return found


def _children(trees: list[npt.NDArray[np.int64]], first: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Children numbered over all trees; a leaf is its own child."""
    return np.concatenate(
        [
            np.where(children == _LEAF, np.arange(len(children)), children) + start
            for children, start in zip(trees, first, strict=False)
        ]
    )
