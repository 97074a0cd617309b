r"""A shallow network of hats learns all frequencies alike; one of ReLUs needs a time that grows as k⁴ for the k-th.

Of output weights over fixed, equispaced kinks, as the theorem has it: training the inner weights too is another problem
(and there hats did not converge cleanly). "ReLU eigenvalues decay as k⁻⁴" is sharp here: they are those of a beam that
is clamped at one end. The two networks span nearly the same functions: it is the basis, not the class, that is biased.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import gradbias as gb

Unit = Literal["hat", "relu"]

HATS, JUDGED, HAT_STEPS = (15, 31, 63, 127), 8, 4  # nested meshes; frequencies of each, from the lowest to the highest
RELUS = (8, 16, 32, 64)
SHOWN, FEW, LONG = 5, 32, 5000  # frequencies, units and steps of the figure
NODES, WEIGHTS = (part / 2 for part in np.polynomial.legendre.leggauss(3))


def quadrature(cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights on [0, 1], exact for polynomials of degree 5 in every cell."""
    return ((np.arange(cells)[:, None] + 0.5 + NODES) / cells).ravel(), np.tile(WEIGHTS, cells) / cells


def frequencies(units: int) -> np.ndarray:
    return np.linspace(1, units, JUDGED).round()


def activations(x: np.ndarray, units: int, unit: Unit) -> np.ndarray:
    """Hats of integral one over their squares (up to 2/3), or ReLUs over √N; kinks where the network has them."""
    z = x[:, None] * (units + 1) - np.arange(1, units + 1)
    if unit == "hat":
        return np.maximum(0.0, 1.0 - np.abs(z)) * np.sqrt(units + 1)
    return np.maximum(0.0, z / (units + 1)) / np.sqrt(units)


def relus(x: np.ndarray, units: int) -> np.ndarray:
    return np.maximum(0.0, x[:, None] - (np.arange(units) + 0.5) / units) / np.sqrt(units)


def waves(x: np.ndarray, units: int) -> np.ndarray:
    """The judged sines, piecewise linear on the mesh of so many hats."""
    nodes = np.arange(1, units + 1) / (units + 1)
    return activations(x, units, "hat") @ np.sin(np.pi * nodes[:, None] * frequencies(units)) / np.sqrt(units + 1)


def run(weight: np.ndarray, hidden: np.ndarray, target: np.ndarray, seen: np.ndarray, start: Any = 0.0) -> tuple:
    """Rows whose mean square is the integral, by the weights of a grid; what projects residuals on `seen`; a start."""
    root = np.sqrt(weight * len(weight))
    return root[:, None] * hidden, root * target, seen * root / len(root), np.broadcast_to(start, hidden.shape[1])


def data(key: PRNGKeyArray, *, units: int, top: int, unit: Unit = "hat") -> dict[str, Any]:
    """Hats on every mesh, padded to one shape; ReLUs on modes of the beam; hats, then ReLUs, on one sine at a time."""
    rng, meshes = gb.data.generator(key), []
    x, weight = quadrature(HATS[-1] + 1)
    for n in HATS:
        hidden = np.pad(activations(x, n, unit), ((0, 0), (0, HATS[-1] - n)))
        target, sines = waves(x, n) @ rng.choice([-1.0, 1.0], JUDGED), np.sin(np.pi * frequencies(n)[:, None] * x)
        meshes.append(run(weight, hidden, target, sines))
    x, weight = quadrature(2 * units)
    modes = gb.oracles.cantilever_modes(top, x).value["shapes"]
    smooth = (rng.choice([-1.0, 1.0], top) * rng.uniform(0.5, 1.5, top)) @ modes
    beam = run(weight, relus(x, units), smooth, modes, 0.3 * rng.normal(size=units))
    x, weight = quadrature(2 * FEW)
    hats = np.pad(activations(x, FEW - 1, unit), ((0, 0), (0, 1)))
    sines = np.sin(np.pi * np.arange(1, SHOWN + 1)[:, None] * x)
    alone = [run(weight, h, sine, sine[None]) for h in (hats, relus(x, FEW)) for sine in sines]
    stacked = [tuple(map(np.stack, zip(*runs, strict=True))) for runs in (meshes, alone)]
    return {"meshes": stacked[0], "beam": beam, "alone": stacked[1]}


