"""Least squares in random features peaks where features equal examples, and descends again below its first minimum.

The literature has the shape of the curve, as an observation. Here the heights are predicted too, from the Gaussian
kernel of the images with no feature drawn: proved for Gaussian features as n and N grow, for cosines in the limit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, PRNGKeyArray
from scipy.spatial.distance import pdist

import gradbias as gb

# Widths, as (points, step in fortieths of n): 90 up to 24 n, the threshold among them; and sample sizes for the map.
LEVELS = ((40, 1), (10, 1), (10, 2), (10, 5), (10, 20), (10, 64))
FORTIETHS = np.cumsum([step for points, step in LEVELS for _ in range(points)])
SAMPLES = 10
# Compared from n/10 on and, without a ridge, far enough from the threshold for a few runs to have a mean.
WITH = FORTIETHS >= 4
WITHOUT = WITH & ((FORTIETHS <= 40 / 1.5) | (FORTIETHS >= 40 * 1.5))
CURVES = ("least norm", "ridge")
SHAPE = ("fits from", "peak at", "peak", "end", "ridge rise")


class Data(NamedTuple):
    """Images as rows, the median distance between two of them being one, and one-hot labels."""

    x: Float[np.ndarray, "n d"]
    y: Float[np.ndarray, "n 10"]
    x_test: Float[np.ndarray, "m d"]
    y_test: Float[np.ndarray, "m 10"]


def data(key: PRNGKeyArray, *, source: gb.data.ImageSource = "digits", n: int, n_test: int, noise: float = 0.0) -> Data:
    train, test = gb.data.image_split(source, n, n_test, key=key)
    rng, unit = gb.data.generator(jr.fold_in(key, 1)), np.median(pdist(train.x))
    label = np.where(rng.random(n) < noise, rng.integers(0, 10, n), train.y)
    return Data(train.x / unit, np.eye(10)[label], test.x / unit, np.eye(10)[test.y])


def measured(data: Data, key: PRNGKeyArray, *, length: float = 0.5, ridge: float = 0.05) -> gb.Measured:
    n, d = data.x.shape
    weights, phases = jr.split(key)
    levels = [(points, step * max(1, n // 40)) for points, step in LEVELS]
    reach = sum(points * step for points, step in levels)
    bank = jr.normal(weights, (reach, d)) / length, jr.uniform(phases, (reach,), maxval=2 * jnp.pi)
    train, test, features = (data.x, data.y), (data.x_test, data.y_test), gb.models.cosine_features
    sweep = gb.dynamics.sweep_bank(features, bank, train, test, levels=levels, samples=SAMPLES, ridge=ridge)
    least, penalized, ratio = jnp.log10(sweep.test), jnp.log10(sweep.ridge[-1]), sweep.widths / n
    curve = least[-1]
    value = {
        "least norm": curve[WITHOUT],
        "ridge": penalized[WITH],
        "fits from": ratio[jnp.argmax(sweep.train < 1e-10 * jnp.mean(data.y**2))],
        "peak at": ratio[jnp.argmax(curve)],
        "peak": jnp.max(curve) - curve[-1],
        "end": curve[-1] - jnp.min(curve[: LEVELS[0][0]]),
        "ridge rise": jnp.max(penalized - jax.lax.cummin(penalized)),
    }
    rounding = 10.0 * jnp.finfo(float).eps * sweep.condition**2
    curves = {"N": sweep.widths, "n": sweep.samples, "least norm": sweep.test[-1], "ridge": sweep.ridge[-1]}
    curves |= {"map": least, "wrong": sweep.wrong[-1], "N with": sweep.widths[WITH], "N without": sweep.widths[WITHOUT]}
    return gb.Measured(value, rounding, jnp.all(jnp.isfinite(least)), reach, curves)


def predicted(data: Data, *, length: float = 0.5, ridge: float = 0.05) -> gb.Prediction:
    n, curves = len(data.x), {}
    own, cross = (gb.oracles.gaussian_kernel(a, data.x, length) for a in (data.x, data.x_test))
    kernels, targets = (own, cross, np.ones(len(cross))), (data.y, data.y_test)
    for part, at, penalty in zip(CURVES, (WITHOUT, WITH), (0.0, ridge), strict=True):
        p = gb.oracles.random_feature_error(kernels, targets, FORTIETHS[at] * (n // 40), ridge=penalty)
        error = p.error / float(np.min(p.value["error"]))
        curves[part] = gb.Prediction(np.log10(p.value["error"]), p.certificate, error)
    # Features of different images are independent almost surely: N of them fit n labels exactly if and only if N ≥ n.
    return gb.combine(**curves, **dict(zip(SHAPE, (1.0, 1.0, 1.0, 0.0, 0.0), strict=True)))


CLAIM = gb.Claim(
    statement=r"The least-squares fit of least norm to one-hot labels of $n$ images in $N$ features $\sqrt 2 \cos(v_j "
    r"\cdot x + c_j)$, $v_j \sim N(0, I/\ell^2)$, is exact from $N = n$ on, where its test error peaks, ten times "
    r"above its end, which for true labels is below the minimum over $N < n$. With a ridge $\lambda N \|w\|^2$ it "
    r"does not rise. Over features it averages to about $\frac{1}{mk} ( \|K_* (K + \kappa)^{-1} Y - Y_*\|^2 + "
    r"\sum_{i,j} v_i y_j^\top K (K + \kappa)^{-2} y_j / (N - \mathrm{tr}\, K^2 (K + \kappa)^{-2}))$ with $v_i = 1 - "
    r"k_i^\top (K + 2 \kappa) (K + \kappa)^{-2} k_i$, $\kappa = \lambda + \frac{\kappa}{N} \mathrm{tr}\, K (K + "
    r"\kappa)^{-1}$ and $K$ the Gaussian kernel.",
    source=gb.Source("belkin2019reconciling", "Figure 2, experiment; number not checked. Heights: jacot2020implicit"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric=gb.metric.difference,
    relation=dict.fromkeys((*CURVES, "fits from", "peak at"), "equals")
    | {"peak": "at_least", "end": "at_most", "ridge rise": "at_most"},
    quantifier=dict.fromkeys(CURVES, "mean")
    | dict.fromkeys(("fits from", "peak at", "peak", "end", "ridge rise"), "every"),
    tolerance=dict.fromkeys((*CURVES, "ridge rise"), 0.1)
    | {"fits from": 0.02, "peak at": 0.05, "peak": 0.05, "end": 0.02},
    tolerance_reason="Powers of ten: a quarter, on a curve that spans a factor of a hundred. Widths in units of n: "
    "less than the grid's step (0.025) for the fit, two steps for the peak, where single runs scatter.",
    assumptions={"no two images are equal": gb.assumptions.distinct_rows},
    settings={
        "smoke": dict(n=80, n_test=240, seeds=10),
        "standard": dict(n=320, n_test=600, seeds=10),
        "real": dict(source="digits", n=400, n_test=1000, seeds=5),
        "deep": dict(n=640, n_test=1000, seeds=5),
    },
    control=dict(noise=1.0),
    control_reason="Random labels: the peak is as predicted, but the second descent ends above the first minimum.",
    figure=gb.figures.curves_over_map(
        ("N", "n", "map"),
        curves={"least norm": "least norm, measured", "ridge": "ridge, measured"},
        theory={"least norm": ("N without", "least norm, theory"), "ridge": ("N with", "ridge, theory")},
        titles=("features N", "examples n", "log₁₀ test error", "test error (mean square)"),
        diagonal="threshold N = n",
    ),
    seconds=dict(smoke=6, standard=15, real=40, deep=200),
)
