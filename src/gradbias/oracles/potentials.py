r"""Potentials ψ of mirror descent, as functions of arrays: convex sums over coordinates, with inverse gradients."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ._arrays import Scalar, as_float64

Vector = Float[np.ndarray, " d"]


@runtime_checkable
class Potential(Protocol):
    r"""What `bregman_projection` needs of $\psi(w) = \sum_j \psi_j(w_j)$; all arrays are (d,)."""

    def value(self, w: Vector) -> Vector:
        r"""$\psi_j(w_j)$, coordinate by coordinate."""
        ...

    def gradient(self, w: Vector) -> Vector:
        r"""$u = \nabla\psi(w)$."""
        ...

    def inverse_gradient(self, u: Vector) -> Vector:
        r"""$w = \nabla\psi^*(u)$, the inverse of `gradient`."""
        ...

    def conjugate(self, u: Vector) -> Vector:
        r"""$\psi^*_j(u_j) = \sup_w (u_j w - \psi_j(w))$, coordinate by coordinate."""
        ...

    def curvature(self, u: Vector) -> Vector:
        r"""$\partial w_j / \partial u_j = (\psi^*_j)''(u_j)$."""
        ...

    def default_start(self, d: int) -> Vector:
        """The minimiser of the potential: the start that leaves no trace."""
        ...


@dataclass(frozen=True)
class Euclidean:
    r"""$\psi(w) = \tfrac12 \|w\|^2$: gradient descent."""

    def value(self, w: Vector) -> Vector:
        r"""$w_j^2 / 2$."""
        return 0.5 * w**2

    def gradient(self, w: Vector) -> Vector:
        """The identity."""
        return w

    def inverse_gradient(self, u: Vector) -> Vector:
        """The identity."""
        return u

    def conjugate(self, u: Vector) -> Vector:
        r"""$u_j^2 / 2$."""
        return 0.5 * u**2

    def curvature(self, u: Vector) -> Vector:
        """One."""
        return np.ones_like(u)

    def default_start(self, d: int) -> Vector:
        """Zero."""
        return np.zeros(d)


@dataclass(frozen=True)
class Entropy:
    r"""$\psi(w) = \sum_j w_j \log w_j - w_j$ on $w > 0$: exponentiated gradient descent."""

    def value(self, w: Vector) -> Vector:
        r"""$w_j \log w_j - w_j$, and 0 at 0."""
        return np.where(w > 0, w * np.log(np.where(w > 0, w, 1.0)), 0.0) - w

    def gradient(self, w: Vector) -> Vector:
        r"""$\log w_j$, minus infinity where w has underflowed."""
        with np.errstate(divide="ignore"):
            return np.log(w)

    def inverse_gradient(self, u: Vector) -> Vector:
        r"""$e^{u_j}$."""
        return np.exp(u)

    def conjugate(self, u: Vector) -> Vector:
        r"""$e^{u_j}$."""
        return np.exp(u)

    def curvature(self, u: Vector) -> Vector:
        r"""$e^{u_j}$."""
        return np.exp(u)

    def default_start(self, d: int) -> Vector:
        """One."""
        return np.ones(d)


@dataclass(frozen=True)
class PNorm:
    r"""$\psi(w) = \tfrac1p \sum_j |w_j|^p$, $p > 1$."""

    p: float

    def __post_init__(self) -> None:
        if not (self.p > 1 and np.isfinite(self.p)):
            raise ValueError(f"A p-norm potential needs a finite p > 1; got {self.p}. For p = 1 use min_norm_lp.")

    @property
    def q(self) -> float:
        r"""The conjugate exponent, $1/p + 1/q = 1$."""
        return self.p / (self.p - 1.0)

    def value(self, w: Vector) -> Vector:
        r"""$|w_j|^p / p$."""
        return np.abs(w) ** self.p / self.p

    def gradient(self, w: Vector) -> Vector:
        r"""$\operatorname{sign}(w_j) |w_j|^{p-1}$."""
        return np.sign(w) * np.abs(w) ** (self.p - 1.0)

    def inverse_gradient(self, u: Vector) -> Vector:
        r"""$\operatorname{sign}(u_j) |u_j|^{q-1}$."""
        return np.sign(u) * np.abs(u) ** (self.q - 1.0)

    def conjugate(self, u: Vector) -> Vector:
        r"""$|u_j|^q / q$."""
        return np.abs(u) ** self.q / self.q

    def curvature(self, u: Vector) -> Vector:
        r"""$(q-1)|u_j|^{q-2}$, kept finite and positive: it is infinite (q < 2) or zero (q > 2) at u = 0."""
        size = float(np.abs(u).max()) or 1.0
        return (self.q - 1.0) * np.maximum(np.abs(u), 1e-15 * size) ** (self.q - 2.0)

    def default_start(self, d: int) -> Vector:
        """Zero."""
        return np.zeros(d)


@dataclass(frozen=True, eq=False)
class Hypentropy:
    r"""$\psi(w) = \sum_j \beta_j\, q(w_j/\beta_j)$, $q(z) = 2 - \sqrt{4 + z^2} + z \operatorname{arsinh}(z/2)$.

    The potential $Q_\beta$ of two-layer diagonal networks, $\beta = \alpha^2$ at initialisation scale $\alpha$:
    $\nabla\psi(w) = \operatorname{arsinh}(w/2\beta)$, $w = 2\beta \sinh u$. β is kept as its logarithm, one number or
    one per coordinate, so that it may be far below the smallest float. [@woodworth2020kernel, Thm 1]
    """

    log_beta: Float[np.ndarray, "..."]

    def _log_ratio(self, w: Vector) -> Vector:
        with np.errstate(divide="ignore"):
            return np.log(np.abs(w)) - self.log_beta

    def gradient(self, w: Vector) -> Vector:
        r"""$\operatorname{arsinh}(w_j / 2\beta_j)$, from $\log|w_j| - \log\beta_j$ where the quotient overflows."""
        r = self._log_ratio(w)
        large = r > 0
        tail = np.where(large, r, 0.0)
        far = tail + np.log(0.5 + 0.5 * np.sqrt(1.0 + 4.0 * np.exp(-2.0 * tail)))
        return np.sign(w) * np.where(large, far, np.arcsinh(0.5 * np.exp(np.where(large, 0.0, r))))

    def inverse_gradient(self, u: Vector) -> Vector:
        r"""$2 \beta_j \sinh u_j$."""
        return -np.sign(u) * np.exp(self.log_beta + np.abs(u)) * np.expm1(-2.0 * np.abs(u))

    def curvature(self, u: Vector) -> Vector:
        r"""$2 \beta_j \cosh u_j = \sqrt{w_j^2 + 4 \beta_j^2}$."""
        return np.exp(self.log_beta + np.abs(u)) * (1.0 + np.exp(-2.0 * np.abs(u)))

    def value(self, w: Vector) -> Vector:
        r"""$\beta_j\, q(w_j/\beta_j) = w_j u_j - 2\beta_j(\cosh u_j - 1)$."""
        # 2β - sqrt(4β² + w²) = -w² / (2β + sqrt(4β² + w²)), without cancellation.
        two_beta = 2.0 * np.exp(self.log_beta) + 0.0 * w
        hypot = np.hypot(two_beta, w)
        return w * self.gradient(w) - np.abs(w) * np.divide(
            np.abs(w), two_beta + hypot, out=np.zeros_like(w), where=hypot > 0
        )

    def conjugate(self, u: Vector) -> Vector:
        r"""$2\beta_j (\cosh u_j - 1)$."""
        return np.exp(self.log_beta + np.abs(u)) * np.expm1(-np.abs(u)) ** 2

    def default_start(self, d: int) -> Vector:
        """Zero."""
        return np.zeros(d)


euclidean = Euclidean()
entropy = Entropy()


def p_norm(p: Scalar) -> PNorm:
    r"""The potential $\tfrac1p\sum_j|w_j|^p$; raises `ValueError` unless $1 < p < \infty$.

    >>> p_norm(3.0).gradient(np.array([-2.0])).tolist()
    [-4.0]
    """
    return PNorm(float(p))


def hypentropy(beta: ArrayLike | Scalar | None = None, *, log_beta: ArrayLike | Scalar | None = None) -> Hypentropy:
    r"""The potential $Q_\beta$ of diagonal networks, from β or (for β below the smallest float) from log β.

    One number, or one per coordinate. A network $w = u^2 - v^2$ started at $u = v = \alpha 1$ has $\beta = \alpha^2$:
    for $\alpha = 10^{-300}$ pass `log_beta=2 * np.log(1e-300)`.

    Raises `ValueError` unless exactly one of the two is given, and for β that is not positive and finite.

    >>> hypentropy(0.5).inverse_gradient(np.array([1.0])).round(6).tolist()  # sinh(1)
    [1.175201]
    """
    if (beta is None) == (log_beta is None):
        raise ValueError("hypentropy takes exactly one of beta and log_beta; for β below 1e-300 pass log_beta.")
    if log_beta is not None:
        return Hypentropy(as_float64(log_beta, "log_beta", (0, 1)))
    positive = as_float64(beta if beta is not None else 0.0, "beta", (0, 1))
    if np.min(positive) <= 0:
        raise ValueError(f"beta must be positive; got {np.min(positive)}. For β below 1e-300 pass log_beta.")
    return Hypentropy(np.asarray(np.log(positive)))
