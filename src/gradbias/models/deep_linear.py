r"""Fully connected linear networks, $f(\theta, x) = W_L \cdots W_1 x$, θ the tuple $(W_1, \dots, W_L)$."""

from functools import reduce

import jax.numpy as jnp
from jaxtyping import Array, Float

Layers = tuple[Float[Array, "_ _"], ...]  # of any widths that follow on each other


def deep_linear_product(theta: Layers) -> Float[Array, "k d"]:
    r"""The end-to-end matrix $W_L \cdots W_1$."""
    return reduce(lambda product, layer: layer @ product, theta)


def deep_linear(theta: Layers, x: Float[Array, " d"]) -> Float[Array, " k"]:
    r"""$W_L \cdots W_1 x$."""
    return jnp.asarray(reduce(lambda h, layer: layer @ h, theta, x))
