"""Random labels need a deeper network than true ones: the nearest class centre decides from a later layer on.

An observation. The effective depth is the number of layers after which the nearest class centre is wrong for one
training example in a hundred at most; layer 0 is the input, for which the error rates are predicted exactly. Where no
hidden layer gets there, as with random labels it is as a rule, it counts as one more than there are. Decay drives the
collapse. Not every run is deeper for random labels: one network in sixty kept five of 300 examples of the true labels
nearer to another centre in all layers. Hence a mean over runs. Images have to be fit easily: on MNIST-1D (n = 500, 8000
steps) no hidden layer got there for true labels either.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

import gradbias as gb
from gradbias.measures.collapse import class_means, nearest_centre

SLACK = 0.01
Layers = tuple[tuple[Float[Array, "_ _"], Float[Array, " _"]], ...]


class Data(NamedTuple):
    """Inputs, two labellings, a start and batches, the same for both."""

    x: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, "2 n"]
    start: tuple[tuple[np.ndarray, np.ndarray], ...]
    batches: Int[np.ndarray, "steps batch"]


def data(
    key: PRNGKeyArray,
    *,
    n: int,
    width: int,
    depth: int,
    steps: int,
    inputs: Literal["digits", "mnist1d"] = "digits",
    first: Literal["true", "random"] = "true",
) -> Data:
    rng, (x, y, _, _) = gb.data.generator(jr.fold_in(key, 1)), gb.data.ten_classes(inputs, n, key=key)
    labels = np.stack([y if first == "true" else rng.integers(0, 10, n), rng.integers(0, 10, n)])
    start = gb.models.mlp_start([x.shape[1], *[width] * depth, 10], rng, gain=2**0.5)
    return Data(x, labels, start, gb.dynamics.shuffled_batches(n, 50, steps, rng))


def centre_errors(theta: Layers, x: Float[Array, "n d"], y: Int[Array, " n"]) -> Float[Array, " layers"]:
    """Share of the examples whose nearest class centre is of another class: at the input, after each hidden layer."""
    errors, member = [], jax.nn.one_hot(y, 10, dtype=x.dtype)
    for k in range(len(theta)):
        h = jax.nn.relu(jax.vmap(lambda x, k=k: gb.models.relu_mlp(theta[:k], x))(x)) if k else x
        means = (member.T @ h) / jnp.sum(member, axis=0)[:, None]
        distances = jnp.sum(means**2, axis=1)[None] - 2.0 * h @ means.T
        errors.append(jnp.mean(jnp.where(jnp.argmin(distances, axis=1) == y, 0.0, 1.0)))
    return jnp.stack(errors)


def measured(data: Data, key: PRNGKeyArray, *, rate: float = 0.1, decay: float = 2e-3) -> gb.Measured:
    x = jnp.asarray(data.x)

    def train(y: Int[Array, " n"]) -> tuple[Array, Array, Array]:
        problem = gb.Problem(gb.models.relu_mlp, gb.losses.cross_entropy, x, y, data.start)
        rule = gb.GradientDescent(rate)
        run = gb.dynamics.train_on_batches(problem, rule, data.batches, shrink=rate * decay)
        wrong = jnp.mean(jnp.where(jnp.argmax(problem.outputs(run.theta), axis=1) == y, 0.0, 1.0))
        errors = centre_errors(run.theta, x, y)
        depth = jnp.sum(jnp.cumprod(jnp.where(errors > SLACK, 1.0, 0.0)))
        return errors, depth, run.converged & (wrong <= SLACK)

    errors, depth, fits = jax.vmap(train)(jnp.asarray(data.labels))
    curves = {"layer": jnp.arange(float(errors.shape[1])), "error": errors.T, "depth": depth}
    later = {"deeper by": depth[1] - depth[0], "excess": jnp.sum(errors[1, 1:] - errors[0, 1:])}
    return gb.Measured({"input": errors[:, 0]} | later, 0.0, jnp.all(fits), 0, curves)


def predicted(data: Data) -> gb.Prediction:
    errors, residual = [], 0.0
    for y in data.labels:
        _, row, means = class_means(data.x, y)
        errors.append(np.mean(nearest_centre(data.x, means)[0] != row))
        sums = np.stack([np.sum(data.x[row == k] - mean, axis=0) for k, mean in enumerate(means)])
        residual = max(residual, float(np.linalg.norm(sums) / np.linalg.norm(data.x)))
    input_errors = gb.Prediction(np.array(errors), {"centred": residual})
    return gb.combine(**{"input": input_errors, "deeper by": 0.0, "excess": 0.5})


def every_class_occurs(data: Data) -> bool:
    """Both labellings have examples of all ten classes."""
    return all(len(np.unique(y)) == 10 for y in data.labels)


CLAIM = gb.Claim(
    statement=r"ReLU networks of five hidden layers and more, trained by SGD with weight decay to fit $n$ images with "
    r"their labels and with random ones, from one start: the first layer after which the nearest class centre errs on "
    r"1 % of the training set at most comes later for random labels in the mean over runs; and over the hidden layers "
    r"these errors sum to 1/2 more at least in every run.",
    source=gb.Source("galanti2022implicit", "Definition of the effective depth and Figure 3; numbers not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric=gb.metric.difference,
    relation={"input": "equals", "deeper by": "at_least", "excess": "at_least"},
    quantifier={"input": "every", "deeper by": "mean", "excess": "every"},
    tolerance={"input": 1e-9, "deeper by": 0.5, "excess": 0.05},
    tolerance_reason="Error rates at the input are counts that both sides make. Half a layer of the depth. A tenth of "
    "the bound on the sum.",
    assumptions={"every class occurs": every_class_occurs},
    settings={
        "smoke": dict(n=300, width=48, depth=5, steps=3000, seeds=8),
        "standard": dict(n=300, width=64, depth=5, steps=4800, seeds=10),
        "deep": dict(n=300, width=100, depth=6, steps=6000, seeds=10),
    },
    control=dict(first="random"),
    control_reason="Both networks get random labels: neither of them needs to be deeper than the other.",
    figure=gb.figures.curves(
        "layer",
        "error",
        labels=["true labels", "random labels"],
        x_title="layer (0: input)",
        y_title="error of the nearest class centre",
        log_y=False,
    ),
    seconds=dict(smoke=7, standard=15, deep=200),
)
