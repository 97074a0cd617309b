"""More data can hurt: at a fixed number of features the risk of the least-norm fit peaks where examples reach them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import gradbias as gb
from gradbias.data import Dataset

# Examples per feature. The least-norm risk is least near the second, and more data hurt from there to the threshold.
RATIOS = (0.1, 0.3, 0.6, 0.76, 1.3, 1.8, 4.0)
BEST = 1


def data(key: PRNGKeyArray, *, d: int, designs: int, ratios: tuple[float, ...] = RATIOS) -> Dataset:
    z = gb.data.generator(key).normal(size=(2, designs, gb.measures.sizes_across(d, ratios, vary="n")[-1][0], d))
    return Dataset(z, np.zeros(d), 1.0 / np.arange(1.0, d + 1))


def measured(
    data: Dataset,
    key: PRNGKeyArray,
    *,
    noise: float,
    ridge: float = 0.0,
    ratios: tuple[float, ...] = RATIOS,
) -> gb.Measured:
    """`ridge` adds that multiple of the best penalty, σ²d for a target of length 1, to the fit that is judged."""
    d = data.x.shape[3]
    sizes = gb.measures.sizes_across(d, ratios, vary="n")
    b = jnp.eye(d)[:, :8]  # any unit vectors: isotropic inputs have no preferred direction
    best = jnp.full(len(sizes), d * noise**2)

    def risks(z: Float[Array, "2 n d"]) -> tuple[Array, Array, Array]:
        fit = gb.measures.least_squares_risks(z[0], sizes, target=b, ridge=ridge * best)
        tuned = gb.measures.least_squares_risks(z[0], sizes, target=b, ridge=best)
        decaying = gb.measures.least_squares_risks(
            z[1] * jnp.sqrt(data.start)[None, :], sizes, variances=data.start, target=jnp.zeros(d)
        )
        return noise**2 * fit[0] + fit[1], noise**2 * tuned[0] + tuned[1], decaying[0]

    fit, tuned, decaying = (
        jnp.mean(each, axis=0) for each in jax.lax.map(risks, jnp.swapaxes(jnp.asarray(data.x), 0, 1))
    )
    few = sum(n < d for n, _ in sizes)
    value = {
        "least norm": fit,
        "more data hurts": fit[few - 1] - fit[BEST],
        "more data helps again": fit[few:],
        "best ridge": tuned,
        "ridge only helps": tuned,
        "decaying, n < d": decaying[:few],
        "decaying, n > d": decaying[few:],
    }
    return gb.Measured(value, curves={"ratio": jnp.array([n / d for n, _ in sizes])})


def predicted(data: Dataset, *, noise: float, ratios: tuple[float, ...] = RATIOS) -> gb.Prediction:
    d = data.x.shape[3]
    sizes = gb.measures.sizes_across(d, ratios, vary="n")
    variance = [gb.oracles.min_norm_variance(n, d, noise) for n, _ in sizes]
    bias = [gb.oracles.min_norm_bias(n, d, 1.0) for n, _ in sizes]
    left = [gb.oracles.ridge_equivalent(n, data.start).only("variance") for n, _ in sizes if n < d]
    ridge = [gb.oracles.optimal_ridge_risk(n, d, noise=noise, signal=1.0) for n, _ in sizes]
    right = [gb.oracles.min_norm_variance(n, d, 1.0) for n, _ in sizes if n > d]
    every = {str(k): gb.Prediction(0.0, p.certificate) for k, p in enumerate([*variance, *bias, *left, *right, *ridge])}
    risk = np.array([float(v.value + b.value) for v, b in zip(variance, bias, strict=True)])
    value = {
        "least norm": risk,
        "more data hurts": 0.5 * (risk[len(left) - 1] - risk[BEST]),
        "more data helps again": np.zeros(len(right) - 1),
        "best ridge": np.array([float(p.value["risk"]) for p in ridge]),
        "ridge only helps": np.zeros(len(sizes) - 1),
        "decaying, n < d": np.array([float(p.value["variance"]) for p in left]),
        "decaying, n > d": np.array([float(p.value) for p in right]),
    }
    return gb.Prediction(value, gb.combine(**every).certificate)


MOVES = ("more data hurts", "more data helps again", "ridge only helps")
EQUAL = ("least norm", "decaying, n < d", "decaying, n > d", "best ridge")

CLAIM = gb.Claim(
    statement=r"At fixed $d$, $x \sim N(0, I_d)$, noise $\sigma^2$, the least-norm fit to $n$ examples has mean excess "
    r"risk $\sigma^2 \frac{\min(n, d)}{|d - n| - 1} + \max(0, 1 - \frac nd) \|b\|^2$: from some $n$ on more data make "
    r"it worse up to $n = d$, and better after. The best ridge, $\lambda = \sigma^2 d / \|b\|^2$, gets better "
    r"throughout. With another covariance the variance is the same at $n > d + 1$ and another at $n < d$.",
    source=gb.Source("nakkiran2019more", "Section 2; number not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric=dict.fromkeys(EQUAL, gb.metric.relative_difference) | dict.fromkeys(MOVES, gb.metric.difference),
    relation=dict.fromkeys(EQUAL, "equals") | {MOVES[0]: "at_least"} | dict.fromkeys(MOVES[1:], "decreases"),
    tolerance=dict.fromkeys(EQUAL, 0.1) | {EQUAL[1]: 0.15} | dict.fromkeys(MOVES, 0.02),
    tolerance_reason="Exact: 10 % is agreement; the limit for decaying spectra is 1 / (d - n) off; a move is 2 %.",
    quantifier="mean",
    assumptions={"rows are Gaussian": None},
    settings={
        "smoke": dict(d=50, designs=16, noise=0.5, seeds=16),
        "standard": dict(d=60, designs=60, noise=0.5, seeds=20),
        "deep": dict(d=100, designs=60, noise=0.5, seeds=30),
    },
    control=dict(ridge=1.0),
    control_reason="With the best penalty more data always help: there is no peak.",
    figure=gb.figures.profile(
        "ratio",
        {"least norm": "least norm, measured", "best ridge": "best ridge, measured"},
        {"least norm": "least norm, exact", "best ridge": "best ridge, Marchenko–Pastur"},
        x_title="examples per feature n / d",
        y_title="mean excess risk",
        log_x=True,
        log_y=True,
        mark=("n = d", 1.0),
    ),
    seconds=dict(smoke=5, standard=7, deep=100),
)
