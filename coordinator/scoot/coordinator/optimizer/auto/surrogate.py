"""A Gaussian process: Matern-5/2, a length scale per feature, fitted by maximum a posteriori. Pure, numpy and scipy.

Its covariance is a mixture of two, whose share is fitted, too: what each feature does whatever the others are (a sum of
one-dimensional ones: additive, Duvenaud, Nickisch, Rasmussen 2011), and what they do together (the usual product). Most
of what an engine's flags do is of the first kind, and twenty of them are told apart by few observations that way.

Few observations in many dimensions leave length scales open, so they have a prior that grows with the root of the
dimension (Hvarfner, Hellsten, Nardi 2024): a plain start that becomes an anisotropic one as data come in. Own code and
not botorch's: with 30 points a fit takes 10 to 15 ms of CPU, where `scoot`'s by botorch takes 200.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import expit

FloatArray = npt.NDArray[np.float64]

_SQRT5: Final = math.sqrt(5.0)
_JITTER: Final = 1e-8
_LENGTH: Final = 0.3
"""Median of the prior of length scales, times the root of the dimension."""
_LENGTH_SPREAD: Final = 1.2
"""Standard deviation of the prior of log length scales."""
_NOISE_MEAN: Final = math.log(3e-3)
_NOISE_SPREAD: Final = 1.5
"""Prior of the log noise variance, in units of the variance of the values."""
_SCALE_SPREAD: Final = 0.7
_SHARE_MEAN: Final = 1.0
_SHARE_SPREAD: Final = 1.0
"""Prior of the log odds of the sum's share of the variance."""
_ITERATIONS: Final = 50
_FITTED: Final = 64
"""Most observations that hyper-parameters are fitted to; predictions use all."""
_BOUNDS_LENGTH: Final = (math.log(0.03), math.log(100.0))
_BOUNDS_SCALE: Final = (math.log(0.05), math.log(20.0))
_BOUNDS_NOISE: Final = (math.log(1e-6), math.log(1.0))
_BOUNDS_SHARE: Final = (-5.0, 5.0)
_NO_SHARE: Final = (-30.0, -30.0)


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A fitted process; predictions are in the units of the values it was fitted to.

    Attributes:
        x: (n, d) features of the observations.
        lengths: (d,) length scales.
        share: of the variance, that features explain each by itself; 0 to 1.
        scale, noise: variances, of standardised values.
        mean, deviation: what values were standardised by.
    """

    x: FloatArray
    lengths: FloatArray
    share: float
    scale: float
    noise: FloatArray
    mean: float
    deviation: float
    _chol: FloatArray
    _weights: FloatArray

    @classmethod
    def fit(cls, x: FloatArray, y: FloatArray, noise: FloatArray | None = None, *, alone: bool = True) -> Surrogate:
        """To observations.

        Args:
            x: (n, d) features, n at least 1.
            y: (n,) finite values.
            noise: (n,) known standard errors of the values, on top of a common one that is learnt; None is 0.
            alone: whether features explain a share each by itself.
        """
        mean = float(np.mean(y))
        deviation = float(np.std(y)) or 1.0
        z = (y - mean) / deviation
        some = _spread_out(z, _FITTED)
        known = np.zeros(len(y)) if noise is None else (noise / deviation) ** 2
        d = x.shape[1]
        length_mean = math.log(_LENGTH) + 0.5 * math.log(d)
        prior_mean = np.array([*[length_mean] * d, 0.0, _NOISE_MEAN, _SHARE_MEAN])
        prior_spread = np.array([*[_LENGTH_SPREAD] * d, _SCALE_SPREAD, _NOISE_SPREAD, _SHARE_SPREAD])
        apart = np.abs(x[some, None, :] - x[None, some, :])

        def loss(theta: FloatArray) -> tuple[float, FloatArray]:
            return _posterior(theta, apart, z[some], known[some], prior_mean, prior_spread)

        bounds = [*[_BOUNDS_LENGTH] * d, _BOUNDS_SCALE, _BOUNDS_NOISE, _BOUNDS_SHARE if alone else _NO_SHARE]
        start = np.clip(prior_mean, *np.transpose(bounds))
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _ITERATIONS}).x
        lengths, scale, share = np.exp(found[:d]), math.exp(found[d]), float(expit(found[d + 2]))
        return cls.given(x, y, lengths=lengths, share=share, scale=scale, noise=math.exp(found[d + 1]) + known)

    @classmethod
    def given(
        cls,
        x: FloatArray,
        y: FloatArray,
        *,
        lengths: FloatArray,
        share: float,
        scale: float,
        noise: FloatArray,
        mean: float | None = None,
        deviation: float | None = None,
    ) -> Surrogate:
        """With hyper-parameters that are given; `mean` and `deviation` follow from the values unless given, too."""
        centre = float(np.mean(y)) if mean is None else mean
        spread = (float(np.std(y)) or 1.0) if deviation is None else deviation
        z = (y - centre) / spread
        covariance = scale * _kernel(x, x, lengths, share)
        covariance[np.diag_indices_from(covariance)] += noise + _JITTER
        chol = cholesky(covariance, lower=True, check_finite=False)
        weights: FloatArray = cho_solve((chol, True), z, check_finite=False)
        return cls(x, lengths, share, scale, noise, centre, spread, chol, weights)

    def predict(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(N, d) features -> (N,) means and (N,) standard deviations, without noise."""
        cross = self.scale * _kernel(x, self.x, self.lengths, self.share)
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
            share=self.share,
            scale=self.scale,
            noise=noise,
            mean=self.mean,
            deviation=self.deviation,
        )

    def _values(self) -> FloatArray:
        """(n,) standardised values, from the weights."""
        values: FloatArray = self._chol @ (self._chol.T @ self._weights)
        return values


