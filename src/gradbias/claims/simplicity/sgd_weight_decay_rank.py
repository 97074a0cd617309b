"""With weight decay the last k batches leave a trace of rank k B in every weight matrix, and what is older fades.

That is exact, for every network. What literature concludes from it, that small batches and large steps make for low
rank, is not seen here: the bound says nothing before the old part has faded, k ≈ 1/(ηλ), and k B is far above the width
by then. Decay does lower the stable rank, as against none after as many steps. By how much is a matter of ηλT, which
decides what is left of the start, exp(-ηλT): at equal ηλT neither λ, nor η, nor B by itself moves the stable rank much.
Compared at an equal number of steps, λ and η would seem to have an effect each.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import gradbias as gb
from gradbias.data import Dataset

LESS = 4.0  # the comparisons: λ and η a fourth as large, the batch four times as large
FADING = 3.0  # ηλT of every run with decay
ZERO = 1e-9  # singular values below this share of the largest count as zero


def data(key: PRNGKeyArray, *, n: int, width: int, source: Literal["digits", "mnist1d"] = "digits") -> Dataset:
    rng = gb.data.generator(key)
    x, y = gb.data.digits() if source == "digits" else gb.data.mnist1d()[0][:2]
    rows = rng.choice(len(x), n, replace=False)
    start = gb.models.mlp_start((x.shape[1], width, width, 10), rng, gain=2**0.5)
    return Dataset(x[rows], y[rows], start)


class Run(NamedTuple):
    """Middle weights over the last steps, and the share of examples that the network at the end gets wrong."""

    weights: Float[Array, "k w w"]
    wrong: Float[Array, ""]


def stable_rank(w: Float[Array, "w w"]) -> Float[Array, ""]:
    return jnp.sum(w**2) / jnp.linalg.norm(w, 2) ** 2


def middle(problem: gb.Problem, theta: tuple[tuple[Array, Array], ...]) -> Float[Array, "w w"]:
    return theta[1][0]


def measured(
    data: Dataset, key: PRNGKeyArray, *, batch: int = 4, rate: float = 0.1, decay: float = 0.01, shrink: float = 1.0
) -> gb.Measured:
    width = data.start[1][0].shape[0]
    problem = gb.Problem(gb.models.relu_mlp, gb.losses.cross_entropy, data.x, data.y, data.start)
    back = jnp.arange((width - 1) // batch, -1.0, -1.0)  # k from the largest with k B < width down to 0

    def train(rate: Array, decay: Array, steps: Array, batch: int = batch) -> Run:
        sgd = gb.StochasticGradientDescent(rate, batch, weight_decay=decay)
        until, record = gb.Until(steps, check_every=100), gb.Record(middle, steps - back)
        done = gb.evolve(problem, sgd, until=until, record=record, key=key)
        wrong = jnp.argmax(problem.outputs(done.theta), axis=1) != jnp.asarray(data.y)
        return Run(done.recorded, jnp.mean(wrong.astype(float)))

    rates, decays = rate * jnp.array([1.0, 1.0, 1.0, 1.0 / LESS]), decay * jnp.array([0.0, 1.0, 1.0 / LESS, 1.0])
    lengths = jnp.round(FADING / (rate * decay) * jnp.array([1.0, 1.0, LESS, LESS]))
    runs = jax.lax.map(lambda setting: train(*setting), (rates, decays, lengths))
    large = train(rates[1], decays[1], lengths[1], int(LESS) * batch)
    ranks = jax.vmap(stable_rank)(jnp.append(runs.weights[:, -1], large.weights[-1:], axis=0))
    keep = (1.0 - rate * decay * shrink) ** back
    path = runs.weights[1]
    traces = jax.lax.map(lambda w: jnp.linalg.svd(w, compute_uv=False), path[-1:] - keep[:, None, None] * path)[:-1]
    ends = jnp.linalg.svd(path[-1], compute_uv=False)
    allowed = (back[:-1] * float(batch)).astype(int)
    left = jnp.sqrt(jnp.cumsum(ends[::-1] ** 2)[::-1])[allowed]  # the distance to matrices of rank k B
    value = {
        "trace": jnp.take_along_axis(traces, allowed[:, None], axis=1)[:, 0] / traces[:, 0],
        "distance": left / jnp.linalg.norm(path[:-1], axis=(1, 2)),
        "decay": ranks[:2],
        "alike": jnp.log(ranks[2:] / ranks[1]),
        "wrong": jnp.append(runs.wrong, large.wrong),
    }
    rank = jnp.sum((traces > ZERO * traces[:, :1]).astype(float), axis=1)
    curves = {"k": back[:-1], "rank": rank, "bound": back[:-1] * float(batch), "stable ranks": ranks}
    return gb.Measured(value, 0.0, True, jnp.max(lengths), curves)


def predicted(data: Dataset, *, batch: int = 4, rate: float = 0.1, decay: float = 0.01) -> gb.Prediction:
    k = np.arange((data.start[1][0].shape[0] - 1) // batch, 0.0, -1.0)
    trace, distance = np.zeros(len(k)), (1.0 - rate * decay) ** k
    value = {
        "trace": trace,
        "distance": distance,
        "decay": np.full(1, 0.5),
        "alike": np.zeros(3),
    }
    powers = np.exp(k * np.log1p(-rate * decay))
    return gb.Prediction(value | {"wrong": np.full(5, 0.1)}, {"powers": float(np.max(np.abs(powers - distance)))})


CLAIM = gb.Claim(
    statement=r"SGD with batches of $B$, step $\eta$ and weight decay $\lambda$: $W_T - (1 - \eta\lambda)^k W_{T-k}$ "
    r"has rank $\le k B$ for each weight matrix of a fully connected network, so $W_T$ is within $(1 - \eta\lambda)^k "
    r"\|W_{T-k}\|_F$ of rank $k B$. Observed besides, on digits: decay lowers the stable rank of a hidden layer, and "
    r"at equal $\eta\lambda T$ it changes by less than a fifth as $\lambda$, $\eta$ or $B$ change fourfold.",
    source=gb.Source("galanti2025sgd", "Lemma on the rank of the last updates; number not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric=gb.metric.difference,
    relation=dict.fromkeys(("trace", "alike"), "equals")
    | {"distance": "at_most", "decay": "decreases", "wrong": "at_most"},
    quantifier=dict.fromkeys(("trace", "distance"), "every") | dict.fromkeys(("decay", "alike", "wrong"), "mean"),
    tolerance={"trace": 1e-9, "distance": 1e-9, "decay": 0.25, "alike": 0.2, "wrong": 0.02},
    tolerance_reason="Identities, to rounding. Half a rank is a fall, to half of it; a fifth of the stable rank is "
    "little beside the fourfold change that a rank of B / (ηλ) would make; a tenth wrong is a net that has learnt, "
    "on average: with batches of four one network's error goes up and down.",
    settings={
        "smoke": dict(n=200, width=32, seeds=6),
        "standard": dict(n=400, width=48, seeds=10),
        "real": dict(n=1500, width=48, seeds=5),
        "deep": dict(n=1500, width=64, decay=5e-3, seeds=10),
    },
    control=dict(shrink=0.0),
    control_reason="W_T - W_{T-k} without the shrinking factor has full rank: the old matrix is still in it.",
    figure=gb.figures.points(
        "k",
        ["rank", "bound"],
        labels=["rank of W_T − (1 − ηλ)^k W_{T−k}", "k B"],
        **dict(x_title="k, steps back", y_title="rank", lines=["bound"]),
    ),
    seconds=dict(smoke=6, standard=16, real=7, deep=300),
)
