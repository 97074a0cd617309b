"""1,000 trainings of a diagonal network (50 scales, 20 seeds): one sweep, a loop of single runs, and PyTorch eager.

Every one is 20,000 steps of gradient descent on 12 × 30 data. This file is the claim that is swept, too.
"""

import os
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import gradbias as gb
from gradbias.data import Dataset

SCALES, SEEDS, STEPS, RATE = 50, 20, 20_000, 0.01


def data(key) -> Dataset:
    return gb.data.sparse_regression(12, 30, 2, key=key)


def measured(data: Dataset, key, *, alpha: float, steps: int = STEPS, rate: float = RATE) -> gb.Measured:
    start = jnp.full(data.x.shape[1], alpha)
    problem = gb.Problem(gb.models.diagonal, gb.losses.square, data.x, data.y, (start, start))
    run = gb.evolve(problem, gb.GradientDescent(rate), until=gb.Until(float(steps), check_every=1000), key=key)
    return gb.Measured(gb.models.diagonal_predictor(run.theta))


def predicted(data: Dataset, *, alpha: float) -> gb.Prediction:
    return gb.oracles.bregman_projection(data.x, data.y, potential=gb.oracles.hypentropy(alpha**2))


CLAIM = gb.Claim(
    statement=r"Gradient descent on a diagonal network ends near the minimizer of its hypentropy.",
    source=gb.Source("woodworth2020kernel", "Theorem 1; number not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    tolerance=0.1,
    tolerance_reason="Not judged here: steps are finite.",
    settings={"smoke": dict(alpha=0.1, seeds=3), "standard": dict(alpha=0.1), "deep": dict(alpha=0.1)},
    control=dict(alpha=1.0),
    control_reason="None: a benchmark.",
    figure=gb.figures.curves("step", "loss"),
    seconds=dict(smoke=3),
)


def swept(over: np.ndarray, workers: int | None) -> float:
    with tempfile.TemporaryDirectory() as store:
        start = time.perf_counter()
        with gb.sweep(Path(__file__), {"alpha": over}, seeds=SEEDS, store=store, workers=workers) as results:
            assert results.failures() == []
        return time.perf_counter() - start


def looped(over: np.ndarray, runs: int) -> float:
    """Seconds of one single run, by so many in a loop, the first with its compilation."""
    start = time.perf_counter()
    for i in range(runs):
        gb.run.run(Path(__file__), seeds=1, base_seed=i, alpha=float(over[i]))
    return (time.perf_counter() - start) / runs


def eager(over: np.ndarray, runs: int, steps: int) -> float:
    """Seconds of one training in PyTorch, by so many of `steps` steps each."""
    import torch

    torch.set_num_threads(1)
    spent = 0.0
    for i in range(runs):
        made = data(jax.random.key(i))
        x, y = torch.tensor(np.asarray(made.x)), torch.tensor(np.asarray(made.y))
        u = torch.full((x.shape[1],), float(over[i]), dtype=torch.float64, requires_grad=True)
        v = u.detach().clone().requires_grad_()
        rule = torch.optim.SGD([u, v], lr=RATE)
        start = time.perf_counter()
        for _ in range(steps):
            rule.zero_grad()
            (0.5 * ((x @ (u**2 - v**2) - y) ** 2).mean()).backward()
            rule.step()
        spent += (time.perf_counter() - start) * STEPS / steps
    return spent / runs


def main() -> None:
    from table import arguments, show

    options = arguments(__doc__)
    over, count = np.geomspace(0.01, 1.0, SCALES), SCALES * SEEDS
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        seconds = {
            "sweep, one worker, nothing compiled": swept(over, 1),
            "sweep, one worker": swept(over, 1),
            "sweep, two workers": swept(over, 2),
        }
    jax.config.update("jax_enable_x64", True)
    seconds["single runs in a loop (20 × 50)"] = count * looped(over, 20)
    seconds["PyTorch eager (20 runs, 2,000 of the steps)"] = count * eager(over, 20, 2_000)
    best = seconds["sweep, two workers"]
    show(
        [{"run": name, "seconds": s, "this / sweep, two workers": s / best} for name, s in seconds.items()],
        options.json,
    )


if __name__ == "__main__":
    main()
