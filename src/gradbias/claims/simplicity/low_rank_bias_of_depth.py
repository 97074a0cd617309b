"""The deeper a network, the lower the effective rank of what it computes, at the start and after training.

At the start of a linear network this is a theorem about products of Gaussian matrices: the Fuss–Catalan law gives the
effective rank. For ReLU networks at the start, and for what training finds, it is an observation. A lower rank is not a
better fit: how low helps depends on the target.
"""

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import gradbias as gb
from gradbias.dynamics.base import DIVERGED

DEPTHS = (1, 2, 3, 5, 8)
TRAINED = DEPTHS[:3]
PARTS = ("linear", "volumes", "ReLU / linear", "ReLU", "trained")
# Factors, all depths of one shape to share a program, and per factor a flag: zero leaves it out.
Stack = tuple[Float[Array, "depth d d"], Float[Array, " depth"]]


class Data(NamedTuple):
    """Networks at their start and inputs for them; and tasks: inputs, targets of rank two, factors to start from."""

    networks: Float[np.ndarray, "draws depth d d"]
    inputs: Float[np.ndarray, "d n"]
    x: Float[np.ndarray, "tasks m k"]
    y: Float[np.ndarray, "tasks m k"]
    start: Float[np.ndarray, "tasks depth k k"]


def data(key: PRNGKeyArray, *, size: int, draws: int, tasks: int = 8, k: int = 10) -> Data:
    rng = gb.data.generator(key)
    networks = rng.normal(size=(draws, DEPTHS[-1], size, size)) / size**0.5
    m = k * 3 // 4
    bases = [np.linalg.qr(rng.normal(size=(tasks, k, columns)))[0] for columns in (m, 2, 2)]
    x = m**0.5 * np.swapaxes(bases[0], 1, 2)  # white inputs, and teachers with two singular values 1
    y = x @ bases[1] @ np.swapaxes(bases[2], 1, 2)
    start = rng.normal(size=(tasks, TRAINED[-1], k, k)) / k**0.5
    return Data(networks, rng.normal(size=(size, 4 * size)), x, y, start)


def product(factors: Float[Array, "depth d d"], used: Float[Array, " depth"]) -> Float[Array, "d d"]:
    kept = jnp.where((used > 0)[:, None, None], factors, jnp.eye(factors.shape[1])[None])
    return reduce(lambda w, factor: factor @ w, kept)


