r"""The point of a polyhedron $\{A w + F b \ge 1\}$ with the shortest w: the programme behind every $\ell_2$ margin.

Found by Lawson and Hanson's non-negative least squares (a finite method: it ends at the exact support), then solved
once more on the support alone, and certified without trusting either step. [@lawson1974solving, ch. 23]
"""

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from ._arrays import EPS, norm2

# A hull closer to the origin than this, relative to its longest row, contains it: the data are not separable.
TOUCHES = 1e-11
# Constraints with less slack than this (constraint value 1) may be active at the true solution.
NEARLY_ACTIVE = 1e-7
# Up to this many nearly active, dependent constraints the exact Lipschitz constant is found by trying all subsets.
SUBSETS = 10


@dataclass(frozen=True)
class LeastDistance:
    """Weights, free coordinates and multipliers (one per row), with their residuals and error bounds."""

    a: Float[np.ndarray, "n d"]
    free: Float[np.ndarray, "n f"]
    w: Float[np.ndarray, " d"]
    b: Float[np.ndarray, " f"]
    multipliers: Float[np.ndarray, " n"]

    @property
    def slack(self) -> Float[np.ndarray, " n"]:
        """How far each constraint is from being active."""
        return self.a @ self.w + self.free @ self.b - 1.0

    @property
    def active(self) -> Bool[np.ndarray, " n"]:
        """Constraints that are, or may be, active at the true solution."""
        return (self.slack <= NEARLY_ACTIVE) | (self.multipliers > 0)

    def certificate(self) -> dict[str, float]:
        """Relative residuals of the Karush–Kuhn–Tucker conditions and of the duality gap."""
        alpha, size = self.multipliers, float(self.w @ self.w)
        gap = 0.5 * norm2(self.w - self.a.T @ alpha) ** 2 + abs(float(alpha @ self.slack))
        return {
            "feasibility": max(0.0, -float(self.slack.min())),
            "stationarity": norm2(self.w - self.a.T @ alpha) / size**0.5,
            "balance": norm2(self.free.T @ alpha) / float(np.sum(np.abs(alpha))),
            "dual_feasibility": max(0.0, -float(alpha.min())) / float(alpha.max()),
            "complementarity": float(np.max(np.abs(alpha * self.slack))) / float(np.sum(np.abs(alpha))),
            "duality_gap": gap / size,
        }

    def lipschitz(self) -> float:
        r"""How far w moves per unit change of the right-hand side, over every support that can become active.

        The solution is piecewise affine in the right-hand side, with slope $M_S^+$ on the support $S$
        ($M_S = Q^T A_S$, $Q$ a basis of $\ker F_S^T$). If the nearly active rows are independent, $1/\sigma_{\min}$
        of all of them bounds every subset (interlacing); if not, few enough subsets are tried one by one; else
        infinite, and only the (square-root) duality-gap bound is left.
        """
        rows = np.unique(np.hstack([self.a, self.free])[self.active], axis=0)
        d = self.a.shape[1]
        whole = _smallest_singular_value(rows[:, :d], rows[:, d:])
        if whole > 0:
            return 1.0 / whole
        if len(rows) > SUBSETS:
            return np.inf
        values = [
            _smallest_singular_value(rows[list(chosen), :d], rows[list(chosen), d:])
            for size in range(1 + self.free.shape[1], min(len(rows), rows.shape[1]) + 1)
            for chosen in itertools.combinations(range(len(rows)), size)
        ]
        return 1.0 / min(v for v in values if v > 0)

    def error(self) -> float:
        r"""A bound on $\|w - w^\star\|_2$.

        With $\alpha_+ \ge 0$, w is the exact projection of $g = w - A^T\alpha_+$ for the right-hand side attained on
        the support, so $\|w - w^\star\| \le \|g\| + \mathrm{Lip}\,\|\delta\|$; valid while the constraints outside
        `active` stay inactive on the way. Otherwise $\sqrt{2\,\mathrm{gap}}$ by strong convexity.
        """
        alpha, slack = np.maximum(self.multipliers, 0.0), self.slack
        longest = float(np.max(np.linalg.norm(self.a, axis=1)))
        delta = np.where(alpha > 0, slack, np.minimum(slack, 0.0))
        offset = norm2(self.w - self.a.T @ alpha) + longest * norm2(self.free.T @ alpha)
        shrink = max(0.0, -float(slack.min()))
        # Rounding of the residuals themselves: a dot product of d terms near 1.
        delta_norm = norm2(delta) + 4 * EPS * np.sqrt(np.sum(self.active))
        local = offset + self.lipschitz() * delta_norm
        if longest * local < NEARLY_ACTIVE:
            return float(local)
        gap = 0.5 * offset**2 + float(alpha @ np.abs(slack)) + 4 * EPS * float(np.sum(alpha))
        return float(np.sqrt(2 * gap) + shrink * norm2(self.w))

    def multiplier_error(self) -> float:
        """A bound on the distance of the multipliers from the true ones; infinite where they may not be unique."""
        rows = np.hstack([self.a, self.free])[self.active]
        sigma = float(np.linalg.svd(rows, compute_uv=False)[-1]) if len(rows) <= rows.shape[1] else 0.0
        if sigma <= len(rows) * EPS * norm2(rows):
            return np.inf
        return (self.error() + norm2(self.w - self.a.T @ self.multipliers)) / sigma

    def condition(self) -> float:
        """Amplification of rounding: Lipschitz constant times the size of the support's rows."""
        lipschitz = self.lipschitz()
        return float(lipschitz * np.linalg.norm(self.a[self.multipliers > 0], 2)) if np.isfinite(lipschitz) else 1 / EPS


