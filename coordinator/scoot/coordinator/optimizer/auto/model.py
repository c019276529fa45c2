"""What is believed about a point that was not tried: objectives, limited outcomes, whether it works at all. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

from scoot.coordinator.optimizer.auto.history import History, Scale
from scoot.coordinator.optimizer.auto.parts import ALL, Parts
from scoot.coordinator.optimizer.auto.surrogate import Surrogate

FloatArray = npt.NDArray[np.float64]

_ENOUGH: Final = 2
"""Observations with values before objectives are modelled."""
_LABEL_MEAN: Final = 0.5
_LABEL_NOISE: Final = 0.1
_CERTAIN: Final = 0.1
"""Of the feasibility model: works is 1, fails is -1; far from everything it rather works; labels are a little noisy."""


@dataclass(frozen=True, eq=False)
class Belief:
    """Models fitted to one history.

    Attributes:
        scales: of each objective.
        objectives: their models, in modelled figures; empty before there are enough observations.
        outcomes: models of the excess over each limit.
        works: model of labels; None where nothing failed yet.
    """

    scales: tuple[Scale, ...]
    objectives: tuple[Surrogate, ...]
    outcomes: tuple[Surrogate, ...]
    works: Surrogate | None

    @classmethod
    def of(cls, history: History, features: FloatArray, parts: Parts = ALL, *, alone: bool = True) -> Self:
        """Fitted.

        Args:
            history: see there.
            features: (n, d') of all its points.
            parts: of the method.
            alone: whether objectives are explained by what each feature does by itself, too.
        """
        x = features[history.valued]
        scales = tuple(Scale.of(column, logs=parts.logs) for column in history.all_values.T)
        objectives: list[Surrogate] = []
        outcomes: list[Surrogate] = []
        if len(x) >= _ENOUGH:
            for scale, figures, errors in zip(scales, history.values.T, history.noise.T, strict=True):
                noise = scale.model_noise(figures, errors)
                objectives.append(Surrogate.fit(x, scale.model(figures), noise if noise.any() else None, alone=alone))
            for excess in history.outcomes.T:
                known = ~np.isnan(excess)
                if known.sum() >= _ENOUGH:
                    outcomes.append(Surrogate.fit(x[known], np.arcsinh(excess[known]), alone=parts.alone))
        return cls(scales, tuple(objectives), tuple(outcomes), _works(history, features, parts))

    def log_feasible(self, x: FloatArray) -> FloatArray:
        """(N,) logarithm of the probability that an engine with these features works."""
        if self.works is None:
            return np.zeros(len(x))
        mean, deviation = self.works.predict(x)
        logs: FloatArray = log_ndtr(mean / np.hypot(_CERTAIN, deviation))
        return logs

    def log_kept(self, x: FloatArray) -> FloatArray:
        """(N,) logarithm of the probability that all limits are kept."""
        logs = np.zeros(len(x))
        for model in self.outcomes:
            mean, deviation = model.predict(x)
            logs += log_ndtr(-mean / deviation)
        return logs


def _works(history: History, features: FloatArray, parts: Parts) -> Surrogate | None:
    if not parts.works or not len(history.failed):
        return None
    rows = np.concatenate([history.valued, history.failed])
    labels = np.concatenate([np.ones(len(history.valued)), -np.ones(len(history.failed))])
    x = features[rows]
    fitted = Surrogate.fit(x, labels, alone=parts.alone)
    return Surrogate.given(
        x,
        labels,
        lengths=fitted.lengths,
        share=fitted.share,
        scale=1.0,
        noise=np.full(len(rows), _LABEL_NOISE),
        mean=_LABEL_MEAN,
        deviation=1.0,
    )
