"""A claim whose training fails."""

import jax.random as jr

from gradbias.claim import Claim, Measured, Prediction, Source
from gradbias.figures import agreement


def numbers(key):
    return jr.normal(key, (2,))


def training(x, key):
    del x, key
    raise RuntimeError("this training always fails")


def prediction(x):
    return Prediction(x, {"none needed": 0.0})


CLAIM = Claim(
    statement=r"$1 = 1$",
    source=Source("soudry2018implicit", "number not checked"),
    data=numbers,
    measured=training,
    predicted=prediction,
    tolerance=1e-6,
    tolerance_reason="Any.",
    settings={"smoke": {"seeds": 2}, "standard": {"seeds": 4}, "deep": {"seeds": 8}},
    control={},
    control_reason="None.",
    figure=agreement(),
)
__all__ = ["CLAIM", "Measured"]
