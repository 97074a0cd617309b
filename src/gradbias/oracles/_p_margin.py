r"""The maximum margin in $\ell_p$: for p < 2 projected Newton on the dual, from p = 2; for p > 2 on the primal."""

import numpy as np
from jaxtyping import Bool, Float

from ..claim import Prediction
from ._arrays import EPS, Scalar, norm2
from ._least_distance import least_distance, nearest_point_weights
from ._norm_programs import dual_exponent
from ._p_primal import max_margin_primal

# Largest ratio of successive p - 1 on the way from 2; a coordinate's curvature is kept within CURVATURE of the largest.
RATIO = 1.25
CURVATURE = 1e-13
# Damping of the dual Hessian, relative to its trace, tried in turn until the duality gap closes: where more rows are
# free than the rank allows the undamped step is arbitrary, and where few are, damping only slows it down.
DAMPING = (1e-9, 1e-6, 1e-12, 1e-4)


def _weights(u: Float[np.ndarray, " d"], q: float) -> Float[np.ndarray, " d"]:
    return np.sign(u) * np.abs(u) ** (q - 1.0)


def _curvature(u: Float[np.ndarray, " d"], q: float) -> Float[np.ndarray, " d"]:
    r"""$(q-1)|u|^{q-2}$ for q > 2, kept positive: it is zero at u = 0."""
    h = (q - 1.0) * np.abs(u) ** (q - 2.0)
    return np.maximum(h, CURVATURE * h.max())


def _newton(
    a: Float[np.ndarray, "n d"], alpha: Float[np.ndarray, " n"], q: float, damping: float
) -> Float[np.ndarray, " n"]:
    r"""Minimise $\tfrac1q \|A^T\alpha\|_q^q - \sum_i \alpha_i$ over $\alpha \ge 0$ (Bertsekas' projected Newton)."""

    def objective(alpha: Float[np.ndarray, " n"]) -> float:
        return float(np.sum(np.abs(a.T @ alpha) ** q) / q - alpha.sum())

    # On the ray through alpha the best length is in closed form; it also fixes the scale between successive p.
    alpha = alpha * (alpha.sum() / np.sum(np.abs(a.T @ alpha) ** q)) ** (1.0 / (q - 1.0))
    value = objective(alpha)
    for _ in range(200):
        u = a.T @ alpha
        gradient = a @ _weights(u, q) - 1.0
        free = (alpha > 1e-12 * alpha.max()) | (gradient < 0)
        step = _newton_step(a[free], (_curvature(u, q), damping), gradient[free])
        length, accepted = 1.0, False
        while length > 1e-10:
            trial = np.zeros_like(alpha)
            trial[free] = np.maximum(alpha[free] - length * step, 0.0)
            lower = objective(trial)
            decrease = float(gradient[free] @ (alpha[free] - trial[free]))
            if lower <= value - 1e-4 * decrease + 8 * EPS * abs(value):
                accepted = True
                break
            length *= 0.5
        if not accepted:
            break
        moved = norm2(trial - alpha) / norm2(trial)
        alpha, value = trial, min(value, lower)
        if moved < 1e-14:
            break
    return alpha


def _newton_step(
    a: Float[np.ndarray, "s d"], metric: tuple[Float[np.ndarray, " d"], float], gradient: Float[np.ndarray, " s"]
) -> Float[np.ndarray, " s"]:
    curvature, damping = metric
    hessian = (a * curvature) @ a.T
    hessian[np.diag_indices_from(hessian)] += damping * np.trace(hessian)
    return np.linalg.solve(hessian, gradient)


