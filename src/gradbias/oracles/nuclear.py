"""The matrix of least nuclear norm with given entries, with a dual certificate of optimality and uniqueness."""

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from ..claim import Prediction
from ._arrays import EPS, as_float64, norm2

# Singular values of the dual matrix within this of 1 span the tangent space of the solution.
AT_ONE = 1e-4


def min_nuclear_norm(mask: ArrayLike, values: ArrayLike, *, psd: bool = False) -> Prediction:
    r"""The matrix of least nuclear norm (least trace, if positive semidefinite) that has the observed entries.

    $$M^\star = \arg\min_{M_{ij} = V_{ij},\, (i,j) \in \Omega} \|M\|_* ; \qquad
      \|M^\star\|_* = \max\{\langle Y, V\rangle : Y = 0 \text{ outside } \Omega,\ \|Y\|_{op} \le 1\}.$$

    `mask` (m, k) is true (non-zero) on $\Omega$; `values` (m, k), read there only; the value is (m, k). With `psd` the
    matrix is square, symmetric and positive semidefinite, and the dual condition is $Y \preceq I$.

    The minimiser may not be unique. In the singular bases of Y, with r singular values at 1 and the others at most θ,
    every M has $\|M\|_* - \langle Y, M\rangle \ge (1-\theta) \|M_{22}\|_*$: an almost optimal matrix has almost no
    lower right block. If the observed entries determine the other blocks, with smallest singular value σ, then
    `error` is $(1 + 1/\sigma)\, 2\,\mathrm{gap}/(1-\theta)$. If they determine only the upper left block, the
    off-diagonal ones are bounded by $\|M_{12}\|^2 \le \|M\|_* \|M_{22}\|$, and `error` is of the order of the
    root of the gap.
    Otherwise nothing is known and it is infinite. Without strict complementarity (a singular value of Y at 1 that the
    solution does not use) the polish fails and the certificate with it. `condition` is 1/σ.
    [@candes2009exact, §3, number not checked]

    Raises `ValueError` for an empty mask, mismatched shapes, NaN among the observed entries, a `psd` matrix that is not
    square or whose observed entries contradict each other, or where no positive semidefinite matrix has them.

    >>> p = min_nuclear_norm([[1, 1], [1, 0]], [[1.0, 2.0], [2.0, 0.0]], psd=True)
    >>> p.value.round(8).tolist(), p.certified
    ([[1.0, 2.0], [2.0, 4.0]], True)
    """
    observed, given = _checked(mask, values, psd)
    m, y = _solve(observed, given, psd)
    m, y = _polish(m, y, observed, given)
    y = y / (float(np.linalg.eigvalsh(y)[-1]) if psd else float(np.linalg.norm(y, 2)))  # the best admissible multiple
    length = float(np.trace(m)) if psd else float(np.linalg.norm(m, "nuc"))
    gap, residual = length - float(np.sum(y * given)), norm2((m - given)[observed])
    indefinite = max(0.0, -float(np.linalg.eigvalsh(m)[0])) if psd else 0.0
    top = float(np.linalg.eigvalsh(y)[-1]) if psd else float(np.linalg.norm(y, 2))
    certificate = {
        "feasibility": residual / norm2(given),
        "duality_gap": gap / length,
        "dual_feasibility": max(0.0, top - 1.0),
        "dual_support": norm2(y[~observed]) / norm2(y),
        "indefinite": indefinite / length,
    }
    hidden = abs(gap) + residual * norm2(y) + len(m) * indefinite + 8 * EPS * length
    error, sigma = _error(y, observed, psd, (hidden, length, residual))
    return Prediction(m, certificate, error, 1 / sigma if sigma > 0 else 1 / EPS)


def _error(
    y: Float[np.ndarray, "m k"], observed: Bool[np.ndarray, "m k"], psd: bool, sizes: tuple[float, float, float]
) -> tuple[float, float]:
    """The bound of the docstring, and σ (0 where the solution may not be unique)."""
    hidden, length, residual = sizes
    left, right, values = _bases(y, psd)
    rank = int(np.sum(values > 1 - AT_ONE))
    theta = max(0.0, float(values[rank])) if rank < len(values) else 0.0
    corner = 2.0 * hidden / max(1.0 - theta, EPS)
    i, j = np.arange(len(left))[:, None], np.arange(len(right))
    sigma = _seen(left, right, observed, (i < rank) | (j < rank), symmetric=psd)
    if sigma > 1e-9:
        return (1 + 1 / sigma) * corner + residual / sigma, sigma
    sigma = _seen(left, right, observed, (i < rank) & (j < rank), symmetric=True)
    if sigma > 1e-9:
        outside = 2.0 * np.sqrt(2.0 * length * corner) + corner
        return float((1 + 1 / sigma) * outside + residual / sigma), sigma
    return np.inf, 0.0


def _checked(mask: ArrayLike, values: ArrayLike, psd: bool) -> tuple[Bool[np.ndarray, "m k"], Float[np.ndarray, "m k"]]:
    observed = as_float64(mask, "mask", 2) != 0
    raw = np.array(values, dtype=np.float64)
    if raw.shape != observed.shape or not observed.any():
        raise ValueError(
            f"mask and values must have the same shape and the mask at least one true entry; got {observed.shape} "
            f"({int(observed.sum())} observed) and {raw.shape}. Pass the matrix, with anything where it is unseen."
        )
    given = as_float64(np.where(observed, raw, 0.0), "values", 2)
    if not given.any():
        raise ValueError("All observed values are 0: the minimiser is the zero matrix, which has no singular vectors.")
    if not psd:
        return observed, given
    if given.shape[0] != given.shape[1]:
        raise ValueError(f"A positive semidefinite matrix is square; got shape {given.shape}. Use psd=False.")
    both = observed & observed.T
    clash = np.argwhere(both & (np.abs(given - given.T) > 1e-12 * np.abs(given).max()))
    if len(clash):
        i, j = map(int, clash[0])
        raise ValueError(
            f"A symmetric matrix has equal entries at ({i}, {j}) and ({j}, {i}); got {given[i, j]:g} and "
            f"{given[j, i]:g}. Observe one of them, or use psd=False."
        )
    return observed | observed.T, np.where(observed, given, given.T)


