"""The linear model, one output."""

from jaxtyping import Array, Float


def linear(w: Float[Array, " d"], x: Float[Array, " d"]) -> Float[Array, " 1"]:
    r"""$f(w, x) = w \cdot x$."""
    return (w @ x)[None]
