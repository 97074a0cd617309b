"""A polynomial of degree 8 fits noise on a cubic better than one of degree 3 and predicts worse, by exact amounts."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

import gradbias as gb

SMALL, LARGE = 4, 9  # coefficients of degrees 3 and 8
SIZES = range(SMALL, LARGE + 1)
# On points drawn at random the mean test error of degree 8 is all but infinite (two points too close), hence the grid.


class Data(NamedTuple):
    """Legendre polynomials of unit mean square at the points, the true coefficients, and targets, a row per draw."""

    phi: Float[np.ndarray, "n 9"]
    truth: Float[np.ndarray, " 9"]
    y: Float[np.ndarray, "draws n"]


def data(key: PRNGKeyArray, *, n: int, draws: int, noise: float, truth: Literal["cubic", "degree 8"] = "cubic") -> Data:
    if n <= LARGE:
        raise ValueError(f"A polynomial of degree 8 that does not interpolate needs over {LARGE} points; got n={n}.")
    rng = gb.data.generator(key)
    degrees = np.arange(LARGE)
    phi = np.polynomial.legendre.legvander(np.linspace(-1.0, 1.0, n), LARGE - 1) * np.sqrt(2 * degrees + 1)
    w = rng.normal(size=LARGE) * (degrees < (SMALL if truth == "cubic" else LARGE))
    return Data(phi, w, phi @ w + noise * rng.normal(size=(draws, n)))


def measured(data: Data, key: PRNGKeyArray) -> gb.Measured:
    train, test = [], []
    for p in SIZES:
        q, r = jnp.linalg.qr(data.phi[:, :p])
        fit = jnp.linalg.solve(r, q.T @ data.y.T)
        train.append(jnp.mean((data.phi[:, :p] @ fit - data.y.T) ** 2, axis=0))
        # The polynomials are orthonormal on [-1, 1]: the mean square of the error there is that of the coefficients.
        test.append(jnp.sum((jnp.zeros((LARGE, len(data.y))).at[:p].set(fit) - data.truth[:, None]) ** 2, axis=0))
    value = {
        "train": jnp.stack([jnp.mean(each) for each in train]),
        "test": jnp.stack([jnp.mean(each) for each in test]),
        "degree 8 fits better": jnp.max(train[-1] - train[0]),  # in every single draw
        "degree 8 predicts worse": jnp.mean(jnp.where(test[-1] > test[0], 1.0, 0.0)),
    }
    return gb.Measured(value)


def predicted(data: Data, *, noise: float) -> gb.Prediction:
    models = [data.phi[:, :p] for p in SIZES]
    errors = [gb.oracles.least_squares_errors(phi, np.eye(phi.shape[1]), noise) for phi in models]
    small, large = (np.linalg.pinv(phi) for phi in (models[0], models[-1]))
    worse = gb.oracles.positive_probability(large.T @ large - small.T @ small)
    both = {part: np.array([float(e.value[part]) for e in errors]) for part in ("train", "test")}
    exact = gb.Prediction(both, {f"{k} {name}": r for k, e in enumerate(errors) for name, r in e.certificate.items()})
    return gb.combine(exact, **{"degree 8 fits better": 0.0, "degree 8 predicts worse": worse})


CLAIM = gb.Claim(
    statement=r"Least squares with $p$ features on a fixed design of $n$ points, truth in the model, noise $\sigma^2$: "
    r"mean training error $\sigma^2 \frac{n - p}{n}$, mean excess test risk $\sigma^2\, \mathrm{tr}\, G (\Phi^\top "
    r"\Phi)^{-1}$. For a cubic on a grid, degree 8 fits better than degree 3 in every draw and predicts worse on "
    r"average, and in a share of draws that is the probability that a quadratic form of Gaussians is positive.",
    source=gb.Source("hastie2009elements", "Section 7, optimism of the training error; number not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric={"train": gb.metric.relative_difference, "test": gb.metric.relative_difference}
    | dict.fromkeys(("degree 8 fits better", "degree 8 predicts worse"), gb.metric.difference),
    relation={
        "train": "equals",
        "test": "equals",
        "degree 8 predicts worse": "equals",
        "degree 8 fits better": "at_most",
    },
    quantifier=dict.fromkeys(("train", "test", "degree 8 predicts worse"), "mean") | {"degree 8 fits better": "every"},
    tolerance={"train": 0.03, "test": 0.03, "degree 8 predicts worse": 0.01, "degree 8 fits better": 1e-12},
    tolerance_reason="Between the two degrees errors differ threefold: 3 % is agreement. No draw may be an exception.",
    assumptions={"the truth is a cubic": lambda data: not data.truth[SMALL:].any()},
    settings={
        "smoke": dict(n=12, draws=10000, noise=0.3, seeds=10),
        "standard": dict(n=12, draws=40000, noise=0.3, seeds=20),
        "deep": dict(n=15, draws=80000, noise=0.3, seeds=50),
    },
    control=dict(truth="degree 8"),
    control_reason="A target of degree 8 is in the large model alone: now degree 3 predicts worse.",
    figure=gb.figures.profile(
        [p - 1.0 for p in SIZES],
        {"train": "training error", "test": "excess test risk"},
        {"train": "σ²(n - p)/n", "test": "σ² tr G(ΦᵀΦ)⁻¹"},
        x_title="degree of the fit",
        y_title="mean squared error",
        log_y=True,
    ),
    seconds=dict(smoke=4, standard=3, deep=10),
)
