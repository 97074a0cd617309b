r"""The two-layer diagonal linear network, $f(\theta, x) = (u \odot u - v \odot v) \cdot x$, $\theta = (u, v)$."""

from jaxtyping import Array, Float

Pair = tuple[Float[Array, " d"], Float[Array, " d"]]


def diagonal_predictor(theta: Pair) -> Float[Array, " d"]:
    r"""$w = u^2 - v^2$ coordinatewise."""
    u, v = theta
    return u**2 - v**2


def diagonal(theta: Pair, x: Float[Array, " d"]) -> Float[Array, " 1"]:
    r"""$f(\theta, x) = (u^2 - v^2) \cdot x$. [@woodworth2020kernel]"""
    return (diagonal_predictor(theta) @ x)[None]
