r"""How many directions a matrix uses.

Every rank here is a function of singular values, and every bound follows from Weyl's inequality: if the matrix is off
by $E$, each singular value is off by at most $\|E\|_2$.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import entr
from jaxtyping import Array, Float

from ..errors import NotApplicable, ProbeError, UsageError
from .catalogue import instrument
from .estimate import Estimate
from .objective import AbstractObjective

UNIT = float(np.finfo(np.float64).eps)
INVARIANCES = (
    "scaling of the matrix, rotations of its rows and of its columns; not: rescaling single neurons between layers"
)


def effective_rank(matrix: Float[Array, "m n"]) -> Float[Array, ""]:
    r"""$\exp(-\sum_i p_i \log p_i)$, $p_i = \sigma_i / \sum_j \sigma_j$: the exponential of their entropy.

    [@roy2007effective]

    >>> round(float(effective_rank(jnp.diag(jnp.array([2.0, 2.0, 0.0])))), 6)
    2.0
    """
    s = jnp.linalg.svd(matrix, compute_uv=False)
    return jnp.exp(jnp.sum(entr(s / jnp.sum(s))))


def entropy_rank(singular_values: np.ndarray) -> float:
    r"""$\exp(-\sum_i p_i \log p_i)$, $p_i = \sigma_i / \sum_j \sigma_j$; NaN if all are zero. [@roy2007effective]

    >>> round(entropy_rank(np.array([2.0, 2.0, 0.0])), 12)
    2.0
    """
    total = float(np.sum(singular_values))
    if total == 0:
        return math.nan
    p = singular_values[singular_values > 0] / total
    return float(np.exp(-np.sum(p * np.log(p))))


def stable_rank(singular_values: np.ndarray) -> float:
    r"""$\sum_i \sigma_i^2 / \sigma_1^2 = \|W\|_F^2 / \|W\|_2^2$; NaN if all are zero.

    >>> stable_rank(np.array([2.0, 1.0, 0.0]))
    1.25
    """
    largest = float(np.max(singular_values))
    return math.nan if largest == 0 else float(np.sum((singular_values / largest) ** 2))


def numerical_rank(singular_values: np.ndarray, threshold: float) -> int:
    r"""Number of $\sigma_i$ above `threshold`.

    >>> numerical_rank(np.array([2.0, 1.0, 1e-20]), 1e-15)
    2
    """
    return int(np.sum(singular_values > threshold))


def singular_value_error(shape: tuple[int, ...], largest: float) -> float:
    r"""How far LAPACK's singular values of a float64 matrix are off, at most.

    The proven bound is "a modest polynomial of the sizes" times $u\,\sigma_1$. Against matrices whose singular values
    are known exactly (permuted Hadamard matrices of order p with powers of two, p = 1 … 512) the largest error was
    0, 1, 1.5, 3, 2.5, 3.5, 4.5, -, 5.5, 7 rounding units: this is about twice that from p = 4 on.

    >>> singular_value_error((4, 4), 1.0) / UNIT
    3.0
    """
    p = max(shape)
    return min(2 * math.sqrt(p), 0.75 * p) * UNIT * largest


def entropy_rank_bound(singular_values: np.ndarray, error: float) -> float:
    r"""How far the effective rank is off if no singular value is off by more than `error`.

    The shares are off by $T = \frac12 \|p - q\|_1 \le k\,\text{error} / \sum_i \sigma_i$ at most.

    >>> entropy_rank_bound(np.array([1.0, 1.0]), 0.0)
    0.0
    """
    k = len(singular_values)
    return entropy_rank_change(entropy_rank(singular_values), k, k * error / float(np.sum(singular_values)))


def entropy_rank_change(rank: float, k: int, distance: float) -> float:
    r"""How far $e^{H(p)}$ = `rank` of k shares is off if they are off by $T = \frac12 \|p - q\|_1 \le$ `distance`.

    The entropies of p and q differ by at most $T \log(k-1) + h(T)$ for $T \le 1 - 1/k$, $h$ the binary entropy: the
    classical case of [@audenaert2007sharp, number not checked]. The rank is from 1 to k in any case.

    >>> entropy_rank_change(1.0, 3, 1.0)
    2.0
    """
    t = distance
    if t >= 1 - 1 / k:
        return float(k - 1)
    entropy = t * math.log(k - 1) + (-t * math.log(t) - (1 - t) * math.log1p(-t) if t else 0.0)
    return min(float(k - 1), rank * math.expm1(entropy))


def stable_rank_bound(singular_values: np.ndarray, error: float) -> float:
    """How far the stable rank is off if no singular value is off by more than `error`.

    >>> stable_rank_bound(np.array([1.0, 1.0]), 0.0)
    0.0
    """
    largest = float(np.max(singular_values))
    if error >= largest:
        return float(len(singular_values))
    # Each (σᵢ + δ) / (σ₁ - δ), at least 0, is convex in δ: the upper end is the farther one.
    high = float(np.sum((singular_values + error) ** 2)) / (largest - error) ** 2
    return high - stable_rank(singular_values)


class Spectrum(NamedTuple):
    """Singular values of a layer's matrix; `rounding` is their error for the matrix as stored, `error` for the true."""

    name: str
    values: np.ndarray
    rounding: float
    error: float
    shape: tuple[int, ...]


