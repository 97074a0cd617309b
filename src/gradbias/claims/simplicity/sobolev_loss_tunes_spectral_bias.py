r"""A Sobolev loss of order s multiplies the rate of frequency k by (1 + k²)^s: it amplifies, flattens or reverses bias.

In the tangent-kernel limit this is exact for equispaced points, where kernel and loss have the same eigenvectors. A net
of finite width has a kernel of its own, in which frequencies mix: most for s = 2, where what leaks from the fast high
frequencies moves the slow low ones. Targets have amplitude 1/k at frequency k; with equal amplitudes the lowest ones
would be hidden under such leaks (off by a factor of up to three at width 4096).
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import gradbias as gb
from gradbias.data import Dataset

Loss = Literal["Sobolev", "square"]

ORDERS = (-1, 0, 1, 2)
POINTS = 40


def times(steps: int) -> np.ndarray:
    return np.unique(np.geomspace(1, steps, POINTS).round()).astype(int)


def data(
    key: PRNGKeyArray, *, n: int, top: int, width: int, amplitude: float = 0.01, loss: Loss = "Sobolev"
) -> Dataset:
    """n points of the circle, waves of amplitude 1/k; a doubled start, and a weight and a step size for each order."""
    rng, t = gb.data.generator(key), 2 * np.pi * np.arange(n) / n
    x = np.stack([np.cos(t), np.sin(t), np.ones(n)], axis=1) / np.sqrt(2)
    k = np.arange(1, top + 1)
    y = amplitude * np.cos(t[:, None] * k + rng.uniform(0, 2 * np.pi, top)) @ (1.0 / k)
    w, a = gb.models.doubled_start(width, 3, rng)
    weights = np.stack([gb.oracles.frequency_weight(n, s if loss == "Sobolev" else 0) for s in ORDERS])
    gram = gb.oracles.relu_tangent_gram(x, w, a)
    largest = np.array([np.max(np.linalg.eigvals(gram @ p).real) / n for p in weights])
    return Dataset(x, y, (w, a, weights, 1.0 / largest))


def measured(data: Dataset, key: PRNGKeyArray, *, top: int, slow: int, steps: int) -> gb.Measured:
    w, a, weights, sizes = (jnp.asarray(part) for part in data.start)
    problem = gb.Problem(gb.models.scaled_relu_network, gb.losses.square, data.x, data.y, (w, a))

    def train(weight: Float[Array, "n n"], size: Float[Array, ""]) -> Array:
        _, path = gb.dynamics.residual_path(problem, rate=size, steps=steps, weight=weight)
        return jnp.abs(jnp.fft.rfft(path, axis=1)[:, 1 : top + 1])

    waves = jax.vmap(train)(weights, sizes)
    amplified, fell = gb.dynamics.decay_rates(waves[0, :, :slow], sizes[0])
    rates, all_fell = jax.vmap(gb.dynamics.decay_rates)(waves[1:], sizes[1:])
    k = jnp.log(jnp.arange(1.0, top + 1))
    value = {"rates": rates.T, "amplified": amplified, "own kernel": waves[:, times(steps)] / waves[:, :1]}
    value["slopes"] = jnp.stack([slope(k[:slow], amplified), *(slope(k[2:], r[2:]) for r in rates)])
    return gb.Measured(value, 0.0, fell & jnp.all(all_fell), steps, {"frequency": jnp.arange(1.0, top + 1)})


def slope(log_k: Any, rates: Any) -> Any:
    """Of the straight line through log rates over log k: frequencies 3 and up, where power laws begin; s = −1: all."""
    centred = log_k - log_k.mean()
    return (centred * (jnp.log if isinstance(rates, jax.Array) else np.log)(rates)).sum() / (centred**2).sum()


def predicted(data: Dataset, *, top: int, slow: int, steps: int) -> gb.Prediction:
    w, a, weights, sizes = data.start
    k, n = np.arange(1, top + 1), len(data.x)
    limit = [gb.oracles.circle_tangent_rates(n, k, power=s) for s in ORDERS]
    limit[0] = gb.oracles.circle_tangent_rates(n, k[:slow], power=ORDERS[0])
    every = gb.combine(**{f"s = {s}": p for s, p in zip(ORDERS[1:], limit[1:], strict=True)})
    error = sum(float(p.error) for p in limit[1:])
    rates = gb.Prediction(np.stack([p.value for p in limit[1:]], axis=1), every.certificate, error)
    gram, own, proof, error = gb.oracles.relu_tangent_gram(data.x, w, a), [], {}, 0.0
    for s, weight, size in zip(ORDERS, weights, sizes, strict=True):
        path = gb.oracles.linearized_residuals(gram, -data.y, rate=float(size), steps=steps, weight=weight)
        waves = np.abs(np.fft.rfft(path.value, axis=1)[:, 1 : top + 1])
        own.append(waves[times(steps)] / waves[0])
        proof |= {f"recursion, s = {s}": path.certificate["recursion"]}
        error += float(path.error) * np.sqrt(n * POINTS) / np.min(waves[0])  # Parseval's √n, and all points
    slopes = [slope(np.log(k[:slow]), limit[0].value), *(slope(np.log(k[2:]), p.value[2:]) for p in limit[1:])]
    kernel = gb.Prediction(np.stack(own), proof, error)
    return gb.combine(rates=rates, amplified=limit[0], slopes=np.array(slopes), **{"own kernel": kernel})


def figure(evidence: gb.Evidence) -> Any:
    look = {"x_title": "frequency k", "y_title": "rate of decay", "log_x": True, "log_y": True}
    drawn = gb.figures.part_lines("rates", "frequency", labels=[f"s = {s}" for s in ORDERS[1:]], **look)(evidence)
    for side, mode in ((evidence.predicted, "lines"), (evidence.measured, "markers")):
        for number, line in enumerate(np.asarray(side["amplified"])[: 1 if mode == "lines" else None]):
            first = mode == "lines" and number == 0
            style = {"color": gb.figures.COLOURS[3]}
            x = np.arange(1, len(line) + 1)
            drawn.add_scatter(x=x, y=line, mode=mode, name="s = −1", showlegend=first, line=style, marker=style)
    return drawn


CLAIM = gb.Claim(
    statement=r"On $n$ equispaced points of the circle train a two-layer ReLU network in the tangent-kernel scaling, "
    r"from the zero function, by gradient descent on $\frac{1}{2n} \sum_k (1 + k^2)^s |\hat r_k|^2$, $\hat r$ the "
    r"unitary discrete Fourier transform of the residual. As the width grows, frequency $k$ is fitted at the rate "
    r"$\lambda_k (1 + k^2)^s$, $\lambda_k = O(k^{-2})$ that of the square loss ($s = 0$): the low frequencies come "
    r"first by more for $s < 0$; from $k = 3$ on they come nearly alike for $s = 1$, the high ones "
    r"first for $s = 2$. At finite width and small targets it is the linear recursion of the kernel at the start.",
    source=gb.Source("yu2023tuning", "The theorem on the Sobolev loss; number not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric=dict.fromkeys(("rates", "amplified"), gb.metric.relative_difference)
    | dict.fromkeys(("slopes", "own kernel"), gb.metric.difference),
    tolerance={"rates": 0.3, "amplified": 0.3, "slopes": 0.3, "own kernel": 0.02},
    tolerance_reason="From one order to the next rates change by factors of two to a hundred, slopes by two. Kernels "
    "of width 4096 scatter by up to a quarter for s = 2. Against its own kernel a small target leaves two percent.",
    settings={
        "smoke": dict(n=32, top=6, slow=2, width=4096, steps=650, seeds=3),
        "standard": dict(n=32, top=8, slow=3, width=8192, steps=1300, seeds=10),
        "deep": dict(n=64, top=8, slow=3, width=16384, steps=1300, seeds=10),
    },
    control=dict(loss="square"),
    control_reason="The square loss under every name: the rates fall with k whatever s was announced.",
    figure=figure,
    seconds=dict(smoke=6, standard=100, deep=500),
)
