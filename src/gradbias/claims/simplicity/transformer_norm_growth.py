"""Under SGD the weights that write to a transformer's residual stream grow by exactly the squared lengths of the steps.

Growth like √t has been reported for large transformers. It is not reproduced here, and no power of t is claimed: the
exponent of (‖ρ_t‖² − ‖ρ_0‖²)^½ differs between runs and step sizes and changes along each (the line ∝ t in the figure
would be √t). What is exact is the sum of squares, for weights that can be rescaled: ρ, all that writes to the residual
stream. That attention saturates meanwhile is an observation, told by its entropy, with a bound fixed beforehand.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

import gradbias as gb

Group = Literal["residual stream", "everything else"]
SHOWN, EPS = 40, float(np.finfo(float).eps)
PANELS = [
    gb.figures.Panel("both", "growth of ‖ρ‖²", log=True, names=("‖ρ_t‖² − ‖ρ_0‖²", "η² Σ ‖∇_ρ L‖²", "∝ t")),
    gb.figures.Panel("entropy", "entropy (nats)", names=("entropy of attention",)),
    gb.figures.Panel("loss", "loss", names=("loss of all sequences",)),
]


class Language(NamedTuple):
    """Sequences of tokens, the token that follows each, and a transformer."""

    x: Int[np.ndarray, "n t"]
    y: Int[np.ndarray, " n"]
    start: gb.models.Transformer


def data(key: PRNGKeyArray, *, n: int, vocab: int, length: int, width: int, depth: int) -> Language:
    """The next token has a law that depends on the last but one: attention has to find it."""
    rng = gb.data.generator(key)
    law = np.cumsum(rng.dirichlet(np.full(vocab, 0.2), vocab), axis=1)
    x = rng.integers(vocab, size=(n, length))
    y = np.minimum(np.sum(law[x[:, -2]] < rng.random((n, 1)), axis=1), vocab - 1)
    return Language(x, y, gb.models.transformer_start(vocab, length, rng, width=width, depth=depth))


def square(parts: tuple[Array, ...]) -> Float[Array, ""]:
    return sum((jnp.sum(jnp.asarray(part) ** 2) for part in parts), jnp.asarray(0.0))


def chosen(theta: gb.models.Transformer, group: Group) -> tuple[Array, ...]:
    if group == "residual stream":
        return gb.models.residual_stream_weights(theta)
    return theta.readout, *(part for b in theta.blocks for part in (b.query, b.key, b.value, b.up))


def measured(
    data: Language, key: PRNGKeyArray, *, steps: int, batch: int, rate: float = 0.3, group: Group = "residual stream"
) -> gb.Measured:
    problem = gb.Problem(gb.models.transformer, gb.losses.cross_entropy, data.x, data.y, data.start)

    def step(carry: tuple[Any, Array], key: PRNGKeyArray) -> tuple[tuple[Any, Array], None]:
        theta, path = carry
        g = jax.grad(problem.batch(jr.randint(key, (batch,), 0, len(data.y))).risk)(theta)
        return (jax.tree.map(lambda p, q: p - rate * q, theta, g), path + rate**2 * square(chosen(g, group))), None

    def look(theta: gb.models.Transformer) -> dict[str, Array]:
        entropy = jnp.mean(jax.vmap(lambda x: gb.models.attention_entropy(theta, x))(data.x))
        return {"square": square(chosen(theta, group)), "entropy": entropy, "loss": problem.risk(theta)}

    def stretch(carry: tuple[Any, Array], keys: PRNGKeyArray) -> tuple[tuple[Any, Array], dict[str, Array]]:
        (theta, path), _ = jax.lax.scan(step, carry, keys)
        return (theta, path), look(theta) | {"path": path}

    start = jax.tree.map(jnp.asarray, data.start)
    before, keys = look(start), jr.split(key, (SHOWN, steps // SHOWN))
    _, rows = jax.lax.scan(stretch, (start, jnp.asarray(0.0)), keys)
    growth = rows["square"] - before["square"]
    value = {"identity": growth / rows["path"], "entropy": rows["entropy"][-1] / before["entropy"]}
    # Each step rounds ‖ρ‖² and the sum to half a unit in the last place, in the worst case all to the same side.
    rounding = steps * EPS * jnp.max(rows["square"]) / jnp.min(rows["path"])
    at = jnp.arange(1.0, SHOWN + 1) * (steps // SHOWN)
    fits = rows["loss"][-1] < before["loss"]
    curves = {"steps": at, "growth": growth, "sum of squared steps": rows["path"]}
    curves |= {name: rows[name] for name in ("entropy", "loss")}
    both = jnp.stack([growth, rows["path"], growth[-1] * at / at[-1]], axis=1)
    return gb.Measured(value, {"identity": rounding, "entropy": 0.0}, fits, steps, curves | {"both": both})


def predicted(data: Language) -> gb.Prediction:
    growth = gb.oracles.residual_stream_growth(*data.start, tokens=data.x[:20])
    ones = gb.Prediction(np.ones(SHOWN), growth.certificate, 0.0, 1.0, growth.tolerance)
    return gb.combine(identity=ones, entropy=0.6)


CLAIM = gb.Claim(
    statement=r"In a pre-norm transformer without offset in its norm, let $\rho$ be all weights that write to the "
    r"residual stream (embeddings, and the last matrix of each attention and ReLU layer). The output does "
    r"not change under $\rho \mapsto c \rho$, $c > 0$, so under SGD with any batches, loss and step size "
    r"$\|\rho_t\|^2 - \|\rho_0\|^2 = \eta^2 \sum_{s < t} \|\nabla_\rho L_{B_s}\|^2$. Observed on sequences"
    r" whose next token depends on the last but one: the entropy of attention falls to less than 0.6 of "
    r"its start.",
    source=gb.Source("merrill2021effects", "norm growth and saturation; the identity is derived, number not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric={"identity": gb.metric.difference, "entropy": gb.metric.difference},
    relation={"identity": "equals", "entropy": "at_most"},
    tolerance={"identity": 1e-8, "entropy": 0.02},
    tolerance_reason="An identity, to rounding of some thousand steps. The bound on entropy is what is claimed.",
    assumptions={"the output does not see the scale of the stream (the oracle checks it)": None},
    settings={
        "smoke": dict(n=512, vocab=8, length=6, width=16, depth=1, steps=2000, batch=32, seeds=3),
        "standard": dict(n=1024, vocab=12, length=8, width=32, depth=2, steps=2000, batch=32, seeds=10),
        "deep": dict(n=2048, vocab=12, length=8, width=32, depth=3, steps=4000, batch=32, seeds=10),
    },
    control=dict(group="everything else"),
    control_reason="Queries, keys, values, first ReLU layers, readout: rescaling any of them changes the output.",
    figure=gb.figures.panels("steps", PANELS, log_x=True),
    seconds=dict(smoke=8, standard=41, deep=300),
)
