"""Gradient descent on linear least squares, n = 40, d = 100: steps per second here and in a PyTorch eager loop."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time

import jax
import jax.numpy as jnp
import jax.random as jr
import torch
from table import arguments, seconds, show

import gradbias as gb

jax.config.update("jax_enable_x64", True)


def ours(data, rate: float, steps: int) -> float:
    problem = gb.Problem(gb.models.linear, gb.losses.square, data.x, data.y, jnp.zeros(data.x.shape[1]))
    until = gb.Until(float(steps), check_every=1000)

    def run():
        return gb.evolve(problem, gb.GradientDescent(rate), until=until, key=jr.key(0))

    jax.block_until_ready(run())
    return steps / seconds(run)


def torch_eager(data, rate: float, steps: int) -> float:
    torch.set_num_threads(1)
    x, y = torch.tensor(data.x), torch.tensor(data.y)
    w = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=rate)
    for _repeat in range(2):  # the first warms up
        start = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            (0.5 * ((x @ w - y) ** 2).mean()).backward()
            optimizer.step()
        taken = time.perf_counter() - start
    return steps / taken


def main() -> None:
    options = arguments(__doc__)
    data = gb.data.gaussian_regression(40, 100, key=jr.key(0))
    rate = 1e-2
    here, there = ours(data, rate, 1_000_000), torch_eager(data, rate, 5_000)
    show(
        [
            {"loop": "gradbias", "steps per second": here},
            {"loop": f"PyTorch {torch.__version__} eager", "steps per second": there},
            {"loop": "ratio", "steps per second": here / there},
        ],
        options.json,
    )


if __name__ == "__main__":
    main()
