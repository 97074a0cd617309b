r"""Extreme eigenpairs of a symmetric matrix known by its products, with an interval that holds each eigenvalue.

Lanczos from a random start, thick-restarted [@wu2000thick], with full reorthogonalization. A residual tells that *some*
eigenvalue is near a Ritz value, not which one, and the quadratic bound residual²/gap is wrong where two eigenvalues lie
too close to be told apart. What bounds the eigenvalue from above is the random start. With Ritz values $\theta_i$,
off-diagonals $\beta_j$, start $b$ and a unit eigenvector $u$ of $\lambda$,
$$|u^\top b| \prod_i |\lambda - \theta_i| = |u^\top q_{m+1}| \prod_j \beta_j \le \prod_j \beta_j,$$
and $|u^\top b|$ is small with a known small probability only: where the product on the left is too large there is
no eigenvalue [@vandorsselaer2000computing, number not checked]. Through restarts the identity holds with the discarded
Ritz values among the $\theta_i$ and the $\beta_j$ of every cycle. It is the a-posteriori form of the bounds of
[@kuczynski1992estimating], and far sharper, for it uses what the iteration has seen of the spectrum.
"""

import functools
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.special import betaincinv

from ..errors import ProbeError, UsageError
from .objective import Rows, SymmetricOperator, Vector

# A product in floating point is off by a few units of rounding per pass through the model; a Ritz value x'Ax of a unit
# vector inherits that error once. What is seen of it (products that are not symmetric) counts besides.
ROUNDING = 16.0


@dataclass(frozen=True)
class Eigenpairs:
    r"""The k largest (or smallest) eigenvalues, from the extreme one inwards; `vectors` are rows of unit length.

    With probability `confidence` over the start (always, if `None`), eigenvalue i is within `bounds[i]` of `values[i]`
    and no other eigenvalue lies beyond the k-th, where eigenvalues closer together than the bound count once.
    `residuals` is $\|Ax - \theta x\|$: some eigenvalue is that near, always. `norm` is the largest |Ritz value| seen.
    """

    values: np.ndarray
    bounds: np.ndarray
    vectors: Rows
    residuals: np.ndarray
    converged: np.ndarray
    products: int
    reason: str
    confidence: float | None
    norm: float


