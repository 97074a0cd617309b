"""The classical bounds on a network's test error are all above one where that error is small.

What they pay for is what the class of networks can fit, and a network with one unit per example fits any labels: an
explicit one is constructed, so that the growth function is 2ⁿ and the Rademacher complexity of the sample is one,
exactly. Training reaches this, on labels drawn as fair coins. For the 0-1 loss the Rademacher bound has the complexity
of the ±1 class once, not twice as is often written (the class of losses has half of it). The norm bounds are of the
trained network; the spectral one is taken without its constants, the other with them, both without the share of
examples below the margin, the deviation, and the union over norms, all of which would add. That no network could do
better follows from the distances between examples. The linear classifiers of the control have their supremum computed
over all half-planes.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import gradbias as gb
from gradbias.data import Split

DELTA = 0.05
SPARED = 0.1  # the share of training examples below the margin that the norm bounds are taken at
Layers = tuple[Float[Array, "out in"], ...]


class Data(NamedTuple):
    """Examples, labels drawn as fair coins (one row each), two coordinates of the examples, and a start."""

    split: Split
    coins: Float[np.ndarray, "m n"]
    plane: Float[np.ndarray, "n 2"]
    start: tuple[np.ndarray, ...]


def data(
    key: PRNGKeyArray, *, n: int, width: int, labelings: int, source: Literal["digits", "breast_cancer"] = "digits"
) -> Data:
    split = gb.data.binary_split(source, n, key=key)
    rng, d = gb.data.generator(jr.fold_in(key, 1)), split.x.shape[1]
    start = (rng.normal(size=(width, d)) * 2.0**0.5, rng.normal(size=(1, width)) * width**-0.5)
    centred = split.x - split.x.mean(axis=0)
    plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    return Data(split, rng.choice([-1.0, 1.0], (labelings, n)), plane, start)


def network(theta: Layers, x: Float[Array, " d"]) -> Float[Array, " 1"]:
    return theta[1] @ jax.nn.relu(theta[0] @ x)


def best_half_plane(plane: Float[Array, "n 2"], labels: Float[Array, " n"]) -> Float[Array, ""]:
    """Largest correlation of the labels with the sign of a linear function: one between any two critical directions."""
    critical = jnp.sort((jnp.arctan2(plane[:, 1], plane[:, 0]) + 0.5 * jnp.pi) % jnp.pi)
    between = (critical + jnp.append(critical[1:], critical[0] + jnp.pi)) / 2.0
    signs = jnp.sign(plane @ jnp.stack([jnp.cos(between), jnp.sin(between)]))
    return jnp.max(jnp.abs(labels @ signs)) / len(labels)


def measured(
    data: Data,
    key: PRNGKeyArray,
    *,
    steps: int,
    rate: float = 0.02,
    classifiers: Literal["networks", "half-planes"] = "networks",
) -> gb.Measured:
    s, n = data.split, len(data.split.y)

    def train(y: Float[Array, " n"]) -> gb.Trajectory:
        problem = gb.Problem(network, gb.losses.logistic, s.x, y, data.start)
        return gb.evolve(problem, gb.Adam(rate), until=gb.Until(float(steps), check_every=steps), key=key)

    every = jnp.concatenate([jnp.asarray(s.y)[None, :], jnp.asarray(data.coins)])
    runs = jax.vmap(train)(every)
    outputs = jax.vmap(lambda theta: jax.vmap(lambda x: network(theta, x)[0])(jnp.asarray(s.x)))(runs.theta)
    reached = jnp.mean(jnp.sign(every * outputs), axis=1)
    if classifiers == "half-planes":
        reached = jax.vmap(lambda y: best_half_plane(jnp.asarray(data.plane), y))(every)
    deviation = np.sqrt(2.0 * np.log(2.0 / DELTA) / (n * len(data.coins)))  # with half of δ, as is the other
    rademacher = jnp.mean(reached[1:]) - deviation + 3.0 * np.sqrt(np.log(4.0 / DELTA) / (2.0 * n))
    theta = jax.tree.map(lambda layer: layer[0], runs.theta)
    margin = jnp.quantile(s.y * outputs[0], SPARED)
    shapes = [layer.shape for layer in data.start]
    growth = gb.measures.log_growth(n, tuple(a * b for a, b in shapes), (shapes[0][0],), 1)
    bounds = [
        jnp.asarray(np.sqrt(2.0 * growth / n)),
        rademacher,
        spectral_scale(data) * gb.measures.spectral_complexity(theta) / margin,
        frobenius_scale(data) * jnp.prod(jnp.stack([jnp.linalg.norm(layer) for layer in theta])) / margin,
    ]
    wrong = jax.vmap(lambda x, y: jnp.where(y * network(theta, x)[0] > 0, 0.0, 1.0))(s.x_test, s.y_test)
    error = jnp.mean(wrong)
    value = {"complexity": jnp.mean(reached[1:]), "bounds": jnp.log10(jnp.stack(bounds)), "test error": error}
    distance = {"complexity": 0.0, "bounds": 0.0, "test error": 3.0 * jnp.sqrt(error * (1.0 - error) / len(s.y_test))}
    return gb.Measured(value, distance, margin > 0, steps, {"shown": jnp.stack([error, *bounds])})


def spectral_scale(data: Data) -> float:
    """What R / γ is multiplied with: ‖X‖ ln(width) / n for inputs of length one, no constants."""
    return float(np.log(len(data.start[0])) / np.sqrt(len(data.split.y)))


def frobenius_scale(data: Data) -> float:
    """What the product of the layers' norms over γ is multiplied with: 2 (√(2 L ln 2) + 1) ‖X‖ / n, L = 2 layers."""
    return float(2.0 * (np.sqrt(4.0 * np.log(2.0)) + 1.0) / np.sqrt(len(data.split.y)))


