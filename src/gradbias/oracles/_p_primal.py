r"""Least $\ell_p$ norm under linear equations for p > 2, on the primal: there $|w|^p$ is smooth and its dual is not."""

import numpy as np
from jaxtyping import Float

from ._arrays import EPS, Scalar, norm2
from ._least_distance import make_room

# Curvature below this (relative to the largest) is raised to it: |w|^(p-2) vanishes at w = 0.
FLOOR = 1e-13


def minimise_p(
    x: Float[np.ndarray, "n d"], start: Float[np.ndarray, " d"], p: Scalar, linear: Float[np.ndarray, " d"]
) -> Float[np.ndarray, " d"]:
    r"""$\min \sum_j |w_j|^p/p - c_j w_j$ over the w with the same Xw as the start: Newton in the kernel of X."""
    idle = ~x.any(axis=0)  # features that no equation reads: their weights are in closed form, and often 0 exactly
    if idle.any():
        w = np.sign(linear) * np.abs(linear) ** (1.0 / (p - 1.0))
        if not idle.all():
            w[~idle] = minimise_p(x[:, ~idle], start[~idle], p, linear[~idle])
        return w
    scale = float(np.abs(start).max())
    if scale == 0.0:
        scale = float(np.abs(linear).max()) ** (1.0 / (p - 1.0)) or 1.0
    w, c = start / scale, linear / scale ** (p - 1.0)
    _, s, vt = np.linalg.svd(x, full_matrices=True)
    kernel = vt[int(np.sum(s > max(x.shape) * EPS * s[0])) :].T

    def objective(w: Float[np.ndarray, " d"]) -> float:
        return float(np.sum(np.abs(w) ** p / p - c * w))

    best, smallest, patience = w, np.inf, 0
    for _ in range(400 if kernel.shape[1] else 0):
        size = float(np.abs(w).max())
        gradient = kernel.T @ (np.sign(w) * np.abs(w) ** (p - 1.0) - c)
        curvature = np.maximum((p - 1.0) * np.abs(w) ** (p - 2.0), FLOOR * size ** (p - 2.0))
        if norm2(gradient) < 0.5 * smallest:
            best, smallest, patience = w, norm2(gradient), 0
        else:
            patience += 1
            if patience > 30:
                break
        step = kernel @ np.linalg.lstsq((kernel.T * curvature) @ kernel, gradient, rcond=1e-15)[0]
        value, length = objective(w), 1.0
        slope = float(step @ (np.sign(w) * np.abs(w) ** (p - 1.0) - c))
        while objective(w - length * step) > value - 1e-4 * length * slope + 4 * EPS * abs(value) and length > 1e-10:
            length *= 0.5
        w = w - length * step
        if norm2(step) < 1e-15 * norm2(w):
            break
    return scale * best


def max_margin_primal(
    a: Float[np.ndarray, "n d"], w: Float[np.ndarray, " d"], support: list[int], p: Scalar
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " n"]]:
    """Weights and multipliers of the ℓp machine, p > 2: exchange of support examples from a support of another p."""
    chosen, multipliers = list(support), np.zeros(len(a))
    for _ in range(10 * len(a)):
        rows = a[chosen]
        w = w - np.linalg.pinv(rows) @ (rows @ w - 1.0)
        w = minimise_p(rows, w, p, np.zeros_like(w))
        w = w - np.linalg.pinv(rows) @ (rows @ w - 1.0)
        alpha = np.linalg.lstsq(rows.T, np.sign(w) * np.abs(w) ** (p - 1.0), rcond=None)[0]
        if alpha.min() < -1e-10 * alpha.max() and len(chosen) > 1:
            chosen.pop(int(np.argmin(alpha)))
            continue
        products = a @ w
        products[chosen] = np.inf
        worst = int(np.argmin(products))
        if products[worst] >= 1.0 - 1e-12:
            break
        make_room(a, chosen, alpha, worst)
        chosen.append(worst)
    multipliers[chosen] = np.maximum(alpha, 0.0)
    return w, multipliers
