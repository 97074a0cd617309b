"""Greedy low-rank learning: the saddles that gradient flow from an infinitesimal start visits, one rank at a time."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ..claim import Prediction
from ._arrays import as_float64, norm2, same_length

# Length of the step off a saddle, in units of the square root of its matrix's scale; a tenth shows how much it matters.
SEED = 1e-5
# Eigenvalues of -∇f below this share of the first stage's are zero: nothing is left to learn.
FLAT = 1e-7
# A stage has settled if four times the time moves its W by less than this share of its way.
SETTLED = 1e-6
# Gradients below this share of the largest growth rate are rounding: integrators shorten their steps in vain to see it.
STOPPED = 1e-14


def greedy_low_rank(measurements: ArrayLike, targets: ArrayLike) -> Prediction:
    r"""The stages of greedy low-rank learning: $W = UU^\top$, $f(W) = \sum_i (\langle A_i, W\rangle - y_i)^2 / 2m$.

    From $W_0 = 0$: with v the top unit eigenvector of $-\nabla f(W_{r-1})$, gradient flow on $f(UU^\top)$ with r
    columns from $(U_{r-1}, \delta v)$, δ → 0, converges to $U_r$. It ends where no eigenvalue is positive: there
    $W_R \succeq 0$ minimises f over all positive semidefinite matrices. The value is a dict: `stages` (d, d, d), of
    which the r-th is $W_r$ (the last repeated beyond R); `growth` (d, d), row r the eigenvalues of $-\nabla f(W_r)$
    from the largest (zeros beyond R); `rank`, R.

    `measurements` are (m, d, d), of which the symmetric parts count; `targets` (m,). The flow is integrated by LSODA
    from δ of 1e-5 and 1e-6 (of the scale of U), to where its end no longer moves, and polished by Newton's method. The
    certificate holds the largest stationarity residual $\|\nabla f(W_r) U_r\|$ of any stage and the largest eigenvalue
    of $-\nabla f(W_R)$, both relative to $\|\nabla f(0)\|$. `error` is twice the largest change of a stage from one δ
    to the other, and in the last three quarters of its time (which is large where a stage drifts, and infinite where it
    has none). `condition` is the largest $\lambda_1/(\lambda_1 - \lambda_2)$ of any escape. [@li2021towards]

    Raises `ValueError` for mismatched shapes, or where 0 is already a minimum ($\nabla f(0) \succeq 0$).

    >>> a = np.stack([np.diag([1.0, 0.0]), np.diag([0.0, 1.0])])
    >>> greedy_low_rank(a, [2.0, 1.0]).value["stages"].round(6).tolist()
    [[[2.0, 0.0], [0.0, 0.0]], [[2.0, 0.0], [0.0, 1.0]]]
    """
    a, y = as_float64(measurements, "measurements", 3), as_float64(targets, "targets", 1)
    same_length(a, y, ("measurements", "targets"))
    if a.shape[1] != a.shape[2]:
        raise ValueError(f"Measurements are square matrices, shape (m, d, d); got {a.shape}.")
    a = 0.5 * (a + a.transpose(0, 2, 1))
    first = np.linalg.eigvalsh(-_gradient(a, y, np.zeros((a.shape[1], 0))))[-1]
    if not first > 0:
        raise ValueError(
            f"-∇f(0) has no positive eigenvalue (largest {first:.3g}): 0 is a minimum over positive semidefinite "
            f"matrices and nothing is learnt. Check the signs of the targets."
        )
    (coarse, _), (fine, went) = _stages(a, y, SEED), _stages(a, y, SEED / 10)
    d, reached = a.shape[1], len(fine)
    padded = [*fine, *[fine[-1]] * (d - reached)]
    stages = np.stack([u @ u.T for u in padded])
    other = [*coarse, *[coarse[-1]] * (d - len(coarse))]
    moved = max(norm2(u @ u.T - w) for u, w in zip(other, stages, strict=True))
    slopes = [_gradient(a, y, np.zeros((d, 0))), *[_gradient(a, y, u) for u in fine]]
    growth = np.zeros((d, d))
    for r, slope in enumerate(slopes[:-1]):
        growth[r] = np.linalg.eigvalsh(-slope)[::-1]
    size = norm2(slopes[0])
    stationary = max(norm2(s @ u) / norm2(u) for s, u in zip(slopes[1:], fine, strict=True)) / size
    left = max(0.0, float(np.linalg.eigvalsh(-slopes[-1])[-1])) / size
    certificate = {"stationarity": stationary, "growth_left": left / FLAT * 1e-8}
    gaps = [row[0] / max(row[0] - row[1], 1e-300) for row in growth[:reached]] if d > 1 else [1.0]
    value = {"stages": stages, "growth": growth, "rank": float(reached)}
    error = 2.0 * (moved + went)
    errors = {"stages": error, "growth": error * norm2(a) ** 2 / len(y), "rank": 0.0}
    return Prediction(value, certificate, errors, max(gaps))


def _gradient(a: Float[np.ndarray, "m d d"], y: Float[np.ndarray, " m"], u: np.ndarray) -> Float[np.ndarray, "d d"]:
    r"""$\nabla f(UU^\top)$."""
    residual = np.einsum("iab,ar,br->i", a, u, u, optimize=True) - y
    return np.tensordot(residual, a, axes=1) / len(y)


def _stages(a: Float[np.ndarray, "m d d"], y: Float[np.ndarray, " m"], seed: float) -> tuple[list[np.ndarray], float]:
    """The factors of every stage, for one δ, and how far any went in the last three quarters of its time."""
    d = a.shape[1]
    u, found, went = np.zeros((d, 0)), [], 0.0
    first = float(np.linalg.eigvalsh(-_gradient(a, y, u))[-1])
    scale = np.sqrt(norm2(y) / max(norm2(a), 1e-300))
    for _ in range(d):
        values, vectors = np.linalg.eigh(-_gradient(a, y, u))
        if values[-1] <= FLAT * first:
            break
        u, last = _settled(a, y, np.column_stack([u, seed * scale * vectors[:, -1]]), first)
        found.append(u)
        went = max(went, last)
    return found, went


def _settled(a: np.ndarray, y: np.ndarray, start: np.ndarray, rate: float) -> tuple[np.ndarray, float]:
    """The limit of gradient flow with as many columns as `start`, and how far W went in the last three quarters."""
    from scipy.integrate import BDF, LSODA

    def flow(_: float, z: np.ndarray) -> np.ndarray:
        u = z.reshape(start.shape)
        return np.asarray(-2.0 * _gradient(a, y, u) @ u).ravel()

    def derivative(_: float, z: np.ndarray) -> np.ndarray:
        return -_hessian(a, y, z.reshape(start.shape))

    def stands(z: np.ndarray) -> bool:
        return norm2(flow(0.0, z)) < STOPPED * rate * norm2(z)

    u, time, before = start, 30.0 / rate, None
    for _ in range(12):
        # A slow drift is stiff, which LSODA does not see at such tolerances: it takes steps of 1 / rate to the end.
        method = LSODA if time * rate < 1000.0 else BDF
        solver = method(flow, 0.0, u.ravel(), time, jac=derivative, rtol=1e-10, atol=1e-13)
        while solver.status == "running" and not stands(solver.y):
            solver.step()
        u = solver.y.reshape(start.shape)
        polished = _polished(a, y, u)
        w = polished @ polished.T
        # Near the saddle it left Newton's method goes back there: the way still to go must be short beside that behind.
        # A drift that dies out like a power of time is cut short by Newton's method too, and goes on.
        still = norm2(_gradient(a, y, polished) @ polished) < 1e-11 * rate * norm2(polished)
        left, behind = (norm2(w - v @ v.T) for v in (u, start))
        arrived = still and left < 1e-3 * behind
        if stands(solver.y):
            return (polished, 0.0) if arrived else (u, np.inf)
        went = np.inf if before is None else norm2(w - before)
        before = w if arrived else None
        if arrived and went < SETTLED * behind:
            return polished, went
        time *= 4.0
    return u, went


def _hessian(a: np.ndarray, y: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Of f(UUᵀ) in U, flattened by rows."""
    j = 2.0 * (a @ u).reshape(len(y), -1)
    return np.asarray(j.T @ j / len(y) + 2.0 * np.kron(_gradient(a, y, u), np.eye(u.shape[1])))


def _polished(a: np.ndarray, y: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Newton's method on the gradient, of least length: rotations of the columns are left alone."""
    for _ in range(40):
        g = 2.0 * _gradient(a, y, u) @ u
        step = np.linalg.lstsq(_hessian(a, y, u), g.ravel(), rcond=1e-9)[0].reshape(u.shape)
        trial = u - step
        if not norm2(_gradient(a, y, trial) @ trial) < 0.5 * norm2(g):
            break
        u = trial
    return u
