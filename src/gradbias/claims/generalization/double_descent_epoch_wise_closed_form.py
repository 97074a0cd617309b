"""With features of two scales and label noise the test risk descends twice during training, as the closed form says."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import gradbias as gb

AT = np.unique(np.geomspace(1.0, 1700.0, 66).round())
FEW, MANY, DRAWS = 8, 40, 8  # slow and fast directions; draws of label noise, all trained at once
FAST, SLOW = (0, 1, *range(20, 50)), tuple(range(2, 20))  # principal components of digits: two telling ones, many not
Source = Literal["gaussian", "digits"]


class Data(NamedTuple):
    """Training examples and the excess (or, on real data, test) risk as ‖Tw - t‖², with what the theory is told."""

    x: Float[np.ndarray, "n d"]
    y: Float[np.ndarray, "draws n"]
    test: Float[np.ndarray, "m d"]
    test_target: Float[np.ndarray, " m"]
    scales: Float[np.ndarray, " d"]
    rate: Float[np.ndarray, ""]


def data(key: PRNGKeyArray, *, source: Source, n: int, scale: float, noise: float) -> Data:
    rng = gb.data.generator(key)
    if source == "gaussian":
        scales = np.concatenate([np.ones(MANY), np.full(FEW, scale)])
        x = rng.normal(size=(n, MANY + FEW)) * scales
        test, target = np.diag(scales), 0.5 * np.concatenate([np.full(MANY, MANY**-0.5), np.full(FEW, FEW**-0.5)])
        y = x @ (target / scales) + noise * rng.normal(size=(DRAWS, n))
    else:
        pixels, label = gb.data.digits()
        u = np.linalg.svd(pixels - pixels.mean(axis=0), full_matrices=False)[0][:, [*FAST, *SLOW]]
        scales = np.concatenate([np.ones(len(FAST)), np.full(len(SLOW), scale)])
        order, parity = rng.permutation(len(u)), np.where(label % 2 == 0, 1.0, -1.0)
        features = (u * np.sqrt(len(u)) * scales)[order]
        x, y = features[:n], parity[order[:n]] + noise * rng.normal(size=(DRAWS, n))
        test, target = features[n:] / np.sqrt(len(u) - n), parity[order[n:]] / np.sqrt(len(u) - n)
    return Data(x, y, test, target, scales, np.asarray(0.3 * n / np.linalg.norm(x, 2) ** 2))


def outputs(w: Float[Array, "d draws"], x: Float[Array, " d"]) -> Float[Array, " draws"]:
    return x @ w


def measured(data: Data, key: PRNGKeyArray, *, source: Source) -> gb.Measured:
    problem = gb.Problem(outputs, gb.losses.square, data.x, data.y.T, jnp.zeros((data.x.shape[1], DRAWS)))

    def risk(problem: gb.Problem, w: Float[Array, "d draws"]) -> Float[Array, ""]:
        return jnp.sum((data.test @ w - data.test_target[:, None]) ** 2) / DRAWS

    descent = gb.GradientDescent(data.rate)
    run = gb.evolve(problem, descent, until=gb.Until(AT[-1]), record=gb.Record(risk, AT), key=key)
    curve = run.recorded
    before, after = jax.lax.cummin(curve), jax.lax.cummin(curve, reverse=True)
    # The largest factor by which the risk goes down, up and down again; 1 where it does not.
    start = jnp.sum(data.test_target**2)
    factor = jnp.max(jnp.minimum(start / before, jnp.minimum(curve / before, curve / after)))
    value = {"risk": curve, "down, up, down": factor} | ({"average": curve} if source == "gaussian" else {})
    return gb.Measured(value, 0.0, run.converged, run.step, {"time": data.rate * AT, "risk": curve})


def predicted(data: Data, *, source: Source, noise: float, least: float = 1.1) -> gb.Prediction:
    paths = [gb.oracles.gradient_descent_path(data.x, y, rate=float(data.rate), steps=AT) for y in data.y]
    off = np.stack([path.value @ data.test.T - data.test_target[None, :] for path in paths])
    curve = np.mean(np.sum(off**2, axis=2), axis=0)
    # |d‖Tw - t‖²| ≤ 2 ‖T‖ ‖Tw - t‖ |dw|
    size = 2 * float(np.linalg.norm(data.test, 2) * np.linalg.norm(off, axis=2).max())
    error = size * max(float(path.error) for path in paths)
    certificate = {name: max(path.certificate[name] for path in paths) for name in paths[0].certificate}
    found = {"risk": gb.Prediction(curve, certificate, error), "down, up, down": least}
    if source == "gaussian":
        signal, times = data.test_target / data.scales, float(data.rate) * AT
        found["average"] = gb.oracles.early_stopping_risk(
            len(data.x), data.scales**2, signal=signal, noise=noise, times=times
        )
    return gb.combine(**found)


CLAIM = gb.Claim(
    statement=r"Gradient descent from 0 on $\frac{1}{2n} \|Xw - y\|^2$, $X = U S V^\top$, passes $w_k = V \frac{1 - "
    r"(1 - \eta S^2/n)^k}{S} U^\top y$. For Gaussian features of variances $l_i$ and $n \gg d$ its mean risk is "
    r"$\sum_i l_i \beta_i^2 e^{-2 l_i t} + \frac{\sigma^2}{n} (1 - e^{-l_i t})^2$, $t = \eta k$: a U per direction, "
    r"at the time $1/l_i$. Two scales, noise on the fast and signal on the slow one: two descents. One scale: one.",
    source=gb.Source("heckel2021early", "Section 2, linear regression; number not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric=gb.metric.relative_difference,
    relation={"risk": "equals", "average": "equals", "down, up, down": "at_least"},
    quantifier={"risk": "every", "average": "mean", "down, up, down": "mean"},
    tolerance={"risk": 1e-9, "average": 0.2, "down, up, down": 1e-6},
    tolerance_reason="The path is exact: nine digits. Its average is to leading order in d/n (1/25).",
    assumptions={"features are Gaussian (for the average)": None},
    settings={
        "smoke": dict(source="gaussian", n=1200, scale=0.1, noise=2.8, seeds=5),
        "standard": dict(source="gaussian", n=1200, scale=0.1, noise=2.8, seeds=20),
        "deep": dict(source="gaussian", n=2400, scale=0.1, noise=4.0, seeds=20),
        "real": dict(source="digits", n=150, scale=0.05, noise=1.0, seeds=20),
    },
    control=dict(scale=1.0),
    control_reason="Features of one scale: all directions turn at one time, and the risk falls once and rises.",
    figure=gb.figures.profile(
        "time",
        {"risk": "gradient descent"},
        {"risk": "closed form"},
        x_title="training time t = ηk",
        y_title="excess risk (test risk on real data)",
        log_x=True,
    ),
    seconds=dict(smoke=4, standard=4, deep=40, real=4),
)
