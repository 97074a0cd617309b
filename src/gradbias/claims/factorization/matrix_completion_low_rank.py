"""Deep matrix factorization from a small start completes matrices with a lower rank than the least nuclear norm."""

from functools import cache, reduce

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

import gradbias as gb
from gradbias.data import Dataset

# The factors, all depths of one shape to share a program, and per factor a flag: zero leaves it out of the product.
Stack = tuple[Float[Array, "depth size size"], Float[Array, " depth"]]


@cache
def convex(size: int, entries: tuple[tuple[float, float, float], ...]) -> gb.Prediction:
    mask, values = np.zeros((2, size, size))
    for i, j, y in entries:
        mask[int(i), int(j)], values[int(i), int(j)] = 1.0, y
    return gb.oracles.min_nuclear_norm(mask, values)


def data(key: PRNGKeyArray, *, size: int, rank: int, observed: int, deepest: int) -> Dataset:
    start = gb.data.generator(key).normal(size=(deepest, size, size)) / np.sqrt(size)
    while True:  # where the convex solution is not unique, or hardly, nothing is predicted: take another instance
        key = jr.fold_in(key, 1)
        _, x, y = gb.data.low_rank_completion(size, rank, observed, key=key)
        if convex(size, tuple(zip(*x.T.tolist(), y.tolist(), strict=True))).error < 1e-2:
            return Dataset(x, y, start)


def product(theta: Stack) -> Float[Array, "size size"]:
    factors = jnp.where((theta[1] > 0)[:, None, None], theta[0], jnp.eye(theta[0].shape[1])[None])
    return reduce(lambda w, factor: factor @ w, factors)


def entry(theta: Stack, x: Int[Array, " 2"]) -> Float[Array, " 1"]:
    return product(theta)[x[0], x[1]][None]


def effective_rank(problem: gb.Problem, theta: Stack) -> Float[Array, ""]:
    return gb.measures.effective_rank(product(theta))


def measured(data: Dataset, key: PRNGKeyArray, *, scale: float) -> gb.Measured:
    bound, record = gb.dynamics.to_interpolation(effective_rank), gb.Record(effective_rank, jnp.geomspace(1.0, 1e9, 40))
    until = gb.Until(1e9, bound, 0.02, effective_rank, max_steps=100_000, check_every=20)

    def run(depth: Int[Array, ""]) -> gb.dynamics.Trajectory:
        used = jnp.where(jnp.arange(len(data.start)) < depth, 1.0, 0.0)
        start = (scale ** (1.0 / depth.astype(float)) * used)[:, None, None] * data.start, 1e-30 * used
        problem = gb.Problem(entry, gb.losses.square, data.x, data.y, start)
        return gb.evolve(problem, gb.GradientFlow(rtol=1e-7), until=until, record=record, key=key)

    runs = jax.vmap(run)(jnp.arange(2, len(data.start) + 1))
    value = {"deepest": runs.recorded[-1, -1], "with_depth": runs.recorded[:, -1]}
    distance = {"deepest": runs.error[-1], "with_depth": jnp.linalg.norm(runs.error)}
    curves = {"time": record.at, "effective rank": runs.recorded.T}
    return gb.Measured(value, distance, jnp.all(runs.converged), jnp.max(runs.step), curves)


def predicted(data: Dataset) -> gb.Prediction:
    size = len(data.start[0])
    found = convex(size, tuple(zip(*data.x.T.tolist(), data.y.tolist(), strict=True)))
    s = np.linalg.svd(found.value, compute_uv=False)
    p = s[s > 0] / s.sum()
    rank = float(np.exp(-np.sum(p * np.log(p))))
    # Fannes and Audenaert: the entropy moves by at most T log(n - 1) + h(T), T half the ℓ1 distance of the shares.
    t = np.sqrt(size) * found.error / s.sum()
    error = rank * np.expm1(t * np.log(size - 1) - t * np.log(t) - (1 - t) * np.log1p(-t))
    return gb.Prediction({"deepest": rank, "with_depth": 0.0}, found.certificate, {"deepest": error, "with_depth": 0.0})


CLAIM = gb.Claim(
    statement=r"Fit half the entries of a rank-one matrix by $W_L \cdots W_1$: gradient flow on the square loss, small "
    r"Gaussian start. On average the effective rank $\exp H(\sigma / \sum \sigma)$ of the limit falls with $L$, and at "
    r"$L \ge 3$ it is below that of the least nuclear norm, where that is unique. (Not in every instance; at $L = 2$ "
    r"the two are too close to tell apart here.)",
    source=gb.Source("arora2019implicit", "Section 2, experiments; number not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric=gb.metric.difference,
    relation={"deepest": "at_most", "with_depth": "decreases"},
    quantifier="mean",
    tolerance=0.1,
    tolerance_reason="A tenth of a rank: between instances the effective rank varies by several tenths.",
    settings={
        "smoke": dict(size=8, rank=1, observed=32, deepest=3, scale=1e-3, seeds=32),
        "standard": dict(size=8, rank=1, observed=32, deepest=3, scale=1e-3, seeds=50),
        "deep": dict(size=8, rank=1, observed=32, deepest=4, scale=1e-3, seeds=50),
    },
    control=dict(scale=1.0),
    control_reason="From a large start the factors hardly move and keep the many singular values they began with.",
    figure=gb.figures.curves(
        "time",
        "effective rank",
        y_title="effective rank (line k: depth k + 1)",
        log_x=True,
        log_y=False,
        target="deepest",
    ),
    seconds=dict(smoke=8, standard=20, deep=60),
)
