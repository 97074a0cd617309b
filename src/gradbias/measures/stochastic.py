r"""Traces, norms and spectral densities of a symmetric matrix known by its products, with Monte Carlo errors that hold.

A quadratic form $z^\top B z$ of a random direction z is an unbiased sample of a trace. Its errors are far from normal
where few eigenvalues make up the trace, and there the usual t interval of n samples covers too rarely: 83 % of the
time instead of 95 % with 6 samples, 88 % with 16, for a matrix of rank one (the worst case, a multiple of $\chi^2_1$).
So the largest eigenvalues are taken out first by a sketch [@meyer2021hutch], and the t interval is widened by
$1 + 12/n$; for rank one, 9 would do at a number of samples fixed beforehand. All intervals are at 95 %.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import fft, stats

from ..errors import UsageError
from .krylov import ROUNDING, Lanczos, beyond
from .objective import Rows, SymmetricOperator, Vector

CONFIDENCE = 0.95
PILOT = 16  # samples that fix how many are drawn


@dataclass(frozen=True)
class Sampled:
    """A number with the half-width of its 95 % interval, and the products spent."""

    value: float
    bound: float
    samples: int
    products: int


def half_width(samples: np.ndarray, degrees: int | None = None) -> np.ndarray:
    """Half-width of a 95 % interval for the mean along the first axis, which holds for quadratic forms of any spectrum.

    `degrees` of freedom of a spread that was fixed by the first `degrees + 1` samples [@stein1945two].

    >>> float(half_width(np.array([1.0, 1.0, 1.0])))
    0.0
    """
    n = len(samples)
    spread = samples.std(axis=0, ddof=1)
    if degrees is not None:
        spread = np.maximum(spread, samples[: degrees + 1].std(axis=0, ddof=1))
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, degrees or n - 1)
    return np.asarray((1 + 12 / n) * quantile * spread / np.sqrt(n))


def trace(
    operator: SymmetricOperator,
    *,
    rng: np.random.Generator,
    rtol: float = 0.05,
    sketch: int = 10,
    max_products: int = 150,
    floor: float = 0.0,
) -> Sampled:
    r"""$\operatorname{tr} A$ to `rtol` if `max_products` allow; the interval holds in either case.

    $\operatorname{tr} Q^\top A Q$ exactly, for the span Q of `sketch` random images of A; the rest by samples.
    `floor`: error of a product of a unit vector where it is more than rounding; those of the directions add at random.

    >>> a = np.diag([3.0, 2.0, 1.0])
    >>> sampled = trace(SymmetricOperator(a.__matmul__, 3, 2e-16), rng=np.random.default_rng(0))
    >>> round(sampled.value, 12), sampled.bound < 1e-12
    (6.0, True)
    """
    sampled = _quadratic("trace", operator, rng, rtol, (sketch, max_products))
    return dataclasses.replace(sampled, bound=sampled.bound + floor * operator.size**0.5)


def squared_frobenius(
    operator: SymmetricOperator,
    *,
    rng: np.random.Generator,
    rtol: float = 0.05,
    sketch: int = 10,
    max_products: int = 150,
) -> Sampled:
    r"""$\|A\|_F^2 = \sum_i \lambda_i^2$: $2 \|AQ\|_F^2 - \|Q^\top A Q\|_F^2$ exactly, the rest by samples."""
    return _quadratic("squares", operator, rng, rtol, (sketch, max_products))


def _quadratic(
    form: Literal["trace", "squares"],
    operator: SymmetricOperator,
    rng: np.random.Generator,
    rtol: float,
    limits: tuple[int, int],
) -> Sampled:
    sketch, max_products = limits
    if max_products < 2 * sketch + PILOT:
        raise UsageError(f"max_products must be at least twice sketch and {PILOT}, {2 * sketch + PILOT}.")
    n = operator.size
    whole = n <= max(2 * sketch + PILOT, max_products // 2)  # few more products give every column
    q, spent = (_columns(operator), 0) if whole else _range(operator, sketch, rng)
    known, norm = 0.0, 0.0
    for row in q:
        image = operator(row)
        inside = float(row @ image)
        squares = float(image @ image)
        norm = max(norm, squares**0.5)
        known += inside if form == "trace" else 2 * squares - _square(q @ image)
    spent += len(q)
    # A sum of n products, each off by a few units of rounding of the norm; errors of either sign add as a random walk.
    rounding = (
        ROUNDING * operator.epsilon * max(abs(known), norm if form == "trace" else norm**2) * max(1.0, len(q) ** 0.5)
    )
    if len(q) == n:
        return Sampled(known, rounding, 0, spent)
    samples = two_stage(
        lambda: _sample(form, operator, q, rng), lambda mean: rtol * abs(known + float(mean)), max_products - spent
    )
    bound = float(half_width(samples, PILOT - 1)) + rounding
    return Sampled(known + float(samples.mean()), bound, len(samples), spent + len(samples))


def two_stage(sample: Callable[[], Any], target: Callable[[np.ndarray], float], most: int) -> np.ndarray:
    """Samples along a first axis: as many as the pilot says are needed for half-widths of `target(mean)`.

    The number is fixed once, by the pilot, whose spread the interval then uses with its degrees of freedom
    [@stein1945two]: stopping as soon as the interval looks short enough would cover too rarely.
    """
    pilot = np.array([sample() for _ in range(PILOT)])
    count = np.arange(PILOT, max(PILOT, most) + 1)
    spread = float(np.max(pilot.std(axis=0, ddof=1)))
    wide = (1 + 12 / count) * stats.t.ppf((1 + CONFIDENCE) / 2, PILOT - 1) * spread / np.sqrt(count)
    met = wide <= target(pilot.mean(axis=0))
    enough = int(count[np.argmax(met)]) if met.any() else int(count[-1])
    return np.concatenate([pilot, np.array([sample() for _ in range(enough - PILOT)]).reshape(-1, *pilot.shape[1:])])


def _square(v: Vector) -> float:
    return float(v @ v)


def _direction(operator: SymmetricOperator, q: Rows, rng: np.random.Generator) -> Vector:
    """A random direction orthogonal to the rows q, of squared length equal to the dimension there."""
    z = operator.asvector(rng.standard_normal(operator.size))
    for _ in range(2):
        z = z - (q @ z) @ q if len(q) else z
    return z * ((operator.size - len(q)) / _square(z)) ** 0.5


def _sample(form: str, operator: SymmetricOperator, q: Rows, rng: np.random.Generator) -> float:
    z = _direction(operator, q, rng)
    image = operator(z)
    if form == "trace":
        return float(z @ image)
    return _square(image - (q @ image) @ q if len(q) else image)


def _columns(operator: SymmetricOperator) -> Rows:
    rows = operator.rows(operator.size)
    for i in range(operator.size):
        rows[i] = operator.asvector(np.eye(operator.size)[i])
    return rows


def _range(operator: SymmetricOperator, count: int, rng: np.random.Generator) -> tuple[Rows, int]:
    """Orthonormal rows that span random images; fewer than `count` where the rank is lower."""
    rows, filled = operator.rows(count), 0
    for _ in range(count):
        image = operator(operator.asvector(rng.standard_normal(operator.size)))
        before = _square(image) ** 0.5
        for _ in range(2):
            image = image - (rows[:filled] @ image) @ rows[:filled] if filled else image
        left = _square(image) ** 0.5
        if left > ROUNDING * operator.epsilon**0.5 * before:
            rows[filled] = image / left
            rows[filled] = rows[filled] - (rows[:filled] @ rows[filled]) @ rows[:filled] if filled else rows[filled]
            rows[filled] = rows[filled] / _square(rows[filled]) ** 0.5
            filled += 1
    return rows[:filled], count


@dataclass(frozen=True)
class Density:
    r"""$\frac1n \sum_i \mathcal N(x; \lambda_i, \sigma^2)$ on `grid`, and the nodes and weights (probes, steps) of it.

    The density at one point of the grid is within `bound` with probability 95 %.
    """

    grid: np.ndarray
    density: np.ndarray
    bound: np.ndarray
    sigma: float
    nodes: np.ndarray
    weights: np.ndarray
    extremes: np.ndarray
    """The smallest and the largest eigenvalue, and below them how far off each may be (95 % for both together)."""
    exact: bool
    products: int

    def fraction(self, low: float, high: float) -> tuple[float, float]:
        """The part of all eigenvalues in [low, high], smoothed as the density is; with its bound."""

        def within(x: np.ndarray) -> np.ndarray:
            return stats.norm.cdf((high - x) / self.sigma) - stats.norm.cdf((low - x) / self.sigma)

        each = np.sum(within(self.nodes) * self.weights, axis=1)
        bias = (
            0.0 if self.exact else 2 * _beyond(lambda x: within(x)[:, None], self.extremes, 2 * self.nodes.shape[1])[0]
        )
        return float(each.mean()), float(half_width(each) + bias)


def spectral_density(
    operator: SymmetricOperator,
    *,
    rng: np.random.Generator,
    probes: int = 6,
    steps: int = 30,
    sigma: float | None = None,
    points: int = 256,
) -> Density:
    r"""The density of eigenvalues, smoothed by a Gaussian of width `sigma`, by stochastic Lanczos quadrature.

    Every probe gives Gauss quadrature nodes and weights for the spectrum [@ubaru2017fast; @ghorbani2019investigation].
    The bound is of Monte Carlo, and of quadrature: twice the distance from the Gaussian to polynomials of degree
    2 steps - 1, told from its Chebyshev coefficients on the range of the nodes. `sigma` is by default the range divided
    by `steps`: much less cannot be resolved with that many.
    """
    if probes < 2 or steps < 2:
        raise UsageError(f"A density with an error needs two probes of two steps; got {probes} of {steps}.")
    spaces = [_krylov(operator, min(steps, operator.size), rng) for _ in range(probes)]
    runs = [(values, columns[0] ** 2) for values, columns in (space.ritz() for space in spaces)]
    spent, longest = sum(len(nodes) for nodes, _ in runs), max(len(nodes) for nodes, _ in runs)
    nodes, weights = (np.array([np.pad(r[i], (0, longest - len(r[i])), mode="edge") for r in runs]) for i in (0, 1))
    for row, (own, _) in zip(weights, runs, strict=True):
        row[len(own) :] = 0.0
    low, high = float(nodes.min()), float(nodes.max())
    scale = max(abs(low), abs(high), float(np.finfo(float).tiny))
    width = max(high - low, ROUNDING * operator.epsilon * scale) / steps if sigma is None else sigma
    grid = np.linspace(low - 4 * width, high + 4 * width, points)
    each = np.array([_smoothed(grid, n, width) @ w for n, w in zip(nodes, weights, strict=True)])
    extremes = _extremes(spaces)
    exact = longest < steps or longest == operator.size  # the Krylov space was invariant: no quadrature error
    bias = 0.0 if exact else 2 * _beyond(lambda x: _smoothed(x, grid, width), extremes, 2 * steps)
    bound = half_width(each) + bias + ROUNDING * operator.epsilon * each.max()
    return Density(grid, each.mean(axis=0), bound, width, nodes, weights, extremes, exact, spent)


def _smoothed(grid: np.ndarray, nodes: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-0.5 * ((grid[:, None] - nodes) / width) ** 2) / (width * np.sqrt(2 * np.pi))


def _beyond(functions: Callable[[np.ndarray], np.ndarray], extremes: np.ndarray, degree: int) -> np.ndarray:
    """Sums of the Chebyshev coefficients of functions from `degree` on: they bound the distance to polynomials."""
    low, high = extremes[0] + np.array([-1.0, 1.0]) * extremes[1]
    angles = np.pi * (np.arange(8 * degree) + 0.5) / (8 * degree)
    points = (low + high) / 2 + (high - low) / 2 * np.cos(angles)
    coefficients = fft.dct(functions(points), axis=0) / (8 * degree)
    return np.abs(coefficients[degree:]).sum(axis=0)


def _krylov(operator: SymmetricOperator, steps: int, rng: np.random.Generator) -> Lanczos:
    """The Krylov space of one random start."""
    space = Lanczos(operator, 1.0, operator.rows(steps + 1), np.zeros((steps + 1,) * 2))
    space.begin(rng)
    while space.filled < steps and space.beta > 0:
        space.extend()
    return space


def _extremes(spaces: list[Lanczos]) -> np.ndarray:
    """The smallest and the largest eigenvalue, (2, 2): best Ritz value and how far beyond it may lie."""
    failure = (1 - CONFIDENCE) / len(spaces)
    ends = np.array([[s.ritz()[0][-1], s.ritz()[0][0]] for s in spaces])
    outer = ends + np.array([[-1.0, 1.0]]) * np.array([beyond(s, failure) for s in spaces])
    best = np.array([ends[:, 0].min(), ends[:, 1].max()])
    limit = np.array([min(outer[:, 0].max(), best[0]), max(outer[:, 1].min(), best[1])])
    return np.stack([best, np.abs(limit - best) + max(s.rounding for s in spaces)])
