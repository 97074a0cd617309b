"""From any start, gradient descent, momentum and SGD on least squares find the interpolant closest to that start."""

from typing import Literal

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

import gradbias as gb
from gradbias.data import Dataset

Sets = Literal["gaussian", "diabetes", "digits"]
First = Literal["gradient_descent", "adam"]


def data(key: PRNGKeyArray, *, source: Sets, n: int, d: int) -> Dataset:
    if source == "gaussian":
        made = gb.data.gaussian_regression(n, d, key=key)
    else:
        made = gb.data.random_feature_regression(source, n, d, key=key)
    return made._replace(start=gb.data.generator(jr.fold_in(key, 2)).normal(size=d))


def position(problem: gb.Problem, w: Float[Array, " d"]) -> Float[Array, " d"]:
    return w


def measured(data: Dataset, key: PRNGKeyArray, *, steps: int, first: First = "gradient_descent") -> gb.Measured:
    problem = gb.Problem(gb.models.linear, gb.losses.square, data.x, data.y, data.start)
    rate = len(data.y) / jnp.linalg.norm(data.x, 2) ** 2
    rules = {
        "gradient_descent": gb.Adam(0.01, power=0.5, halflife=100.0) if first == "adam" else gb.GradientDescent(rate),
        "momentum": gb.MomentumDescent(rate, 0.9),
        "sgd": gb.StochasticGradientDescent(1.0 / jnp.max(jnp.sum(data.x**2, axis=1))),
    }
    until = gb.Until(steps, gb.dynamics.to_interpolation(), below=1e-8 * jnp.linalg.norm(data.start), check_every=500)
    shown = jnp.geomspace(1, steps, 40).round()
    runs = {
        name: gb.evolve(problem, rule, until=until, record=gb.Record(position, shown), key=key)
        for name, rule in rules.items()
    }
    limits = {name: run.theta for name, run in runs.items()}
    away = {name: jnp.linalg.norm(run.recorded - sum(limits.values())[None] / 3, axis=1) for name, run in runs.items()}
    bounds = {name: run.error for name, run in runs.items()}
    converged, ended = [run.converged for run in runs.values()], [run.step for run in runs.values()]
    return gb.Measured(limits, bounds, converged, ended, {"steps": shown, **away})


def predicted(data: Dataset) -> gb.Prediction:
    closest = gb.oracles.min_norm_interpolant(data.x, data.y, start=data.start)
    return gb.combine(gradient_descent=closest, momentum=closest, sgd=closest)


CLAIM = gb.Claim(
    statement=r"If $X \in \mathbb{R}^{n \times d}$ has full row rank, then from every $w_0$ gradient descent "
    r"($0 < \eta < 2n/\sigma_{\max}^2$), heavy-ball momentum ($0 < \eta < (2+2\beta)\,n/\sigma_{\max}^2$) and SGD on "
    r"one example at a time ($0 < \eta < 2/\max_i \|x_i\|^2$) on $\frac{1}{2n}\|Xw - y\|^2$ all converge to "
    r"$w_0 + X^{+}(y - Xw_0) = \arg\min_{Xw = y} \|w - w_0\|_2$; SGD almost surely.",
    source=gb.Source("gunasekar2018characterizing", "Theorem 1, Euclidean potential; Section 2; number not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    tolerance=1e-6,
    tolerance_reason="The limit is a point: six digits are agreement for any purpose, and stopping early costs less.",
    assumptions={"X has full row rank": gb.assumptions.full_row_rank},
    settings={
        "smoke": dict(source="gaussian", n=20, d=60, steps=100_000, seeds=3),
        "standard": dict(source="diabetes", n=20, d=200, steps=3_000_000, seeds=10),
        "deep": dict(source="digits", n=150, d=1000, steps=10_000_000, seeds=5),
    },
    control=dict(first="adam"),
    control_reason="Adam rescales each coordinate, so that its steps leave the start plus the span of the examples.",
    figure=gb.figures.curves(
        x="steps",
        y=["gradient_descent", "momentum", "sgd"],
        labels=["gradient descent", "momentum", "SGD"],
        y_title="distance to the mean of the three limits",
        log_x=True,
        log_y=True,
    ),
    seconds=dict(smoke=4, standard=5, deep=18),
)
