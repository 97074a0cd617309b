"""Where gradient descent goes when the loss has a polynomial tail: not to the maximum margin."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ..claim import Prediction
from ._arrays import EPS, Scalar, labelled, norm2
from .max_margin import least_l2
from .separability import require_separable


def polynomial_tail_direction(x: ArrayLike, y: ArrayLike, power: Scalar) -> Prediction:
    r"""The limit direction for a loss with the tail $z^{-q}$: every example pulls, near ones more.

    $$u^\star = \arg\min_{\|u\|_2 = 1} \sum_i (y_i x_i \cdot u)^{-q} \quad\text{over positive margins,}$$

    found as the direction of the unique minimiser of $F(w) = \sum_i z_i^{-q} + \tfrac12\|w\|^2$, $z_i = y_i x_i \cdot w
    > 0$ (along each ray F is least at $r^{q+2} = q \sum_i (y_i x_i\cdot u)^{-q}$, and that least value grows with the
    sum). `x` is (n, d), `y` (n,) of ±1, q = `power` > 0; the value is (d,) of length 1. As q grows it tends to the
    maximum margin. Assumes separable data. `error` is $2\|\nabla F\|/\|w\|$, since F is 1-strongly convex.
    [@ji2020gradient, Thm 1, number not checked]

    Raises `ValueError` for non-separable data, a power that is not positive, labels other than ±1, NaN, or mismatched
    shapes.

    >>> polynomial_tail_direction([[1.0, 0.0], [0.0, 1.0]], [1, 1], 2.0).value.round(12).tolist()
    [0.707106781187, 0.707106781187]
    """
    x, y = labelled(x, y)
    if not (power > 0 and np.isfinite(power)):
        raise ValueError(f"power is the q of a tail z^-q and must be positive and finite; got {power}.")
    a = y[:, None] * x
    require_separable(a, np.arange(len(a)))
    start = least_l2(a).w
    # In units where the best margin is 1 the minimiser has length near 1 whatever the data and q.
    a = a * norm2(start)
    w = _minimise(a, start / norm2(start), power)
    z = a @ w
    pull = power * z ** (-power - 1.0)
    gradient = w - a.T @ pull
    certificate = {
        "stationarity": norm2(gradient) / norm2(w),
        "balance": abs(float(w @ w) - power * float(np.sum(z**-power))) / float(w @ w),
        "negative_margin": max(0.0, -float(z.min())),
    }
    hessian = np.eye(len(w)) + (a.T * ((power + 1.0) * pull / z)) @ a
    return Prediction(
        w / norm2(w), certificate, 2.0 * norm2(gradient) / norm2(w) + 4 * EPS, float(np.linalg.cond(hessian))
    )


def _minimise(a: Float[np.ndarray, "n d"], w: Float[np.ndarray, " d"], q: Scalar) -> Float[np.ndarray, " d"]:
    """Damped Newton inside the cone of positive margins, until rounding stops the decrease."""

    def objective(w: Float[np.ndarray, " d"]) -> float:
        z = a @ w
        with np.errstate(over="ignore"):
            return float(np.sum(z**-q) + 0.5 * w @ w) if z.min() > 0 else np.inf

    best, smallest = w, np.inf
    for _ in range(500):
        z = a @ w
        pull = q * z ** (-q - 1.0)
        gradient = w - a.T @ pull
        if norm2(gradient) < smallest:
            best, smallest = w, norm2(gradient)
        elif smallest < 1e-12 * norm2(w):
            break
        step = np.linalg.solve(np.eye(len(w)) + (a.T * ((q + 1.0) * pull / z)) @ a, gradient)
        value, length, descent = objective(w), 1.0, float(gradient @ step)
        while objective(w - length * step) > value - 0.1 * length * descent + 8 * EPS * value and length > 1e-12:
            length *= 0.5
        w = w - length * step
    return best
