"""The surrogate: independent Gaussian processes with learnt input warping (SCOOT, section 4.3).

Zero mean, a Matern-3/2 kernel with a length scale per column over columns warped by Kumaraswamy's distribution function
(Snoek et al. 2014), white noise. All hyper-parameters are those of greatest likelihood; no prior pulls at them, but
boxes hold them, without which the likelihood of a few observations often has no maximum. The observed gains are
standardised first, which the zero mean and the boxes presume.
"""

from __future__ import annotations

import warnings
from typing import Final

import numpy as np

from scoot.coordinator.objective.pareto import FloatArray

with warnings.catch_warnings():  # linear_operator decorates functions with torch.jit.script at import
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated", category=DeprecationWarning)
    import torch
    from botorch.models import SingleTaskGP
    from botorch.models.transforms.input import Warp
    from botorch.optim.closures import get_loss_closure_with_grads
    from botorch.optim.core import scipy_minimize
    from botorch.optim.utils import get_parameters_and_bounds
    from botorch.settings import validate_input_scaling
    from botorch.utils.constraints import LogTransformedInterval
    from gpytorch.constraints import Interval
    from gpytorch.kernels import MaternKernel, ScaleKernel
    from gpytorch.likelihoods import GaussianLikelihood
    from gpytorch.means import ZeroMean
    from gpytorch.mlls import ExactMarginalLogLikelihood

SMOOTHNESS: Final = 1.5
LENGTH: Final = (0.05, 20.0)
SCALE: Final = (0.05, 20.0)
NOISE: Final = (1e-4, 1.0)
WARP: Final = (0.4, 2.5)
"""Boxes of the length scales, the signal's and the noise's variance, and both parameters of the warping."""

ITERATIONS: Final = 100
PRECISION: Final = 1e-4
"""The search for the greatest likelihood ends after so many steps, or when one gains less than this per observation."""

LEARNABLE: Final = 2
"""Observations from which hyper-parameters are learnt; with fewer they stay where the search for them starts."""

_SMALLEST: Final = 1e-9


class Surrogate:
    """Gaussian processes fitted to observations.

    Args:
        features: (n, D) in 0 to 1, n >= 1.
        gains: (n, m) finite.
        warped: columns to be warped.

    Attributes:
        centre, spread: (m,) by which gains are standardised: `standard(gains)`.
    """

    def __init__(self, features: FloatArray, gains: FloatArray, warped: list[int]) -> None:
        self.centre: FloatArray = gains.mean(axis=0)
        spread = gains.std(axis=0)
        flat = spread <= _SMALLEST * np.maximum(1.0, np.abs(self.centre))
        self.spread: FloatArray = np.where(flat, 1.0, spread)
        standard = np.where(flat, 0.0, self.standard(gains))
        self._models = [
            _fitted(torch.tensor(features), torch.tensor(standard[:, [output]]), warped, learn=not flat[output])
            for output in range(gains.shape[1])
        ]

    def standard(self, gains: FloatArray) -> FloatArray:
        """(..., m) gains in standard deviations of the observed ones, from their mean."""
        return (gains - self.centre) / self.spread

    def predict(self, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(N, D) -> (N, m) means and deviations of the standardised gains without noise (equations 4 and 5)."""
        with torch.no_grad():
            found = [model.posterior(torch.tensor(features)) for model in self._models]
            means = [posterior.mean[:, 0].numpy() for posterior in found]
            variances = [posterior.variance[:, 0].numpy() for posterior in found]
        return np.stack(means, axis=1), np.sqrt(np.maximum(np.stack(variances, axis=1), _SMALLEST))


def _fitted(features: torch.Tensor, gains: torch.Tensor, warped: list[int], *, learn: bool) -> SingleTaskGP:
    """One output's process at its greatest likelihood."""
    model = _model(features, gains, warped)
    likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
    if learn and len(features) >= LEARNABLE:
        likelihood.train()
        parameters, bounds = get_parameters_and_bounds(likelihood)
        closure = get_loss_closure_with_grads(likelihood, parameters)
        scipy_minimize(closure, parameters, bounds, options={"maxiter": ITERATIONS, "ftol": PRECISION})
    likelihood.eval()
    return model


def _model(features: torch.Tensor, gains: torch.Tensor, warped: list[int]) -> SingleTaskGP:
    """The process before anything is learnt: unwarped, long scales, little noise."""
    columns = features.shape[1]
    kernel = MaternKernel(
        nu=SMOOTHNESS,
        ard_num_dims=columns,
        lengthscale_constraint=LogTransformedInterval(*LENGTH, initial_value=0.5),
    )
    warp = None
    if warped:
        cube = torch.tensor([[0.0], [1.0]], dtype=features.dtype).repeat(1, columns)
        warp = Warp(d=columns, indices=warped, bounds=cube)  # else what lies beyond the observations is moved onto them
        for name in ("concentration0", "concentration1"):
            Warp.register_constraint(warp, name, Interval(*WARP, transform=None, initial_value=1.0))
    with validate_input_scaling(state=False):  # its warnings are about a default that is encoded off the grid
        return SingleTaskGP(
            features,
            gains,
            likelihood=GaussianLikelihood(noise_constraint=LogTransformedInterval(*NOISE, initial_value=0.01)),
            covar_module=ScaleKernel(kernel, outputscale_constraint=LogTransformedInterval(*SCALE, initial_value=1.0)),
            mean_module=ZeroMean(),
            outcome_transform=None,
            input_transform=warp,
        )