def _solve(
    observed: Bool[np.ndarray, "m k"], given: Float[np.ndarray, "m k"], psd: bool
) -> tuple[Float[np.ndarray, "m k"], Float[np.ndarray, "m k"]]:
    import warnings

    import cvxpy as cp

    scale = float(np.abs(given).max())
    variable = cp.Variable(given.shape, PSD=True) if psd else cp.Variable(given.shape)
    rows, columns = np.nonzero(np.triu(observed) if psd else observed)
    fits = variable[rows, columns] == given[rows, columns] / scale
    program = cp.Problem(cp.Minimize(cp.trace(variable) if psd else cp.normNuc(variable)), [fits])
    tight = {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "may be inaccurate": the certificate, not the solver, decides
        program.solve(solver=cp.CLARABEL, **tight)
    if variable.value is None:
        raise ValueError(
            f"No positive semidefinite matrix has these entries (the solver found the programme {program.status}). "
            f"Check that every 2 by 2 minor that is fully observed is non-negative, or use psd=False."
        )
    dual = np.zeros(given.shape)
    dual[rows, columns] = -fits.dual_value
    return np.asarray(variable.value) * scale, 0.5 * (dual + dual.T) if psd else dual


def _bases(
    y: Float[np.ndarray, "m k"], psd: bool
) -> tuple[Float[np.ndarray, "m m"], Float[np.ndarray, "k k"], Float[np.ndarray, " r"]]:
    """Singular vectors (eigenvectors) of the dual matrix, its values from the largest."""
    if psd:
        values, vectors = np.linalg.eigh(y)
        return vectors[:, ::-1], vectors[:, ::-1], values[::-1]
    left, s, right = np.linalg.svd(y, full_matrices=True)
    return left, right.T, s


def _seen(
    left: Float[np.ndarray, "m m"],
    right: Float[np.ndarray, "k k"],
    observed: Bool[np.ndarray, "m k"],
    blocks: Bool[np.ndarray, "m k"],
    *,
    symmetric: bool,
) -> float:
    """The smallest singular value of M ↦ its observed entries, over M with these coefficients in the two bases."""
    i, j = np.nonzero(np.triu(blocks) if symmetric else blocks)
    basis = np.einsum("ap,bp->abp", left[:, i], right[:, j])
    if symmetric:
        swapped = np.einsum("ap,bp->abp", left[:, j], right[:, i])
        basis = np.where(i == j, basis, (basis + swapped) / np.sqrt(2.0))
    seen = basis[observed]
    return float(np.linalg.svd(seen, compute_uv=False)[-1]) if 0 < seen.shape[1] <= seen.shape[0] else 0.0


def _polish(
    m: Float[np.ndarray, "m k"],
    y: Float[np.ndarray, "m k"],
    observed: Bool[np.ndarray, "m k"],
    given: Float[np.ndarray, "m k"],
) -> tuple[Float[np.ndarray, "m k"], Float[np.ndarray, "m k"]]:
    r"""Newton on the optimality conditions $(AB^T)_\Omega = V_\Omega$, $YB = A$, $Y^TA = B$ with $M = AB^T$.

    The rank is that of the dual (its singular values at 1). Least squares takes the step of least length, which leaves
    the common rotation of A and B alone. Kept only if it brings the conditions nearer to zero.
    """
    left, s, right = np.linalg.svd(m)
    rank = int(np.sum(np.linalg.svd(y, compute_uv=False) > 1 - AT_ONE))
    if np.sum(s > 1e-6 * s[0]) != rank:
        rank = int(np.sum(s > 1e-6 * s[0]))
    root = np.sqrt(s[:rank])
    a, b = left[:, :rank] * root, right[:rank].T * root
    split = np.cumsum([a.size, b.size])

    def unpack(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        full = np.zeros(y.shape)
        full[observed] = z[split[1] :]
        return z[: split[0]].reshape(a.shape), z[split[0] : split[1]].reshape(b.shape), full

    def conditions(z: np.ndarray) -> np.ndarray:
        a, b, y = unpack(z)
        return np.concatenate([(a @ b.T - given)[observed], (y @ b - a).ravel(), (y.T @ a - b).ravel()])

    def derivative(z: np.ndarray, dz: np.ndarray) -> np.ndarray:
        (a, b, y), (da, db, dy) = unpack(z), unpack(dz)
        entries = (da @ b.T + a @ db.T)[observed]
        return np.concatenate([entries, (dy @ b + y @ db - da).ravel(), (dy.T @ a + y.T @ da - db).ravel()])

    z = np.concatenate([a.ravel(), b.ravel(), y[observed]])
    for _ in range(4):
        jacobian = np.column_stack([derivative(z, e) for e in np.eye(len(z))])
        trial = z - np.linalg.lstsq(jacobian, conditions(z), rcond=1e-10)[0]
        if not norm2(conditions(trial)) < norm2(conditions(z)):
            break
        z = trial
    a, b, polished = unpack(z)
    moved = norm2(a @ b.T - m) / norm2(m) + norm2(polished - y) / norm2(y)
    return (a @ b.T, polished) if moved < 1e-2 else (m, y)
