"""Geometric complexity is exact for linear models and at the start of ReLU networks; large steps and decay lower it.

It is the mean square of the derivative of the outputs by the inputs, over the training data. Literature says that depth
brings it near zero at the start "inversely": it is exponential, (s / 2)^L, and only for weights of variance below He's
s = 2. (Without biases it scales as s^(L + 1), so one s tells all.) That large steps and decay lower it is observed at
EQUAL TRAINING LOSS, and for steps only near the edge of stability: ten times the step changes nothing, beyond the edge
it rises again. After an equal number of steps the opposite is seen, since larger steps have trained further. Small
batches, said to lower it too, did not do so clearly (of 4: 0.9 to 1.2 of the whole batch): not claimed.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

import gradbias as gb

DEPTHS = (1, 2, 4, 8)
OUTPUTS, NOISE = 5, 0.1  # of the networks at the start; the share of random labels
EXACT, OBSERVED = ("linear", "start", "moderate steps"), ("large steps", "decay")
LANES = ("step η", "step 10η", "step 20η", "step 10η, decay")


class Data(NamedTuple):
    """A linear and ReLU networks at the start; training and test examples with noisy labels, and a start for them."""

    linear: tuple[np.ndarray, ...]
    draws: tuple[np.ndarray, ...]
    x: Float[np.ndarray, "n d"]
    y: Int[np.ndarray, " n"]
    x_test: Float[np.ndarray, "m d"]
    y_test: Int[np.ndarray, " m"]
    start: tuple[tuple[np.ndarray, np.ndarray], ...]


def data(key: PRNGKeyArray, *, n: int, width: int, draws: int) -> Data:
    rng = gb.data.generator(key)
    x, y = gb.data.digits()
    order = rng.permutation(len(x))
    train, test = order[:n], order[n : n + 500]
    x = x - x[train].mean(axis=0)  # the mean image alone would set how large a step can be
    labels = np.where(rng.random(n) < NOISE, rng.integers(0, 10, n), y[train])
    widths = (20, *(width,) * DEPTHS[-1], OUTPUTS)
    nets = tuple(rng.normal(size=(draws, b, a)) / a**0.5 for a, b in pairwise(widths))
    start = gb.models.mlp_start((x.shape[1], width, width, 10), rng, gain=2**0.5)
    linear = tuple(rng.normal(size=shape) / shape[1] ** 0.5 for shape in ((12, 20), (16, 12), (OUTPUTS, 16)))
    return Data(linear, nets, x[train], labels, x[test], y[test], start)


def complexity(predict: Callable[..., Array], theta: Any, x: Float[Array, "n d"]) -> Float[Array, "*outputs"]:
    """The mean over examples of the squared Frobenius norm of the derivative by the inputs."""
    jacobians = jax.vmap(jax.jacrev(lambda x: predict(theta, x)))(x)
    return jnp.mean(jnp.sum(jacobians**2, axis=(-2, -1)), axis=0)


def by_depth(layers: tuple[Array, ...], x: Float[Array, " d"]) -> Float[Array, "depths k"]:
    """What the last layer makes of each of the hidden layers that `DEPTHS` names."""
    outputs = []
    for depth, layer in enumerate(layers[:-1], start=1):
        x = jax.nn.relu(layer @ x)
        outputs += [layers[-1] @ x] if depth in DEPTHS else []
    return jnp.stack(outputs)


def measured(
    data: Data, key: PRNGKeyArray, *, variance: float = 1.0, rate: float = 0.1, decay: float = 1e-3, loss: float = 0.03
) -> gb.Measured:
    problem = gb.Problem(gb.models.relu_mlp, gb.losses.cross_entropy, data.x, data.y, data.start)
    # The run stops where its training loss has fallen to `loss`: what is compared is compared there.
    until = gb.Until(6000.0, gb.Problem.risk, below=loss, check_every=5)
    x, x_test, y_test = jnp.asarray(data.x), jnp.asarray(data.x_test), jnp.asarray(data.y_test)

    def train(setting: tuple[Array, Array]) -> tuple[gb.Trajectory, Array, Array]:
        run = gb.evolve(problem, gb.GradientDescent(*setting), until=until, key=key)
        right = jnp.argmax(jax.vmap(lambda x: problem.predict(run.theta, x))(x_test), axis=1) == y_test
        return run, complexity(problem.predict, run.theta, x), jnp.mean(jnp.where(right, 0.0, 1.0))

    # One after the other: side by side all would take as long as the slowest.
    runs, found, wrong = jax.lax.map(
        train, (rate * jnp.array([1.0, 10.0, 20.0, 10.0]), decay * jnp.array([0.0, 0.0, 0.0, 1.0]))
    )
    layers = jax.tree.map(lambda w: jnp.sqrt(variance) * w, data.draws)
    start = jnp.mean(jax.vmap(lambda net: complexity(by_depth, net, jnp.ones((1, net[0].shape[1]))))(layers), axis=0)
    linear = complexity(gb.models.deep_linear, data.linear, jnp.ones((2, data.linear[0].shape[1])))
    value = dict(zip(EXACT + OBSERVED, (linear, start, *(found[1:] / found[jnp.array([0, 0, 1])])), strict=True))
    curves = {"loss at the end": runs.distance, "steps": runs.step.astype(float)}
    for number, name in enumerate(LANES):
        curves |= {f"error, {name}": wrong[number][None], f"complexity, {name}": found[number][None]}
    return gb.Measured(value, 0.0, jnp.all(runs.converged), jnp.max(runs.step), curves)


def predicted(data: Data, *, believed: float = 1.0) -> gb.Prediction:
    square = float(np.sum(np.linalg.multi_dot(data.linear[::-1]) ** 2))
    spectrum = np.linalg.svd(np.linalg.multi_dot(data.linear[::-1]), compute_uv=False)
    starts = [gb.oracles.relu_start_complexity(depth, OUTPUTS, believed) for depth in DEPTHS]
    checked = gb.combine(**{f"depth {depth}": p for depth, p in zip(DEPTHS, starts, strict=True)})
    value = (square, np.array([p.value for p in starts]), 1.0, 0.95, 0.95)
    certificate = {"singular values": abs(float(np.sum(spectrum**2)) / square - 1.0)} | dict(checked.certificate)
    return gb.Prediction(dict(zip(EXACT + OBSERVED, value, strict=True)), certificate)


CLAIM = gb.Claim(
    statement=r"The geometric complexity $\frac1n \sum_i \|\partial f / \partial x (x_i)\|_F^2$ of a linear model is "
    r"$\|A\|_F^2$. Its mean at the start of a ReLU network of $L$ hidden layers, $k$ outputs and weights "
    r"$N(0, s / \text{fan-in})$ is $k s (s / 2)^L$: exponential in $L$, constant for He's $s = 2$. Observed, "
    r"on digits with label noise at equal training loss: steps near the edge of stability and decay lower it by a "
    r"twentieth or more; steps half as large make no difference to the smallest.",
    source=gb.Source("dherin2022geometric", "Sections 4 and 5, experiments; numbers not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric=gb.metric.relative_difference,
    relation=dict.fromkeys(EXACT, "equals") | dict.fromkeys(OBSERVED, "at_most"),
    quantifier="mean",
    tolerance=dict(zip(EXACT, (1e-10, 0.25, 0.1), strict=True)) | dict.fromkeys(OBSERVED, 0.025),
    tolerance_reason="An identity; a quarter, where two depths are factors of 2 to 16 apart; a tenth is no "
    "difference; half of the fall by a twentieth that is asked for.",
    settings={
        "smoke": dict(n=128, width=32, draws=50, seeds=32),
        "standard": dict(n=256, width=48, draws=80, seeds=20),
        "real": dict(n=400, width=48, draws=80, seeds=16),
        "deep": dict(n=256, width=64, draws=200, seeds=20),
    },
    control=dict(variance=2.0),
    control_reason="The formula for s = 1 where s is He's 2: the complexity does not fall with depth.",
    figure=gb.figures.points(
        *([f"{axis}, {name}" for name in LANES] for axis in ("error", "complexity")),
        **dict(labels=LANES, x_title="test error, at equal training loss", y_title="geometric complexity", log_y=True),
    ),
    seconds=dict(smoke=8, standard=24, real=17, deep=400),
)
