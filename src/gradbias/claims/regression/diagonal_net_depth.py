"""Gradient flow on a diagonal network of any depth minimizes a potential, and deeper networks come closer to ℓ1."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

import gradbias as gb
from gradbias.data import Dataset

Sets = Literal["sparse", "diabetes"]

DEPTHS = (2, 3, 4)
NAMES = [f"depth {depth}" for depth in DEPTHS]
HORIZON = 1e8  # time grows like α^-2 for D = 4


def data(key: PRNGKeyArray, *, source: Sets, n: int, d: int) -> Dataset:
    if source == "sparse":
        return gb.data.sparse_regression(n, d, 2, key=key)
    made = gb.data.random_feature_regression(source, n, d, key=key)
    return made._replace(x=made.x * d**0.5)  # features of order one, so that the weights are too


def network(theta: tuple[Array, Array], x: Float[Array, " d1"]) -> Float[Array, " 1"]:
    """The depth travels with the inputs, as their last feature: all depths are one program."""
    return (gb.models.deep_diagonal_predictor(theta, x[-1]) @ x[:-1])[None]


def weights(problem: gb.Problem, theta: tuple[Array, Array]) -> Float[Array, " d"]:
    return gb.models.deep_diagonal_predictor(theta, problem.x[0, -1])


def scales(smallest: float | Array, largest: float | Array, points: int) -> Float[Array, " points"]:
    return jnp.asarray(smallest) * (jnp.asarray(largest) / smallest) ** jnp.linspace(0.0, 1.0, points)


def measured(
    data: Dataset, key: PRNGKeyArray, *, smallest: float, largest: float, points: int, rtol: float
) -> gb.Measured:
    # In the natural coordinates u, v: u^(2-D) + v^(2-D) is a nonlinear invariant, which an integrator can lose.
    def train(depth: Int[Array, ""], alpha: Float[Array, ""]) -> gb.Trajectory:
        start = jnp.full(data.x.shape[1], alpha)
        x = jnp.hstack([data.x, jnp.full((len(data.x), 1), depth.astype(float))])
        problem = gb.Problem(network, gb.losses.square, x, data.y, (start, start))
        flow = gb.GradientFlow("time", "kvaerno5", rtol=rtol, atol=0.1 * rtol)
        until = gb.Until(HORIZON, gb.dynamics.to_interpolation(weights), 1e-8, weights, max_steps=20_000)
        return gb.evolve(problem, flow, until=until, record=gb.Record(weights, [HORIZON]), key=key)

    alpha = scales(smallest, largest, points)
    runs = jax.vmap(jax.vmap(train, (None, 0)), (0, None))(jnp.array(DEPTHS), alpha)
    w = runs.recorded[:, :, 0]
    value = dict(zip(NAMES, w, strict=True)) | {"ℓ1 falls": jnp.sum(jnp.abs(w[:, 0]), axis=1)}
    distance = dict(zip(NAMES, jnp.linalg.norm(runs.error, axis=1), strict=True))
    distance["ℓ1 falls"] = data.x.shape[1] ** 0.5 * jnp.max(runs.error[:, 0])
    curves = {"alpha": alpha, "steps": runs.step}
    return gb.Measured(value, distance, jnp.all(runs.converged), jnp.max(runs.step), curves)


def predicted(data: Dataset, *, smallest: float, largest: float, points: int, believed_depth: int = 0) -> gb.Prediction:
    def limit(depth: int, alpha: float) -> gb.Prediction:
        potential = gb.oracles.hypentropy(alpha**2) if depth == 2 else gb.oracles.diagonal_potential(depth, alpha)
        return gb.oracles.bregman_projection(data.x, data.y, potential=potential)

    alphas = np.asarray(scales(smallest, largest, points))
    every = gb.combine(**{f"{d}, {a:g}": limit(believed_depth or d, float(a)) for d in DEPTHS for a in alphas})
    value = {f"depth {d}": np.stack([every.value[f"{d}, {a:g}"] for a in alphas]) for d in DEPTHS} | {"ℓ1 falls": 0.0}
    error = {f"depth {d}": sum(every.error[f"{d}, {a:g}"] for a in alphas) for d in DEPTHS} | {"ℓ1 falls": 0.0}
    return gb.Prediction(value, every.certificate, error, every.condition, every.tolerance)


CLAIM = gb.Claim(
    statement=r"Gradient flow on $\frac{1}{2n}\|X(u^D - v^D) - y\|^2$, $D \ge 3$, from $u = v = \alpha 1$, if its loss "
    r"goes to 0, converges to $\arg\min_{Xw = y} \sum_j \alpha^D q_D(w_j / \alpha^D)$, $q_D' = h_D^{-1}$, $h_D(z) = "
    r"(1 - z)^{-D/(D-2)} - (1 + z)^{-D/(D-2)}$; for $D = 2$, to the hypentropy's $w_\alpha$. On sparse data with small "
    r"$\alpha$ the $\ell_1$ norm of the limit falls with $D$ at equal $\alpha$: its excess vanishes like a power of "
    r"$\alpha$ instead of $1/\log(1/\alpha)$.",
    source=gb.Source("woodworth2020kernel", "Theorem 3; number not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric=dict.fromkeys(NAMES, gb.metric.relative_l2) | {"ℓ1 falls": gb.metric.difference},
    relation=dict.fromkeys(NAMES, "equals") | {"ℓ1 falls": "decreases"},
    tolerance=dict.fromkeys(NAMES, 1e-06) | {"ℓ1 falls": 1e-4},
    tolerance_reason="At each α the limit is a point, wanted to six digits. A norm that falls does so by more than its "
    "fourth digit.",
    assumptions={"X has full row rank": gb.assumptions.full_row_rank},
    settings={
        "smoke": dict(source="sparse", n=8, d=16, smallest=0.2, largest=1.5, points=3, rtol=2e-10, seeds=3),
        "standard": dict(source="sparse", n=12, d=30, smallest=0.2, largest=2.0, points=4, rtol=5e-11, seeds=10),
        "deep": dict(source="sparse", n=16, d=40, smallest=0.2, largest=2.0, points=4, rtol=5e-11, seeds=10),
        "real": dict(source="diabetes", n=10, d=24, smallest=0.3, largest=1.5, points=3, rtol=5e-11, seeds=5),
    },
    control=dict(believed_depth=3),
    control_reason="The potential of three layers, predicted for two and four as well.",
    figure=gb.figures.along(
        "alpha",
        NAMES,
        of=lambda w: np.sum(np.abs(w), axis=1),
        x_title="scale α of the start",
        y_title="ℓ1 norm of the limit",
    ),
    seconds=dict(smoke=4, standard=15, deep=200, real=15),
)
