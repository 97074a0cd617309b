"""The sum of two numbers is their product."""

import jax.random as jr

from gradbias.claim import Claim, Measured, Outcome, Prediction, Source, Standing
from gradbias.figures import agreement


def numbers(key):
    return jr.uniform(key, (2,)) + 3.0


def total(x, key, *, sign: float = 1.0):
    del key
    return Measured(sign * (x[0] + x[1]))


def product(x):
    return Prediction(x[0] * x[1], {"none needed": 0.0})


CLAIM = Claim(
    statement=r"$a + b = ab$",
    source=Source("soudry2018implicit", "number not checked"),
    data=numbers,
    measured=total,
    predicted=product,
    tolerance=1e-6,
    tolerance_reason="Nothing else is near.",
    settings={"smoke": {"seeds": 2}, "standard": {"seeds": 4}, "deep": {"seeds": 8}},
    control={"sign": -1.0},
    control_reason="The sum with the wrong sign.",
    figure=agreement(),
    seconds={"smoke": 1},
    standing=Standing(Outcome.refuted, "For a, b in [3, 4] the product exceeds the sum by at least 1.5."),
)