def predicted(data: Data) -> gb.Prediction:
    s = data.split
    before_scaling = s.x[:, :-1] / s.x[:, -1:]  # a positive factor per example changes no sign
    direction = np.linalg.svd(before_scaling, full_matrices=False)[2][0]
    shattered = gb.oracles.relu_memorizer(before_scaling, data.coins[0], direction=direction)
    # Two outputs ±f/2 make the one output f of the network, which is why √2 is lost.
    floor = gb.oracles.spectral_complexity_floor(s.x, s.y, depth=2, spared=SPARED)
    spectral = spectral_scale(data) * np.sqrt(2.0) * floor.value
    # The product of Frobenius norms is at least that of the spectral ones, at least R / 2^{3/2} where R is least.
    frobenius = frobenius_scale(data) * np.sqrt(2.0) * floor.value / 2.0**1.5
    least = np.log10([np.sqrt(2.0 * np.log(2.0)), 1.0, max(1.0, spectral), max(1.0, frobenius)])
    enough = float(max(0, len(s.y) - len(data.start[0])))  # units that the memorizer would need beyond those there are
    complexity = gb.Prediction(np.asarray(1.0), dict(shattered.certificate) | {"units": enough}, tolerance=1e-6)
    return gb.combine(
        **{"complexity": complexity, "bounds": gb.Prediction(least, floor.certificate), "test error": 0.2}
    )


CLAIM = gb.Claim(
    statement=r"Networks with n ReLU units fit any labels of n distinct examples: the growth function is $2^n$ and "
    r"$\hat R_S = 1$. So $\sqrt{2 \ln \Pi(n) / n}$, $\hat R_S + 3 \sqrt{\ln(2/\delta) / (2n)}$ and, for the trained "
    r"network with nine tenths of its margins above γ, $\|X\|_F \ln(m) R / (\gamma n)$ (constants left out) and "
    r"$2 (\sqrt{2 L \ln 2} + 1) \|X\|_F \prod_l \|W_l\|_F / (\gamma n)$ are above one, on digits where the test error "
    r"is below a fifth. With probability $1 - \delta$, $\hat R_S \ge \frac 1m \sum_j (1 - 2 e_j) - "
    r"\sqrt{2 \ln(1/\delta) / (n m)}$, $e_j$ the training errors on m labelings by coins.",
    source=gb.Source("zhang2017understanding", "Theorem 1 (2n + d weights fit n examples) and section 2"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric=gb.metric.difference,
    relation={"complexity": "at_least", "bounds": "at_least", "test error": "at_most"},
    tolerance={"complexity": 0.02, "bounds": 0.01, "test error": 0.02},
    tolerance_reason="One label in a hundred; powers of ten to two percent; a fifth is small beside one.",
    settings={
        "smoke": dict(n=150, width=160, labelings=3, steps=150, seeds=3),
        "standard": dict(n=300, width=320, labelings=4, steps=200, seeds=10),
        "real": dict(source="breast_cancer", n=200, width=220, labelings=4, steps=300, seeds=5),
        "deep": dict(n=600, width=640, labelings=4, steps=300, seeds=10),
    },
    control=dict(classifiers="half-planes"),
    control_reason="Half-planes cannot fit coins: their exact complexity is near 0.1, and the bound is below one.",
    figure=gb.figures.recorded_bars(
        "shown",
        (
            "test error",
            "growth<br>function",
            "Rademacher,<br>lower bound",
            "spectral norms,<br>no constants",
            "Frobenius<br>norms",
        ),
        y_title="error rate",
        log=True,
        level=1.0,
        level_title="vacuous above",
    ),
    seconds=dict(smoke=8, standard=8, real=7, deep=500),
)