@dataclass
class Lanczos:
    """Rows, the projected matrix on the host, and what the certificate needs; `sign` turns smallest into largest."""

    operator: SymmetricOperator
    sign: float
    rows: Rows
    matrix: np.ndarray
    filled: int = 0  # rows whose image is known; the next row holds the next vector
    first: int = 0  # where the rows of the present start begin; those before are locked
    coupled: int = 0  # rows kept by the last restart
    log_betas: float = 0.0
    discarded: list[float] = field(default_factory=list)
    beta: float = np.inf  # norm of what is left of the last image; 0 where the space is invariant
    noise: float = 0.0
    norm: float = 0.0
    floor: float = 0.0  # rounding that the products have besides, where they are a difference
    dropped: float | None = None  # norm of the residuals of vectors that were locked though not exact
    products: int = 0
    decomposed: tuple[np.ndarray, np.ndarray] | None = None  # eigenvalues and vectors of the matrix as filled

    def begin(self, rng: np.random.Generator) -> None:
        """A new random start, orthogonal to the rows there are."""
        v = self.operator.asvector(rng.standard_normal(self.operator.size))
        v = v / _norm(v)
        for _ in range(2):
            v = v - (self.rows[: self.filled] @ v) @ self.rows[: self.filled] if self.filled else v
            v = v / _norm(v)
        self.reserve()
        self.rows[self.filled] = v
        self.first = self.coupled = self.filled
        self.log_betas, self.discarded, self.beta = 0.0, [], np.inf

    def reserve(self) -> None:
        """Room for the next row; rows are allocated as they are needed, for most runs are far shorter than allowed."""
        if self.filled >= len(self.rows):
            held, self.rows = self.rows, self.operator.rows(min(2 * len(self.rows), len(self.matrix)))
            self.rows[: len(held)] = held

    def extend(self) -> None:
        """One product, orthogonalized: by the recurrence, then against all rows, again if much of it cancelled."""
        j, t = self.filled, self.matrix
        v = self.rows[j]
        image = self.operator(v)
        self.products += 1
        w = self.sign * image
        alpha = float(v @ w)
        if not np.isfinite(alpha):
            raise ProbeError(
                f"A product with the curvature matrix is not finite (product {self.products}). Check that the loss and "
                "its second derivative are finite at these weights, in this precision."
            )
        known = slice(self.first, j) if j == self.coupled else slice(j - 1, j)
        w = w - alpha * v
        if known.start < known.stop and known.start >= 0:
            w = w - self.operator.asvector(t[j, known]) @ self.rows[known]
        before = _norm(w)
        against = self.rows[: j + 1]
        h = against @ w
        w = w - h @ against
        self.noise = max(self.noise, _norm(h[self.first :]))
        if (beta := _norm(w)) < 0.5 * before:
            w = w - (against @ w) @ against
            beta = _norm(w)
        t[j, j] = alpha
        self.norm = max(self.norm, abs(alpha), before)
        self.filled, self.decomposed = j + 1, None
        if beta <= self.rounding or self.filled == self.operator.size:
            self.beta, self.log_betas = 0.0, -np.inf  # what is left is rounding: the space is invariant
            return
        self.beta = beta
        self.log_betas += np.log(beta)
        self.reserve()
        self.rows[j + 1] = w / beta
        t[j, j + 1] = t[j + 1, j] = beta

    @property
    def rounding(self) -> float:
        """How far rounding can move an eigenvalue."""
        return max(ROUNDING * self.operator.epsilon * self.norm, 2 * self.noise, self.floor)

    def ritz(self) -> tuple[np.ndarray, np.ndarray]:
        """Ritz values in descending order, and their coefficients as columns."""
        if self.decomposed is None or len(self.decomposed[0]) != self.filled:
            values, columns = np.linalg.eigh(self.matrix[: self.filled, : self.filled])
            self.norm = max(self.norm, float(np.max(np.abs(values), initial=0.0)))
            self.decomposed = values[::-1], columns[:, ::-1]
        return self.decomposed

    def own(self) -> np.ndarray:
        """Ritz values of the present start alone, in descending order."""
        if self.first == 0:
            return self.ritz()[0]
        return np.linalg.eigvalsh(self.matrix[self.first : self.filled, self.first : self.filled])[::-1]

    def combine(self, columns: np.ndarray) -> Rows:
        """Vectors with these coefficients, as rows."""
        mixing = self.operator.asvector(np.ascontiguousarray(columns.T).ravel()).reshape(columns.T.shape)
        return mixing @ self.rows[: self.filled]

    def restart(self, k: int) -> None:
        """Keep the locked rows, the best Ritz vectors of the present start (k and half of the rest), and the next."""
        a, b = self.first, self.filled
        keep = min(b - a - 2, k + (b - a - k) // 2)
        values, columns = np.linalg.eigh(self.matrix[a:b, a:b])
        values, columns = values[::-1], columns[:, ::-1]
        self.discarded.extend(values[keep:].tolist())
        padded = np.zeros((b, keep))
        padded[a:] = columns[:, :keep]
        kept, following = self.combine(padded), self.rows[b]
        self.rows[a : a + keep] = kept
        self.rows[a + keep] = following
        end = a + keep
        self.matrix[a:, a:] = 0.0
        self.matrix[range(a, end), range(a, end)] = values[:keep]
        self.matrix[end, a:end] = self.matrix[a:end, end] = self.beta * columns[-1, :keep]
        self.filled, self.coupled, self.decomposed = end, end, None

    def lock(self, k: int) -> None:
        """Keep the k best vectors alone, for another start orthogonal to them."""
        values, columns = self.ritz()
        self.dropped = float(np.linalg.norm([self.dropped or 0.0, *self.residuals()[:k]]))
        self.rows[:k] = self.combine(columns[:, :k])
        self.matrix[:] = 0.0
        self.matrix[range(k), range(k)] = values[:k]
        self.filled, self.decomposed = k, None

    def residuals(self) -> np.ndarray:
        """Norms of the residuals of the Ritz pairs."""
        return np.abs(self.ritz()[1][-1]) * (self.beta if 0 < self.beta < np.inf else 0.0)

    def nothing_new(self, k: int, rtol: float) -> bool:
        """Whether the present start, after an earlier one, found nothing among the k best."""
        last = float(self.ritz()[0][k - 1])
        return self.first >= k and float(self.own()[0]) <= last + rtol * abs(last)

    def log_roots(self, points: np.ndarray) -> np.ndarray:
        """Log of the product over Ritz values of their distances to each point, less the log of the betas."""
        roots = np.concatenate([self.own(), self.discarded])
        with np.errstate(divide="ignore"):
            return np.sum(np.log(np.abs(points[:, None] - roots)), axis=1) - self.log_betas


def _norm(v: Vector) -> float:
    return float(v @ v) ** 0.5


def smallest_component(probability: float, size: int) -> float:
    r"""The t with $P(|u^\top b| < t)$ = `probability`, for b uniform on the unit sphere in `size` dimensions.

    >>> round(smallest_component(0.5, 1), 6), round(smallest_component(0.5, 2) ** 2, 6)
    (1.0, 0.5)
    """
    return 1.0 if size == 1 else float(np.sqrt(betaincinv(0.5, (size - 1) / 2, probability)))


def extreme_eigenpairs(
    operator: SymmetricOperator,
    k: int,
    which: Literal["largest", "smallest"] = "largest",
    *,
    rng: np.random.Generator,
    rtol: float | np.ndarray = 1e-2,
    confidence: float = 0.95,
    max_products: int | None = None,
    max_basis: int | None = None,
    copies: bool = False,
    floor: float = 0.0,
) -> Eigenpairs:
    r"""The k largest or smallest eigenvalues, each within `rtol` of its size, or of a hundredth of the norm if larger.

    A Krylov space of one start holds one vector per distinct eigenvalue: one of multiplicity two appears once, unless
    `copies` asks for new starts until none finds another beyond the k-th (at about the cost of a second run).
    At most `max_basis` vectors are held; by default as many as fit into 2 GB of float64. `floor` is the absolute error
    of a product, where it is more than rounding of the result (a difference of two matrices).

    >>> a = np.diag(np.arange(100.0))
    >>> pairs = extreme_eigenpairs(SymmetricOperator(a.__matmul__, 100, 2e-16), 2, rng=np.random.default_rng(0))
    >>> bool(np.all(np.abs(pairs.values - [99, 98]) <= pairs.bounds)), pairs.products < 50
    (True, True)
    """
    n = operator.size
    if not 1 <= k <= n:
        raise UsageError(f"k must be from 1 to the size of the matrix, {n}; got {k}.")
    rtol = np.broadcast_to(np.asarray(rtol, dtype=float), (k,))
    room = min(n, max(k + 12, min(3 * k + 60, int(2.5e8 // n)) if max_basis is None else max_basis))
    limit = 10 * (k + 20) if max_products is None else max_products
    sign = 1.0 if which == "largest" else -1.0
    space = Lanczos(operator, sign, operator.rows(min(2 * k + 12, room + 1)), np.zeros((room + 1,) * 2), floor=floor)
    space.begin(rng)
    failure = (1 - confidence) / (2 if copies else 1)
    check, seen, settled = k, None, False
    while not settled and space.products < limit:
        space.extend()
        whole = space.beta == 0 and space.filled == n
        if whole or (space.filled >= k and (space.products >= check or space.beta == 0)):
            slack = _slack(space, k, rtol, failure, residual=0.1 if copies else 1.0)
            if slack >= 0:
                settled = whole or not copies or space.nothing_new(k, float(rtol[-1]))
                if not settled:
                    space.lock(k)
                    space.begin(rng)
                    failure, seen = failure / 2, None
                    continue
            check, seen = _next_check(space.products, slack, seen), (space.products, slack)
        if space.beta == 0 and not settled:
            space.begin(rng)
        elif space.filled == room and not settled:
            space.restart(k)
    return _pairs(space, k, rtol, None if space.beta == 0 and not copies else confidence, failure, settled)


def _next_check(products: int, slack: float, seen: tuple[int, float] | None) -> int:
    """Half way to where the certificate will be reached, judging from the last two times."""
    if seen is None or not np.isfinite(slack) or slack <= seen[1]:
        return products + 1
    rate = (slack - seen[1]) / (products - seen[0])
    return products + min(max(1, int(-slack / rate / 2)), 4)


def _tolerances(values: np.ndarray, space: Lanczos, rtol: np.ndarray) -> np.ndarray:
    relative = rtol[: len(values)] * np.maximum(np.abs(values), 0.01 * space.norm)
    return np.maximum(relative, space.rounding)


@functools.lru_cache(maxsize=64)
def _log_components(k: int, failure: float, size: int) -> np.ndarray:
    r"""Log of the |u'b| that eigenvalue i is trusted to exceed; the failures add up to `failure`.

    The k-th converges last and gets the largest share. Shares must not fall with i: an eigenvalue of index j that is
    missed lies above some Ritz value i ≤ j, since those before it may share a Ritz value.
    """
    shares = 1.0 / np.arange(k, 0, -1) ** 2
    return np.log([smallest_component(p, size) for p in failure * shares / shares.sum()])


def _excluded(space: Lanczos, values: np.ndarray, widths: np.ndarray, failure: float) -> tuple[np.ndarray, np.ndarray]:
    """By how much (log) an eigenvalue is excluded at values + widths, and at values - widths.

    Between two Ritz values the log of the product is concave: excluded at both ends of a gap, excluded all through it.
    """
    logs = _log_components(len(values), failure, space.operator.size - space.first)
    points = np.stack([values + widths, values - widths])
    above, below = space.log_roots(points.ravel()).reshape(points.shape)
    below[..., :-1] += logs[1:]
    below[..., -1] = np.inf  # what lies below the last is not asked for
    return above + logs, below


def _apart(values: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Whether anything between a value and the one above it is out of tolerance of both."""
    return values + widths < np.append(np.inf, values - widths)[:-1]


def _slack(space: Lanczos, k: int, rtol: np.ndarray, failure: float, residual: float) -> float:
    """How far (log) eigenvalues out of tolerance are from excluded, and residuals from `residual` times tolerance."""
    if space.beta == 0:
        return np.inf
    values = space.ritz()[0][:k]
    widths = _tolerances(values, space, rtol)
    above, below = _excluded(space, values, widths, failure)
    excluded = np.min(np.minimum(above, np.append(np.inf, below)[:-1])[_apart(values, widths)], initial=np.inf)
    return float(min(excluded, np.min(np.log(residual * widths) - np.log(space.residuals()[:k] + 1e-300))))


def _bounds(space: Lanczos, values: np.ndarray, rtol: np.ndarray, failure: float) -> tuple[np.ndarray, np.ndarray]:
    """How far each eigenvalue may lie from its Ritz value, and which are certain to `rtol`."""
    if space.beta == 0:
        return np.zeros(len(values)), np.full(len(values), True)
    full = _tolerances(values, space, rtol)
    widths = full * 2.0 ** np.arange(-50.0, 51.0)[:, None]
    gaps = np.append(np.inf, -np.diff(space.ritz()[0]))[: len(values) + 1]
    gaps = np.append(gaps, np.full(len(values) + 1 - len(gaps), np.inf))
    above, below = _excluded(space, values, widths, failure)
    up = np.min(np.where((above >= 0) & (widths < gaps[:-1]), widths, np.inf), axis=0)
    down = np.min(np.where((below >= 0) & (widths < gaps[1:]), widths, np.inf), axis=0)
    apart = _apart(values, full)
    up = np.where(apart, up, np.minimum(up, full))
    down = np.where(np.append(apart[1:], False), down, np.minimum(down, full))
    # There is an eigenvalue within the residual. If that is short of the next Ritz value, it is the one not excluded;
    # if not, it may be any: rounding may be bringing in another copy of a multiple eigenvalue.
    residuals = space.residuals()[: len(values)]
    own = np.where(residuals < 0.5 * np.minimum(gaps[:-1], gaps[1:]), 0.0, residuals)
    converged = np.logical_and.accumulate((np.maximum(up, own) <= full) & np.append(True, (down <= full)[:-1]))
    near = np.maximum(np.where(down <= full, np.maximum(up, down), up), own)
    return np.where(converged, near, np.maximum(_ceiling(values, up) - values, own)), converged


def _ceiling(values: np.ndarray, up: np.ndarray) -> np.ndarray:
    """The most each eigenvalue may be: no more than the one above it may be."""
    return np.minimum.accumulate(values + up)


def _pairs(
    space: Lanczos, k: int, rtol: np.ndarray, confidence: float | None, failure: float, settled: bool
) -> Eigenpairs:
    values, columns = (part[..., : min(k, space.filled)] for part in space.ritz())
    bounds, converged = _bounds(space, values, rtol, failure)
    if space.dropped is not None:  # the locked pairs were certified to their tolerance by an earlier start
        bounds = np.maximum(bounds, _tolerances(values, space, rtol)) + space.dropped
    missing = k - len(values)
    residuals = space.residuals()[: len(values)]
    return Eigenpairs(
        values=np.append(space.sign * values, np.full(missing, np.nan)),
        bounds=np.append(bounds + space.rounding, np.full(missing, np.inf)),
        vectors=space.combine(columns),
        residuals=np.append(residuals + space.rounding, np.full(missing, np.inf)),
        converged=np.append(converged & (settled or space.dropped is None), np.full(missing, False)),
        products=space.products,
        reason=_reason(space, settled, rtol, confidence),
        confidence=confidence,
        norm=space.norm,
    )


def _reason(space: Lanczos, settled: bool, rtol: np.ndarray, confidence: float | None) -> str:
    if not settled:
        return f"stopped after {space.products} products, short of a tolerance of {np.min(rtol):.2g}"
    if confidence is None:
        return f"exact up to rounding: the space of {space.filled} vectors is invariant"
    return (
        f"within a tolerance of {np.min(rtol):.2g} after {space.products} products; but for a random start of "
        f"probability {1 - confidence:.2g}, no eigenvalue beyond was missed"
    )


def beyond(space: Lanczos, failure: float) -> tuple[float, float]:
    """How far at most the spectrum goes on below and above the Ritz values, but for probability `failure`."""
    if space.beta == 0:
        return space.rounding, space.rounding
    log = np.log(smallest_component(failure / 2, space.operator.size))
    values = space.ritz()[0]
    widths = max(space.norm, space.rounding) * 2.0 ** np.arange(-50.0, 51.0)
    low, high = (space.log_roots(end + side * widths) + log >= 0 for end, side in ((values[-1], -1), (values[0], 1)))
    return float(widths[np.argmax(low)]) + space.rounding, float(widths[np.argmax(high)]) + space.rounding
