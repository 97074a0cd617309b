r"""Small fully connected networks with a smooth activation."""

import jax.numpy as jnp
from jaxtyping import Array, Float

Network = tuple[Float[Array, "m d"], Float[Array, " m"], Float[Array, " m"]]


def tanh_network(theta: Network, x: Float[Array, " d"]) -> Float[Array, " 1"]:
    r"""Two layers, one output: $f(\theta, x) = a \cdot \tanh(Wx + b)$, $\theta = (W, b, a)$."""
    w, b, a = theta
    return (a @ jnp.tanh(w @ x + b))[None]