def measured(data: Any, key: PRNGKeyArray, *, top: int, steps: int, rate: float = 0.9) -> gb.Measured:
    def train(count: int, size: Array, h: Array, y: Array, seen: Array, start: Array) -> Float[Array, "t k"]:
        problem = gb.Problem(gb.models.linear, gb.losses.square, h, y, start)
        return jnp.abs(gb.dynamics.residual_path(problem, rate=size, steps=count, seen=seen)[1])

    path = jax.vmap(lambda *mesh: train(HAT_STEPS, jnp.asarray(rate), *mesh))(*data["meshes"])
    rates = (1.0 - (path[:, -1] / path[:, 0]) ** (1 / HAT_STEPS)) / rate
    size = jnp.asarray(10.0 * rate)  # the largest eigenvalue of the ReLUs is about 1/12.4
    slow, fell = gb.dynamics.decay_rates(train(steps, size, *data["beam"]), size)
    sizes = jnp.repeat(jnp.stack([size / 10.0, size]), SHOWN)
    alone = jax.vmap(lambda size, *one: train(LONG, size, *one)[:, 0])(sizes, *data["alone"])
    value = {"hat rates": rates, "hat condition": rates[:, 0] / rates[:, -1], "ReLU rates": slow}
    value["log ReLU condition"] = jnp.log(jnp.stack([condition(n) for n in RELUS]))
    at = np.append(0, np.unique(np.geomspace(1, LONG, 80).round())).astype(int)
    shown = (alone[:, at] / alone[:, :1]).T
    curves = {"step": jnp.asarray(at + 1.0), "frequency": jnp.arange(1.0, SHOWN + 1)}
    curves |= {"hats": shown[:, :SHOWN], "ReLUs": shown[:, SHOWN:]}
    return gb.Measured(value, 0.0, fell, steps, curves)


def condition(units: int) -> Array:
    """Of the Gram matrix of ReLUs: the ratio of the fastest and the slowest rate of training."""
    x, weight = quadrature(2 * units)
    active = relus(x, units)
    values = jnp.linalg.eigvalsh(jnp.asarray(active.T @ (weight[:, None] * active)))
    return values[-1] / values[0]


def predicted(data: Any, *, top: int) -> gb.Prediction:
    hats = {f"{n} hats": gb.oracles.hat_rates(n, frequencies(n)) for n in HATS}
    relus = {f"{n} ReLUs": gb.oracles.relu_condition(n) for n in RELUS}
    proof = gb.combine(gb.oracles.cantilever_modes(top, np.linspace(0, 1, 9)), **hats, **relus)
    rates = np.stack([p.value for p in hats.values()])
    value = {"hat rates": rates, "hat condition": rates[:, 0] / rates[:, -1], "ReLU rates": proof.value["rates"]}
    value["log ReLU condition"] = np.log([p.value for p in relus.values()])
    error = dict.fromkeys(value, 1e-13) | {"log ReLU condition": sum(float(p.error / p.value) for p in relus.values())}
    return gb.Prediction(value, proof.certificate, error, 1.0, proof.tolerance)


CLAIM = gb.Claim(
    statement=r"Fit $f(x) = \sum_i a_i \sigma_i(x)$ on $[0, 1]$ in the mean square by gradient descent on $a$. For $N$ "
    r"hats on a uniform mesh a wave $\sin k\pi x$ is learned at the rate $\frac16(4 + 2\cos\frac{k\pi}{N+1})$: the "
    r"condition number is below $3$ for every $N$. For $N \to \infty$ ReLUs with uniform kinks, over $\sqrt N$, the "
    r"$k$-th mode is that of a clamped beam, learned at the rate $\beta_k^{-4}$, $\cos\beta\cosh\beta = -1$ "
    r"($\beta_k \approx (k - \frac12)\pi$), and the condition number grows as $N^4$.",
    source=gb.Source("hong2022activation", "Theorem numbers not checked; the beam is derived here"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric=dict.fromkeys(("hat rates", "hat condition", "ReLU rates"), gb.metric.relative_difference)
    | {"log ReLU condition": gb.metric.difference},
    tolerance={"hat rates": 1e-6, "hat condition": 1e-6, "ReLU rates": 0.02, "log ReLU condition": 1e-3},
    tolerance_reason="Rates of hats are closed forms, wanted to six digits. Those of the beam are the limit of many "
    "units: two percent. Condition numbers up to 10⁸ lose eight digits to rounding.",
    settings={
        "smoke": dict(units=48, top=5, steps=5500, seeds=3),
        "standard": dict(units=64, top=8, steps=40000, seeds=10),
        "deep": dict(units=128, top=10, steps=100000, seeds=10),
    },
    control=dict(unit="relu"),
    control_reason="ReLUs in the place of hats, on the same mesh: their high frequencies hardly move.",
    figure=gb.figures.panels(
        "step",
        [gb.figures.Panel(unit, f"residual at k, {unit}") for unit in ("hats", "ReLUs")],
        **dict(x_title="steps + 1", lines="frequency", line_title="k = ", log_x=True),
    ),
    seconds=dict(smoke=2, standard=4, deep=40),
)
