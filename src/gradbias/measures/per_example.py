r"""Sums over per-example gradients, streamed in chunks, and the statistics made of them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from . import rank
from .objective import AbstractObjective

ROWS = 64  # of float64 copies of per-example gradients held at once


def each_gradient(objective: AbstractObjective) -> Iterator[np.ndarray]:
    """Gradients of single examples as float64, a few rows at a time."""
    for chunk in objective.per_example_gradients():
        for start in range(0, len(chunk), ROWS):
            yield objective.asnumpy(chunk[start : start + ROWS])


def centred_gram(objective: AbstractObjective) -> tuple[np.ndarray, float]:
    """$(g_i - \\bar g) \\cdot (g_j - \\bar g)$ for all pairs, two chunks at a time, and the mean of $\\|g_i\\|^2$."""
    n = objective.examples
    gram = np.zeros((n, n))
    start = 0
    while start < n:
        rest = objective.subset(np.arange(start, n)).per_example_gradients()
        first, at = next(rest), start
        held, chunk = len(first), first
        while True:
            block = _products(objective, first, chunk)
            gram[start : start + held, at : at + len(chunk)] = block
            gram[at : at + len(chunk), start : start + held] = block.T
            at += len(chunk)
            if at >= n:
                break
            chunk = next(rest)
        start += held
    size = float(np.trace(gram)) / n
    gram -= gram.mean(axis=0)
    gram -= gram.mean(axis=1)[:, None]
    return (gram + gram.T) / 2, size


def _products(objective: AbstractObjective, a: Any, b: Any, columns: int = 1 << 15) -> np.ndarray:
    total = np.zeros((len(a), len(b)))
    for start in range(0, objective.size, columns):
        part = slice(start, start + columns)
        total += objective.asnumpy(a[:, part]) @ objective.asnumpy(b[:, part]).T
    return total


def simple_noise_scale(
    squares: Float[np.ndarray, " n"], inner: Float[np.ndarray, " n"]
) -> tuple[tuple[float, float, float], Float[np.ndarray, "n 2"]]:
    r"""Unbiased $\operatorname{tr}\Sigma$ and $\|g\|^2$ of a population, their ratio, and the two without each example.

    From $\|g_i\|^2$ and $g_i \cdot \bar g$: $\operatorname{tr}\Sigma = \frac{n}{n-1} (\overline{\|g_i\|^2} -
    \|\bar g\|^2)$ and $\|g\|^2 = \|\bar g\|^2 - \operatorname{tr}\Sigma / n$.

    >>> g = np.array([[1.0, 1.0], [3.0, 1.0]])
    >>> simple_noise_scale((g**2).sum(axis=1), g @ g.mean(axis=0))[0][:2]
    (2.0, 4.0)
    """
    n, mean, square = len(squares), float(np.mean(squares)), float(np.mean(inner))
    trace = n / (n - 1) * (mean - square)
    signal = square - trace / n
    left = np.full((n, 2), np.nan)
    if n > 2:
        means = (n * mean - squares) / (n - 1)
        norms = (n**2 * square - 2 * n * inner + squares) / (n - 1) ** 2
        left[:, 0] = (n - 1) / (n - 2) * (means - norms)
        left[:, 1] = norms - left[:, 0] / (n - 1)
    return (trace, signal, trace / signal if signal else np.inf), left


def jackknife(values: np.ndarray) -> float:
    """Standard error from the values without each example."""
    n = len(values)
    return float(np.sqrt((n - 1) / n * np.sum((values - values.mean()) ** 2)))


def entropy_rank(values: Float[np.ndarray, " m"], distance: float) -> tuple[float, float]:
    r"""$e^{H(p)}$ of eigenvalues as shares p of their sum, and how far it can be off for p off by `distance` in all.

    Negative values, which are rounding, are not counted: the caller's `distance` covers them.

    >>> entropy_rank(np.array([2.0, 2.0]), 0.0)
    (2.0, 0.0)
    """
    found = rank.entropy_rank(values[values > 0])
    return found, rank.entropy_rank_change(found, len(values), distance)


def hill(sample: Float[np.ndarray, " n"], k: int) -> float:
    r"""Tail index from the k largest of a positive sample: $(k - 1) / \sum_{i \le k} \log (x_{(i)} / x_{(k+1)})$.

    With k − 1 for k it is without bias for a Pareto sample. Infinite where the largest are all equal.
    [@hill1975simple, number not checked]

    >>> round(hill(np.exp([0.0, 1.0, 2.0, 3.0]), 3), 12)
    0.333333333333
    """
    top = np.sort(sample)[::-1][: k + 1]
    total = float(np.sum(np.log(top[:k] / top[k])))
    return (k - 1) / total if total > 0 else np.inf


def tail_bound(k: int) -> float:
    """How far, relative to Hill's estimate, the index of an exact power law can be at 95 % confidence.

    >>> round(tail_bound(400), 2)
    0.1
    """
    from scipy import stats

    # α Σ log (x_(i) / x_(k+1)) is the sum of k standard exponential variables: half a χ² of 2k degrees of freedom.
    low, high = stats.chi2.ppf([0.025, 0.975], 2 * k) / (2 * (k - 1))
    return float(max(1 - low, high - 1))