def _spread_out(z: FloatArray, most: int) -> npt.NDArray[np.int64]:
    """(k,) rows, at most so many: all, or half of them the best and the others evenly over the rest."""
    order = np.argsort(z, kind="stable")
    half = most // 2
    if len(z) <= most:
        return np.arange(len(z))
    rest = np.linspace(half, len(z) - 1, most - half).round().astype(np.int64)
    return np.sort(order[np.concatenate([np.arange(half), rest])])


def _kernel(a: FloatArray, b: FloatArray, lengths: FloatArray, share: float) -> FloatArray:
    """(N, M) covariances of (N, d) and (M, d) features, 1 at equal ones."""
    d = len(lengths)
    squares = np.zeros((len(a), len(b)))
    alone = np.zeros_like(squares)
    for at in range(d):
        # one feature after the other: N x M x d would not fit the cache
        apart = np.abs(a[:, at, None] - b[None, :, at]) / lengths[at]
        squares += apart * apart
        alone += _matern(apart * math.sqrt(d))
    values: FloatArray = share / d * alone + (1 - share) * _matern(np.sqrt(squares))
    return values


def _matern(r: FloatArray) -> FloatArray:
    s = _SQRT5 * r
    values: FloatArray = (1 + s + s * s / 3) * np.exp(-s)
    return values


def _posterior(
    theta: FloatArray,
    apart: FloatArray,
    z: FloatArray,
    known: FloatArray,
    prior_mean: FloatArray,
    prior_spread: FloatArray,
) -> tuple[float, FloatArray]:
    """Negative log posterior of (log lengths, log scale, log noise, log odds of the share), and its gradient."""
    d = apart.shape[2]
    lengths, scale, noise, share = (
        np.exp(theta[:d]),
        math.exp(theta[d]),
        math.exp(theta[d + 1]),
        float(expit(theta[-1])),
    )
    scaled = apart / lengths
    squares = scaled * scaled
    s = _SQRT5 * np.sqrt(squares.sum(axis=2))
    decay = np.exp(-s)
    together = (1 + s + s * s / 3) * decay
    # alone, a feature's length scale is shorter by the root of the dimension, by which the prior makes it longer
    t = (_SQRT5 * math.sqrt(d)) * scaled
    decays = np.exp(-t)
    slopes = (1 + t) * decays
    alone = (slopes + t * t * decays / 3).mean(axis=2)
    kernel = scale * (share * alone + (1 - share) * together)
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
    # d matern / d log length = 5/3 (1 + s) exp(-s) (distance / length)^2
    common = outer * ((1 - share) * (5.0 / 3.0) * (1 + s) * decay)
    gradient = np.empty_like(theta)
    gradient[:d] = np.einsum("ij,ijk->k", common, squares)
    gradient[:d] += share * (5.0 / 3.0) * np.einsum("ij,ijk,ijk->k", outer, slopes, squares)
    gradient[:d] *= -0.5 * scale
    gradient[d] = -0.5 * float(np.sum(outer * kernel))
    gradient[d + 1] = -0.5 * noise * float(np.trace(outer))
    gradient[d + 2] = -0.5 * scale * share * (1 - share) * float(np.sum(outer * (alone - together)))
    return value, gradient + off / prior_spread
