"""The interpolant that mirror descent finds: the Bregman projection of its start."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ..claim import Prediction
from ._arrays import EPS, like, norm2, regression
from .min_norm import factors, require_consistent
from .potentials import Entropy, Potential

# Residual (relative to y) to which intermediate points of the continuation are solved.
ON_THE_WAY = 1e-6
# Directions of the weighted rows below this (relative) cannot be resolved in float64 and do not move.
RESOLVED = 1e-13


class Point(NamedTuple):
    """A point of the path: dual variables, mirror coordinates, weights and curvature."""

    nu: Float[np.ndarray, " n"]
    u: Float[np.ndarray, " d"]
    w: Float[np.ndarray, " d"]
    curvature: Float[np.ndarray, " d"]


def bregman_projection(
    x: ArrayLike, y: ArrayLike, *, potential: Potential, start: ArrayLike | None = None
) -> Prediction:
    r"""The interpolant closest to the start in the Bregman divergence of a potential: the limit of mirror descent.

    $$w^\star = \arg\min_{Xw = y} D_\psi(w, w_0), \qquad \nabla\psi(w^\star) = \nabla\psi(w_0) + X^\top\nu .$$

    `x` is (n, d), `y` (n,), `start` $w_0$ (d,) (the potential's minimiser if not given; it must be positive for the
    entropy). Potentials: `euclidean`, `entropy`, `p_norm(p)`, `hypentropy(beta)` of `gradbias.oracles`, or any object
    with their methods. Solved on the dual, n variables, by Newton's method along the path
    $\nabla\psi(w_0^{(s)}) = (1-s)\nabla\psi(\bar w) + s\nabla\psi(w_0)$ from an interpolant $\bar w$, whose projection is
    itself, so that β = 1e-600 costs a few dozen small steps. The certificate is evaluated on the returned weights:
    feasibility, distance from $\nabla\psi^*(\nabla\psi(w_0) + X^\top\nu)$, and the duality gap, whose terms are the
    Fenchel–Young losses of each coordinate. `error` is twice the first-order effect of the residuals through the
    projection in the metric of $\nabla^2\psi$. [@gunasekar2018characterizing, Thm 1; @woodworth2020kernel, Thm 1;
    numbers not checked]

    Raises `ValueError` if no weights (no positive weights, for the entropy) interpolate, for NaN, mismatched shapes or
    a start outside the domain.

    >>> from gradbias.oracles import hypentropy
    >>> bregman_projection([[2.0, 1.0]], [2.0], potential=hypentropy(log_beta=-1400.0)).value.round(9).tolist()
    [1.0, 0.0]
    """
    x, y = regression(x, y)
    d = x.shape[1]
    w0 = potential.default_start(d) if start is None else like(start, (d,), "start")
    f = factors(x)
    require_consistent(x, y, f)
    if isinstance(potential, Entropy):
        _require_positive(w0)
        interpolant = _positive_interpolant(x, y)
    else:
        interpolant = f.vt.T @ ((f.u.T @ y) / f.s)
    origin = potential.gradient(w0)
    point = _follow(x, y, potential, (potential.gradient(interpolant), origin))
    w = point.w
    for _ in range(3):  # corrections below the resolution of ν: |u| may be 1400, and w = e^u
        w = w - _inverse(x, point.curvature) @ (x @ w - y)
    return _certify(x, y, potential, (origin, point._replace(w=w)))


def _require_positive(w0: Float[np.ndarray, " d"]) -> None:
    if w0.min() <= 0:
        raise ValueError(
            f"With the entropy potential start must be positive; got {w0.min():g} at index {int(np.argmin(w0))}. "
            f"Start at a small positive number instead of zero."
        )


def _positive_interpolant(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " d"]:
    """The interpolant whose smallest coordinate is largest (bounded so that it exists), or a refusal."""
    from scipy.optimize import linprog

    n, d = x.shape
    size = float(np.max(np.abs(np.linalg.lstsq(x, y, rcond=None)[0]))) or 1.0
    # w = t + v with v ≥ 0; t ≤ size keeps the programme bounded.
    columns = np.hstack([x, x.sum(axis=1, keepdims=True)])
    cost = np.append(np.full(d, 1e-3 / d), -1.0)
    result = linprog(cost, A_eq=columns, b_eq=y, bounds=[(0, None)] * d + [(None, size)], method="highs")
    if result.status == 3:  # the mean of v may be traded for t; without the cost it is bounded
        result = linprog(cost * (cost < 0), A_eq=columns, b_eq=y, bounds=[(0, None)] * d + [(None, size)])
    if result.status != 0 or result.x[-1] <= 1e-10 * size:
        t = result.x[-1] if result.status == 0 else float("nan")
        raise ValueError(
            f"No positive weights interpolate these targets, so that the entropy projection does not exist: the "
            f"largest attainable min_j w_j is {t:.3g}. Use features of both signs, or the hypentropy potential, whose "
            f"weights have any sign."
        )
    w = result.x[:-1] + result.x[-1]
    return w - np.linalg.pinv(x) @ (x @ w - y)


def _inverse(x: Float[np.ndarray, "n d"], curvature: Float[np.ndarray, " d"]) -> Float[np.ndarray, "d n"]:
    r"""$D X^\top (X D X^\top)^{+}$: the least change of w, in the metric $D^{-1}$, per unit of residual."""
    root = np.sqrt(curvature)
    return root[:, None] * np.linalg.pinv(x * root, rcond=RESOLVED)


def _at(x: Float[np.ndarray, "n d"], potential: Potential, origin: Float[np.ndarray, " d"], nu: np.ndarray) -> Point:
    u = origin + nu @ x
    with np.errstate(over="ignore"):
        return Point(nu, u, potential.inverse_gradient(u), potential.curvature(u))


def _follow(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, " n"],
    potential: Potential,
    ends: tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]],
) -> Point:
    """Continuation in s: predict along the tangent, correct by Newton, halve or grow the step."""
    first, last = ends
    point, s, step = _at(x, potential, first, np.zeros(len(x))), 0.0, 1.0
    for _ in range(5000):
        following = min(1.0, s + step)
        shift = (following - s) * (last - first)
        root = np.sqrt(point.curvature)
        # The tangent keeps Xw fixed: least squares of -shift by rows of X, in the metric of the curvature.
        change = np.linalg.lstsq((x * root).T, -root * shift, rcond=RESOLVED)[0]
        origin = (1.0 - following) * first + following * last
        target = EPS if following == 1.0 else ON_THE_WAY
        trial = _correct(x, y, potential, (origin, point.nu + change, target))
        if trial is None and step < 1e-9:
            break
        if trial is None:
            step *= 0.5
            continue
        point, s, step = trial, following, 1.7 * step
        if s == 1.0:
            break
    return point


def _correct(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, " n"],
    potential: Potential,
    guess: tuple[Float[np.ndarray, " d"], Float[np.ndarray, " n"], float],
) -> Point | None:
    """Damped Newton on the dual from a guess; None if it does not come near the target residual in 30 steps."""
    origin, nu, target = guess
    scale = norm2(y) or 1.0
    point = _at(x, potential, origin, nu)
    best, smallest = point, np.inf
    for _ in range(30 if target > EPS else 60):
        if not np.all(np.isfinite(point.curvature)):
            return None
        residual = y - x @ point.w
        if norm2(residual) < smallest:
            best, smallest = point, norm2(residual)
        elif smallest < 1e-9 * scale:
            return best  # rounding: it does not fall any more
        if smallest <= target * scale:
            return best
        root = np.sqrt(point.curvature)
        change = np.linalg.lstsq(
            (x * root).T, root * (_inverse(x, point.curvature) @ residual) / point.curvature, rcond=RESOLVED
        )[0]
        point = _search(x, y, potential, (origin, point, change, float(change @ residual)))
    return best if smallest < max(1e-9, target) * scale else None


def _search(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, " n"],
    potential: Potential,
    move: tuple[Float[np.ndarray, " d"], Point, Float[np.ndarray, " n"], float],
) -> Point:
    """Backtracking on the dual objective, whose decrease is summed coordinate by coordinate."""
    origin, point, change, slope = move
    before, length = potential.conjugate(point.u), 1.0
    while True:
        trial = _at(x, potential, origin, point.nu + length * change)
        with np.errstate(over="ignore", invalid="ignore"):
            terms = potential.conjugate(trial.u) - before
        rise = float(np.sum(terms)) - length * float(change @ y)
        noise = 4 * EPS * float(np.sum(np.abs(before)) + abs(change @ y))
        if rise <= -0.1 * length * slope + noise or length < 1e-8:
            return trial
        length *= 0.5


def _certify(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, " n"],
    potential: Potential,
    solution: tuple[Float[np.ndarray, " d"], Point],
) -> Prediction:
    origin, point = solution
    w, mapped = point.w, potential.inverse_gradient(origin + point.nu @ x)
    residual = x @ w - y
    size = norm2(w) or 1.0
    u = origin + point.nu @ x
    young = potential.value(w) + potential.conjugate(u) - w * u
    energy = float(np.sum(np.abs(w * u)) + np.sum(np.abs(potential.conjugate(u)))) or 1.0
    certificate = {
        "feasibility": norm2(residual) / (norm2(y) or 1.0),
        "stationarity": norm2(w - mapped) / size,
        "duality_gap": abs(float(np.sum(young))) / energy,
    }
    inverse = _inverse(x, point.curvature)
    gain = float(np.linalg.norm(inverse, 2))
    amplify = 1.0 + gain * float(np.linalg.norm(x, 2))
    error = 2.0 * (gain * (norm2(residual) + EPS * norm2(y)) + amplify * norm2(w - mapped))
    return Prediction(w, certificate, error, amplify)
