"""Mirror descent on least squares, full-batch or stochastic, finds the Bregman projection of its start."""

from typing import Literal

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PRNGKeyArray

import gradbias as gb
from gradbias.data import Dataset

Sets = Literal["gaussian", "diabetes", "digits"]
Mirror = Literal["as predicted", "euclidean"]

# Step sizes relative to the stability limit of gradient descent. Near its limit the method is stable only if the step
# is below 2 over the top eigenvalue of X ψ''(w)⁻¹ Xᵀ, and for p > 2 ψ''⁻¹ is large where a weight is small.
POTENTIALS = {
    "entropy": (gb.dynamics.entropy, gb.oracles.entropy, 0.5),
    "p=1.5": (gb.dynamics.p_norm(1.5), gb.oracles.p_norm(1.5), 0.5),
    "p=3": (gb.dynamics.p_norm(3.0), gb.oracles.p_norm(3.0), 0.025),
}
NAMES = [name + batch for name in POTENTIALS for batch in ("", ", stochastic")]


def data(key: PRNGKeyArray, *, source: Sets, n: int, d: int) -> Dataset:
    rng = gb.data.generator(jr.fold_in(key, 2))
    start = rng.uniform(0.5, 1.5, size=d)
    if source == "gaussian":
        x = gb.data.gaussian_regression(n, d, key=key).x / d**0.5
        return Dataset(x, x @ (start * rng.lognormal(0.0, 0.7, size=d)), start)
    return gb.data.random_feature_regression(source, n, d, key=key)._replace(start=start)


def measured(data: Dataset, key: PRNGKeyArray, *, steps: int, mirror: Mirror = "as predicted") -> gb.Measured:
    problem = gb.Problem(gb.models.linear, gb.losses.square, data.x, data.y, data.start)
    full, single = len(data.y) / jnp.linalg.norm(data.x, 2) ** 2, 1.0 / jnp.max(jnp.sum(data.x**2, axis=1))
    record = gb.Record(lambda problem, w: w, jnp.geomspace(1, steps, 40).round())
    runs = []
    for used, _, speed in POTENTIALS.values():
        used = gb.dynamics.euclidean if mirror == "euclidean" else used
        bound = gb.dynamics.to_interpolation(metric=used.metric)
        until = gb.Until(steps, bound, below=1e-8 * jnp.linalg.norm(data.start), check_every=500)
        for rule in (gb.MirrorDescent(speed * full, used), gb.MirrorDescent(speed * single, used, batch=1)):
            runs.append(gb.evolve(problem, rule, until=until, record=record, key=key))
    away = [jnp.linalg.norm(run.recorded - runs[0].theta[None], axis=1) for run in runs]
    curves = {"steps": record.at, "away": jnp.stack(away, axis=1)}
    limits = {name: run.theta for name, run in zip(NAMES, runs, strict=True)}
    bounds = {name: run.error for name, run in zip(NAMES, runs, strict=True)}
    return gb.Measured(limits, bounds, [run.converged for run in runs], [run.step for run in runs], curves)


def predicted(data: Dataset) -> gb.Prediction:
    found = {
        name: gb.oracles.bregman_projection(data.x, data.y, potential=potential, start=data.start)
        for name, (_, potential, _) in POTENTIALS.items()
    }
    return gb.combine(**{name: found[name.partition(",")[0]] for name in NAMES})


CLAIM = gb.Claim(
    statement=r"Let $X \in \mathbb{R}^{n \times d}$ have full row rank and $\psi$ be strictly convex, here "
    r"$\sum_j w_j \log w_j - w_j$ or $\sum_j |w_j|^p / p$. Where mirror descent, $\nabla\psi(w_{k+1}) = "
    r"\nabla\psi(w_k) - \eta \nabla L(w_k)$ with $L$ the mean of $\frac12 (x_i \cdot w - y_i)^2$ over all examples "
    r"or over one random example a step, converges to an interpolant (small constant $\eta$), that interpolant is "
    r"$\arg\min_{Xw = y} D_\psi(w, w_0)$.",
    source=gb.Source("gunasekar2018characterizing", "Theorem 1; number not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    tolerance=1e-6,
    tolerance_reason="The limit is a point: six digits are agreement for any purpose, and stopping early costs less.",
    assumptions={"X has full row rank": gb.assumptions.full_row_rank},
    settings={
        "smoke": dict(source="gaussian", n=8, d=20, steps=1_000_000, seeds=3),
        "standard": dict(source="diabetes", n=10, d=100, steps=3_000_000, seeds=10),
        "deep": dict(source="digits", n=30, d=300, steps=10_000_000, seeds=5),
    },
    control=dict(mirror="euclidean"),
    control_reason="Gradient descent in place of mirror descent: it finds the Euclidean projection instead.",
    figure=gb.figures.curves(
        x="steps", y="away", labels=NAMES, y_title="distance to the limit of the entropy", log_x=True, log_y=True
    ),
    seconds=dict(smoke=4, standard=7, deep=18),
)