def solve_p(a: Float[np.ndarray, "n d"], p: Scalar) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " n"]]:
    """Weights with smallest product 1, and multipliers up to scale, of separable signed rows."""
    weights, _ = nearest_point_weights(a)
    start = least_distance(a, np.zeros((len(a), 0)), np.flatnonzero(weights > 0))
    if p > 2:
        return max_margin_primal(a, start.w, list(map(int, np.flatnonzero(start.multipliers > 0))), p)
    scale = 1.0 / norm2(start.w)  # in these units the ℓ2 weights, and nearby ones, have length about 1
    scaled = a / scale
    stages = int(np.ceil(abs(np.log(p - 1.0)) / np.log(RATIO))) + 1
    best, smallest = (start.w, start.multipliers), np.inf
    for damping in DAMPING:
        alpha = np.maximum(start.multipliers, 0.0) * scale**2
        for k in range(1, stages + 1):
            alpha = _newton(scaled, alpha, dual_exponent(1.0 + (p - 1.0) ** (k / stages)), damping)
        w = _weights(scaled.T @ alpha, dual_exponent(p)) / scale
        w = _polish(a, w, alpha > 1e-9 * alpha.max(), p)
        gap = _gap(a, w, alpha, p)
        if gap < smallest:
            best, smallest = (w, alpha), gap
        if smallest < 1e-12:
            break
    return best


def _gap(a: Float[np.ndarray, "n d"], w: Float[np.ndarray, " d"], alpha: Float[np.ndarray, " n"], p: Scalar) -> float:
    """By how much, relatively, the margin of w falls short of what the multipliers allow."""
    allowed = float(np.linalg.norm(a.T @ alpha, dual_exponent(p)) / alpha.sum())
    return 1.0 - float(np.min(a @ w) / np.linalg.norm(w, p)) / allowed


def _polish(
    a: Float[np.ndarray, "n d"], w: Float[np.ndarray, " d"], support: Bool[np.ndarray, " n"], p: Scalar
) -> Float[np.ndarray, " d"]:
    """Move w, by the least change in the local metric, onto the support's constraints: removes the last rounding."""
    return w - _correction(a[support], w, p) @ (a[support] @ w - 1.0)


def _correction(a: Float[np.ndarray, "s d"], w: Float[np.ndarray, " d"], p: Scalar) -> Float[np.ndarray, "d s"]:
    r"""$H^{-1}A^T(AH^{-1}A^T)^{+}$ with $H = \nabla^2\|w\|_p^p/p$: the effect of residuals on w, to first order."""
    size = np.abs(w).max()
    root = np.maximum(np.abs(w), 1e-12 * size) ** (1.0 - 0.5 * p)
    return root[:, None] * np.linalg.pinv(a * root, rcond=1e-13)


def max_margin_p(a: Float[np.ndarray, "n d"], p: Scalar) -> Prediction:
    """The certified prediction of `max_margin` for 1 < p < ∞."""
    w, alpha = solve_p(a, p)
    q = dual_exponent(p)
    # The multipliers for exactly these weights: |w|^{p-1} sign(w) = A^T α.
    multipliers = alpha * float(np.sum(np.abs(w) ** p)) / float(alpha @ (a @ w))
    products, gradient = a @ w, np.sign(w) * np.abs(w) ** (p - 1.0)
    length, support = float(np.linalg.norm(w, p)), multipliers > 0
    lower = float(multipliers.sum() / np.linalg.norm(a.T @ multipliers, q))
    off = _weights(a.T @ multipliers, q) - w
    mirror = gradient - a.T @ multipliers
    certificate = {
        "feasibility": max(0.0, 1.0 - float(products.min())),
        # Each coordinate in whichever variable the map w ↦ |w|^(p-1) is well conditioned.
        "stationarity": norm2(np.minimum(np.abs(mirror) / norm2(gradient), np.abs(off) / norm2(w))),
        "complementarity": float(np.max(np.abs(multipliers * (products - 1.0))) / multipliers.sum()),
        "duality_gap": abs(length - lower) / lower,
    }
    correction = _correction(a[support], w, p)
    spread = norm2(np.linalg.svd(correction, compute_uv=False)[:1])
    residual = norm2((products - 1.0)[support]) + 4 * EPS * np.sqrt(support.sum())
    amplify = 1.0 + spread * float(np.linalg.norm(a[support], 2))
    return Prediction(w, certificate, 2.0 * (spread * residual + amplify * norm2(off)), amplify)
