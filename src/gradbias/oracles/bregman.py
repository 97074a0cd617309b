"""The interpolant that mirror descent finds: the Bregman projection of its start."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ..claim import Prediction
from ._arrays import EPS, like, norm2, regression
from ._p_primal import minimise_p
from .min_norm import factors, require_consistent
from .potentials import Entropy, PNorm, Potential

# Residual (relative to y) to which intermediate points of the continuation are solved.
ON_THE_WAY = 1e-6
# Errors below this (relative) need no better bound.
ROUNDED = 1e-12
# A problem whose singular values keep above this (relative) has half of the digits of float64.
WELL_POSED = 1e-8
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
    $\nabla\psi(w_0^{(s)}) = (1-s)\nabla\psi(\bar w) + s\nabla\psi(w_0)$ from an interpolant $\bar w$, its own
    projection, so that β = 1e-600 costs a few dozen small steps. The certificate is evaluated on the returned weights:
    feasibility; stationarity, each coordinate either as $w - \nabla\psi^*(u)$ or as $\nabla\psi(w) - u$, $u =
    \nabla\psi(w_0) + X^\top\nu$ (relative; wherever the mirror map is well conditioned); and the duality gap, whose
    terms are the Fenchel–Young losses of the coordinates. For p > 2 the primal is solved, by Newton in the kernel of X.
    `error` is twice the first-order effect of the residuals through the
    projection in the metric of $\nabla^2\psi$, the smaller of two bounds: by the weights that u gives, or by the
    coordinates u that the weights give. [@gunasekar2018characterizing, Thm 1; @woodworth2020kernel, Thm 1;
    numbers not checked]

    Raises `ValueError` if no weights (no positive weights, for the entropy) interpolate, for NaN, mismatched shapes, a
    start outside the domain, or a potential so steep that float64 does not resolve it.

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
    # Orthonormal rows with the same solutions: dual variables then have the size of u, and lose nothing in X^T ν.
    rows, target = f.vt, (f.u.T @ y) / f.s
    if isinstance(potential, PNorm) and potential.p > 2:
        w = minimise_p(rows, interpolant, potential.p, origin)
        point = _at(rows, potential, origin, rows @ (potential.gradient(w) - origin))
    else:
        point = _follow(rows, target, potential, (potential.gradient(interpolant), origin))
        w = point.w
    inverse = _to_residual(rows, point.curvature)
    for _ in range(3):  # corrections below the resolution of ν: |u| may be 1400, and w = e^u
        w = w - inverse @ ((f.u.T @ (x @ w - y)) / f.s)
    if isinstance(potential, PNorm) and potential.p > 2:  # multipliers of the weights as they are now
        point = point._replace(nu=rows @ (potential.gradient(w) - origin))
    return _certify(x, y, potential, (origin, rows, point._replace(w=w)))


def _require_positive(w0: Float[np.ndarray, " d"]) -> None:
    if w0.min() <= 0:
        raise ValueError(
            f"With the entropy potential start must be positive; got {w0.min():g} at index {int(np.argmin(w0))}. "
            f"Start at a small positive number instead of zero."
        )


def _positive_interpolant(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " d"]:
    """The interpolant whose smallest coordinate is largest (bounded so that it exists), or a refusal."""
    from scipy.optimize import linprog

    d = x.shape[1]
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


class Metric(NamedTuple):
    r"""$X D^{1/2}$ in singular factors, cut where float64 resolves nothing: all linear algebra of one Newton step."""

    x: Float[np.ndarray, "n d"]
    root: Float[np.ndarray, " d"]
    u: Float[np.ndarray, "n r"]
    s: Float[np.ndarray, " r"]
    vt: Float[np.ndarray, "r d"]

    def newton(self, residual: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        r"""$(X D X^\top)^{+} r$."""
        return self.u @ ((self.u.T @ residual) / self.s**2)

    def tangent(self, shift: Float[np.ndarray, " d"]) -> Float[np.ndarray, " n"]:
        """The dual move that best undoes a shift of the mirror coordinates."""
        return -self.u @ ((self.vt @ (self.root * shift)) / self.s)


def _to_residual(x: Float[np.ndarray, "n d"], curvature: Float[np.ndarray, " d"]) -> Float[np.ndarray, "d n"]:
    r"""$D X^\top (X D X^\top)^{-1}$, orthonormal rows X: the least change of w, in $D^{-1}$, per unit of residual.

    With fewer large weights than rows $X D X^\top$ has nothing to hold on to beside the largest entries of D; what is
    well posed then is the kernel of X, in which the small weights decide.
    """
    metric = _metric(x, curvature)
    open_ended = len(metric.s) < len(x) or metric.s[-1] < WELL_POSED * metric.s[0]
    if open_ended and (back := _in_kernel(x, curvature)) is not None:
        return x.T - back @ (back.T @ (x.T / curvature[:, None]))
    # Through X rather than vt: exact relative to each curvature, so that no tiny weight changes sign.
    return metric.root[:, None] ** 2 * (x.T @ (metric.u / metric.s**2) @ metric.u.T)


def _in_kernel(x: Float[np.ndarray, "n d"], curvature: Float[np.ndarray, " d"]) -> Float[np.ndarray, "d k"] | None:
    r"""B with $B B^\top = N (N^\top D^{-1} N)^{-1} N^\top$, N a basis of the kernel; None where that is ill posed.

    $B B^\top$ is how w answers, to first order, to a shift of its mirror coordinates u.
    """
    kernel = np.linalg.svd(x)[2][len(x) :].T
    with np.errstate(divide="ignore", over="ignore"):
        heavy = kernel / np.sqrt(curvature)[:, None]
    if not kernel.size or not np.isfinite(heavy).all():
        return None
    _, s, vt = np.linalg.svd(heavy, full_matrices=False)
    return kernel @ (vt.T / s) if s[-1] > WELL_POSED * s[0] else None


def _metric(x: Float[np.ndarray, "n d"], curvature: Float[np.ndarray, " d"]) -> Metric:
    root = np.sqrt(curvature)
    u, s, vt = np.linalg.svd(x * root, full_matrices=False)
    rank = int(np.sum(s > RESOLVED * s[0]))
    return Metric(x, root, u[:, :rank], s[:rank], vt[:rank])


def _at(
    x: Float[np.ndarray, "n d"], potential: Potential, origin: Float[np.ndarray, " d"], nu: Float[np.ndarray, " n"]
) -> Point:
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
    if not np.isfinite(point.curvature).all():
        j = int(np.argmax(~np.isfinite(point.curvature)))
        raise ValueError(
            f"The potential cannot be resolved in float64: the mirror coordinate of weight {j} of an interpolant is "
            f"{point.u[j]:g}, where the potential ends. Start from a larger scale."
        )
    for _ in range(5000):
        following = min(1.0, s + step)
        change = _metric(x, point.curvature).tangent((following - s) * (last - first))
        origin = (1.0 - following) * first + following * last
        target = EPS if following == 1.0 else ON_THE_WAY
        trial = _correct(x, y, potential, (origin, point.nu + change, target))
        if trial is None:
            step *= 0.5
            if step < 1e-9:
                break
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
    """Damped Newton on the dual from a guess; None if it does not come near the target residual."""
    origin, nu, target = guess
    scale = norm2(y) or 1.0
    point = _at(x, potential, origin, nu)
    best, smallest, idle = point, np.inf, 0
    for _ in range(30):
        # Squares of these numbers are summed below; a guess beyond this is hopeless anyway.
        if not np.max(point.curvature) < 1e150 or not np.max(np.abs(point.w)) < 1e150:
            return None
        residual = y - x @ point.w
        if norm2(residual) < smallest:
            best, smallest, idle = point, norm2(residual), 0
        elif smallest < 1e-9 * scale:
            idle += 1
            if idle == 3:
                return best  # rounding: it does not fall any more
        if smallest <= target * scale:
            return best
        change = _metric(x, point.curvature).newton(residual)
        point = _search(x, y, potential, (origin, point, change))
    return best if smallest < max(1e-9, target) * scale else None


def _search(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, " n"],
    potential: Potential,
    move: tuple[Float[np.ndarray, " d"], Point, Float[np.ndarray, " n"]],
) -> Point:
    """Backtracking on the dual objective, whose change is summed coordinate by coordinate."""
    origin, point, change = move
    before, length = potential.conjugate(point.u), 1.0
    slope = float(change @ (y - x @ point.w))
    noise = 4 * EPS * float(np.sum(np.abs(before)) + abs(change @ y))
    while True:
        trial = _at(x, potential, origin, point.nu + length * change)
        with np.errstate(over="ignore"):
            rise = float(np.sum(potential.conjugate(trial.u) - before)) - length * float(change @ y)
        if rise <= -0.1 * length * slope + noise or length < 1e-8:
            return trial
        length *= 0.5


def _certify(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, " n"],
    potential: Potential,
    solution: tuple[Float[np.ndarray, " d"], Float[np.ndarray, "r d"], Point],
) -> Prediction:
    origin, rows, point = solution
    w, residual = point.w, x @ point.w - y
    u = origin + point.nu @ rows
    mapped = potential.inverse_gradient(u)
    size, mirror_size = norm2(w) or 1.0, norm2(u) or 1.0
    off = np.minimum(np.abs(w - mapped) / size, np.abs(potential.gradient(w) - u) / mirror_size)
    young = potential.value(w) + potential.conjugate(u) - w * u
    energy = float(np.sum(np.abs(w * u)) + np.sum(np.abs(potential.conjugate(u)))) or 1.0
    # The rows of the dual step, checked against X itself: what of u - origin no combination of examples gives.
    outside = (u - origin) - x.T @ np.linalg.lstsq(x.T, u - origin, rcond=None)[0]
    certificate = {
        "feasibility": norm2(residual) / (norm2(y) or 1.0),
        "stationarity": norm2(off),
        "row_space": norm2(outside) / mirror_size,
        "duality_gap": abs(float(np.sum(young))) / energy,
    }
    gain = float(np.linalg.norm(_to_residual(rows, point.curvature), 2))
    smallest = float(np.linalg.svd(x, compute_uv=False)[len(rows) - 1])
    shifted = (1.0 + gain) * norm2(w - mapped)
    if shifted > ROUNDED * size and (back := _in_kernel(rows, point.curvature)) is not None:
        # Of a large weight u says little; but u is known well from it.
        rounding = np.abs(back).T @ (8.0 * EPS * (np.abs(u) + np.abs(origin)))
        off_by = norm2(back.T @ (potential.gradient(w) - u)) + norm2(rounding)
        shifted = min(shifted, float(np.linalg.norm(back, 2)) * off_by)
    error = 2.0 * (gain * (norm2(residual) + EPS * norm2(y)) / smallest + shifted)
    return Prediction(w, certificate, error, 1.0 + gain * norm2(x) / smallest)
