"""Exact averages over Gaussian data of the minimum-norm least-squares fit, for every finite n and d."""

import math

import numpy as np

from ..claim import Prediction
from ._arrays import EPS, Scalar


def _require_sizes(n: int, d: int, scale: Scalar, name: str) -> None:
    if n < 1 or d < 1 or not (math.isfinite(scale) and scale >= 0):
        raise ValueError(
            f"Sizes must be positive and {name} finite and non-negative; got n={n}, d={d}, {name}={scale}."
        )


def min_norm_variance(n: int, d: int, noise: Scalar) -> Prediction:
    r"""The excess risk that label noise causes in the minimum-norm fit, averaged over Gaussian inputs.

    $$\mathbb{E}\,\|X^+\varepsilon\|^2 = \sigma^2\, \frac{\min(n, d)}{|d - n| - 1}, \qquad |d - n| \ge 2,$$

    for $X \in \mathbb{R}^{n \times d}$ with independent standard normal entries and independent noise of standard
    deviation $\sigma$ = `noise`. The value is a number. At $|d - n| \le 1$ the expectation is infinite: the peak of
    double descent. [@hastie2022surprises, §3 has the limit; @breiman1983many, eq. (2.1); numbers not checked]

    The certificate compares $\mathbb{E}[1/\chi^2_\nu]$, $\nu = |d-n|+1$ (the law of one inverse diagonal element of a
    Wishart matrix), with its integral.

    Raises `ValueError` where the expectation is infinite, or for sizes below 1 or a negative noise.

    >>> float(min_norm_variance(10, 20, 1.0).value)
    1.1111111111111112
    """
    _require_sizes(n, d, noise, "noise")
    if abs(d - n) <= 1:
        raise ValueError(
            f"The variance of the minimum-norm fit is infinite for |d - n| ≤ 1 (X has tiny singular values too "
            f"often); got n={n}, d={d}. Take |d - n| ≥ 2, or measure a median instead of a mean."
        )
    value = noise**2 * min(n, d) / (abs(d - n) - 1)
    freedom = abs(d - n) + 1
    integral = min(n, d) * _moment_ratio(freedom - 3, freedom - 1)
    closed = min(n, d) / (abs(d - n) - 1)
    return Prediction(np.asarray(value), {"quadrature": abs(integral - closed) / closed}, 4 * EPS * value)


def _moment_ratio(top: int, bottom: int) -> float:
    r"""$\int s^{a} e^{-s^2/2} ds / \int s^{b} e^{-s^2/2} ds$ by the trapezoidal rule around the peak, on $s = e^r$."""
    # In r the integrands are analytic and decay at both ends, where the rule converges geometrically.
    peak, width = 0.5 * math.log(bottom + 1.0), 1.0 / math.sqrt(2.0 * (bottom + 1.0))
    r = peak + width * np.linspace(-120.0, 12.0, 12001) if bottom < 40 else peak + width * np.linspace(-14, 14, 1201)
    logs = bottom * r + r - 0.5 * np.exp(2.0 * r)
    weight = np.exp(logs - logs.max())
    return float(np.sum(weight * np.exp((top - bottom) * r)) / np.sum(weight))


def min_norm_bias(n: int, d: int, signal: Scalar) -> Prediction:
    r"""The excess risk of the noiseless minimum-norm fit: the part of the signal that n examples cannot see.

    $$\mathbb{E}\,\|(I - X^+X)\, b\|^2 = \max(0,\, 1 - n/d)\; \|b\|^2,$$

    for $X \in \mathbb{R}^{n \times d}$ with independent standard normal entries and `signal` $= \|b\|_2$. The value is
    a number. For n < d the certificate integrates the law of $\|X^+X b\|^2/\|b\|^2$, Beta(n/2, (d−n)/2).
    [@hastie2022surprises, §3, number not checked]

    Raises `ValueError` for sizes below 1 or a negative signal.

    >>> float(min_norm_bias(10, 40, 2.0).value)
    3.0
    """
    _require_sizes(n, d, signal, "signal")
    if n >= d:  # X has full column rank almost surely, and the row space is everything
        return Prediction(np.asarray(0.0), {"rank_deficiency": float(d - min(n, d))})
    value = signal**2 * (1.0 - n / d)
    return Prediction(
        np.asarray(value), {"quadrature": abs(_beta_complement(n, d) - (1.0 - n / d)) / (1.0 - n / d)}, 4 * EPS * value
    )


def _beta_complement(n: int, d: int) -> float:
    r"""$\mathbb{E}[1 - B]$, $B \sim \mathrm{Beta}(n/2, (d-n)/2)$, by the trapezoidal rule in logit B."""
    a, b = 0.5 * n, 0.5 * (d - n)
    peak = math.log(a / b)
    width = math.sqrt(1.0 / a + 1.0 / b)
    r = peak + np.linspace(-max(14 * width, 80.0 / a), max(14 * width, 80.0 / b), 20001)
    log_one_minus = -np.logaddexp(0.0, r)
    logs = a * r + (a + b) * log_one_minus
    weight = np.exp(logs - logs.max())
    return float(np.sum(weight * np.exp(log_one_minus)) / np.sum(weight))
