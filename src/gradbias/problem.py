"""The object everything else is a function of: an empirical risk and a start."""

from collections.abc import Callable
from typing import Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, Shaped

Theta = TypeVar("Theta", bound=PyTree)


class Problem(eqx.Module, Generic[Theta]):
    r"""Empirical risk $L(\theta) = \frac1n \sum_i \ell(f(\theta, x_i), y_i)$ and the start $\theta_0$.

    `predict(theta, x_i)` returns the $k$ outputs of one example, `loss(f_i, y_i)` its loss. Both must be module-level
    functions (or other hashable callables): a lambda made anew for every call compiles anew for every call.
    `theta0` is any pytree of floating arrays.

    Raises `ValueError` if `x` and `y` differ in length, are empty, hold NaN or infinity, if the loss cannot take the
    labels, or if `predict` and `loss` do not return the shapes named above; the message names the array and the first
    offending index.
    """

    predict: Callable[..., Float[Array, " k"]] = eqx.field(static=True)
    loss: Callable[..., Float[Array, ""]] = eqx.field(static=True)
    x: Shaped[Array | np.ndarray, "n ..."]
    y: Shaped[Array | np.ndarray, "n ..."]
    theta0: Theta

    def __check_init__(self) -> None:
        if self.x.shape[0] != self.y.shape[0] or self.x.shape[0] == 0:
            raise ValueError(
                f"A problem needs as many targets as inputs, and at least one; got x of shape {self.x.shape} and y of "
                f"shape {self.y.shape}. The first axis of both counts the examples."
            )
        require_finite(x=self.x, y=self.y)
        for number, leaf in enumerate(jax.tree.leaves(self.theta0)):
            is_number = isinstance(leaf, float | int)
            require_finite(**{f"theta0 (leaf {number})": np.asarray(leaf) if is_number else leaf})
        self._check_shapes()

    def _check_shapes(self) -> None:
        first = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (self.x, self.y))
        f = jax.eval_shape(self.predict, self.theta0, first[0])
        if getattr(f, "ndim", None) != 1:
            raise ValueError(
                f"predict(theta, x_i) must return a vector of outputs, shape (k,); got {f} for x_i of shape "
                f"{first[0].shape}. A scalar output f is returned as f[None]."
            )
        require_targets = getattr(self.loss, "require_targets", None)
        if require_targets is not None and not isinstance(self.y, jax.core.Tracer):
            require_targets(np.asarray(self.y), f.shape[0])
        value = jax.eval_shape(self.loss, f, first[1])
        if getattr(value, "shape", None) != ():
            raise ValueError(
                f"loss(f_i, y_i) must return a scalar; got {value} for f_i of shape {f.shape} and y_i of shape "
                f"{first[1].shape}."
            )

    def outputs(self, theta: Theta) -> Float[Array, "n k"]:
        r"""Outputs $f(\theta, x_i)$ for every example."""
        return jax.vmap(lambda x: self.predict(theta, x))(self.x)

    def risk(self, theta: Theta) -> Float[Array, ""]:
        r"""Mean loss $L(\theta)$."""
        return jnp.mean(jax.vmap(self.loss)(self.outputs(theta), self.y))

    def batch(self, index: Int[Array, " b"]) -> "Problem[Theta]":
        """The problem on the examples `index` alone."""
        return Problem(self.predict, self.loss, jnp.asarray(self.x)[index], jnp.asarray(self.y)[index], self.theta0)

    def log_risk(self, theta: Theta) -> Float[Array, ""]:
        r"""$\log L(\theta)$, exact where $L$ itself underflows, for losses with a `log` (see `gradbias.losses`)."""
        log_loss = getattr(self.loss, "log", None)
        if log_loss is None:
            return jnp.log(self.risk(theta))
        logs = jax.vmap(log_loss)(self.outputs(theta), self.y)
        return jax.nn.logsumexp(logs) - jnp.log(float(logs.shape[0]))


def require_finite(**arrays: Array | np.ndarray) -> None:
    """Raise `ValueError` naming the first array with NaN or infinity and where it is; traced arrays are passed over."""
    for name, array in arrays.items():
        if isinstance(array, jax.core.Tracer) or not jnp.issubdtype(array.dtype, jnp.inexact):
            continue
        bad = np.argwhere(~np.isfinite(np.asarray(array)))
        if len(bad):
            where = tuple(int(i) for i in bad[0])
            raise ValueError(
                f"{name} must be finite; {len(bad)} of its {array.size} entries are NaN or infinite, the first at "
                f"index {where} ({np.asarray(array)[where]}). Remove or impute those examples first."
            )
