"""SCOOT's models: the warped Gaussian process, the random forest, the threshold (sections 4.3 and 4.7)."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor

from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.objective.pareto import FloatArray
from scoot.coordinator.optimizer.base import Observation, Outcome, Problem
from scoot.coordinator.optimizer.scoot.feasibility import Forest
from scoot.coordinator.optimizer.scoot.record import record_of
from scoot.coordinator.optimizer.scoot.surrogate import Surrogate
from scoot.coordinator.optimizer.scoot.threshold import threshold
from scoot.coordinator.space.space import Space
from scoot.wire.spec import Config, Parameter, ParameterKind

pytestmark = pytest.mark.timeout(180)  # a cold import of torch on a busy machine


def skewed(features: FloatArray) -> FloatArray:
    """It moves ever faster towards one end of its first column, as a logarithmic parameter on a linear scale does."""
    moved: FloatArray = np.sin(7 * (1 - (1 - features[:, 0]) ** 4)) + 0.3 * features[:, 1]
    return moved


def error(warped: list[int], seed: int) -> float:
    rng = np.random.default_rng(seed)
    seen, asked = rng.random((25, 2)), rng.random((400, 2))
    surrogate = Surrogate(seen, skewed(seen)[:, None], warped)
    mean, _ = surrogate.predict(asked)
    return float(np.abs(mean[:, 0] - surrogate.standard(skewed(asked)[:, None])[:, 0]).mean())


def test_warping_fits_a_skewed_input_better() -> None:
    plain = [error([], seed) for seed in range(4)]
    warped = [error([0, 1], seed) for seed in range(4)]
    assert np.median(warped) < 0.75 * np.median(plain)


def test_the_prediction_is_equations_4_and_5() -> None:
    rng = np.random.default_rng(3)
    seen, asked = rng.random((12, 3)), rng.random((5, 3))
    gains = np.stack([np.sin(5 * seen[:, 0]) + seen[:, 1], seen[:, 2] ** 2 + rng.normal(0, 0.1, 12)], axis=1)
    surrogate = Surrogate(seen, gains, [0, 2])
    mean, deviation = surrogate.predict(asked)
    standard = (gains - gains.mean(axis=0)) / gains.std(axis=0)
    for output, model in enumerate(surrogate._models):
        lengths = model.covar_module.base_kernel.lengthscale.detach().numpy()[0]
        scale = model.covar_module.outputscale.item()
        noise = model.likelihood.noise.item()
        a, b = (getattr(model.input_transform, f"concentration{k}").detach().numpy() for k in (1, 0))

        def bent(points: FloatArray, a: FloatArray = a, b: FloatArray = b) -> FloatArray:
            result = points.copy()
            result[:, [0, 2]] = 1 - (1 - points[:, [0, 2]] ** a) ** b  # Kumaraswamy's distribution function
            return result

        def kernel(
            left: FloatArray, right: FloatArray, lengths: FloatArray = lengths, scale: float = scale
        ) -> FloatArray:
            apart = np.sqrt(3 * (((left[:, None] - right[None]) / lengths) ** 2).sum(axis=2))
            found: FloatArray = scale * (1 + apart) * np.exp(-apart)  # Matern, 3/2
            return found

        among = kernel(bent(seen), bent(seen)) + noise * np.eye(12)
        across = kernel(bent(asked), bent(seen))
        assert mean[:, output] == pytest.approx(across @ np.linalg.solve(among, standard[:, output]), abs=1e-5)
        variance = scale - np.einsum("ij,ji->i", across, np.linalg.solve(among, across.T))
        assert deviation[:, output] ** 2 == pytest.approx(variance, abs=1e-5)


def test_the_hyper_parameters_are_likelier_than_those_they_started_from() -> None:
    import torch
    from gpytorch.mlls import ExactMarginalLogLikelihood

    from scoot.coordinator.optimizer.scoot.surrogate import _fitted

    rng = np.random.default_rng(0)
    seen = torch.tensor(rng.random((20, 2)))
    gains = torch.tensor(skewed(seen.numpy())[:, None])
    gains = (gains - gains.mean()) / gains.std()

    def likelihood(learn: bool) -> float:
        model = _fitted(seen, gains, [0, 1], learn=learn)
        marginal = ExactMarginalLogLikelihood(model.likelihood, model).train()
        with torch.no_grad():
            return float(marginal(model(*model.train_inputs), model.train_targets))

    assert likelihood(learn=True) > likelihood(learn=False) + 0.5


def test_white_noise_is_learnt() -> None:
    rng = np.random.default_rng(5)
    seen = rng.random((60, 1))
    clean = np.sin(4 * seen)
    levels = [
        Surrogate(seen, clean + rng.normal(0, spread, clean.shape), [0])._models[0].likelihood.noise.item()
        for spread in (0.0, 0.4)
    ]
    assert levels[0] < 0.01
    assert 0.2 < levels[1] < 0.9  # 0.16 of a variance near 0.16 + 0.2


@pytest.mark.parametrize("gains", [[[3.0]], [[3.0], [3.0], [3.0]], [[1e12], [1e12 + 1e-3], [1e12]]])
def test_a_flat_or_single_gain_is_no_error(gains: list[list[float]]) -> None:
    seen = np.linspace(0.1, 0.9, len(gains))[:, None]
    mean, deviation = Surrogate(seen, np.array(gains), [0]).predict(np.array([[0.0], [0.5], [1.0]]))
    assert np.abs(mean).max() < 1e-9
    assert (deviation > 0).all()


def test_outputs_are_independent() -> None:
    rng = np.random.default_rng(8)
    seen, asked = rng.random((10, 2)), rng.random((4, 2))
    one, other = seen[:, :1] ** 2, np.cos(9 * seen[:, 1:])
    both = Surrogate(seen, np.hstack([one, other]), [0, 1]).predict(asked)[0]
    assert both[:, :1] == pytest.approx(Surrogate(seen, one, [0, 1]).predict(asked)[0], abs=1e-3)
    assert both[:, 1:] == pytest.approx(Surrogate(seen, other, [0, 1]).predict(asked)[0], abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_forest_is_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    seen, asked = rng.random((40, 6)), rng.random((300, 6))
    feasible = (seen[:, 0] + 0.3 * rng.random(40) < 0.8) & (seen[:, 3] > 0.2)
    theirs = RandomForestRegressor(100, random_state=seed).fit(seen, feasible.astype(float)).predict(asked)
    ours = Forest(seen, feasible, seed).probability(asked)
    assert ours == pytest.approx(theirs, abs=1e-12)
    assert np.unique(ours).size > 10


def test_the_forest_tells_the_sides_of_a_wall() -> None:
    rng = np.random.default_rng(2)
    seen = rng.random((60, 3))
    forest = Forest(seen, seen[:, 0] < 0.6, 0)
    asked = rng.random((500, 3))
    found = forest.probability(asked)
    assert found[asked[:, 0] < 0.5].mean() > 0.85
    assert found[asked[:, 0] > 0.7].mean() < 0.15
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("feasible", [True, False])
def test_a_forest_of_one_kind_is_sure(feasible: bool) -> None:
    found = Forest(np.array([[0.5, 0.5]]), np.array([feasible]), 0).probability(np.random.default_rng(0).random((7, 2)))
    assert found.tolist() == [float(feasible)] * 7


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ("", 0.5),
        ("f", 0.55),
        ("ff", 0.6),
        ("fffff", 0.75),
        ("ffffffff", 0.75),
        ("oooo", 0.5),
        ("ooooo", 0.45),
        ("ooooooooo", 0.45),
        ("o" * 10, 0.4),
        ("o" * 25, 0.25),
        ("o" * 60, 0.25),
        ("o" * 25 + "f", 0.5),  # from 0.25 not to 0.3 but to 0.5
        ("o" * 25 + "ff", 0.55),
        ("oooofooooo", 0.5),  # a failure begins the row again: 0.55, then five in a row
        ("oooofoooo", 0.55),
        ("fffff" + "o" * 5, 0.7),
        ("fffff" + "o" * 5 + "f", 0.75),
    ],
)
def test_the_threshold_by_hand(history: str, expected: float) -> None:
    assert threshold(letter == "o" for letter in history) == expected


SPACE = Space.build(
    [
        Parameter(name="a", kind=ParameterKind.INT, low=1, high=10, default=3),
        Parameter(name="b", kind=ParameterKind.FLOAT, low=0.0, high=1.0),
    ]
)


def config(a: int) -> Config:
    return {"a": a, "b": 0.25}


def test_what_a_history_tells() -> None:
    history = (
        Observation(number=4, config=config(4), values=(7.0, 7.0)),
        Observation(number=0, config={"a": 3}, values=(10.0, 20.0)),  # the engine decides about b
        Observation(number=1, config=config(1), infeasible=True),
        Observation(number=2, config=config(2), values=(5.0, 30.0)),
        Observation(number=3, config=config(5), pending=True),
        Observation(number=5, config=config(6), infeasible=True),
        Observation(number=6, config=config(7)),  # withdrawn: nothing is known of it
    )
    problem = Problem(space=SPACE, directions=(Direction.MINIMISE, Direction.MAXIMISE))
    record = record_of(problem, history)
    assert record.finished == 6
    assert record.gains.tolist() == [[-5.0, 30.0], [-7.0, 7.0]]
    assert SPACE.decode(record.units) == [config(2), config(4)]
    assert SPACE.decode(record.tried) == [config(1), config(2), config(4), config(6)]
    assert record.feasible.tolist() == [False, True, True, False]
    assert record.reached.tolist() == [[-10.0, 20.0], [-5.0, 30.0], [-7.0, 7.0]]
    assert record.reference is not None
    assert record.reference.tolist() == [-10.0, 20.0]
    assert record.verdicts == (True, False)  # of 4 and 5: trial 0 and two Sobol points are no suggestions


def test_a_default_that_failed_leaves_the_worst_as_reference() -> None:
    history = (
        Observation(number=0, config=config(3), infeasible=True),
        Observation(number=1, config=config(1), values=(5.0, 9.0)),
        Observation(number=2, config=config(2), values=(8.0, 4.0)),
    )
    record = record_of(Problem(space=SPACE, directions=(Direction.MINIMISE,) * 2), history)
    assert record.reference is not None
    assert record.reference.tolist() == [-8.0, -9.0]
    assert record.verdicts == ()


def test_a_broken_limit_is_a_broken_hidden_constraint() -> None:
    problem = Problem(
        space=SPACE,
        directions=(Direction.MAXIMISE,),
        outcomes=(Outcome(name="ttft_p95", direction=Direction.MINIMISE, limit=2000.0),),
    )
    history = (
        Observation(number=0, config=config(3), values=(4.0,), outcomes=(1500.0,)),
        Observation(number=1, config=config(1), values=(9.0,), outcomes=(2500.0,)),
        Observation(number=2, config=config(2), values=(5.0,), outcomes=(2000.0,)),
    )
    record = record_of(problem, history)
    assert record.feasible.tolist() == [True, False, True]
    assert record.reached.tolist() == [[4.0], [5.0]]
    assert record.gains.tolist() == [[4.0], [9.0], [5.0]]