def _smallest_singular_value(a: Float[np.ndarray, "s d"], free: Float[np.ndarray, "s f"]) -> float:
    """Of $Q^T A$ with Q a basis of $\\ker F^T$; zero if its rows are numerically dependent."""
    reduced = _reduce(free).T @ a
    if reduced.shape[0] == 0 or reduced.shape[0] > a.shape[1]:
        return 0.0
    s = np.linalg.svd(reduced, compute_uv=False)
    return float(s[-1]) if s[-1] > max(reduced.shape) * 100 * EPS * s[0] else 0.0


def _reduce(free: Float[np.ndarray, "s f"]) -> Float[np.ndarray, "s r"]:
    if free.shape[1] == 0:
        return np.eye(len(free))
    return np.linalg.qr(free, mode="complete")[0][:, free.shape[1] :]


def nearest_point_weights(a: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, " n"], float]:
    """Convex weights of the point of the rows' hull nearest to the origin, and its relative distance."""
    from scipy.optimize import nnls

    scale = float(np.max(np.linalg.norm(a, axis=1)))
    if scale == 0.0:
        return np.full(len(a), 1.0 / len(a)), 0.0
    stacked = np.vstack([a.T / scale, np.ones(len(a))])
    target = np.zeros(a.shape[1] + 1)
    target[-1] = 1.0
    p, _ = nnls(stacked, target, maxiter=30 * max(stacked.shape))
    p /= p.sum()
    return p, norm2(a.T @ p) / scale


def _on_support(
    a: Float[np.ndarray, "s d"], free: Float[np.ndarray, "s f"]
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " f"], Float[np.ndarray, " s"]]:
    """The shortest w with A w + F b = 1, its b and its multipliers."""
    q, one = _reduce(free), np.ones(len(a))
    inverse = np.linalg.pinv(q.T @ a, rcond=1e-14)
    w = inverse @ (q.T @ one)
    w = w + inverse @ (q.T @ (one - a @ w))
    b = free.T @ (one - a @ w) / len(a) if free.shape[1] else np.zeros(0)  # F is one column of ±1
    alpha = np.linalg.lstsq(np.hstack([a, free]).T, np.concatenate([w, np.zeros(free.shape[1])]), rcond=None)[0]
    return w, b, alpha


def least_distance(
    a: Float[np.ndarray, "n d"], free: Float[np.ndarray, "n f"], support: Int[np.ndarray, " s"]
) -> LeastDistance:
    """Solve on a support, exchanging one row at a time until multipliers are positive and all rows satisfied."""
    chosen = list(map(int, support))
    longest = float(np.max(np.linalg.norm(a, axis=1)))
    for _ in range(4 * len(a)):
        w, b, alpha = _on_support(a[chosen], free[chosen])
        if alpha.min() < 1e-13 * alpha.max() and len(chosen) > 1 + free.shape[1]:
            chosen.pop(int(np.argmin(alpha)))
            continue
        slack = a @ w + free @ b - 1.0
        slack[chosen] = np.inf
        worst = int(np.argmin(slack))
        if slack[worst] > -1e3 * EPS * (1.0 + longest * norm2(w)):  # no more than rounding
            break
        make_room(np.hstack([a, free]), chosen, alpha, worst)
        chosen.append(worst)
    multipliers = np.zeros(len(a))
    multipliers[chosen] = alpha
    return LeastDistance(a, free, w, b, multipliers)


def make_room(rows: Float[np.ndarray, "n d"], chosen: list[int], alpha: Float[np.ndarray, " s"], entering: int) -> None:
    """Drop from `chosen` the example that leaves when a dependent row enters: the first whose multiplier reaches 0."""
    combination, *_ = np.linalg.lstsq(rows[chosen].T, rows[entering], rcond=None)
    if norm2(rows[chosen].T @ combination - rows[entering]) > 1e-10 * norm2(rows[entering]):
        return
    positive = combination > 1e-12
    if positive.any():
        ratio = np.where(positive, alpha / np.where(positive, combination, 1.0), np.inf)
        chosen.pop(int(np.argmin(ratio)))