def at_start(factors: Array, inputs: Array) -> tuple[Array, Array, Array]:
    """Effective ranks of the Gram matrices of the linear and the ReLU network, by depth; log-volumes by the deepest."""

    def layered(carry: tuple[Array, Array], layer: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        w, h = layer @ carry[0], layer @ carry[1]  # no ReLU after the last layer
        return (w, 2**0.5 * jax.nn.relu(h)), (w @ w.T, h @ h.T)

    d = len(inputs)
    (w, _), grams = jax.lax.scan(layered, (jnp.eye(d), inputs), factors)
    linear, relu = (jax.vmap(gb.measures.effective_rank)(gram[jnp.array(DEPTHS) - 1]) / d for gram in grams)
    stretched = jnp.cumsum(jnp.log(jnp.abs(jnp.diag(jnp.linalg.qr(w)[1]))))
    return linear, relu, stretched / (jnp.arange(1.0, d + 1) * len(factors))


def fit(theta: Stack, x: Float[Array, " k"]) -> Float[Array, " k"]:
    return product(*theta) @ x


def fitted_rank(problem: gb.Problem, theta: Stack) -> Float[Array, ""]:
    return gb.measures.effective_rank(product(*theta))


def measured(data: Data, key: PRNGKeyArray, *, deepening: float = 1.0) -> gb.Measured:
    def deepened(factors: Float[Array, "depth d d"]) -> Float[Array, "depth d d"]:
        others = deepening * factors[1:] + (1.0 - deepening) * jnp.eye(factors.shape[1])[None]
        return jnp.concatenate([factors[:1], others])

    starts = jax.lax.map(lambda net: at_start(deepened(net), jnp.asarray(data.inputs)), jnp.asarray(data.networks))
    linear, relu, volumes = jax.tree.map(lambda a: jnp.mean(a, axis=0), starts)
    # A run may stall near a saddle for long: at the horizon its bound is then large, and counts as any other.
    until = gb.Until(8000.0, gb.dynamics.to_interpolation(fitted_rank), 0.01, check_every=1000)

    def train(depth: Array, x: Array, y: Array, start: Array) -> tuple[gb.Trajectory, Array]:
        # Flags are part of θ, so small that they count in no norm.
        flags = jnp.where(jnp.arange(float(len(start))) < depth, 1e-30, 0.0)
        run = gb.evolve(
            gb.Problem(fit, gb.losses.square, x, y, (deepened(start), flags)),
            gb.GradientDescent(0.1),
            until=until,
            key=key,
        )
        return run, gb.measures.effective_rank(product(*run.theta))

    tasks = jax.tree.map(jnp.asarray, (data.x, data.y, data.start))
    # One depth after the other: side by side all would take as many steps as the deepest.
    runs, ranks = jax.lax.map(
        lambda depth: jax.vmap(lambda *task: train(depth, *task))(*tasks), jnp.array(TRAINED, dtype=float)
    )
    trained, stopping = jnp.mean(ranks, axis=1), jnp.linalg.norm(jnp.mean(runs.error, axis=1))
    value = dict(zip(PARTS, (linear, volumes, relu[1:] / linear[1:], relu, trained), strict=True))
    distance = dict.fromkeys(PARTS, 0.0) | {"trained": stopping}
    curves = {"depth": jnp.array(DEPTHS, dtype=float), "linear, start": linear, "ReLU, start": relu}
    curves |= {"linear, trained": trained / data.x.shape[2], "depth, trained": jnp.array(TRAINED, dtype=float)}
    curves["theory"] = jnp.array([float(gb.oracles.gaussian_product_rank(depth).value) for depth in DEPTHS])
    return gb.Measured(value, distance, jnp.all(runs.status < DIVERGED), jnp.max(runs.step), curves)


def predicted(data: Data) -> gb.Prediction:
    size = data.networks.shape[-1]
    ranks = [gb.oracles.gaussian_product_rank(depth) for depth in DEPTHS]
    stretch = gb.oracles.gaussian_product_exponents(size)
    certificate = gb.combine(stretch=stretch, **{str(i): p for i, p in enumerate(ranks)}).certificate
    volumes = np.cumsum(stretch.value) / np.arange(1, size + 1)
    linear = np.array([p.value for p in ranks])
    value = dict(zip(PARTS, (linear, volumes, np.full(4, 0.85), np.full(4, 0.02), np.full(2, 0.2)), strict=True))
    return gb.Prediction(value, certificate, dict.fromkeys(PARTS, 0.0) | {"volumes": float(stretch.error)})


CLAIM = gb.Claim(
    statement=r"A linear network $W_L \cdots W_1$ of $d \times d$ Gaussian layers of variance $1/d$ multiplies "
    r"$k$-volumes by $\exp(L \sum_{i \le k} \frac12 (\psi(\frac{d-i+1}2) + \log \frac 2d))$ in the mean of the "
    r"logarithm, and its Gram matrix has effective rank $d \exp(-\sum_{j=2}^{L+1} 1/j)$ for $L \ll d$. "
    r"Observed: that of ReLU nets at the start, relative to d, falls with every depth tried by 0.02 at least and from "
    r"two layers on is at most 0.85 of the linear ones'; that of linear ones trained on few examples falls by 0.2.",
    source=gb.Source("huh2023low", "Section 3, experiments; number not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric=dict.fromkeys(PARTS[1:], gb.metric.difference) | {"linear": gb.metric.relative_difference},
    relation=dict(zip(PARTS, ("equals", "equals", "at_most", "decreases", "decreases"), strict=True)),
    quantifier="mean",
    tolerance=dict(zip(PARTS, (0.05, 0.03, 0.05, 0.01, 0.1), strict=True)),
    tolerance_reason="The limit is met up to L / d, a fifth at most, of which a twentieth is left; 3 % per layer and "
    "direction; a third of what two nets of one kind would be above the bound; half of the falls that are asked for.",
    settings={
        "smoke": dict(size=40, draws=64, tasks=4, seeds=16),
        "standard": dict(size=64, draws=32, seeds=16),
        "deep": dict(size=128, draws=16, seeds=20),
    },
    control=dict(deepening=0.0),
    control_reason="All layers but the first are the identity: the deep networks compute what the shallow one does.",
    figure=gb.figures.points(
        ["depth", "depth", "depth, trained", "depth"],
        ["linear, start", "ReLU, start", "linear, trained", "theory"],
        labels=["linear, at the start", "ReLU, at the start", "linear, trained", "theory for linear at the start"],
        **dict(x_title="depth", y_title="effective rank / width", log_x=True, log_y=True, lines=["theory"]),
    ),
    seconds=dict(smoke=9, standard=10, deep=120),
)