def _spectra(objective: AbstractObjective, of: str) -> list[Spectrum]:
    if of not in ("weights", "features", "gram"):
        raise UsageError(f"of= is 'weights', 'features' or 'gram'; got {of!r}.")
    matrices = {l.name: l.matrix for l in objective.layers()} if of == "weights" else objective.features()
    if not matrices:
        raise NotApplicable("A rank is of a matrix, and this model has no layer with a weight matrix.")
    return [_spectrum(name, matrix, of, objective.epsilon) for name, matrix in matrices.items()]


def _spectrum(name: str, matrix: np.ndarray, of: str, unit: float) -> Spectrum:
    if not np.all(np.isfinite(matrix)):
        raise ProbeError(f"The {of} of the layer {name} hold NaN or infinity: they have no singular values.")
    s = np.linalg.svd(matrix, compute_uv=False)
    largest = float(s[0])
    rounding = singular_value_error(matrix.shape, largest)
    # Weights are given exactly; features come out of sums of d terms in the arithmetic of the model.
    error = rounding + (0.0 if of == "weights" else math.sqrt(matrix.shape[1]) * unit * largest)
    if of != "gram":
        return Spectrum(name, s, rounding, error, matrix.shape)
    square = (len(matrix), len(matrix))
    return Spectrum(name, s**2, (2 * largest + rounding) * rounding, (2 * largest + error) * error, square)


def _collect(told: list[tuple[str, float, float]], details: dict[str, Any]) -> Estimate:
    names, values, bounds = zip(*told, strict=True)
    zero = [name for name, value, _ in told if math.isnan(value)]
    reason = f"the matrix of {', '.join(zero)} is zero: it has no directions to count" if zero else "direct"
    return Estimate(np.array(values), np.array(bounds), not zero, reason, names=names, details=details)


@instrument(
    gradients=0.5,
    cost="one singular value decomposition per layer; a forward pass for features",
    invariances=INVARIANCES,
    says="The number of directions that the matrix uses, each counted by its share of the singular values.",
    not_says="Not how many directions matter for the outputs: a small singular value can carry the label.",
    needs="a layer with a weight; for features, a model whose layers can be seen",
)
def _effective_rank(
    objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any], of: str = "weights"
) -> Estimate:
    r"""$\exp(-\sum_i p_i \log p_i)$, $p_i = \sigma_i / \sum_j \sigma_j$, of each layer [@roy2007effective].

    `of`: "weights", the layer's weight, one row per output (a convolution's kernel flattened to out × in·kernel);
    "features", the inputs $X$ of the layer over the probe data, n × d, not centred; "gram", $X X^\top$. Between 1 and
    the smaller side of the matrix. The bound holds if the weights are exact and the features have relative error
    $\sqrt d\,u$ in the spectral norm, u the rounding unit of the model. A zero matrix has none: NaN.
    """
    told = []
    spectra = _spectra(objective, of)
    for name, s, _, error, _ in spectra:
        told.append((name, entropy_rank(s), math.inf if s[0] == 0 else entropy_rank_bound(s, error)))
    return _collect(told, {"singular_values": {one.name: one.values for one in spectra}})


@instrument(
    gradients=0.5,
    cost="one singular value decomposition per layer; a forward pass for features",
    invariances=INVARIANCES,
    says="How many directions carry the matrix's energy, against the strongest one.",
    not_says="Not the rank: a matrix of full rank with one dominant direction has stable rank near 1.",
    needs="a layer with a weight; for features, a model whose layers can be seen",
)
def _stable_rank(
    objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any], of: str = "weights"
) -> Estimate:
    r"""$\|W\|_F^2 / \|W\|_2^2 = \sum_i \sigma_i^2 / \sigma_1^2$ of each layer.

    `of` as for the effective rank, and so the bound. At most the rank. Source: [@rudelson2007sampling, number not
    checked]. A zero matrix has none: NaN.
    """
    told = []
    for name, s, _, error, _ in _spectra(objective, of):
        told.append((name, stable_rank(s), math.inf if s[0] == 0 else stable_rank_bound(s, error)))
    return _collect(told, {})


@instrument(
    gradients=0.5,
    cost="one singular value decomposition per layer; a forward pass for features",
    invariances=INVARIANCES,
    says="The number of singular values that the arithmetic of the model can tell from zero.",
    not_says="Not how many directions matter: noise at the first digit has full numerical rank.",
    needs="a layer with a weight; for features, a model whose layers can be seen",
)
def _numerical_rank(
    objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any], of: str = "weights"
) -> Estimate:
    r"""Number of singular values above $\max(m, n)\,u\,\sigma_1$, u the rounding unit of the model, of each layer.

    `of` as for the effective rank; of "gram" they are the eigenvalues of $X X^\top$, n × n. The rank is of the matrix
    as it is stored or computed: what rounding in the model does to features is what the threshold stands for. The bound
    counts singular values that are within the error of their own computation, in float64, of the threshold. A zero
    matrix has rank 0. Details: the threshold by layer.
    """
    told, thresholds = [], {}
    for name, s, error, _, shape in _spectra(objective, of):
        scale = max(shape) * objective.epsilon
        thresholds[name] = scale * float(s[0])
        count = numerical_rank(s, thresholds[name])
        surely = numerical_rank(s - error, scale * (float(s[0]) + error))
        perhaps = numerical_rank(s + error, scale * max(float(s[0]) - error, 0.0)) if s[0] else 0
        told.append((name, float(count), float(max(perhaps - count, count - surely))))
    return _collect(told, {"thresholds": thresholds})
