"""Gradient flow on a diagonal linear network minimizes a norm between ℓ1, for small starts, and ℓ2, for large ones.

`depth` makes it a network of more layers, with the potential of that depth; beyond four a start at 1e-8 is too small
for its float64 oracle.
"""

from dataclasses import replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import gradbias as gb
from gradbias.data import Dataset

Sets = Literal["sparse", "diabetes", "digits"]

HORIZON = 1e14  # time grows like 1/α² towards small starts


def data(key: PRNGKeyArray, *, source: Sets, n: int, d: int, sparsity: int = 2) -> Dataset:
    if source == "sparse":
        return gb.data.sparse_regression(n, d, sparsity, key=key)
    made = gb.data.random_feature_regression(source, n, d, key=key)
    return made._replace(x=made.x * d**0.5)  # features of order one, so that the weights are too


def start_of(alpha: float | Array, depth: int) -> float | Array:
    """Entries of u and v whose D-th power is α²."""
    return alpha ** (2.0 / depth)


def measured(
    data: Dataset,
    key: PRNGKeyArray,
    *,
    small: float,
    alpha: float,
    large: float,
    depth: int = 2,
    start_scale: float = 1.0,
) -> gb.Measured:
    def weights(problem: gb.Problem, theta: tuple[Array, Array]) -> Float[Array, " d"]:
        return gb.models.deep_diagonal_predictor(theta, depth)

    # In the natural coordinates u, v: log u + log v is a linear invariant, which any integrator would keep for free.
    def train(alpha: Float[Array, ""]) -> gb.Trajectory:
        start = jnp.full(data.x.shape[1], start_scale * start_of(alpha, depth))
        problem = gb.Problem(gb.models.deep_diagonal(depth), gb.losses.square, data.x, data.y, (start, start))
        # Of u and v, whose powers are as large as α² and nearly cancel for large starts.
        size = jnp.maximum(1.0, alpha**2)
        flow = gb.GradientFlow("time", "kvaerno5", 5e-10 / 4 ** (depth - 2) / size, 1e-10 * alpha / size)
        bound = gb.dynamics.to_interpolation(weights)
        until = gb.Until(HORIZON, bound, below=1e-8, quantity=weights, max_steps=100_000)
        return gb.evolve(problem, flow, until=until, record=gb.Record(weights, shown), key=key)

    shown = jnp.geomspace(1e-2, 1e6, 60)
    runs = jax.vmap(train)(jnp.stack([jnp.asarray(small), jnp.asarray(alpha), jnp.asarray(large)]))
    w = jax.vmap(lambda theta: gb.models.deep_diagonal_predictor(theta, depth))(runs.theta)
    limits = {"small": w[0], "alpha": w[1], "large": w[2], "l1": jnp.sum(jnp.abs(w[0])), "l2": jnp.linalg.norm(w[2])}
    error = runs.error
    bounds = {
        "small": error[0],
        "alpha": error[1],
        "large": error[2],
        "l1": w.shape[1] ** 0.5 * error[0],
        "l2": error[2],
    }
    curves = {"time": shown, "l1": jnp.sum(jnp.abs(runs.recorded), axis=2).T}
    return gb.Measured(limits, bounds, jnp.all(runs.converged), jnp.max(runs.step), curves)


def predicted(data: Dataset, *, small: float, alpha: float, large: float, depth: int = 2) -> gb.Prediction:
    def limit(scale: float) -> gb.Prediction:
        deep = depth > 2
        potential = (
            gb.oracles.diagonal_potential(depth, start_of(scale, depth)) if deep else gb.oracles.hypentropy(scale**2)
        )
        return gb.oracles.bregman_projection(data.x, data.y, potential=potential)

    l1, least = gb.oracles.min_norm_lp_value(data.x, data.y), gb.oracles.min_norm_interpolant(data.x, data.y)
    l2 = replace(least, value=np.linalg.norm(least.value))
    return gb.combine(small=limit(small), alpha=limit(alpha), large=limit(large), l1=l1, l2=l2)


WEIGHTS, NORM = gb.metric.relative_l2, gb.metric.relative_difference

CLAIM = gb.Claim(
    statement=r"Gradient flow on $\frac{1}{2n}\|X(u^2 - v^2) - y\|^2$ from $u = v = \alpha 1$, if its loss goes to 0, "
    r"converges to $w_\alpha = \arg\min_{Xw = y} \sum_j \alpha^2 q(w_j / \alpha^2)$, $q(z) = 2 - \sqrt{4 + z^2} + z "
    r"\operatorname{arsinh}(z/2)$. Hence $\|w_\alpha\|_1$ tends to the least $\ell_1$ norm of an interpolant as "
    r"$\alpha \to 0$, and $\|w_\alpha\|_2$ to the least $\ell_2$ norm as $\alpha \to \infty$.",
    source=gb.Source("woodworth2020kernel", "Theorem 1; number not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric={"small": WEIGHTS, "alpha": WEIGHTS, "large": WEIGHTS, "l1": NORM, "l2": NORM},
    tolerance={"small": 1e-6, "alpha": 1e-6, "large": 1e-6, "l1": 1e-2, "l2": 1e-2},
    tolerance_reason="At each α the limit is a point, wanted to six digits. The ends are limits in α, reached like "
    "1/log(1/α): within one percent a norm is the least one for any reader.",
    assumptions={"X has full row rank": gb.assumptions.full_row_rank},
    settings={
        "smoke": dict(source="sparse", n=12, d=24, small=1e-8, alpha=0.1, large=1.0, seeds=3),
        "standard": dict(source="diabetes", n=12, d=40, small=1e-8, alpha=0.1, large=1.0, seeds=5),
        "deep": dict(source="sparse", n=20, d=40, sparsity=3, small=1e-10, alpha=0.1, large=1.0, seeds=5),
    },
    control=dict(start_scale=2.0),
    control_reason="Started at 2α instead of α: another α is another potential, so the limit moves.",
    figure=gb.figures.curves(
        x="time",
        y="l1",
        labels=["small start", "start at α", "large start"],
        y_title="‖w‖₁ (dashed: the least of any interpolant)",
        log_x=True,
        log_y=False,
        target="l1",
    ),
    seconds=dict(smoke=4, standard=5, deep=15),
)
