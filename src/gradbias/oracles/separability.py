"""Whether a hyperplane through the origin separates the examples, with the proof when none does."""

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from ..claim import Prediction
from ._arrays import labelled, norm2
from ._least_distance import TOUCHES, nearest_point_weights


def is_separable(x: ArrayLike, y: ArrayLike) -> bool:
    r"""Whether some w has $y_i x_i \cdot w > 0$ for every example (through the origin: append a 1 for a bias).

    `x` is (n, d), `y` (n,) of ±1. Decided by the point of $\mathrm{conv}\{y_i x_i\}$ nearest to the origin (Gordan's
    alternative): yes if it has a positive product with every $y_i x_i$ (it is then a separator), no if it is the
    origin to within 1e-11 of the longest row. Where rounding spoils both proofs a linear programme decides.

    Raises `ValueError` for labels other than ±1, NaN or mismatched shapes.

    >>> is_separable([[1.0, 0.0], [-1.0, 1.0]], [1, -1]), is_separable([[1.0], [1.0]], [1, -1])
    (True, False)
    """
    x, y = labelled(x, y)
    return separates(y[:, None] * x)


def separates(a: Float[np.ndarray, "n d"]) -> bool:
    """`is_separable` for rows that already carry their sign."""
    p, distance = nearest_point_weights(a)
    lengths = np.linalg.norm(a, axis=1)
    w = a.T @ p
    if distance <= TOUCHES or not lengths.all():
        return False
    # A product with w above its own rounding proves separability.
    if np.min(a @ w / lengths) > 1e-14 * lengths.max() and distance > 1e-7:
        return True
    return _largest_slack(a / lengths[:, None]) > 1e-10


def _largest_slack(a: Float[np.ndarray, "n d"]) -> float:
    r"""$\max t$ with $A w \ge t$, $\|w\|_\infty \le 1$."""
    from scipy.optimize import linprog

    n, d = a.shape
    cost = np.append(np.zeros(d), -1.0)
    bounds = [(-1.0, 1.0)] * d + [(None, None)]
    tight = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    result = linprog(
        cost, A_ub=np.hstack([-a, np.ones((n, 1))]), b_ub=np.zeros(n), bounds=bounds, method="highs", options=tight
    )
    return -float(result.fun) if result.status == 0 else 0.0


def non_separability_certificate(x: ArrayLike, y: ArrayLike) -> Prediction:
    r"""Convex weights that prove that no hyperplane through the origin separates the examples.

    $$p \ge 0, \quad \textstyle\sum_i p_i = 1, \quad \sum_i p_i\, y_i x_i = 0:$$

    then $\sum_i p_i (y_i x_i \cdot w) = 0$ for every w, so that not all terms can be positive (Gordan's theorem). The
    value is p, (n,); it is not unique, and `error` is therefore infinite unless one example alone is at the origin.
    The certificate holds the relative length of $\sum_i p_i y_i x_i$, and the violations of the two other conditions.

    Raises `ValueError` if the examples are separable.

    >>> non_separability_certificate([[1.0], [1.0]], [1, -1]).value.round(12).tolist()
    [0.5, 0.5]
    """
    x, y = labelled(x, y)
    a = y[:, None] * x
    if separates(a):
        raise ValueError(
            f"A non-separability certificate needs data that no hyperplane through the origin separates; these "
            f"{len(a)} examples are separable. Use max_margin for the separator with the largest margin."
        )
    p, distance = nearest_point_weights(a)
    certificate = {
        "combination": distance,
        "sum": abs(float(p.sum()) - 1.0),
        "sign": max(0.0, -float(p.min())),
    }
    return Prediction(p, certificate, np.inf)


def require_separable(a: Float[np.ndarray, "n d"], origin: Int[np.ndarray, " n"], what: str = "example") -> None:
    """Refuse signed rows without a separator, naming the examples (`origin[i]` of row i) that carry the proof."""
    if separates(a):
        return
    p, _ = nearest_point_weights(a)
    top = [i for i in np.argsort(-p) if p[i] > 1e-12]
    carried = ", ".join(f"{origin[i]:g} ({p[i]:.3g})" for i in top[:8]) + (", …" if len(top) > 8 else "")
    raise ValueError(
        f"These data are not separable, so there is no hard margin: the convex weights p ≥ 0, Σp = 1 with "
        f"|Σ pᵢ yᵢxᵢ| = {norm2(a.T @ p):.2g} sit on {len(top)} of {len(a)} signed rows; {what} (weight): {carried}. "
        f"Drop or relabel one of them, append features (a constant 1 gives a bias), or see "
        f"non_separability_certificate."
    )
