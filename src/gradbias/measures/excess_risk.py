"""Excess risk of least-squares fits, averaged over label noise: whole sweeps of sizes from one bank of examples."""

import itertools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

RESOLVED = 64.0  # over √ε: the largest condition of a Gram matrix whose inverse is used
BLOCK = 10  # of rows eliminated at once, so that most of the work is products of matrices


def positive_inverse(g: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Gauss–Jordan elimination of a positive definite matrix; large batches of LAPACK calls can block XLA's threads.

    >>> positive_inverse(jnp.array([[2.0, 1.0], [1.0, 1.0]])).tolist()
    [[1.0, -1.0], [-1.0, 2.0]]
    """
    n = len(g)
    size = -(-n // BLOCK) * BLOCK  # padded with ones, which change nothing

    def sweep(k: Array, a: Float[Array, "m m"]) -> Float[Array, "m m"]:
        at = k * BLOCK
        rows = jax.lax.dynamic_slice(a, (at, 0), (BLOCK, size))
        pivot = _small_inverse(jax.lax.dynamic_slice(rows, (0, at), (BLOCK, BLOCK)))
        new = pivot @ rows
        a = jax.lax.dynamic_update_slice(a - rows.T @ new, new, (at, 0))
        a = jax.lax.dynamic_update_slice(a, new.T, (0, at))
        return jax.lax.dynamic_update_slice(a, -pivot, (at, at))

    return -jax.lax.fori_loop(0, size // BLOCK, sweep, jnp.eye(size).at[:n, :n].set(g))[:n, :n]


def _small_inverse(g: Float[Array, "n n"]) -> Float[Array, "n n"]:
    def sweep(k: Array, a: Float[Array, "n n"]) -> Float[Array, "n n"]:
        row = a[k] / a[k, k]
        return (a - jnp.outer(a[k], row)).at[k].set(row).at[:, k].set(row).at[k, k].set(-1.0 / a[k, k])

    return -jax.lax.fori_loop(0, len(g), sweep, g)


def sizes_across(fixed: int, ratios: Sequence[float | int], *, vary: Literal["d", "n"] = "d") -> list[tuple[int, int]]:
    """Every (n, d) of a sweep across the threshold d = n: one is `fixed`, the other its nearest whole multiples.

    Raises `ValueError` for sweeps that do not increase, stay on one side of the threshold, or hit it: at d = n (and one
    beside it) the expected risk of an unpenalized fit is infinite and no average over designs means anything.

    >>> sizes_across(10, [0.5, 2.0]), sizes_across(10, [0.5, 2.0], vary="n")
    ([(10, 5), (10, 20)], [(5, 10), (20, 10)])
    """
    sizes, other = [round(ratio * fixed) for ratio in ratios], "n" if vary == "d" else "d"
    listed = ", ".join(str(size) for size in sizes)
    if fixed < 1 or any(b <= a for a, b in itertools.pairwise(sizes)) or not sizes or sizes[0] < 1:
        raise ValueError(
            f"A sweep needs increasing sizes of at least 1; got {vary} = {listed or 'none'} at {other} = {fixed}."
        )
    if infinite := [size for size in sizes if abs(size - fixed) <= 1]:
        raise ValueError(
            f"At |d - n| ≤ 1 the expected risk is infinite; the sweep holds {vary} = {infinite[0]} at {other} = "
            f"{fixed}. Leave it out, or take ratios that stay two away."
        )
    if sizes[0] > fixed or sizes[-1] < fixed:
        raise ValueError(
            f"The sweep leaves the threshold d = n out: {vary} = {listed} all lie on one side of {other} = {fixed}, "
            f"and a peak cannot show. Add ratios on the other side of 1."
        )
    return [(fixed, size) if vary == "d" else (size, fixed) for size in sizes]


def least_squares_risks(
    x: Float[Array | np.ndarray, "rows columns"],
    sizes: Sequence[tuple[int, int]],
    *,
    variances: Float[Array | np.ndarray, " columns"] | None = None,
    target: Float[Array | np.ndarray, "columns ..."],
    ridge: Float[Array | np.ndarray, " sizes"] | None = None,
) -> tuple[Float[Array, " sizes"], Float[Array, " sizes"]]:
    r"""Variance (for unit noise) and bias of the fit to the first n rows and d columns, for every (n, d) of `sizes`.

    The fit is $\arg\min \|Xw - y\|^2 + \lambda \|w\|^2$, the shortest one at $\lambda = 0$, and the excess risk
    $\sum_i l_i (w_i - b_i)^2$ for `target` b (its first d entries; the mean over several, one a column) and
    `variances` l of the columns (1 by default); the mean over label noise is in closed form. `ridge` has a λ per size.
    Zero columns at the end change nothing.

    Along a sweep in which one side of the smaller Gram matrix stays, that matrix is extended, not made anew; all sizes
    are inverted at once, padded with ones to the largest. At λ = 0 the result is infinite or huge for n = d, and it is
    infinite where floats do not resolve the Gram matrix G: for $\operatorname{tr} G \operatorname{tr} G^{-1} >
    64/\sqrt\epsilon$ (4e9 in float64), from where on rounding shows in the fifth digit, and soon in the first.

    >>> x = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> variance, bias = least_squares_risks(x, [(1, 2), (2, 1)], target=jnp.array([0.0, 3.0]))
    >>> variance.tolist(), bias.tolist()
    ([1.0, 1.0], [9.0, 0.0])
    """
    x, target = jnp.asarray(x), jnp.reshape(jnp.asarray(target), (len(target), -1))
    variances = None if variances is None else jnp.asarray(variances)
    largest = max(min(size) for size in sizes)
    penalty = jnp.zeros(len(sizes)) if ridge is None else jnp.asarray(ridge)
    grams: list[Array] = []
    weighted: list[Array] = []
    last = (0, 0)
    for n, d in sizes:
        gram, weights = _grams(x, (n, d), last, (grams[-1], weighted[-1]) if grams else None, variances)
        grams, weighted, last = [*grams, gram], [*weighted, weights], (n, d)

    def padded(gram: Array, k: int) -> Array:
        small = len(gram)
        return jnp.eye(largest).at[:small, :small].set(gram + penalty[k] * jnp.eye(small))

    inverses = jax.vmap(positive_inverse)(jnp.stack([padded(gram, k) for k, gram in enumerate(grams)]))
    variance, bias = [], []
    for k, (n, d) in enumerate(sizes):
        part, b, small = x[:n, :d], target[:d], min(n, d)
        scale = jnp.ones(d) if variances is None else variances[:d]
        a = inverses[k, :small, :small]
        condition = jnp.trace(grams[k] + penalty[k] * jnp.eye(small)) * jnp.trace(a)
        resolved = jnp.abs(condition) <= RESOLVED / jnp.sqrt(jnp.finfo(a.dtype).eps)
        # A G A = A - λ A² for A = (G + λ)⁻¹, so a product of matrices is needed only where variances differ.
        if d > n and variances is not None:
            variance.append(jnp.sum((a @ weighted[k]) * a.T))  # tr A X diag(l) Xᵀ A
            lost = b - part.T @ (a @ (part @ b))
        elif d > n:
            variance.append(jnp.trace(a) - penalty[k] * jnp.sum(a**2))
            lost = b - part.T @ (a @ (part @ b))
        else:
            variance.append(jnp.sum(scale * (jnp.diag(a) - penalty[k] * jnp.sum(a**2, axis=1))))
            lost = penalty[k] * (a @ b)
        variance[-1] = jnp.where(resolved, variance[-1], jnp.inf)
        bias.append(jnp.where(resolved, jnp.sum(scale * jnp.sum(lost**2, axis=1)) / lost.shape[1], jnp.inf))
    return jnp.stack(variance), jnp.stack(bias)


def _grams(
    x: Array, size: tuple[int, int], last: tuple[int, int], before: tuple[Array, Array] | None, variances: Array | None
) -> tuple[Array, Array]:
    """The smaller Gram matrix of the first n rows and d columns, plain and weighted with the columns' variances.

    With more columns than rows it is X Xᵀ, which grows by the new columns; else Xᵀ X, which grows by the new rows.
    """
    n, d = size
    wide = d > n
    same = before is not None and (last[0] == n and n < last[1] < d if wide else last[1] == d and d <= last[0] < n)
    if not wide:
        new = x[last[0] : n, :d] if same else x[:n, :d]
        gram = new.T @ new
        return (gram + before[0] if same and before else gram), jnp.zeros(())
    new = x[:n, last[1] : d] if same else x[:n, :d]
    scale = 1.0 if variances is None else variances[last[1] if same else 0 : d][None, :]
    gram, weighted = new @ new.T, (new * scale) @ new.T
    return (gram + before[0], weighted + before[1]) if same and before else (gram, weighted)


def flat_tailed_rows(
    n: int, strong: Float[np.ndarray, " k"], *, tail: tuple[float, int], draws: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "draws n m"], Float[np.ndarray, " m"]]:
    r"""Gaussian rows with eigenvalues `strong` and, `tail[1]` times, `tail[0]`, as columns in the eigenbasis; and both.

    The tail's p ≥ n columns are replaced by n whose Gram matrix $X X^\top$ has the same law, that of a Wishart matrix
    with p degrees of freedom (Bartlett's triangular factor), so that p costs nothing. What depends on the tail through
    that matrix alone is exact. The second array has the variance of each column. Raises `ValueError` for 0 < p < n.
    """
    value, count = tail
    if 0 < count < n:
        raise ValueError(
            f"A flat tail needs none or at least n={n} eigenvalues; got {count}. List fewer as strong ones."
        )
    columns = [rng.normal(size=(draws, n, len(strong))) * np.sqrt(strong)]
    if count:
        factor = np.tril(rng.normal(size=(draws, n, n)), -1)
        factor[:, range(n), range(n)] = np.sqrt(rng.chisquare(count - np.arange(n), size=(draws, n)))
        columns.append(np.sqrt(value) * factor)
    return np.concatenate(columns, axis=2), np.concatenate([strong, np.full(n if count else 0, value)])
