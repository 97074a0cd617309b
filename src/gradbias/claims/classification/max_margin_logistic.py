"""Logistic regression on separable data converges in direction to the hard-margin support vector machine."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

import gradbias as gb
from gradbias.data import Dataset


def data(key: PRNGKeyArray, *, source: str, n: int = 40, d: int = 20, margin: float = 0.3) -> Dataset:
    if source == "digits":
        return gb.data.digits_pair(0, 1)
    if source == "breast_cancer":
        return gb.data.breast_cancer_separable(width=d, key=key)
    return gb.data.separable_gaussians(n, d, margin=margin, key=key)


def progress(problem: gb.Problem, w: Float[Array, " d"]) -> dict[str, Array]:
    return {"log_risk": problem.log_risk(w), "turn": gb.dynamics.to_direction()(problem, w)}


def measured(data: Dataset, key: PRNGKeyArray, *, loss: str = "logistic", horizon: float = 1e9) -> gb.Measured:
    losses = {"logistic": gb.losses.logistic, "exponential": gb.losses.exponential, "tail": gb.losses.polynomial_tail(2.0)}
    problem = gb.Problem(gb.models.linear, losses[loss], data.x, data.y, data.start)
    flow = gb.GradientFlow("log_risk", "kvaerno5", rtol=1e-6)
    until = gb.Until(horizon, gb.dynamics.to_direction(), below=2e-7)
    record = gb.Record(progress, jnp.geomspace(1.0, horizon, 40))
    run = gb.evolve(problem, flow, until=until, record=record, key=key)
    return run.measured(run.theta / jnp.linalg.norm(run.theta))


def predicted(data: Dataset) -> gb.Prediction:
    return gb.oracles.max_margin(data.x, data.y)


CLAIM = gb.Claim(
    statement="",
    source=gb.Source("soudry2018implicit", "Theorem 3; number not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric=gb.metric.direction,
    tolerance=1e-6,
    tolerance_reason="",
    assumptions={"linearly separable": gb.assumptions.linearly_separable},
    settings={
        "smoke": dict(source="gaussian", seeds=3),
        "standard": dict(source="digits", seeds=1),
        "deep": dict(source="breast_cancer", d=300, seeds=2),
    },
    control=dict(loss="tail"),
    control_reason="",
    figure=gb.figures.curves(x="log_time", y="turn", log_x=True),
)
