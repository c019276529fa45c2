"""A Gaussian process: Matern-5/2, a length scale per feature, fitted by maximum a posteriori. Pure, numpy and scipy.

Few observations in many dimensions leave length scales open, so they have a prior that grows with the root of the
dimension (Hvarfner, Hellsten, Nardi 2024): a plain start that becomes an anisotropic one as data come in. Own code and
not botorch's: with 30 points a fit takes 10 ms instead of a second, and bars on the time of a suggestion ask for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

FloatArray = npt.NDArray[np.float64]

_SQRT5: Final = math.sqrt(5.0)
_JITTER: Final = 1e-8
_LENGTH: Final = 0.3
"""Median of the prior of length scales, times the root of the dimension."""
_LENGTH_SPREAD: Final = 1.0
"""Standard deviation of the prior of log length scales."""
_NOISE_MEAN: Final = math.log(3e-3)
_NOISE_SPREAD: Final = 1.5
"""Prior of the log noise variance, in units of the variance of the values."""
_SCALE_SPREAD: Final = 0.7
_ITERATIONS: Final = 60
_BOUNDS_LENGTH: Final = (math.log(0.03), math.log(100.0))
_BOUNDS_SCALE: Final = (math.log(0.05), math.log(20.0))
_BOUNDS_NOISE: Final = (math.log(1e-6), math.log(1.0))


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A fitted process; predictions are in the units of the values it was fitted to.

    Attributes:
        x: (n, d) features of the observations.
        lengths: (d,) length scales.
        scale, noise: variances, of standardised values.
        mean, deviation: what values were standardised by.
    """

    x: FloatArray
    lengths: FloatArray
    scale: float
    noise: FloatArray
    mean: float
    deviation: float
    _chol: FloatArray
    _weights: FloatArray

    @classmethod
    def fit(cls, x: FloatArray, y: FloatArray, noise: FloatArray | None = None) -> Surrogate:
        """To observations.

        Args:
            x: (n, d) features, n at least 1.
            y: (n,) finite values.
            noise: (n,) known standard errors of the values, on top of a common one that is learnt; None is 0.
        """
        mean = float(np.mean(y))
        deviation = float(np.std(y)) or 1.0
        z = (y - mean) / deviation
        known = np.zeros(len(y)) if noise is None else (noise / deviation) ** 2
        d = x.shape[1]
        length_mean = math.log(_LENGTH) + 0.5 * math.log(d)
        prior_mean = np.array([*[length_mean] * d, 0.0, _NOISE_MEAN])
        prior_spread = np.array([*[_LENGTH_SPREAD] * d, _SCALE_SPREAD, _NOISE_SPREAD])
        squares = (x[:, None, :] - x[None, :, :]) ** 2

        def loss(theta: FloatArray) -> tuple[float, FloatArray]:
            return _posterior(theta, squares, z, known, prior_mean, prior_spread)

        bounds = [*[_BOUNDS_LENGTH] * d, _BOUNDS_SCALE, _BOUNDS_NOISE]
        found = minimize(
            loss, prior_mean, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _ITERATIONS}
        ).x
        lengths, scale = np.exp(found[:d]), math.exp(found[d])
        return cls.given(x, y, lengths=lengths, scale=scale, noise=math.exp(found[d + 1]) + known)

    @classmethod
    def given(
        cls,
        x: FloatArray,
        y: FloatArray,
        *,
        lengths: FloatArray,
        scale: float,
        noise: FloatArray,
        mean: float | None = None,
        deviation: float | None = None,
    ) -> Surrogate:
        """With hyper-parameters that are given; `mean` and `deviation` follow from the values unless given, too."""
        centre = float(np.mean(y)) if mean is None else mean
        spread = (float(np.std(y)) or 1.0) if deviation is None else deviation
        z = (y - centre) / spread
        covariance = scale * _matern(_distances(x, x, lengths))
        covariance[np.diag_indices_from(covariance)] += noise + _JITTER
        chol = cholesky(covariance, lower=True, check_finite=False)
        weights: FloatArray = cho_solve((chol, True), z, check_finite=False)
        return cls(x, lengths, scale, noise, centre, spread, chol, weights)

    def predict(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(N, d) features -> (N,) means and (N,) standard deviations, without noise."""
        cross = self.scale * _matern(_distances(x, self.x, self.lengths))
        half = solve_triangular(self._chol, cross.T, lower=True, check_finite=False)
        variance = np.maximum(self.scale - np.einsum("ij,ij->j", half, half), 1e-12)
        return self.mean + self.deviation * (cross @ self._weights), self.deviation * np.sqrt(variance)

    def believing(self, x: FloatArray) -> Surrogate:
        """Conditioned on pending points as if they came out as expected: they are certain, and nothing else moves."""
        if not len(x):
            return self
        expected, _ = self.predict(x)
        noise = np.concatenate([self.noise, np.full(len(x), float(np.min(self.noise)))])
        values = np.concatenate([self.mean + self.deviation * self._values(), expected])
        return Surrogate.given(
            np.vstack([self.x, x]),
            values,
            lengths=self.lengths,
            scale=self.scale,
            noise=noise,
            mean=self.mean,
            deviation=self.deviation,
        )

    def _values(self) -> FloatArray:
        """(n,) standardised values, from the weights."""
        values: FloatArray = self._chol @ (self._chol.T @ self._weights)
        return values


def _distances(a: FloatArray, b: FloatArray, lengths: FloatArray) -> FloatArray:
    """(N, M) scaled distances."""
    a, b = a / lengths, b / lengths
    squares = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T, 0.0)
    distances: FloatArray = np.sqrt(squares)
    return distances


def _matern(r: FloatArray) -> FloatArray:
    s = _SQRT5 * r
    values: FloatArray = (1 + s + s * s / 3) * np.exp(-s)
    return values


def _posterior(
    theta: FloatArray,
    squares: FloatArray,
    z: FloatArray,
    known: FloatArray,
    prior_mean: FloatArray,
    prior_spread: FloatArray,
) -> tuple[float, FloatArray]:
    """Negative log posterior of (log lengths, log scale, log noise), and its gradient."""
    d = squares.shape[2]
    lengths, scale, noise = np.exp(theta[:d]), math.exp(theta[d]), math.exp(theta[d + 1])
    inverse = lengths**-2.0
    r = np.sqrt(squares @ inverse)
    s = _SQRT5 * r
    decay = np.exp(-s)
    kernel = scale * (1 + s + s * s / 3) * decay
    covariance = kernel + np.diag(known + noise + _JITTER)
    try:
        chol = cholesky(covariance, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return 1e25, np.zeros_like(theta)
    weights = cho_solve((chol, True), z, check_finite=False)
    solved = cho_solve((chol, True), np.eye(len(z)), check_finite=False)
    outer = np.outer(weights, weights) - solved
    off = (theta - prior_mean) / prior_spread
    value = 0.5 * float(z @ weights) + float(np.log(np.diag(chol)).sum()) + 0.5 * float(off @ off)
    # d kernel / d log length = scale 5/3 (1 + s) exp(-s) square / length^2
    common = outer * (scale * (5.0 / 3.0) * (1 + s) * decay)
    gradient = np.empty_like(theta)
    gradient[:d] = -0.5 * np.einsum("ij,ijk->k", common, squares) * inverse
    gradient[d] = -0.5 * float(np.sum(outer * kernel))
    gradient[d + 1] = -0.5 * noise * float(np.trace(outer))
    return value, gradient + off / prior_spread
