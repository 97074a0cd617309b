"""A walk without drift comes to rest."""

import jax.numpy as jnp
import jax.random as jr

from gradbias.claim import Claim, Measured, Prediction, Source
from gradbias.figures import bars


def start(key):
    del key
    return jnp.zeros(())


def walk(x, key, *, shift: float = 0.0, settled: bool = False):
    steps = jr.rademacher(key, (10,), dtype=float)
    return Measured(x + steps.sum() + shift, converged=settled, step=10)


def rest(x):
    return Prediction(x + 1.0, {"none needed": 0.0})


CLAIM = Claim(
    statement=r"$w_t \to w_\infty$",
    source=Source("soudry2018implicit", "number not checked"),
    data=start,
    measured=walk,
    predicted=rest,
    tolerance=1e-6,
    tolerance_reason="Any.",
    settings={"smoke": {"seeds": 2}, "standard": {"seeds": 4}, "deep": {"seeds": 8}},
    control={"shift": 100.0, "settled": True},
    control_reason="Too far to be at rest.",
    figure=bars(),
    seconds={"smoke": 1},
)
