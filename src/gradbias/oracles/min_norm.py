"""The interpolant that gradient descent on the square loss finds: the one closest to where it started."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ..claim import Prediction
from ._arrays import EPS, like, norm2, regression

# Targets further than this (relative) from the range of X are inconsistent, not rounded.
CONSISTENT = 1e-9


class Factors(NamedTuple):
    """A compact singular value decomposition, cut at the numerical rank."""

    u: Float[np.ndarray, "n r"]
    s: Float[np.ndarray, " r"]
    vt: Float[np.ndarray, "r d"]


def factors(x: Float[np.ndarray, "n d"]) -> Factors:
    """Singular vectors and values above max(n, d)·eps relative to the largest."""
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    rank = int(np.sum(s > max(x.shape) * EPS * s[0]))
    return Factors(u[:, :rank], s[:rank], vt[:rank])


def require_consistent(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n ..."], f: Factors) -> None:
    """Refuse targets outside the range of X: no weights interpolate them."""
    outside = y - f.u @ (f.u.T @ y)
    if norm2(outside) > CONSISTENT * norm2(y):
        rows = np.abs(outside).reshape(len(y), -1).max(axis=1)
        raise ValueError(
            f"No weights interpolate these targets: X has rank {len(f.s)} with n = {x.shape[0]} examples and "
            f"d = {x.shape[1]} features, and a fraction {norm2(outside) / norm2(y):.2g} of y lies outside its range "
            f"(most at example {int(np.argmax(rows))}). Use at least as many features as examples, or drop examples "
            f"whose inputs depend linearly on the others."
        )


def min_norm_interpolant(x: ArrayLike, y: ArrayLike, *, start: ArrayLike | None = None) -> Prediction:
    r"""The interpolant closest to the start: the limit of gradient descent or flow on the square loss.

    $$w^\star = \arg\min_{Xw = y} \|w - w_0\|_2 = w_0 + X^{+}(y - X w_0).$$

    `x` is (n, d); `y` is (n,) or (n, k); `start` $w_0$ has the shape of the value, (d,) or (d, k), and is zero if not
    given. Assumes that y is consistent with X; full row rank is not needed. `error` is the exact distance formula
    $\|X^{+}(Xw - y)\| + \|P_{\ker X}(w - w_0)\|$; `condition` is $\sigma_{\max}/\sigma_{\min}$ over the non-zero
    singular values. [@gunasekar2018characterizing, Thm 1, number not checked]

    Raises `ValueError` if no weights interpolate (naming rank, n and the worst example), for NaN or mismatched shapes.

    >>> p = min_norm_interpolant([[1.0, 1.0]], [2.0])
    >>> p.value.round(12).tolist(), p.certified
    ([1.0, 1.0], True)
    """
    x, y = regression(x, y, (1, 2))
    shape = (x.shape[1], *y.shape[1:])
    w0 = np.zeros(shape) if start is None else like(start, shape, "start")
    f = factors(x)
    require_consistent(x, y, f)

    def pseudo_inverse(r: np.ndarray) -> np.ndarray:
        return f.vt.T @ ((f.u.T @ r).T / f.s).T

    w = w0 + pseudo_inverse(y - x @ w0)
    w = w + pseudo_inverse(y - x @ w)  # one step of refinement: the residual falls to rounding
    move = w - w0
    # Independent of the factors above: the best multipliers by least squares on X^T.
    outside = move - x.T @ np.linalg.lstsq(x.T, move, rcond=None)[0]
    size = norm2(w) + norm2(w0)
    scale = (float(f.s[0]) if len(f.s) else 0.0) * size + norm2(y)
    certificate = {
        "feasibility": norm2(x @ w - y) / scale if scale else 0.0,
        "row_space": norm2(outside) / size if size else 0.0,
    }
    smallest, largest = (float(f.s[-1]), float(f.s[0])) if len(f.s) else (1.0, 1.0)
    error = norm2(x @ w - y) / smallest + norm2(outside)
    return Prediction(w, certificate, error, largest / smallest)
