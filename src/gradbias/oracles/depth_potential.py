r"""The potential that gradient flow on a diagonal network $w = u^D - v^D$ of depth $D \ge 3$ minimizes."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ._arrays import Scalar, as_float64

Vector = Float[np.ndarray, " d"]


@dataclass(frozen=True, eq=False)
class DepthPotential:
    r"""$\psi(w) = \sum_j \beta_j\, q_D(w_j/\beta_j)$ with $q_D' = h_D^{-1}$ and $\beta = \alpha^D$, for $D \ge 3$.

    $h_D(z) = (1-z)^{-D/(D-2)} - (1+z)^{-D/(D-2)}$ for $-1 < z < 1$. From $u = v = \alpha$ the flow of a layer obeys
    $u^{2-D} = \alpha^{2-D}(1 - z)$, $v^{2-D} = \alpha^{2-D}(1 + z)$ with $z \in \operatorname{range} X^\top$, hence
    $w = \beta h_D(z)$: the mirror coordinate is $z$ and never leaves $(-1, 1)$. [@woodworth2020kernel, Theorem 3;
    number not checked]
    """

    depth: int
    beta: Float[np.ndarray, "..."]

    @property
    def power(self) -> float:
        """$D/(D-2)$."""
        return self.depth / (self.depth - 2.0)

    def _inside(self, u: Vector) -> tuple[Vector, Vector]:
        """$1 - z$ and $1 + z$; zero outside of the domain, where every quantity below is infinite."""
        return np.maximum(1.0 - u, 0.0), np.maximum(1.0 + u, 0.0)

    def inverse_gradient(self, u: Vector) -> Vector:
        r"""$\beta_j h_D(u_j)$, infinite for $|u_j| \ge 1$."""
        below, above = self._inside(u)
        with np.errstate(divide="ignore"):
            return self.beta * (below**-self.power - above**-self.power)

    def curvature(self, u: Vector) -> Vector:
        r"""$\beta_j h_D'(u_j)$, infinite for $|u_j| \ge 1$."""
        below, above = self._inside(u)
        with np.errstate(divide="ignore"):
            return self.beta * self.power * (below ** -(self.power + 1.0) + above ** -(self.power + 1.0))

    def conjugate(self, u: Vector) -> Vector:
        r"""$\tfrac{D-2}{2} \beta_j [(1-u_j)^{-2/(D-2)} + (1+u_j)^{-2/(D-2)} - 2]$, infinite for $|u_j| \ge 1$."""
        below, above = self._inside(u)
        q = self.power - 1.0  # 2/(D-2)
        with np.errstate(divide="ignore"):
            # As expm1 of logarithms: near u = 0 the two terms cancel to the order of u².
            return self.beta / q * (np.expm1(-q * np.log(below)) + np.expm1(-q * np.log(above)))

    def gradient(self, w: Vector) -> Vector:
        r"""$z = h_D^{-1}(w_j/\beta_j)$, by Newton's method on the logarithm of $1 - |z|$."""
        target = np.abs(w) / self.beta
        # h(z) = t: with s = -log(1-z), e^{ps} - (2 - e^{-s})^{-p} = t is increasing and convex in s for s ≥ 0, so that
        # Newton from above, where e^{ps} = 1 + t, goes down monotonically.
        s = np.log1p(target) / self.power
        for _ in range(60):
            z = -np.expm1(-s)
            excess = np.expm1(self.power * s) - np.expm1(-self.power * np.log1p(z)) - target
            slope = self.power * (np.exp(self.power * s) + (1.0 + z) ** (-self.power - 1.0) * (1.0 - z))
            s = np.maximum(s - excess / slope, 0.0)
        return -np.sign(w) * np.expm1(-s)

    def value(self, w: Vector) -> Vector:
        r"""$w_j z_j - \psi^*_j(z_j)$."""
        z = self.gradient(w)
        return w * z - self.conjugate(z)

    def default_start(self, d: int) -> Vector:
        """Zero."""
        return np.zeros(d)


def diagonal_potential(depth: int, alpha: ArrayLike | Scalar) -> DepthPotential:
    r"""The potential of $w = u^D - v^D$ from $u = v = \alpha 1$, for `bregman_projection`; $D$ = `depth`.

    α is one number or one per coordinate. Where the mirror coordinate of a weight of order one comes too near to one,
    below about $10^{-8}$ for $D = 3$ and $10^{-4}$ for $D = 4$, the certificate fails or `bregman_projection` refuses.

    Raises `ValueError` for a depth below 3 (for two layers use `hypentropy`, $\beta = \alpha^2$) or α that is not
    positive and finite.

    >>> psi = diagonal_potential(4, 1.0)
    >>> psi.inverse_gradient(np.array([0.5])).round(6).tolist()  # (1/2)^-2 - (3/2)^-2
    [3.555556]
    >>> psi.gradient(np.array([32 / 9])).round(12).tolist()
    [0.5]
    """
    if depth < 3:
        raise ValueError(
            f"The potential of depth D is for D >= 3; got {depth}. For two layers use hypentropy(alpha**2), for one "
            "layer euclidean."
        )
    scale = as_float64(alpha, "alpha", (0, 1))
    if np.min(scale) <= 0:
        raise ValueError(f"alpha must be positive; got {np.min(scale)}. It is the scale that both layers start at.")
    return DepthPotential(int(depth), np.asarray(scale**depth))
