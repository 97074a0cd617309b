"""Errors of a linear classifier after one gradient step in many noise dimensions: exact Gaussian tails."""

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr
from scipy.stats import chi2

from ..claim import Prediction
from ._arrays import Scalar, as_float64

# Standard deviations of the χ² variable that the integral covers; beyond, its mass is below 1e-30.
REACH = 12.0
NODES = 400


def one_step_errors(m: int, dimensions: ArrayLike, *, variance: Scalar, signal: Scalar = 4.0) -> Prediction:
    r"""Error on new examples, on the training set, and on the training set with its noise negated, after one step.

    Examples are $x = (2 y u, x_2)$, $4 m \|u\|^2$ = `signal`, $x_2 \sim N(0, \frac vD I_D)$, y = ±1 even. One step from
    zero gives $w \propto \sum_i y_i x_i$. With $g = \frac vD \chi^2_D$ and Q the normal tail

    $$ \Pr[\text{new example wrong}] = E\,Q\Big(\frac s{\sqrt{\frac{vm}D g}}\Big), \quad
    \Pr[\text{own example wrong}] = E\,Q\Big(\frac{s + g}{\sqrt{\frac{v(m-1)}D g}}\Big), \quad
    \Pr[\text{noise negated}] = E\,Q\Big(\frac{s - g}{\sqrt{\frac{v(m-1)}D g}}\Big): $$

    the noise of a new example meets the sum of m others, that of an own one itself, g, and m − 1 others.
    [derived; the setting is that of @nagarajan2019uniform, section 3.1, number not checked]

    The value is a dict of `test`, `train`, `negated`, each (k,) for the k `dimensions`. The expectations are Gauss
    quadratures over χ²; the certificate holds its mass and mean, and the change with twice the nodes. Raises
    `ValueError` for fewer than 2 examples or 16 dimensions (where the density is not smooth enough at zero), v ≤ 0.

    >>> round(float(one_step_errors(100, [10_000], variance=32.0).value["test"][0]), 4)
    0.1056
    """
    sizes = as_float64(dimensions, "dimensions", 1)
    if m < 2 or np.any(sizes < 16):
        raise ValueError(f"Needed are 2 examples and 16 dimensions or more; got m={m}, dimensions={sizes.tolist()}.")
    if not (variance > 0 and signal > 0):
        raise ValueError(f"variance and signal are positive; got {variance} and {signal}.")
    coarse, fine = ([_errors(m, d, variance, signal, nodes) for d in sizes] for nodes in (NODES, 2 * NODES))
    value = {name: np.array([row[name] for row in fine]) for name in ("test", "train", "negated")}
    off = {name: float(max(abs(a[name] - b[name]) for a, b in zip(coarse, fine, strict=True))) for name in fine[0]}
    mass = max(abs(row["mass"] - 1.0) for row in fine)
    mean = max(abs(row["mean"] - 1.0) for row in fine)
    return Prediction(
        value, {"mass": mass, "mean": mean, "nodes": max(off.values())}, {name: off[name] for name in value}
    )


_nodes = cache(np.polynomial.legendre.leggauss)  # the eigenvalues of a large matrix: the same for all calls


def _errors(m: int, d: float, variance: float, signal: float, nodes: int) -> dict[str, float]:
    spread = REACH * np.sqrt(2.0 * d)
    t, weight = _nodes(nodes)
    low, high = max(d - spread, 0.0), d + spread + REACH**2
    c = low + (t + 1.0) / 2 * (high - low)
    density = weight * (high - low) / 2 * chi2.pdf(c, d)
    g = variance / d * c

    def expected(f: Callable[[np.ndarray], np.ndarray]) -> float:
        return float(density @ f(g))

    return {
        "test": expected(lambda g: ndtr(-signal / np.sqrt(variance / d * m * g))),
        "train": expected(lambda g: ndtr(-(signal + g) / np.sqrt(variance / d * (m - 1) * g))),
        "negated": expected(lambda g: ndtr(-(signal - g) / np.sqrt(variance / d * (m - 1) * g))),
        "mass": float(density.sum()),
        "mean": float(density @ c) / d,
    }
