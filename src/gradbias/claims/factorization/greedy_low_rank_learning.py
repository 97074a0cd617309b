"""From an infinitesimal start gradient flow on a factorization learns greedily, one rank at a time.

How small is that? Beside a direction that grows at rate λ₁, one at rate λ₂ has grown to ε^(1 - λ₂/λ₁) when the first is
done: at ε = 1e-6 and λ₂/λ₁ = 0.8 that is 0.06, and no stage is visited. ε = e^(-10,000) is small for every gap that
can be told from none. A stage whose flow drifts towards infinity, as on digits where a pixel is seen about as often as
the rank, has no limit W_r to visit: the theorem is silent, and `data` takes other images (it kept 12 of 18 draws of six
digits with 6 of their 24 block means missing). One that settles slowly is left too soon even at e^(-10,000), and met at
e^(-1,000,000): digits start there.
"""

from functools import cache, partial
from typing import Literal

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import gradbias as gb
from gradbias.data import Dataset

Sets = Literal["gaussian", "digits"]

SHOWN = 250


@cache
def stages(index: bytes, targets: bytes, size: int) -> gb.Prediction:
    x, y = np.frombuffer(index, dtype=int).reshape(-1, 2), np.frombuffer(targets)
    a = np.zeros((len(y), size, size))
    a[np.arange(len(y)), x[:, 0], x[:, 1]] = 1.0
    return gb.oracles.greedy_low_rank(a, y)


def greedy(x: np.ndarray, y: np.ndarray, size: int) -> gb.Prediction:
    return stages(np.ascontiguousarray(x, dtype=int).tobytes(), np.ascontiguousarray(y).tobytes(), size)


def data(
    key: PRNGKeyArray, *, source: Sets, size: int, observed: int, rank: int = 2, pool: int = 2, columns: int = 0
) -> Dataset:
    rng = gb.data.generator(key)
    while True:
        key = jr.fold_in(key, 1)
        if source == "gaussian":
            matrix, x, y = gb.data.symmetric_completion(size, rank, observed, key=key)
            d = size
        else:  # images × pixels as A Bᵀ, the upper right block of W = U Uᵀ with U = (A, B): `size` images
            matrix, x, y = gb.data.digits_completion(size, observed, pool=pool, key=key)
            x, d = x + np.array([0, size]), sum(matrix.shape)
        found = greedy(x, y, d)
        sizes = np.linalg.norm(found.value["stages"], axis=(1, 2))
        if found.certified and float(found.error["stages"]) < 1e-3 and sizes.max() < 10.0 * sizes[0]:
            return Dataset(x, y, rng.normal(size=(d, columns or d)))


def state(problem: gb.Problem, theta: gb.models.GradedFactor) -> tuple[Array, Array]:
    """W, and how fast it moves."""
    u = theta.factor()
    w, along = jax.jvp(lambda z: z @ z.T, (u,), (-jax.grad(problem.risk)(u),))
    return w, jnp.linalg.norm(along)


def plateaus(path: Array, speed: Array, eigenvalues: Array, *, columns: int) -> Float[Array, "k d d"]:
    """The slowest state of every rank that the path goes through; its end for ranks it has not, or not yet, met."""
    largest = jnp.maximum(eigenvalues[:, -1:], 1e-3)
    rank = jax.lax.cummax(jnp.sum(eigenvalues > 1e-3 * largest, axis=1))
    slow = jnp.where(rank[None, :] == jnp.arange(1, columns + 1)[:, None], speed[None, :], jnp.inf)
    best = jnp.where(jnp.any(jnp.isfinite(slow), axis=1), jnp.argmin(slow, axis=1), len(rank) - 1)
    last = jnp.max(rank)  # the highest rank stays until the end
    return path[jnp.where(jnp.arange(1, columns + 1) < last, best, len(rank) - 1)]


def measured(
    data: Dataset, key: PRNGKeyArray, *, log_size: float = -1e4, horizon: float = 1e9, sizes: int = 2
) -> gb.Measured:
    def run(log_size: Float[Array, ""]) -> tuple[gb.Trajectory, Float[Array, ""]]:
        problem = gb.Problem(
            gb.models.gram_entry, gb.losses.square, data.x, data.y, gb.models.graded(data.start, log_size)
        )
        until = gb.Until(horizon, quantity=gb.dynamics.gram_of, max_steps=20_000)
        flow, record = gb.dynamics.GradedFlow(rtol=1e-7, atol=1e-9), gb.Record(state, shown)
        done = gb.evolve(problem, flow, until=until, record=record, key=key)
        return done, jnp.linalg.norm(gb.dynamics.limits.residuals(problem, done.theta))

    shown = jnp.geomspace(1.0, horizon, SHOWN)
    shares = jnp.asarray([*np.geomspace(1e-3, 0.1, sizes - 2), 0.5, 1.0])
    (runs, unfitted), columns = jax.vmap(run)(log_size * shares), data.start.shape[1]
    (path, speed), eigenvalues = runs.recorded, jnp.linalg.eigvalsh(runs.recorded[0])
    seen = jax.vmap(partial(plateaus, columns=columns))(path, speed, eigenvalues)
    # What the size of the start still decides shows in the run from its square root. The end fits every entry: it is no
    # saddle, and to come is less than the last tenth of log t has brought.
    late = jnp.linalg.norm(path[-1, -1] - path[-1, -1 - SHOWN // 10])
    moved = jnp.linalg.norm(seen[-1] - seen[-2]) + unfitted[-1] + 2.0 * late
    curves = {"time": shown, "eigenvalues": eigenvalues[-1, :, ::-1][:, :columns]}
    curves |= {"log_sizes": log_size * shares, "stages": seen}
    distance = moved + runs.error[-1] * columns**0.5
    return gb.Measured(seen[-1], distance, jnp.all(runs.converged[-2:]), jnp.max(runs.step), curves)


def predicted(data: Dataset) -> gb.Prediction:
    found, columns = greedy(data.x, data.y, len(data.start)), data.start.shape[1]
    error = float(found.error["stages"]) * columns**0.5
    return gb.Prediction(found.value["stages"][:columns], found.certificate, error)


CLAIM = gb.Claim(
    statement=r"$\dot U = -\nabla_U L(UU^\top)$, $L$ the square loss on observed entries, $U(0) = \epsilon G$, $G$ "
    r"generic. Let $W_0 = 0$ and let $W_r$ be the limit of the flow with $r$ columns that leaves $W_{r-1}$ along the "
    r"top eigenvector of $-\nabla L(W_{r-1})$, a simple one. As $\epsilon \to 0$ the path visits $W_1, W_2, \dots$ in "
    r"turn and ends in the first $W_R$ with $\nabla L(W_R) \succeq 0$.",
    source=gb.Source("li2021towards", "Theorem 5.10 and Algorithm 1; numbers not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    tolerance=1e-3,
    tolerance_reason="Saddles are points: three digits leave no doubt which one was visited.",
    settings={
        "smoke": dict(source="gaussian", size=4, observed=8, rank=2, seeds=3),
        "standard": dict(source="gaussian", size=5, observed=11, rank=2, sizes=4, seeds=20),
        "deep": dict(source="gaussian", size=6, observed=15, rank=2, sizes=4, seeds=20),
        "real": dict(source="digits", size=6, observed=18, pool=4, columns=5, log_size=-1e6, horizon=1e11, seeds=5),
    },
    control=dict(log_size=-2.0),
    control_reason="From a start that is not small all directions grow at once, and no saddle is visited.",
    figure=gb.figures.staircase(),
    seconds=dict(smoke=6, standard=30, deep=200, real=25),
)
