r"""Steps past the largest one of the linearized model catapult a net: its loss rises, its kernel falls, it converges.

"The maximal non-diverging step is 2/λ of the tangent kernel" is true of the linearized model alone. That a net stands
up to 4/λ is a theorem for the two-layer linear net on one example, whose output and kernel follow a closed recursion at
every width. For the ReLU net it is an observation, up to 3/λ. Larger steps are not safe although ReLU nets are reported
to stand up to about 12/λ: of six starts of width 512 at 3.8/λ, one diverged.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import gradbias as gb
from gradbias.data import Dataset

Sets = Literal["cube", "digits"]
Model = Literal["network", "linearized"]

FRACTIONS = np.array([0.5, 0.9, 1.1, 1.5, 1.9, 2.1])  # step sizes over 2/λ at the start
TRIED = FRACTIONS[:4]  # of them by the ReLU net
LINEAR_STEPS, WIDTH = 2000, 100  # after a catapult the kernel can be near zero, and the rest of the way is slow
EXACT = ("linear net: output", "linear net: kernel", "linearized: kernel")
FATES = ("linear net: fate", "net: fate", "linearized: fate")


def data(key: PRNGKeyArray, *, n: int, width: int, source: Sets = "cube", d: int = 8) -> Dataset:
    """Inputs of length one with labels ±1; a doubled start, the top eigenvalue of its kernel, and a linear net."""
    rng = gb.data.generator(key)
    if source == "cube":
        rows = rng.choice(2**d, n, replace=False)
        x, y = 1.0 - 2.0 * (rows[:, None] >> np.arange(d) & 1), rng.choice([-1.0, 1.0], n)
    else:
        images, labels = gb.data.digits()
        rows = rng.choice(len(images), n, replace=False)
        x, y = images[rows], np.where(labels[rows] % 2 == 0, 1.0, -1.0)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    w, a = gb.models.doubled_start(width, x.shape[1], rng)
    top = np.linalg.eigvalsh(gb.oracles.relu_tangent_gram(x, w, a))[-1] / n
    return Dataset(x, y, (w, a, np.asarray(top), rng.normal(size=(2, WIDTH))))


def two_layer_linear(theta: Float[Array, "2 m"], x: Float[Array, " 1"]) -> Float[Array, " 1"]:
    return theta[0] @ theta[1] / theta.shape[1] ** 0.5 * x


def linearized(theta: Any, x: Float[Array, " d"]) -> Float[Array, " 1"]:
    """First order in the distance of the trained weights, theta[1], from the start, theta[0]."""
    start, now = jax.lax.stop_gradient(theta[0]), theta[1]
    moved = jax.tree.map(jnp.subtract, now, start)
    value, change = jax.jvp(lambda t: gb.models.scaled_relu_network(t, x), (start,), (moved,))
    return jnp.asarray(value + change)


def fate(loss: Float[Array, " t"]) -> Float[Array, " 2"]:
    """Whether the loss ever rises (before it is a millionth of its start), and whether it ends below a hundredth."""
    rises = jnp.any((loss[1:] > loss[:-1] * (1 + 1e-9)) & (loss[:-1] > 1e-6 * loss[0]))
    return jnp.stack([rises | ~jnp.all(jnp.isfinite(loss)), loss[-1] < 1e-2 * loss[0]]).astype(float)


def measured(data: Dataset, key: PRNGKeyArray, *, steps: int, model: Model = "network") -> gb.Measured:
    w, a, top, factors = (jnp.asarray(part) for part in data.start)
    one = gb.Problem(two_layer_linear, gb.losses.square, jnp.ones((1, 1)), jnp.zeros(1), factors)
    kernel = jnp.sum(factors**2) / WIDTH

    def linear(fraction: Array) -> tuple[Array, ...]:
        rate = 2 * fraction / kernel
        end, path = gb.dynamics.residual_path(one, rate=rate, steps=LINEAR_STEPS)
        return path[:, 0] / jnp.max(jnp.abs(path)), rate * jnp.sum(end**2) / (2 * WIDTH), fate(path[:, 0] ** 2)

    def train(predict: Any, start: Any) -> tuple[Array, ...]:
        problem = gb.Problem(predict, gb.losses.square, data.x, data.y, start)

        def descend(fraction: Array) -> tuple[Array, ...]:
            theta, path = gb.dynamics.residual_path(problem, rate=2 * fraction / top, steps=steps)
            j = jax.jacrev(lambda t: problem.outputs(t)[:, 0])(theta)
            gram = sum(jnp.einsum("i...,j...->ij", leaf, leaf) for leaf in jax.tree.leaves(j))
            loss = jnp.mean(path**2, axis=1)
            return fate(loss), fraction * jnp.linalg.eigvalsh(gram)[-1] / (len(data.y) * top), loss / loss[0]

        return jax.vmap(descend)(jnp.asarray(TRIED))

    outputs, kernels, fates = jax.vmap(linear)(jnp.asarray(FRACTIONS))
    lazy = train(linearized, ((w, a), (w, a)))
    net = train(gb.models.scaled_relu_network, (w, a)) if model == "network" else lazy
    value = {"linear net: output": outputs[:-1], "linear net: kernel": kernels[:-1], "linear net: fate": fates}
    value |= {"net: fate": net[0], "net: kernel": net[1], "linearized: fate": lazy[0], "linearized: kernel": lazy[1]}
    at = np.unique(np.concatenate([np.arange(60), np.geomspace(60, steps, 60)]).round()).astype(int)
    return gb.Measured(value, 0.0, True, steps, {"step": jnp.asarray(at + 1.0), "loss": net[2][:, at].T})


def predicted(data: Dataset) -> gb.Prediction:
    u, v = data.start[-1]
    kernel = float(np.sum(u**2 + v**2) / WIDTH)
    rates = 2 * FRACTIONS[:-1] / kernel
    path = gb.oracles.catapult_path(float(u @ v) / WIDTH**0.5, kernel, WIDTH, rates, steps=LINEAR_STEPS)
    largest = np.max(np.abs(path.value["function"]), axis=1, keepdims=True)
    fates = np.stack([FRACTIONS > 1, FRACTIONS < 2], axis=1).astype(float)
    value = {
        "linear net: output": path.value["function"] / largest,
        "linear net: kernel": path.value["kernel"][:, -1] * rates / 2,
        "linear net: fate": fates,
        "net: fate": fates[: len(TRIED)],
        "net: kernel": np.ones(len(TRIED)),
        "linearized: fate": np.stack([TRIED > 1, TRIED < 1], axis=1).astype(float),
        "linearized: kernel": TRIED,
    }
    scales = {"linear net: output": 2.0 / np.min(largest), "linear net: kernel": np.max(rates) / 2}
    error = {name: float(path.error) * float(scales.get(name, 0.0)) for name in value}
    return gb.Prediction(value, path.certificate, error, 1e3)  # rounding before the peak is amplified at it


CLAIM = gb.Claim(
    statement=r"Gradient descent in the tangent-kernel scaling, $\lambda$ the largest eigenvalue of the kernel over "
    r"$n$ at the start: the linearized model keeps its kernel; its loss falls for $\eta < 2/\lambda$ and "
    r"diverges for $\eta > 2/\lambda$. A wide net's loss falls steadily iff $\eta < 2/\lambda$ too; beyond, it rises, "
    r"flattens the net and converges, with $\eta\lambda_{\mathrm{end}} < 2$. For $v \cdot u\, x / \sqrt m$ on one "
    r"example this is a closed recursion in output and kernel at every $m$: it converges for $\eta < 4/\lambda$ and "
    r"diverges for $\eta > 4/\lambda$ (from $f_0^2 \ll m$). For the ReLU net it is an observation, up to "
    r"$\eta = 3/\lambda$.",
    source=gb.Source("lewkowycz2020large", "Section 2, the two-layer linear net; numbers not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric=gb.metric.difference,
    relation=dict.fromkeys((*EXACT, *FATES), "equals") | {"net: kernel": "at_most"},
    tolerance=dict.fromkeys(EXACT, 1e-6) | dict.fromkeys(FATES, 0.05) | {"net: kernel": 0.01},
    tolerance_reason="The recursion is exact, up to rounding. A loss rose or did not, fell to a hundredth or did not. "
    "A kernel one percent past 2/η would throw the run out again within hundreds of steps.",
    settings={
        "smoke": dict(n=16, width=512, steps=1500, seeds=3),
        "standard": dict(n=24, width=1024, steps=3000, seeds=10),
        "deep": dict(n=48, width=2048, steps=6000, seeds=20),
        "real": dict(n=24, width=1024, source="digits", steps=3000, seeds=5),
    },
    control=dict(model="linearized"),
    control_reason="The linearized model in the place of the net: its kernel cannot fall, and nothing catches it.",
    figure=gb.figures.curves(
        **dict(x="step", y="loss", labels=[f"η = {2 * c:g}/λ" for c in TRIED]),
        **dict(x_title="steps + 1", y_title="loss over its start", log_x=True),
    ),
    seconds=dict(smoke=5, standard=40, deep=300, real=98),
)
