"""A residual network loses little when a block is deleted or two are swapped; a plain one of the same blocks, all.

An observation. Deleting further blocks costs further accuracy little by little, as from an ensemble of paths of which
each deletion takes half. The plain network is left with what a classifier gets that ignores its input. On MNIST-1D,
where these networks are wrong for 3 in 10, a deletion costs 5.5 points: at the bound set here, and not judged.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

import gradbias as gb

DELETED, TEST = (0, 1, 2, 4, 8), 600  # numbers of blocks; examples that errors are counted on
PARTS = ("one deleted", "two swapped", "more deleted", "plain")


class Data(NamedTuple):
    """Training and test examples, the starts of both networks, batches, and which blocks are kept in each trial."""

    x: Float[np.ndarray, "n d"]
    y: Int[np.ndarray, " n"]
    x_test: Float[np.ndarray, "m d"]
    y_test: Int[np.ndarray, " m"]
    start: gb.models.Blocks
    batches: Int[np.ndarray, "steps batch"]
    keep: Float[np.ndarray, "trials blocks"]
    order: Int[np.ndarray, "trials blocks"]
    share: Float[np.ndarray, "kinds trials"]


def lesions(blocks: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which blocks are kept, and their order, in every trial; and weights that average trials by kind, swaps last."""
    chosen = [(k, rng.choice(blocks, k, replace=False)) for k in DELETED for _ in range(1 if k == 0 else 8) if k != 1]
    chosen += [(1, np.array([b])) for b in range(blocks)]
    keep, order = np.ones((len(chosen) + blocks - 1, blocks)), np.tile(np.arange(blocks), (len(chosen) + blocks - 1, 1))
    for trial, (_, at) in enumerate(chosen):
        keep[trial, at] = 0.0
    for b in range(blocks - 1):
        order[len(chosen) + b, [b, b + 1]] = b + 1, b
    kind = np.array([DELETED.index(k) for k, _ in chosen] + [len(DELETED)] * (blocks - 1))
    share = (kind == np.arange(len(DELETED) + 1)[:, None]).astype(float)
    return keep, order, share / share.sum(axis=1, keepdims=True)


def data(
    key: PRNGKeyArray, *, n: int, width: int, blocks: int, steps: int, skip: Literal["in one", "in none"] = "in one"
) -> Data:
    rng, (x, y, x_test, y_test) = gb.data.generator(jr.fold_in(key, 1)), gb.data.ten_classes("digits", n, key=key)
    sizes = (x.shape[1], width, 10)
    starts = [gb.models.block_stack_start(sizes, blocks, rng, skip=s) for s in (float(skip == "in one"), 0.0)]
    start = gb.models.Blocks(*(np.stack(leaves) for leaves in zip(*starts, strict=True)))
    batches = gb.dynamics.shuffled_batches(n, 64, steps, rng)
    return Data(x, y, x_test[:TEST], y_test[:TEST], start, batches, *lesions(blocks, rng))


def measured(data: Data, key: PRNGKeyArray, *, rate: float = 2e-3, fit: float = 0.9) -> gb.Measured:
    x_test, y_test = jnp.asarray(data.x_test), jnp.asarray(data.y_test)

    def train(start: gb.models.Blocks) -> tuple[Array, Array]:
        problem = gb.Problem(gb.models.block_stack, gb.losses.cross_entropy, data.x, data.y, start)
        run = gb.dynamics.train_on_batches(problem, gb.Adam(rate), data.batches)

        def wrong(trial: tuple[Array, Array]) -> Float[Array, ""]:
            w, c, v = (leaf[trial[1]] for leaf in (run.theta.inner, run.theta.bias, run.theta.outer))
            moved = run.theta._replace(inner=w, bias=c, outer=v)
            outputs = jax.vmap(lambda x: gb.models.block_stack(moved, x, trial[0]))(x_test)
            return jnp.mean(jnp.where(jnp.argmax(outputs, axis=1) == y_test, 0.0, 1.0))

        errors = jnp.asarray(data.share) @ jax.lax.map(wrong, (jnp.asarray(data.keep), jnp.asarray(data.order)))
        right = jnp.argmax(problem.outputs(run.theta), axis=1) == jnp.asarray(data.y)
        return errors, run.converged & (jnp.mean(jnp.where(right, 1.0, 0.0)) > fit)

    (residual, plain), fits = jax.vmap(train)(data.start)
    lost = residual - residual[0]
    value = dict(zip(PARTS, [lost[1], lost[-1], residual[1:-1], plain[jnp.array([1, -1])]], strict=True))
    curves = {"deleted": jnp.asarray(DELETED, float), "residual": residual[:-1], "plain": plain[:-1]}
    return gb.Measured(value, 0.0, jnp.all(fits), data.batches.shape[0], curves)


def predicted(data: Data) -> gb.Prediction:
    share = np.bincount(data.y_test, minlength=10) / len(data.y_test)
    chance = gb.Prediction(np.full(2, 1.0 - share.max()), {"shares": float(abs(share.sum() - 1.0))})
    value = {"one deleted": 0.05, "two swapped": 0.05, "more deleted": 0.0}
    return gb.combine(**value, **{PARTS[3]: chance})


CLAIM = gb.Claim(
    statement=r"Two networks of $B$ blocks $V_b \max(0, W_b h + c_b)$ are trained by Adam to fit images, one with skip "
    r"connections. In it deleting one block, or swapping neighbours, costs at most 5 points of test accuracy in the "
    r"mean over blocks, and deleting more costs more. Without skip connections one deletion, or one swap, leaves what "
    r"a guess would get.",
    source=gb.Source("veit2016residual", "Section 4, Figures 3 to 5; numbers not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric=gb.metric.difference,
    relation=dict(zip(PARTS, ("at_most", "at_most", "increases", "equals"), strict=True)),
    quantifier="mean",
    tolerance={"one deleted": 0.02, "two swapped": 0.02, "more deleted": 0.01, "plain": 0.2},
    tolerance_reason="Points of accuracy. The plain network may do a little better, or worse, than a guess.",
    settings={
        "smoke": dict(n=600, width=24, blocks=12, steps=800, seeds=6),
        "standard": dict(n=1000, width=32, blocks=12, steps=1000, seeds=10),
        "deep": dict(n=1000, width=48, blocks=12, steps=2000, rate=1e-3, seeds=20),
    },
    control=dict(skip="in none"),
    control_reason="The skip connections of the first network are cut too: it is destroyed by one deletion.",
    figure=gb.figures.curves(
        "deleted", ["residual", "plain"], x_title="blocks deleted", y_title="test error", log_y=False
    ),
    seconds=dict(smoke=9, standard=18, deep=60),
)
