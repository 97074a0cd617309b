r"""Losses $\ell(f, y)$ of one example's outputs `f` (shape `(k,)`) and target `y`.

Margin losses also carry `log(f, y)` $= \log \ell$, which stays exact at margins of $\pm 10^4$ where $\ell$ itself is
below the smallest float: the reparametrised gradient flow (`gradbias.dynamics.GradientFlow`) runs on it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped


def square(f: Float[Array, " k"], y: Float[Array, "*k"]) -> Float[Array, ""]:
    r"""$\tfrac12 \|f - y\|_2^2$; a scalar target stands for a vector of one.

    >>> float(square(jnp.array([3.0]), jnp.array(1.0)))
    2.0
    """
    return 0.5 * jnp.sum((f - jnp.reshape(y, f.shape)) ** 2)


@dataclass(frozen=True)
class MarginLoss:
    r"""$\ell(z)$ of the margin $z = y f$ with $y \in \{-1, +1\}$ and one output, with $\log \ell$ in closed form."""

    name: str
    of_margin: Callable[[Float[Array, ""]], Float[Array, ""]]
    log_of_margin: Callable[[Float[Array, ""]], Float[Array, ""]]

    def __call__(self, f: Float[Array, " 1"], y: Shaped[Array, ""]) -> Float[Array, ""]:
        """The loss itself; underflows to zero where its logarithm is below about -745 (float64)."""
        return self.of_margin(f[0] * y)

    def log(self, f: Float[Array, " 1"], y: Shaped[Array, ""]) -> Float[Array, ""]:
        """Its logarithm, exact at any margin."""
        return self.log_of_margin(f[0] * y)

    def require_targets(self, y: Shaped[np.ndarray, "n ..."], outputs: int) -> None:
        """Raise `ValueError` unless the model has one output and every label is -1 or +1."""
        if outputs != 1:
            raise ValueError(f"The {self.name} loss is of one output; the model has {outputs}. See cross_entropy.")
        _refuse(np.abs(y) != 1, y, f"The {self.name} loss needs labels -1 and +1")


def _refuse(bad: Bool[np.ndarray, "n ..."], y: Shaped[np.ndarray, "n ..."], needed: str) -> None:
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"{needed}; {int(bad.sum())} of {y.size} are others, the first y{list(where)} = {y[where]}.")


def _log_logistic(z: Float[Array, ""]) -> Float[Array, ""]:
    # log log(1+e^{-z}): for z > 30, log1p(t) = t - t²/2 + O(t³) with t = e^{-z} < 1e-13, so the log is -z - t/2.
    big = z > 30.0
    small = jnp.where(big, 30.0, z)
    return jnp.where(big, -z - 0.5 * jnp.exp(-jnp.where(big, z, 30.0)), jnp.log(jax.nn.softplus(-small)))


exponential = MarginLoss("exponential", lambda z: jnp.exp(-z), lambda z: -z)
logistic = MarginLoss("logistic", lambda z: jax.nn.softplus(-z), _log_logistic)


def polynomial_tail(power: float) -> MarginLoss:
    r"""Loss with the tail $z^{-q}$, $q$ = `power`: $(1+z)^{-q}$ for $z \ge 0$, continued linearly (slope $-q$) below.

    Convex, decreasing and once continuously differentiable. Raises `ValueError` unless `power` is positive.
    """
    if not power > 0:
        raise ValueError(f"The tail z^-q needs a positive q; got power={power}.")
    return _POLYNOMIAL.setdefault(power, _make_polynomial_tail(power))


# One object per power, so that asking twice does not compile twice.
_POLYNOMIAL: dict[float, MarginLoss] = {}


def _make_polynomial_tail(power: float) -> MarginLoss:
    # Split by `where` and not by `maximum`, whose slope at 0, where training from zero starts, is one half.
    def of_margin(z: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.where(z >= 0, (1 + jnp.where(z >= 0, z, 0.0)) ** -power, 1 - power * z)

    def log_of_margin(z: Float[Array, ""]) -> Float[Array, ""]:
        above, below = jnp.where(z >= 0, z, 0.0), jnp.where(z >= 0, 0.0, z)
        return jnp.where(z >= 0, -power * jnp.log1p(above), jnp.log1p(-power * below))

    return MarginLoss(f"polynomial tail {power}", of_margin, log_of_margin)


@dataclass(frozen=True)
class CrossEntropy:
    r"""$-\log \operatorname{softmax}(f)_y$ for an integer label $y$, with an exact logarithm for large margins."""

    def __call__(self, f: Float[Array, " k"], y: Int[Array, ""]) -> Float[Array, ""]:
        """The loss itself."""
        return jax.nn.softplus(self._log_odds_against(f, y))

    def log(self, f: Float[Array, " k"], y: Int[Array, ""]) -> Float[Array, ""]:
        """Its logarithm, exact at any margin."""
        return _log_logistic(-self._log_odds_against(f, y))

    def require_targets(self, y: Shaped[np.ndarray, "n ..."], outputs: int) -> None:
        """Raise `ValueError` unless every label is an integer from 0 to the number of outputs less one."""
        if not np.issubdtype(y.dtype, np.integer):
            raise ValueError(f"Cross-entropy needs integer labels; got {y.dtype}. Use y.astype(int) on class numbers.")
        _refuse((y < 0) | (y >= outputs), y, f"Cross-entropy with {outputs} outputs needs labels 0 to {outputs - 1}")

    @staticmethod
    def _log_odds_against(f: Float[Array, " k"], y: Int[Array, ""]) -> Float[Array, ""]:
        others = jnp.where(jnp.arange(f.shape[0]) == y, -jnp.inf, f - f[y])
        return jax.nn.logsumexp(others)


cross_entropy = CrossEntropy()
