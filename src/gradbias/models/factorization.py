r"""Matrix factorization, $W = W_L \cdots W_1$ observed entry by entry: input $(i, j)$, output $W_{ij}$."""

from jaxtyping import Array, Float, Int

from .deep_linear import Layers, deep_linear_product


def factor_product(theta: Layers) -> Float[Array, "m n"]:
    r"""$W_L \cdots W_1$."""
    return deep_linear_product(theta)


def entry(theta: Layers, index: Int[Array, " 2"]) -> Float[Array, " 1"]:
    r"""$W_{ij}$ for `index` $= (i, j)$."""
    return factor_product(theta)[index[0], index[1]][None]
