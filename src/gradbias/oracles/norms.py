"""Interpolants of least norm other than ℓ2, and quasi-norms."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ..claim import Prediction
from ._arrays import EPS, Scalar, as_float64, norm2, regression
from ._norm_programs import solve
from .min_norm import factors, require_consistent


def min_norm_lp(x: ArrayLike, y: ArrayLike, *, norm: Scalar = 1) -> Prediction:
    r"""The interpolant of least $\ell_1$ (basis pursuit), $\ell_\infty$ or $\ell_p$ norm.

    $$w^\star = \arg\min_{Xw = y} \|w\|_p; \qquad
      \|w^\star\|_p = \max \{ y \cdot \lambda : \|X^\top \lambda\|_q \le 1 \}.$$

    `x` is (n, d), `y` (n,); the value is (d,). For p = 1 and infinity a linear programme, polished on its vertex; the
    minimiser may not be unique, and `error` is then infinite: `min_norm_lp_value` gives the norm, which is. Other
    p > 1 go through `bregman_projection` from 0. [@chen2001atomic, §2, number not checked]

    Raises `ValueError` if no weights interpolate, for a norm below 1, NaN or mismatched shapes.

    >>> min_norm_lp([[2.0, 1.0]], [2.0]).value.round(12).tolist()
    [1.0, 0.0]
    """
    x, y = _checked(x, y, norm)
    if norm == 2:
        from .min_norm import min_norm_interpolant

        return min_norm_interpolant(x, y)
    if norm > 1 and np.isfinite(norm):
        from .bregman import bregman_projection
        from .potentials import p_norm

        return bregman_projection(x, y, potential=p_norm(norm))
    program = solve(x, y, norm, equality=True)
    return Prediction(program.w, program.certificate(), program.error, program.condition)


def min_norm_lp_value(x: ArrayLike, y: ArrayLike, *, norm: Scalar = 1) -> Prediction:
    r"""The least $\ell_1$ or $\ell_\infty$ norm of an interpolant: unique even where the interpolant is not.

    $\min_{Xw = y} \|w\|_p$, p = `norm` 1 or infinity; `x` is (n, d), `y` (n,), the value a number. `error` is the
    duality gap (the multipliers made admissible prove that nothing is shorter) plus what the residual of $Xw = y$ can
    hide, $\|\lambda\| \|Xw - y\|$.

    Raises `ValueError` as `min_norm_lp` does, and for other norms.

    >>> float(min_norm_lp_value([[1.0, 1.0]], [2.0]).value)
    2.0
    """
    x, y = _checked(x, y, norm)
    if norm > 1 and np.isfinite(norm):
        raise ValueError(f"min_norm_lp_value takes norm 1 or infinity; got {norm:g}. Take the norm of min_norm_lp.")
    program = solve(x, y, norm, equality=True)
    hidden = norm2(program.multipliers) * norm2(x @ program.w - y)
    gap = abs(program.length - program.lower_bound())
    return Prediction(np.asarray(program.length), program.certificate(), gap + hidden + 4 * EPS * program.length)


def _checked(x: ArrayLike, y: ArrayLike, norm: Scalar) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
    x, y = regression(x, y)
    if not norm >= 1:
        raise ValueError(f"norm must be a number p ≥ 1 or infinity; got {norm}. Below 1 the minimum is not convex.")
    require_consistent(x, y, factors(x))
    return x, y


def quasi_norm(w: ArrayLike, q: Scalar) -> float:
    r"""$\big(\sum_j |w_j|^q\big)^{1/q}$ for any q > 0; a norm for q ≥ 1 only. `w` has any shape.

    Scaled by the largest entry, so that small q neither overflow nor underflow before they must. Raises `ValueError`
    for q that is not positive, or NaN.

    >>> quasi_norm([1.0, 4.0], 0.5)
    9.0
    """
    if not q > 0:
        raise ValueError(f"A quasi-norm needs q > 0; got {q}. For q = 0 count the non-zero entries.")
    size = np.abs(as_float64(w, "w", tuple(range(5))))
    largest = float(size.max())
    if largest == 0.0 or np.isinf(q):
        return largest
    return largest * float(np.sum((size / largest) ** q)) ** (1.0 / q)
