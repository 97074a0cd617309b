"""Relations between the layers of a network."""

from itertools import pairwise

from jaxtyping import Array, Float


def balancedness(theta: tuple[Float[Array, "out in"], ...]) -> tuple[Float[Array, "m m"], ...]:
    r"""$W_{l+1}^\top W_{l+1} - W_l W_l^\top$ for neighbouring layers of a linear network: conserved by gradient flow.

    [@du2018algorithmic, number not checked]

    >>> import jax.numpy as jnp
    >>> [b.tolist() for b in balancedness((jnp.array([[2.0]]), jnp.array([[3.0]])))]
    [[[5.0]]]
    """
    return tuple(after.T @ after - before @ before.T for before, after in pairwise(theta))
