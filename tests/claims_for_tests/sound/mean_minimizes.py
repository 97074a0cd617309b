"""Gradient descent on the mean squared distance to some points ends at their mean."""

import jax
import jax.numpy as jnp
import jax.random as jr

from gradbias.claim import Claim, Measured, Prediction, Source
from gradbias.figures import curves


def points(key, *, n: int, spread: float = 1.0):
    if n < 1:
        raise ValueError(f"n must be at least 1; got {n}.")
    return spread * jr.normal(key, (n,))


def descent(x, key, *, rate: float = 0.2):
    def step(w, _):
        return w - rate * jnp.mean(w - x), jnp.abs(w - jnp.mean(x))

    w, far = jax.lax.scan(step, jnp.zeros(()), None, length=200)
    time = rate * jnp.arange(1.0, 201.0)
    return Measured(w[None], distance=far[-1], converged=far[-1] < 1e-12, curves={"time": time, "distance": far})


def mean(x):
    return Prediction(x.mean()[None], certificate={"stationarity": float(abs((x - x.mean()).mean()))})


def predicted(x, *, power: int = 1):
    return mean(x) if power == 1 else Prediction((x**2).mean()[None], {"none needed": 0.0})


CLAIM = Claim(
    statement=r"$\arg\min_w \frac1n \sum_i (w - x_i)^2 = \bar x$",
    source=Source("soudry2018implicit", "number not checked"),
    data=points,
    measured=descent,
    predicted=predicted,
    tolerance=1e-6,
    tolerance_reason="Rounding is 1e-15; six digits leave no room for another answer.",
    settings={"smoke": {"seeds": 3, "n": 10}, "standard": {"seeds": 8, "n": 50}, "deep": {"seeds": 20, "n": 200}},
    control={"power": 2},
    control_reason="The mean of the squares is another number.",
    figure=curves("time", "distance", log_y=True, guide=("exp(-t)", -1.0)),
    assumptions={"finite": lambda x: bool(jnp.isfinite(x).all())},
    seconds={"smoke": 1},
)
