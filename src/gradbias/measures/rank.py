"""How many directions a matrix uses."""

import jax.numpy as jnp
from jax.scipy.special import entr
from jaxtyping import Array, Float


def effective_rank(matrix: Float[Array, "m n"]) -> Float[Array, ""]:
    r"""$\exp(-\sum_i p_i \log p_i)$, $p_i = \sigma_i / \sum_j \sigma_j$: the exponential of their entropy.

    [@roy2007effective]

    >>> round(float(effective_rank(jnp.diag(jnp.array([2.0, 2.0, 0.0])))), 6)
    2.0
    """
    s = jnp.linalg.svd(matrix, compute_uv=False)
    return jnp.exp(jnp.sum(entr(s / jnp.sum(s))))
