r"""Weights of least $\ell_1$ or $\ell_\infty$ norm under linear constraints: linear programmes, certified."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ._arrays import EPS, Scalar, norm2

# A multiplier, reduced cost or coordinate below this (relative to the largest) counts as zero when a vertex is read.
ZERO = 1e-7


def dual_exponent(norm: Scalar) -> float:
    r"""The q with $1/p + 1/q = 1$."""
    return np.inf if norm == 1 else 1.0 if np.isinf(norm) else norm / (norm - 1.0)


@dataclass(frozen=True)
class NormProgram:
    r"""$\min \|w\|$ with $Aw \ge b$ (or $= b$), and multipliers: $\max \{b\cdot\lambda: \|A^T\lambda\|_* \le 1\}$."""

    a: Float[np.ndarray, "n d"]
    target: Float[np.ndarray, " n"]
    norm: Scalar
    equality: bool
    w: Float[np.ndarray, " d"]
    multipliers: Float[np.ndarray, " n"]
    error: float
    condition: float

    @property
    def length(self) -> float:
        """The norm of w."""
        return float(np.linalg.norm(self.w, self.norm))

    def lower_bound(self) -> float:
        """What weak duality proves: no admissible w is shorter. Multipliers are first made admissible."""
        multipliers = self.multipliers if self.equality else np.maximum(self.multipliers, 0.0)
        dual = float(np.linalg.norm(self.a.T @ multipliers, dual_exponent(self.norm)))
        return float(self.target @ multipliers) / dual if dual else 0.0

    def certificate(self) -> dict[str, float]:
        """Relative residuals: constraints, dual constraints and duality gap."""
        residual = self.a @ self.w - self.target
        violation = residual if self.equality else np.minimum(residual, 0.0)
        scale = norm2(self.target)
        dual = float(np.linalg.norm(self.a.T @ self.multipliers, dual_exponent(self.norm)))
        sign = 0.0 if self.equality else max(0.0, -float(self.multipliers.min()))
        largest = float(np.abs(self.multipliers).max())
        return {
            "feasibility": norm2(violation) / scale if scale else 0.0,
            "dual_feasibility": max(0.0, dual - 1.0) + (sign / largest if largest else 0.0),
            "duality_gap": abs(self.length - self.lower_bound()) / self.length if self.length else 0.0,
        }


def solve(a: Float[np.ndarray, "n d"], target: Float[np.ndarray, " n"], norm: Scalar, *, equality: bool) -> NormProgram:
    """Solve with HiGHS, then once more on the vertex it found; `error` is infinite where others may be optimal."""
    w, multipliers = _highs(a, target, norm, equality)
    reduced = a.T @ multipliers
    rows = np.ones(len(a), bool) if equality else multipliers > ZERO * multipliers.max()
    # The face of optimal weights: columns of `basis` are its coordinates, `cost` what each adds to the norm.
    if norm == 1:
        basis = np.eye(a.shape[1])[:, np.abs(reduced) >= 1 - ZERO]
        cost = basis.T @ np.sign(reduced)
    else:
        tight = np.abs(reduced) > ZERO
        basis = np.column_stack([np.where(tight, np.sign(reduced), 0.0), np.eye(a.shape[1])[:, ~tight]])
        cost = np.eye(basis.shape[1])[0]
    vertex = a[rows] @ basis
    if vertex.size == 0:
        return NormProgram(a, target, norm, equality, w, multipliers, 0.0 if not w.any() else np.inf, 1.0)
    coordinates = np.linalg.lstsq(vertex, target[rows], rcond=None)[0]
    # Refined multipliers: the smallest change that makes the reduced costs of the vertex exact.
    change = np.linalg.lstsq(vertex.T, cost - vertex.T @ multipliers[rows], rcond=None)[0]
    multipliers[rows] += change
    s = np.linalg.svd(vertex, compute_uv=False)
    unique = vertex.shape[0] >= vertex.shape[1] and s[-1] > 100 * max(vertex.shape) * EPS * s[0]
    if unique:
        w = basis @ coordinates
    # Under strict complementarity every optimal w lies in the face and solves its square (or tall) system.
    residual = norm2(vertex @ coordinates - target[rows]) + 4 * EPS * norm2(target[rows])
    error = residual / s[-1] * float(np.linalg.norm(basis, 2)) if unique else np.inf
    return NormProgram(
        a, target, norm, equality, w, multipliers, float(error), float(s[0] / s[-1]) if unique else 1 / EPS
    )


def _highs(
    a: Float[np.ndarray, "n d"], target: Float[np.ndarray, " n"], norm: Scalar, equality: bool
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " n"]]:
    from scipy.optimize import linprog

    n, d = a.shape
    scale, size = float(np.abs(a).max()) or 1.0, float(np.abs(target).max()) or 1.0
    a, target = a / scale, target / size
    if norm == 1:  # w = p - m, both non-negative
        cost, columns = np.ones(2 * d), np.hstack([a, -a])
        bounds: list[tuple[float | None, None]] = [(0.0, None)] * (2 * d)
        extra = None
    else:  # (w, t) with |w_j| <= t
        cost, columns = np.append(np.zeros(d), 1.0), np.hstack([a, np.zeros((n, 1))])
        bounds = [(None, None)] * d + [(0.0, None)]
        one = np.ones((d, 1))
        extra = np.vstack([np.hstack([np.eye(d), -one]), np.hstack([-np.eye(d), -one])])
    options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    common = {"bounds": bounds, "method": "highs", "options": options}
    if equality:
        zero = None if extra is None else np.zeros(2 * d)
        result = linprog(cost, A_ub=extra, b_ub=zero, A_eq=columns, b_eq=target, **common)
        marginals = result.eqlin.marginals if result.status == 0 else None
    else:
        above = -columns if extra is None else np.vstack([-columns, extra])
        limit = -target if extra is None else np.concatenate([-target, np.zeros(2 * d)])
        result = linprog(cost, A_ub=above, b_ub=limit, **common)
        marginals = -result.ineqlin.marginals[:n] if result.status == 0 else None
    if marginals is None:
        raise ValueError(
            f"HiGHS found no optimum of this linear programme ({n} constraints, {d} weights): {result.message.strip()} "
            f"Rescale the features to similar sizes, or check that the data are separable (consistent)."
        )
    z = result.x
    w = z[:d] - z[d:] if norm == 1 else z[:d]
    return w * size / scale, np.asarray(marginals) / scale
